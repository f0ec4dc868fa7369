"""PIDNet as mmsegmentation computes it (open-mmlab/mmsegmentation 1.2.2, configs/pidnet).

It differs from the authors' code in no biases in the stem, dropout before the main classifier,
training heads that read their branch before its ReLU, an auxiliary loss divided by the sum of class
weights, and a boundary label that leaves out ignored pixels: a boundary is wherever two labeled
neighbors differ, in four directions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.architectures.pidnet import VARIANTS, PIDNet, dilated
from segmodels.paper import Released
from segmodels.parts.backbones.resnet import initialize
from segmodels.parts.dual_resolution import MMSEG, stem
from segmodels.parts.losses import IGNORED
from segmodels.ports.mmseg import published
from segmodels.recipe import Recipe


class PIDNetMMSeg(PIDNet):
    """mmseg's PIDNet; mining keeps at least a number of pixels on each device."""

    recipe = Recipe(loss="hrnet_ohem:0.9,131072")

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.backbone.stem = stem(VARIANTS["s"][0], bias=False)
        self.classifier.insert(5, nn.Dropout2d(0.1))
        initialize(self.backbone.stem)

    def seen(self, x: Tensor) -> Tensor:
        return x

    def edges(self, label: Tensor) -> Tensor:
        return dilated(steps(label))

    def auxiliary_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        weighted = self.class_weights is not None
        return self.pixel_loss(logits, label, "cross_entropy" if weighted else "cross_entropy:all")


def steps(label: Tensor) -> Tensor:
    """Return pixels that differ from a neighbor, (B, H, W) bool.

    The neighbors are the pixels above, to the right, and to the lower right and lower left.
    """
    padded = F.pad(label, (1, 1, 1, 1), value=IGNORED)

    def beside(row: int, column: int) -> Tensor:
        return padded[
            :, 1 + row : padded.shape[1] - 1 + row, 1 + column : padded.shape[2] - 1 + column
        ]

    around = torch.stack([beside(-1, 0), beside(0, 1), beside(1, 1), beside(1, -1)])
    return ((around != label) & (around != IGNORED) & (label != IGNORED)).any(0)


RENAMES = (
    (r"^backbone\.([ipd])_branch_layers\.", lambda match: f"{match[1]}."),
    (r"^i\.", "integral."),
    (r"^p\.", "proportional."),
    (r"^d\.", "derivative."),
    (r"^(integral|proportional|derivative)\.0\.", r"backbone.third.\1."),
    (r"^(integral|proportional|derivative)\.1\.", r"backbone.fourth.\1."),
    (r"^(integral|proportional|derivative)\.2\.", r"backbone.\1."),
    (r"\.derivative\.(?=conv|downsample)", ".derivative.0."),
    (r"^backbone\.(compression|pag|diff)_1\.", r"backbone.third.\1."),
    (r"^backbone\.(compression|pag|diff)_2\.", r"backbone.fourth.\1."),
    (r"\.pag\.", ".lateral."),
    (r"\.diff\.", ".difference."),
    (r"\.f_([pi])\.", r".of_\1."),
    (r"^backbone\.dfm\.", "fusion."),
    (r"^decode_head\.i_head\.", "classifier."),
    (r"^decode_head\.p_head\.", "auxiliary."),
    (r"^decode_head\.d_head\.", "boundary."),
    (r"^decode_head\.conv_seg\.", "classifier.6."),
    (r"^decode_head\.p_cls_seg\.", "auxiliary.5."),
    (r"^decode_head\.d_cls_seg\.", "boundary.5."),
    (r"^(classifier|auxiliary|boundary)\.conv\.bn\.", r"\1.0."),
    (r"^(classifier|auxiliary|boundary)\.conv\.conv\.", r"\1.2."),
    (r"^(classifier|auxiliary|boundary)\.norm\.", r"\1.3."),
    *MMSEG,
    (r"^context\.processes\.", "context.process."),
)
PUBLISHED = published("pidnet", from_ImageNet=(78.74, 80.87))
RELEASED = {
    "mmseg_pidnet_s": Released(
        PIDNetMMSeg, "decode_head.conv_seg.bias", RENAMES, row="pidnet/s", published=PUBLISHED
    )
}
