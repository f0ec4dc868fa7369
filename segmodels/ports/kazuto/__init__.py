"""kazuto1011/deeplab-pytorch: DeepLab in PyTorch, on a ResNet with Caffe's strides."""

from segmodels.module import Normalization
from segmodels.parts.backbones.resnet import ResNet

CAFFE = Normalization(mean=(104.008, 116.669, 122.675), std=(1.0, 1.0, 1.0), order="BGR", scale=1.0)


def caffe_style(backbone: ResNet) -> ResNet:
    """Move strides to the first 1x1 of blocks, and let the pooling round sizes up."""
    backbone.maxpool.ceil_mode = True
    for stage in (backbone.layer2, backbone.layer3, backbone.layer4):
        first = stage[0]
        first.conv1.stride = first.conv2.stride
        first.conv2.stride = (1, 1)
    return backbone
