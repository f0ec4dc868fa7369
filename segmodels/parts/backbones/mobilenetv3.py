"""MobileNetV3 as a backbone that returns a fine map at 1/8 and its last map.

Howard et al., 2019. arXiv:1905.02244, tables 1 and 2. Layers stand in torchvision's order, which is
timm's too, so that ImageNet weights of both are matched in order.
"""

from typing import Literal, NamedTuple

from torch import Tensor, nn

from segmodels.parts.layers import conv_bn

Size = Literal["large", "small"]


class Shape(NamedTuple):
    """A row of the paper's tables."""

    kernel: int
    expanded: int
    outside: int
    squeezed: bool  # with squeeze and excitation
    swish: bool  # hard swish instead of ReLU
    stride: int


SHAPES = {
    "large": (
        Shape(3, 16, 16, False, False, 1),
        Shape(3, 64, 24, False, False, 2),
        Shape(3, 72, 24, False, False, 1),
        Shape(5, 72, 40, True, False, 2),
        Shape(5, 120, 40, True, False, 1),
        Shape(5, 120, 40, True, False, 1),
        Shape(3, 240, 80, False, True, 2),
        Shape(3, 200, 80, False, True, 1),
        Shape(3, 184, 80, False, True, 1),
        Shape(3, 184, 80, False, True, 1),
        Shape(3, 480, 112, True, True, 1),
        Shape(3, 672, 112, True, True, 1),
        Shape(5, 672, 160, True, True, 2),
        Shape(5, 960, 160, True, True, 1),
        Shape(5, 960, 160, True, True, 1),
    ),
    "small": (
        Shape(3, 16, 16, True, False, 2),
        Shape(3, 72, 24, False, False, 2),
        Shape(3, 88, 24, False, False, 1),
        Shape(5, 96, 40, True, True, 2),
        Shape(5, 240, 40, True, True, 1),
        Shape(5, 240, 40, True, True, 1),
        Shape(5, 120, 48, True, True, 1),
        Shape(5, 144, 48, True, True, 1),
        Shape(5, 288, 96, True, True, 2),
        Shape(5, 576, 96, True, True, 1),
        Shape(5, 576, 96, True, True, 1),
    ),
}


def with_half_the_last_stage(shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Halve the channels of the last three blocks; expansions are multiples of what comes in."""
    *others, first, second, third = shapes
    narrow = [
        first._replace(outside=first.outside // 2),
        second._replace(expanded=second.expanded // 2, outside=second.outside // 2),
        third._replace(expanded=third.expanded // 2, outside=third.outside // 2),
    ]
    return (*others, *narrow)


def activated(layers: nn.Sequential, swish: bool) -> nn.Sequential:
    return layers.append(nn.Hardswish(inplace=True) if swish else nn.ReLU(inplace=True))


class SqueezeExcitation(nn.Module):
    """A gate for each channel, made of the mean of all channels."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(squeezed, width, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)  # (B, width, 1, 1)
        return x * self.gate(self.fc2(self.relu(self.fc1(mean))))


def in_eights(width: float) -> int:
    """Return the multiple of 8 nearest to a width, but not more than a tenth below it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


class InvertedResidual(nn.Module):
    """1x1 to more channels, a convolution for each channel, a gate, 1x1 to few channels."""

    def __init__(self, inside: int, shape: Shape, stride: int, dilation: int) -> None:
        super().__init__()
        kernel, width, outside, squeezed, swish, step = shape
        self.residual = step == 1 and inside == outside  # also where a stride was traded
        layers = []
        if width != inside:
            layers.append(activated(conv_bn(inside, width, 1), swish))
        depthwise = conv_bn(width, width, kernel, stride, dilation=dilation, groups=width)
        layers.append(activated(depthwise, swish))
        self.widening = len(layers)  # number of layers up to the convolution for each channel
        if squeezed:
            layers.append(SqueezeExcitation(width, in_eights(width / 4)))
        layers.append(conv_bn(width, outside, 1))
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map of the convolution for each channel, and the block's output."""
        wide = self.block[: self.widening](x)
        y = self.block[self.widening :](wide)
        return wide, x + y if self.residual else y


class MobileNetV3(nn.Module):
    """image -> features at strides 8 and 32; with output_stride=16 at 8 and 16.

    The fine map is that of the last convolution for each channel at 1/8; with `narrow`, the output
    of the first block there. `reduced` halves the last stage. A block that trades its stride keeps
    the dilation before it, unless `dilated_first` gives it that of the others.
    """

    def __init__(
        self,
        size: Size = "large",
        output_stride: int = 32,
        reduced: bool = False,
        narrow: bool = False,
        dilated_first: bool = False,
    ) -> None:
        super().__init__()
        if output_stride not in (16, 32):
            raise ValueError(f"a MobileNetV3's output_stride is 16 or 32, not {output_stride}")
        shapes = with_half_the_last_stage(SHAPES[size]) if reduced else SHAPES[size]
        self.narrow = narrow
        self.stem = activated(conv_bn(3, 16, stride=2), swish=True)
        self.blocks = nn.Sequential()
        fine = []  # numbers of the blocks at 1/8
        inside = 16
        stride = 2
        dilation = 1
        for number, shape in enumerate(shapes):
            step = shape.stride
            before = dilation
            if stride * step > output_stride:
                dilation *= step
                step = 1
            stride *= step
            first = dilation if dilated_first else before
            self.blocks.append(InvertedResidual(inside, shape, step, first))
            if stride == 8:
                fine.append(number)
            inside = shape.outside
        self.head = activated(conv_bn(inside, 6 * inside, 1), swish=True)
        self.fine = fine[0] if narrow else fine[-1]
        taken = shapes[self.fine]
        self.channels = (taken.outside if narrow else taken.expanded, 6 * inside)
        self.initialize()

    def initialize(self) -> None:
        """Initialize as the authors' code, and set its epsilon and momentum of norms."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.09, a=-0.18, b=0.18)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm2d):
                layer.eps = 1e-3
                layer.momentum = 3e-3

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)
        for number, block in enumerate(self.blocks):
            wide, x = block(x)
            if number == self.fine:
                fine = x if self.narrow else wide
        return [fine, self.head(x)]
