"""Pyramid pooling: a pixel's surroundings as means over larger and larger parts of a map.

PSPNet introduced it (Zhao et al., 2017. arXiv:1612.01105, figure 3c).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segmodels.parts.layers import AdaptiveAvgPool, conv_bn_relu, resized

PARTS = (1, 2, 3, 6)  # along each side


class PyramidPooling(nn.Module):
    """A map beside its means over 1, 4, 9 and 36 parts, joined by a convolution.

    `width` is that of each mean; without it, all have as many channels together as the map itself.
    `projection` is the 1x1 behind each mean, and `pool` may take something else than means. The map
    is concatenated before its means or, with map_first=False, behind them.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int = 3,
        *,
        align_corners: bool,
        width: int | None = None,
        projection: Callable[[int, int, int], nn.Module] = conv_bn_relu,
        map_first: bool = True,
        parts: tuple[int, ...] = PARTS,
        pool: Callable[[int], nn.Module] = AdaptiveAvgPool,
    ) -> None:
        super().__init__()
        width = width or inside // len(parts)
        self.align_corners = align_corners
        self.map_first = map_first
        self.levels = nn.ModuleList(
            nn.Sequential(pool(side), projection(inside, width, 1)) for side in parts
        )
        self.fusion = conv_bn_relu(inside + len(parts) * width, outside, kernel)

    def forward(self, x: Tensor) -> Tensor:
        means = [resized(level(x), x, self.align_corners) for level in self.levels]
        maps = [x, *means] if self.map_first else [*means, x]
        return self.fusion(torch.cat(maps, 1))  # (B, inside + n*width, h, w) -> (B, outside, h, w)
