"""ImageNet weights for a backbone: from a file, or from timm by name. Nothing here runs unless it
is asked for.

Many libraries hold the same networks under names of their own. A file whose names are all unknown
is matched by the order of its tensors, which for networks of convolutions and norms is the order
they are computed in; every shape and kind must then agree, one after another. What no file holds
remains the backbone's own: the norms' epsilon, the padding, and the statistics that images are
normalized by.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from segmodels.parts.weights import (
    PREFIXES,
    State,
    best_named,
    read,
    unwrapped,
    without_prefixes,
)

Rename = Callable[[State], State]


def load_encoder(
    encoder: nn.Module | None,
    source: str | Mapping[str, Any],
    rename: Rename | None = None,
    may_lack: str | None = None,
    called: str = "",
) -> str:
    """Strict but for the classifier, which a backbone does not have; says in words what was loaded.

    `rename` gives the weights the backbone's own names, where their authors have others; `may_lack`
    is a pattern of names that ImageNet weights do not have, since the classifier had no such layer.
    `called` names weights that come without a file.
    """
    if encoder is None:
        raise ValueError(
            "this network has no backbone that ImageNet weights fit; start it from scratch"
        )
    if isinstance(source, str):
        called = source
        source = read(source) if Path(source).is_file() else from_timm(source)
    own = unwrapped(encoder.state_dict())
    weights, manner = matched(own, unwrapped(source), rename, called)
    absent = [name for name in own if name not in weights]
    fresh = [name for name in absent if may_lack and re.search(may_lack, name)]
    missing = [name for name in absent if name not in fresh]
    reshaped = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    if missing or reshaped:
        raise ValueError(f"{called} does not fit this backbone: {len(missing)} tensors " f"missing, {len(reshaped)} of another shape "
                         f"({', '.join((missing + reshaped)[:3])}, ...)")  # fmt: skip
    encoder.load_state_dict(
        {name: tensor for name, tensor in weights.items() if name in own}, strict=False
    )
    said = f"{len(own) - len(absent)} of {len(own)} backbone tensors from {called}{manner}"
    rest = {
        f"{len(fresh)} start fresh": fresh,
        "left out": sorted(name for name in weights if name not in own),
    }
    return "; ".join([said, *(f"{what}: {listed(names)}" for what, names in rest.items() if names)])


def listed(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# --- which tensor is which


def matched(own: State, given: State, rename: Rename | None, called: str) -> tuple[State, str]:
    """The weights under our names, and in words how they were matched where that was not by
    name."""
    ours = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in own)), "")
    bare = {name.removeprefix(ours): name for name in own}
    variants = without_prefixes(given)
    if rename:
        given = rename(given)
        renamed = [rename(each) for each in variants]
        variants = [short for each in renamed for short in without_prefixes(each)]
    best = best_named(variants, bare.keys() | own.keys())
    weights = {bare.get(name, name): tensor for name, tensor in best.items()}
    if any(name in own for name in weights):
        return weights, ""
    if problem := out_of_order(own, given):
        raise ValueError(
            f"{called} does not fit this backbone: none of its {len(given)} tensors has a name "
            f"of ours, and {problem}"
        )
    return by_order(
        own, given
    ), f", matched by their order ({next(iter(given))} is {next(iter(own))}, and so on)"


def by_order(own: State, weights: State) -> State:
    """The first of theirs is the first of ours; what they have behind our last one keeps its
    name."""
    names = [*own, *list(weights)[len(own) :]]
    return dict(zip(names, weights.values()))


def out_of_order(own: State, weights: State) -> str:
    """Why the weights are not our tensors in our order, in words; empty if they are."""
    if len(weights) < len(own):
        return f"in order they cannot be matched: the backbone has {len(own)}"
    *inside, _ = [
        tensor.ndim for tensor in own.values() if tensor.ndim > 1
    ]  # the last may be a classifier's
    if (
        min(inside, default=4) < 4
    ):  # attention's matrices are alike in shape: a swap would not be seen
        return "in order only backbones of convolutions are matched"
    layers: dict[str, str] = {}
    for (ours, mine), (theirs, given) in zip(own.items(), weights.items()):
        (layer, _, kind), (their_layer, _, their_kind) = (
            ours.rpartition("."),
            theirs.rpartition("."),
        )
        if (
            kind != their_kind
            or mine.shape != given.shape
            or layers.setdefault(layer, their_layer) != their_layer
        ):
            return (
                f"in order {theirs} {tuple(given.shape)} comes where {ours} "
                f"{tuple(mine.shape)} should"
            )
    behind = [name for name, tensor in list(weights.items())[len(own) :] if tensor.ndim > 1]
    return (
        f"in order {len(behind)} layers come behind the backbone's last, more than a classifier has"
        if len(behind) > 2
        else ""
    )


# --- where weights come from


def from_timm(name: str) -> State:
    """Through timm, which downloads on first use and keeps a cache."""
    import timm

    if not timm.is_model_pretrained(name):
        raise ValueError(
            f"timm has no weights called {name}; give a file, or one of timm.list_pretrained()"
        )
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as problem:  # every network layer below has errors of its own
        raise ValueError(
            f"the ImageNet weights {name} cannot be had here ({type(problem).__name__}); with "
            "a network they download by themselves, "
            "without one give --init FILE (the weights saved elsewhere) or --init scratch"
        ) from problem
