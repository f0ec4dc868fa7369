"""Layers that several papers stack the same way."""

from torch import nn


def conv_bn(
    inside: int,
    outside: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Stack a convolution without bias, padded to keep the size, and batch normalization."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inside, outside, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


def conv_bn_relu(
    inside: int,
    outside: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    layers = conv_bn(inside, outside, kernel, stride, dilation=dilation, groups=groups)
    return layers.append(nn.ReLU(inplace=True))
