"""BiSeNetV2 as CoinCheung/BiSeNet computes it: the re-implementation whose weights most users have.

It differs from the paper's figures in a ReLU after the depthwise convolutions, a norm and a ReLU
after the context embedding, a ReLU after the aggregation and nearest-neighbor upsampling in it. Its
boosters enlarge their features twofold and spend (stride)^2 channels on it; all five losses are
mined by the loss of a pixel. Images are normalized by Cityscapes' own statistics.
"""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.architectures.bisenetv2 import BiSeNetV2, GuidedAggregation, initialize
from segmodels.paper import Released
from segmodels.parts.layers import conv_bn_relu
from segmodels.ports.coincheung import CITYSCAPES, TRAINER, published


class NearestAggregation(GuidedAggregation):
    def resized(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[-2:], mode="nearest")


def head(inside: int, width: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        conv_bn_relu(inside, width), nn.Dropout(0.1), nn.Conv2d(width, num_classes, 1)
    )


def booster(inside: int, stride: int, num_classes: int) -> nn.Sequential:
    enlarge = nn.Sequential(nn.Upsample(scale_factor=2), conv_bn_relu(128, stride**2))
    return nn.Sequential(
        conv_bn_relu(inside, 128), nn.Dropout(0.1), enlarge, nn.Conv2d(stride**2, num_classes, 1)
    )


class BiSeNetV2CoinCheung(BiSeNetV2):
    """The paper's network with the activations, heads and losses of this code line."""

    recipe = replace(TRAINER, crop=(512, 1024), scales=(0.25, 2.0), iterations=150_000, lr=0.005)

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, activated=True)
        self.aggregation = NearestAggregation(128)
        self.aggregation.fuse.append(nn.ReLU(inplace=True))
        self.classifier = head(128, 1024, num_classes)
        inside = self.semantic.channels
        self.boosters = nn.ModuleDict(
            {str(n + 2): booster(inside[n], 4 * 2**n, num_classes) for n in range(4)}
        )
        initialize(self)

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Return head_lr (10 in this code) for the heads; neither branch is pretrained."""
        return self.recipe.head_lr if name.startswith(("classifier.", "boosters.")) else 1.0


RENAMES = (
    (r"^detail\.S(\d)\.", lambda m: f"detail.{int(m[1]) - 1}."),
    (r"^segment\.S1S2\.left\.", "semantic.stages.0.down."),
    (r"^segment\.S1S2\.", "semantic.stages.0."),
    (r"^segment\.S5_5\.bn\.", "semantic.context.norm."),
    (r"^segment\.S5_5\.conv_gap\.", "semantic.context.context."),
    (r"^segment\.S5_5\.conv_last\.", "semantic.context.last."),
    (r"^segment\.S(\d)(_4)?\.", lambda m: f"semantic.stages.{int(m[1]) - 2}."),
    (r"^(semantic\.stages\.[123]\.\d)\.conv1\.", r"\1.gather."),
    (r"^(semantic\.stages\.[123]\.\d)\.conv2\.", r"\1.project."),
    (r"\.dwconv1?\.", ".expand.0."),
    (r"\.dwconv2\.", ".expand.1."),
    (r"\.shortcut\.(\d)\.", lambda m: f".shortcut.{int(m[1]) // 2}.{int(m[1]) % 2}."),
    (r"^bga\.(left1|right2)\.([01])\.", r"bga.\1.0.\2."),
    (r"^bga\.(left1|right2)\.2\.", r"bga.\1.1."),
    (r"^bga\.left1\.", "aggregation.detail_keep."),
    (r"^bga\.left2\.([01])\.", r"aggregation.detail_down.0.\1."),
    (r"^bga\.right1\.", "aggregation.semantic_up."),
    (r"^bga\.right2\.", "aggregation.semantic_keep."),
    (r"^bga\.conv\.", "aggregation.fuse."),
    (r"^head\.conv_out\.1\.", "classifier.2."),
    (r"^head\.conv\.", "classifier.0."),
    (r"^aux(\d)(_4)?\.conv_out\.0\.1\.", r"boosters.\1.2.1."),
    (r"^aux(\d)(_4)?\.conv_out\.1\.", r"boosters.\1.3."),
    (r"^aux(\d)(_4)?\.conv\.", r"boosters.\1.0."),
    (r"\.conv\.(?=weight)", ".0."),
    (r"\.bn\.", ".1."),
)
RELEASED = {
    "bisenetv2_coincheung": Released(
        BiSeNetV2CoinCheung,
        "head.conv_out.1.bias",
        RENAMES,
        normalization=CITYSCAPES,
        row="bisenetv2/bilateral",
        published=published(74.95, 76.53),
    ),
}
