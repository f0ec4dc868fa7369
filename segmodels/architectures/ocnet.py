"""OCNet: Object Context Network for Scene Parsing
Yuan, Wang. 2018, in IJCV 2021 together with ISANet. arXiv:1809.00916

The pixels of an object tell most about each other. Which pixels these are is not known before the
labels are, so self-attention guesses: pixels with similar features count as one object, and their
mean, the object context, is put beside the pixel. ASP-OC makes it one of five views of the map, in
the place that the mean of the image has in DeepLab's atrous pyramid.

    image -> ResNet, dilated to 1/8 ─┬─ stage 4 -> 3x3 -> Base-OC or ASP-OC -> dropout, 1x1 -> logits at 1/8
                                     └─ stage 3 -> 3x3, 1x1: auxiliary, in training

    Base-OC   ─┬─ object context ─┬─ 1x1      ASP-OC   ─┬─ 3x3, object context at 1/16 ─┬─ 1x1
               └──────────────────┘                     ├─ 1x1 ─────────────────────────┤
                                                        └─ 3x3s, dilated 12, 24, 36 ────┘

    object context   y[n] = W sum over m of softmax over m of (q[n] . k[m] / sqrt(d)) v[m]

Departures:
- The networks are those of openseg.pytorch, whose weights and figure are published. In the authors'
  earlier code, OCNet.pytorch, queries and keys are the same map, of one layer; crops are 769x769.
- In-place ABN is batch norm here: where rows have it, ReLUs behind the norms of the heads are
  leaky, and scales can be negative.
- The authors also stretch images (by 0.9 to 1.1 of their aspect) and make them lighter or darker
  (by up to 10 of 255). Here they are neither.
- The released networks take BGR images of 0 to 255 without their mean. Rows start from timm's
  weights of the same network, which are normalized as usual.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.families.common import CommonNet, common
from segmodels.families.openseg import (
    ATTENTION,
    BGR,
    BUDGETS,
    CHANNELS,
    RECIPE,
    STEM,
    ZOO,
    OpenSeg,
    SelfAttention,
)
from segmodels.paper import Experiment, Published, Released, unknown
from segmodels.parts.layers import conv_bn_relu, resized_with_corners
from segmodels.parts.weight_files import norms_of_abn

# --- object context


def object_context(channels: int, width: int, leaky: bool) -> SelfAttention:
    """Make the attention; at first there is no context."""
    value = nn.Conv2d(channels, width, 1)
    out = nn.Conv2d(width, channels, 1)
    nn.init.zeros_(out.weight)
    nn.init.zeros_(out.bias)
    return SelfAttention(channels, width, value, out, bias=True, leaky=leaky)


class BaseOC(nn.Module):
    """Object context beside the map that it is made of."""

    def __init__(self, channels: int, leaky: bool = False) -> None:
        super().__init__()
        self.context = object_context(channels, channels // 2, leaky)
        self.fusion = conv_bn_relu(2 * channels, channels, 1, bias=True, leaky=leaky)

    def forward(self, x: Tensor) -> Tensor:
        return self.fusion(torch.cat([self.context(x), x], 1))


class AspOC(nn.Module):
    """Object context beside convolutions of four dilations, each of half the channels."""

    rates = (12, 24, 36)

    def __init__(self, channels: int, leaky: bool = False) -> None:
        super().__init__()
        width = channels // 2
        self.before = conv_bn_relu(channels, width, bias=True, leaky=leaky)
        self.context = object_context(width, width // 2, leaky)
        self.norm = conv_bn_relu(width, width, 1, leaky=leaky)[1:]  # without the convolution
        self.convs = nn.ModuleList([conv_bn_relu(channels, width, 1, leaky=leaky)])
        for rate in self.rates:
            self.convs.append(conv_bn_relu(channels, width, dilation=rate, leaky=leaky))
        self.fusion = conv_bn_relu(5 * width, channels, 1, leaky=leaky)

    def forward(self, x: Tensor) -> Tensor:
        context = self.context(F.max_pool2d(self.before(x), 2))  # at 1/16
        context = self.norm(resized_with_corners(context, x))
        return self.fusion(torch.cat([context, *(conv(x) for conv in self.convs)], 1))


# --- network

Operator = Literal["base", "asp"]
OPERATORS = {"base": BaseOC, "asp": AspOC}


class OCNet(OpenSeg):
    """Dilated ResNet -> object context -> classifier at 1/8."""

    def __init__(
        self, num_classes: int, depth: int = 101, operator: Operator = "base", leaky: bool = True
    ) -> None:
        """`leaky` makes the ReLUs of the heads leaky, as in-place ABN does."""
        if operator not in OPERATORS:
            raise ValueError(unknown("operator", operator, list(OPERATORS)))
        super().__init__(
            num_classes,
            depth,
            OPERATORS[operator](CHANNELS, leaky),
            dropout=0.05 if operator == "base" else 0.1,
            auxiliary_dropout=0.0,
            bias=True,
            leaky=leaky,
        )


class Common(CommonNet):
    """Base-OC in the network that all operators share."""

    operator = BaseOC


# --- experiments

MAIN = Experiment(
    OCNet, RECIPE, model={"depth": 101, "operator": "base", "leaky": True},
    starts_from="resnet101s.gluon_in1k",
    published=(Published(79.49, "cityscapes", "val", "whole", ZOO),), budgets=BUDGETS,
)  # fmt: skip
ASP = MAIN.but(model={"operator": "asp"})

EXPERIMENTS = {
    "base": MAIN,
    "base_relu": MAIN.but(model={"leaky": False}),
    "asp": ASP,
    "asp_relu": ASP.but(model={"leaky": False}),
    "common": common(Common),
}

# --- released weights: openseg-group/openseg.pytorch's

HEADS = (
    STEM,
    *ATTENTION,
    (r"^cls\.", "classifier.1."),
    (r"^dsn\.2\.", "auxiliary.2."),
    (r"^dsn\.", "auxiliary.0."),
)
BASE = (
    *HEADS,
    (r"^oc_module_pre\.", "context.0."),
    (r"^oc_module\.stages\.0\.", "context.1.context."),
    (r"^oc_module\.conv_bn_dropout\.", "context.1.fusion."),
)
ASP_OC = (
    *HEADS,
    (r"^context\.([01])\.", r"context.0.\1."),
    (r"^context\.2\.context\.2\.stages\.0\.", "context.1.context."),
    (r"^context\.2\.context\.2\.conv_bn_dropout\.0\.0\.", "context.1.norm.1."),
    (r"^context\.2\.context\.", "context.1.before."),
    (r"^context\.2\.conv([2345])\.", lambda m: f"context.1.convs.{int(m[1]) - 2}."),
    (r"^context\.2\.conv_bn_dropout\.", "context.1.fusion."),
)
RELEASED = {
    "ocnet_base_r101_openseg": Released("ocnet/base_relu", "cls.bias", BASE, normalization=BGR),
    "ocnet_base_r101_openseg_abn": Released(
        "ocnet/base", "cls.bias", BASE, normalization=BGR, convert=norms_of_abn
    ),
    "ocnet_asp_r101_openseg": Released("ocnet/asp_relu", "cls.bias", ASP_OC, normalization=BGR),
}
