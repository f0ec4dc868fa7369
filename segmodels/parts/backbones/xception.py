"""Modified Aligned Xception with 65 layers (section 3.2 of DeepLabV3+, arXiv:1802.02611) as feature
maps of four scales, with timm's parameter names.

Chollet's Xception (arXiv:1610.02357) was made deeper by MSRA and changed once more for dense
prediction: strided separable convolutions stand where its max poolings were, so that stride can be
traded for dilation, and a norm follows every depthwise convolution.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-3  # of all norms, as in the authors' code
# Widths of a block's three convolutions, and the stride of the third.
ENTRY = (((128, 128, 128), 2), ((256, 256, 256), 2), ((728, 728, 728), 2))
MIDDLE = (((728, 728, 728), 1),) * 16
EXIT = (((728, 1024, 1024), 2), ((1536, 1536, 2048), 1))


def conv_norm(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outside, EPSILON)))


class SeparableConv(nn.Module):
    """A 3x3 for each channel and a 1x1 across channels, with norms; `activated`: with ReLUs too."""

    def __init__(
        self, inside: int, outside: int, stride: int, dilation: int, activated: bool
    ) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(
            inside, inside, 3, stride, dilation, dilation, groups=inside, bias=False
        )
        self.bn_dw = nn.BatchNorm2d(inside, EPSILON)
        self.conv_pw = nn.Conv2d(inside, outside, 1, bias=False)
        self.bn_pw = nn.BatchNorm2d(outside, EPSILON)
        self.activation = nn.ReLU(inplace=True) if activated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.bn_dw(self.conv_dw(x)))
        return self.activation(self.bn_pw(self.conv_pw(x)))


class Block(nn.Module):
    """Three separable convolutions (figure 4), the third with the stride, around a shortcut. A ReLU
    stands in front of each; the last block of all has no shortcut, and its ReLUs stand behind."""

    def __init__(
        self, inside: int, widths: tuple[int, int, int], stride: int, dilation: int, last: bool
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.last = last
        self.shortcut = None
        if not last and (stride > 1 or inside != third):
            self.shortcut = conv_norm(inside, third, 1, stride)
        self.stack = nn.Module()
        self.stack.conv1 = SeparableConv(inside, first, 1, dilation, last)
        self.stack.conv2 = SeparableConv(first, second, 1, dilation, last)
        self.stack.conv3 = SeparableConv(second, third, stride, dilation, last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What comes in front of the third convolution, and the block's own output."""
        if self.last:
            before = self.stack.conv2(self.stack.conv1(x))
            return before, self.stack.conv3(before)
        before = self.stack.conv2(F.relu(self.stack.conv1(F.relu(x))))
        y = self.stack.conv3(F.relu(before))
        return before, y + (x if self.shortcut is None else self.shortcut(x))


class Xception65(nn.Module):
    """image -> features at strides 4, 8, 16, 32; with output_stride=8 at 4, 8, 8, 8.

    All but the last are taken where the authors' decoder takes them: inside the blocks that stride,
    in front of the stride, before a ReLU.
    """

    channels = (256, 728, 1024, 2048)

    def __init__(self, output_stride: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 32, 3, stride=2), conv_norm(32, 64, 3))
        self.blocks = nn.Sequential()
        self.strided = []  # numbers of the blocks that stride, or would
        stride, dilation, inside = 2, 1, 64
        shapes = (*ENTRY, *MIDDLE, *EXIT)
        for number, (widths, step) in enumerate(shapes):
            traded = stride * step > output_stride
            last = number == len(shapes) - 1
            self.blocks.append(Block(inside, widths, 1 if traded else step, dilation, last))
            if step > 1:
                self.strided.append(number)
            if traded:
                dilation *= step
            else:
                stride *= step
            inside = widths[-1]
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                # The authors' draws end at two deviations; cutting 37 million would take seconds.
                nn.init.normal_(layer.weight, std=0.09)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = image
        for layer in self.stem:
            x = F.relu(layer(x))
        features = []
        for number, block in enumerate(self.blocks):
            before, x = block(x)
            if number in self.strided[1:]:  # the first has stride 2
                features.append(before)
        return [*features, x]
