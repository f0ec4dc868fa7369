"""ImageNet weights for a backbone: from a file, or from timm by name.

Many libraries have the same networks under other names. A file whose names are all unknown is
matched by the order of its tensors, which for networks of convolutions and norms is the order of
computation; then every shape and kind must agree, one after another. Settings that no file holds
remain the backbone's own: the norms' epsilon, the padding, and the normalization of images.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from segmodels.parts.weight_files import (
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
    """Load ImageNet weights into an encoder and return a sentence that says what was loaded.

    Loading is strict but for the classifier, which an encoder does not have. `rename` turns the
    authors' names into the encoder's; an encoder may have a method `renamed` for it. `may_lack` is
    a pattern of names that ImageNet weights do not have, since the classifier had no such layer.
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
    rename = rename or getattr(encoder, "renamed", None)
    weights, manner = matched(own, unwrapped(source), rename, called)
    absent = [name for name in own if name not in weights]
    fresh = [name for name in absent if may_lack and re.search(may_lack, name)]
    missing = [name for name in absent if name not in fresh]
    reshaped = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    if missing or reshaped:
        names = ", ".join((missing + reshaped)[:3])
        raise ValueError(
            f"{called} does not fit this backbone: {len(missing)} tensors missing, "
            f"{len(reshaped)} of another shape ({names}, ...)"
        )
    fitting = {name: tensor for name, tensor in weights.items() if name in own}
    encoder.load_state_dict(fitting, strict=False)
    rest = {
        f"{len(fresh)} start fresh": fresh,
        "left out": sorted(name for name in weights if name not in own),
    }
    sentences = [f"{len(fitting)} of {len(own)} backbone tensors from {called}{manner}"]
    sentences += [f"{what}: {listed(names)}" for what, names in rest.items() if names]
    return "; ".join(sentences)


def listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# --- matching of names


def matched(own: State, given: State, rename: Rename | None, called: str) -> tuple[State, str]:
    """Return the weights under our names, and a remark if they were matched by their order."""
    ours = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in own)), "")
    bare = {name.removeprefix(ours): name for name in own}
    variants = without_prefixes(given)
    if rename:
        given = rename(given)
        renamed = [rename(each) for each in variants]
        variants = []
        for each in renamed:
            variants += without_prefixes(each)
    best = best_named(variants, bare.keys() | own.keys())
    weights = {bare.get(name, name): tensor for name, tensor in best.items()}
    if any(name in own for name in weights):
        return weights, ""
    if problem := out_of_order(own, given):
        raise ValueError(
            f"{called} does not fit this backbone: none of its {len(given)} tensors has a name "
            f"of ours, and {problem}"
        )
    remark = f", matched by their order ({next(iter(given))} is {next(iter(own))}, and so on)"
    return by_order(own, given), remark


def by_order(own: State, weights: State) -> State:
    """Name the weights as our tensors, in order; weights after our last one keep their names."""
    names = [*own, *list(weights)[len(own) :]]
    return dict(zip(names, weights.values()))


def out_of_order(own: State, weights: State) -> str:
    """Return the reason why the weights are not our tensors in our order; empty if they are."""
    if len(weights) < len(own):
        return f"in order they cannot be matched: the backbone has {len(own)}"
    # The last tensor may be a classifier's.
    *dimensions, _ = [tensor.ndim for tensor in own.values() if tensor.ndim > 1]
    # The matrices of attention have the same shapes, so that a swap would not be noticed.
    if min(dimensions, default=4) < 4:
        return "in order only backbones of convolutions are matched"
    layers: dict[str, str] = {}
    for (ours, mine), (theirs, given) in zip(own.items(), weights.items()):
        layer, _, kind = ours.rpartition(".")
        their_layer, _, their_kind = theirs.rpartition(".")
        fits = kind == their_kind and mine.shape == given.shape
        if not fits or layers.setdefault(layer, their_layer) != their_layer:
            return (
                f"in order {theirs} {tuple(given.shape)} comes where {ours} "
                f"{tuple(mine.shape)} should"
            )
    behind = [name for name, tensor in list(weights.items())[len(own) :] if tensor.ndim > 1]
    if len(behind) <= 2:
        return ""
    return (
        f"in order {len(behind)} layers come behind the backbone's last, more than a classifier has"
    )


# --- sources of weights


def from_timm(name: str) -> State:
    """Return ImageNet weights by timm's name; timm downloads on first use and keeps a cache."""
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
            "a network they download by themselves, without one give --init FILE (the weights "
            "saved elsewhere) or --init scratch"
        ) from problem
