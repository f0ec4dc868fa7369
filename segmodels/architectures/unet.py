"""U-Net: Convolutional Networks for Biomedical Image Segmentation
Ronneberger, Fischer, Brox. MICCAI 2015. arXiv:1505.04597

Halve four times, double four times, and join each level on the way up with the map of the same
level on the way down. The convolutions are not padded: every prediction has seen its whole
neighborhood, so an image of any size is cut into tiles whose outputs fit together without seams.

    572 ─ 64 ────────────────────────────── crop ─ 128 ─ 64 ─ 1x1 -> 388
      pool └ 128 ──────────────────── crop ─ 256 ─ 128 ┘ up
         pool └ 256 ─────────── crop ─ 512 ─ 256 ┘ up
            pool └ 512 ── crop ─ 1024 ─ 512 ┘ up
               pool └ 1024 ─────────────┘ up

Departures:
- Images are RGB, normalized by ImageNet's statistics; the paper's have one channel.
- The paper does not say its learning rate, weight decay and number of steps, nor how much it
  shifts, turns and varies gray values: these are ours.
- The paper's energy is a sum over pixels; here it is divided by their number.
- w_c is the class weight by the recipe's rule, counted over the training set; the paper does not
  name its rule. The paper's data sets have one class of cells; where there are several, a cell is a
  connected part of any class but the first, which is the background.
- Dropout (0.5) stands behind the last two levels of the contracting path, as in ports of the
  released network. By these it also has a ReLU behind each up-convolution and 128 channels behind
  the last; figure 1 has neither.
- "padded" and "padded_bilinear" are what most code calls U-Net: padded convolutions, batch norm,
  logits at the image's size. They are milesial/Pytorch-UNet's, layer by layer, with its loss
  (cross-entropy and dice; ignored pixels, which its dice does not know, count for nothing). Its
  data (Carvana) and its RMSprop are not here, so they are trained as mmsegmentation trains its
  U-Net on Cityscapes; of the colors, contrast, saturation and brightness are disturbed, each
  always, where it turns the hue too and does each to half of the crops.
- Nobody published a figure on Cityscapes for the padded networks under this recipe, nor one of the
  valid network on RGB images.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import Normalization, SegmentationModule
from segmodels.paper import Experiment, Released
from segmodels.parts.backbones.timm_encoder import TimmEncoder
from segmodels.parts.layers import conv_bn_relu
from segmodels.parts.losses import IGNORED, pixel_loss
from segmodels.recipe import Recipe

LEVELS = 5

# --- network (section 2)


def double(inside: int, outside: int) -> nn.Sequential:
    """Stack two 3x3 without padding, which take two pixels off every side."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(outside, outside, 3),
        nn.ReLU(inplace=True),
    )


class Up(nn.Module):
    """A step upward: enlarge the deeper map, join the middle of the level's map, two 3x3."""

    def __init__(self, up: nn.Module, conv: nn.Module) -> None:
        super().__init__()
        self.up = up
        self.conv = conv

    def forward(self, deep: Tensor, level: Tensor) -> Tensor:
        deep = self.up(deep)  # (B, C, h, w) -> (B, C', 2h, 2w)
        return self.conv(torch.cat(self.fitted(level, deep), 1))

    def fitted(self, level: Tensor, deep: Tensor) -> tuple[Tensor, Tensor]:
        """Crop the level's map to the deeper one, which has lost more of its border."""
        height, width = deep.shape[-2:]
        top = (level.shape[-2] - height) // 2
        left = (level.shape[-1] - width) // 2
        return level[..., top : top + height, left : left + width], deep


class UShaped(SegmentationModule):
    """The contracting path, five levels, and the expansive path back to the first of them."""

    def __init__(
        self, num_classes: int, contracting: list[nn.Module], expansive: list[nn.Module], width: int
    ) -> None:
        super().__init__(num_classes)
        self.contracting = nn.ModuleList(contracting)
        self.expansive = nn.ModuleList(expansive)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the map of each level, finest first."""
        levels = [self.contracting[0](image)]
        for level in self.contracting[1:]:
            levels.append(level(F.max_pool2d(levels[-1], 2)))
        return levels

    def ascent(self, levels: list[Tensor]) -> list[Tensor]:
        """Return the map after each step upward, coarsest first."""
        maps = [levels[-1]]
        for up, level in zip(self.expansive, reversed(levels[:-1])):
            maps.append(up(maps[-1], level))
        return maps[1:]

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.classifier(self.ascent(features)[-1])


class UNet(UShaped):
    """The paper's network: 572x572 pixels -> logits of the 388x388 in their middle."""

    margin = 92
    multiple = 16

    def __init__(self, num_classes: int, width: int = 64, border_weight: float = 10.0) -> None:
        """`width` is that of the first level; every level down doubles it.

        `border_weight` is w0 of equation 2.
        """
        widths = [width * 2**level for level in range(LEVELS)]
        contracting = [double(inside, outside) for inside, outside in zip([3, *widths], widths)]
        for level in contracting[-2:]:
            level.append(nn.Dropout(0.5))
        expansive = []
        for inside in reversed(widths[1:]):
            halved = nn.ConvTranspose2d(inside, inside // 2, 2, 2)
            expansive.append(Up(halved, double(inside, inside // 2)))
        super().__init__(num_classes, contracting, expansive, width)
        initialize(self)
        self.label_maps = partial(label_maps, border_weight) if border_weight else None

    def valid_side(self, side: int) -> int:
        """Return 572 plus or minus multiples of 16, so that every pooled side is even; at least 188.

        With 188 there are 4 pixels of logits.
        """
        return 16 * max((side + 3) // 16, 11) + 12

    # --- training (section 3)

    def criterion(
        self, outputs: Mapping[str, Tensor], label: Tensor, border: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return equation 1 with the weights of equation 2: the class's w_c plus the border's."""
        weights = torch.ones_like(label, dtype=torch.float32)
        if self.class_weights is not None:
            weights = self.class_weights[label.long().clamp(max=self.num_classes - 1)]
        if border is not None:
            weights = weights + border
        logits = outputs["main"]
        loss = pixel_loss(self.recipe.loss, logits, label, align_corners=False, weights=weights)
        return {"main": loss}


def initialize(module: nn.Module) -> None:
    """Draw weights from N(0, 2 / N), where N is the number of inputs of each output."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.ConvTranspose2d):  # one of its 2x2 taps reaches each pixel
            nn.init.normal_(layer.weight, std=(2 / layer.in_channels) ** 0.5)
            nn.init.zeros_(layer.bias)


def label_maps(border_weight: float, label: np.ndarray) -> dict[str, np.ndarray]:
    return {"border": border_weights(label, border_weight)}


def border_weights(label: np.ndarray, w0: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """Return w0 exp(-(d1 + d2)^2 / 2 sigma^2) in the background (H, W), 0 elsewhere.

    d1 and d2 are the distances to the nearest and to the second nearest cell.
    """
    import cv2

    reach = round(12 * sigma)  # if the second cell is further away, the weight is below 1e-29
    nearest = np.full(label.shape, np.inf, np.float32)
    second = nearest.copy()
    for kind in np.unique(label[(label != 0) & (label != IGNORED)]):
        of_kind = (label == kind).astype(np.uint8)
        count, cells, boxes, _ = cv2.connectedComponentsWithStats(of_kind, connectivity=4)
        for cell in range(1, count):
            left, top, width, height, _ = boxes[cell]
            rows = slice(max(top - reach, 0), top + height + reach)
            columns = slice(max(left - reach, 0), left + width + reach)
            outside = (cells[rows, columns] != cell).astype(np.uint8)
            distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            # Its last bits depend on OpenCV's threads; the squares are whole numbers.
            distance = np.sqrt(np.rint(distance**2))
            d1 = nearest[rows, columns]
            d2 = second[rows, columns]
            np.minimum(d2, np.maximum(d1, distance), out=d2)
            np.minimum(d1, distance, out=d1)
    weights = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return np.where(label == 0, weights, 0).astype(np.float32)


# --- the padded variant


def padded_double(inside: int, outside: int, middle: int | None = None) -> nn.Sequential:
    middle = middle or outside
    return nn.Sequential(*conv_bn_relu(inside, middle), *conv_bn_relu(middle, outside))


class PaddedUp(Up):
    """A step upward that pads the deeper map by zeros if a level's size is odd."""

    def fitted(self, level: Tensor, deep: Tensor) -> tuple[Tensor, Tensor]:
        down = level.shape[-2] - deep.shape[-2]
        right = level.shape[-1] - deep.shape[-1]
        deep = F.pad(deep, (right // 2, right - right // 2, down // 2, down - down // 2))
        return level, deep


def padded_path(widths: list[int], bilinear: bool) -> list[nn.Module]:
    """Build the steps upward, coarsest first, between levels of these widths, finest first.

    A step's output is as wide as its level, or with `bilinear` upsampling, which keeps its
    channels, as the next level.
    """
    steps: list[nn.Module] = []
    *others, deep = widths
    for level, width in reversed(list(enumerate(others))):
        if bilinear:
            doubled = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            outside = widths[max(level - 1, 0)]
            joined = deep + width
            steps.append(PaddedUp(doubled, padded_double(joined, outside, joined // 2)))
        else:
            outside = width
            halved = nn.ConvTranspose2d(deep, width, 2, 2)
            steps.append(PaddedUp(halved, padded_double(2 * width, width)))
        deep = outside
    return steps


class PaddedUNet(UShaped):
    """The padded variant: logits of every pixel, for any height and width from 16 up."""

    def __init__(
        self,
        num_classes: int,
        bilinear: bool = False,
        width: int = 64,
        encoder: str | None = None,
    ) -> None:
        """`bilinear` upsampling keeps its channels, so the deepest map has half as many.

        `encoder` is the name of a timm network whose maps take the place of all levels but those
        that are finer than its own: the first, and the second if it begins at 1/4.
        """
        backbone = TimmEncoder(encoder, half=True) if encoder else None
        levels = backbone.strides[0].bit_length() - 1 if backbone else LEVELS
        own = [width * 2**level for level in range(levels)]
        if bilinear and not backbone:
            own[-1] //= 2
        widths = own + list(backbone.channels if backbone else ())
        contracting = [padded_double(inside, outside) for inside, outside in zip([3, *own], own)]
        super().__init__(num_classes, contracting, padded_path(widths, bilinear), width)
        self.backbone = backbone
        self.multiple = 32 if backbone else 1

    def encoder(self) -> nn.Module | None:
        return self.backbone

    def features(self, image: Tensor) -> list[Tensor]:
        levels = super().features(image)
        return levels if self.backbone is None else [*levels, *self.backbone(image)]

    def valid_side(self, side: int) -> int:
        return super().valid_side(max(side, 2 ** (LEVELS - 1)))

    def criterion(self, outputs: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        return super().criterion(outputs, label) | {"dice": dice_loss(outputs["main"], label)}


def dice_loss(logits: Tensor, label: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Return 1 - 2 |A B| / (|A| + |B|), one ratio for all classes and valid pixels of a batch."""
    counted = (label != IGNORED)[:, None]
    probability = logits.softmax(1) * counted
    true = label.long().masked_fill(label == IGNORED, 0)[:, None]
    both = 2 * (probability.gather(1, true) * counted).sum()
    sizes = probability.sum() + counted.sum()
    return 1 - (both + epsilon) / (sizes + epsilon)


# --- experiments

ISBI = Recipe(
    crop=(572, 572), flip=0.0, jitter=0.2, rotation=180.0, shift=16.0, elastic=10.0, padding="mirror", batch=1, iterations=60_000,
    loss="cross_entropy:all", lr=1e-3, momentum=0.99, weight_decay=0.0, schedule="constant",
    class_weights="median_frequency", inference="tiles:388x388",
)  # fmt: skip
CITYSCAPES = Recipe(
    crop=(512, 1024), scales=(0.5, 2.0), continuous=True, jitter=0.5, cat_max_ratio=0.75, batch=16,
    iterations=160_000, lr=0.01, weight_decay=5e-4, schedule="poly", power=0.9, min_lr=1e-4,
)  # fmt: skip
OWN_IMAGES = {
    "crop": (572, 572), "scales": (1.0,), "continuous": False, "jitter": 0.2, "batch": 1, "iterations": 60_000,
    "inference": "tiles:388x388",
}  # fmt: skip
STREETS = {"crop": (252, 380), "batch": 2, "lr": 3e-4, "rotation": 0.0, "elastic": 0.0}

CELLS = STREETS | {"crop": (252, 252), "batch": 4, "padding": "mirror"}

MAIN = Experiment(
    UNet, ISBI, data="folder", budgets={"folder": OWN_IMAGES, "streets": STREETS, "cells": CELLS},
)  # fmt: skip
PADDED = Experiment(
    PaddedUNet, CITYSCAPES, model={"bilinear": False},
    normalization=Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    budgets={"streets": {"crop": (96, 192), "batch": 4}},
)  # fmt: skip

EXPERIMENTS = {
    "valid": MAIN,
    "no_border_weights": MAIN.but(model={"border_weight": 0.0}),
    "padded": PADDED,
    "padded_bilinear": PADDED.but(model={"bilinear": True}),
}

# --- released weights: milesial's, Carvana with two classes

RENAMES = (
    (r"^inc\.double_conv\.", "contracting.0."),
    (r"^down(\d)\.maxpool_conv\.1\.double_conv\.", r"contracting.\1."),
    (r"^up(\d)\.", lambda match: f"expansive.{int(match[1]) - 1}."),
    (r"\.conv\.double_conv\.", ".conv."),
    (r"^outc\.conv\.", "classifier."),
)
RELEASED = {
    f"unet_milesial{ending}": Released(
        f"unet/padded{ending}", "outc.conv.bias", RENAMES, data="Carvana",
        normalization=PADDED.normalization, names=("background", "car"),
    )
    for ending in ("", "_bilinear")
}  # fmt: skip
