"""Resolve the values of a run: paper, data set, method, --smoke, command line. Imports no torch."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.command_line.catalogue import catalogue, options
from experiments.command_line.errors import UserError, as_user_error
from experiments.command_line.names import known_name
from experiments.command_line.overrides import Groups, Option, as_text, parse_override
from experiments.command_line.row_patterns import row_address
from segmodels.network_identity import respelled
from segmodels.recipe import Recipe, in_range, inference_steps

PLACES = ("root", "workers", "cache", "cache_gb")  # options of a data set that no score depends on
# Further ones that choose no labeled images, or are a departure of their own.
NOT_TRAINED_ON = ("resident", "unlabeled", "labeled", "val", "test")
STARTS = {"imagenet": "ImageNet", "scratch": "scratch"}  # words of --init that need no file


@dataclass(frozen=True)
class Machine:
    """The run's use of the machine; nothing here is a paper's."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: str = "auto"
    nodes: int = 1
    # parts of a step's batch, one after another; means over valid pixels are those of the whole,
    # batch norm and mining see a part
    accumulate: int = 1
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False
    validate_every: int = 0  # steps; 0 is a fifth of the run, at most 4000
    checkpoint_every: int = 0  # steps; 0 is as often as validating, at most 1000
    log_every: int = 10
    max_minutes: float = 0.0
    pictures: int = 4
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    wandb_artifact: bool = False  # log best.ckpt in the end


DEVICES = r"auto|[1-9]\d*|(\d+,)+\d*"
LEAST = {  # of the machine's numbers, and what they must be in words
    "nodes": (1, "at least 1"),
    "accumulate": (1, "at least 1"),
    "validate_every": (0, "a number of steps, or 0 for a fifth of the run"),
    "checkpoint_every": (0, "a number of steps, or 0 for as often as validating"),
    "log_every": (1, "at least 1"),
    "max_minutes": (0, "a number of minutes, or 0 for no end"),
    "pictures": (0, "a number of images, or 0 for none"),
}
GROUPS = ("recipe", "model", "data", "semi", "trainer")


@dataclass
class Resolved:
    """Every value of a run, and where it came from."""

    experiment: str  # "paper/row"
    data_name: str
    entry: Mapping[str, Any]  # the row, as the catalogue has it
    semi_name: str = "none"  # the semi-supervised method around the network
    init: str | None = None  # the word of --init
    preset: str | None = None  # the word of --recipe
    recipe: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    semi: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)  # "recipe.lr" -> where its value is from
    departures: list[str] = field(default_factory=list)

    @property
    def reported(self) -> bool:
        """True on a data set of the paper: the row's own, or one that it has figures on."""
        places = [self.entry, *self.entry["reported"]]
        return any(place["data"] == self.data_name for place in places)

    @property
    def start(self) -> str:
        """The word of --init; else ImageNet on the paper's data, and scratch elsewhere."""
        if self.init is not None:
            return self.init
        smoke = "--smoke" in self.origins.values()
        known = self.starts_from not in (None, "scratch")
        return "imagenet" if known and self.reported and not smoke else "scratch"

    @property
    def encoder(self) -> str | None:
        """The timm network that takes the place of the row's encoder, if the run names one."""
        return self.model.get("encoder")

    @property
    def starts_from(self) -> str | None:
        """The name of the ImageNet weights that --init imagenet loads."""
        return self.encoder or self.entry["starts_from"]

    @property
    def paper(self) -> str:
        return self.experiment.partition("/")[0]

    @property
    def title(self) -> str:
        encoder = f" with timm's {self.encoder}" if self.encoder else ""
        method = f" with {self.semi_name}" if self.semi_name != "none" else ""
        return f"{self.experiment}{encoder}{method} on {self.data_name}"

    def groups(self) -> dict[str, dict[str, Any]]:
        return {group: getattr(self, group) for group in GROUPS}

    def update(self, group: str, values: Mapping[str, Any], origin: str) -> None:
        getattr(self, group).update(values)
        self.origins |= {f"{group}.{name}": origin for name in values}


def resolve(
    model: str,
    data: str | None,
    overrides: Sequence[str],
    smoke: bool = False,
    semi: str = "none",
    init: str | None = None,
    preset: str | None = None,
) -> Resolved:
    """The paper's values, then what the data set's budget and a semi-supervised method replace,
    then --smoke, then the command line. What --recipe makes of them depends on the images: see
    `experiments.training.build.settle_finetuning`."""
    known = catalogue()
    experiment = row_address(model)
    paper, row = experiment.split("/")
    entry = known["papers"][paper]["rows"][row]
    data = known_name("data set", data or default_data(), known["data"])
    semi = known_name("semi-supervised method", semi, ["none", *known["semi"]])
    groups = {
        "recipe": options(Recipe),
        "model": entry["options"],
        "data": known["data"][data]["options"],
        "trainer": options(Machine),
        "semi": known["semi"][semi]["options"] if semi != "none" else {},
    }
    resolved = Resolved(experiment, data, entry, semi, init, preset)
    if preset == "finetune" and resolved.start == "scratch":
        raise UserError(
            "--recipe finetune goes on from trained weights with a tenth of the learning rate; "
            "give them with --init, a run folder or a checkpoint"
        )
    for group, known_options in groups.items():
        resolved.update(group, defaults(known_options), "default")
    resolved.update("recipe", entry["recipe"], "paper")
    resolved.update("model", entry["model"], "paper")
    budget = known["data"][data]["budget"] | entry["budgets"].get(data, {})
    resolved.update("recipe", budget, f"budget of {data}")
    if semi != "none" and resolved.recipe["ema"]:  # which weights are averaged is the method's
        resolved.update("recipe", {"ema": 0.0}, f"--semi {semi}")
    if smoke:
        for group, values in small_values(*entry["smoke_crop"]).items():
            taken = {name: value for name, value in values.items() if name in groups[group]}
            resolved.update(group, taken, "--smoke")
    if resolved.start == "scratch" and resolved.model.get("frozen_norms"):
        resolved.update("model", {"frozen_norms": False}, "scratch has no statistics to keep")
    for word in overrides:
        try:
            group, name, value = parse_override(word, groups)
        except UserError as problem:
            having = ", ".join(rows_with_option(word, paper, row))
            hint = f"; rows with it: {having}" if having else ""
            raise UserError(f"{problem}{hint}") from None
        resolved.update(group, {name: value}, "command line")
    check_values(resolved, groups)
    resolved.departures = departures(resolved)
    return resolved


def rows_with_option(word: str, paper: str, row: str) -> list[str]:
    """The rows of a paper that have an option of the network that this row lacks."""
    group, _, name = respelled(word.partition("=")[0]).partition(".")
    rows = catalogue()["papers"][paper]["rows"]
    if group != "model" or name in rows[row]["options"]:
        return []
    return [f"{paper}/{each}" for each, entry in rows.items() if name in entry["options"]]


def small_values(height: int, width: int) -> dict[str, dict[str, Any]]:
    """The values of a few tiny steps; not every data set has images of a size to choose."""
    return {
        "recipe": {"iterations": 4, "batch": 2, "warmup": 0, "crop": [height, width]},
        "data": {"train": 8, "val": 4, "test": 4, "height": height, "width": width},
        "trainer": {"pictures": 2, "log_every": 1, "wandb": "disabled"},
    }


def defaults(known: Mapping[str, Option]) -> dict[str, Any]:
    return {name: option["default"] for name, option in known.items()}


def default_data() -> str:
    """Cityscapes where its environment variable says where it is, else the built-in streets."""
    return "cityscapes" if os.environ.get("CITYSCAPES_DATASET") else "streets"


# --- limits


def check_values(resolved: Resolved, groups: Groups) -> None:
    """Refuse numbers that cannot be meant; data sets and methods know more limits of their own."""
    with as_user_error():
        Recipe(**resolved.recipe)
    devices = resolved.trainer["devices"]
    if not re.fullmatch(DEVICES, devices):
        limit = "auto, how many, such as 2, or which ones, such as 0,3"
        raise UserError(f"trainer.devices is {devices}; it must be {limit}")
    for name, (least, limit) in LEAST.items():
        check_number("trainer", name, resolved.trainer[name], least, limit)
    for name, value in resolved.model.items():
        # Whole numbers of a network count its layers and channels.
        check_number("model", name, value, int(groups["model"][name]["kind"] == "int"))
    for name, value in resolved.data.items():
        check_number("data", name, value, 0)
    if resolved.semi_name == "none" and resolved.data.get("unlabeled"):
        raise UserError(
            "data.unlabeled counts images for a semi-supervised method; "
            "give one with --semi, or leave it out"
        )


def check_number(group: str, name: str, value: Any, least: int, limit: str = "") -> None:
    if not in_range(value, least):
        limit = limit or f"a number from {least} up"
        raise UserError(f"{group}.{name} is {as_text(value)}; it must be {limit}")


def checked_mode(text: str) -> str:
    """An inference mode, such as slide:769x769+flip."""
    with as_user_error():
        inference_steps(text)
    return text


# --- departures


def departures(resolved: Resolved, start: str = "") -> list[str]:
    """All that is not the paper's own.

    `start` is what a file turned out to hold: the backbone's "ImageNet" weights, or others, by the
    file's name; before it is read such a start is left out.
    """
    entry = resolved.entry
    lines = []
    if resolved.data.get("labeled"):
        lines.append(f"data.labeled all -> {resolved.data['labeled']} (command line)")
    if resolved.semi_name != "none":
        lines.append(f"semi none -> {resolved.semi_name} (command line)")
    start = start or STARTS.get(resolved.start, "")
    origin = "default" if resolved.init is None else "command line"
    if start == "ImageNet" and resolved.encoder:
        start = f"timm's {resolved.encoder}, with its normalization"
        origin = resolved.origins["model.encoder"]
    papers_start = "ImageNet" if entry["pretrained"] else "scratch"
    if start and start != papers_start:
        lines.append(f"start {papers_start} -> {start} ({origin})")
    if (parts := resolved.trainer["accumulate"]) > 1:
        mining = "ohem" in resolved.recipe["loss"]
        see = "batch norm and mining see" if mining else "batch norm sees"
        lines.append(f"trainer.accumulate 1 -> {parts} (command line): {see} parts of a batch")
    for group, values in papers_values(resolved).items():
        for name, value in values.items():
            now = getattr(resolved, group)[name]
            if value != now:
                origin = resolved.origins[f"{group}.{name}"]
                lines.append(f"{group}.{name} {as_text(value)} -> {as_text(now)} ({origin})")
    return lines


def papers_values(resolved: Resolved) -> dict[str, dict[str, Any]]:
    """The row's own values; of the recipe with what the row replaces on a data set of its paper."""
    entry = resolved.entry
    budget = entry["budgets"].get(resolved.data_name, {}) if resolved.reported else {}
    return {
        "recipe": entry["recipe"] | budget,
        "model": defaults(entry["options"]) | entry["model"],
        "data": papers_images(resolved),
    }


def papers_images(resolved: Resolved) -> dict[str, Any]:
    """The options that choose the images and labels to train on, as a figure of the paper on this
    data set has them: the run's own if one does, else the first one's; defaults without a figure.
    """
    usual = defaults(catalogue()["data"][resolved.data_name]["options"])
    for name in (*PLACES, *NOT_TRAINED_ON):
        usual.pop(name, None)
    reported = resolved.entry["reported"]
    figures = [usual | each["options"] for each in reported if each["data"] == resolved.data_name]
    given = {name: resolved.data[name] for name in usual}
    return given if given in figures else (figures or [usual])[0]
