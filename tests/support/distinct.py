"""Rows grouped by network, so that tests that take seconds run once for each network."""

import re
from collections.abc import Hashable
from typing import Any, get_type_hints

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, fits, gradient_leaves, meta_network, on_meta

# What a row says beside its network
BESIDE = ("identity", "recipe", "normalization", "scores", "watched", "micro_batches", "confusion")

SMALL = {"width": 16, "depth": "small_v2", "size": "tiny"}
SMALLER = {
    "depth": {50: 14, 101: 14, 152: 14, "small": "tiny", "medium": "tiny", "large": "tiny"},
    "backbone": {"resnet101": "resnet50"},
    "filters": {4096: 1024},  # of fully connected layers
    "size": dict.fromkeys(("b1", "b2", "b3", "b4", "b5"), "b0"),
    "channels": {768: 256},
}


def small(row: Experiment) -> Experiment:
    """The row with a narrow and shallow network, where these are options of it."""
    hints = get_type_hints(row.network.__init__)
    options = {name: size for name, size in SMALL.items() if name in hints}
    for name, sizes in SMALLER.items():
        if row.model.get(name) in sizes:
            options[name] = sizes[row.model[name]]
    return row.but(model={name: size for name, size in options.items() if fits(size, hints[name])})


def trained_network(row: Experiment, num_classes: int = 5) -> Hashable:
    """Equal for two rows if they train the same kind of network, made small, by one kind of loss.

    Numbers, such as widths, dilations and thresholds, make no other kind.
    """
    return (
        form_of(meta_network(small(row), num_classes)),
        re.sub(r"[\d.]+", "number", row.recipe.loss),
        bool(row.recipe.class_weights),
    )


def deployed_network(row: Experiment, num_classes: int = 5) -> Hashable:
    """Equal for two rows if their networks, made small, compute logits by the same layers: heads
    for training are left out, and numbers make no difference.
    """
    module = on_meta(meta_network(small(row), num_classes))
    image = torch.zeros(1, 3, 256, 512, device="meta")
    reached = gradient_leaves(module.logits(module.padded(image)))
    for name, child in list(module.named_children()):
        parameters = set(child.parameters())
        if parameters and not parameters & reached:
            delattr(module, name)
    module.auxiliary_weight = 0.0
    return form_of(module)


def logits_operations(row: Experiment, num_classes: int = 5) -> tuple[str, ...]:
    """Return the operations, in their order, from an image to the logits of the row made small.

    A network for deployment is traced from them: where they are equal, so are the files but for
    numbers.
    """
    module = on_meta(meta_network(small(row), num_classes)).eval()
    with torch.no_grad(), Operations() as recorded:
        module.logits(module.padded(torch.zeros(1, 3, 256, 512, device="meta")))
    return tuple(recorded.names)


class Operations(TorchDispatchMode):
    """Record the names of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(str(operation))
        return operation(*args, **(kwargs or {}))


def form_of(module: SegmentationModule) -> Hashable:
    """Return every part's class and settings, but for numbers."""
    return tuple((name, *form_of_part(part)) for name, part in module.named_modules())


def form_of_part(part: nn.Module) -> tuple[Hashable, ...]:
    settings = {name: value for name, value in vars(part).items() if counts(name)}
    tensors = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
    return (
        type(part),
        tuple(sorted((name, described(value)) for name, value in settings.items())),
        tuple((name, tensor.ndim) for name, tensor in tensors),
    )


def counts(name: str) -> bool:
    return not name.startswith("_") and name not in BESIDE


def described(value: Any) -> str:
    """Return a function's name and other values' text, without their numbers."""
    text = getattr(value, "__qualname__", None) or repr(value)
    return re.sub(r"\d[\d.e-]*", "number", text)
