"""DeepLabV3 and DeepLabV3+ as VainF/DeepLabV3Plus-Pytorch computes them.

They differ from the papers in one 3x3 in front of the classifier (DeepLabV3 has none, DeepLabV3+
two), no separable convolutions, no aligned corners, torchvision's ResNet without multi-grid, and a
backbone that learns at a tenth of the rate and keeps 0.99 of its norms' averages. A checkpoint may
be evaluated at either stride: ..._r101_vainf and ..._r101_vainf_os8 read the same files.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from segmodels.families.dilated import Dilated
from segmodels.paper import Released
from segmodels.parts.atrous_pyramid import AtrousPyramid, rates_at
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn_relu, resized, with_momentum
from segmodels.ports.torchvision.deeplabv3 import HEAD
from segmodels.ports.vainf import published
from segmodels.ports.vainf.backbones import MobileNetV2, Xception
from segmodels.recipe import Recipe

BACKBONES = {
    "resnet50": partial(ResNet, 50),
    "resnet101": partial(ResNet, 101),
    "xception": Xception,
    "mobilenet": MobileNetV2,
}


class DeepLabVainF(Dilated):
    """DeepLabV3+, or DeepLabV3 without the decoder, with this code line's recipe for VOC."""

    recipe = Recipe(
        crop=(513, 513), scales=(0.5, 2.0), continuous=True, batch=16, iterations=30_000, lr=0.001,
        head_lr=10.0, weight_decay=1e-4, schedule="poly", power=0.9,
    )  # fmt: skip

    def __init__(
        self,
        num_classes: int,
        backbone: Literal["resnet50", "resnet101", "xception", "mobilenet"] = "resnet101",
        output_stride: int = 16,
        decoder: bool = True,
    ) -> None:
        made = with_momentum(BACKBONES[backbone](output_stride), 0.01)
        fine, *_, deep = made.channels
        super().__init__(
            num_classes,
            made,
            context=AtrousPyramid(deep, 256, rates_at(output_stride)),
            classifier=nn.Sequential(
                conv_bn_relu(256 + 48 * decoder, 256), nn.Conv2d(256, num_classes, 1)
            ),
        )
        self.low = conv_bn_relu(fine, 48, 1) if decoder else None
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d) and not name.startswith("backbone."):
                nn.init.kaiming_normal_(layer.weight)

    def decode(self, features: list[Tensor]) -> Tensor:
        if self.low is None:
            return super().decode(features)
        fine, *_, deep = features
        low = self.low(fine)
        context = self.context(deep)
        deep = resized(context, low)
        return self.classifier(torch.cat([low, deep], 1))


DECODER = (
    (r"^classifier\.aspp\.convs\.4\.(\d)\.", lambda m: f"context.pooling.{int(m[1]) - 1}."),
    (r"^classifier\.aspp\.project\.", "context.projection."),
    (r"^classifier\.aspp\.", "context."),
    (r"^classifier\.project\.", "low."),
    (r"^classifier\.classifier\.([01])\.", r"classifier.0.\1."),
    (r"^classifier\.classifier\.3\.", "classifier.1."),
)
WRAPPED = (r"^classifier\.classifier\.", "classifier.")  # around torchvision's head of DeepLabV3
XCEPTION = (
    (r"^backbone\.conv1\.", "backbone.stem.0."),
    (r"^backbone\.bn1\.", "backbone.stem.1."),
    (r"^backbone\.conv2\.", "backbone.stem.3."),
    (r"^backbone\.bn2\.", "backbone.stem.4."),
    (r"^backbone\.conv3\.", "backbone.exit.0."),
    (r"^backbone\.bn3\.", "backbone.exit.1."),
    (r"^backbone\.conv4\.", "backbone.exit.3."),
    (r"^backbone\.block(\d+)\.", lambda m: f"backbone.blocks.{int(m[1]) - 1}."),
    (r"\.skip\.", ".skip.0."),
    (r"\.skipbn\.", ".skip.1."),
    (r"\.conv1\.weight$", ".0.weight"),
    (r"\.pointwise\.", ".1."),
)
MOBILENET = ((r"^backbone\.(low|high)_level_features\.", "backbone.layers."),)


def released(
    backbone: str,
    output_stride: int = 16,
    renames: tuple = (),
    decoder: bool = True,
    **figures: float,
) -> Released:
    """Return a layout; `figures` are those of the README, by data set.

    Its checkpoints for Cityscapes have the same layout as those for VOC, but 19 classes.
    """
    head = DECODER if decoder else (WRAPPED, *HEAD)
    return Released(
        partial(DeepLabVainF, backbone=backbone, output_stride=output_stride, decoder=decoder),
        f"classifier.classifier.{3 if decoder else 4}.bias",
        (*head, *renames),
        row="deeplabv3plus/resnet101" if decoder else "deeplabv3/resnet101",
        data="voc",
        published=published(**figures),
    )


RELEASED = {
    "deeplabv3_r50_vainf": released("resnet50", decoder=False, voc=76.9),
    "deeplabv3_r101_vainf": released("resnet101", decoder=False, voc=77.3),
    "deeplabv3_mobilenet_vainf": released("mobilenet", renames=MOBILENET, decoder=False, voc=70.1),
    "deeplabv3plus_r50_vainf": released("resnet50", voc=77.2),
    "deeplabv3plus_r101_vainf": released("resnet101", voc=78.3, cityscapes=76.2),
    "deeplabv3plus_r101_vainf_os8": released("resnet101", output_stride=8),
    "deeplabv3plus_xception_vainf": released("xception", renames=XCEPTION),
    "deeplabv3plus_mobilenet_vainf": released(
        "mobilenet", renames=MOBILENET, voc=71.1, cityscapes=72.1
    ),
}
