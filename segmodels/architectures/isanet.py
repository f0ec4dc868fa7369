"""ISANet: Interlaced Sparse Self-Attention for Semantic Segmentation
Huang, Yuan, Guo, Zhang, Chen, Wang. 2019, in IJCV 2021 together with OCNet. arXiv:1907.12273

Attention of all pixels to all pixels is one large matrix. Here small ones take its place. First
each pixel of the map looks at those that lie a multiple of 8 away, in rows and in columns; then at
the 64 of its own 8x8 block, each of which has looked at others. Then it has seen every other one.

    image -> ResNet, dilated to 1/8 ─┬─ stage 4 -> 3x3 ─┬─ long -> short ─┬─ 1x1, dropout, 1x1 -> logits at 1/8
                                     │                  └─────────────────┘
                                     └─ stage 3 -> 3x3, dropout, 1x1: auxiliary, in training

    blocks of 2 instead of 8:          long                short
                                       a b a b a b         a a b b c c
    letters look at their equals       c d c d c d         a a b b c c
                                       a b a b a b         d d e e f f
                                       c d c d c d         d d e e f f

    in each group   y[n] = W sum over m of softmax over m of (q[n] . k[m] / sqrt(d)) v[m]

Departures:
- In-place ABN is batch norm here: where rows have it, ReLUs behind the norms of the heads are
  leaky, and scales can be negative.
- The authors also stretch images (by 0.9 to 1.1 of their aspect) and make them lighter or darker
  (by up to 10 of 255). Here they are neither.
- The released networks take BGR images of 0 to 255 without their mean. Rows start from timm's
  weights of the same network, which are normalized as usual.
"""

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
from segmodels.paper import Experiment, Published, Released
from segmodels.parts.layers import conv_bn_relu
from segmodels.parts.weight_files import norms_of_abn

# --- interlaced sparse self-attention

SIDE = 8  # of a block


def in_order(x: Tensor) -> Tensor:
    """Copy a map into the order of its sides: a view is exported for two blocks or more alone."""
    return x.clone(memory_format=torch.contiguous_format)


def interlaced(x: Tensor) -> Tensor:
    """Gather pixels of the same remainders by 8: (B, C, h, w) -> (64 B, C, h/8, w/8)."""
    x = x.unflatten(3, (-1, SIDE)).unflatten(2, (-1, SIDE))  # (B, C, h/8, 8, w/8, 8)
    return in_order(x.permute(0, 3, 5, 1, 2, 4)).flatten(0, 2)


def woven(x: Tensor) -> Tensor:
    """Undo `interlaced`: (64 B, C, h/8, w/8) -> (B, C, h, w)."""
    x = x.unflatten(0, (-1, SIDE, SIDE))  # (B, 8, 8, C, h/8, w/8)
    return in_order(x.permute(0, 3, 4, 1, 5, 2)).flatten(4, 5).flatten(2, 3)


def blocks(x: Tensor) -> Tensor:
    """Cut a map into blocks: (B, C, h, w) -> (B h/8 w/8, C, 8, 8)."""
    x = x.unflatten(3, (-1, SIDE)).unflatten(2, (-1, SIDE))  # (B, C, h/8, 8, w/8, 8)
    return in_order(x.permute(0, 2, 4, 1, 3, 5)).flatten(0, 2)


def joined(x: Tensor, like: Tensor) -> Tensor:
    """Undo `blocks`, of a map of the height and width of `like`."""
    rows, columns = (side // SIDE for side in like.shape[2:])
    x = x.unflatten(0, (-1, rows, columns))  # (B, h/8, w/8, C, 8, 8)
    return in_order(x.permute(0, 3, 1, 4, 2, 5)).flatten(4, 5).flatten(2, 3)


def attention(channels: int, leaky: bool) -> SelfAttention:
    value = nn.Conv2d(channels, channels, 1, bias=False)
    out = conv_bn_relu(channels, channels, 1, leaky=leaky)
    return SelfAttention(channels, channels // 2, value, out, leaky=leaky)


class Interlaced(nn.Module):
    """Attention far and wide, then nearby, and a 1x1 that joins the result with the map."""

    def __init__(self, channels: int, leaky: bool = False) -> None:
        super().__init__()
        self.long = attention(channels, leaky)
        self.short = attention(channels, leaky)
        self.fusion = conv_bn_relu(2 * channels, channels, 1, leaky=leaky)

    def forward(self, x: Tensor) -> Tensor:
        return self.fusion(torch.cat([x, self.context(x)], 1))

    def context(self, x: Tensor) -> Tensor:
        """Return both attentions, one after the other, of a map padded to whole blocks."""
        height, width = x.shape[2:]
        down, across = -height % SIDE, -width % SIDE
        top, left = down // 2, across // 2
        x = F.pad(x, (left, across - left, top, down - top))
        y = woven(self.long(interlaced(x)))
        y = joined(self.short(blocks(y)), like=x)
        return y[:, :, top : top + height, left : left + width]


# --- network


class ISANet(OpenSeg):
    """Dilated ResNet -> interlaced attention -> classifier at 1/8."""

    def __init__(self, num_classes: int, depth: int = 101, leaky: bool = True) -> None:
        """`leaky` makes the ReLUs of the heads leaky, as in-place ABN does."""
        operator = Interlaced(CHANNELS, leaky)
        super().__init__(
            num_classes, depth, operator, dropout=0.05, auxiliary_dropout=0.05, leaky=leaky
        )


class Common(CommonNet):
    """Interlaced attention in the network that all operators share."""

    operator = Interlaced


# --- experiments

MAIN = Experiment(
    ISANet, RECIPE, model={"depth": 101, "leaky": True}, starts_from="resnet101s.gluon_in1k",
    published=(Published(79.55, "cityscapes", "val", "whole", ZOO),), budgets=BUDGETS,
)  # fmt: skip

EXPERIMENTS = {
    "resnet101": MAIN,
    "resnet101_relu": MAIN.but(model={"leaky": False}),
    "common": common(Common),
}

# --- released weights: openseg-group/openseg.pytorch's

RENAMES = (
    STEM,
    *ATTENTION,
    (r"^cls_head\.", "classifier.1."),
    (r"^dsn_head\.3\.", "auxiliary.2."),
    (r"^dsn_head\.", "auxiliary.0."),
    (r"^isa_head\.([01])\.", r"context.0.\1."),
    (r"^isa_head\.2\.stages\.0\.(long|short)_range_sa\.", r"context.1.\1."),
    (r"^isa_head\.2\.conv_bn\.", "context.1.fusion."),
)
RELEASED = {
    "isanet_r101_openseg": Released(
        "isanet/resnet101_relu", "cls_head.bias", RENAMES, normalization=BGR
    ),
    "isanet_r101_openseg_abn": Released(
        "isanet/resnet101", "cls_head.bias", RENAMES, normalization=BGR, convert=norms_of_abn
    ),
}
