"""ASPP: convolutions of several dilations side by side, which DeepLabV3 joined with a mean.

Chen et al., 2017. arXiv:1706.05587, section 3.3.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segmodels.parts.layers import conv_bn_relu


class AtrousPyramid(nn.Module):
    """ASPP: a 1x1, dilated 3x3s and the mean of the image, side by side (figure 5)."""

    def __init__(
        self,
        inside: int,
        width: int,
        rates: tuple[int, ...],
        convolution: Callable[..., nn.Module] = conv_bn_relu,
        dropout: float = 0.1,
        mean: bool = True,
    ) -> None:
        super().__init__()
        dilated = [convolution(inside, width, dilation=rate) for rate in rates]
        self.convs = nn.ModuleList([conv_bn_relu(inside, width, 1), *dilated])
        self.pooling = conv_bn_relu(inside, width, 1) if mean else None
        self.projection = conv_bn_relu((1 + len(rates) + mean) * width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the maps in the order in which they are joined."""
        maps = [conv(x) for conv in self.convs]
        if self.pooling is not None:
            mean = self.pooling(x.mean((2, 3), keepdim=True))  # (B, width, 1, 1)
            maps.append(mean.expand(-1, -1, *x.shape[2:]))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.projection(torch.cat(self.maps(x), 1)))


def rates_at(output_stride: int, rates: tuple[int, ...] = (6, 12, 18)) -> tuple[int, ...]:
    """Return rates meant for stride 16 as they cover the same pixels at the given one."""
    if output_stride not in (8, 16):
        raise ValueError(
            f"model.output_stride is {output_stride}; it must be 16, as the paper trains, "
            "or 8, which is finer and slower"
        )
    return tuple(rate * 16 // output_stride for rate in rates)


def initialize(module: nn.Module) -> None:
    """Initialize the layers that ImageNet weights lack, as the authors' code does.

    Separable convolutions have fixed deviations, others Glorot's.
    """
    behind_depthwise = False
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        depthwise = layer.groups > 1
        if depthwise or behind_depthwise:
            deviation = 0.33 if depthwise else 0.06
            nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        else:
            nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        behind_depthwise = depthwise
