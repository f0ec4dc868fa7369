"""DDRNet as mmsegmentation computes it (open-mmlab/mmsegmentation 1.2.2, configs/ddrnet).

It differs from the authors' code in no biases in the stem, and in an auxiliary output that is mined
like the main one.
"""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from segmodels.architectures.ddrnet import VARIANTS, DDRNet
from segmodels.module import SegmentationModule
from segmodels.paper import Released
from segmodels.parts.backbones.resnet import initialize
from segmodels.parts.dual_resolution import MMSEG, stem
from segmodels.ports.mmseg import published
from segmodels.recipe import Recipe


class DDRNetMMSeg(DDRNet):
    """mmseg's DDRNet; mining keeps at least a number of pixels on each device."""

    recipe = Recipe(loss="hrnet_ohem:0.9,131072")

    def __init__(self, num_classes: int, variant: str = "23_slim") -> None:
        super().__init__(num_classes, variant)
        self.backbone.stem = stem(VARIANTS[variant][0], bias=False)
        initialize(self.backbone.stem)

    def criterion(self, outputs: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Mine both outputs."""
        return SegmentationModule.criterion(self, outputs, label)


RENAMES = (
    (r"^backbone\.context_branch_layers\.2\.", "backbone.low."),
    (r"^backbone\.spatial_branch_layers\.2\.", "backbone.high."),
    (r"^backbone\.context_branch_layers\.(\d)\.", r"backbone.\1.low."),
    (r"^backbone\.spatial_branch_layers\.(\d)\.", r"backbone.\1.high."),
    (r"^backbone\.compression_1\.", "backbone.0.to_high."),
    (r"^backbone\.compression_2\.", "backbone.1.to_high."),
    (r"^backbone\.down_1\.", "backbone.0.to_low."),
    (r"^backbone\.down_2\.0\.", "backbone.1.to_low."),
    (r"^backbone\.down_2\.1\.conv\.", "backbone.1.to_low.3."),
    (r"^backbone\.down_2\.1\.bn\.", "backbone.1.to_low.4."),
    (r"^backbone\.0\.", "backbone.third.0."),
    (r"^backbone\.1\.", "backbone.fourth."),
    (r"^decode_head\.head\.", "classifier."),
    (r"^decode_head\.conv_seg\.", "classifier.5."),
    (r"^decode_head\.aux_head\.", "auxiliary."),
    (r"^decode_head\.aux_cls_seg\.", "auxiliary.5."),
    (r"^(classifier|auxiliary)\.1\.", r"\1.3."),
    (r"^(classifier|auxiliary)\.0\.bn\.", r"\1.0."),
    (r"^(classifier|auxiliary)\.0\.conv\.", r"\1.2."),
    *MMSEG,
)
PUBLISHED = {
    "23_slim": published("ddrnet", from_ImageNet=(77.84, 80.15)),
    "23": published("ddrnet", from_ImageNet=(79.99, 81.71)),
}
RELEASED = {
    f"mmseg_ddrnet{name}": Released(
        partial(DDRNetMMSeg, variant=name),
        "decode_head.conv_seg.bias",
        RENAMES,
        row=f"ddrnet/{name}",
        published=figures,
    )
    for name, figures in PUBLISHED.items()
}
