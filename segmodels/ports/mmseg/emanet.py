"""EMANet as mmsegmentation 1.2.2 trains it (emanet_r50-d8_4xb2-80k_cityscapes-769x769).

It has a narrower stem, no multi-grid, the input concatenated before the classifier, an auxiliary
head on stage 3, and bases whose mean is brought to unit length before it is kept.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.architectures.emanet import EMANet, EMAUnit
from segmodels.families.dilated import classifier, fcn_head
from segmodels.paper import Published, Released
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn_relu
from segmodels.ports.mmseg import published
from segmodels.recipe import Recipe


class Unit(EMAUnit):
    epsilon = 1e-12

    def blended(self, mean: Tensor) -> Tensor:
        return super().blended(F.normalize(mean, dim=1))


class EMANetMMSeg(EMANet):
    """Dilated ResNet-C -> 3x3 -> EMA unit -> 3x3 -> joined with its input by a 3x3 -> 1/8."""

    auxiliary_weight = 0.4
    recipe = Recipe(loss="cross_entropy:all")

    def __init__(self, num_classes: int, depth: int = 50) -> None:
        super().__init__(num_classes, depth)
        self.backbone = ResNet(depth, output_stride=8, stem=(32, 32, 64))
        self.unit = Unit(512)
        self.bottleneck = conv_bn_relu(512, 256)
        self.fusion = conv_bn_relu(2048 + 256, 256)
        self.classifier = classifier(256, num_classes)
        self.auxiliary = fcn_head(1024, 256, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.1

    def decode(self, features: list[Tensor]) -> Tensor:
        deep = features[-1]
        x = self.bottleneck(self.unit(self.reduction(deep)))
        return self.classifier(self.fusion(torch.cat([deep, x], 1)))

    def auxiliary_outputs(self, features: list[Tensor]) -> dict[str, Tensor]:
        return {"auxiliary": self.auxiliary(features[-2])}


# --- released weights

RENAMES = (
    (r"^backbone\.stem\.7\.", "backbone.bn1."),
    (r"^backbone\.stem\.", "backbone.conv1."),
    (r"^decode_head\.ema_module\.", "unit."),
    (r"^decode_head\.ema_in_conv\.", "reduction."),
    (r"^decode_head\.ema_mid_conv\.conv\.", "unit.conv1."),
    (r"^decode_head\.ema_out_conv\.", "unit.conv2."),
    (r"^decode_head\.bottleneck\.", "bottleneck."),
    (r"^decode_head\.conv_cat\.", "fusion."),
    (r"^decode_head\.conv_seg\.", "classifier.1."),
    (r"^auxiliary_head\.convs\.0\.", "auxiliary.0."),
    (r"^auxiliary_head\.conv_seg\.", "auxiliary.2."),
    (r"^(reduction|unit\.conv2|bottleneck|fusion|auxiliary\.0)\.conv\.", r"\1.0."),
    (r"^(reduction|unit\.conv2|bottleneck|fusion|auxiliary\.0)\.bn\.", r"\1.1."),
)
CROPS_769 = Published(
    79.33,
    "cityscapes",
    "val",
    "slide:769x769/513x513",
    "mmsegmentation, configs/emanet/metafile.yaml (crops 769x769)",
)
PUBLISHED = (*published("emanet", crops_512x1024=(77.59, 79.44)), CROPS_769)
RELEASED = {
    "mmseg_emanet_r50_d8": Released(
        EMANetMMSeg,
        "decode_head.conv_seg.bias",
        RENAMES,
        row="emanet/resnet50",
        published=PUBLISHED,
    )
}
