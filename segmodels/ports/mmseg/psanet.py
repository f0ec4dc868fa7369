"""PSANet as mmsegmentation 1.2.2 computes it, around the row `psanet/resnet50`.

Its configuration is configs/psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024.py. What differs: the
narrow stem, upsampling without aligned corners, maps of 97x97; a map with an even side is halved
without aligned corners too. The 1x1 behind the attention is padded, as if it were a 3x3: a frame of
zeros, normalized, comes around its map, which is then resized with it.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from segmodels.architectures.psanet import Joined, PointwiseAttention, halved, mask_of
from segmodels.paper import Released
from segmodels.parts.layers import resized
from segmodels.ports.mmseg import published
from segmodels.ports.mmseg.dilated import COMMON, DilatedMMSeg


def odd(x: Tensor) -> bool:
    height, width = x.shape[-2:]
    return height % 2 == width % 2 == 1


def halved_mmseg(x: Tensor) -> Tensor:
    """Halve a map with the corners aligned only where both sides are odd."""
    if odd(x):
        return halved(x)
    height, width = x.shape[-2:]
    return F.interpolate(x, (height // 2, width // 2), mode="bilinear", align_corners=False)


def enlarged_mmseg(x: Tensor, like: Tensor) -> Tensor:
    """Bring a map back to the size of the one that was halved, the way that was."""
    return resized(x, like, align_corners=odd(like))


def context(mask: int) -> Joined:
    attention = PointwiseAttention(2048, mask, shrink=halved_mmseg, enlarge=enlarged_mmseg)
    attention.projection[0].padding = (1, 1)
    return Joined(2048, 512, attention)


class PSANetMMSeg(DilatedMMSeg):
    """ResNet-50-C, dilated to 1/8 -> point-wise attention beside it -> classifier."""

    def __init__(self, num_classes: int, mask: int = 97) -> None:
        super().__init__(num_classes, partial(context, mask))


RENAMES = (
    (r"^decode_head\.bottleneck\.", "context.fusion."),
    (r"^decode_head\.proj\.", "context.attention.projection."),
    (r"^decode_head\.(reduce|attention)\.", r"context.attention.branches.collect.\1."),
    (r"^decode_head\.(reduce|attention)_p\.", r"context.attention.branches.distribute.\1."),
    (r"\.attention\.0\.(?=conv|bn)", ".attention."),
    (r"\.attention\.1\.weight$", ".attention.3.weight"),
    *COMMON,
)
RELEASED = {
    "mmseg_psanet_r50_d8": Released(
        PSANetMMSeg,
        "decode_head.conv_seg.bias",
        RENAMES,
        row="psanet/resnet50",
        published=published(
            "psanet", for_40k_iterations=(77.63, 79.04), for_80k_iterations=(77.24, 78.69)
        ),
        options_of=mask_of,
    )
}
