"""Checkpoints of this project's runs: load one as a module, or start another module from it."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segmodels.module import Normalization, SegmentationModule
from segmodels.network_identity import Identity
from segmodels.paper import Experiment, experiment, meta_network
from segmodels.parts.weight_files import (
    State,
    best_named,
    misfit,
    read,
    unwrapped,
    without_prefixes,
)
from segmodels.recipe import Recipe, recipe_from
from segmodels.released_checkpoints import ConstantInitialization, built_with

REMEDY = "read it with the commit that its run was made at (config.json names it)"


def from_checkpoint(
    path: str | Path, network: str | None = None, model: Mapping[str, Any] | None = None
) -> SegmentationModule:
    """Load a checkpoint as a module in eval mode, with the recipe and classes that the run stored.

    It computes bit for bit as it did in the run. A semi-supervised run leaves several networks,
    such as "teacher" and "student"; without a name it is the one that the method evaluates. `model`
    holds options that replace those of the training, such as {"output_stride": 8}. They must leave
    the weights as they are; identity.evaluated_with holds those that differ.
    """
    content = read(path)
    stored = content.get("segmodels")
    weights = content.get("state_dict")
    if not isinstance(stored, Mapping) or not isinstance(weights, Mapping):
        raise ValueError(
            f"{path} was not written by a run of this project; for an authors' checkpoint see "
            "segmodels.from_released"
        )
    try:
        module = built(stored)
    # A paper, row, option or field may have been renamed or removed since.
    except (KeyError, TypeError, ValueError) as problem:
        address = stored.get("experiment", "nothing")
        raise ValueError(
            f"{path} was trained as {address}, which cannot be built now: {problem}; {REMEDY}"
        ) from problem
    name, weights = one_network(path, stored, weights, network)
    if problem := misfit(module.state_dict(), weights):
        raise ValueError(
            f"{path} does not fit {stored['experiment']} as it is written now: {problem}; {REMEDY}"
        )
    if model:
        row = experiment(stored["experiment"])
        with_options = partial(built, stored)
        module = built_with(with_options, str(path), row.network, stored["model"], model, weights)
    iterations = content.get("global_step", 0)
    module.identity = replace(module.identity, iterations=iterations, network=name or None)
    module.load_state_dict(weights, strict=False)  # misfit has checked all but the counters
    if any(tensor.ndim == 4 and not tensor.is_contiguous() for tensor in weights.values()):
        # As in the training: sums in another order would be rounded differently.
        module.to(memory_format=torch.channels_last)
    return module.eval()


def one_network(
    path: str | Path, stored: Mapping[str, Any], weights: State, network: str | None
) -> tuple[str, State]:
    """Return the name and the weights of one network of a checkpoint."""
    names = stored.get("networks", [])
    if network and network not in names:
        raise ValueError(
            f"{path} holds no {network}; "
            + (f"it holds {' and '.join(names)}" if names else "it holds one network alone")
        )
    if not names:
        return "", weights
    network = network or names[0]
    return network, {
        name.removeprefix(f"{network}."): tensor
        for name, tensor in weights.items()
        if name.startswith(f"{network}.")
    }


def built(stored: Mapping[str, Any], model: Mapping[str, Any] | None = None) -> SegmentationModule:
    """Build the network that a checkpoint describes, or one with other options; without weights."""
    options = stored["model"] if model is None else dict(model)
    with ConstantInitialization():
        network = experiment(stored["experiment"]).network
        module = network(num_classes=stored["num_classes"], **options)
    recipe = recipe_from(stored["recipe"])
    normalization = Normalization(**stored["normalization"])
    module.adopt(recipe, normalization, replace(Identity.from_dict(stored), model=options))
    return module


def start_from(
    module: SegmentationModule,
    source: str | Path | State,
    called: str = "",
    classes: Sequence[str] = (),
) -> str:
    """Load the tensors that fit into a module; others keep their new weights.

    Of the heads, classes are loaded by their names where both networks name theirs; `classes` are
    the source's if it does not say them. The returned text says what was loaded.
    """
    if isinstance(source, Mapping):
        content = source
    else:
        content = read(source)
        called = str(source)
    if isinstance(stored := content.get("segmodels"), Mapping):
        _, weights = one_network(called, stored, content["state_dict"], None)
        content = dict(content) | {"state_dict": weights}
        classes = stored.get("classes") or classes
    own = unwrapped(module.state_dict())
    given = best_named(without_prefixes(unwrapped(content)), own)
    shared = {name: tensor for name, tensor in given.items() if name in own}
    fitting = {name: each for name, each in shared.items() if own[name].shape == each.shape}
    if len(fitting) < len(own) / 2:
        raise ValueError(
            f"{called} holds another network: only {len(fitting)} of {len(own)} tensors fit "
            f"{type(module).__name__} ({_described(content)}); "
            "start from a checkpoint of the same model"
        )
    heads = heads_by_class(module, shared, classes)
    whole = {name: tensor for name, tensor in fitting.items() if name not in heads.tensors}
    module.load_state_dict(whole | heads.loaded, strict=False)
    rest = {
        "start anew": [name for name in own if name not in whole.keys() | heads.loaded.keys()],
        "left out": [name for name in given if name not in own],
    }
    sentences = [f"{len(whole)} of {len(own)} tensors from {called}", *heads.sentences()]
    sentences += [f"{what}: {_layers(names)}" for what, names in rest.items() if names]
    return "; ".join(sentences)


class Heads(NamedTuple):
    """What a network's heads take over from another one's, class by class."""

    tensors: Collection[str] = ()  # all that have a row for each class
    loaded: State = {}  # those of them that take rows over, as they are with these
    classes: Sequence[str] = ()  # whose rows are taken over
    new: Sequence[str] = ()  # whose rows stay new

    def sentences(self) -> list[str]:
        if not self.loaded:
            return []
        classes = f"by their names the classes {_listed(self.classes)} of {_layers(self.loaded)}"
        return [classes, *([f"new classes: {_listed(self.new)}"] if self.new else [])]


def heads_by_class(module: SegmentationModule, given: State, theirs: Sequence[str]) -> Heads:
    """Take over the rows of the classes that both networks name.

    Nothing is to be done where the classes are the same, or either network does not name its own.
    """
    ours = module.identity.classes or ()
    if not ours or not theirs or list(ours) == list(theirs):
        return Heads()
    places = {spelled(name): place for place, name in enumerate(theirs)}
    rows = {row: places[spelled(name)] for row, name in enumerate(ours) if spelled(name) in places}
    tensors = class_tensors(module)
    own = module.state_dict()
    loaded = {}
    for name in tensors:
        if rows and name in given and given[name].shape == (len(theirs), *own[name].shape[1:]):
            loaded[name] = own[name].clone()
            loaded[name][list(rows)] = given[name][list(rows.values())].to(own[name])
    return Heads(
        tensors,
        loaded,
        [name for row, name in enumerate(ours) if row in rows],
        [name for row, name in enumerate(ours) if row not in rows],
    )


def class_tensors(module: SegmentationModule) -> list[str]:
    """Return the names of the tensors that have a row for each class.

    They are those that are longer in the same network for one class more.
    """
    row = Experiment(type(module), Recipe(), module.identity.model)
    larger = meta_network(row, module.num_classes + 1).state_dict()
    return [
        name
        for name, tensor in module.state_dict().items()
        if name in larger and larger[name].shape != tensor.shape
    ]


def spelled(name: str) -> str:
    """Return a class name as it is compared: "Traffic_Light" is "traffic light"."""
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def _layers(names: Iterable[str]) -> str:
    return _listed(sorted({name.rsplit(".", 1)[0] for name in names}))


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _described(content: Mapping[str, Any]) -> str:
    stored = content.get("segmodels")
    if isinstance(stored, Mapping):
        return f"it was trained as {stored['experiment']}"
    return "it names no experiment of this project"
