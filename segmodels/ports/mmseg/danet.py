"""DANet as mmsegmentation 1.2.2 computes it, around the row `danet/resnet50`.

Its configuration is configs/danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024.py. What differs: a
narrow deep stem, no multi-grid, upsampling without aligned corners, losses averaged over all
pixels, ignored ones too, and an auxiliary head on stage 3, whose loss has a weight of 0.4.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from segmodels.architectures.danet import DANet
from segmodels.families.dilated import fcn_head, initialize_before_norms, initialize_classifier
from segmodels.paper import Released
from segmodels.parts.backbones.resnet import ResNet
from segmodels.ports.mmseg import published
from segmodels.ports.mmseg.dilated import COMMON, with_one_entry
from segmodels.recipe import Recipe


class DANetMMSeg(DANet):
    """ResNet-50-C, dilated to 1/8 -> both attentions -> classifier of their sum."""

    align_corners = False
    recipe = Recipe(loss="cross_entropy:all")

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, depth=50)
        self.auxiliary = fcn_head(1024, 256, num_classes)
        initialize_before_norms(self.branches)
        initialize_before_norms(self.auxiliary)
        initialize_classifier(self.classifier)
        initialize_classifier(self.auxiliary)

    @staticmethod
    def resnet(depth: int) -> nn.Module:
        return ResNet(depth, output_stride=8, stem=(32, 32, 64))

    def features(self, image: Tensor) -> list[Tensor]:
        *_, middle, deep = self.backbone(image)
        return [*self.attended(deep), middle]

    def decode(self, features: list[Tensor]) -> Tensor:
        return super().decode(features[:-1])

    def auxiliary_outputs(self, features: list[Tensor]) -> dict[str, Tensor]:
        *attended, middle = features
        return super().auxiliary_outputs(attended) | {"auxiliary": self.auxiliary(middle)}

    def criterion(self, outputs: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        terms = super().criterion(outputs, label)
        return terms | {"auxiliary": 0.4 * terms["auxiliary"]}


def of_attention(match: re.Match[str]) -> str:
    """Rename what belongs to the position (pam) or the channel attention (cam)."""
    name = {"p": "position", "c": "channel"}[match[1]]
    if match[2] == "_conv_seg":
        return f"heads.{name}.1."
    place = {"_in_conv": 0, "": 1, "_out_conv": 2}[match[2]]
    return f"branches.{name}.{place}."


RENAMES = (
    (r"^decode_head\.([pc])am(|_in_conv|_out_conv|_conv_seg)\.", of_attention),
    (r"\.(query|key|value)_project\.", r".\1."),
    *COMMON,
)
RELEASED = {
    "mmseg_danet_r50_d8": Released(
        DANetMMSeg,
        "decode_head.conv_seg.bias",
        RENAMES,
        convert=with_one_entry,
        row="danet/resnet50",
        published=published("danet", for_40k_iterations=(78.74,), for_80k_iterations=(79.34,)),
    )
}
