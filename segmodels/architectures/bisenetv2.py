"""BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation
Yu, Gao, Wang, Yu, Shen, Sang. IJCV 2021. arXiv:2004.02147

Details need wide layers and few, semantics need many and can be narrow: two branches, each built
for its own purpose and without pretraining. A Guided Aggregation lets each gate the other at its
own resolution, and booster heads on the narrow branch, dropped after training, teach it what it
could not learn alone.

    image ─┬─ Detail Branch: 64 at 1/2, 64 at 1/4, 128 at 1/8 ────────────────────────────┐
           │                                                                              ├─ BGA ─ head ─ logits at 1/8
           └─ Semantic Branch: stem 16 at 1/4, GE 32 at 1/8, 64 at 1/16, 128 at 1/32, CE ─┘
                                  └ booster 2     └ booster 3 └ booster 4  └ booster 5

Departures:
- The authors released no code. Where the figures show no ReLU (after the depthwise convolutions,
  the context embedding and the aggregation) there is none here; both widely used
  re-implementations, which `ports` holds, have one: the row "activated".
- The paper crops 1024x2048 and halves the crop: here the scales are halved and the crop is
  512x1024, which sees the same. Which six scales it takes between 0.75 and 2 is recalled, not seen
  again.
- The width of the heads could not be read: 1024 for the main one and 128 for the boosters are those
  of the most used re-implementation. The network then has 24.6 GMACs at 512x1024; the paper counts
  21.15.
- The Semantic Branch alone is enlarged to 1/8 before its head, so that all rows have the same head
  at the same size; at 1/32 its logits could not show anything smaller than 32 pixels.
- OHEM's threshold (0.7) and its least share of pixels (1/16) are those of the authors' code for
  BiSeNet.
- lambda narrows the first two stages of the Semantic Branch (their 64 and 128 become 16 and 32), as
  others read table 1.
- What the large model's depth d repeats could not be read. Here it is the layers without stride,
  but for those at 1/2, which comes nearest to the paper's cost: 121.7 GMACs against 118.51.
- "wide" and "deep" are one half each of "large", "activated" is ours, "late_boosters" and
  "last_booster" name stages, and the paper's tables 2 and 3a could not be looked at again, from
  which the other ablations are: no figure of theirs was seen.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, PublishedSpeed
from segmodels.parts.layers import conv_bn, conv_bn_relu
from segmodels.recipe import Recipe

# --- the two branches (sections 4.1, 4.2)


class DetailBranch(nn.Sequential):
    """Plain convolutions in three strides, without shortcuts, which would cost memory traffic."""

    def __init__(self, alpha: float, depth: int) -> None:
        stages = []
        inside = 3
        for width, repeat in ((64, 1), (64, 2 * depth), (128, 2 * depth)):
            outside = int(width * alpha)
            again = (conv_bn_relu(outside, outside) for _ in range(repeat))
            stages.append(nn.Sequential(conv_bn_relu(inside, outside, 3, 2), *again))
            inside = outside
        super().__init__(*stages)


class StemBlock(nn.Module):
    """Two ways to 1/4 of the size, by convolution and by pooling (figure 4a)."""

    def __init__(self, outside: int) -> None:
        super().__init__()
        self.conv = conv_bn_relu(3, outside, 3, 2)
        narrowed = conv_bn_relu(outside, outside // 2, 1)
        self.down = nn.Sequential(narrowed, conv_bn_relu(outside // 2, outside, 3, 2))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.fuse = conv_bn_relu(2 * outside, outside)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        return self.fuse(torch.cat([self.down(x), self.pool(x)], 1))


class ContextEmbedding(nn.Module):
    """The mean of the whole image, added to every position (figure 4b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.context = conv_bn_relu(width, width, 1)
        self.last = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.context(self.norm(x.mean((2, 3), keepdim=True))))


class GatherExpansion(nn.Module):
    """A full 3x3, a depthwise 3x3 to six times the channels, and a 1x1 back (figure 5)."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        wide = inside * 6
        self.gather = conv_bn_relu(inside, inside)
        self.expand = nn.Sequential(conv_bn(inside, wide, 3, stride, groups=inside))
        self.project = conv_bn(wide, outside, 1)
        self.shortcut = nn.Identity()
        if stride == 2:
            self.expand.append(conv_bn(wide, wide, groups=wide))
            strided = conv_bn(inside, inside, 3, 2, groups=inside)
            self.shortcut = nn.Sequential(strided, conv_bn(inside, outside, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.project(self.expand(self.gather(x))) + self.shortcut(x))


class SemanticBranch(nn.Module):
    """image -> features at strides 4, 8, 16, 32 for the boosters, and the last with context.

    See table 1.
    """

    def __init__(self, alpha: float, depth: int, ratio: float) -> None:
        super().__init__()
        self.channels = tuple(int(width * alpha) for width in (64 * ratio, 128 * ratio, 64, 128))
        stages: list[nn.Module] = [StemBlock(self.channels[0])]
        for inside, outside, repeat in zip(self.channels, self.channels[1:], (1, 1, 3)):
            again = (GatherExpansion(outside, outside) for _ in range(repeat * depth))
            stages.append(nn.Sequential(GatherExpansion(inside, outside, 2), *again))
        self.stages = nn.ModuleList(stages)
        self.context = ContextEmbedding(self.channels[-1])

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        x = image
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features, self.context(x)


# --- aggregation (section 4.3) and heads (section 4.4)


def separable(width: int) -> nn.Sequential:
    depthwise = conv_bn(width, width, groups=width)
    return nn.Sequential(depthwise, nn.Conv2d(width, width, 1, bias=False))


class Aggregation(nn.Module):
    """The base of modules that merge detail (1/8) and semantics (1/32) into one map at 1/8.

    Each ends with the convolution `fuse`.
    """

    def resized(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class GuidedAggregation(Aggregation):
    """Detail gated by semantics at 1/8, plus the same at 1/32 (figure 6)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.detail_keep = separable(width)
        self.detail_down = nn.Sequential(conv_bn(width, width, 3, 2), nn.AvgPool2d(3, 2, 1))
        self.semantic_up = conv_bn(width, width)
        self.semantic_keep = separable(width)
        self.fuse = conv_bn(width, width)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        fine = self.detail_keep(detail) * self.resized(self.semantic_up(semantic), detail).sigmoid()
        coarse = self.detail_down(detail) * self.semantic_keep(semantic).sigmoid()
        return self.fuse(fine + self.resized(coarse, detail))


class Sum(Aggregation):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fuse = conv_bn(width, width)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        return self.fuse(detail + self.resized(semantic, detail))


class Concatenation(Aggregation):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fuse = conv_bn(2 * width, width)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        return self.fuse(torch.cat([detail, self.resized(semantic, detail)], 1))


AGGREGATIONS = {"guided": GuidedAggregation, "sum": Sum, "concatenation": Concatenation}


def head(inside: int, width: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(inside, width), nn.Conv2d(width, num_classes, 1))


# --- network (section 3)


class Branches(NamedTuple):
    """The maps that the boosters and the main head read."""

    stages: list[Tensor]  # at 1/4, 1/8, 1/16 and 1/32; empty without a Semantic Branch
    aggregated: Tensor  # (B, 128, H/8, W/8), times alpha


class BiSeNetV2(SegmentationModule):
    """Detail Branch + Semantic Branch -> aggregation -> head at 1/8.

    In training booster heads are added to the semantic stages.
    """

    def __init__(
        self,
        num_classes: int,
        branches: Literal["both", "detail", "semantic"] = "both",
        aggregation: Literal["guided", "sum", "concatenation"] = "guided",
        boosters: tuple[int, ...] = (2, 3, 4, 5),
        booster_weight: float = 1.0,
        semantic_ratio: float = 0.25,
        alpha: float = 1.0,
        depth: int = 1,
        head_width: int = 1024,
        activated: bool = False,
    ) -> None:
        """`boosters` are numbers of stages, 2 (the stem) to 5, after which a booster stands."""
        super().__init__(num_classes)
        if set(boosters) - {2, 3, 4, 5}:
            raise ValueError(
                f"boosters={tuple(boosters)}; one stands after stage 2, 3, 4 or 5: "
                "boosters=(4, 5), or () for none"
            )
        if min(alpha, alpha * semantic_ratio) < 2 / 64:
            raise ValueError(
                f"model.alpha is {alpha} and model.semantic_ratio {semantic_ratio}; "
                "a branch begins with 64 channels times these, which must leave two"
            )
        self.auxiliary_weight = booster_weight
        width = int(128 * alpha)
        self.detail = DetailBranch(alpha, depth) if branches != "semantic" else None
        self.semantic = (
            SemanticBranch(alpha, depth, semantic_ratio) if branches != "detail" else None
        )
        self.aggregation = AGGREGATIONS[aggregation](width) if branches == "both" else None
        self.classifier = head(width, head_width, num_classes)
        self.boosters = nn.ModuleDict()
        wanted = boosters if booster_weight and self.semantic is not None else ()
        for stage in wanted:
            inside = self.semantic.channels[stage - 2]
            self.boosters[str(stage)] = head(inside, 128, num_classes)
        if activated:
            activate(self)
        initialize(self)

    def features(self, image: Tensor) -> Branches:
        if self.semantic is None:
            return Branches([], self.detail(image))
        stages, semantic = self.semantic(image)
        if self.detail is None:
            size = stages[1].shape[-2:]  # 1/8
            enlarged = F.interpolate(semantic, size, mode="bilinear", align_corners=False)
            return Branches(stages, enlarged)
        return Branches(stages, self.aggregation(self.detail(image), semantic))

    def decode(self, features: Branches) -> Tensor:
        return self.classifier(features.aggregated)

    def auxiliary_outputs(self, features: Branches) -> dict[str, Tensor]:
        return {
            f"booster{stage}": booster(features.stages[int(stage) - 2])
            for stage, booster in self.boosters.items()
        }


def activate(network: BiSeNetV2) -> None:
    """Add the ReLUs of the re-implementations, which the figures do not show.

    The context embedding gets a norm as well.
    """
    for block in network.modules():
        if isinstance(block, GatherExpansion):
            block.expand.append(nn.ReLU(inplace=True))
        elif isinstance(block, ContextEmbedding):
            block.last = conv_bn_relu(block.norm.num_features, block.norm.num_features)
        elif isinstance(block, Aggregation):
            block.fuse.append(nn.ReLU(inplace=True))


def initialize(module: nn.Module) -> None:
    """Initialize all convolutions as He et al.; nothing is pretrained."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")


# --- experiments (section 5)

PAPER = Recipe(
    crop=(512, 1024), scales=(0.375, 0.5, 0.625, 0.75, 0.875, 1.0), batch=16, iterations=150_000, lr=0.05, weight_decay=5e-4,
    decay_norms=False, schedule="poly", power=0.9,
    loss="torchseg_ohem:0.7,1/16", inference="resized:0.5",
)  # fmt: skip
TABLE = "paper, Cityscapes table, as PaddleSeg's PP-LiteSeg quotes it"


def published(val: float, test: float) -> tuple[Published, ...]:
    return (
        Published(val, "cityscapes", "val", "resized:0.5", TABLE),
        Published(test, "cityscapes", "test", "resized:0.5", TABLE),
    )


def speed(fps: float) -> tuple[PublishedSpeed, ...]:
    return (PublishedSpeed(fps, (512, 1024), "GTX 1080Ti", TABLE, "TensorRT"),)


MAIN = Experiment(
    BiSeNetV2,
    PAPER,
    published=published(val=73.4, test=72.6),
    published_speed=speed(156),
)
NO_OHEM = MAIN.but(recipe={"loss": "cross_entropy"})
NO_BOOSTERS = NO_OHEM.but(model={"boosters": ()})  # what the ablations start from

EXPERIMENTS = {
    "bilateral": MAIN,
    "large": MAIN.but(
        model={"alpha": 2.0, "depth": 3},
        published=published(val=75.8, test=75.3),
        published_speed=speed(47.3),
    ),
    "wide": MAIN.but(model={"alpha": 2.0}),
    "deep": MAIN.but(model={"depth": 3}),
    # table 2: what each part adds
    "detail_only": NO_BOOSTERS.but(model={"branches": "detail"}),
    "semantic_only": NO_BOOSTERS.but(model={"branches": "semantic"}),
    "sum": NO_BOOSTERS.but(model={"aggregation": "sum"}),
    "concatenation": NO_BOOSTERS.but(model={"aggregation": "concatenation"}),
    "no_boosters": NO_BOOSTERS,
    "no_ohem": NO_OHEM,
    # table 3a: lambda
    "half_ratio": NO_BOOSTERS.but(model={"semantic_ratio": 1 / 2}),
    "eighth_ratio": NO_BOOSTERS.but(model={"semantic_ratio": 1 / 8}),
    "sixteenth_ratio": NO_BOOSTERS.but(model={"semantic_ratio": 1 / 16}),
    "activated": MAIN.but(model={"activated": True}),
    # where the boosters stand
    "late_boosters": NO_OHEM.but(model={"boosters": (4, 5)}),
    "last_booster": NO_OHEM.but(model={"boosters": (5,)}),
}
