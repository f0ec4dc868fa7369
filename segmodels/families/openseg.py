"""What OCNet, ISANet and OCRNet have in common in their authors' code, openseg.pytorch.

    image -> ResNet, dilated to 1/8 ─┬─ stage 4 -> 3x3 -> operator -> dropout, 1x1 -> logits at 1/8
                                     └─ stage 3 -> 3x3, dropout, 1x1: auxiliary, in training

    attention of pixel n   y[n] = sum over m of softmax over m of (q[n] . k[m] / sqrt(d)) v[m]

A paper hands in its operator. Where batch norm is in-place ABN, ReLUs behind the norms of the heads
are leaky, and those of the ResNet are not.
"""

import re
from functools import partial

from torch import Tensor, nn

from segmodels.families.dilated import Dilated, classifier, fcn_head
from segmodels.paper import Normalization
from segmodels.parts import class_weights
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn_relu
from segmodels.recipe import Recipe

CHANNELS = 512  # that an operator gets and gives


def transform(inside: int, width: int, **settings: bool) -> nn.Sequential:
    """Stack the two layers that make queries and keys."""
    layers = [conv_bn_relu(each, width, 1, **settings) for each in (inside, width)]
    return nn.Sequential(*layers)


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return for each pixel of `query` the mean of `value`, weighted by how well its key fits.

    Maps (B, C, h, w), of which `key` and `value` may have another size than `query`.
    """
    size = query.shape[2:]
    query = query.flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, N, C)
    key = key.flatten(2)  # (B, C, M)
    value = value.flatten(2)  # (B, C', M)
    weights = (query @ key / key.shape[1] ** 0.5).softmax(2)  # (B, N, M)
    mean = value @ weights.transpose(1, 2)  # (B, C', M) x (B, M, N) -> (B, C', N)
    return mean.unflatten(2, size)  # -> (B, C', h, w)


class SelfAttention(nn.Module):
    """Attention of each pixel of a map to all of them; the mean goes through `out`."""

    def __init__(
        self, channels: int, width: int, value: nn.Module, out: nn.Module, **settings: bool
    ) -> None:
        super().__init__()
        self.query = transform(channels, width, **settings)
        self.key = transform(channels, width, **settings)
        self.value = value
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        return self.out(attended(self.query(x), self.key(x), self.value(x)))


def dilated_resnet(depth: int = 101, width: int = 64) -> ResNet:
    """Make the ResNet, which rounds sides up: 512 x 1024 pixels make 65 x 129."""
    backbone = ResNet(depth, output_stride=8, width=width, stem=(64, 64, 128))
    backbone.maxpool.ceil_mode = True
    return backbone


class OpenSeg(Dilated):
    """Dilated ResNet -> 3x3 -> a paper's operator on 512 channels -> classifier at 1/8."""

    align_corners = True

    def __init__(
        self,
        num_classes: int,
        depth: int,
        operator: nn.Module,
        dropout: float,
        auxiliary_dropout: float,
        **settings: bool,
    ) -> None:
        """`settings` are those of the 3x3 layers."""
        backbone = dilated_resnet(depth)
        *_, middle, deep = backbone.channels
        three = partial(conv_bn_relu, **settings)
        super().__init__(
            num_classes,
            backbone,
            nn.Sequential(three(deep, CHANNELS), operator),
            classifier(CHANNELS, num_classes, dropout),
            fcn_head(middle, CHANNELS, num_classes, auxiliary_dropout, three),
        )


# --- recipe: configs/cityscapes/R_101_D_8.json

RECIPE = Recipe(
    crop=(512, 1024), scales=(0.5, 2.0), continuous=True, batch=8, iterations=40_000,
    lr=0.01, weight_decay=5e-4, schedule="poly", power=0.9, padding="mean",
)  # fmt: skip
# Weights of classes mean nothing on other classes, so they come with that data set.
BUDGETS = {"cityscapes": {"class_weights": class_weights.CITYSCAPES}}
ZOO = "model zoo of the authors' openseg.pytorch"

# --- released weights


def of_stem(match: re.Match[str]) -> str:
    if match[0] == "backbone.resinit.bn3.":
        return "backbone.bn1."
    return f"backbone.conv1.{3 * int(match[2]) - 3 + (match[1] == 'bn')}."


STEM = (r"^backbone\.resinit\.(conv|bn)(\d)\.", of_stem)
ATTENTION = (
    (r"\.([13])\.0\.(?=\w+$)", r".\1."),  # batch norm, beside a ReLU that has no weights
    (r"\.f_(query|key)\.([0123])\.", lambda m: f".{m[1]}.{int(m[2]) // 2}.{int(m[2]) % 2}."),
    (r"\.f_value\.", ".value."),
    (r"\.W\.", ".out."),
)
# The authors' ResNet takes BGR images of 0 to 255 without their mean.
BGR = Normalization(mean=(102.9801, 115.9465, 122.7717), std=(1, 1, 1), order="BGR", scale=1)
