"""Dilated networks as mmsegmentation 1.2.2 computes them, one line of a table each.

Its files are configs/*/*_r50-d8_4xb2-40k_cityscapes-512x1024. All have a stem of 32, 32 and 64
channels, 512 channels in the head and 256 in the auxiliary one, which has a weight of 0.4, logits
upsampled without aligned corners, and cross-entropies averaged over all pixels, ignored ones too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from segmodels.architectures.ccnet import CrissCross
from segmodels.architectures.isanet import Interlaced
from segmodels.architectures.nonlocalnet import Disentangled, NonLocal
from segmodels.families.dilated import (
    Around,
    Dilated,
    classifier,
    fcn_head,
    initialize_heads,
)
from segmodels.paper import Published, Released
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn_relu
from segmodels.parts.pyramid_pooling import PyramidPooling
from segmodels.parts.weight_files import State
from segmodels.ports.mmseg import published
from segmodels.ports.mmseg.deeplabv3plus import PYRAMID, Pyramid
from segmodels.recipe import Recipe

Renames = tuple[tuple[str, str], ...]


class DilatedMMSeg(Dilated):
    """ResNet-50-C, dilated to 1/8 -> a paper's context -> classifier."""

    recipe = Recipe(loss="cross_entropy:all")

    def __init__(self, num_classes: int, context: Callable[[], nn.Module]) -> None:
        backbone = ResNet(50, output_stride=8, stem=(32, 32, 64))
        super().__init__(
            num_classes,
            backbone,
            context(),
            classifier(512, num_classes),
            auxiliary=fcn_head(1024, 256, num_classes),
        )
        initialize_heads(self)


class InterlacedMMSeg(Interlaced):
    """Interlaced attention whose values have a bias; the result comes before the map."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        for attention in (self.long, self.short):
            attention.value = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fusion(torch.cat([self.context(x), x], 1))


def interlaced() -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(2048, 512), InterlacedMMSeg(512))


def around(operator: Callable[[int], nn.Module]) -> Around:
    """Build the head of most papers: an operator on 512 channels between 3x3 convolutions."""
    return Around(2048, 512, operator(512))


# --- mmsegmentation's names

COMMON = (
    (r"^backbone\.stem\.7\.", "backbone.bn1."),
    (r"^backbone\.stem\.", "backbone.conv1."),
    (r"^decode_head\.conv_seg\.", "classifier.1."),
    (r"^decode_head\.convs\.0\.", "context.before."),
    (r"^decode_head\.convs\.1\.", "context.behind."),
    (r"^decode_head\.conv_cat\.", "context.fusion."),
    (r"^auxiliary_head\.convs\.0\.", "auxiliary.0."),
    (r"^auxiliary_head\.conv_seg\.", "auxiliary.2."),
    (r"\.conv\.(?=weight$)", ".0."),
    (r"\.bn\.", ".1."),
    (r"\.gamma\.scale$", ".gamma"),
)


def with_one_entry(state: State) -> State:
    """Make gammas, which are numbers there, tensors of one entry."""
    gammas = {name: each.view(1) for name, each in state.items() if name.endswith(".gamma")}
    return {**state, **gammas}


@dataclass(frozen=True)
class Line:
    """A paper's row, its context, the names of its head, and this code line's figures."""

    row: str
    context: Callable[[], nn.Module]
    renames: Renames
    published: tuple[Published, ...]


NON_LOCAL = (
    (r"^decode_head\.d?nl_block\.(g|theta|phi)\.conv\.", r"context.operator.\1."),
    (r"^decode_head\.d?nl_block\.conv_out\.", "context.operator.out."),
    (r"^decode_head\.d?nl_block\.conv_mask\.", "context.operator.mask."),
)
LINES = {
    "fcn": Line(
        "fcn/resnet50",
        partial(around, nn.Identity),
        (),
        published("fcn", for_40k_iterations=(72.25, 73.36), for_80k_iterations=(73.61, 74.24)),
    ),
    "pspnet": Line(
        "pspnet/resnet50",
        partial(PyramidPooling, 2048, 512, align_corners=False),
        (
            (r"^decode_head\.psp_modules\.", "context.levels."),
            (r"^decode_head\.bottleneck\.", "context.fusion."),
        ),
        published("pspnet", for_40k_iterations=(77.85, 79.18), for_80k_iterations=(78.55, 79.79)),
    ),
    "deeplabv3": Line(
        "deeplabv3/resnet50",
        partial(Pyramid, 2048, 512),
        PYRAMID,
        published(
            "deeplabv3", for_40k_iterations=(79.09, 80.45), for_80k_iterations=(79.32, 80.57)
        ),
    ),
    "nonlocal": Line(
        "nonlocalnet/resnet50",
        partial(around, NonLocal),
        NON_LOCAL,
        published("nonlocal_net", for_40k_iterations=(78.24,), for_80k_iterations=(78.01,)),
    ),
    "dnl": Line(
        "nonlocalnet/disentangled",
        partial(around, Disentangled),
        NON_LOCAL,
        published("dnlnet", for_40k_iterations=(78.61,), for_80k_iterations=(79.33,)),
    ),
    "ccnet": Line(
        "ccnet/r2",
        partial(around, CrissCross),
        (
            (r"^decode_head\.cca\.(query|key|value)_conv\.", r"context.operator.\1."),
            (r"^decode_head\.cca\.gamma\.", "context.operator.gamma."),
        ),
        published("ccnet", for_40k_iterations=(77.76, 78.87), for_80k_iterations=(79.03, 80.16)),
    ),
    "isanet": Line(
        "isanet/resnet101_relu",
        interlaced,
        (
            (r"^decode_head\.in_conv\.", "context.0."),
            (r"^decode_head\.global_relation\.", "context.1.long."),
            (r"^decode_head\.local_relation\.", "context.1.short."),
            (r"^decode_head\.out_conv\.", "context.1.fusion."),
            (r"\.output_project\.", ".out."),
            (r"\.(query|key|value)_project\.", r".\1."),
        ),
        published("isanet", for_40k_iterations=(78.49, 79.44), for_80k_iterations=(78.68, 80.25)),
    ),
}


RELEASED = {
    f"mmseg_{name}_r50_d8": Released(
        partial(DilatedMMSeg, context=line.context),
        "decode_head.conv_seg.bias",
        (*line.renames, *COMMON),
        convert=with_one_entry,
        row=line.row,
        published=line.published,
    )
    for name, line in LINES.items()
}
