"""SegNet as meetps/pytorch-semseg computes it.

The last convolution has a norm and a ReLU too, so that no logit is negative, and pooling leaves out
the last row and column of an odd size.
"""

from torch import nn

from segmodels.architectures.segnet import SegNet, conv_bn_relu
from segmodels.paper import Released


class SegNetMeetps(SegNet):
    ceil_mode = False

    def last(self, inside: int, num_classes: int) -> nn.Module:
        return conv_bn_relu(inside, num_classes)

    def valid_side(self, side: int) -> int:
        return max(side, 32)  # five poolings must leave a pixel


RENAMES = (
    (r"^down(\d)\.conv(\d)\.", lambda match: f"down.{int(match[1]) - 1}.{int(match[2]) - 1}."),
    (r"^up(\d)\.conv(\d)\.", lambda match: f"up.{5 - int(match[1])}.{int(match[2]) - 1}."),
    (r"\.cbr_unit\.", "."),
)
RELEASED = {
    "segnet_meetps": Released(
        SegNetMeetps, "up1.conv2.cbr_unit.1.bias", RENAMES, row="segnet/vgg16", data="voc"
    )
}
