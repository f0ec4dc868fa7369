"""A row of a paper's table as an object, and finding them: one file of `architectures` is one
paper."""

import copy
import importlib
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segmodels.identity import Identity
from segmodels.module import Normalization, SegmentationModule
from segmodels.parts.weights import State
from segmodels.recipe import Recipe, in_range

Options = tuple[tuple[str, Any], ...]  # (name, value) pairs, which can be hashed as dicts cannot


@dataclass(frozen=True)
class Published:
    """What the authors claim: mIoU in percent, of what, under which protocol, and where it says so.

    `protocol` is an inference mode; where none computes it, words such as "scales not stated".
    `model` are the network's options at evaluation where they are not the row's own, such as
    (("output_stride", 8),); `options` are the data set's where they are not its defaults, such as
    (("grouped", False),).
    """

    miou: float
    data: str
    split: str
    protocol: str
    source: str
    model: Options = ()
    options: Options = ()

    def as_dict(self) -> dict[str, Any]:
        """What results and the catalogue store: plain values, options by name."""
        return asdict(self) | {"model": by_name(self.model), "options": by_name(self.options)}


def by_name(options: Options) -> dict[str, Any]:
    """As JSON gives them back: tuples are lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options}


@dataclass(frozen=True)
class PublishedSpeed:
    """Frames per second that the authors claim, at which size of the network's input, on what; it
    says nothing about other hardware."""

    fps: float
    size: tuple[int, int]
    device: str
    source: str
    runtime: str = ""  # empty where the authors do not say


@dataclass(frozen=True)
class Experiment:
    """A network, its options and its recipe. `name` is "paper/row" once the paper has been found by
    its folder."""

    network: type[SegmentationModule]
    recipe: Recipe
    model: Mapping[str, Any] = field(default_factory=dict)
    data: str = "cityscapes"
    published: tuple[Published, ...] = ()
    published_speed: tuple[
        PublishedSpeed, ...
    ] = ()  # the same for every split, so it is no part of `published`
    # the timm name of the ImageNet weights that the encoder starts from; None where no library has
    # them, and "scratch" where the row's source starts an encoder without any
    starts_from: str | None = None
    normalization: Normalization = Normalization()
    budgets: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # data set -> recipe fields, over the data set's own
    name: str = ""

    def but(
        self,
        *,
        recipe: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> "Experiment":
        """The same row with a small difference; an ablation keeps no published figure unless it is
        given one."""
        changes = {"published": (), "published_speed": (), "name": ""} | changes
        return replace(
            self,
            recipe=replace(self.recipe, **(recipe or {})),
            model={**self.model, **(model or {})},
            **changes,
        )

    def build(self, num_classes: int = 19, device: str | None = None) -> SegmentationModule:
        """The module, freshly initialised; device="meta" gives its shapes without memory or
        time."""
        with torch.device(device) if device else torch.device("cpu"):
            module = self.network(num_classes=num_classes, **self.model)
        identity = Identity(experiment=self.name, model=dict(self.model))
        module.adopt(self.recipe, self.normalization, identity)
        return module


# --- authors' checkpoints


@dataclass(frozen=True)
class Released:
    """Which network an authors' checkpoint is, and what its names are here.

    The network is a row ("paper/row"); for a port or a classifier, which have none, whatever makes
    the module from a class count.
    """

    network: str | Callable[[int], nn.Module]
    classes: str  # the tensor, by the authors' name, whose first dimension counts the classes
    renames: tuple[
        tuple[str, str | Callable[[re.Match], str]], ...
    ]  # (pattern, replacement), applied in turn to every name
    drops: tuple[str, ...] = ()  # patterns of tensors that the network has no use for
    normalization: Normalization = Normalization()
    convert: Callable[[State], State] | None = (
        None  # where a tensor's meaning differs, not only its name
    )
    # "paper/row" where the network is none itself: the row that a port computes in its own way
    row: str = ""
    data: str = ""  # what it was trained on, where that is not the row's own data
    names: tuple[str, ...] = ()  # of the classes, where no data set of ours has them
    published: tuple[Published, ...] = ()  # of a port: what its own code line claims

    @property
    def address(self) -> str:
        """The row that the checkpoint belongs to; empty for a classifier."""
        return self.network if isinstance(self.network, str) else self.row

    @property
    def port(self) -> bool:
        """Another code line than the authors': the row's published figures are not its own."""
        return ".ports." in getattr(getattr(self.network, "func", self.network), "__module__", "")

    def renamed(self, state: State) -> State:
        kept = {
            name: tensor
            for name, tensor in state.items()
            if not any(re.search(drop, name) for drop in self.drops)
        }
        for pattern, replacement in self.renames:
            kept = {re.sub(pattern, replacement, name): tensor for name, tensor in kept.items()}
        return self.convert(kept) if self.convert else kept

    def row_of(self, name: str, options: Iterable[str]) -> Experiment:
        """The row that the layout `name` is; what is none takes no options."""
        if not isinstance(self.network, str):
            words = ", ".join(f"model.{option}" for option in options)
            raise ValueError(f"{name} is no row of a paper and takes no options; leave out {words}")
        return experiment(self.network)

    def build(
        self, num_classes: int, device: str = "cpu", model: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """`model` are a row's options in place of its own."""
        if isinstance(self.network, str):
            row = experiment(self.network)
            row = row if model is None else replace(row, model=model)
            module = row.build(num_classes, device)
        else:
            with torch.device(device):
                module = self.network(num_classes)
        module.normalization = self.normalization
        return module


# --- sizes of a network


def blueprint(experiment: Experiment, num_classes: int = 19) -> SegmentationModule:
    """Shapes without memory or time, where the network can be made so: some libraries compute
    numbers while they build."""
    try:
        return experiment.build(num_classes, device="meta")
    except RuntimeError:
        return experiment.build(num_classes)


def inference_parameters(network: Experiment | SegmentationModule, num_classes: int = 19) -> int:
    """Parameters that the logits depend on, with a gradient or without: what a deployed network
    holds."""
    module = shapes(blueprint(network, num_classes) if isinstance(network, Experiment) else network)
    image = torch.zeros(1, 3, 256, 512, device="meta")
    reached = leaves(module.logits(module.padded(image)))
    return sum(
        each.numel()
        for name, each in module.named_parameters()
        if each in reached or name in module.without_gradient
    )


def leaves(output: torch.Tensor) -> set[torch.Tensor]:
    """The tensors that a gradient of this one would reach: its graph is walked, nothing is
    computed."""
    found, seen, ahead = set(), set(), [output.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        ahead += [each for each, _ in node.next_functions]
    return found


def macs(network: Experiment | nn.Module, size: tuple[int, int]) -> int | None:
    """Multiply-accumulates from one image to the logits, in convolutions and matrix products alone,
    as torch counts them.

    None for a network that asks for numbers on its way: shapes have none.
    """
    module = shapes(blueprint(network) if isinstance(network, Experiment) else network)
    counter, image = FlopCounterMode(display=False), torch.zeros(1, 3, *size, device="meta")
    try:
        with torch.no_grad(), counter:
            module.logits(module.padded(image)) if isinstance(
                module, SegmentationModule
            ) else module(image)
    except RuntimeError:
        return None
    return counter.get_total_flops() // 2


def shapes(module: nn.Module) -> nn.Module:
    """A copy for inference without numbers: it computes shapes at no cost."""
    return copy.deepcopy(module).to("meta").eval()


@dataclass(frozen=True)
class Paper:
    """What one file of `architectures` says."""

    name: str
    title: str
    arxiv: str | None
    departures: str
    main: str
    rows: Mapping[str, Experiment]


def papers() -> dict[str, Paper]:
    """Every paper by name, in alphabetical order."""
    return {name: paper(name) for name in paper_names()}


def paper_names() -> list[str]:
    return sorted(
        file.stem
        for file in (Path(__file__).parent / "architectures").glob("*.py")
        if file.stem != "__init__"
    )


def paper(name: str) -> Paper:
    """One paper; only its file is imported."""
    if name not in paper_names():
        raise ValueError(unknown("paper", name, paper_names()))
    file = importlib.import_module(f"segmodels.architectures.{name}")
    text = file.__doc__
    rows = {row: replace(each, name=f"{name}/{row}") for row, each in file.EXPERIMENTS.items()}
    return Paper(
        name=name,
        title=text.splitlines()[0],
        arxiv=match.group(1) if (match := re.search(r"arXiv:(\d{4}\.\d{4,5})", text)) else None,
        departures=text.split("Departures:", 1)[1].strip() if "Departures:" in text else "",
        main=next(row for row, each in file.EXPERIMENTS.items() if each is file.MAIN),
        rows=rows,
    )


def experiment(address: str) -> Experiment:
    """ "paper/row", or "paper" for its main row."""
    name, _, row = address.partition("/")
    found = paper(name)
    row = row or found.main
    if row not in found.rows:
        raise ValueError(unknown(f"row of {name}", row, list(found.rows)))
    return found.rows[row]


# --- options of a network

CLASSES = "num_classes"  # a fact of the data, and so no option
KINDS = {
    int: "a whole number from 1 up",
    float: "a number from 0 up",
    bool: "True or False",
    str: "a word",
}


def check_options(network: type[nn.Module], given: Mapping[str, Any]) -> None:
    """Refuses an option that the network's constructor lacks, and a value of another type."""
    hints = get_type_hints(network.__init__)
    arguments = inspect.signature(network).parameters
    known = [name for name in arguments if name in hints and name != CLASSES]
    for name, value in given.items():
        if name not in known:
            raise ValueError(unknown(f"option of {network.__name__}", name, known))
        if not fits(value, hints[name]):
            raise ValueError(f"model.{name} is {value!r}; it takes {in_words(hints[name])}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that an argument asks for, and one that a network can have:
    whole numbers count something, others weigh or scale it. A list passes for a tuple."""
    kind, inside = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in inside
    if kind in (Union, types.UnionType):
        return any(fits(value, each) for each in inside)
    if kind is tuple:
        return isinstance(value, (list, tuple)) and all(fits(each, inside[0]) for each in value)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float)) and in_range(value, 0)
    return isinstance(value, hint) and (hint is not int or value >= 1)


def in_words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    return KINDS.get(hint) or str(hint)


def changed(
    network: type[nn.Module], own: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The given options that differ from the network's own; what `own` lacks has its default."""
    arguments = inspect.signature(network).parameters
    before = {name: own.get(name, arguments[name].default) for name in given}
    return {name: value for name, value in given.items() if value != before[name]}


# --- names


def unknown(kind: str, word: str, known: list[str]) -> str:
    """One sentence: what came, the nearest right one, all that is allowed."""
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"no {kind} is called {word}; {guess}there are {', '.join(known)}"
