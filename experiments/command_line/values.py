"""Reading the words of a command line: names, values, and where each value came from. Imports no torch, so that it answers at once."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.command_line.catalogue import catalogue, options
from experiments.command_line.errors import UserError
from experiments.command_line.names import did_you_mean, known_name
from experiments.command_line.row_patterns import row_address, row_entry
from segmodels.recipe import Recipe, in_range, inference_steps

Origins = dict[str, str]  # "recipe.lr" -> where its value came from
PLACES = ("root", "workers", "cache", "cache_gb")  # options of a data set that no score depends on
NOT_TRAINED_ON = (  # further ones that choose no labelled images, or are told in another way
    "resident",
    "unlabelled",
    "labelled",
    "val",
    "test",
)


@dataclass(frozen=True)
class Machine:
    """How the run uses the machine; nothing here is a paper's."""

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


LIMITS = {
    "devices": (
        lambda v: re.fullmatch(r"auto|[1-9]\d*|(\d+,)+\d*", v),
        "auto, how many, such as 2, or which ones, such as 0,3",
    ),
    "nodes": (lambda v: v >= 1, "at least 1"),
    "accumulate": (lambda v: v >= 1, "at least 1"),
    "validate_every": (lambda v: v >= 0, "a number of steps, or 0 for a fifth of the run"),
    "checkpoint_every": (lambda v: v >= 0, "a number of steps, or 0 for as often as validating"),
    "log_every": (lambda v: v >= 1, "at least 1"),
    "max_minutes": (lambda v: v >= 0, "a number of minutes, or 0 for no end"),
    "pictures": (lambda v: v >= 0, "a number of images, or 0 for none"),
}

SMOKE = {  # crops and built-in images have the row's smoke_crop
    "recipe": {"iterations": 4, "batch": 2, "warmup": 0},
    "data": {"train": 8, "val": 4, "test": 4},
    "trainer": {"pictures": 2, "log_every": 1, "wandb": "disabled"},
}


@dataclass
class Resolved:
    """Every value of a run, and where it came from."""

    paper: str
    row: str
    data_name: str
    recipe: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    origins: Origins
    entry: Mapping[str, Any]  # the row, as the catalogue has it
    departures: list[str] = field(default_factory=list)
    semi_name: str = "none"  # the semi-supervised method around the network
    semi: dict[str, Any] = field(default_factory=dict)
    init: str | None = None  # what --init says

    @property
    def reported(self) -> bool:
        """Whether this is a data set of the paper: the row's own, or one that it has figures on."""
        places = {each["data"] for each in self.entry["reported"]}
        return self.data_name in places | {self.entry["data"]}

    @property
    def start(self) -> str:
        """What --init says; unless it says something, ImageNet on the paper's data and nothing elsewhere."""
        if self.init is not None:
            return self.init
        smoke = "--smoke" in self.origins.values()
        known = self.entry["starts_from"] not in (None, "scratch")
        return "imagenet" if known and self.reported and not smoke else "scratch"

    @property
    def experiment(self) -> str:
        return f"{self.paper}/{self.row}"

    def value(self, address: str) -> Any:
        group, _, name = address.partition(".")
        return self.groups()[group][name]

    def groups(self) -> dict[str, dict[str, Any]]:
        return {
            "recipe": self.recipe,
            "model": self.model,
            "data": self.data,
            "semi": self.semi,
            "trainer": self.trainer,
        }


def resolve(
    model: str,
    data: str | None,
    overrides: Sequence[str],
    smoke: bool = False,
    semi: str = "none",
    init: str | None = None,
) -> Resolved:
    """The paper's values, then what the data set's budget and a semi-supervised method replace, then --smoke, then the command line."""
    known = catalogue()
    paper, row = row_address(model).split("/")
    entry = known["papers"][paper]["rows"][row]
    data_name = known_name("data set", data, known["data"]) if data else default_data(entry)
    source = known["data"][data_name]
    semi = known_name("semi-supervised method", semi, ["none", *known["semi"]])
    found = Resolved(paper, row, data_name, {}, {}, {}, {}, {}, entry, semi_name=semi, init=init)
    kinds = {"recipe": options(Recipe), "model": entry["options"], "data": source["options"], "trainer": options(Machine),
             "semi": known["semi"][semi]["options"] if semi != "none" else {}}  # fmt: skip
    for group, kind in kinds.items():
        update(found, group, {name: each["default"] for name, each in kind.items()}, "default")
    update(found, "recipe", entry["recipe"], "paper")
    update(found, "model", entry["model"], "paper")
    budget = source["budget"] | entry["budgets"].get(data_name, {})
    update(found, "recipe", budget, f"budget of {data_name}")
    if semi != "none" and found.recipe["ema"]:
        update(
            found, "recipe", {"ema": 0.0}, f"--semi {semi}"
        )  # which weights are averaged is the method's business
    if smoke:
        height, width = entry["smoke_crop"]
        sizes = {"recipe": {"crop": (height, width)}, "data": {"height": height, "width": width}}
        for group, values in SMOKE.items():
            wanted = values | sizes.get(group, {})
            taken = {name: value for name, value in wanted.items() if name in kinds[group]}
            update(found, group, taken, "--smoke")
    for word in overrides:
        group, name, value = override(word, kinds)
        update(found, group, {name: value}, "command line")
    check_values(found, kinds)
    found.departures = departures(found)
    return found


def update(found: Resolved, group: str, values: Mapping[str, Any], origin: str) -> None:
    for name, value in values.items():
        found.groups()[group][name] = value
        found.origins[f"{group}.{name}"] = origin


def departures(found: Resolved, start: str = "") -> list[str]:
    """All that is not the paper's own. `start` is what a file turned out to hold: the backbone's
    "ImageNet" weights, or others, by the file's name; before it is read such a start is left out."""
    entry, origins = found.entry, found.origins
    told = []
    if found.data.get("labelled"):
        told.append(f"data.labelled all -> {found.data['labelled']} (command line)")
    if found.semi_name != "none":
        told.append(f"semi none -> {found.semi_name} (command line)")
    start = start or STARTS.get(found.start, "")
    papers_start = "ImageNet" if entry["pretrained"] else "scratch"
    if start and start != papers_start:
        origin = "default" if found.init is None else "command line"
        told.append(f"start {papers_start} -> {start} ({origin})")
    if (parts := found.trainer["accumulate"]) > 1:
        seen = "batch norm and mining see" if "ohem" in found.recipe["loss"] else "batch norm sees"
        told.append(f"trainer.accumulate 1 -> {parts} (command line): {seen} parts of a batch")
    papers = {f"recipe.{name}": value for name, value in papers_recipe(found).items()}
    papers |= {
        f"model.{name}": entry["model"].get(name, each["default"])
        for name, each in entry["options"].items()
    }
    papers |= {f"data.{name}": value for name, value in papers_images(found).items()}
    for address, was in papers.items():
        now = found.value(address)
        if _same(was) != _same(now):
            told.append(f"{address} {shown(was)} -> {shown(now)} ({origins[address]})")
    return told


STARTS = {"imagenet": "ImageNet", "scratch": "scratch"}  # words of --init that need no file


def papers_recipe(found: Resolved) -> dict[str, Any]:
    """The row's recipe, with what the row itself replaces on a data set of its paper."""
    budget = found.entry["budgets"].get(found.data_name, {}) if found.reported else {}
    return found.entry["recipe"] | budget


def papers_images(found: Resolved) -> dict[str, Any]:
    """The options that choose the images and labels to train on: those of a figure on this data set,
    of the one that was asked for where there is one; their defaults where there is no figure."""
    known = catalogue()["data"][found.data_name]["options"]
    left_out = (*PLACES, *NOT_TRAINED_ON)
    defaults = {name: each["default"] for name, each in known.items() if name not in left_out}
    figures = [
        defaults | each["options"]
        for each in found.entry["reported"]
        if each["data"] == found.data_name
    ]
    asked = {name: found.data[name] for name in defaults}
    return asked if asked in figures else (figures or [defaults])[0]


def _same(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def check_values(found: Resolved, kinds: Mapping[str, Mapping[str, dict]]) -> None:
    try:
        Recipe(**found.recipe)
    except ValueError as problem:
        raise UserError(str(problem)) from None
    for name, (allowed, words) in LIMITS.items():
        value = found.trainer[name]
        if not (in_range(value) and allowed(value)):
            raise UserError(f"trainer.{name} is {shown(value)}; it must be {words}")
    for group in ("model", "data"):  # data sets and methods know more limits of their own
        for name, value in found.groups()[group].items():
            # Whole numbers of a network count its layers and channels.
            least = int(group == "model" and kinds[group][name]["kind"] == "int")
            if not in_range(value, least):
                raise UserError(
                    f"{group}.{name} is {shown(value)}; it must be a number from {least} up"
                )
    if found.semi_name == "none" and found.data.get("unlabelled"):
        raise UserError(
            "data.unlabelled counts images for a semi-supervised method; give one with --semi, or leave it out"
        )


# --- names


def default_data(entry: Mapping[str, Any]) -> str:
    """Cityscapes where its own environment variable says that it is there, else the built-in streets."""
    return "cityscapes" if os.environ.get("CITYSCAPES_DATASET") else "streets"


# --- values


def override(word: str, kinds: Mapping[str, Mapping[str, dict]]) -> tuple[str, str, Any]:
    """ "recipe.lr=0.01" as its group, name and value."""
    address, _, text = word.partition("=")
    group, name = group_of(word, list(kinds)), address.partition(".")[2]
    if not kinds[group]:
        remedy = "; name a method, such as --semi mean_teacher" if group == "semi" else ""
        raise UserError(f"{word}: there are no {group} options here{remedy}")
    name = known_name("field", name, kinds[group], f"{group}.")
    return group, name, value_of(text, kinds[group][name], address)


def group_of(word: str, groups: Sequence[str]) -> str:
    """ "recipe" of "recipe.lr=0.01"."""
    address, equals, _ = word.partition("=")
    group, dot, _ = address.partition(".")
    if not equals or not dot:
        raise UserError(
            f"{word} is not understood; write group.name=value, such as recipe.lr=0.01 (groups: {', '.join(groups)})"
        )
    return known_name("group", group, groups)


def value_of(text: str, kind: Mapping[str, Any], address: str) -> Any:
    if kind.get("optional") and text.lower() in ("none", "null", ""):
        return None
    if text in kind.get("words", ()):
        return text
    if "length" in kind:
        parts = [part for part in text.strip("()[]").replace("x", ",").split(",") if part.strip()]
        if kind["length"] and len(parts) != kind["length"]:
            raise UserError(
                f"{address}={text}: it takes {kind['length']} values, such as {shown(kind['default'] or [512, 1024])}"
            )
        return [_single(part.strip(), kind, address) for part in parts]
    return _single(text, kind, address)


WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _single(text: str, kind: Mapping[str, Any], address: str) -> Any:
    if "choices" in kind:
        return known_name("choice", text, kind["choices"], f"{address}=")
    if kind["kind"] == "bool":
        if text.lower() not in TRUE + FALSE:
            raise UserError(f"{address}={text}: it takes true or false")
        return text.lower() in TRUE
    if kind["kind"] == "text":
        return text
    try:
        return {"int": int, "float": float}[kind["kind"]](text)
    except ValueError:
        raise UserError(
            f"{address}={text}: it takes {WORDS[kind['kind']]}{or_words(text, kind)}"
        ) from None


def or_words(text: str, kind: Mapping[str, Any]) -> str:
    """What may stand for a number, and the nearest."""
    words = kind.get("words", [])
    guess = did_you_mean(text, words).strip()
    return "".join(f", or {word}" for word in words) + (f"; {guess}" if guess else "")


def shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return (
            "(" + ", ".join(shown(each) for each in value) + ")"
            if len(value) <= 6
            else f"{len(value)} values"
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def checked_mode(text: str) -> str:
    """An inference mode, such as slide:769x769+flip."""
    try:
        inference_steps(text)
    except ValueError as problem:
        raise UserError(str(problem)) from None
    return text


def data_options(name: str, overrides: list[str]) -> dict[str, Any]:
    """The data set's options out of data.name=value words; no other group makes sense here."""
    return group_values({"data": catalogue()["data"][name]["options"]}, overrides)


def model_options(row: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The options of a row's network out of model.name=value words."""
    return group_values({"model": row_entry(row_address(row))["options"]}, overrides)


def group_values(
    kinds: Mapping[str, Mapping[str, dict]], overrides: Sequence[str]
) -> dict[str, Any]:
    """Values by name, out of words of one group."""
    found = (override(word, kinds) for word in overrides)
    return {option: value for _, option, value in found}


def divided(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of an evaluation: those of the data set, and those of the network."""
    groups = ("data", "model")
    words: dict[str, list[str]] = {group: [] for group in groups}
    for word in overrides:
        words[group_of(word, groups)].append(word)
    return words["data"], words["model"]
