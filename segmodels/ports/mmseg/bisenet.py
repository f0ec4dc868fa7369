"""BiSeNet (ResNet18) as mmsegmentation computes it.

It differs from the authors' code in nearest-neighbor upsampling inside the context path, one gate
with a norm and a ReLU before the sigmoid in the Feature Fusion Module, a head of 256 channels and
auxiliary ones of 64 with dropout, logits upsampled without aligned corners, and cross-entropies
averaged over all pixels, ignored ones too.
"""

from torch import nn

from segmodels.architectures.bisenet import BiSeNet
from segmodels.families.dilated import fcn_head
from segmodels.paper import Released
from segmodels.parts.layers import conv_bn_relu
from segmodels.parts.two_paths import FeatureFusion
from segmodels.ports.coincheung.bisenet import NearestContextPath
from segmodels.ports.mmseg import published
from segmodels.recipe import Recipe


class RectifiedFusion(FeatureFusion):
    """A fusion whose gate is never below one half, since its sigmoid follows a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.select = conv_bn_relu(256, 256, 1)


class BiSeNetMMSeg(BiSeNet):
    """The paper's network with the upsampling, fusion, heads and losses of this code line."""

    align_corners = False
    recipe = Recipe(loss="cross_entropy:all")

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, auxiliary_width=64)
        self.context_path = NearestContextPath()
        self.fusion = RectifiedFusion()
        self.classifier = fcn_head(256, 256, num_classes)
        self.auxiliaries = nn.ModuleList(fcn_head(128, 64, num_classes) for _ in range(2))
        self._initialize()


RENAMES = (
    (r"^backbone\.", ""),
    (r"^context_path\.gap_conv\.1\.", "context_path.pooling."),
    (r"^context_path\.arm(32|16)\.", lambda m: f"context_path.arms.{int(m[1] == '16')}."),
    (r"^context_path\.conv_head(32|16)\.", lambda m: f"context_path.refines.{int(m[1] == '16')}."),
    (r"\.conv_layer\.", ".conv."),
    (r"\.atten_conv_layer\.1\.", ".gate."),
    (r"^spatial_path\.layer(\d)\.", lambda m: f"spatial_path.{int(m[1]) - 1}."),
    (r"^ffm\.conv1\.", "fusion.conv."),
    (r"^ffm\.conv_atten\.0\.", "fusion.select."),
    (r"^decode_head\.convs\.0\.", "classifier.0."),
    (r"^decode_head\.conv_seg\.", "classifier.2."),
    (r"^auxiliary_head\.(\d)\.convs\.0\.", lambda m: f"auxiliaries.{1 - int(m[1])}.0."),
    (r"^auxiliary_head\.(\d)\.conv_seg\.", lambda m: f"auxiliaries.{1 - int(m[1])}.2."),
    (r"\.conv\.conv\.", ".conv.0."),
    (r"\.conv\.bn\.", ".conv.1."),
    (r"\.conv\.(?=weight)", ".0."),
    (r"\.bn\.", ".1."),
)
PUBLISHED = published(
    "bisenetv1",
    from_scratch=(74.44, 77.05),
    from_ImageNet=(74.37, 76.91),
    from_ImageNet_batch_32=(75.16, 77.24),
)
RELEASED = {
    "mmseg_bisenetv1_r18": Released(
        BiSeNetMMSeg,
        "decode_head.conv_seg.bias",
        RENAMES,
        row="bisenet/resnet18",
        published=PUBLISHED,
    )
}
