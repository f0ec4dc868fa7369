"""Layers that several papers stack the same way."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def conv_bn(
    inside: int,
    outside: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Sequential:
    """Stack a convolution, padded to keep the size, and batch normalization."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inside, outside, kernel, stride, padding, dilation, groups, bias)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


def conv_bn_relu(
    inside: int,
    outside: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
    leaky: bool = False,
) -> nn.Sequential:
    """Stack both and a ReLU; `leaky` is what in-place ABN (arXiv:1712.02616) makes of it."""
    layers = conv_bn(inside, outside, kernel, stride, dilation=dilation, groups=groups, bias=bias)
    return layers.append(nn.LeakyReLU(0.01, inplace=True) if leaky else nn.ReLU(inplace=True))


def is_convolution_bias(network: nn.Module, name: str) -> bool:
    """Return whether a parameter is the bias of a convolution, and not of a norm."""
    path, _, kind = name.rpartition(".")
    return kind == "bias" and isinstance(network.get_submodule(path), nn.Conv2d)


def is_of_a_norm(network: nn.Module, name: str) -> bool:
    """Return whether a parameter belongs to batch normalization."""
    return isinstance(network.get_submodule(name.rpartition(".")[0]), _BatchNorm)


def with_momentum(module: nn.Module, momentum: float) -> nn.Module:
    """Set the momentum of a module's norms: the share of each batch in their averages."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.momentum = momentum
    return module


def bilinear_deconvolution(
    channels: int, factor: int, kernel: int, padding: int = 0
) -> nn.ConvTranspose2d:
    """Make a transposed convolution that interpolates each channel by itself, at first.

    A kernel of twice the factor is bilinear interpolation; a larger one smooths more.
    """
    up = nn.ConvTranspose2d(channels, channels, kernel, factor, padding, bias=False)
    reach = kernel / 2
    distance = (torch.arange(kernel) + 0.5 - reach).abs()
    slope = (1 - distance / reach) * factor / reach  # what falls on a pixel sums up to 1
    one = torch.eye(channels)[..., None, None]  # (channels, channels, 1, 1)
    up.weight = nn.Parameter(one * slope[:, None] * slope)
    return up


def keep_statistics(network: nn.Module) -> None:
    """Put the norms of a network into eval mode, in which no batch changes their averages."""
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()


def resized(x: Tensor, like: Tensor, align_corners: bool = False) -> Tensor:
    """Interpolate a map to another one's height and width."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=align_corners)


def resized_with_corners(x: Tensor, like: Tensor) -> Tensor:
    """Interpolate a map to another one's height and width, corner on corner."""
    return resized(x, like, align_corners=True)


class AdaptiveAvgPool(nn.AdaptiveAvgPool2d):
    """Average over n x n parts of a map, which is exported for maps of any size too.

    ONNX has no such operation, and what PyTorch writes instead holds for one size only.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if isinstance(height, int) and isinstance(width, int):
            return super().forward(x)
        parts = self.output_size
        return part_weights(height, parts, x) @ x @ part_weights(width, parts, x).T


def part_weights(side: int, parts: int, like: Tensor) -> Tensor:
    """Return the matrix (parts, side) that averages each part of a side."""
    inside = parts_of(side, parts, like)
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)


class AdaptiveMaxPool(nn.AdaptiveMaxPool2d):
    """Maximum over n x n parts of a map, which is exported too: ONNX has no such operation."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            return super().forward(x)
        height, width = x.shape[-2:]
        rows = [largest(x.mT, inside) for inside in parts_of(height, self.output_size, x)]
        x = torch.stack(rows, -2)  # (B, C, H, W) -> (B, C, n, W)
        columns = [largest(x, inside) for inside in parts_of(width, self.output_size, x)]
        return torch.stack(columns, -1)


def largest(x: Tensor, inside: Tensor) -> Tensor:
    """Return the largest value along the last side, among those inside a part."""
    return x.masked_fill(~inside, -math.inf).amax(-1)


def parts_of(side: int, parts: int, like: Tensor) -> Tensor:
    """Return which places (parts, side) belong to each part of a side."""
    number = torch.arange(parts, device=like.device)[:, None]
    place = torch.arange(side, device=like.device)
    first = number * side // parts
    end = ((number + 1) * side + parts - 1) // parts
    return (first <= place) & (place < end)
