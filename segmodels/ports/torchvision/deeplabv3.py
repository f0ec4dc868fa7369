"""DeepLabV3 as torchvision computes it.

It differs from the paper in stride 8 in training too, no multi-grid, a 3x3 between the pyramid and
the classifier, no aligned corners, dropout of one half, and an auxiliary head. MobileNetV3 keeps
stride 16, at which the rates are those of stride 8.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from segmodels.families.dilated import Dilated
from segmodels.paper import Released
from segmodels.parts.atrous_pyramid import AtrousPyramid
from segmodels.parts.backbones.mobilenetv3 import MobileNetV3
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn_relu
from segmodels.ports.torchvision import MOBILENET, published


class DeepLabV3Torchvision(Dilated):
    auxiliary_weight = 0.5

    def __init__(self, num_classes: int, backbone: Callable[[], nn.Module]) -> None:
        made = backbone()
        *_, middle, deep = made.channels
        super().__init__(
            num_classes,
            made,
            context=AtrousPyramid(deep, 256, (12, 24, 36), dropout=0.5),
            classifier=nn.Sequential(conv_bn_relu(256, 256), nn.Conv2d(256, num_classes, 1)),
            auxiliary=nn.Sequential(
                conv_bn_relu(middle, middle // 4),
                nn.Dropout(0.1),
                nn.Conv2d(middle // 4, num_classes, 1),
            ),
        )


HEAD = (
    (r"^classifier\.0\.convs\.4\.(\d)\.", lambda m: f"context.pooling.{int(m[1]) - 1}."),
    (r"^classifier\.0\.project\.", "context.projection."),
    (r"^classifier\.0\.", "context."),
    (r"^classifier\.([12])\.", lambda m: f"classifier.0.{int(m[1]) - 1}."),
    (r"^classifier\.4\.", "classifier.1."),
)
AUXILIARY = (
    (r"^aux_classifier\.([01])\.", r"auxiliary.0.\1."),
    (r"^aux_classifier\.4\.", "auxiliary.2."),
)


def released(backbone: Callable[[], nn.Module], row: str, miou: float) -> Released:
    return Released(
        partial(DeepLabV3Torchvision, backbone=backbone),
        "classifier.4.bias",
        (*HEAD, *AUXILIARY, *(MOBILENET if backbone is mobilenet else ())),
        row=f"deeplabv3/{row}",
        data="voc",
        published=published(miou),
    )


mobilenet = partial(MobileNetV3, "large", 16, narrow=True, dilated_first=True)
RELEASED = {
    "deeplabv3_resnet50_torchvision": released(partial(ResNet, 50, 8), "resnet50", 66.4),
    "deeplabv3_resnet101_torchvision": released(partial(ResNet, 101, 8), "resnet101", 67.4),
    "deeplabv3_mobilenet_v3_large_torchvision": released(mobilenet, "resnet50", 60.3),
}
