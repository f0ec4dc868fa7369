"""CCNet: Criss-Cross Attention for Semantic Segmentation
Huang, Wang, Huang, Huang, Wei, Liu. ICCV 2019. arXiv:1811.11721

Looking at all positions of a map costs N x N weights. Here a position looks at its own row and
column alone, h + w - 1 positions. Doing it twice reaches every other one: what stands at (i, j)
comes to (k, j) by the column, and from there to (k, l) by the row.

    image -> ResNet, dilated to 1/8 ─┬─ stage 4 ─┬─ 3x3 -> criss-cross, R times -> 3x3 ─┬─ 3x3, dropout, 1x1 -> logits at 1/8
                                     │           └──────────────────────────────────────┘
                                     └─ stage 3 -> 3x3, dropout, 1x1: auxiliary, in training

    1   . . x . . .     2   2 2 1 2 2 2     out[u] = x[u] + gamma sum over v of a[u, v] value(x[v])
        x x u x x x         1 1 u 1 1 1     a[u, v] = softmax over v of query(x[u]) . key(x[v])
        . . x . . .         2 2 1 2 2 2     v: the row and the column of u, u itself once

Both passes have the same weights, so R can be another one at evaluation.

Departures:
- Figures are each the best of three runs, as the authors list them. Their README trains with a
  weight decay of 1e-4, as here, and their script with 5e-4.
- The networks have in-place ABN. Here batch norm takes its place: ReLUs behind the norms of the
  heads are leaky, and scales can be negative.
- The released networks take BGR images of 0 to 255 without their mean. Rows start from timm's
  weights of the same network, which are normalized as usual.
- Small images stand anywhere in the crop, not in its upper left corner.
- The authors average logits where windows overlap; here probabilities are averaged.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from segmodels.families.common import CommonNet, common
from segmodels.families.dilated import Around, Dilated, classifier, fcn_head
from segmodels.paper import Experiment, Normalization, Published, Released
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn_relu
from segmodels.parts.weight_files import norms_of_abn
from segmodels.recipe import Recipe

# --- criss-cross attention


class CrissCross(nn.Module):
    """Attention of each position to its row and column, R times with the same weights."""

    def __init__(self, channels: int, recurrence: int = 2) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))  # it starts as the identity
        self.recurrence = recurrence

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.recurrence):
            x = self.one_pass(x)
        return x

    def one_pass(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        value = self.value(x)
        weights = self.weights(self.query(x), self.key(x))
        of_column, of_row = weights.split([height, width], dim=3)
        column = torch.einsum("bciw,bhwi->bchw", value, of_column)
        row = torch.einsum("bchj,bhwj->bchw", value, of_row)
        return x + self.gamma * (column + row)

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Return what (B, h, w) looks at, (B, h, w, h + w): its column, then its row."""
        column = torch.einsum("bchw,bciw->bhwi", query, key)
        row = torch.einsum("bchw,bchj->bhwj", query, key)
        places = torch.arange(query.shape[2], device=query.device)
        itself = places[:, None, None] == places  # (h, 1, h); the row has it already
        column = column.masked_fill(itself, -torch.inf)
        return torch.cat([column, row], 3).softmax(3)


# --- network


class CCNet(Dilated):
    """Dilated ResNet -> criss-cross attention between 3x3 convolutions -> classifier at 1/8."""

    align_corners = True

    def __init__(self, num_classes: int, depth: int = 101, recurrence: int = 2) -> None:
        """`recurrence` is the paper's R: how often criss-cross attention is applied."""
        backbone = ResNet(depth, output_stride=8, stem=(64, 64, 128), dilated_first=True)
        backbone.maxpool.ceil_mode = True
        *_, middle, deep = backbone.channels
        layer = partial(conv_bn_relu, leaky=True)
        super().__init__(
            num_classes,
            backbone,
            Around(deep, 512, CrissCross(512, recurrence), layer),
            classifier(512, num_classes),
            fcn_head(middle, 512, num_classes, layer=partial(layer, bias=True)),
        )

    def criterion(self, outputs: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Return both losses; where hard pixels are mined, they are the main one's alone."""
        auxiliary = self.pixel_loss(outputs["auxiliary"], label, "cross_entropy")
        return {
            "main": self.pixel_loss(outputs["main"], label),
            "auxiliary": self.auxiliary_weight * auxiliary,
        }


class Common(CommonNet):
    """Criss-cross attention, twice, in the network that all operators share."""

    operator = CrissCross


# --- experiments

README = "README of the authors' CCNet"
SLIDING = "slide:769x769/513x513"


def best_of(*runs: float) -> tuple[Published, ...]:
    words = ", ".join(f"{miou:.2f}" for miou in runs)
    source = f"{README}, best of three runs: {words}"
    return (Published(max(runs), "cityscapes", "val", SLIDING, source),)


MAIN = Experiment(
    CCNet,
    Recipe(
        crop=(769, 769), scales=tuple(n / 10 for n in range(7, 22)), batch=8, iterations=60_000,
        lr=0.01, weight_decay=1e-4, schedule="poly", power=0.9, padding="mean", inference=SLIDING,
    ),
    model={"depth": 101, "recurrence": 2}, starts_from="resnet101s.gluon_in1k",
    published=(
        *best_of(79.74, 79.22, 78.40),
        Published(79.01, "cityscapes", "test", "whole", README),
    ),
)  # fmt: skip

EXPERIMENTS = {
    "r2": MAIN,
    "r1": MAIN.but(model={"recurrence": 1}, published=best_of(77.31, 77.91, 76.89)),
    # 100,000 of the two crops that a device has
    "ohem": MAIN.but(
        recipe={"loss": "ccnet_ohem:0.7,100000/1182722"}, published=best_of(78.67, 80.00, 79.83)
    ),
    "common": common(Common),
}

# --- released weights: the authors' speedinghzl/CCNet

RENAMES = (
    (r"^conv([123])\.", lambda m: f"backbone.conv1.{3 * int(m[1]) - 3}."),
    (r"^bn([12])\.", lambda m: f"backbone.conv1.{3 * int(m[1]) - 2}."),
    (r"^bn3\.", "backbone.bn1."),
    (r"^layer(\d)\.", r"backbone.layer\1."),
    (r"^head\.conva\.", "context.before."),
    (r"^head\.convb\.", "context.behind."),
    (r"^head\.cca\.(query|key|value)_conv\.", r"context.operator.\1."),
    (r"^head\.cca\.gamma", "context.operator.gamma"),
    (r"^head\.bottleneck\.([01])\.", r"context.fusion.\1."),
    (r"^head\.bottleneck\.3\.", "classifier.1."),
    (r"^dsn\.([01])\.", r"auxiliary.0.\1."),
    (r"^dsn\.3\.", "auxiliary.2."),
)
BGR = Normalization(
    mean=(104.00698793, 116.66876762, 122.67891434), std=(1, 1, 1), order="BGR", scale=1
)
RELEASED = {
    "ccnet_r101": Released(
        "ccnet/r2", "head.bottleneck.3.bias", RENAMES, normalization=BGR, convert=norms_of_abn
    )
}
