"""DDRNet: Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes
Hong, Pan, Sun, Jia. 2021 (IEEE T-ITS 2023). arXiv:2101.06085

After 1/8 the network divides in two: one branch keeps that resolution to the end, the other goes
down to 1/64 for context. They exchange their features after every stage (bilateral fusion), and
a pyramid of pools (DAPPM) at 1/64 is so small that it costs next to nothing.

    image -> stem 1/4 -> 1/8 ─┬─ high: 1/8 ─(+)─┬─ 1/8 ─(+)─ 1/8, x2 channels ──────────(+)─ head ─ logits at 1/8
                              │            ↑ ↓  └ auxiliary    ↑ ↓                           │
                              └─ low: 1/16 ──(+)──── 1/32 ─────(+)─── 1/64, x2 ── DAPPM ── up ┘
    ↑ 1x1, up (to_high)    ↓ 3x3 of stride 2, once or twice (to_low)    23: one fusion at 1/16; 39: two

Departures:
- The authors published networks and weights but no training code; they name HRNet's trainer. The
  criterion is HRNet's: mining on the main output, a plain loss divided by all pixels, ignored ones
  too, on the auxiliary one.
- HRNet's trainer sets the learning rate one step late; here step k runs at the value of k. It pads
  small images with black, as here, but never above them; here they stand anywhere in the crop.
- The authors' README asks for "class balance sample" and does not say how: here it is NVIDIA's
  class-uniform sampling at its default (class_uniform_pct of train.py in
  NVIDIA/semantic-segmentation), half of an epoch. HRNet's trainer samples evenly, and its
  maintainers call its class weights "class balance" (issue 91 of
  HRNet/HRNet-Semantic-Segmentation): those are here as well.
- The ImageNet weights are the authors' alone (timm has none): their file is given as such, and
  renamed like the classifiers below.
- The fixed class weights of Cityscapes come with that data set's budget, since they mean nothing on
  other classes.
- Mining keeps at least a share of the pixels: 1/48 is the usual 131072 of 6 crops of 1024x1024 on
  a device.
- "ppm" pools to 1, 2, 3 and 6, a quarter of the channels each; "none" is a 1x1. These widths are
  ours, and of the ablations no figure was seen. "three_branches" and "four_branches" leave out
  DAPPM's largest pools, as we read the paper's remark that their number can be adjusted; nobody
  published a figure.
- Of CamVid the size and the figures were seen, not the recipe: "23_slim_camvid" and "23_camvid"
  have PIDNet's, which comes from the same trainer, on the training images alone. The second one's
  figure is of a network that started from Cityscapes.
- Study notes on DDRNet call it a paper of CVPR 2021; it was on arXiv in that year, and came out in
  IEEE T-ITS.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, PublishedSpeed, Released
from segmodels.parts import class_weights
from segmodels.parts.backbones.resnet import initialize
from segmodels.parts.dual_resolution import (
    AUTHORS,
    DAPPM,
    Block,
    Bottleneck,
    head,
    norm_relu_conv,
    pick,
    resized,
    stage,
    stem,
)
from segmodels.parts.layers import AdaptiveAvgPool, conv_bn, conv_bn_relu
from segmodels.parts.pretrained import load_encoder
from segmodels.recipe import Recipe

# --- blocks

# width, blocks of a stage at 1/4, at 1/8 and after the division, stages at 1/16, width of the heads
VARIANTS = {
    "23_slim": (32, (2, 2, 2), 1, 64),
    "23": (64, (2, 2, 2), 1, 128),
    "39": (64, (3, 4, 3), 2, 256),
}
FUSIONS = {
    "both": (True, True),
    "to_high": (True, False),
    "to_low": (False, True),
    "none": (False, False),
}


class Bilateral(nn.Module):
    """A stage of both branches and the exchange behind it."""

    def __init__(
        self, high: int, inside: int, outside: int, blocks: int, stride: int, fusion: str
    ) -> None:
        super().__init__()
        to_high, to_low = pick("fusion", fusion, FUSIONS)
        self.low = stage(Block, inside, outside, blocks, stride)
        self.high = stage(Block, high, high, blocks)
        self.to_high = conv_bn(outside, high, 1) if to_high else None
        self.to_low = self._down(high, outside) if to_low else None

    @staticmethod
    def _down(high: int, outside: int) -> nn.Sequential:
        """Stack one stride from 1/8 to the low branch's 1/16, or two to its 1/32."""
        if outside == 2 * high:
            return conv_bn(high, outside, 3, 2)
        return conv_bn_relu(high, 2 * high, 3, 2).extend(conv_bn(2 * high, outside, 3, 2))

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        high = self.high(F.relu(high))
        low = self.low(F.relu(low))
        to_high = 0 if self.to_high is None else resized(self.to_high(F.relu(low)), high)
        to_low = 0 if self.to_low is None else self.to_low(F.relu(high))
        return high + to_high, low + to_low


class Branches(NamedTuple):
    """The maps that the heads read."""

    middle: Tensor  # the high branch after stage 3, 1/8
    high: Tensor  # 1/8
    low: Tensor  # 1/64, or 1/32 with last_stride=1


class DualResolution(nn.Module):
    """The backbone: image -> the high branch after stage 3, and both branches at the end."""

    def __init__(
        self, variant: str = "23_slim", fusion: str = "both", last_stride: int = 2
    ) -> None:
        super().__init__()
        width, (first, second, blocks), at_16, _ = pick("variant", variant, VARIANTS)
        self.stem = stem(width)
        self.layer1 = stage(Block, width, width, first)
        self.layer2 = stage(Block, width, width * 2, second, 2)
        high = width * 2
        divided = Bilateral(high, width * 2, width * 4, blocks, 2, fusion)
        again = (Bilateral(high, width * 4, width * 4, blocks, 1, fusion) for _ in range(at_16 - 1))
        self.third = nn.ModuleList([divided, *again])
        self.fourth = Bilateral(high, width * 4, width * 8, blocks, 2, fusion)
        self.high = stage(Bottleneck, high, high, 1)
        self.low = stage(Bottleneck, width * 8, width * 8, 1, last_stride)

    def forward(self, image: Tensor) -> Branches:
        high = low = self.layer2(F.relu(self.layer1(self.stem(image))))
        for both in self.third:
            high, low = both(high, low)
        middle = high
        high, low = self.fourth(high, low)
        return Branches(middle, self.high(F.relu(high)), self.low(F.relu(low)))


class PPM(nn.Module):
    """PSPNet's pyramid, which DAPPM is compared with: four grids side by side, without 3x3s."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(AdaptiveAvgPool(side) for side in (1, 2, 3, 6))
        self.scales = nn.ModuleList(norm_relu_conv(inside, inside // 4, 1) for _ in range(4))
        self.compression = norm_relu_conv(2 * inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [resized(scale(pool(x)), x) for pool, scale in zip(self.pools, self.scales)]
        return self.compression(torch.cat([x, *pooled], 1))


CONTEXTS = {
    "dappm": lambda inside, outside, branches: DAPPM(inside, 128, outside, branches),
    "ppm": lambda inside, outside, _: PPM(inside, outside),
    "none": lambda inside, outside, _: norm_relu_conv(inside, outside, 1),
}


# --- network and losses


class DDRNet(SegmentationModule):
    """Two branches -> DAPPM on the low one -> sum -> head at 1/8.

    In training there is an auxiliary head on the high branch of stage 3.
    """

    multiple = 8

    def __init__(
        self,
        num_classes: int,
        variant: str = "23_slim",
        context_module: str = "dappm",
        fusion: str = "both",
        auxiliary_weight: float = 0.4,
        branches: int = 5,
    ) -> None:
        """`context_module` is "dappm", "ppm" or "none"; `fusion` a key of FUSIONS.

        `branches` counts those of DAPPM: the map, its pools and the global one.
        """
        if not 3 <= branches <= 5:
            raise ValueError(f"model.branches is {branches}; DAPPM has from 3 to 5")
        if branches != 5 and context_module != "dappm":
            raise ValueError(
                f"model.branches is {branches}; only DAPPM has branches, "
                f"and model.context_module is {context_module}"
            )
        super().__init__(num_classes)
        self.auxiliary_weight = auxiliary_weight
        width, *_, head_width = pick("variant", variant, VARIANTS)
        self.backbone = DualResolution(variant, fusion)
        context = pick("context_module", context_module, CONTEXTS)
        self.context = context(width * 16, width * 4, branches)
        self.classifier = head(width * 4, head_width, num_classes)
        self.auxiliary = head(width * 2, head_width, num_classes) if auxiliary_weight else None
        initialize(self)

    def encoder(self) -> nn.Module:
        return self.backbone

    def load_pretrained(self, source: str) -> str:
        """Load the authors' ImageNet classifier from their file."""
        return load_encoder(self.encoder(), source, rename=backbone_weights)

    def features(self, image: Tensor) -> Branches:
        return self.backbone(image)

    def decode(self, features: Branches) -> Tensor:
        _, high, low = features
        return self.classifier(high + resized(self.context(low), high))

    def auxiliary_outputs(self, features: Branches) -> dict[str, Tensor]:
        return {} if self.auxiliary is None else {"auxiliary": self.auxiliary(features.middle)}

    def criterion(self, outputs: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Return the main loss, and 0.4 times that of the auxiliary head, which is never mined."""
        terms = {"main": self.pixel_loss(outputs["main"], label)}
        if "auxiliary" in outputs:
            plain = self.pixel_loss(outputs["auxiliary"], label, "cross_entropy:all")
            terms["auxiliary"] = self.auxiliary_weight * plain
        return terms


class Classifier(nn.Module):
    """The backbone as an ImageNet classifier.

    The low branch's last stage keeps 1/32, and the high branch is downsampled to it.
    """

    def __init__(self, num_classes: int = 1000, variant: str = "23_slim") -> None:
        super().__init__()
        width = VARIANTS[variant][0]
        last = 1024 if variant == "23_slim" else 2048
        self.backbone = DualResolution(variant, last_stride=1)
        self.down = conv_bn_relu(width * 4, width * 8, 3, 2)
        self.down.extend(conv_bn(width * 8, width * 16, 3, 2))
        self.last = conv_bn_relu(width * 16, last, 1)
        self.classifier = nn.Linear(last, num_classes)
        initialize(self)

    def forward(self, image: Tensor) -> Tensor:
        """Classify normalized images: (B, 3, H, W) -> (B, classes)."""
        _, high, low = self.backbone(image)
        # In the classifier the low branch's last block has a ReLU of its own.
        joined = F.relu(F.relu(low) + self.down(F.relu(high)))
        return self.classifier(self.last(joined).mean((2, 3)))


# --- experiments

PAPER = Recipe(
    crop=(1024, 1024), scales=tuple(n / 10 for n in range(5, 22)), batch=12, iterations=119_548,
    loss="hrnet_ohem:0.9,1/48", lr=0.01, weight_decay=5e-4, schedule="poly", power=0.9,
    class_uniform=0.5, padding="black",
)  # fmt: skip  # 484 epochs of 247 batches
README = "README of the authors' DDRNet"
ABSTRACT = "abstract of the paper in IEEE T-ITS"
SCALES_AND_FLIP = "multiscale+flip (scales not stated)"
PAGE = "paperswithcode.com's page of the paper"
FROM_CITYSCAPES = f"{PAGE}; started from its Cityscapes weights"
# The recipe of PIDNet, which has the same trainer, on the same images: 968 epochs of 30 batches
CAMVID = {"crop": (720, 960), "iterations": 29_040, "lr": 1e-3}


def published(
    test: float, val: float | None = None, flipped: float | None = None
) -> tuple[Published, ...]:
    figures = [("val", "whole", val), ("test", "whole", test), ("test", SCALES_AND_FLIP, flipped)]
    return tuple(
        Published(miou, "cityscapes", split, protocol, README)
        for split, protocol, miou in figures
        if miou is not None
    )


def speed(fps: float, size: tuple[int, int], source: str = ABSTRACT) -> PublishedSpeed:
    return PublishedSpeed(fps, size, "RTX 2080Ti", source, "without TensorRT")


MAIN = Experiment(
    DDRNet, PAPER, model={"variant": "23_slim"}, published=published(test=77.4, val=77.8),
    published_speed=(speed(102, (1024, 2048)),),
    budgets={"cityscapes": {"class_weights": class_weights.CITYSCAPES}},
)  # fmt: skip

EXPERIMENTS = {
    "23_slim": MAIN,
    "23": MAIN.but(
        model={"variant": "23"},
        published=published(test=79.4, val=79.5),
    ),
    "39": MAIN.but(model={"variant": "39"}, published=published(test=80.4, flipped=81.9)),
    # ablations: context, the fusions in each direction, and the standard bells and whistles
    "ppm": MAIN.but(model={"context_module": "ppm"}),
    "no_context": MAIN.but(model={"context_module": "none"}),
    "no_fusion": MAIN.but(model={"fusion": "none"}),
    "only_to_high": MAIN.but(model={"fusion": "to_high"}),
    "only_to_low": MAIN.but(model={"fusion": "to_low"}),
    "no_auxiliary": MAIN.but(model={"auxiliary_weight": 0.0}),
    "no_ohem": MAIN.but(recipe={"loss": "cross_entropy"}),
    "crop_512x1024": MAIN.but(recipe={"crop": (512, 1024)}),
    # figure 5: "the number of multi-scale branches can be adjusted according to input resolution"
    "three_branches": MAIN.but(model={"branches": 3}),
    "four_branches": MAIN.but(model={"branches": 4}),
    # other data
    "23_slim_camvid": MAIN.but(
        recipe=CAMVID,
        data="camvid32",
        published=(Published(74.7, "camvid32", "test", "whole", ABSTRACT),),
        published_speed=(speed(230, (720, 960)),),
    ),
    "23_camvid": MAIN.but(
        model={"variant": "23"},
        recipe=CAMVID,
        data="camvid32",
        published=(Published(80.6, "camvid32", "test", "whole", FROM_CITYSCAPES),),
        published_speed=(speed(94.3, (720, 960), f"{PAGE}: 10.6 ms"),),
    ),
}

# --- released weights: the authors' (ydhongHIT/DDRNet)

# layer3 is layer3_1 and layer3_2 in 39; a name that ends in _ belongs to the high branch.


def exchanged(match: re.Match[str]) -> str:
    """Rename layer3_., layer3_2., compression4., down3_1.: a stage and a part of it."""
    branch = "high" if match[4] else "low"
    part = {"compression": "to_high", "down": "to_low"}.get(match[1], branch)
    if match[2] == "4":
        return f"backbone.fourth.{part}."
    return f"backbone.third.{int(match[3] or 1) - 1}.{part}."


RENAMES = (
    (r"^(layer|compression|down)([34])(?:_(\d))?(_)?\.", exchanged),
    (r"^layer5_\.", "backbone.high."),
    (r"^layer5\.", "backbone.low."),
    (r"^seghead_extra\.", "auxiliary."),
    (r"^down5\.", "down."),
    (r"^last_layer\.", "last."),
    (r"^linear\.", "classifier."),
    *AUTHORS,
)
LOSS = (r"^loss\.",)  # HRNet's trainer stores its criterion beside the network
RELEASED = {
    f"ddrnet{name}": Released(f"ddrnet/{name}", "final_layer.conv2.bias", RENAMES, LOSS)
    for name in VARIANTS
} | {
    f"ddrnet{name}_imagenet": Released(partial(Classifier, variant=name), "linear.bias", RENAMES)
    for name in VARIANTS
}


def backbone_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the backbone's weights of an ImageNet classifier, under the backbone's names."""
    renamed = RELEASED["ddrnet23_slim_imagenet"].renamed(state)
    return {name.removeprefix("backbone."): tensor for name, tensor in renamed.items()}
