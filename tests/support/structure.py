"""Short descriptions of a block's layers, for networks without released code or weights, and a
layer that takes a branch's place.
"""

import torch
from torch import Tensor, nn


def kinds(module: nn.Module) -> list[str]:
    """Its layers in order: a convolution by kernel/stride x dilation, "d" where it is depthwise,
    all others by name.
    """
    found = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            depthwise = "d" if layer.groups == layer.in_channels else ""
            found.append(f"{layer.kernel_size[0]}/{layer.stride[0]}x{layer.dilation[0]}{depthwise}")
        elif not list(layer.children()):
            found.append(type(layer).__name__.removesuffix("2d"))
    return found


class Constant(nn.Module):
    """The same number everywhere, whatever comes in."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.value)
