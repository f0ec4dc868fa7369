"""STDC as mmsegmentation computes it (mmsegmentation 1.2, configs/stdc).

Every head has dropout and a bias; the auxiliary ones do not align corners. The detail head has a
channel for edges and one for the rest, and a Dice with squares. Mining keeps at least 10,000 pixels
per image and divides by all of them. A batch without a label has no detail loss here; in
mmsegmentation it learns that the frame of an unlabeled image is an edge.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.architectures.stdc import LAYERS, STDC
from segmodels.families.dilated import fcn_head
from segmodels.paper import Released
from segmodels.parts.losses import pixel_loss
from segmodels.parts.resize import compute_dtype
from segmodels.ports.mmseg import published
from segmodels.recipe import Recipe


class STDCMMSeg(STDC):
    detail_channels = 2
    recipe = Recipe(loss="mmseg_ohem:0.7,10000")

    @staticmethod
    def head(inside: int, width: int, outside: int) -> nn.Sequential:
        return fcn_head(inside, width, outside)

    def criterion(self, outputs: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Align corners in the main output alone."""
        terms = {}
        for name in ("main", "auxiliary16", "auxiliary8"):
            terms[name] = pixel_loss(
                self.recipe.loss,
                outputs[name],
                label,
                align_corners=name == "main",
                class_weights=self.class_weights,
            )
        return terms | self.guidance(outputs["detail"], label)

    def detail_terms(self, logits: Tensor, edge: Tensor) -> dict[str, Tensor]:
        logits = F.interpolate(
            logits.to(compute_dtype(logits)), edge.shape[-2:], mode="bilinear", align_corners=True
        )
        both = torch.cat([~edge, edge], 1).to(logits.dtype)
        return {
            "detail_bce": F.binary_cross_entropy_with_logits(logits, both),
            "detail_dice": dice_of_both(logits.sigmoid(), both),
        }


def dice_of_both(p: Tensor, label: Tensor) -> Tensor:
    """Return the mean of one ratio per image over both channels, with squares below."""
    p = p.flatten(1)  # (B, 2, H, W) -> (B, 2*H*W)
    label = label.flatten(1)  # the same
    both = 2 * (p * label).sum(1)
    return (1 - both / (p.square().sum(1) + label.square().sum(1) + 2e-3)).mean()


# --- released weights

RENAMES = (
    (r"\.conv\.weight", ".0.weight"),
    (r"\.bn\.", ".1."),
    (r"^backbone\.backbone\.stages\.([01])\.", r"backbone.stem.\1."),
    (r"^backbone\.backbone\.stages\.([234])\.", lambda m: f"backbone.stages.{int(m[1]) - 2}."),
    (r"\.layers\.0\.", ".first."),
    (r"\.layers\.([123])\.", lambda m: f".rest.{int(m[1]) - 1}."),
    (r"\.downsample\.", ".down."),
    (r"^backbone\.arms\.", "context_path.arms."),
    (r"\.conv_layer\.", ".conv."),
    (r"\.atten_conv_layer\.1\.", ".gate."),
    (r"^backbone\.convs\.", "context_path.refines."),
    (r"^backbone\.conv_avg\.", "context_path.pooling."),
    (r"^backbone\.ffm\.conv0\.", "fusion.conv."),
    (r"^backbone\.ffm\.attention\.([12])\.0\.", lambda m: f"fusion.select.{2 * int(m[1]) - 2}."),
    (r"^decode_head\.", "classifier."),
    (r"^auxiliary_head\.0\.", "auxiliaries.auxiliary8."),
    (r"^auxiliary_head\.1\.", "auxiliaries.auxiliary16."),
    (r"^auxiliary_head\.2\.", "detail."),
    (r"\.convs\.0\.", ".0."),
    (r"\.conv_seg\.", ".2."),
)
CONSTANTS = (r"\.(fusion|laplacian)_kernel$",)
PUBLISHED = {
    "stdc1": published("stdc", from_scratch=(71.82, 73.89), from_ImageNet=(74.94, 76.97)),
    "stdc2": published("stdc", from_scratch=(73.15, 76.13), from_ImageNet=(76.67, 78.67)),
}
RELEASED = {
    f"mmseg_{depth}": Released(
        partial(STDCMMSeg, depth=depth),
        "decode_head.conv_seg.weight",
        RENAMES,
        CONSTANTS,
        row=f"stdc/{depth}",
        published=PUBLISHED[depth],
    )
    for depth in LAYERS
}
