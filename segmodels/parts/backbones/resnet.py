"""ResNet as a backbone that returns the feature maps of its four stages.

He et al., 2015. arXiv:1512.03385. Parameters have torchvision's names, or timm's if the stem is
deep: three 3x3 convolutions instead of one 7x7, which PSPNet introduced. Stages 3 and 4 can trade
stride for dilation (stride 16 or 8 instead of 32), as in dilated networks.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from segmodels.parts.layers import conv_bn_relu

DEPTHS = {
    14: (1, 1, 1, 1),  # of the wider blocks, as 26
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (figure 5, left)."""

    expansion = 1

    def __init__(self, inside: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inside, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (figure 5, right); the 3x3 has the stride, as in torchvision."""

    expansion = 4

    def __init__(self, inside: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inside, width * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + self.downsample(x))


def shortcut(inside: int, outside: int, stride: int) -> nn.Module:
    """Return an identity if shapes agree, else a 1x1 projection (option B)."""
    if stride == 1 and inside == outside:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))


class ResNet(nn.Module):
    """image -> features at strides 4, 8, 16, 32; with output_stride=8 at 4, 8, 8, 8. `width` is
    that of the first stage.

    `stem` holds the widths of a deep stem: (64, 64, 128) makes timm's resnet50s, (32, 32, 64) its
    resnet50c. `multi_grid` multiplies the dilation of the last stage block by block
    (arXiv:1706.05587). The first block of a dilated stage keeps the dilation before it, unless
    `dilated_first` gives it that of the others.
    """

    aligned = True  # the corners of maps of 32 k + 1 pixels lie on the image's

    def __init__(
        self,
        depth: int,
        output_stride: int = 32,
        width: int = 64,
        stem: tuple[int, int, int] | None = None,
        multi_grid: tuple[int, int, int] = (1, 1, 1),
        dilated_first: bool = False,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(
                f"there is no ResNet of depth {depth}; take {', '.join(map(str, DEPTHS))}"
            )
        if output_stride not in (4, 8, 16, 32):
            raise ValueError(f"a ResNet's output_stride is 4, 8, 16 or 32, not {output_stride}")
        block = BasicBlock if depth in (18, 34) else Bottleneck
        widths = (width, 2 * width, 4 * width, 8 * width)
        self.channels = tuple(each * block.expansion for each in widths)
        inside = stem[-1] if stem else width
        self.conv1 = deep_stem(*stem) if stem else nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stride = 4
        dilation = 1
        for number, (blocks, width) in enumerate(zip(DEPTHS[depth], widths), start=1):
            step = 1 if number == 1 else 2
            before = dilation
            if stride * step > output_stride:
                step = 1
                dilation *= 2
            stride *= step
            shares = multi_grid if number == 4 else (1,) * blocks
            first = (dilation if dilated_first else before) * shares[0]
            dilations = [first, *(dilation * share for share in shares[1:blocks])]
            self.add_module(f"layer{number}", stage(block, inside, width, step, dilations))
            inside = width * block.expansion
        initialize(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


def deep_stem(first: int, second: int, third: int) -> nn.Sequential:
    """Stack three 3x3 convolutions to 1/2; norm and ReLU after the third are the network's."""
    return nn.Sequential(
        *conv_bn_relu(3, first, stride=2),
        *conv_bn_relu(first, second),
        nn.Conv2d(second, third, 3, padding=1, bias=False),
    )


def stage(
    block: type[BasicBlock] | type[Bottleneck],
    inside: int,
    width: int,
    stride: int,
    dilations: Sequence[int],
) -> nn.Sequential:
    """Stack one block per dilation; the first one has the stride."""
    first, *others = dilations
    again = (block(width * block.expansion, width, 1, dilation) for dilation in others)
    return nn.Sequential(block(inside, width, stride, first), *again)


def stride_first(backbone: ResNet) -> ResNet:
    """Move strides to the first 1x1 of blocks, where the authors' network in Caffe has them."""
    for stage in (backbone.layer2, backbone.layer3, backbone.layer4):
        first = stage[0]
        first.conv1.stride = first.conv2.stride
        first.conv2.stride = (1, 1)
    return backbone


def initialize(module: nn.Module) -> None:
    """Initialize convolutions as He et al., by fan-out (section 3.4 of arXiv:1502.01852)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
