"""Blocks of DDRNet and PIDNet: residual stages without a last ReLU, pyramids, pre-norm heads.

A stage ends without a ReLU because branches are summed before it. The code that reads a stage calls
F.relu.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from segmodels.parts.backbones.resnet import shortcut
from segmodels.parts.layers import conv_bn, conv_bn_relu, resized

Choice = TypeVar("Choice")


def pick(option: str, word: str, allowed: Mapping[str, Choice]) -> Choice:
    """Return what a word of an option stands for; the error names the known words."""
    if word not in allowed:
        raise ValueError(
            f"{option}={word!r} is not known; allowed: {', '.join(map(repr, allowed))}"
        )
    return allowed[word]


def stem(width: int, bias: bool = True) -> nn.Sequential:
    """Stack two 3x3 convolutions to 1/4; the authors' have a bias before their batch norm."""
    layers = conv_bn_relu(3, width, 3, 2).extend(conv_bn_relu(width, width, 3, 2))
    if bias:
        layers[0] = nn.Conv2d(3, width, 3, 2, 1)
        layers[3] = nn.Conv2d(width, width, 3, 2, 1)
    return layers


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, inside: int, width: int, stride: int = 1, relu: bool = False) -> None:
        super().__init__()
        self.residual = nn.Sequential(conv_bn_relu(inside, width, 3, stride), conv_bn(width, width))
        self.shortcut = shortcut(inside, width, stride)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to twice the width, never followed by a ReLU, not even inside a stage."""

    expansion = 2

    def __init__(self, inside: int, width: int, stride: int = 1, relu: bool = False) -> None:
        super().__init__()
        outside = width * self.expansion
        self.residual = nn.Sequential(
            conv_bn_relu(inside, width, 1),
            conv_bn_relu(width, width, 3, stride),
            conv_bn(width, outside, 1),
        )
        self.shortcut = shortcut(inside, outside, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


def stage(
    block: type[Block] | type[Bottleneck], inside: int, width: int, blocks: int, stride: int = 1
) -> nn.Sequential:
    """Stack blocks with a ReLU between them and none after the last."""
    layers = [block(inside, width, stride, relu=blocks > 1)]
    layers += [block(width * block.expansion, width, relu=n < blocks - 1) for n in range(1, blocks)]
    return nn.Sequential(*layers)


def norm_relu_conv(inside: int, outside: int, kernel: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(inplace=True), conv)


def head(inside: int, width: int, num_classes: int) -> nn.Sequential:
    return norm_relu_conv(inside, width, 3).extend(
        [nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, num_classes, 1)]
    )


class Pyramid(nn.Module):
    """A map beside four pooled ones, each brought to `width` channels and the map's size.

    The pools have kernel/stride 5/2, 9/4, 17/8 (padding counts) and global. With fewer branches the
    largest are left out, but not the global one.
    """

    def __init__(self, inside: int, width: int, outside: int, branches: int = 5) -> None:
        super().__init__()
        steps = (2, 4, 8)[: branches - 2]
        self.pools = nn.ModuleList(
            [
                *(nn.AvgPool2d(2 * step + 1, step, step) for step in steps),
                nn.AdaptiveAvgPool2d(1),
            ]
        )
        self.scales = nn.ModuleList(norm_relu_conv(inside, width, 1) for _ in range(branches))
        self.compression = norm_relu_conv(branches * width, outside, 1)
        self.shortcut = norm_relu_conv(inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.scales
        pooled = [resized(scale(pool(x)), x) for pool, scale in zip(self.pools, others)]
        return self.compression(torch.cat(self.aggregated(first(x), pooled), 1)) + self.shortcut(x)

    def aggregated(self, own: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        raise NotImplementedError


class DAPPM(Pyramid):
    """Deep Aggregation Pyramid Pooling (DDRNet): each scale plus the one before, then 3x3."""

    def __init__(self, inside: int, width: int, outside: int, branches: int = 5) -> None:
        super().__init__(inside, width, outside, branches)
        self.processes = nn.ModuleList(norm_relu_conv(width, width, 3) for _ in self.pools)

    def aggregated(self, own: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        maps = [own]
        for process, x in zip(self.processes, pooled):
            maps.append(process(x + maps[-1]))
        return maps


# --- names of these parts in checkpoints


def _layer(match: re.Match[str]) -> str:
    """Rename a block's layer: conv2 and bn2 are the second pair of its residual."""
    return f".{match[1]}.residual.{int(match[3]) - 1}.{'0' if match[2] == 'conv' else '1'}."


def _scale(match: re.Match[str]) -> str:
    """Rename a layer of a scale, which in checkpoints begins with the pooling."""
    return f"context.scales.{match[1]}.{int(match[2]) - (match[1] != '0')}."


def _of_head(match: re.Match[str]) -> str:
    return match[1] + {"bn1": ".0", "conv1": ".2", "bn2": ".3", "conv2": ".5"}[match[2]] + "."


# (pattern, replacement), applied in turn to every name of a checkpoint, after a paper's own.
# AUTHORS are the names that DDRNet's and PIDNet's authors share; MMSEG those of mmseg's stem,
# blocks and pyramid, whose layers are pairs of conv and bn.
AUTHORS = (
    (r"^conv1\.", "backbone.stem."),
    (r"^layer([12])\.", r"backbone.layer\1."),
    (r"^spp\.", "context."),
    (r"^final_layer\.", "classifier."),
    (r"\.downsample\.", ".shortcut."),
    (r"\.(\d+)\.(conv|bn)(\d)\.", _layer),
    (r"^context\.scale(\d)\.(\d)\.", _scale),
    (r"^context\.process(\d)\.", lambda match: f"context.processes.{int(match[1]) - 1}."),
    (r"^(classifier|auxiliary|boundary)\.(bn\d|conv\d)\.", _of_head),
)
MMSEG = (
    (
        r"^backbone\.stem\.([01])\.(conv|bn)\.",
        lambda match: f"backbone.stem.{3 * int(match[1]) + (match[2] == 'bn')}.",
    ),
    (r"^backbone\.stem\.2\.(\d)\.", r"backbone.layer1.\1."),
    (r"^backbone\.stem\.4\.(\d)\.", r"backbone.layer2.\1."),
    (r"\.downsample\.", ".shortcut."),
    (r"\.conv(\d)\.(conv|bn)\.", lambda match: f".residual.{int(match[1]) - 1}.{match[2]}."),
    (r"^backbone\.spp\.", "context."),
    (r"^context\.scales\.(\d)\.1\.", r"context.scales.\1."),
    (r"^(context\..*)\.bn\.", r"\1.0."),
    (r"^(context\..*)\.conv\.", r"\1.2."),
    (r"\.conv\.(weight|bias)", r".0.\1"),
    (r"\.bn\.", ".1."),
)
