"""ResNet with a deep stem, three 3x3 convolutions instead of one 7x7, as PSPNet brought it in and dilated networks have kept it.

With the stem (64, 64, 128) it is timm's resnet50s, with (32, 32, 64) its resnet50c; names are timm's. Stages 3 and 4 can trade stride for
dilation. Papers differ there: the first block of such a stage may keep the dilation of the stage before, and the last stage may multiply
its dilation block by block (multi-grid, arXiv:1706.05587).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from segmodels.parts.backbones.resnet import DEPTHS, Bottleneck, initialize
from segmodels.parts.layers import conv_bn_relu


class DeepStemResNet(nn.Module):
    """image -> features at strides 4, 8, 16, 32; with output_stride=8 at 4, 8, 8, 8."""

    channels = (256, 512, 1024, 2048)

    def __init__(
        self,
        depth: int,
        output_stride: int = 8,
        stem: tuple[int, int, int] = (64, 64, 128),
        multi_grid: Sequence[int] = (1, 1, 1),
        first_keeps_dilation: bool = True,
    ) -> None:
        super().__init__()
        first, second, inside = stem
        self.conv1 = nn.Sequential(
            *conv_bn_relu(3, first, stride=2), *conv_bn_relu(first, second), nn.Conv2d(second, inside, 3, padding=1, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(inside)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stride, dilation = 4, 1
        for stage, (blocks, width) in enumerate(zip(DEPTHS[depth], (64, 128, 256, 512)), start=1):
            step, before = (1 if stage == 1 else 2), dilation
            if stride * step > output_stride:
                step, dilation = 1, dilation * 2
            stride *= step
            dilations = [dilation * share for share in (multi_grid if stage == 4 else [1] * blocks)]
            if first_keeps_dilation:
                dilations[0] = before
            self.add_module(f"layer{stage}", nn.Sequential(*blocks_of(inside, width, step, dilations)))
            inside = width * Bottleneck.expansion
        initialize(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


def blocks_of(inside: int, width: int, stride: int, dilations: Sequence[int]) -> list[Bottleneck]:
    """One block per dilation; the first one strides."""
    first, *others = dilations
    return [Bottleneck(inside, width, stride, first)] + [Bottleneck(width * Bottleneck.expansion, width, 1, each) for each in others]
