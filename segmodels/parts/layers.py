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
    """A convolution without bias that keeps the size (times 1 / stride), and batch
    normalization."""
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
    return conv_bn(inside, outside, kernel, stride, dilation=dilation, groups=groups).append(
        nn.ReLU(inplace=True)
    )
