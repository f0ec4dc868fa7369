"""LR-ASPP on MobileNetV3-Large as torchvision computes it.

It differs from the authors' in a last stage at full width, stride 16 whose first block is dilated
already, a fine map that is the first block's output, one average of the whole map, a gate without
bias and with a sigmoid, and no aligned corners.
"""

from torch import nn

from segmodels.architectures.lraspp import LRASPP, Gated
from segmodels.paper import Released
from segmodels.parts.backbones.mobilenetv3 import MobileNetV3
from segmodels.ports.torchvision import MOBILENET, published


class LRASPPTorchvision(LRASPP):
    align_corners = False

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.backbone = MobileNetV3("large", 16, narrow=True, dilated_first=True)
        fine, deep = self.backbone.channels
        conv = nn.Conv2d(deep, 128, 1, bias=False)
        gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv, nn.Sigmoid())
        self.context = Gated(deep, 128, gate)
        self.low = nn.Conv2d(fine, num_classes, 1)
        self.spacing = 1


RENAMES = (
    *MOBILENET,
    (r"^classifier\.cbr\.", "context.conv."),
    (r"^classifier\.scale\.", "context.gate."),
    (r"^classifier\.low_classifier\.", "low."),
    (r"^classifier\.high_classifier\.", "classifier."),
)
RELEASED = {
    "lraspp_mobilenet_v3_large_torchvision": Released(
        LRASPPTorchvision, "classifier.high_classifier.bias", RENAMES, row="lraspp/large",
        data="voc", published=published(57.9),
    )
}  # fmt: skip
