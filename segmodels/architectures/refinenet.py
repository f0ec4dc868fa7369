"""RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic Segmentation
Lin, Milan, Shen, Reid. CVPR 2017. arXiv:1611.06612

A deep map knows what there is, a fine one where it ends. RefineNet goes back from 1/32 to 1/4 in
blocks that take the map so far and the backbone's next finer one, and every block is built of sums
with a shortcut, so that the gradient reaches each stage of the backbone on a short way. Chained
pooling, each of the one before, lets a block see far at little cost.

    image -> ResNet ─┬─ 1/32: 3x3, 2 RCU ─ block ─┐
                     ├─ 1/16: 3x3, 2 RCU ──────── block ─┐
                     ├─ 1/8:  3x3, 2 RCU ─────────────── block ─┐
                     └─ 1/4:  3x3, 2 RCU ────────────────────── block ─ dropout, 3x3 -> logits at 1/4

    block: each path by a 3x3, enlarged to the finest, summed ─ chained residual pooling ─ 3 RCU
    RCU:   x + 3x3(relu(3x3(relu(x))))
    CRP:   x = relu(x);  p1 = 3x3(pool(x));  p2 = 3x3(pool(p1)); ...;  x + p1 + p2 + ...

Departures:
- The authors' code is MATLAB. The network is that of the PyTorch code which they name and which
  holds their weights (DrSleep/refinenet-pytorch): four poolings with the 3x3 behind each, maps
  enlarged bilinearly with aligned corners. Their own enlarges bicubically and brings the gradient
  back by shrinking. Its comments give two poolings as the other choice, and its later form, which
  they call improved, has the 3x3 before each pooling.
- The authors train on one crop at a time with the backbone's norms fixed to ImageNet's statistics,
  enlarge the crop by 1.2, bring labels to the size of the logits, draw images and crops by class,
  and divide the rate by ten by hand when the score stands still. Here a batch of 8 has statistics
  of its own, its rate is 8 times theirs, and falls by the usual power of what is left.
- The figure of the paper on Cityscapes is quoted by others; at how many scales it was measured is
  not said there.
- The ablations are recalled of the paper's tables on other data; no figure of them was seen. Without
  RCU is an ablation of Light-Weight RefineNet (arXiv:1810.03272), recalled too.
"""

import re
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, Released
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import resized_with_corners
from segmodels.recipe import Recipe

# --- blocks (section 3.2, figure 3)


def conv3x3(inside: int, outside: int, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, padding=1, bias=bias)


class ResidualConvUnit(nn.Module):
    """A residual block without norms; nothing but a sum stands on its shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(width, width, bias=True)
        self.conv2 = conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Each path by a 3x3 to the least width among them, enlarged to the finest, and summed."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(width, min(widths)) for width in widths)

    def forward(self, paths: list[Tensor]) -> Tensor:
        *coarse, total = [conv(x) for conv, x in zip(self.convs, paths, strict=True)]
        for x in coarse:
            total = total + resized_with_corners(x, total)
        return total


class ChainedResidualPooling(nn.Module):
    """Poolings in a chain, each with a 3x3; all of them are added to the map."""

    def __init__(self, width: int, poolings: int, conv_first: bool) -> None:
        super().__init__()
        self.conv_first = conv_first
        self.convs = nn.ModuleList(conv3x3(width, width) for _ in range(poolings))

    def forward(self, x: Tensor) -> Tensor:
        total = chained = F.relu(x)
        for conv in self.convs:
            chained = pooled(conv(chained)) if self.conv_first else conv(pooled(chained))
            total = total + chained
        return total


def pooled(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 5, stride=1, padding=2)


class RefineNetBlock(nn.Module):
    """Fusion of paths, coarsest first, then chained pooling and three RCU."""

    def __init__(self, widths: list[int], pooling: nn.Module, units: nn.Module) -> None:
        super().__init__()
        self.fusion = Fusion(widths) if len(widths) > 1 else None
        self.pooling = pooling
        self.units = units

    def forward(self, paths: list[Tensor]) -> Tensor:
        x = paths[0] if self.fusion is None else self.fusion(paths)
        return self.units(self.pooling(x))


# --- network (section 3.1, figure 2c)

CASCADES = (1, 2, 4)  # blocks, which share the four paths evenly


def narrowed(inside: int, outside: int) -> nn.Sequential:
    """Stack a 3x3 behind the dropout that the two deepest maps of a ResNet-50 have."""
    dropout = nn.Dropout(0.5) if inside > 512 else nn.Identity()
    return nn.Sequential(dropout, conv3x3(inside, outside))


class RefineNet(SegmentationModule):
    """ResNet -> blocks from 1/32 to 1/4, each with the next paths -> 3x3 classifier at 1/4."""

    def __init__(
        self,
        num_classes: int,
        depth: int = 50,
        width: int = 256,
        cascades: int = 4,
        crp: bool = True,
        poolings: int = 4,
        conv_first: bool = False,
        rcu: bool = True,
    ) -> None:
        """`width` is that of all paths but the coarsest, which is twice as wide.

        `conv_first` is the authors' improved pooling.
        """
        super().__init__(num_classes)
        if cascades not in CASCADES:
            raise ValueError(f"a RefineNet is a cascade of 1, 2 or 4 blocks, not {cascades}")

        def units(channels: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualConvUnit(channels) for _ in range(count if rcu else 0)))

        self.share = 4 // cascades  # paths of each block
        self.backbone = ResNet(depth)
        widths = [2 * width, width, width, width]
        paths = zip(reversed(self.backbone.channels), widths)
        self.narrowed = nn.ModuleList(narrowed(inside, outside) for inside, outside in paths)
        self.adapted = nn.ModuleList(units(each, 2) for each in widths)
        self.blocks = nn.ModuleList()
        before = []
        for first in range(0, 4, self.share):
            taken = [*before, *widths[first : first + self.share]]
            before = [min(taken)]
            pooling = nn.Identity()
            if crp:
                pooling = ChainedResidualPooling(min(taken), poolings, conv_first)
            self.blocks.append(RefineNetBlock(taken, pooling, units(min(taken), 3)))
        self.classifier = nn.Sequential(nn.Dropout(0.5), conv3x3(width, num_classes, bias=True))
        for part in (self.narrowed, self.adapted, self.blocks, self.classifier):
            initialize(part)

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> list[Tensor]:
        return self.backbone(image)  # 1/4, 1/8, 1/16, 1/32

    def decode(self, features: list[Tensor]) -> Tensor:
        steps = zip(self.narrowed, self.adapted, reversed(features), strict=True)
        paths = [adapt(narrow(x)) for narrow, adapt, x in steps]  # coarsest first
        before = []
        for number, block in enumerate(self.blocks):
            taken = paths[number * self.share :][: self.share]
            before = [block([*before, *taken])]
        return self.classifier(before[0])


def initialize(part: nn.Module) -> None:
    """Draw convolutions from N(0, 0.01) without offset, as the authors' code does."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


# --- experiments (section 4)

QUOTED = "paper, as the README of OCNet quotes it"
EMANET = "EMANet's paper, as study notes on it quote its table of COCO-Stuff"
README = "README of DrSleep's refinenet-pytorch"

MAIN = Experiment(
    RefineNet,
    Recipe(
        crop=(600, 600), scales=(0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3), batch=8, iterations=40_000,
        lr=4e-4, head_lr=10.0, weight_decay=5e-4, schedule="poly", power=0.9,
    ),
    model={"depth": 50}, starts_from="resnet50.tv_in1k",
)  # fmt: skip

EXPERIMENTS = {
    "resnet50": MAIN,
    "resnet101": MAIN.but(
        model={"depth": 101}, starts_from="resnet101.tv_in1k",
        published=(
            Published(73.6, "cityscapes", "test", "scales not stated", QUOTED),
            Published(
                33.6, "cocostuff", "test", "scales not stated", EMANET, options=(("release", "10k"),)
            ),
        ),
    ),
    # section 4.4: without chained pooling; fewer blocks
    "no_crp": MAIN.but(model={"crp": False}),
    "single": MAIN.but(model={"cascades": 1}),
    "two_cascaded": MAIN.but(model={"cascades": 2}),
    # the authors' code
    "two_poolings": MAIN.but(model={"poolings": 2}),
    "improved_pooling": MAIN.but(model={"conv_first": True}),
    "no_rcu": MAIN.but(model={"rcu": False}),
}  # fmt: skip

# --- released weights: the authors' of PASCAL VOC, in DrSleep's PyTorch code


def shifted(place: str) -> Callable[[re.Match], str]:
    """Return a rename that counts from 0 what the authors count from 1."""

    def renamed(match: re.Match) -> str:
        return place.format(*(int(number) - 1 for number in match.groups()))

    return renamed


RENAMES = (
    (r"^(conv1|bn1|layer\d)\.", r"backbone.\1."),
    (r"^p_ims1d2_outl(\d)_dimred\.", shifted("narrowed.{}.1.")),
    (r"^adapt_stage(\d)_b\.0\.(\d)_", shifted("adapted.{}.{}.")),
    (r"^adapt_stage(\d)_b2_joint_varout_dimred\.", shifted("blocks.{}.fusion.convs.1.")),
    (r"^mflow_conv_g(\d)_b3_joint_varout_dimred\.", r"blocks.\1.fusion.convs.0."),
    (r"^mflow_conv_g(\d)_pool\.0\.(\d)_outvar_dimred\.", shifted("blocks.{}.pooling.convs.{}.")),
    (r"^mflow_conv_g(\d)_b\.0\.(\d)_", shifted("blocks.{}.units.{}.")),
    (r"\.conv\.", ".conv1."),
    (r"\.conv_relu_varout_dimred\.", ".conv2."),
    (r"^clf_conv\.", "classifier.1."),
)
RELEASED = {
    "refinenet_r50": Released("refinenet/resnet50", "clf_conv.bias", RENAMES, data="voc"),
    "refinenet_r101": Released(
        "refinenet/resnet101", "clf_conv.bias", RENAMES, data="voc",
        published=(Published(80.5, "voc", "val", "one scale (windows not stated)", README),),
    ),
}  # fmt: skip
