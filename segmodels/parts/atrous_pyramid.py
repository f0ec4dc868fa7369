"""ASPP: convolutions of several dilations side by side, which DeepLabV3 joined with a mean.

Chen et al., 2017. arXiv:1706.05587, section 3.3.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segmodels.parts.layers import conv_bn_relu


class AtrousPyramid(nn.Module):
    """ASPP: a 1x1, dilated 3x3s and the mean of the image, side by side (figure 2)."""

    def __init__(
        self,
        inside: int,
        width: int,
        rates: tuple[int, ...],
        convolution: Callable[..., nn.Module] = conv_bn_relu,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        dilated = [convolution(inside, width, dilation=rate) for rate in rates]
        self.convs = nn.ModuleList([conv_bn_relu(inside, width, 1), *dilated])
        self.pooling = conv_bn_relu(inside, width, 1)
        self.projection = conv_bn_relu((len(rates) + 2) * width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the maps in the order in which they are joined."""
        mean = self.pooling(x.mean((2, 3), keepdim=True))  # (B, width, 1, 1)
        return [*(conv(x) for conv in self.convs), mean.expand(-1, -1, *x.shape[2:])]

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.projection(torch.cat(self.maps(x), 1)))


def rates_at(output_stride: int) -> tuple[int, int, int]:
    """Return the rates of the pyramid's 3x3s, which cover the same pixels at both strides."""
    if output_stride not in (8, 16):
        raise ValueError(
            f"model.output_stride is {output_stride}; it must be 16, as the paper trains, "
            "or 8, which is finer and slower"
        )
    return (6, 12, 18) if output_stride == 16 else (12, 24, 36)


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
