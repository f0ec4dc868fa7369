"""DeepLabV3+ (ResNet-50) as mmsegmentation 1.2.2 trains it for Cityscapes.

It differs from the paper in stride 8 in training too, in heads of 512 channels, a 3x3 behind the
pyramid instead of a 1x1, dropout in front of the classifier instead, no aligned corners, a stem of
half the width and no multi-grid, an auxiliary head on stage 3, and cross-entropies averaged over
all pixels, ignored ones too.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segmodels.architectures.deeplabv3plus import separable_conv
from segmodels.families.dilated import Dilated, classifier, fcn_head
from segmodels.paper import Released
from segmodels.parts.atrous_pyramid import AtrousPyramid, rates_at
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn_relu, resized
from segmodels.ports.mmseg import published
from segmodels.recipe import Recipe


class Pyramid(AtrousPyramid):
    """An atrous pyramid in which the mean comes first and a 3x3 joins all maps."""

    def __init__(
        self, inside: int, width: int, convolution: Callable[..., nn.Module] = conv_bn_relu
    ) -> None:
        rates = rates_at(8)
        super().__init__(inside, width, rates, convolution, dropout=0.0)
        self.projection = conv_bn_relu((len(rates) + 2) * width, width)

    def maps(self, x: Tensor) -> list[Tensor]:
        *convolved, mean = super().maps(x)
        return [mean, *convolved]


class DeepLabV3PlusMMSeg(Dilated):
    """Dilated ResNet-C -> pyramid at 1/8 -> decoder at 1/4; an auxiliary head in training."""

    recipe = Recipe(loss="cross_entropy:all")

    def __init__(self, num_classes: int, depth: int = 50) -> None:
        super().__init__(
            num_classes,
            ResNet(depth, output_stride=8, stem=(32, 32, 64)),
            context=Pyramid(2048, 512, separable_conv),
            classifier=nn.Sequential(
                separable_conv(512 + 48, 512),
                separable_conv(512, 512),
                *classifier(512, num_classes),
            ),
            auxiliary=fcn_head(1024, 256, num_classes),
        )
        self.low = conv_bn_relu(256, 48, 1)

    def decode(self, features: list[Tensor]) -> Tensor:
        fine, *_, deep = features
        low = self.low(fine)
        context = self.context(deep)
        deep = resized(context, low)
        return self.classifier(torch.cat([deep, low], 1))


PYRAMID = (
    (r"^decode_head\.image_pool\.1\.", "context.pooling."),
    (r"^decode_head\.aspp_modules\.", "context.convs."),
    (r"^decode_head\.bottleneck\.", "context.projection."),
)
RENAMES = (
    (r"^backbone\.stem\.7\.", "backbone.bn1."),
    (r"^backbone\.stem\.", "backbone.conv1."),
    *PYRAMID,
    (r"^decode_head\.c1_bottleneck\.", "low."),
    (r"^decode_head\.sep_bottleneck\.", "classifier."),
    (r"^decode_head\.conv_seg\.", "classifier.3."),
    (r"^auxiliary_head\.convs\.0\.", "auxiliary.0."),
    (r"^auxiliary_head\.conv_seg\.", "auxiliary.2."),
    (r"\.depthwise_conv\.conv\.", ".0."),
    (r"\.depthwise_conv\.bn\.", ".1."),
    (r"\.pointwise_conv\.conv\.", ".3."),
    (r"\.pointwise_conv\.bn\.", ".4."),
    (r"\.conv\.", ".0."),
    (r"\.bn\.", ".1."),
)
PUBLISHED = published(
    "deeplabv3plus", crops_512x1024_40k=(79.61, 81.01), crops_512x1024_80k=(80.09, 81.13)
)
RELEASED = {
    "mmseg_deeplabv3plus_r50_d8": Released(
        DeepLabV3PlusMMSeg, "decode_head.conv_seg.bias", RENAMES, row="deeplabv3plus/resnet50",
        data="cityscapes", published=PUBLISHED,
    )
}  # fmt: skip
