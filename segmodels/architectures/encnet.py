"""EncNet: Context Encoding for Semantic Segmentation
Zhang, Dana, Shi, Zhang, Wang, Tyagi, Agrawal. CVPR 2018. arXiv:1803.08904

Who knows that a picture shows a bedroom looks for pillows, and not for horses. One vector sums up
the whole map: how its positions deviate from a few learned codewords. It says by how much each
channel of the map counts; and, so that it learns the scene, it has to name the classes that are in
the picture, be they large or small.

    image -> ResNet, dilated to 1/8 ─┬─ stage 4 -> 3x3 ─┐
                                     ├─ stage 3 -> 1x1 ─┼─ 3x3: x ─┬───────────────────────── (*) ─ dropout, 1x1 -> logits at 1/8
                                     ├─ stage 2 -> 1x1 ─┘          └─ 1x1 ─ encoding: e ─┬─ factors ┘
                                     │                                                   └─ presence of each class, in training
                                     └─ stage 3 -> 3x3, dropout, 1x1: auxiliary, in training

    residuals   r[i, k] = x[i] - d[k]                                     of N positions, K codewords
    shares      a[i, k] = softmax over k of s[k] |r[i, k]|^2              s[k] starts in -1 to 0
    encoding    e       = mean over k of relu(BN(sum over i of a[i, k] r[i, k]))
    factors     y       = relu(x + x sigmoid(W e))
    presence    cross-entropy of sigmoid(V e) and of whether a class has a pixel; a mean over classes

Departures:
- Network and recipe are those of the authors' PyTorch code, which trained anew after the paper: it
  joins stages 2 and 3 on PASCAL Context and COCO, not on ADE20K. The paper's own figures stand
  beside those of the code.
- The squared distances are written out as |x|^2 - 2 x.d + |d|^2, products of matrices, which need
  no N x K x C numbers.
- A crop without any labeled pixel has no presence loss. In the authors' code it shows no class.
- The authors scale a crop's image to a long side of 260 to 1040 pixels, whatever its own; here by
  0.5 to 2, which is nearly the same for the images of PASCAL, of 500 pixels.
- They pad small images on the right and at the bottom; here these stand anywhere in the crop.
- ImageNet weights are timm's of the same network; the authors' own cannot be fetched by name.
- The row "common" has no presence loss, since nothing but the operator differs there.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.families.common import CommonNet, common
from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, Released
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn_relu
from segmodels.parts.resize import compute_dtype
from segmodels.recipe import Recipe

CODEWORDS = 32

# --- context encoding (section 2.1); N positions, K codewords


class Encoding(nn.Module):
    """Sum up how positions deviate from K codewords (equation 1): (B, C, h, w) -> (B, K, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = (CODEWORDS * channels) ** -0.5
        self.codewords = nn.Parameter(torch.empty(CODEWORDS, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(CODEWORDS).uniform_(-1, 0))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).mT  # (B, C, h, w) -> (B, N, C)
        lengths = x.square().sum(2, keepdim=True)  # (B, N, 1)
        products = x @ self.codewords.T  # (B, N, K)
        distances = lengths - 2 * products + self.codewords.square().sum(1)
        shares = (self.scale * distances).softmax(2)
        totals = shares.sum(1).unsqueeze(2)  # (B, N, K) -> (B, K, 1)
        return shares.mT @ x - totals * self.codewords


class ContextEncoding(nn.Module):
    """Weight each channel of a map by what the encoding of the whole map says."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = conv_bn_relu(channels, channels, 1)
        self.encoding = Encoding(channels)
        self.norm = nn.BatchNorm1d(CODEWORDS)
        self.factors = nn.Linear(channels, channels)

    def encoded(self, x: Tensor) -> Tensor:
        residuals = self.encoding(self.projection(x))  # (B, C, h, w) -> (B, K, C)
        return self.norm(residuals).relu().mean(1)  # (B, C)

    def weighted(self, x: Tensor, encoded: Tensor) -> Tensor:
        factors = self.factors(encoded).sigmoid()[:, :, None, None]  # (B, C, 1, 1)
        return (x + x * factors).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.weighted(x, self.encoded(x))


# --- semantic encoding loss (section 2.1)


def classes_shown(label: Tensor, num_classes: int) -> Tensor:
    """Return 1 for each class that has a pixel, (B, H, W) -> (B, classes)."""
    shown = torch.zeros(len(label), 256, device=label.device)
    return shown.scatter_(1, label.flatten(1).long(), 1.0)[:, :num_classes]


def presence_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return the mean over classes, and over the images that have a label."""
    logits = logits.to(compute_dtype(logits))
    shown = classes_shown(label, logits.shape[1]).to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, shown, reduction="none").mean(1)
    labeled = shown.amax(1)  # (B,)
    return (loss * labeled).sum() / labeled.sum().clamp(min=1)


# --- network (section 2.2)


class Features(NamedTuple):
    """What the heads read."""

    middle: Tensor  # of stage 3
    fused: Tensor  # (B, 512, h, w)
    encoded: Tensor  # (B, 512)


class EncNet(SegmentationModule):
    """Dilated ResNet -> joined stages -> channels weighted by their encoding -> classifier."""

    align_corners = True
    auxiliary_weight = 0.2
    presence_weight = 0.2
    stem = (64, 64, 128)
    dropout: type[nn.Module] = nn.Dropout

    def __init__(
        self, num_classes: int, depth: int = 50, lateral: bool = True, presence_loss: bool = True
    ) -> None:
        """`lateral` joins stages 2 and 3 to the last one."""
        super().__init__(num_classes)
        self.backbone = ResNet(depth, output_stride=8, stem=self.stem)
        _, fine, middle, deep = self.backbone.channels
        self.reduction = conv_bn_relu(deep, 512)
        if lateral:
            sides = [conv_bn_relu(channels, 512, 1) for channels in (fine, middle)]
            self.sides = nn.ModuleList(sides)
            self.fusion = conv_bn_relu(3 * 512, 512)
        self.lateral = lateral
        self.context = ContextEncoding(512)
        self.classifier = nn.Sequential(self.dropout(0.1), nn.Conv2d(512, num_classes, 1))
        self.auxiliary = nn.Sequential(
            conv_bn_relu(middle, 256), self.dropout(0.1), nn.Conv2d(256, num_classes, 1)
        )
        self.presence = nn.Linear(512, num_classes) if presence_loss else None

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> Features:
        _, fine, middle, deep = self.backbone(image)  # 1/4, 1/8, 1/8, 1/8
        x = self.reduction(deep)
        if self.lateral:
            sides = [side(stage) for side, stage in zip(self.sides, (fine, middle))]
            x = self.fusion(torch.cat([x, *sides], 1))
        return Features(middle, x, self.context.encoded(x))

    def decode(self, features: Features) -> Tensor:
        return self.classifier(self.context.weighted(features.fused, features.encoded))

    def auxiliary_outputs(self, features: Features) -> dict[str, Tensor]:
        outputs = {"auxiliary": self.auxiliary(features.middle)}
        if self.presence is not None:  # a map of one pixel, the whole image
            outputs["presence"] = self.presence(features.encoded)[:, :, None, None]
        return outputs

    def criterion(
        self, outputs: Mapping[str, Tensor], label: Tensor, **maps: Tensor
    ) -> dict[str, Tensor]:
        of_pixels = {name: each for name, each in outputs.items() if name != "presence"}
        terms = super().criterion(of_pixels, label, **maps)
        if self.presence is not None:
            loss = presence_loss(outputs["presence"].flatten(1), label)
            terms["presence"] = self.presence_weight * loss
        return terms


class Common(CommonNet):
    """Context encoding in the network in which operators are compared."""

    operator = ContextEncoding


# --- experiments (section 3)

CONTEXT = Recipe(
    crop=(480, 480), scales=(0.5, 2.0), continuous=True, batch=16, iterations=80 * (4998 // 16),
    lr=0.001, head_lr=10.0, weight_decay=1e-4, schedule="poly", power=0.9, padding="black",
)  # fmt: skip
DOCUMENTATION = "documentation of the authors' PyTorch-Encoding, segmentation model zoo"
PAPER = "paper's abstract, and EMANet's table as study notes on EMANet quote it"
NOT_STATED = "scales not stated"
# at 6 scales of a long side of 520
WINDOWS = "long sides 260 to 910, windows 480x480, flip"


def released(miou: float, data: str = "context") -> tuple[Published, ...]:
    return (Published(miou, data, "val", WINDOWS, DOCUMENTATION),)


MAIN = Experiment(
    EncNet, CONTEXT, model={"depth": 50}, data="context", starts_from="resnet50s.gluon_in1k",
    published=released(51.0),
)  # fmt: skip
ADE20K = MAIN.but(
    recipe={"lr": 0.004, "iterations": 180 * (20_210 // 16)}, model={"lateral": False}, data="ade20k",
    published=released(41.5, "ade20k"),
)  # fmt: skip

EXPERIMENTS = {
    "resnet50": MAIN,
    "resnet101": MAIN.but(
        model={"depth": 101}, starts_from="resnet101s.gluon_in1k",
        published=(*released(54.1), Published(51.7, "context", "test", NOT_STATED, PAPER)),
    ),
    "resnet50_ade20k": ADE20K,
    "resnet101_ade20k": ADE20K.but(
        model={"depth": 101}, starts_from="resnet101s.gluon_in1k", published=released(44.4, "ade20k")
    ),
    "no_presence_loss": MAIN.but(model={"presence_loss": False}),
    "common": common(Common),
}  # fmt: skip

# --- released weights: the authors' zhanghang1989/PyTorch-Encoding

RENAMES = (
    (r"^pretrained\.", "backbone."),
    (r"^head\.conv5\.", "reduction."),
    (r"^head\.connect\.", "sides."),
    (r"^head\.fusion\.", "fusion."),
    (r"^head\.encmodule\.encoding\.([01])\.", r"context.projection.\1."),
    (r"^head\.encmodule\.encoding\.3\.", "context.encoding."),
    (r"^head\.encmodule\.encoding\.4\.", "context.norm."),
    (r"^head\.encmodule\.fc\.0\.", "context.factors."),
    (r"^head\.encmodule\.selayer\.", "presence."),
    (r"^head\.conv6\.1\.", "classifier.1."),
    (r"^auxlayer\.conv5\.([01])\.", r"auxiliary.0.\1."),
    (r"^auxlayer\.conv5\.4\.", "auxiliary.2."),
)
RELEASED = {
    "encnet_r50_encoding": Released("encnet/resnet50", "head.conv6.1.bias", RENAMES),
    "encnet_r50_ade20k_encoding": Released("encnet/resnet50_ade20k", "head.conv6.1.bias", RENAMES),
}
