"""UPerNet (ResNet-50) as mmsegmentation 1.2.2 trains it for Cityscapes: the network is the row's."""

from segmodels.paper import Released
from segmodels.ports.mmseg import published
from segmodels.ports.mmseg.dilated import COMMON

RENAMES = (
    (r"^decode_head\.psp_modules\.", "context.context.levels."),
    (r"^decode_head\.bottleneck\.", "context.context.fusion."),
    (r"^decode_head\.lateral_convs\.", "context.laterals."),
    (r"^decode_head\.fpn_convs\.", "context.outs."),
    (r"^decode_head\.fpn_bottleneck\.", "context.fusion."),
    *COMMON,
)
RELEASED = {
    "mmseg_upernet_r50": Released(
        "upernet/resnet50",
        "decode_head.conv_seg.bias",
        RENAMES,
        published=published(
            "upernet", for_40k_iterations=(77.1, 78.37), for_80k_iterations=(78.19, 79.19)
        ),
    )
}
