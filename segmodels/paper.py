"""Rows of papers' tables as objects, and the functions that find them.

One file of `architectures` is one paper.
"""

import copy
import importlib
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segmodels.module import Normalization, SegmentationModule
from segmodels.nearest_names import nearest_name
from segmodels.network_identity import Identity
from segmodels.parts.backbones.timm_encoder import normalization_of
from segmodels.parts.precision import settled_precision, uses_cuda
from segmodels.parts.weight_files import State
from segmodels.recipe import Recipe, in_range, validation_interval

Options = tuple[tuple[str, Any], ...]  # (name, value) pairs, which can be hashed as dicts cannot


@dataclass(frozen=True)
class Published:
    """A published mIoU in percent, with its data, its protocol and its source.

    `protocol` is an inference mode, or words such as "scales not stated" if no mode computes it.
    `model` holds options of the network at evaluation that differ from the row's own, such as
    (("output_stride", 8),), and `options` those of the data set that differ from its defaults, such
    as (("grouped", False),).
    """

    miou: float
    data: str
    split: str
    protocol: str
    source: str
    model: Options = ()
    options: Options = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for results and the catalogue, options by name."""
        return asdict(self) | {"model": by_name(self.model), "options": by_name(self.options)}


def by_name(options: Options) -> dict[str, Any]:
    """Return options as JSON gives them back: tuples become lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options}


@dataclass(frozen=True)
class PublishedSpeed:
    """Published frames per second at one input size on one device.

    It says nothing about other hardware.
    """

    fps: float
    size: tuple[int, int]
    device: str
    source: str
    runtime: str = ""  # empty if the authors do not state it


@dataclass(frozen=True, repr=False)
class Experiment:
    """A row of a paper: a network, its options and its recipe.

    `name` is "paper/row" once the paper has been found by its folder.
    """

    network: type[SegmentationModule]
    recipe: Recipe
    model: Mapping[str, Any] = field(default_factory=dict)
    data: str = "cityscapes"
    published: tuple[Published, ...] = ()
    # Speed is the same for every split, so it is no part of `published`.
    published_speed: tuple[PublishedSpeed, ...] = ()
    # The timm name of the ImageNet weights that the encoder starts from; None if no library has
    # them, and "scratch" if the row's source starts an encoder without any.
    starts_from: str | None = None
    normalization: Normalization = Normalization()
    # data set -> recipe fields, which replace the data set's own budget
    budgets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    name: str = ""
    # the row's own start and normalization, while an option `encoder` has others in their place
    own_start: Mapping[str, Any] = field(default_factory=dict)

    def but(
        self,
        *,
        recipe: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> "Experiment":
        """Return this row with a small difference.

        An ablation keeps no published figure unless it is given one. It keeps the row's name, which
        a checkpoint stores beside the options of the network.
        """
        fields = list(Recipe.__dataclass_fields__)
        for name in recipe or ():
            if name not in fields:
                raise ValueError(unknown("field of a recipe", name, fields))
        check_options(self.network, model or {})
        changes = {"published": (), "published_speed": (), **self.start(model or {}), **changes}
        return replace(
            self,
            recipe=replace(self.recipe, **(recipe or {})),
            model={**self.model, **(model or {})},
            **changes,
        )

    def start(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Return the start and the normalization with a timm network by name, or without one."""
        if "encoder" not in model:
            return {}
        usual = {"starts_from": self.starts_from, "normalization": self.normalization}
        own = self.own_start or usual
        if not (name := model["encoder"]):
            return {**own, "own_start": {}}
        normalization = Normalization(**normalization_of(name))
        return {"starts_from": name, "normalization": normalization, "own_start": own}

    def finetuned(self, images: int, size: tuple[int, int], **given: Any) -> "Experiment":
        """Return this row with the recipe of a fine-tuning on so many images of at least this size.

        Its crops are no larger than the images, nor than the row's. A data module's `extent` says
        both numbers; `given` holds fields of the recipe that are decided already.
        """
        network = meta_network(self)
        sides = (side + 2 * network.margin for side in size)
        crop = tuple(network.valid_side_within(min(pair)) for pair in zip(sides, self.recipe.crop))
        return replace(self, recipe=self.recipe.finetuned(images, crop, **given))

    def on(self, data: Any) -> "Experiment":
        """Return this row with its recipe for a data set, a class or an object of `datamodules`.

        The data set's budget replaces fields of the recipe, as on the command line.
        """
        name = (data if isinstance(data, type) else type(data)).__name__.lower()
        budget = {**data.budget, **self.budgets.get(name, {})}
        return replace(self, recipe=replace(self.recipe, **budget))

    def data_options(self, **others: Any) -> dict[str, Any]:
        """Return the recipe's arguments of a data module: crops, batch, iterations; and `others`."""
        return self.recipe.data_options() | others

    def trainer_options(self, **others: Any) -> dict[str, Any]:
        """Return the recipe's arguments of a Lightning Trainer.

        `others` are further ones, or replace the recipe's. A run is one epoch, which validates five
        times or more.
        """
        steps = others.get("max_steps", self.recipe.iterations)
        parts = others.get("accumulate_grad_batches", 1)
        accelerator = others.get("accelerator", "auto")
        options = {
            "max_epochs": 1,
            "max_steps": steps,
            "val_check_interval": parts * validation_interval(steps),
            "gradient_clip_val": self.recipe.clip or None,
            "precision": settled_precision(self.recipe.precision, meta_network(self), accelerator),
            "sync_batchnorm": self.recipe.sync_bn and uses_cuda(accelerator),
            "use_distributed_sampler": False,
        }
        return options | others

    def build(
        self, num_classes: int = 19, device: str | None = None, seed: int | None = None
    ) -> SegmentationModule:
        """Build a freshly initialized module.

        device="meta" costs neither memory nor time. A seed draws the weights, and the dropout of a
        training, as `run.py --seed` does; without one torch's own state does.
        """
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            with torch.device(device) if device else torch.device("cpu"):
                module = self.network(num_classes=num_classes, **self.model)
        identity = Identity(experiment=self.name, model=dict(self.model), seed=seed)
        module.seed = seed or 0
        module.adopt(self.recipe, self.normalization, identity)
        return module.train()  # in which frozen norms are evaluated

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.model.items())
        return f"Experiment({self.name or self.network.__name__}{options})"


# --- authors' checkpoints


@dataclass(frozen=True)
class Released:
    """The layout of an authors' checkpoint: its network, and how its tensors are named here.

    The network is a row ("paper/row"). A port, a classifier or a single layer is no row: for these
    it is a function that makes the module from a class count.
    """

    network: str | Callable[[int], nn.Module]
    classes: str  # the tensor, by the authors' name, whose first dimension counts the classes
    # (pattern, replacement), applied in turn to every name
    renames: tuple[tuple[str, str | Callable[[re.Match], str]], ...]
    drops: tuple[str, ...] = ()  # patterns of tensors that the network has no use for
    normalization: Normalization = Normalization()
    # for tensors whose meaning differs, not only their name
    convert: Callable[[State], State] | None = None
    # "paper/row" of the row that a port computes in its own way, or that a layer is part of
    row: str = ""
    data: str = ""  # the training data, if it is not the row's own
    names: tuple[str, ...] = ()  # of the classes, if no data set here has them
    published: tuple[Published, ...] = ()  # figures of a port's own code line
    # options of the network that the shapes of a checkpoint's tensors say, from our names
    options_of: Callable[[State], Mapping[str, Any]] | None = None

    @property
    def address(self) -> str:
        """The row that the checkpoint belongs to; empty for a classifier."""
        return self.network if isinstance(self.network, str) else self.row

    @property
    def port(self) -> bool:
        """True if it is another code line's network, for which the row's figures do not hold."""
        function = getattr(self.network, "func", self.network)  # of a partial
        return ".ports." in getattr(function, "__module__", "")

    def renamed(self, state: State) -> State:
        """Return the state under our names, without the tensors of `drops`."""
        kept = {}
        for name, tensor in state.items():
            if not any(re.search(drop, name) for drop in self.drops):
                kept[name] = tensor
        for pattern, replacement in self.renames:
            kept = {re.sub(pattern, replacement, name): tensor for name, tensor in kept.items()}
        return self.convert(kept) if self.convert else kept

    def row_of(self, name: str, options: Iterable[str]) -> Experiment:
        """Return the layout's row; a port or a classifier has none and takes no options."""
        if not isinstance(self.network, str):
            words = ", ".join(f"model.{option}" for option in options)
            raise ValueError(f"{name} is no row of a paper and takes no options; leave out {words}")
        return experiment(self.network)

    def build(
        self, num_classes: int, device: str = "cpu", model: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Build the network; `model` holds options that are given in place of the row's own."""
        if isinstance(self.network, str):
            row = experiment(self.network)
            row = replace(row, model={**row.model, **(model or {})})
            module = row.build(num_classes, device)
        else:
            with torch.device(device):
                module = self.network(num_classes, **(model or {}))
        module.normalization = self.normalization
        return module


# --- sizes of a network


def meta_network(experiment: Experiment, num_classes: int = 19) -> SegmentationModule:
    """Build a network on the meta device, which costs neither memory nor time, if it can be.

    Some libraries compute numbers while they build; their networks are made on the CPU.
    """
    try:
        return experiment.build(num_classes, device="meta")
    except RuntimeError:
        return experiment.build(num_classes)


class Cost(NamedTuple):
    """What one image costs a network."""

    parameters: int  # that the logits depend on: those that a deployed network holds
    macs: int  # multiply-accumulates of convolutions and matrix products, as torch counts them


def inference_cost(
    network: Experiment | SegmentationModule, size: tuple[int, int], num_classes: int = 19
) -> Cost:
    """Count parameters and multiply-accumulates from one image of this size to the logits."""
    module = on_meta(
        meta_network(network, num_classes) if isinstance(network, Experiment) else network
    )
    counter = FlopCounterMode(display=False)
    with counter:
        logits = module.logits(module.padded(torch.zeros(1, 3, *size, device="meta")))
    reached = gradient_leaves(logits)
    parameters = sum(
        each.numel()
        for name, each in module.named_parameters()
        if each in reached or name in module.without_gradient
    )
    return Cost(parameters, counter.get_total_flops() // 2)


def inference_parameters(network: Experiment | SegmentationModule, num_classes: int = 19) -> int:
    """Count the parameters that the logits depend on: those that a deployed network holds."""
    return inference_cost(network, (256, 512), num_classes).parameters


def gradient_leaves(output: torch.Tensor) -> set[torch.Tensor]:
    """Return the tensors that a gradient of `output` would reach, without computing any."""
    tensors = set()
    visited = set()
    nodes = [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            tensors.add(node.variable)
        nodes += [each for each, _ in node.next_functions]
    return tensors


def macs(network: Experiment | nn.Module, size: tuple[int, int], channels: int = 3) -> int | None:
    """Count multiply-accumulates from one image to the logits, as torch's counter does.

    A single layer takes maps of more `channels`. The result is None for a network that reads
    numbers on its way, since tensors on the meta device have none.
    """
    try:
        if isinstance(network, Experiment | SegmentationModule):
            return inference_cost(network, size).macs
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            on_meta(network)(torch.zeros(1, channels, *size, device="meta"))
    except RuntimeError:
        return None
    return counter.get_total_flops() // 2


def on_meta(module: nn.Module) -> nn.Module:
    """Return a copy on the meta device, which computes shapes at no cost."""
    return copy.deepcopy(module).to("meta").eval()


@dataclass(frozen=True, repr=False)
class Paper:
    """The content of one file of `architectures`."""

    name: str
    title: str
    arxiv: str | None
    departures: str
    main: str
    rows: Mapping[str, Experiment]

    def __repr__(self) -> str:
        return f"Paper({self.title}; {len(self.rows)} rows, main row {self.main})"


def papers() -> dict[str, Paper]:
    """Return every paper by name, in alphabetical order."""
    return {name: paper(name) for name in paper_names()}


def paper_names() -> list[str]:
    return sorted(
        file.stem
        for file in (Path(__file__).parent / "architectures").glob("*.py")
        if file.stem != "__init__"
    )


def paper(name: str) -> Paper:
    """Return one paper; only its file is imported."""
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
    """Return the row "paper/row", or the main row of "paper"."""
    name, _, row = address.partition("/")
    content = paper(name)
    row = row or content.main
    if row not in content.rows:
        raise ValueError(unknown(f"row of {name}", row, list(content.rows)))
    return content.rows[row]


# --- options of a network

CLASSES = "num_classes"  # given by the data, so it is no option
KINDS = {
    int: "a whole number from 1 up",
    float: "a number from 0 up",
    bool: "True or False",
    str: "a word",
    types.NoneType: "None",
}


def check_options(network: type[nn.Module], given: Mapping[str, Any]) -> None:
    """Refuse an option that the network's constructor lacks, and a value of another type."""
    hints = get_type_hints(network.__init__)
    arguments = inspect.signature(network).parameters
    known = [name for name in arguments if name in hints and name != CLASSES]
    for name, value in given.items():
        if name not in known:
            raise ValueError(unknown(f"option of {network.__name__}", name, known))
        if not fits(value, hints[name]):
            raise ValueError(f"model.{name} is {value!r}; it takes {in_words(hints[name])}")


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value has the type of an argument; a list passes for a tuple.

    Whole numbers are counts, so they start at 1. Others are weights or scales, so they start at 0.
    """
    kind = get_origin(hint)
    inner = get_args(hint)
    if kind is Literal:
        return value in inner
    if kind in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if kind is tuple:
        return isinstance(value, (list, tuple)) and all(fits(each, inner[0]) for each in value)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float)) and in_range(value, 0)
    return isinstance(value, hint) and (hint is not int or value >= 1)


def in_words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (Union, types.UnionType):
        return ", or ".join(in_words(each) for each in get_args(hint))
    return KINDS.get(hint) or str(hint)


def changed(
    network: type[nn.Module], own: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the given options that differ from `own`, or from the default if `own` lacks them."""
    arguments = inspect.signature(network).parameters
    before = {name: own.get(name, arguments[name].default) for name in given}
    return {name: value for name, value in given.items() if value != before[name]}


# --- names


def unknown(kind: str, word: str, known: list[str]) -> str:
    """Return an error message: the unknown word, the nearest known one, and all known ones."""
    near = nearest_name(word, known)
    guess = f"did you mean {near}? " if near else ""
    return f"no {kind} is called {word}; {guess}there are {', '.join(known)}"
