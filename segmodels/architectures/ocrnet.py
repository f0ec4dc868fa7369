"""OCRNet: Object-Contextual Representations for Semantic Segmentation
Yuan, Chen, Wang. ECCV 2020. arXiv:1909.11065

The label of a pixel is the class of the object that it belongs to, so the object should have a say.
A first, coarse segmentation shares the pixels out among the classes; each class becomes one vector,
the mean of its pixels; and every pixel looks at these few vectors, by attention, instead of at all
other pixels.

    image -> backbone ─┬─ 3x3: pixels ─────────┬──────────────┬───────────┬─ 1x1, dropout, 1x1 -> logits
                       │                       │              │           │
                       └─ head: soft regions ─ means of a ─ attention of ─┘
                          (an output of its    class: one   each pixel to
                          own in training)     vector       the K vectors

    region of class k   m[k, n] = softmax over all pixels n of the coarse logits of class k
    its representation  f[k]    = sum over n of m[k, n] x[n]
    attention           w[n, k] = softmax over k of phi(x[n]) . psi(f[k]) / 16
    context             y[n]    = rho(sum over k of w[n, k] delta(f[k]))
    result              z[n]    = g([y[n], x[n]])

Departures:
- The HRNet rows are those of HRNet's repository (branch HRNet-OCR), the ResNet rows those of
  openseg.pytorch. Their layers differ: in the latter every convolution has a bias, the head of the
  regions is a 3x3 on the last but one stage, with dropout, and where batch norm is InPlaceABN
  ("resnet101"), ReLUs behind the heads' norms are leaky.
- HRNet's trainer sets the learning rate one step late; here step k runs at the value of k. It pads
  small images with black, as here, but never above them; here they stand anywhere in the crop.
- openseg also stretches images (by 0.9 to 1.1 of their aspect) and makes them lighter or darker (by
  up to 10 of 255). Here they are neither.
- openseg's own ImageNet weights take BGR images of 0 to 255 without their mean, and so do its
  released networks here. Rows start from timm's weights of the same network, which are normalized
  as usual.
- The fixed class weights of Cityscapes come with that data set's budget, since they mean nothing on
  other classes.
- At scales above 1 the authors evaluate in windows, and they average the exponentials of logits.
  Here each scale is evaluated whole, and probabilities are averaged, beside the same figures.
"""

import re
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from segmodels.families.openseg import (
    BGR,
    BUDGETS,
    RECIPE,
    STEM,
    ZOO,
    attended,
    dilated_resnet,
    transform,
)
from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, Released
from segmodels.parts.backbones.hrnet import (
    AUTHORS,
    Depth,
    HighResolutionNet,
    Resize,
    joined,
)
from segmodels.parts.layers import conv_bn_relu, resized_with_corners
from segmodels.parts.weight_files import norms_of_abn
from segmodels.recipe import Recipe

# --- object-contextual representations (section 3.2); K classes, N pixels


def region_representations(pixels: Tensor, regions: Tensor) -> Tensor:
    """Return the mean of the pixels of each class (equation 2), as K pixels of a map.

    The logits of a class are shared out among all pixels: a softmax over N, not over K.
    """
    shares = regions.flatten(2).softmax(2)  # (B, K, h, w) -> (B, K, N)
    means = pixels.flatten(2) @ shares.transpose(1, 2)  # (B, C, N) x (B, N, K) -> (B, C, K)
    return means.unsqueeze(3)  # -> (B, C, K, 1)


class ObjectAttention(nn.Module):
    """Attention of each pixel to the K region representations (equations 3 to 5)."""

    def __init__(
        self, channels: int, width: int, *, bias: bool = False, leaky: bool = False
    ) -> None:
        super().__init__()
        settings = {"bias": bias, "leaky": leaky}
        self.phi = transform(channels, width, **settings)
        self.psi = transform(channels, width, **settings)
        self.delta = conv_bn_relu(channels, width, 1, **settings)
        self.rho = conv_bn_relu(width, channels, 1, **settings)

    def forward(self, pixels: Tensor, objects: Tensor) -> Tensor:
        return self.rho(attended(self.phi(pixels), self.psi(objects), self.delta(objects)))


# --- network (section 3.3)

Backbone = Literal["hrnet", "resnet101"]


class StackedNet(HighResolutionNet):
    """HRNet with one map, its branches' at 1/4; it is both the coarse and the deep one here."""

    def __init__(self, width: int, depth: Depth, resize: Resize) -> None:
        super().__init__(width, depth, resize=resize)
        self.resize = resize
        self.channels = (sum(self.channels),) * 2

    def forward(self, image: Tensor) -> list[Tensor]:
        return [joined(super().forward(image), self.resize)] * 2


class Features(NamedTuple):
    """What both heads read."""

    deep: Tensor
    regions: Tensor  # (B, K, h, w): logits of the soft object regions


class OCRNet(SegmentationModule):
    """Backbone -> soft regions -> attention of pixels to their representations -> classifier."""

    align_corners = True

    def __init__(
        self,
        num_classes: int,
        backbone: Backbone = "hrnet",
        width: int = 48,
        auxiliary_weight: float = 0.4,
        leaky: bool = False,
        depth: Depth = "full",
    ) -> None:
        """`width` is that of HRNet's branch at 1/4, or of ResNet's first stage; `depth` is HRNet's.

        With an `auxiliary_weight` of 0 the regions are not supervised.
        """
        super().__init__(num_classes)
        self.auxiliary_weight = auxiliary_weight
        if backbone == "hrnet":
            self.backbone = StackedNet(width, depth, resized_with_corners)
            coarse, deep = self.backbone.channels
            settings = {"leaky": leaky}
            head = conv_bn_relu(coarse, coarse, 1, bias=True, leaky=leaky)
        else:
            self.backbone = dilated_resnet(width=width)
            *_, coarse, deep = self.backbone.channels
            settings = {"bias": True, "leaky": leaky}
            head = conv_bn_relu(coarse, 512, **settings).append(nn.Dropout2d(0.05))
        self.regions = head.append(nn.Conv2d(head[0].out_channels, num_classes, 1))
        self.pixels = conv_bn_relu(deep, 512, bias=True, leaky=leaky)
        self.attention = ObjectAttention(512, 256, **settings)
        self.fusion = conv_bn_relu(2 * 512, 512, 1, **settings).append(nn.Dropout2d(0.05))
        self.classifier = nn.Conv2d(512, num_classes, 1)

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> Features:
        *_, coarse, deep = self.backbone(image)
        return Features(deep, self.regions(coarse))

    def decode(self, features: Features) -> Tensor:
        pixels = self.pixels(features.deep)
        objects = region_representations(pixels, features.regions)
        context = self.attention(pixels, objects)
        return self.classifier(self.fusion(torch.cat([context, pixels], 1)))

    def auxiliary_outputs(self, features: Features) -> dict[str, Tensor]:
        return {"regions": features.regions} if self.auxiliary_weight else {}


# --- experiments (section 4)

HRNET = Recipe(
    crop=(512, 1024), scales=tuple(n / 10 for n in range(5, 22)), batch=12, iterations=119_548,
    lr=0.01, weight_decay=5e-4, schedule="poly", power=0.9, padding="black",
)  # fmt: skip  # 484 epochs of 247 batches
README = "README of the authors' HRNet-Semantic-Segmentation, branch HRNet-OCR"
SCALES = "multiscale:0.5,0.75,1,1.25,1.5,1.75+flip"

MAIN = Experiment(
    OCRNet, HRNET, model={"backbone": "hrnet", "width": 48}, starts_from="hrnet_w48.ms_in1k",
    published=(
        Published(81.6, "cityscapes", "val", "whole", README),
        Published(82.3, "cityscapes", "test", SCALES, f"{README}: trained on val too"),
    ),
    budgets=BUDGETS,
)  # fmt: skip
RESNET101 = Experiment(
    OCRNet, RECIPE, model={"backbone": "resnet101", "width": 64, "leaky": True},
    starts_from="resnet101s.gluon_in1k",
    published=(Published(79.63, "cityscapes", "val", "whole", ZOO),), budgets=BUDGETS,
)  # fmt: skip

EXPERIMENTS = {
    "hrnet_w48": MAIN,
    "hrnet_w18": MAIN.but(model={"width": 18}, starts_from="hrnet_w18.ms_in1k"),
    "resnet101": RESNET101,
    "resnet101_relu": RESNET101.but(model={"leaky": False}),
    # ablation: what the regions learn from the loss of the pixels alone (table 1)
    "no_region_supervision": RESNET101.but(model={"auxiliary_weight": 0.0}),
}

# --- released weights: HRNet/HRNet-Semantic-Segmentation's and openseg-group/openseg.pytorch's


def of_attention(match: re.Match[str]) -> str:
    """Rename a layer of f_pixel, f_object (two pairs of convolution and norm), f_down or f_up."""
    part = {"pixel": "phi", "object": "psi", "down": "delta", "up": "rho"}[match[1]]
    pair, kind = divmod(int(match[2]), 2)
    return (
        f"attention.{part}.{pair}.{kind}."
        if part in ("phi", "psi")
        else f"attention.{part}.{kind}."
    )


RENAMES = (
    *AUTHORS,
    STEM,
    (r"^dsn_head\.3\.", "regions.4."),
    (r"^(aux|dsn)_head\.", "regions."),
    (r"^(conv3x3_ocr|conv_3x3)\.", "pixels."),
    (r"^\w+_head\.conv_bn_dropout\.", "fusion."),
    (r"^\w+_head\.object_context_block\.f_(\w+)\.(\d)\.(0\.)?", of_attention),
    (r"^(cls_)?head\.", "classifier."),
    (r"^(regions|pixels|fusion)\.1\.0\.", r"\1.1."),
)
LOSS = (r"^loss\.",)  # HRNet's trainer stores its criterion too
RELEASED = {
    "hrnetv2_w48_ocr": Released("ocrnet/hrnet_w48", "cls_head.bias", RENAMES, LOSS),
    "ocrnet_r101_openseg": Released(
        "ocrnet/resnet101_relu", "head.bias", RENAMES, normalization=BGR
    ),
    "ocrnet_r101_openseg_abn": Released(
        "ocrnet/resnet101", "head.bias", RENAMES, normalization=BGR, convert=norms_of_abn
    ),
}
