"""LR-ASPP: Searching for MobileNetV3
Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam. ICCV 2019.
arXiv:1905.02244

A head for phones. DeepLabV3's pyramid shrinks to a 1x1 and one gate: averages over windows almost
as large as the image say which of the channels count. A second 1x1 makes logits of a fine map too,
and both are added at 1/8. The backbone was searched for classification; its last stage, made for a
thousand classes, keeps half of its channels here.

    image -> MobileNetV3 ─┬─ 1/8 ─────────────────────────────────────── 1x1 ─┐
                          └─ 1/32 (1/16) ─┬─ 1x1 ───────────┐                 add -> logits at 1/8
                                          └─ averages over ─ times ─ enlarged, 1x1 ┘
                                             windows, 1x1, gate

Departures:
- The networks are those of the authors' code (tensorflow/models, research/deeplab and research/slim)
  and of its model zoo: stride 32, a hard sigmoid as the gate, the fine map in front of the block's
  gate, and windows of 769 pixels that move by 128 pixels down and 160 to the right. Figure 10, which
  is recalled and not seen again, has stride 16 and a sigmoid.
- Neither the paper's tables nor its recipe could be seen: the figures are the model zoo's, the crop
  too, and the rest of the recipe is mmsegmentation's for its own LR-ASPP. That colors are disturbed
  there is left out.
- R-ASPP, the wider one, is what the authors' code makes of MobileNetV2: a 1x1 and the mean of the
  image, joined by a 1x1, without the fine map.
- An image smaller than the window is averaged as a whole.
- "imagenet" is ours: the last stage at full width, so that ImageNet weights fit, at stride 16. timm
  trained them with a norm's epsilon of 1e-5; here it is 1e-3.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.families.deeplab import DeepLab
from segmodels.module import Normalization
from segmodels.paper import Experiment, Published
from segmodels.parts.atrous_pyramid import AtrousPyramid, initialize
from segmodels.parts.backbones.mobilenetv3 import MobileNetV3, Size
from segmodels.parts.layers import conv_bn_relu, resized, with_momentum
from segmodels.recipe import FEW_STEPS, Recipe

# --- head (section 6.4, figure 10)

WINDOW = 769  # pixels; the crop of the training, of which the average is one
STEP = (128, 160)  # pixels


class WindowGate(nn.Module):
    """A gate for each channel, made of averages over windows, and enlarged to the map's size."""

    def __init__(self, inside: int, width: int, window: int, step: tuple[int, int]) -> None:
        super().__init__()
        self.window = window
        self.step = step
        self.conv = nn.Conv2d(inside, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        down, right = self.step
        rows, across = averaging_and_enlarging(height, self.window, down, x)
        columns, along = averaging_and_enlarging(width, self.window, right, x)
        gate = F.hardsigmoid(self.conv(rows @ x @ columns.T))  # (B, width, windows, windows)
        return across @ gate @ along.T


def averaging_and_enlarging(
    side: int, window: int, step: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the matrices (windows, side) and (side, windows) of a side of any length.

    A window that is not whole is left out; one that is larger than the side is cut. The last window
    stands there twice, since a graph for any size takes two at least, and counts once.
    """
    window = torch.sym_min(window, side)
    count = (side - window) // step + 1
    number = torch.arange(count + 1, device=like.device)
    place = torch.arange(side, device=like.device)
    first = step * number.clamp(max=count - 1)[:, None]
    inside = (first <= place) & (place < first + window)
    # Bilinear with aligned corners: the first and the last window lie on the first and last place.
    position = place * (count - 1) / torch.sym_max(side - 1, 1)
    near = (1 - (position[:, None] - number).abs()).clamp(min=0)
    return inside.to(like.dtype) / window, near.to(like.dtype)


class Gated(nn.Module):
    """A 1x1, times a gate."""

    def __init__(self, inside: int, width: int, gate: nn.Module) -> None:
        super().__init__()
        self.conv = conv_bn_relu(inside, width, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.gate(x)


def lite(inside: int, width: int, output_stride: int) -> Gated:
    """Build LR-ASPP, whose windows are the same pixels at every stride."""
    window = (WINDOW - 1) // output_stride + 1
    down, right = STEP
    step = (down // output_stride, right // output_stride)
    return Gated(inside, width, WindowGate(inside, width, window, step))


# --- network


class LRASPP(DeepLab):
    """MobileNetV3 -> gated 1x1 -> logits, added to those of the fine map."""

    def __init__(
        self,
        num_classes: int,
        backbone: Size = "large",
        output_stride: int = 32,
        reduced: bool = True,
        head: Literal["lr_aspp", "r_aspp"] = "lr_aspp",
        filters: int = 128,
    ) -> None:
        """`reduced` halves the last stage (RF2 in the paper's tables).

        `output_stride` leaves the weights as they are.
        """
        made = MobileNetV3(backbone, output_stride, reduced)
        fine, deep = made.channels
        if head == "lr_aspp":
            context = lite(deep, filters, output_stride)
        else:
            context = AtrousPyramid(deep, filters, rates=())
        super().__init__(num_classes, made, context, nn.Conv2d(filters, num_classes, 1))
        self.low = nn.Conv2d(fine, num_classes, 1) if head == "lr_aspp" else None
        self.spacing = output_stride
        for part in (self.context, self.classifier, self.low):
            if part is not None:
                initialize(with_momentum(part, 3e-4))

    def decode(self, features: list[Tensor]) -> Tensor:
        fine, deep = features
        x = self.context(deep)
        if self.low is None:
            return self.classifier(x)
        return self.classifier(resized(x, fine, self.align_corners)) + self.low(fine)


# --- experiments (section 6.4)

CITYSCAPES = Recipe(
    crop=(769, 769), scales=(0.5, 2.0), continuous=True, cat_max_ratio=0.75, batch=16,
    iterations=320_000, lr=0.01, weight_decay=5e-4, schedule="poly", power=0.9, min_lr=1e-4,
)  # fmt: skip
UNIT_RANGE = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # pixels from -1 to 1


def published(miou: float) -> tuple[Published, ...]:
    return (Published(miou, "cityscapes", "val", "whole", "model zoo of the authors' code"),)


MAIN = Experiment(
    LRASPP, CITYSCAPES, model={"backbone": "large", "output_stride": 32, "reduced": True},
    starts_from="scratch", normalization=UNIT_RANGE, published=published(72.41),
    budgets=FEW_STEPS,
)  # fmt: skip

EXPERIMENTS = {
    "large": MAIN,
    "small": MAIN.but(model={"backbone": "small"}, published=published(68.99)),
    # ablations: the stride, the last stage, the head, its filters
    "large_stride_16": MAIN.but(model={"output_stride": 16}),
    "large_full_width": MAIN.but(model={"reduced": False}),
    "large_r_aspp": MAIN.but(model={"head": "r_aspp"}),
    "large_256_filters": MAIN.but(model={"filters": 256}),
    "imagenet": MAIN.but(
        model={"output_stride": 16, "reduced": False},
        starts_from="mobilenetv3_large_100.ra_in1k", normalization=Normalization(),
    ),
}  # fmt: skip
