"""Loading of the authors' checkpoints: read safely, renamed as the paper's file says, strict."""

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
from segmodels.parts.weight_files import (
    COUNTER,
    State,
    best_named,
    misfit,
    read,
    unwrapped,
    without_prefixes,
)


def layouts() -> dict[str, Released]:
    """Return every released layout that a paper's file or a port names."""
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
    """Load an authors' checkpoint as a module in eval mode.

    The class count is read from the tensors, and no tensor may be missing or left over. `model`
    holds options of a row's network that replace the row's own.
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
    shaped = layout.options_of(renamed) if layout.options_of else {}
    with ConstantInitialization():
        module = layout.build(classes, model=shaped)
    if problem := misfit(module.state_dict(), renamed):
        raise ValueError(f"{origin} is not a {name} checkpoint: {problem}{_nearest(state, known)}")
    if model:
        row = layout.row_of(name, model)
        with_options = partial(layout.build, classes, "cpu")
        own = {**row.model, **shaped}
        module = built_with(with_options, origin, row.network, own, model, renamed)
    module.load_state_dict(renamed, strict=False)  # misfit has checked all but the counters
    return module.eval()


class ConstantInitialization(TorchDispatchMode):
    """Fill new weights with one number instead of random ones.

    Drawing those of a ResNet-101 takes a second, and a checkpoint's weights replace them anyway.
    """

    DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Fill with the mean or lower end: trunc_normal_ repeats draws that are out of bounds."""
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
    """Build a network from its own options and the given ones, and check that `weights` fit it.

    The options that differ are kept as `identity.evaluated_with`.
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
    """Return "; it looks like X" if a layout X shares nearly all names and shapes."""
    shares = {}
    for name, layout in known.items():
        if layout.classes not in state:
            continue
        own = layout.build(len(state[layout.classes]), "meta").state_dict()
        shapes = {key: each.shape for key, each in own.items() if not key.endswith(COUNTER)}
        given = layout.renamed(state)
        same = sum(shapes.get(key) == tensor.shape for key, tensor in given.items())
        shares[name] = same / max(len(shapes), len(given))
    best = max(shares, key=shares.get, default=None)
    return f"; it looks like {best}" if best and shares[best] > 0.9 else "; no known layout fits it"
