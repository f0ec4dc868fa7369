"""ImageNet weights for a backbone: from a file, or from timm by name. Nothing here runs unless it is asked for."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

Rename = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def load_encoder(encoder: nn.Module | None, source: str, rename: Rename | None = None, may_lack: str | None = None) -> str:
    """Strict but for the classifier, which a backbone does not have; says in words what was loaded.

    `rename` gives the weights the backbone's own names, where their authors have others; `may_lack` is a pattern of names that ImageNet
    weights do not have, since the classifier had no such layer.
    """
    if encoder is None:
        raise ValueError("this network has no backbone that ImageNet weights fit; start it from scratch")
    weights = from_file(source) if Path(source).is_file() else from_timm(source)
    weights = rename(weights) if rename else weights
    own = encoder.state_dict()
    absent = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    fresh = [name for name in absent if may_lack and re.search(may_lack, name)]
    missing = [name for name in absent if name not in fresh]
    reshaped = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    if missing or reshaped:
        raise ValueError(f"{source} does not fit this backbone: {len(missing)} tensors missing, {len(reshaped)} of another shape "
                         f"({', '.join((missing + reshaped)[:3])}, ...)")  # fmt: skip
    left = sorted(name for name in weights if name not in own)
    encoder.load_state_dict({name: tensor for name, tensor in weights.items() if name in own}, strict=False)
    said = f"{len(own) - len(absent)} of {len(own)} backbone tensors from {source}"
    said += f"; {len(fresh)} start fresh: {', '.join(fresh[:4])}" if fresh else ""
    return said + (f"; left out: {', '.join(left[:4])}" if left else "")


def from_file(path: str) -> dict[str, Tensor]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content.get("state_dict", content)


def from_timm(name: str) -> dict[str, Tensor]:
    """Through timm, which downloads on first use and keeps a cache."""
    import timm

    if not timm.is_model_pretrained(name):
        raise ValueError(f"timm has no weights called {name}; give a file, or one of timm.list_pretrained()")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as problem:  # every network layer below has errors of its own
        raise ValueError(
            f"the ImageNet weights {name} cannot be had here ({type(problem).__name__}); with a network they download by themselves, "
            "without one give --init FILE (the weights saved elsewhere) or --init scratch"
        ) from problem
