"""Pyramid pooling (figure 3c of arXiv:1612.01105): what is around a pixel, told by means over larger and larger parts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.parts.layers import conv_bn_relu

PARTS = (1, 2, 3, 6)  # along each side


class PyramidPooling(nn.Module):
    """A map beside its means over 1, 4, 9 and 36 parts; a 3x3 joins them."""

    def __init__(self, inside: int, outside: int, *, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        width = inside // len(PARTS)  # so the means have as many channels as the map itself
        self.levels = nn.ModuleList(level(inside, width, parts) for parts in PARTS)
        self.fusion = conv_bn_relu(inside + len(PARTS) * width, outside)

    def forward(self, x: Tensor) -> Tensor:
        means = [self.enlarged(level(x), x) for level in self.levels]
        return self.fusion(torch.cat([x, *means], 1))  # (B, 2C, h, w) -> (B, outside, h, w)

    def enlarged(self, mean: Tensor, like: Tensor) -> Tensor:
        size = like.shape[-2:]
        return F.interpolate(mean, size, mode="bilinear", align_corners=self.align_corners)


def level(inside: int, width: int, parts: int) -> nn.Sequential:
    """(B, inside, h, w) -> (B, width, parts, parts)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(parts), conv_bn_relu(inside, width, 1))
