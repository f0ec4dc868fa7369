"""DeepLabV3 (ResNet-101) as kazuto1011/deeplab-pytorch computes it.

It differs from the paper as this code line's DeepLabV3+ does: in Caffe's ResNet, in no aligned
corners and no dropout, and in a momentum of norms that was meant the other way round.
"""

from segmodels.architectures.deeplabv3 import DeepLabV3
from segmodels.paper import Released
from segmodels.ports.kazuto import CAFFE
from segmodels.ports.kazuto.deeplabv3plus import RENAMES, rebuild


class DeepLabV3Kazuto(DeepLabV3):
    align_corners = False
    spacing = 1

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        rebuild(self, output_stride=16)


RELEASED = {
    "deeplabv3_r101_kazuto": Released(
        DeepLabV3Kazuto, "fc2.bias", ((r"^fc2\.(?=weight|bias)", "classifier."), *RENAMES),
        normalization=CAFFE, row="deeplabv3/resnet101", data="voc",
    )
}  # fmt: skip
