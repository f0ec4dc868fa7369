"""Blocks of networks with two paths, one for detail and one for context (BiSeNet, STDC)."""

import torch
from torch import Tensor, nn

from segmodels.parts.layers import conv_bn, conv_bn_relu


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


class SpatialPath(nn.Sequential):
    """A wide stack with three strides: 128 channels at 1/8 (BiSeNet, section 3.1)."""

    def __init__(self) -> None:
        super().__init__(
            conv_bn_relu(3, 64, 7, 2),
            conv_bn_relu(64, 64, 3, 2),
            conv_bn_relu(64, 64, 3, 2),
            conv_bn_relu(64, 128, 1),
        )


class AttentionRefinement(nn.Module):
    """ARM: bring a map to 128 channels, weighted by its global average (BiSeNet, figure 2b)."""

    def __init__(self, inside: int, gated: bool = True) -> None:
        super().__init__()
        self.conv = conv_bn_relu(inside, 128)
        self.gate = conv_bn(128, 128, 1) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.gate is None else x * self.gate(pooled(x)).sigmoid()


class FeatureFusion(nn.Module):
    """FFM: concatenate, balance scales by batch norm, then select channels (BiSeNet, figure 2c).

    `squeezed` is the gate's inner width.
    """

    def __init__(self, inside: int = 256, squeezed: int = 256) -> None:
        super().__init__()
        self.conv = conv_bn_relu(inside, 256, 1)
        squeeze = nn.Conv2d(256, squeezed, 1, bias=False)
        excite = nn.Conv2d(squeezed, 256, 1, bias=False)
        self.select = nn.Sequential(squeeze, nn.ReLU(inplace=True), excite)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        x = self.conv(torch.cat([detail, context], 1))
        return x + x * self.select(pooled(x)).sigmoid()
