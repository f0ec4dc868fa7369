"""FCN: Fully Convolutional Networks for Semantic Segmentation
Long, Shelhamer, Darrell. CVPR 2015. arXiv:1411.4038

A classifier becomes a segmenter when its fully connected layers are read as convolutions: every
position of the last feature map votes for its own class, and upsampling brings the votes back to
the image. Finer maps vote too: their scores are added on the way up.

    image, padded by 100 -> VGG16 ─┬─ pool3 ── 1x1 ──────────────────────── + ─ x8 -> logits at 1
                                   ├─ pool4 ── 1x1 ──────── + ─ x2 ─────────┘      8s
                                   └─ pool5 -> fc6, fc7 -> 1x1 ─ x2 ─┘   (32s: x32 at once)

Since then "FCN" has meant a dilated ResNet with one head, layer by layer torchvision's:

    image -> ResNet, dilated to 1/8 ─┬─ layer 4 -> 3x3, dropout, 1x1 -> logits at 1/8 -> bilinear
                                     └─ layer 3 -> the same head: auxiliary, in training

The released finer networks start from coarser ones that are trained already: train vgg16_32s, then
vgg16_16s with --init and its run, then vgg16_8s likewise. vgg16_8s_at_once starts from ImageNet.
Shift-and-stitch (section 3.2) is an inference mode: stitch:8 of a ResNet's logits.

Departures:
- VGG16 starts from torchvision's weights and normalization of images; the released networks start
  from Oxford's. The rates are theirs, and were not tried with other weights.
- The released networks learn from whole images of the 8498 that SBD trains on, and are scored on
  736 of VOC 2011 that are not among them; here it is VOC 2012 with SBD's labels, and a crop of
  500x500 shows a whole image and, beyond it, the mean color, which is not scored.
- The rates belong to a sum over the pixels of one image; for another batch or crop they are others.
  On the built-in streets it is a mean, and Adam.
- The paper has no Cityscapes run; the recipe of the ResNet rows is mmsegmentation's, by which
  dilated networks are commonly compared there (SGD 0.01, 40k iterations of 8 crops of 512x1024),
  but colors are not disturbed and the loss is torchvision's: a mean over labeled pixels.
  torchvision's published figures are for COCO images with the 21 PASCAL VOC classes; nobody
  published any for these rows on Cityscapes, nor any without the auxiliary head.
- The auxiliary head and its weight 0.5 are torchvision's; the paper trains one loss.
"""

import re
from typing import Literal, NamedTuple

from torch import Tensor, nn

from segmodels.families.common import CommonNet, common
from segmodels.families.dilated import Dilated
from segmodels.module import Normalization, SegmentationModule
from segmodels.paper import Experiment, Published, Released
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.backbones.vgg import VGG16, convolutional, pre_logits
from segmodels.parts.layers import bilinear_deconvolution, conv_bn_relu
from segmodels.parts.pretrained import load_encoder
from segmodels.recipe import Recipe

# --- VGG16 with skips (sections 3 and 4.2), as it was released

# Each map begins further out than the one that it is added to, and the scores than the image, since
# the image is padded by 100 and fc6 is not: so many rows and columns are cut off before.
SKIP_OFFSETS = (5, 9)  # of the scores of pool4 and pool3
OFFSETS = {32: 19, 16: 27, 8: 31}  # of the last scores


class Votes(NamedTuple):
    """The maps that vote, coarsest first: fc7, and pool4 and pool3 of finer networks."""

    maps: list[Tensor]
    size: tuple[int, int]  # the image's


class FCN(SegmentationModule):
    """VGG16 whose scores are upsampled step by step to the image's size.

    `at_once` scales pool4 and pool3 down before their scores, so that a network without a coarser
    one to start from learns at the rate of that one.
    """

    def __init__(
        self,
        num_classes: int,
        stride: Literal[32, 16, 8] = 8,
        at_once: bool = False,
        width: int = 64,
    ) -> None:
        super().__init__(num_classes)
        fully_connected = pre_logits(8 * width, 64 * width)
        self.backbone = VGG16(fully_connected, padding=100, width=width)
        factors = {32: (32,), 16: (2, 16), 8: (2, 2, 8)}[stride]
        channels = (64 * width, 8 * width, 4 * width)[: len(factors)]
        self.score = nn.ModuleList(nn.Conv2d(each, num_classes, 1) for each in channels)
        self.up = nn.ModuleList(upsampling(num_classes, factor) for factor in factors)
        self.scales = (0.01, 0.0001) if at_once else (1.0, 1.0)
        self.offset = OFFSETS[stride]
        for layer in self.score:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encoder(self) -> nn.Module:
        return self.backbone

    def load_pretrained(self, source: str) -> str:
        """Load VGG16 with fc6 and fc7, without the layer of 1000 classes."""
        return load_encoder(self.backbone, source, rename=convolutional)

    def features(self, image: Tensor) -> Votes:
        *_, third, fourth, _, deep = self.backbone(image)
        return Votes([deep, fourth, third][: len(self.score)], tuple(image.shape[-2:]))

    def decode(self, features: Votes) -> Tensor:
        deep, *skips = features.maps
        first, *scores = self.score
        *ups, last = self.up
        x = first(deep)
        for up, score, skip, scale, offset in zip(ups, scores, skips, self.scales, SKIP_OFFSETS):
            x = up(x)
            x = x + cropped(score(scale * skip), offset, tuple(x.shape[-2:]))
        return cropped(last(x), self.offset, features.size)

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Double the rate of biases; the kernels of upsampling stay as they are."""
        if name.startswith("up."):
            return 0.0
        return super().lr_scale(name, parameter) * (2.0 if name.endswith("bias") else 1.0)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return not name.endswith("bias")


def upsampling(num_classes: int, factor: int) -> nn.Module:
    return bilinear_deconvolution(num_classes, factor, kernel=2 * factor)


def cropped(x: Tensor, offset: int, size: tuple[int, int]) -> Tensor:
    height, width = size
    return x[..., offset : offset + height, offset : offset + width]


# --- a dilated ResNet, as torchvision has it


def classifier(inside: int, num_classes: int) -> nn.Sequential:
    """Stack dropout and a 1x1; torchvision drops values where others drop whole channels."""
    return nn.Sequential(nn.Dropout(0.1), nn.Conv2d(inside, num_classes, 1))


class DilatedFCN(Dilated):
    """Dilated ResNet -> 3x3 -> classifier; in training a second head of that kind on stage 3."""

    def __init__(self, num_classes: int, depth: int = 50, auxiliary_weight: float = 0.5) -> None:
        backbone = ResNet(depth, output_stride=8)
        *_, middle, deep = backbone.channels
        context = conv_bn_relu(deep, deep // 4)
        main = classifier(deep // 4, num_classes)
        auxiliary = None
        if auxiliary_weight:
            narrowed = conv_bn_relu(middle, middle // 4)
            auxiliary = nn.Sequential(narrowed, *classifier(middle // 4, num_classes))
        super().__init__(num_classes, backbone, context, main, auxiliary)
        self.auxiliary_weight = auxiliary_weight


class Common(CommonNet):
    """The network in which operators are compared, without any: 3x3s alone, as in an FCN."""

    operator = nn.Identity


# --- experiments

VOC = Recipe(
    crop=(500, 500), flip=0.0, batch=1, iterations=100_000,
    loss="cross_entropy:sum", lr=1e-10, momentum=0.99, weight_decay=5e-4, schedule="constant",
)  # fmt: skip
STREETS = {"crop": (96, 192), "batch": 2, "loss": "cross_entropy", "lr": 1e-4}
CITYSCAPES = Recipe(
    crop=(512, 1024), scales=(0.5, 2.0), continuous=True, cat_max_ratio=0.75, batch=8, iterations=40_000,
    lr=0.01, weight_decay=5e-4, schedule="poly", power=0.9, min_lr=1e-4,
)  # fmt: skip
BERKELEY = "README of the authors' fcn.berkeleyvision.org"
TORCHVISION = "torchvision's description of its COCO_WITH_VOC_LABELS_V1 weights"


def on_voc_2011(miou: float) -> tuple[Published, ...]:
    return (Published(miou, "voc 2011 (seg11valid)", "val", "whole", BERKELEY),)


def published(miou: float) -> tuple[Published, ...]:
    """Return torchvision's figure; its reference code scales image and label."""
    protocol = "short side 520, labels too"
    return (Published(miou, "coco (VOC labels)", "val", protocol, TORCHVISION),)


VGG16_32S = Experiment(
    FCN, VOC, data="voc", model={"stride": 32}, starts_from="vgg16.tv_in1k",
    budgets={"streets": STREETS}, published=on_voc_2011(63.6),
)  # fmt: skip
MAIN = Experiment(
    DilatedFCN, CITYSCAPES, model={"depth": 50}, starts_from="resnet50.tv_in1k",
    published=published(60.5),
)  # fmt: skip

EXPERIMENTS = {
    "vgg16_32s": VGG16_32S,
    "vgg16_16s": VGG16_32S.but(
        model={"stride": 16}, recipe={"lr": 1e-12}, published=on_voc_2011(65.0)
    ),
    "vgg16_8s": VGG16_32S.but(
        model={"stride": 8}, recipe={"lr": 1e-14}, published=on_voc_2011(65.5)
    ),
    "vgg16_8s_at_once": VGG16_32S.but(
        model={"stride": 8, "at_once": True}, recipe={"iterations": 300_000},
        published=on_voc_2011(65.4),
    ),
    "resnet50": MAIN,
    "resnet101": MAIN.but(
        model={"depth": 101}, starts_from="resnet101.tv_in1k",
        published=published(63.7),
    ),
    "no_auxiliary": MAIN.but(model={"auxiliary_weight": 0.0}),
    # what rows "common" of papers about attention are compared with: no operator at all
    "common": common(Common),
}  # fmt: skip

# --- released weights: the authors' as wkentaro's pytorch-fcn has them, and torchvision's; 21 classes

FIRST = {"1": 0, "2": 5, "3": 10, "4": 17, "5": 24}  # layer of each block's first convolution


def layer(match: re.Match) -> str:
    """Return timm's name of conv1_1 and its like."""
    block, number = match.groups()
    return f"backbone.features.{FIRST[block] + 2 * (int(number) - 1)}."


VGG_RENAMES = (
    (r"^conv(\d)_(\d)\.", layer),
    (r"^fc6\.", "backbone.pre_logits.fc1."),
    (r"^fc7\.", "backbone.pre_logits.fc2."),
    (r"^score_fr\.", "score.0."),
    (r"^score_pool4\.", "score.1."),
    (r"^score_pool3\.", "score.2."),
    (r"^upscore2?\.", "up.0."),
    (r"^upscore_pool4\.", "up.1."),
    (r"^upscore8\.", "up.2."),
)
# Caffe's colors: 0 to 255, blue first
CAFFE = Normalization((104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), "BGR", 1.0)
RENAMES = (
    (r"^classifier\.([01])\.", r"context.\1."),
    (r"^classifier\.4\.", "classifier.1."),
    (r"^aux_classifier\.([01])\.", r"auxiliary.0.\1."),
    (r"^aux_classifier\.4\.", "auxiliary.2."),
)
RELEASED = {
    "fcn32s_vgg16_wkentaro": Released(
        "fcn/vgg16_32s", "score_fr.bias", VGG_RENAMES, normalization=CAFFE
    ),
    "fcn8s_vgg16_wkentaro": Released(
        "fcn/vgg16_8s", "score_fr.bias", VGG_RENAMES, normalization=CAFFE
    ),
    "fcn_resnet50_torchvision": Released("fcn/resnet50", "classifier.4.bias", RENAMES, data="voc"),
    "fcn_resnet101_torchvision": Released(
        "fcn/resnet101", "classifier.4.bias", RENAMES, data="voc"
    ),
}  # fmt: skip
