"""DeepLabV3+ (ResNet-101) as kazuto1011/deeplab-pytorch computes it.

Its README calls it not tested, and no weights were released. It differs from the paper in Caffe's
ResNet, in no aligned corners and no dropout, and in a momentum of norms that was meant the other
way round: 0.9997 of each batch goes into the averages. That code takes a maximum over three scales;
this is the network alone.
"""

from segmodels.architectures.deeplabv3plus import DeepLabV3Plus
from segmodels.families.deeplab import DeepLab
from segmodels.paper import Released
from segmodels.parts.atrous_pyramid import AtrousPyramid, rates_at
from segmodels.parts.backbones.resnet import ResNet, initialize
from segmodels.parts.layers import with_momentum
from segmodels.ports.kazuto import BACKBONE, CAFFE, caffe_style


def rebuild(network: DeepLab, output_stride: int) -> None:
    """Give a network the backbone, the pyramid, the start and the momentum of this code line."""
    backbone = ResNet(101, output_stride, multi_grid=(1, 2, 4), dilated_first=True)
    network.backbone = caffe_style(backbone)
    network.context = AtrousPyramid(2048, 256, rates_at(output_stride), dropout=0.0)
    initialize(with_momentum(network, 0.9997))


class DeepLabV3PlusKazuto(DeepLabV3Plus):
    align_corners = False
    spacing = 1

    def __init__(self, num_classes: int, output_stride: int = 16) -> None:
        super().__init__(num_classes, "resnet50", output_stride, separable=False)
        rebuild(self, output_stride)


RENAMES = (
    *BACKBONE,
    (r"^aspp\.stages\.imagepool\.conv\.", "context.pooling."),
    (r"^aspp\.stages\.c(\d)\.", r"context.convs.\1."),
    (r"^fc1\.", "context.projection."),
    (r"^reduce\.", "low."),
    (r"^fc2\.conv3\.", "classifier.2."),
    (r"^fc2\.conv(\d)\.", lambda m: f"classifier.{int(m[1]) - 1}."),
    (r"^(context\..*|low|classifier\.\d)\.conv\.", r"\1.0."),
    (r"^(context\..*|low|classifier\.\d)\.bn\.", r"\1.1."),
)
RELEASED = {
    "deeplabv3plus_r101_kazuto": Released(
        DeepLabV3PlusKazuto, "fc2.conv3.bias", RENAMES, normalization=CAFFE,
        row="deeplabv3plus/resnet101", data="voc",
    )
}  # fmt: skip
