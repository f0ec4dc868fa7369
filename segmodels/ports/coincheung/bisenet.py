"""BiSeNet as CoinCheung/BiSeNet computes it ("bisenetv1").

It is the re-implementation whose weights most users have.

It differs from the authors' code in nearest-neighbor upsampling inside the context path, one gate
with a norm in the Feature Fusion Module, a head of 256 channels and auxiliary ones of 64, logits
upsampled without aligned corners, and losses mined by the loss of a pixel. Only the fusion and the
heads learn ten times faster. Images are normalized by Cityscapes' own statistics.

zllrunning/face-parsing.PyTorch took an early state of that code for the parts of a face. There the
backbone's own features at 1/8 replace the spatial path, the Feature Fusion Module squeezes to a
quarter, heads have no biases, logits are upsampled with aligned corners and images are normalized
by ImageNet's statistics. Its checkpoint, 79999_iter.pth, wants faces of about 512x512.
"""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.architectures.bisenet import BiSeNet, ContextPath, Paths, head
from segmodels.paper import Released
from segmodels.parts.layers import conv_bn, conv_bn_relu
from segmodels.parts.two_paths import FeatureFusion, pooled
from segmodels.ports.coincheung import CITYSCAPES, TRAINER, published
from segmodels.recipe import Recipe


class NearestContextPath(ContextPath):
    def resized(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[-2:], mode="nearest")


class NormalizedFusion(FeatureFusion):
    """One 1x1 convolution with a norm selects the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.select = conv_bn(256, 256, 1)


class BiSeNetCoinCheung(BiSeNet):
    """The paper's network with the upsampling, fusion, heads and losses of this code line."""

    align_corners = False
    recipe = replace(TRAINER, crop=(1024, 1024), scales=(0.75, 2.0), iterations=80_000, lr=0.01)

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, auxiliary_width=64)
        self.context_path = NearestContextPath()
        self.fusion = NormalizedFusion()
        self.classifier = head(256, 256, num_classes)
        self._initialize()

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Return head_lr (10 in this code) for the fusion and the heads, 1 for both paths."""
        slow = name.startswith(("context_path.", "spatial_path."))
        return 1.0 if slow else self.recipe.head_lr


# --- faces

FACE = (
    "background",
    "skin",
    "left brow",
    "right brow",
    "left eye",
    "right eye",
    "glasses",
    "left ear",
    "right ear",
    "earring",
    "nose",
    "mouth",
    "upper lip",
    "lower lip",
    "neck",
    "necklace",
    "cloth",
    "hair",
    "hat",
)


class ContextAndDetail(NearestContextPath):
    """image -> the backbone's features at 1/8, context at 1/16 and 1/8."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *_, fine, middle, deep = self.backbone(image)
        at_32 = self.arms[0](deep) + self.pooling(pooled(deep))
        at_16 = self.refines[0](self.resized(at_32, middle))
        at_8 = self.refines[1](self.resized(self.arms[1](middle) + at_16, fine))
        return fine, at_16, at_8


def plain_head(inside: int, width: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(inside, width), nn.Conv2d(width, num_classes, 1, bias=False))


class BiSeNetFaces(BiSeNetCoinCheung):
    """The network whose fusion reads the backbone instead of a spatial path."""

    align_corners = True
    recipe = Recipe(loss="coincheung_ohem:0.7")

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.spatial_path = nn.Identity()  # without parameters, and never called
        self.context_path = ContextAndDetail()
        self.fusion = FeatureFusion(squeezed=64)
        self.classifier = plain_head(256, 256, num_classes)
        self.auxiliaries = nn.ModuleList(
            [plain_head(128, 64, num_classes), plain_head(128, 64, num_classes)]
        )
        self._initialize()

    def features(self, image: Tensor) -> Paths:
        fine, *contexts = self.context_path(image)
        return Paths(self.fusion(fine, contexts[-1]), tuple(contexts))


# --- released weights

RENAMES = (
    (r"^cp\.resnet\.", "context_path.backbone."),
    (r"^cp\.conv_avg\.", "context_path.pooling."),
    (r"^cp\.arm(32|16)\.", lambda m: f"context_path.arms.{int(m[1] == '16')}."),
    (r"^cp\.conv_head(32|16)\.", lambda m: f"context_path.refines.{int(m[1] == '16')}."),
    (r"\.conv_atten\.", ".gate.0."),
    (r"\.bn_atten\.", ".gate.1."),
    (r"^sp\.conv(\d)\.", lambda m: f"spatial_path.{int(m[1]) - 1}."),
    (r"^sp\.conv_out\.", "spatial_path.3."),
    (r"^ffm\.convblk\.(conv|bn)\.", r"fusion.conv.\1."),
    (r"^ffm\.conv1?\.", "fusion.select.0."),
    (r"^ffm\.conv2\.", "fusion.select.2."),
    (r"^ffm\.bn\.", "fusion.select.1."),
    (r"^conv_out\.conv_out\.", "classifier.1."),
    (r"^conv_out\.conv\.", "classifier.0."),
    (r"^conv_out(32|16)\.conv_out\.", lambda m: f"auxiliaries.{int(m[1] == '16')}.1."),
    (r"^conv_out(32|16)\.conv\.", lambda m: f"auxiliaries.{int(m[1] == '16')}.0."),
    (r"\.conv\.conv\.", ".conv.0."),
    (r"\.conv\.bn\.", ".conv.1."),
    (r"\.conv\.(?=weight)", ".0."),
    (r"\.bn\.", ".1."),
)
RELEASED = {
    "bisenet_face_zllrunning": Released(
        BiSeNetFaces,
        "conv_out.conv_out.weight",
        RENAMES,
        row="bisenet/resnet18",
        data="CelebAMask-HQ",
        names=FACE,
    ),
    "bisenetv1_coincheung": Released(
        BiSeNetCoinCheung,
        "conv_out.conv_out.bias",
        RENAMES,
        normalization=CITYSCAPES,
        row="bisenet/resnet18",
        published=published(75.44, 77.45),
    ),
}
