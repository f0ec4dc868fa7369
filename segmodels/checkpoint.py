"""Checkpoints that this project's runs wrote: building a module out of one, and starting another
from its weights."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segmodels.identity import Identity
from segmodels.module import Normalization, SegmentationModule
from segmodels.paper import experiment
from segmodels.parts.weights import (
    State,
    best_named,
    misfit,
    read,
    unwrapped,
    without_prefixes,
)
from segmodels.recipe import recipe_from
from segmodels.released import ConstantInitialization, built_with

REMEDY = "read it with the commit that its run was made at (config.json names it)"


def from_checkpoint(
    path: str | Path, network: str | None = None, model: Mapping[str, Any] | None = None
) -> SegmentationModule:
    """An eval-mode module with the weights, recipe and classes that the run stored; it computes bit
    for bit as it did there.

    A semi-supervised run leaves several networks, such as "teacher" and "student"; without a name
    it is the one that the method judges. `model` are options to evaluate it with in place of those
    it was trained with, such as {"output_stride": 8}. They must leave its weights as they are;
    identity.evaluated_with holds those that differ.
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
    except (
        KeyError,
        TypeError,
        ValueError,
    ) as problem:  # a paper, row, option or field that was renamed or removed since
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
    module.load_state_dict(weights, strict=False)  # strict but for the counters, as misfit has seen
    if any(tensor.ndim == 4 and not tensor.is_contiguous() for tensor in weights.values()):
        module.to(
            memory_format=torch.channels_last
        )  # as it was trained: another order of summation rounds otherwise
    return module.eval()


def one_network(
    path: str | Path, stored: Mapping[str, Any], weights: State, network: str | None
) -> tuple[str, State]:
    """Its name and its weights, out of a checkpoint that may hold several."""
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
    """The network that a checkpoint describes, or it with other options; without its weights."""
    options = stored["model"] if model is None else dict(model)
    with ConstantInitialization():
        network = experiment(stored["experiment"]).network
        module = network(num_classes=stored["num_classes"], **options)
    recipe = recipe_from(stored["recipe"])
    normalization = Normalization(**stored["normalization"])
    module.adopt(recipe, normalization, replace(Identity.from_dict(stored), model=options))
    return module


def start_from(module: SegmentationModule, source: str | Path | State, called: str = "") -> str:
    """Load what fits; tensors of another shape (the heads of another class count) start anew. Says
    in words what happened."""
    content, called = (
        (source, called) if isinstance(source, Mapping) else (read(source), str(source))
    )
    if isinstance(stored := content.get("segmodels"), Mapping):
        content = dict(content) | {
            "state_dict": one_network(called, stored, content["state_dict"], None)[1]
        }
    own = unwrapped(module.state_dict())
    given = best_named(without_prefixes(unwrapped(content)), own)
    shared = {name: tensor for name, tensor in given.items() if name in own}
    fitting = {name: each for name, each in shared.items() if own[name].shape == each.shape}
    if len(fitting) < len(own) / 2:
        raise ValueError(
            f"{called} holds another network: only {len(fitting)} of {len(own)} tensors fit "
            f"{type(module).__name__} "
            f"({_described(content)}); start from a checkpoint of the same model"
        )
    module.load_state_dict(fitting, strict=False)
    rest = {
        "start anew": [name for name in own if name not in fitting],
        "left out": [name for name in given if name not in own],
    }
    said = [
        f"{len(fitting)} of {len(own)} tensors from {called}",
        *(f"{what}: {_layers(names)}" for what, names in rest.items() if names),
    ]
    return "; ".join(said)


def _layers(names: list[str], most: int = 6) -> str:
    layers = sorted({name.rsplit(".", 1)[0] for name in names})
    return ", ".join(layers[:most]) + (
        f" and {len(layers) - most} more" if len(layers) > most else ""
    )


def _described(content: Mapping[str, Any]) -> str:
    stored = content.get("segmodels")
    if isinstance(stored, Mapping):
        return f"it was trained as {stored['experiment']}"
    return "it names no experiment of this project"
