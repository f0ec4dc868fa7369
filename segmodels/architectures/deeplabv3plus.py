"""DeepLabV3+: Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation
Chen, Zhu, Papandreou, Schroff, Adam. ECCV 2018. arXiv:1802.02611

DeepLabV3 sees an image at several rates of dilation side by side, and blurs what is small: its
logits are sixteen times coarser than the image. Here a decoder gives back the borders: the
pyramid's map is enlarged to 1/4, joined with a few channels of an early map, and refined by two
3x3. How dense the encoder's map is may be chosen anew at any time: stride is traded for dilation,
and no weight changes.

    image -> backbone ─┬─ 1/16 (or 1/8) ─┬─ 1x1 ──────────────┐
                       │                 ├─ 3x3, rate  6 (12) │
                       │                 ├─ 3x3, rate 12 (24) ├─ 1x1, dropout ─ enlarged ─┐
                       │                 ├─ 3x3, rate 18 (36) │                           │
                       │                 └─ mean of the image ┘                           │
                       └─ 1/4 ─ 1x1 to 48 channels ───────────────────────────────── together
                                                                  logits at 1/4 <- 1x1, 3x3, 3x3 ┘

Departures:
- Where the paper is silent, the authors' code decides (tensorflow/models, research/deeplab): every
  enlargement aligns corners, sizes are 16 k + 1 pixels, depthwise convolutions are not decayed, the
  classifier's bias learns at twice the rate, norms of Xception and of the head keep 0.9997 of their
  averages at each step and those of ResNet 0.95, and new layers are drawn as there.
- The paper puts a ReLU behind each depthwise convolution of Xception; in that code one stands in
  front of each instead, but for the last block.
- That code pads every image of PASCAL VOC to 513x513 before it is evaluated, and the mean over the
  image sees the border; here images are padded to the next 16 k + 1 pixels.
- The authors' ResNet strides in the last block of a stage, and its decoder reads a convolution
  inside stage 1. Here ResNet strides where torchvision's does, in a stage's first block, so that
  ImageNet weights of others fit; that block keeps the dilation before it, and the decoder reads
  what stage 1 returns. The deep stem and the weight decay are the authors'; that the multi-grid of
  DeepLabV3 was kept is recalled, not seen again.
- Xception starts from the authors' own ImageNet weights, as timm has them; ResNet from Gluon's of
  the same network, and its images are normalized as those weights expect.
- The authors' released checkpoint for PASCAL VOC saw COCO first, and its figures name that.
- The decoders of tables 1 and 2 are recalled of the paper, and no figure of them was seen.
- ResNet-50 is no row of the paper, and nobody published a figure for it under this recipe. Its
  "_flow" enlarges the pyramid's map by SFNet's flow alignment (arXiv:2002.10120), as no paper does.
- The batch and the number of steps are DeepLabV3's (arXiv:1706.05587), whose protocol the paper
  follows. The rate and the batch on Cityscapes are those of PASCAL VOC; the authors' page says only
  90k steps, crops of 769 and a batch above 8.
"""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.families.deeplab import DeepLab
from segmodels.module import Normalization
from segmodels.paper import Experiment, Published
from segmodels.parts.atrous_pyramid import AtrousPyramid, initialize, rates_at
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.backbones.timm_encoder import TimmEncoder
from segmodels.parts.flow_alignment import FlowAlignment
from segmodels.parts.layers import conv_bn_relu, resized, with_momentum
from segmodels.recipe import FEW_STEPS, Recipe

Backbone = Literal["xception65", "resnet50", "resnet101"]

# --- Modified Aligned Xception with 65 layers (section 3.2), with timm's parameter names

# Chollet's Xception (arXiv:1610.02357) was made deeper by MSRA and changed once more for dense
# prediction: strided separable convolutions replace its max poolings, so that stride can be traded
# for dilation, and a norm follows every depthwise convolution.

EPSILON = 1e-3  # of all norms, as in the authors' code
# Widths of a block's three convolutions, and the stride of the third.
ENTRY = (((128, 128, 128), 2), ((256, 256, 256), 2), ((728, 728, 728), 2))
MIDDLE = (((728, 728, 728), 1),) * 16
EXIT = (((728, 1024, 1024), 2), ((1536, 1536, 2048), 1))


def conv_norm(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outside, EPSILON)))


class SeparableConv(nn.Module):
    """A 3x3 for each channel and a 1x1 across channels, with norms, and ReLUs if `activated`."""

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
    """Three separable convolutions around a shortcut, the third with the stride (figure 4).

    A ReLU stands before each of them. The last block of all has no shortcut, and its ReLUs stand
    after them.
    """

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
        """Return the map before the third convolution, and the block's output."""
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
    aligned = True  # the corners of maps of 32 k + 1 pixels lie on the image's

    def __init__(self, output_stride: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 32, 3, stride=2), conv_norm(32, 64, 3))
        self.blocks = nn.Sequential()
        self.strided = []  # numbers of the blocks with a stride, or with dilation instead of it
        stride = 2
        dilation = 1
        inside = 64
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
                # The authors truncate at two deviations; for 37 million draws it would take seconds.
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


# --- the encoder's head and the decoder (sections 3.1, 3.2)


def separable_conv(inside: int, outside: int, *, dilation: int = 1) -> nn.Sequential:
    """Stack an atrous separable convolution (figure 3).

    It is a 3x3 for each channel and a 1x1 across channels, each with a norm and a ReLU.
    """
    depthwise = conv_bn_relu(inside, inside, dilation=dilation, groups=inside)
    return nn.Sequential(*depthwise, *conv_bn_relu(inside, outside, 1))


# --- network


def backbone_of(name: Backbone, output_stride: int, encoder: str | None = None) -> nn.Module:
    """Build a backbone, with the authors' momentum of norms, or a timm network as it is."""
    if encoder:
        return TimmEncoder(encoder, output_stride)
    if name == "xception65":
        return with_momentum(Xception65(output_stride), 3e-4)
    depth = int(name.removeprefix("resnet"))
    backbone = ResNet(depth, output_stride, stem=(64, 64, 128), multi_grid=(1, 2, 4))
    return with_momentum(backbone, 0.05)


class DeepLabV3Plus(DeepLab):
    """Backbone -> atrous pyramid at 1/16 or 1/8 -> decoder at 1/4."""

    def __init__(
        self,
        num_classes: int,
        backbone: Backbone = "xception65",
        output_stride: int = 16,
        separable: bool = True,
        early: Literal["conv2", "both", "none"] = "conv2",
        low: int = 48,
        convolutions: tuple[int, ...] = (256, 256),
        kernel: Literal[3, 1] = 3,
        alignment: Literal["bilinear", "flow"] = "bilinear",
        encoder: str | None = None,
    ) -> None:
        """`separable` makes the 3x3s of the pyramid and the decoder separable convolutions.

        `early` names the maps that the decoder joins: ResNet's conv2 at 1/4, both that and conv3 at
        1/8, or none, and then there is no decoder. It narrows each to `low` channels; behind the
        last, `convolutions` are the widths of its layers. `alignment` is how it enlarges a map to
        1/4. `output_stride` leaves the weights as they are. `encoder` is the name of a timm network
        that takes the backbone's place.
        """
        convolution = separable_conv if separable else conv_bn_relu
        refine = convolution if kernel == 3 else partial(conv_bn_relu, kernel=1)
        rates = rates_at(output_stride)
        made = backbone_of(backbone, output_stride, encoder)
        conv2, conv3, *_, deep = made.channels
        widths = (256,) if early == "none" else (256 + low, *convolutions)
        layers = [refine(*pair) for pair in pairwise(widths)]
        super().__init__(
            num_classes,
            made,
            context=AtrousPyramid(deep, 256, rates, convolution),
            classifier=nn.Sequential(*layers, nn.Conv2d(widths[-1], num_classes, 1)),
        )
        self.align_corners = self.align_corners and made.aligned
        self.middle = nn.ModuleList()
        if early == "both":
            self.middle += [conv_bn_relu(conv3, low, 1), refine(256 + low, 256)]
        self.low = conv_bn_relu(conv2, low, 1) if early != "none" else None
        flow = alignment == "flow" and early != "none"
        self.alignment = FlowAlignment(256, fine=low) if flow else None
        for part in (self.context, self.middle, self.low, self.classifier):
            if part is not None:
                initialize(with_momentum(part, 3e-4))
        nn.init.trunc_normal_(self.classifier[-1].weight, std=0.01, a=-0.02, b=0.02)

    def decode(self, features: list[Tensor]) -> Tensor:
        conv2, conv3, *_, deep = features
        x = self.context(deep)
        if self.middle:
            reduce, refine = self.middle
            x = refine(self.joined(reduce(conv3), x))
        if self.low is not None:
            x = self.joined(self.low(conv2), x, self.alignment)
        return self.classifier(x)

    def joined(self, low: Tensor, deep: Tensor, alignment: nn.Module | None = None) -> Tensor:
        """Concatenate the deep map, enlarged to the early one, and that."""
        if alignment is None:
            deep = resized(deep, low, self.align_corners)
        else:
            deep = alignment(low, deep)
        return torch.cat([deep, low], 1)  # (B, 256 + low, H/4, W/4)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        depthwise = parameter.ndim == 4 and parameter.shape[1] == 1
        return super().decays(name, parameter) and not depthwise


# --- experiments (section 4)

PAPER = Recipe(
    crop=(513, 513), scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), batch=16, iterations=30_000,
    lr=0.007, weight_decay=4e-5, decay_norms=False, schedule="poly", power=0.9,
)  # fmt: skip
UNIT_RANGE = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # pixels from -1 to 1
SCALES_AND_FLIP = "multiscale:0.5,0.75,1,1.25,1.5,1.75+flip"
ZOO = "model zoo of the authors' code"
COCO_FIRST = f"{ZOO}, trained on COCO first"
FINE = (("output_stride", 8),)  # at evaluation of a network that was trained at 16


def table(number: int, figures: Mapping[int, tuple[float, float]]) -> tuple[Published, ...]:
    """Return figures of whole images and of several scales with flip, by stride at evaluation."""
    rows = []
    for stride, (whole, several) in figures.items():
        source = f"paper, table {number}"
        options = () if stride == 16 else FINE
        rows.append(Published(whole, "voc", "val", "whole", source, options))
        rows.append(Published(several, "voc", "val", SCALES_AND_FLIP, source, options))
    return tuple(rows)


MAIN = Experiment(
    DeepLabV3Plus, PAPER, model={"backbone": "xception65", "output_stride": 16}, data="voc",
    starts_from="xception65.tf_in1k", normalization=UNIT_RANGE, budgets=FEW_STEPS,
    published=(
        *table(5, {16: (79.79, 81.21), 8: (80.02, 81.39)}),
        Published(82.20, "voc", "val", "whole", COCO_FIRST),
        Published(83.58, "voc", "val", SCALES_AND_FLIP, COCO_FIRST, FINE),
        Published(87.80, "voc", "test", SCALES_AND_FLIP, f"{COCO_FIRST} and on val too", FINE),
    ),
)  # fmt: skip
RESNET101 = MAIN.but(
    model={"backbone": "resnet101", "separable": False}, recipe={"weight_decay": 1e-4},
    starts_from="resnet101s.gluon_in1k", normalization=Normalization(),
    published=table(3, {16: (78.85, 80.22), 8: (79.35, 80.57)}),
)  # fmt: skip
RESNET50 = RESNET101.but(model={"backbone": "resnet50"}, starts_from="resnet50s.gluon_in1k")
ONE_3X3 = RESNET101.but(model={"convolutions": (256,)})

EXPERIMENTS = {
    "xception65": MAIN,
    "xception65_cityscapes": MAIN.but(
        recipe={"crop": (769, 769), "iterations": 90_000}, data="cityscapes",
        published=(
            Published(78.79, "cityscapes", "val", "whole", ZOO),
            Published(80.42, "cityscapes", "val", "multiscale:0.75,1,1.25+flip", ZOO, FINE),
        ),
    ),
    "resnet101": RESNET101,
    "resnet50": RESNET50,
    # SFNet's flow alignment (arXiv:2002.10120) in place of the decoder's bilinear enlargement
    "resnet50_flow": RESNET50.but(model={"alignment": "flow"}),
    # ablations: channels of the early map, where one 3x3 follows (table 1; 48 is "one_3x3")
    **{f"low_{low}": ONE_3X3.but(model={"low": low}) for low in (8, 16, 32, 64)},
    # the decoder's structure (table 2), and none at all
    "one_3x3": ONE_3X3,
    "three_3x3": RESNET101.but(model={"convolutions": (256, 256, 256)}),
    "one_3x3_128": RESNET101.but(model={"convolutions": (128,)}),
    "one_1x1": ONE_3X3.but(model={"kernel": 1}),
    "conv3_too": ONE_3X3.but(model={"early": "both"}),
    "no_decoder": RESNET101.but(model={"early": "none"}),
}  # fmt: skip
