"""kazuto1011/deeplab-pytorch: DeepLab in PyTorch, on a ResNet with Caffe's strides."""

from segmodels.module import Normalization
from segmodels.parts.backbones.resnet import ResNet, stride_first

CAFFE = Normalization(mean=(104.008, 116.669, 122.675), std=(1.0, 1.0, 1.0), order="BGR", scale=1.0)


def caffe_style(backbone: ResNet) -> ResNet:
    """Move strides to the first 1x1 of blocks, and let the pooling round sizes up."""
    backbone.maxpool.ceil_mode = True
    return stride_first(backbone)


BACKBONE = (
    (r"^layer1\.conv1\.conv\.", "backbone.conv1."),
    (r"^layer1\.conv1\.bn\.", "backbone.bn1."),
    (r"^layer(\d)\.block(\d+)\.", lambda m: f"backbone.layer{int(m[1]) - 1}.{int(m[2]) - 1}."),
    (r"\.reduce\.conv\.", ".conv1."),
    (r"\.reduce\.bn\.", ".bn1."),
    (r"\.conv3x3\.conv\.", ".conv2."),
    (r"\.conv3x3\.bn\.", ".bn2."),
    (r"\.increase\.conv\.", ".conv3."),
    (r"\.increase\.bn\.", ".bn3."),
    (r"\.shortcut\.conv\.", ".downsample.0."),
    (r"\.shortcut\.bn\.", ".downsample.1."),
)
