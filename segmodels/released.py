"""The authors' checkpoints: read safely, renamed by the paper's file, loaded strictly."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segmodels.paper import Released, changed, check_options, unknown
from segmodels.parts.weights import (
    COUNTER,
    State,
    best_named,
    misfit,
    read,
    unwrapped,
    without_prefixes,
)


def layouts() -> dict[str, Released]:
    """Every released layout that a paper's file or a port names."""
    here = Path(__file__).parent
    paths = [
        *sorted((here / "architectures").glob("*.py")),
        *sorted((here / "ports").rglob("*.py")),
    ]
    names = [
        ".".join(path.relative_to(here.parent).with_suffix("").parts)
        for path in paths
        if path.stem != "__init__"
    ]
    files = [importlib.import_module(name) for name in names]
    return {
        name: layout for file in files for name, layout in getattr(file, "RELEASED", {}).items()
    }


def from_released(
    name: str, weights: str | Path | Mapping[str, Tensor], model: Mapping[str, Any] | None = None
) -> nn.Module:
    """An eval-mode module; the class count is read from the tensors, and nothing may be missing or
    left over.

    `model` are options to evaluate a row's network with in place of the row's own.
    """
    known = layouts()
    if name not in known:
        raise ValueError(unknown("released layout", name, sorted(known)))
    origin = "the given state" if isinstance(weights, Mapping) else str(weights)
    layout = known[name]
    state = unwrapped(weights if isinstance(weights, Mapping) else read(weights))
    state = best_named(without_prefixes(state), {layout.classes})
    if layout.classes not in state:
        raise ValueError(
            f"{origin} is not a {name} checkpoint: it has no "
            f"{layout.classes}{_nearest(state, known)}"
        )
    classes = len(state[layout.classes])
    renamed = layout.renamed(state)
    with ConstantInitialization():
        module = layout.build(classes)
    if problem := misfit(module.state_dict(), renamed):
        raise ValueError(f"{origin} is not a {name} checkpoint: {problem}{_nearest(state, known)}")
    if model:
        row, with_options = layout.row_of(name, model), partial(layout.build, classes, "cpu")
        module = built_with(with_options, origin, row.network, row.model, model, renamed)
    module.load_state_dict(renamed, strict=False)  # strict but for the counters, as misfit has seen
    return module.eval()


class ConstantInitialization(TorchDispatchMode):
    """New weights are filled with one number instead of random ones: drawing those of a ResNet-101
    takes a second, and a checkpoint's replace them."""

    DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """A distribution's mean, or its lower end: trunc_normal_ repeats a draw out of bounds."""
        if function in self.DRAWS:
            return args[0].fill_(args[1] if len(args) > 1 else 0.0)
        return function(*args, **kwargs or {})


def built_with(
    build: Callable[[Mapping[str, Any]], nn.Module],
    origin: str,
    network: type[nn.Module],
    own: Mapping[str, Any],
    given: Mapping[str, Any],
    weights: State,
) -> nn.Module:
    """The network that `build` makes of its own options and the given ones.

    It is refused where `weights` do not fit that network.
    """
    words = ", ".join(f"model.{name}={value}" for name, value in given.items())
    try:
        check_options(network, given)
        with ConstantInitialization():
            module = build({**own, **given})
    except (KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"{origin} cannot be evaluated with {words}: {problem}") from problem
    if problem := misfit(module.state_dict(), weights):
        raise ValueError(
            f"{words} makes another network than the one in {origin}: {problem}; "
            "give options that leave its weights as they are, or train that network"
        )
    evaluated_with = changed(network, own, given)
    module.identity = replace(module.identity, evaluated_with=evaluated_with)
    return module


def _nearest(state: State, known: Mapping[str, Released]) -> str:
    """ ", it looks like X" for the layout that shares most names and shapes, if one shares nearly
    all."""
    shares = {}
    for name, layout in known.items():
        if layout.classes in state:
            expected, found = (
                layout.build(len(state[layout.classes]), "meta").state_dict(),
                layout.renamed(state),
            )
            expected = {
                key: tensor for key, tensor in expected.items() if not key.endswith(COUNTER)
            }
            same = sum(
                key in expected and expected[key].shape == tensor.shape
                for key, tensor in found.items()
            )
            shares[name] = same / max(len(expected), len(found))
    best = max(shares, key=shares.get, default=None)
    return f"; it looks like {best}" if best and shares[best] > 0.9 else "; no known layout fits it"
