"""PSPNet: Pyramid Scene Parsing Network
Zhao, Shi, Qi, Wang, Jia. CVPR 2017. arXiv:1612.01105

A network that does not see the river mistakes a boat beside a boathouse for a car. Pyramid pooling
gives every pixel its surroundings: means over the whole map, its quarters, ninths and
thirty-sixths, each brought back to the map's size and put beside it.

    image -> ResNet, dilated to 1/8 ─┬─ layer 4 ─┬───────────────────────────────────┐
                                     │           └─ means of 1, 2x2, 3x3, 6x6, 1x1 ──┴─ 3x3, dropout, 1x1 -> logits at 1/8
                                     └─ layer 3 -> 3x3, dropout, 1x1: auxiliary, in training

Departures:
- The recipe is that of the authors' PyTorch code (hszhao/semseg), a retraining of their own: its
  figures stand here. Those of the paper were reached in Caffe.
- The crop is blurred, in the authors' code the image that it is cut from: its outermost two pixels
  differ.
- ImageNet weights are timm's of the same network; the authors' own cannot be fetched by name.
- 200 epochs are counted as 37,000 steps: 185 full batches of 16 in 2975 images. Eight devices of
  the authors' make 186.
- The ablations are those of the paper's tables 1 and 2, which were run on ADE20K; no figure was seen
  of any under this recipe.
- Images smaller than a window of 713x713, as at scale 0.5, are evaluated as they are, padded to
  8k + 1 pixels on the right and at the bottom; the authors' test pads them all around to a whole
  window.
"""

from typing import Literal

from torch import nn

from segmodels.families.dilated import Dilated, classifier, fcn_head
from segmodels.paper import Experiment, Published, Released
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.backbones.timm_encoder import TimmEncoder
from segmodels.parts.layers import AdaptiveAvgPool, AdaptiveMaxPool, conv_bn_relu
from segmodels.parts.pyramid_pooling import PARTS, PyramidPooling
from segmodels.recipe import Recipe

# --- network and losses (sections 3.2, 3.3)


class PSPNet(Dilated):
    """Dilated ResNet -> pyramid pooling -> classifier at 1/8; in training a head on layer 3."""

    align_corners = True

    def __init__(
        self,
        num_classes: int,
        depth: int = 50,
        auxiliary_weight: float = 0.4,
        parts: tuple[int, ...] = PARTS,
        pooling: Literal["average", "maximum"] = "average",
        reduced: bool = True,
        encoder: str | None = None,
    ) -> None:
        """`reduced` narrows the pooled maps by a 1x1, so that all together are as wide as the map.

        `encoder` is the name of a timm network that takes the place of the ResNet.
        """
        if encoder:
            backbone = TimmEncoder(encoder, output_stride=8)
        else:
            backbone = ResNet(depth, output_stride=8, stem=(64, 64, 128), dilated_first=True)
        *_, middle, deep = backbone.channels
        super().__init__(
            num_classes,
            backbone,
            context=PyramidPooling(
                deep,
                512,
                align_corners=backbone.aligned,
                width=None if reduced else deep,
                projection=conv_bn_relu if reduced else unchanged,
                parts=parts,
                pool=AdaptiveAvgPool if pooling == "average" else AdaptiveMaxPool,
            ),
            classifier=classifier(512, num_classes),
            auxiliary=fcn_head(middle, 256, num_classes) if auxiliary_weight else None,
        )
        self.align_corners = backbone.aligned
        self.auxiliary_weight = auxiliary_weight

    def valid_side(self, side: int) -> int:
        """Return 8k + 1: with aligned corners, every eighth pixel lies on a logit; else 8k."""
        return side + (self.align_corners - side) % 8


def unchanged(inside: int, outside: int, kernel: int) -> nn.Module:
    return nn.Identity()


# --- experiments (section 5.4)

EPOCH = 2975 // 16
SLIDING = "slide:713x713/476x476+flip"  # the authors' test mirrors each window, at one scale too
SCALES = f"multiscale:0.5,0.75,1,1.25,1.5,1.75+{SLIDING}"
README = "README of the authors' semseg"


def published(single: float, several: float) -> tuple[Published, ...]:
    return (
        Published(single, "cityscapes", "val", SLIDING, README),
        Published(several, "cityscapes", "val", SCALES, README),
    )


MAIN = Experiment(
    PSPNet,
    Recipe(
        crop=(713, 713), scales=(0.5, 2.0), continuous=True, rotation=10.0, rotation_chance=0.5, blur="kernel:5", blur_chance=0.5,
        batch=16, iterations=200 * EPOCH, lr=0.01, head_lr=10.0, weight_decay=1e-4, schedule="poly", power=0.9, inference=SLIDING,
    ),
    model={"depth": 50}, starts_from="resnet50s.gluon_in1k", published=published(77.30, 78.38),
)  # fmt: skip

EXPERIMENTS = {
    "resnet50": MAIN,
    "resnet101": MAIN.but(
        model={"depth": 101}, starts_from="resnet101s.gluon_in1k", published=published(78.63, 79.29),
    ),
    # section 5.2, tables 1 and 2
    "one_mean": MAIN.but(model={"parts": (1,)}),
    "maxima": MAIN.but(model={"pooling": "maximum"}),
    "not_reduced": MAIN.but(model={"reduced": False}),
    "no_auxiliary": MAIN.but(model={"auxiliary_weight": 0.0}),
}  # fmt: skip

# --- released weights: the authors' hszhao/semseg

RENAMES = (
    (r"^layer0\.7\.", "backbone.bn1."),
    (r"^layer0\.", "backbone.conv1."),
    (r"^layer(\d)\.", r"backbone.layer\1."),
    (r"^ppm\.features\.(\d)\.([12])\.", lambda m: f"context.levels.{m[1]}.1.{int(m[2]) - 1}."),
    (r"^cls\.([01])\.", r"context.fusion.\1."),
    (r"^cls\.4\.", "classifier.1."),
    (r"^aux\.([01])\.", r"auxiliary.0.\1."),
    (r"^aux\.4\.", "auxiliary.2."),
)
RELEASED = {
    "pspnet_r50_semseg": Released("pspnet/resnet50", "cls.4.bias", RENAMES),
    "pspnet_r101_semseg": Released("pspnet/resnet101", "cls.4.bias", RENAMES),
}
