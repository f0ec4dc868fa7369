"""BiSeNetV2 as mmsegmentation computes it.

Its activations are CoinCheung's, upsampling in the aggregation is bilinear, as in the paper; the
pointwise convolutions of the aggregation have a bias. The boosters are plain heads of two
convolutions, as wide as the square of their stride; every loss is a cross-entropy averaged over all
pixels, ignored ones too.
"""

from torch import nn

from segmodels.architectures.bisenetv2 import BiSeNetV2, initialize
from segmodels.paper import Released
from segmodels.parts.layers import conv_bn_relu
from segmodels.ports.mmseg import published
from segmodels.recipe import Recipe


def head(inside: int, width: int, convolutions: int, num_classes: int) -> nn.Sequential:
    layers = [conv_bn_relu(inside if n == 0 else width, width) for n in range(convolutions)]
    return nn.Sequential(
        nn.Sequential(*layers), nn.Dropout2d(0.1), nn.Conv2d(width, num_classes, 1)
    )


class BiSeNetV2MMSeg(BiSeNetV2):
    """The paper's network with the activations, heads and losses of this code line."""

    recipe = Recipe(loss="cross_entropy:all")

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, activated=True)
        for keep in (self.aggregation.detail_keep, self.aggregation.semantic_keep):
            keep[1] = nn.Conv2d(128, 128, 1)
        self.classifier = head(128, 1024, 1, num_classes)
        inside = self.semantic.channels
        self.boosters = nn.ModuleDict(
            {str(n + 2): head(inside[n], 4 ** (n + 2), 2, num_classes) for n in range(4)}
        )
        initialize(self)


RENAMES = (
    (r"^backbone\.detail\.detail_branch\.", "detail."),
    (r"^backbone\.semantic\.stage4_CEBlock\.gap\.1\.", "semantic.context.norm."),
    (r"^backbone\.semantic\.stage4_CEBlock\.conv_gap\.", "semantic.context.context."),
    (r"^backbone\.semantic\.stage4_CEBlock\.conv_last\.", "semantic.context.last."),
    (r"^backbone\.semantic\.stage1\.conv_first\.", "semantic.stages.0.conv."),
    (r"^backbone\.semantic\.stage1\.convs\.", "semantic.stages.0.down."),
    (r"^backbone\.semantic\.stage1\.fuse_last\.", "semantic.stages.0.fuse."),
    (r"^backbone\.semantic\.stage(\d)\.", lambda m: f"semantic.stages.{int(m[1]) - 1}."),
    (r"\.conv1\.", ".gather."),
    (r"\.conv2\.0\.", ".project."),
    (r"\.dwconv\.", ".expand."),
    (r"\.0\.depthwise_conv\.", ".0."),
    (r"\.0\.pointwise_conv\.", ".1."),
    (r"^backbone\.bga\.(detail|semantic)_dwconv\.1\.conv\.", r"aggregation.\1_keep.1."),
    (r"^backbone\.bga\.(detail|semantic)_dwconv\.", r"aggregation.\1_keep."),
    (r"^backbone\.bga\.detail_down\.", "aggregation.detail_down."),
    (r"^backbone\.bga\.semantic_conv\.0\.", "aggregation.semantic_up."),
    (r"^backbone\.bga\.conv\.", "aggregation.fuse."),
    (r"^decode_head\.convs\.", "classifier.0."),
    (r"^decode_head\.conv_seg\.", "classifier.2."),
    (r"^auxiliary_head\.(\d)\.convs\.", lambda m: f"boosters.{int(m[1]) + 2}.0."),
    (r"^auxiliary_head\.(\d)\.conv_seg\.", lambda m: f"boosters.{int(m[1]) + 2}.2."),
    (r"\.conv\.(?=weight)", ".0."),
    (r"\.bn\.", ".1."),
)
PUBLISHED = published(
    "bisenetv2",
    batch_16=(73.21, 75.74),
    OHEM=(73.57, 75.80),
    batch_32=(75.76, 77.79),
    half_precision=(73.07, 75.13),
)
RELEASED = {
    "mmseg_bisenetv2": Released(
        BiSeNetV2MMSeg,
        "decode_head.conv_seg.bias",
        RENAMES,
        row="bisenetv2/bilateral",
        published=PUBLISHED,
    )
}
