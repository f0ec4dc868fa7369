"""Fast-SCNN: Fast Semantic Segmentation Network
Poudel, Liwicki, Cipolla. BMVC 2019. arXiv:1902.04502

Two-branch networks compute edges and corners twice, once per branch, though every network's first
layers find the same ones. Fast-SCNN computes them once: three strided layers learn to downsample,
and their output is both the detail branch and the input of the deep one. Depthwise separable
convolutions throughout leave 1.1M parameters, few enough that ImageNet pretraining brings nothing.

    image -> learning to downsample ─┬─ 64 at 1/8: 1x1 ────────────────────────────────────────(+)─ two 3x3, 1x1 -> logits at 1/8
             (3x3/2 three times)     ├─ global features: bottlenecks to 1/32, PPM ─┬─ up x4, 3x3, 1x1 ┘
                                     └ auxiliary 1 (1/8)                            └ auxiliary 2 (1/32)

Departures:
- No code was released. Widths, strides and repetitions are those of the paper's table 1; bins of
  the pyramid pooling (1, 2, 3, 6, a quarter of the channels each) are PSPNet's; auxiliary heads
  (3x3 to 32 channels, 1x1) are those of the common ports.
- The paper's section 4.1 does not say how large a crop is, how strong the noise of its color
  channels and the brightness are, and how much is dropped: the full image, brightness, contrast and
  saturation by up to a half, and 0.1 (Tramac/Fast-SCNN-pytorch's; rachthree's has 0.3) here. Norms
  and biases are spared from decay as well.
- The authors' score on test, 68.0, is of a network that saw the coarse labels of Cityscapes too
  (`data.training=fine+coarse`).
- The paper counts 1.11M parameters; the network as its tables describe it has 1.14M.
- "half" and "quarter" are trained at their size; the paper only evaluates there, or does not say.
  No figure was published for them, nor for the ablations but that of the skip, which the paper
  takes out of a trained network.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, PublishedSpeed
from segmodels.parts.layers import conv_bn, conv_bn_relu, resized
from segmodels.parts.pyramid_pooling import PyramidPooling
from segmodels.recipe import Recipe

# --- blocks (section 3.2)


def separable(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """Stack a DSConv: depthwise 3x3, then 1x1, without a nonlinearity between the two."""
    depthwise = conv_bn(inside, inside, 3, stride, groups=inside)
    return nn.Sequential(depthwise, conv_bn_relu(inside, outside, 1))


def learning_to_downsample() -> nn.Sequential:
    """Stack three strided layers to 1/8 (section 3.2.1).

    The first is an ordinary convolution, since an image has only three channels.
    """
    return nn.Sequential(conv_bn_relu(3, 32, 3, 2), separable(32, 48, 2), separable(48, 64, 2))


class Bottleneck(nn.Module):
    """MobileNetV2's: widened by 6, depthwise 3x3, narrowed without a nonlinearity (table 2)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        wide = inside * 6
        self.residual = stride == 1 and inside == outside
        self.body = nn.Sequential(
            conv_bn_relu(inside, wide, 1),
            conv_bn_relu(wide, wide, 3, stride, groups=wide),
            conv_bn(wide, outside, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def global_feature_extractor(ppm: bool) -> nn.Sequential:
    """Stack nine bottlenecks from 1/8 to 1/32, then context (section 3.2.2)."""
    layers = []
    inside = 64
    for width, stride in ((64, 2), (96, 2), (128, 1)):
        layers += [
            Bottleneck(inside, width, stride),
            Bottleneck(width, width, 1),
            Bottleneck(width, width, 1),
        ]
        inside = width
    context = PyramidPooling(128, 128, kernel=1, align_corners=False) if ppm else nn.Identity()
    return nn.Sequential(*layers, context)


class FeatureFusion(nn.Module):
    """The deep map, enlarged by 4 and smoothed by a 3x3 of dilation 4, plus detail (table 3)."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        smoothing = conv_bn_relu(128, 128, 3, dilation=4, groups=128)
        self.deep = nn.Sequential(smoothing, conv_bn(128, 128, 1))
        self.detail = conv_bn(64, 128, 1) if skip else None

    def forward(self, detail: Tensor, deep: Tensor) -> Tensor:
        deep = self.deep(resized(deep, detail))
        return F.relu(deep if self.detail is None else deep + self.detail(detail))


# --- network (sections 3.2.4, 4.1)


def auxiliary_head(inside: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(inside, 32), nn.Conv2d(32, num_classes, 1))


class Branches(NamedTuple):
    """The map that both branches begin with, and the last map of each."""

    downsampled: Tensor  # (B, 64, H/8, W/8)
    deep: Tensor  # (B, 128, H/32, W/32)
    detail: Tensor  # (B, 64, H/8, W/8): the downsampled map itself, if it is shared


class FastSCNN(SegmentationModule):
    """Shared downsampling -> global features -> fusion with the shared map -> classifier at 1/8.

    In training there are two auxiliary heads.
    """

    def __init__(
        self,
        num_classes: int,
        skip: bool = True,
        shared: bool = True,
        ppm: bool = True,
        auxiliary_weight: float = 0.4,
    ) -> None:
        """skip=False classifies the deep map alone.

        shared=False gives the detail branch a downsampling of its own.
        """
        super().__init__(num_classes)
        self.auxiliary_weight = auxiliary_weight
        self.downsample = learning_to_downsample()
        self.detail = learning_to_downsample() if skip and not shared else None
        self.global_features = global_feature_extractor(ppm)
        self.fusion = FeatureFusion(skip)
        self.classifier = nn.Sequential(
            separable(128, 128),
            separable(128, 128),
            nn.Dropout(0.1),
            nn.Conv2d(128, num_classes, 1),
        )
        wanted = (64, 128) if auxiliary_weight else ()
        self.auxiliaries = nn.ModuleList(auxiliary_head(inside, num_classes) for inside in wanted)

    def features(self, image: Tensor) -> Branches:
        downsampled = self.downsample(image)
        detail = downsampled if self.detail is None else self.detail(image)
        return Branches(downsampled, self.global_features(downsampled), detail)

    def decode(self, features: Branches) -> Tensor:
        return self.classifier(self.fusion(features.detail, features.deep))

    def auxiliary_outputs(self, features: Branches) -> dict[str, Tensor]:
        heads = zip(self.auxiliaries, (features.downsampled, features.deep))
        return {f"auxiliary{n}": head(x) for n, (head, x) in enumerate(heads, start=1)}

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Spare depthwise convolutions as well (section 4.1)."""
        depthwise = parameter.ndim == 4 and parameter.shape[1] == 1
        return super().decays(name, parameter) and not depthwise


# --- experiments (section 4)

EPOCH = 247  # iterations: 2975 images, 12 at a time
PAPER = Recipe(
    crop=(1024, 2048), scales=(0.5, 2.0), continuous=True, jitter=0.5, batch=12, iterations=1000 * EPOCH, lr=0.045, weight_decay=4e-5,
    decay_norms=False, schedule="poly", power=0.9,
)  # fmt: skip
CITED = "paper, as the README of zh320/realtime-semantic-segmentation-pytorch quotes it"
PAGE = "Cityscapes' page of the submission"
COARSE = f"{PAGE}: trained on coarse labels too"


def published(miou: float, split: str, protocol: str, source: str) -> Published:
    return Published(miou, "cityscapes", split, protocol, source)


def speed(fps: float, size: tuple[int, int], seconds: str) -> PublishedSpeed:
    """Return a speed; the page states the seconds that an image takes."""
    return PublishedSpeed(fps, size, "Titan Xp", f"{PAGE}: {seconds} s")


MAIN = Experiment(
    FastSCNN, PAPER,
    published=(
        published(68.6, "val", "whole", CITED),
        published(68.0, "test", "whole", COARSE),
        published(62.8, "test", "resized:0.5", COARSE),
        published(51.9, "test", "resized:0.25", f"{PAGE}: trained on fine labels"),
    ),
    published_speed=(
        speed(123.5, (1024, 2048), "0.0081"),
        speed(285.7, (512, 1024), "0.0035"),
        speed(485.4, (256, 512), "0.00206"),
    ),
)  # fmt: skip

EXPERIMENTS = {
    "fastscnn": MAIN,
    # Ablations, each without one part of MAIN. The paper only sets the skip of a trained network to
    # zero (section 4.3).
    "no_skip": MAIN.but(model={"skip": False}),
    "separate_downsampling": MAIN.but(model={"shared": False}),
    "no_ppm": MAIN.but(model={"ppm": False}),
    "no_auxiliary": MAIN.but(model={"auxiliary_weight": 0.0}),
    # section 4.4: lower input resolution, in training and evaluation
    "half": MAIN.but(
        recipe={"crop": (512, 1024), "scales": (0.25, 1.0), "inference": "resized:0.5"}
    ),
    "quarter": MAIN.but(
        recipe={"crop": (256, 512), "scales": (0.125, 0.5), "inference": "resized:0.25"}
    ),
}
