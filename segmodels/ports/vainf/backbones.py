"""The backbones of this code line that are not torchvision's.

Xception is Chollet's (arXiv:1610.02357), with max poolings. Its first two and its last two
convolutions have less padding than would keep the size, and it ends at its last convolution, before
norm and ReLU. MobileNetV2 (arXiv:1801.04381) pads an inverted residual's input before the
expansion, which then has values on the border too, and its first convolution not at all.
"""

import torch.nn.functional as F
from torch import Tensor, nn

# --- Xception


class SeparableConv(nn.Sequential):
    def __init__(self, inside: int, outside: int, padding: int, dilation: int) -> None:
        super().__init__(
            nn.Conv2d(inside, inside, 3, 1, padding, dilation, groups=inside, bias=False),
            nn.Conv2d(inside, outside, 1, bias=False),
        )


class XceptionBlock(nn.Module):
    """ReLU, separable convolution and norm for each of `widths`; a max pooling has the stride.

    The first of all blocks begins without a ReLU.
    """

    def __init__(
        self,
        inside: int,
        widths: tuple[int, ...],
        stride: int,
        dilation: int,
        rectified: bool = True,
    ) -> None:
        super().__init__()
        outside = widths[-1]
        self.skip = None
        if stride > 1 or inside != outside:
            self.skip = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )
        layers = []
        before = inside
        for width in widths:
            layers += [nn.ReLU(), SeparableConv(before, width, dilation, dilation)]
            layers.append(nn.BatchNorm2d(width))
            before = width
        if stride > 1:
            layers.append(nn.MaxPool2d(3, stride, 1))
        self.rep = nn.Sequential(*(layers if rectified else layers[1:]))

    def forward(self, x: Tensor) -> Tensor:
        return self.rep(x) + (x if self.skip is None else self.skip(x))


class Xception(nn.Module):
    """image -> features at strides 4 and 16; with output_stride=8 at 4 and 8."""

    channels = (128, 2048)

    def __init__(self, output_stride: int = 16) -> None:
        super().__init__()
        # A block that trades its stride for dilation is dilated itself.
        third, middle = (2, 1) if output_stride == 16 else (1, 2)  # stride, dilation
        deep = 2 * middle
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.Sequential(
            XceptionBlock(64, (128, 128), 2, 1, rectified=False),
            XceptionBlock(128, (256, 256), 2, 1),
            XceptionBlock(256, (728, 728), third, middle),
            *(XceptionBlock(728, (728, 728, 728), 1, middle) for _ in range(8)),
            XceptionBlock(728, (728, 1024), 1, deep),
        )
        self.exit = nn.Sequential(
            SeparableConv(1024, 1536, 1, deep),
            nn.BatchNorm2d(1536),
            nn.ReLU(inplace=True),
            SeparableConv(1536, 2048, 1, deep),
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        first, *others = self.blocks
        low = first(self.stem(image))
        x = low
        for block in others:
            x = block(x)
        return [low, self.exit(x)]


# --- MobileNetV2

# expansion, width, blocks, stride
SHAPES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


def conv_bn_relu6(
    inside: int, outside: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Stack a convolution without padding, a norm and a ReLU6."""
    conv = nn.Conv2d(inside, outside, kernel, stride, 0, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    def __init__(
        self, inside: int, outside: int, stride: int, dilation: int, expansion: int
    ) -> None:
        super().__init__()
        width = inside * expansion
        self.border = dilation
        self.residual = stride == 1 and inside == outside
        layers = [conv_bn_relu6(inside, width, 1)] if expansion > 1 else []
        layers.append(conv_bn_relu6(width, width, 3, stride, dilation, groups=width))
        layers += [nn.Conv2d(width, outside, 1, bias=False), nn.BatchNorm2d(outside)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.pad(x, (self.border,) * 4))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """image -> features at strides 4 and 16; with output_stride=8 at 4 and 8."""

    channels = (24, 320)

    def __init__(self, output_stride: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn_relu6(3, 32, 3, stride=2)]
        inside = 32
        total = 2
        dilation = 1
        for expansion, width, blocks, step in SHAPES:
            stride = step
            before = dilation
            if total == output_stride:
                stride = 1
                dilation *= step
            total *= stride
            layers.append(InvertedResidual(inside, width, stride, before, expansion))
            for _ in range(blocks - 1):
                layers.append(InvertedResidual(width, width, 1, dilation, expansion))
            inside = width
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> list[Tensor]:
        low = self.layers[:4](image)
        return [low, self.layers[4:](low)]
