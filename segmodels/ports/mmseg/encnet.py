"""EncNet as mmsegmentation 1.2.2 trains it (encnet_r50-d8_4xb2-40k_cityscapes-512x1024).

It has a narrower stem, joins no stages, drops whole channels and does not align corners; its
auxiliary loss has twice the weight.
"""

from torch import nn

from segmodels.architectures.encnet import EncNet
from segmodels.families.dilated import initialize_heads
from segmodels.paper import Released
from segmodels.parts.backbones.resnet import initialize
from segmodels.ports.mmseg import published
from segmodels.recipe import Recipe


class EncNetMMSeg(EncNet):
    """Dilated ResNet-C -> 3x3 -> channels weighted by their encoding -> classifier."""

    align_corners = False
    auxiliary_weight = 0.4
    stem = (32, 32, 64)
    dropout = nn.Dropout2d
    recipe = Recipe(loss="cross_entropy:all")

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, lateral=False)
        initialize(self.reduction)
        initialize_heads(self)


# --- released weights

RENAMES = (
    (r"^backbone\.stem\.7\.", "backbone.bn1."),
    (r"^backbone\.stem\.", "backbone.conv1."),
    (r"^decode_head\.bottleneck\.", "reduction."),
    (r"^decode_head\.enc_module\.encoding_project\.", "context.projection."),
    (r"^decode_head\.enc_module\.encoding\.0\.", "context.encoding."),
    (r"^decode_head\.enc_module\.encoding\.1\.", "context.norm."),
    (r"^decode_head\.enc_module\.fc\.0\.", "context.factors."),
    (r"^decode_head\.se_layer\.", "presence."),
    (r"^decode_head\.conv_seg\.", "classifier.1."),
    (r"^auxiliary_head\.convs\.0\.", "auxiliary.0."),
    (r"^auxiliary_head\.conv_seg\.", "auxiliary.2."),
    (r"^(reduction|context\.projection|auxiliary\.0)\.conv\.", r"\1.0."),
    (r"^(reduction|context\.projection|auxiliary\.0)\.bn\.", r"\1.1."),
)
RELEASED = {
    "mmseg_encnet_r50_d8": Released(
        EncNetMMSeg,
        "decode_head.conv_seg.bias",
        RENAMES,
        row="encnet/resnet50",
        published=published(
            "encnet", for_40k_iterations=(75.67, 77.08), for_80k_iterations=(77.94, 79.13)
        ),
    )
}
