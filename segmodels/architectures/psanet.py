"""PSANet: Point-wise Spatial Attention Network for Scene Parsing
Zhao, Zhang, Liu, Shi, Loy, Lin, Jia. ECCV 2018.

A pixel should learn what others know, however far away they are. Here each position predicts a map
of the whole image that says how much it has to do with every other one. With one such map it
collects from the others, with a second one it distributes to them. A map is predicted around its
position, twice as high and as wide as the image, and the part that the image covers is cut out of
it. So one 1x1 can predict it everywhere, though every position sees the image elsewhere.

    image -> ResNet, dilated to 1/8 ─┬─ layer 4 ─┬─────────────────────────────────────────────────────┐
                                     │           ├─ 1x1 ─ half size ─ collect ────┐                    │
                                     │           └─ 1x1 ─ half size ─ distribute ─┴─ 1x1 ─ full size ──┴─ 3x3, dropout, 1x1 -> logits at 1/8
                                     └─ layer 3 -> 3x3, dropout, 1x1: auxiliary, in training

    over-complete map   o[p, d] for all displacements d, two 1x1s of x[p]
    cut out of it       m[p, q] = o[p, q - p],  0 where the map does not reach
    collect             y[p] = sum over q of x[q] (softmax over q of m[p, q])
    distribute          y[q] = sum over p of x[p] (softmax over p of m[p, q])

Departures:
- The recipe is that of the authors' PyTorch code (hszhao/semseg), a retraining of their own: its
  figures stand here. Those of the paper were reached in Caffe.
- That repository's README names crops of 709 pixels, which its network refuses; they are 705 as in
  its configuration files.
- The softmax takes the zeros beyond a map's reach for what they are, as in the authors' code:
  positions that are too far away keep a little weight. A map of 89x89 reaches across crops of 705.
- Compact maps, which hold for images of one size only, are not here.
- The crop is blurred, in the authors' code the image that it is cut from: its outermost two pixels
  differ.
- ImageNet weights are timm's of the same network; the authors' own cannot be fetched by name.
- 200 epochs are counted as 37,000 steps: 185 full batches of 16 in 2975 images. Eight devices of
  the authors' make 186.
- Collecting alone and distributing alone are options of the authors' code; no figure was seen of
  either under this recipe.
- Images smaller than a window of 705x705, as at scale 0.5, are evaluated as they are, padded to
  16k + 1 pixels on the right and at the bottom; the authors' test pads them all around to a whole
  window.
- In the row "common" maps are 97x97, mmsegmentation's for the same crops. They reach across such a
  crop's height, and three quarters of its width.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import isqrt
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.families.common import CommonNet, common
from segmodels.families.dilated import Dilated, classifier, fcn_head
from segmodels.paper import Experiment, Published, Released
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn_relu, resized_with_corners
from segmodels.recipe import Recipe

Directions = Literal["both", "collect", "distribute"]

# --- over-complete maps; N positions p and q of an image, h x w


def cut(over_complete: Tensor, side: int) -> Tensor:
    """Cut each position's map of the image out of its over-complete map of side x side.

    (B, side * side, h, w) becomes (B, N, N) = (B, p, q), with 0 where the map does not reach.
    """
    height, width = over_complete.shape[-2:]
    positions = height * width
    device = over_complete.device
    # Numbers lie entry by entry, and of each entry position by position, behind a single 0. What is
    # beyond the map comes to lie at or in front of that 0.
    rows = displacements(height, side, -1, device) * side * positions
    rows += torch.arange(height, device=device)[:, None] * width
    columns = displacements(width, side, -side * side, device) * positions
    columns += torch.arange(width, device=device)[:, None] + 1
    place = rows[:, None, :, None] + columns[None, :, None, :]  # (h, w, h, w): p, q
    numbers = F.pad(over_complete.flatten(1), (1, 0))
    taken = numbers.index_select(1, place.clamp_(min=0).flatten())
    return taken.unflatten(1, (positions, positions))


def displacements(length: int, side: int, beyond: int, device: torch.device) -> Tensor:
    """Return where q - p lies on a side of the map, as (p, q), or `beyond`.

    In 32 bits: the index of a large map is then no larger than what it takes.
    """
    place = torch.arange(length, dtype=torch.int32, device=device)
    displacement = place[None, :] - place[:, None] + side // 2
    inside = (displacement >= 0) & (displacement < side)
    return displacement.where(inside, beyond)


# --- point-wise spatial attention


def halved(x: Tensor) -> Tensor:
    """Halve a map, corner on corner: 2k + 1 positions become k + 1."""
    height, width = x.shape[-2:]
    size = ((height - 1) // 2 + 1, (width - 1) // 2 + 1)
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


class Collect(nn.Module):
    """Each position collects from all others, by its own map."""

    def __init__(
        self, channels: int, width: int, mask: int, shrink: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.side = mask
        self.shrink = shrink
        self.reduce = conv_bn_relu(channels, width, 1)
        scores = nn.Conv2d(width, mask * mask, 1, bias=False)
        self.attention = conv_bn_relu(width, width, 1).append(scores)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shrink(self.reduce(x))
        maps = cut(self.attention(x), self.side)  # (B, p, q)
        return self.mean(x.flatten(2), maps).unflatten(2, x.shape[2:])  # (B, C, N) -> (B, C, h, w)

    def mean(self, x: Tensor, maps: Tensor) -> Tensor:
        return x @ maps.softmax(2).transpose(1, 2)  # (B, C, q) x (B, q, p)


class Distribute(Collect):
    """Each position distributes to all others, by its own map."""

    def mean(self, x: Tensor, maps: Tensor) -> Tensor:
        return x @ maps.softmax(1)  # (B, C, p) x (B, p, q)


class PointwiseAttention(nn.Module):
    """Both directions at half the size, and what they bring at the size of the input."""

    def __init__(
        self,
        channels: int,
        mask: int,
        directions: Directions = "both",
        shrink: Callable[[Tensor], Tensor] = halved,
        enlarge: Callable[[Tensor, Tensor], Tensor] = resized_with_corners,
    ) -> None:
        super().__init__()
        width = 512
        kinds = {"collect": Collect, "distribute": Distribute}
        names = kinds if directions == "both" else [directions]
        self.branches = nn.ModuleDict(
            {name: kinds[name](channels, width, mask, shrink) for name in names}
        )
        self.projection = conv_bn_relu(len(self.branches) * width, channels, 1)
        self.enlarge = enlarge

    def forward(self, x: Tensor) -> Tensor:
        brought = torch.cat([branch(x) for branch in self.branches.values()], 1)
        return self.enlarge(self.projection(brought), x)


class Joined(nn.Module):
    """The map beside what attention brings to it, and a 3x3."""

    def __init__(self, channels: int, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.fusion = conv_bn_relu(2 * channels, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fusion(torch.cat([x, self.attention(x)], 1))


# --- network


class PSANet(Dilated):
    """Dilated ResNet -> point-wise attention beside it -> classifier at 1/8."""

    align_corners = True

    def __init__(
        self, num_classes: int, depth: int = 50, mask: int = 89, directions: Directions = "both"
    ) -> None:
        """`mask` is the side of over-complete maps, in positions of the halved map."""
        if mask % 2 == 0:
            raise ValueError(f"model.mask is {mask}; it must be odd, for it has a middle")
        backbone = ResNet(depth, output_stride=8, stem=(64, 64, 128), dilated_first=True)
        *_, middle, deep = backbone.channels
        super().__init__(
            num_classes,
            backbone,
            Joined(deep, 512, PointwiseAttention(deep, mask, directions)),
            classifier(512, num_classes),
            fcn_head(middle, 256, num_classes),
        )

    def valid_side(self, side: int) -> int:
        """Return 16k + 1: corners lie on corners at 1/8, where sides are odd, and at half of it."""
        return side + (1 - side) % 16


class Common(CommonNet):
    """Both directions alone, in the network in which operators are compared."""

    operator = partial(PointwiseAttention, mask=97)


# --- experiments

EPOCH = 2975 // 16
SIDE = 705  # of crops, and of the test's windows
SLIDING = "slide:705x705/470x470+flip"  # the authors' test mirrors each window, at one scale too
SCALES = f"multiscale:0.5,0.75,1,1.25,1.5,1.75+{SLIDING}"
README = "README of the authors' semseg"


def reaching(side: int) -> int:
    """Return the side of maps that reach across crops of this side from every position."""
    return 2 * ((side - 1) // 16 + 1) - 1


def published(single: float, several: float) -> tuple[Published, ...]:
    return (
        Published(single, "cityscapes", "val", SLIDING, README),
        Published(several, "cityscapes", "val", SCALES, README),
    )


MAIN = Experiment(
    PSANet,
    Recipe(
        crop=(SIDE, SIDE), scales=(0.5, 2.0), continuous=True, rotation=10.0, rotation_chance=0.5, blur="kernel:5", blur_chance=0.5,
        batch=16, iterations=200 * EPOCH, lr=0.01, head_lr=10.0, weight_decay=1e-4, schedule="poly", power=0.9, inference=SLIDING,
    ),
    model={"depth": 50, "mask": reaching(SIDE)}, starts_from="resnet50s.gluon_in1k", published=published(77.45, 78.18),
)  # fmt: skip

EXPERIMENTS = {
    "resnet50": MAIN,
    "resnet101": MAIN.but(
        model={"depth": 101}, starts_from="resnet101s.gluon_in1k", published=published(78.42, 79.40),
    ),
    # ablations
    "collect": MAIN.but(model={"directions": "collect"}),
    "distribute": MAIN.but(model={"directions": "distribute"}),
    "common": common(Common),
}  # fmt: skip

# --- released weights: the authors' hszhao/semseg

RENAMES = (
    (r"^layer0\.7\.", "backbone.bn1."),
    (r"^layer0\.", "backbone.conv1."),
    (r"^layer(\d)\.", r"backbone.layer\1."),
    (r"^psa\.proj\.", "context.attention.projection."),
    (r"^psa\.(reduce|attention)\.", r"context.attention.branches.collect.\1."),
    (r"^psa\.(reduce|attention)_p\.", r"context.attention.branches.distribute.\1."),
    (r"^cls\.([01])\.", r"context.fusion.\1."),
    (r"^cls\.4\.", "classifier.1."),
    (r"^aux\.([01])\.", r"auxiliary.0.\1."),
    (r"^aux\.4\.", "auxiliary.2."),
)


def mask_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the option that the number of a map's entries says: `mask`."""
    entries = state.get("context.attention.branches.collect.attention.3.weight")
    return {} if entries is None else {"mask": isqrt(len(entries))}


RELEASED = {
    "psanet_r50_semseg": Released("psanet/resnet50", "cls.4.bias", RENAMES, options_of=mask_of),
    "psanet_r101_semseg": Released("psanet/resnet101", "cls.4.bias", RENAMES, options_of=mask_of),
}
