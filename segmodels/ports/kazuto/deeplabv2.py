"""DeepLab v2 as kazuto1011/deeplab-pytorch computes it, and the networks that it starts from.

Its weights are the authors' Caffe files, converted, or its own training. It differs from the paper's
network in no aligned corners, in a pooling that rounds up, and in labels: each output has its own,
of its size. `deeplabv1_r101_kazuto` is no DeepLab v1, but the network that the authors trained on
COCO to start from: a 1x1 on the dilated ResNet.
"""

from collections.abc import Mapping
from fractions import Fraction
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from segmodels.architectures.deeplabv2 import RESNET101_RECIPE, DeepLabV2
from segmodels.paper import Published, Released
from segmodels.ports.kazuto import BACKBONE, CAFFE

README = "README of kazuto1011/deeplab-pytorch, COCO first"


class DeepLabV2Kazuto(DeepLabV2):
    """Kazuto's DeepLab v2, with the recipe of its configuration for PASCAL VOC."""

    align_corners = False
    recipe = RESNET101_RECIPE

    def __init__(
        self,
        num_classes: int,
        rates: tuple[int, ...] = (6, 12, 18, 24),
        scales: tuple[float, ...] = (0.75, 0.5),
    ) -> None:
        super().__init__(num_classes, rates=rates, scales=scales)
        self.backbone.maxpool.ceil_mode = True

    def resized(self, image: Tensor, scale: Fraction) -> Tensor:
        return F.interpolate(image, scale_factor=float(scale), mode="bilinear", align_corners=False)

    def criterion(self, outputs: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Return a loss of each output, by labels of its size: the nearest, as PIL finds them."""
        terms = {}
        for name, scores in outputs.items():
            nearest = F.interpolate(label[:, None].float(), scores.shape[-2:], mode="nearest-exact")
            terms[name] = self.pixel_loss(scores, nearest[:, 0].to(label.dtype))
        return terms

    def valid_side(self, side: int) -> int:
        return side


RENAMES = (
    (r"^base\.", ""),
    *BACKBONE,
    (r"^aspp\.c(\d)\.", r"classifier.\1."),
    (r"^fc\.", "classifier.0."),
)


def released(
    row: str, classes: str, published: tuple[Published, ...] = (), **options: tuple[float, ...]
) -> Released:
    return Released(
        partial(DeepLabV2Kazuto, **options),
        classes,
        RENAMES,
        normalization=CAFFE,
        row=f"deeplabv2/{row}",
        data="voc",
        published=published,
    )


PUBLISHED = (
    Published(76.65, "voc", "val", "whole", README),
    Published(77.93, "voc", "val", "crf:10", README),
    Published(39.1, "cocostuff", "val", "whole", README),
    Published(39.7, "cocostuff", "val", "crf:10", README),
    Published(
        34.8, "cocostuff", "test", "warped to 513x513, labels too", README, options=(("release", "10k"),)
    ),
)  # fmt: skip

RELEASED = {
    "deeplabv2_r101_msc_kazuto": released("resnet101", "base.aspp.c0.bias", PUBLISHED),
    "deeplabv2_r101_kazuto": released("resnet101_one_scale", "aspp.c0.bias", scales=()),
    "deeplabv1_r101_kazuto": released("resnet101_1x1_one_scale", "fc.bias", rates=(), scales=()),
}
