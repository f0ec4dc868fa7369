"""ImageNet weights for a backbone: from a file, or from timm by name. Nothing here runs unless it is asked for.

Many libraries hold the same networks under names of their own. A file whose names are all unknown is matched by the order of its tensors,
which for networks of convolutions and norms is the order they are computed in; every shape and kind must then agree, one after another.
What no file holds remains the backbone's own: the norms' epsilon, the padding, and the statistics that images are normalized by.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]
Rename = Callable[[State], dict[str, Tensor]]
COUNTER = "num_batches_tracked"  # older files lack them, and nothing here reads them
WRAPPERS = ("module.", "model.", "backbone.", "encoder.")


def load_encoder(
    encoder: nn.Module | None,
    source: str | State,
    rename: Rename | None = None,
    may_lack: str | None = None,
    called: str = "",
) -> str:
    """Strict but for the classifier, which a backbone does not have; says in words what was loaded.

    `rename` gives the weights the backbone's own names, where their authors have others; `may_lack` is a pattern of names that ImageNet
    weights do not have, since the classifier had no such layer. `called` names weights that come without a file.
    """
    if encoder is None:
        raise ValueError(
            "this network has no backbone that ImageNet weights fit; start it from scratch"
        )
    if isinstance(source, str):
        source, called = (
            (from_file(source) if Path(source).is_file() else from_timm(source)),
            source,
        )
    own, given = counted(encoder.state_dict()), counted(rename(source) if rename else source)
    weights, manner = matched(own, given, called)
    absent = [name for name in own if name not in weights]
    fresh = [name for name in absent if may_lack and re.search(may_lack, name)]
    missing = [name for name in absent if name not in fresh]
    reshaped = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    if missing or reshaped:
        raise ValueError(f"{called} does not fit this backbone: {len(missing)} tensors missing, {len(reshaped)} of another shape "
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


def counted(state: State) -> dict[str, Tensor]:
    """What is compared and loaded: tensors, but for batch norm's counters."""
    return {
        name: tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and not name.endswith(COUNTER)
    }


# --- which tensor is which


def matched(own: State, given: State, called: str) -> tuple[dict[str, Tensor], str]:
    """The weights under our names, as far as they have one, and how they were matched where that was not by name."""
    weights = by_name(own, given)
    if any(name in own for name in weights):
        return weights, ""
    if problem := out_of_order(own, given):
        raise ValueError(
            f"{called} does not fit this backbone: none of its {len(given)} tensors has a name of ours, and {problem}"
        )
    return by_order(
        own, given
    ), f", matched by their order ({next(iter(given))} is {next(iter(own))}, and so on)"


def by_name(own: State, weights: State) -> dict[str, Tensor]:
    """The weights without the prefix that hides most of our names, and with the one that all of ours may have."""
    ours = next((prefix for prefix in WRAPPERS if all(name.startswith(prefix) for name in own)), "")
    bare = {name.removeprefix(ours): name for name in own}
    stripped = [
        {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
        for prefix in WRAPPERS
    ]
    best = max(
        [weights, *stripped], key=lambda state: sum(name in bare or name in own for name in state)
    )
    return {bare.get(name, name): tensor for name, tensor in best.items()}


def by_order(own: State, weights: State) -> dict[str, Tensor]:
    """The first of theirs is the first of ours; what they have behind our last one keeps its name."""
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
            return f"in order {theirs} {tuple(given.shape)} comes where {ours} {tuple(mine.shape)} should"
    behind = [name for name, tensor in list(weights.items())[len(own) :] if tensor.ndim > 1]
    return (
        f"in order {len(behind)} layers come behind the backbone's last, more than a classifier has"
        if len(behind) > 2
        else ""
    )


# --- where weights come from


def from_file(path: str) -> dict[str, Tensor]:
    """The state dict, out of the usual wrappers."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        raise ValueError(
            f"{path} is damaged, not a checkpoint, or holds code; save the state dict alone and give that file"
        ) from problem
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a state dict; save the state dict alone and give that file"
        )
    return dict(content)


def from_timm(name: str) -> dict[str, Tensor]:
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
            f"the ImageNet weights {name} cannot be had here ({type(problem).__name__}); with a network they download by themselves, "
            "without one give --init FILE (the weights saved elsewhere) or --init scratch"
        ) from problem
