"""Read weights from files of any trainer: safely, and without its wrappers and prefixes."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
COUNTER = "num_batches_tracked"  # never loaded: older files lack it, and inference does not read it
WRAPPERS = ("state_dict", "model", "model_state", "module")  # keys that may hold the state dict
PREFIXES = ("module.", "model.", "backbone.", "encoder.")  # before the names of every tensor


def read(path: str | Path) -> dict[str, Any]:
    """Read a file of tensors and plain values; a file that would run code is refused."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        if re.search("unsupported (global|class)", str(problem), re.IGNORECASE):
            raise ValueError(
                f"{path} holds more than tensors and plain values, so it is not read; "
                "save its state dict alone"
            ) from None
        raise ValueError(
            f"{path} is not a checkpoint: it is damaged or another kind of file"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a checkpoint or a state dict"
        )
    return dict(content)


def unwrapped(content: Mapping[str, Any]) -> State:
    """Return the state dict inside the usual wrappers, without counters."""
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
    return {
        name: tensor
        for name, tensor in content.items()
        if isinstance(tensor, Tensor) and not name.endswith(COUNTER)
    }


def without_prefixes(state: Mapping[str, Tensor]) -> list[State]:
    """Return the state, and variants of it without one or several of the usual prefixes."""
    variants = [dict(state)]
    for prefix in PREFIXES:
        for each in list(variants):
            if any(name.startswith(prefix) for name in each):
                short = {name.removeprefix(prefix): tensor for name, tensor in each.items()}
                variants.append(short)
    return variants


def best_named(variants: list[State], known: Collection[str]) -> State:
    """Return the variant with the most known names, the first one of several."""
    return max(variants, key=lambda each: sum(name in known for name in each))


def norms_of_abn(state: Mapping[str, Tensor], but: tuple[str, ...] = ()) -> State:
    """Convert the scales of in-place ABN, which multiplies by |weight| + 1e-5, for batch norm.

    `but` holds the beginnings of names of networks that have batch norms already.
    """
    converted = {}
    for name, tensor in state.items():
        is_scale = tensor.ndim == 1 and name.endswith("weight") and not name.startswith(but)
        converted[name] = tensor.abs() + 1e-5 if is_scale else tensor
    return converted


def misfit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return the reason why `given` cannot replace `expected`; empty if it can."""
    missing = [name for name in expected if name not in given and not name.endswith(COUNTER)]
    extra = [name for name in given if name not in expected and not name.endswith(COUNTER)]
    shared = [name for name in given if name in expected]
    reshaped = [name for name in shared if given[name].shape != expected[name].shape]
    problems = {
        "lacks": missing,
        "has beyond the network's": extra,
        "has in another shape": reshaped,
    }
    return "; ".join(
        f"it {verb} {len(names)} tensors ({', '.join(names[:2])}, ...)"
        for verb, names in problems.items()
        if names
    )
