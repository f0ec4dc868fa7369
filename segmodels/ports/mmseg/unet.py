"""U-Net as mmsegmentation 1.2.2 trains it on Cityscapes.

Its file is unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024. The network is padded, has five levels,
bilinear upsampling followed by a 1x1, and FCN heads on the last map and, in training, on the one
before it.
"""

import re
from collections.abc import Callable

from torch import Tensor, nn

from segmodels.architectures.unet import LEVELS, Up, UShaped, padded_double
from segmodels.families.dilated import fcn_head
from segmodels.paper import Published, Released
from segmodels.parts.layers import conv_bn_relu
from segmodels.ports import SCALES
from segmodels.recipe import Recipe


class UNetMMSeg(UShaped):
    """image -> the maps of the expansive path -> head on the finest; an auxiliary head at 1/2."""

    multiple = 16
    auxiliary_weight = 0.4
    recipe = Recipe(loss="cross_entropy:all")

    def __init__(self, num_classes: int) -> None:
        widths = [64 * 2**level for level in range(LEVELS)]
        pairs = zip([3, *widths], widths)
        contracting = [padded_double(inside, outside) for inside, outside in pairs]
        expansive = []
        for inside in reversed(widths[1:]):
            doubled = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            narrowed = nn.Sequential(doubled, *conv_bn_relu(inside, inside // 2, 1))
            expansive.append(Up(narrowed, padded_double(inside, inside // 2)))
        super().__init__(num_classes, contracting, expansive, widths[0])
        self.classifier = fcn_head(64, 64, num_classes)
        self.auxiliary = fcn_head(128, 64, num_classes)

    def features(self, image: Tensor) -> list[Tensor]:
        return self.ascent(super().features(image))

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.classifier(features[-1])

    def auxiliary_outputs(self, features: list[Tensor]) -> dict[str, Tensor]:
        return {"auxiliary": self.auxiliary(features[-2])}


# --- released weights


def layer(name: str) -> Callable[[re.Match], str]:
    """Return a rename to a stack in which convolution, norm and ReLU are three layers in a row."""

    def renamed(match: re.Match) -> str:
        *place, block, kind = match.groups()
        return f"{name.format(*place)}.{3 * int(block) + (kind == 'bn')}."

    return renamed


RENAMES = (
    (r"^backbone\.encoder\.(\d)\.[01]\.convs\.(\d)\.(conv|bn)\.", layer("contracting.{}")),
    (r"^backbone\.decoder\.(\d)\.", lambda match: f"expansive.{3 - int(match[1])}."),
    (r"\.conv_block\.convs\.(\d)\.(conv|bn)\.", layer(".conv")),
    (r"\.upsample\.interp_upsample\.1\.conv\.", ".up.1."),
    (r"\.upsample\.interp_upsample\.1\.bn\.", ".up.2."),
    (r"^decode_head\.conv_seg\.", "classifier.2."),
    (r"^decode_head\.convs\.(0)\.(conv|bn)\.", layer("classifier.0")),
    (r"^auxiliary_head\.conv_seg\.", "auxiliary.2."),
    (r"^auxiliary_head\.convs\.(0)\.(conv|bn)\.", layer("auxiliary.0")),
)
SOURCE = "mmsegmentation, configs/unet/metafile.yaml"
RELEASED = {
    "mmseg_unet_s5_d16_fcn": Released(
        UNetMMSeg,
        "decode_head.conv_seg.bias",
        RENAMES,
        row="unet/padded_bilinear",
        published=(
            Published(69.1, "cityscapes", "val", "whole", SOURCE),
            Published(71.05, "cityscapes", "val", SCALES, SOURCE),
        ),
    )
}
