"""SETR: Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers
Zheng, Lu, Zhao, Zhu, Luo, Wang, Fu, Feng, Xiang, Torr, Zhang. CVPR 2021. arXiv:2012.15840

A network of convolutions shrinks the image layer by layer until each pixel has seen enough of it.
Here the image is cut into patches of 16x16 once, and is never shrunk again: a plain ViT of 24
blocks lets every patch see all others from the first block on. What the patches have learned is
turned back into a map by one of three decoders.

    image -> ViT, patches of 16x16 ─┬─ 10 ─┬─ 15 ─┬─ 20 ─┬─ 24, maps at 1/16
                                    └──────┴──────┴──────┴─ heads: auxiliary, in training
    naive   24 -> LN, 1x1, 1x1 -> logits at 1/16
    PUP     24 -> LN, 4 x (3x3, twice the side), where a 1x1 stands before the last -> logits at 1/2
    MLA     24 -> LN, 1x1 ─┬──────────────────── 3x3 -> 3x3, 3x3, 4 times the side ─┐
            18 -> LN, 1x1 ─+─┬────────────────── 3x3 -> 3x3, 3x3, 4 times the side ─┤
            12 -> LN, 1x1 ───+─┬──────────────── 3x3 -> 3x3, 3x3, 4 times the side ─┼─ 3x3 -> logits at 1/4
             6 -> LN, 1x1 ─────+──────────────── 3x3 -> 3x3, 3x3, 4 times the side ─┘

Departures:
- The authors' network takes square images of one size; here the table of positions is resized
  bilinearly for other images, as they resize that of the ImageNet weights for their crops.
- Their ImageNet weights of ViT-L/16 have no name in timm; the rows start from those that its
  authors trained later ("augreg"). `--init FILE` takes a file of theirs.
- Images are normalized with ImageNet's mean, as theirs are, though ViT's weights were trained with
  0.5; and a token that MLA takes away before the first block is in its weights, as in theirs.
- mmcv ends the rate of every group at `min_lr`. Here the heads, whose rate is ten times the
  backbone's, end at ten times `min_lr`.
- They train and test on images of 1025x2049, one pixel larger than Cityscapes has; colors are not
  disturbed here.
- A 1x1 behind an enlargement by 4, in PUP's auxiliary heads, stands before it: the result is equal,
  and takes a sixteenth of the operations.
- The paper's own figures and its results at several scales were not seen; the figures are those of
  the authors' README.
"""

from math import isqrt
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, Released
from segmodels.parts.backbones.vit import SIZES, Size, ViT
from segmodels.parts.layers import conv_bn_relu
from segmodels.parts.weight_files import State
from segmodels.recipe import Recipe

EPS = 1e-6  # of layer norms

# --- decoders (section 3.2)


class MapNorm(nn.LayerNorm):
    """Layer norm of every place of a map (B, C, h, w).

    The result is contiguous: what torch exports of a strided one holds for batches above 1 alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, 3)).movedim(3, 1).contiguous()


class Head(nn.Module):
    """Layer norm, a convolution and a classifier: the naive decoder, and the auxiliary heads."""

    def __init__(self, width: int, num_classes: int, kernel: int, enlargement: int) -> None:
        super().__init__()
        self.norm = MapNorm(width, EPS)
        self.mixed = conv_bn_relu(width, 256, kernel, bias=True)
        self.classifier = nn.Conv2d(256, num_classes, 1)
        self.enlargement = enlargement

    def forward(self, x: Tensor) -> Tensor:
        return enlarged(self.classifier(self.mixed(self.norm(x))), self.enlargement)


class ProgressiveUpsampling(nn.Module):
    """PUP: no step enlarges the map by more than 2; the last one is the upsampling of logits."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = MapNorm(width, EPS)
        widths = (width, 256, 256, 256)
        self.layers = nn.ModuleList(conv_bn_relu(each, 256, bias=True) for each in widths)
        self.classifier = nn.Conv2d(256, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.layers
        x = first(self.norm(x))
        for layer in others:
            x = layer(enlarged(x, 2))  # 1/16 -> 1/8 -> 1/4 -> 1/2
        return self.classifier(x)


class Aggregation(nn.Module):
    """Maps of four depths -> each with the sum of all deeper ones, shallowest first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(MapNorm(width, EPS) for _ in range(4))
        self.reduced = nn.ModuleList(conv_bn_relu(width, 256, 1) for _ in range(4))
        self.smoothed = nn.ModuleList(conv_bn_relu(256, 256) for _ in range(4))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x = None
        sums = []
        for norm, reduced, each in reversed(list(zip(self.norms, self.reduced, maps))):
            own = reduced(norm(each))
            x = own if x is None else x + own
            sums.insert(0, x)
        return [smoothed(each) for smoothed, each in zip(self.smoothed, sums)]


class MultiLevelDecoder(nn.Module):
    """MLA: the four maps, each enlarged behind convolutions of its own, side by side."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(conv_bn_relu(256, 128), conv_bn_relu(128, 128)) for _ in range(4)
        )
        self.classifier = nn.Conv2d(4 * 128, num_classes, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        streams = []
        for branch, each in zip(self.branches, maps):
            streams.append(enlarged(branch(each), 4, align_corners=True))
        return self.classifier(torch.cat(streams, 1))


def enlarged(x: Tensor, factor: int, align_corners: bool = False) -> Tensor:
    if factor == 1:
        return x
    size = [factor * side for side in x.shape[-2:]]
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


# --- network (section 3)

Decoder = Literal["naive", "pup", "mla"]

# The blocks that auxiliary heads read, by decoder and number of blocks
AUXILIARY = {
    ("naive", 24): (10, 15, 20),
    ("naive", 12): (3, 6, 9),
    ("pup", 24): (10, 15, 20, 24),
    ("pup", 12): (5, 8, 10, 12),
    ("mla", 24): (6, 12, 18, 24),
    ("mla", 12): (3, 6, 9, 12),
}


class SETR(SegmentationModule):
    """ViT -> one of three decoders; in training heads on maps of several depths."""

    multiple = 16
    auxiliary_weight = 0.4

    def __init__(
        self, num_classes: int, decoder: Decoder = "pup", size: Size = "large", table: int = 48
    ) -> None:
        """`table` is the side of the table of positions: that of the crop, in patches."""
        super().__init__(num_classes)
        width, depth, _ = SIZES[size]
        self.depths = AUXILIARY[decoder, depth]
        self.backbone = ViT(
            size,
            table,
            token_attends=decoder != "mla",
            taken=sorted({*self.depths, depth}),
            final_norm=False,
            eps=EPS,
        )
        self.aggregation: nn.Module = nn.Identity()
        if decoder == "mla":
            self.aggregation = Aggregation(width)
            self.decoder = MultiLevelDecoder(num_classes)
            heads = [nn.Conv2d(256, num_classes, 1, bias=False) for _ in self.depths]
        elif decoder == "pup":
            self.decoder = ProgressiveUpsampling(width, num_classes)
            heads = [Head(width, num_classes, 3, enlargement=4) for _ in self.depths]
        else:
            self.decoder = Head(width, num_classes, 1, enlargement=1)
            heads = [Head(width, num_classes, 1, enlargement=1) for _ in self.depths]
        self.auxiliary = nn.ModuleList(heads)

    def encoder(self) -> nn.Module:
        return self.backbone

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Return head_lr in the heads; what MLA sums up is a part of the authors' backbone."""
        return 1.0 if name.startswith("aggregation.") else super().lr_scale(name, parameter)

    def features(self, image: Tensor) -> list[Tensor]:
        maps = [self.backbone.as_map(tokens, image) for tokens in self.backbone(image)]
        return self.aggregation(maps)  # each (B, C, h, w) at 1/16

    def decode(self, features: list[Tensor]) -> Tensor:
        several = isinstance(self.decoder, MultiLevelDecoder)
        return self.decoder(features if several else features[-1])

    def auxiliary_outputs(self, features: list[Tensor]) -> dict[str, Tensor]:
        outputs = {}
        for depth, head, each in zip(self.depths, self.auxiliary, features):
            outputs[f"block{depth}"] = head(each)
        return outputs


# --- experiments (section 4)

SLIDING = "slide:768x768/512x512"
README = "README of the authors' SETR"
LARGE = "vit_large_patch16_384.augreg_in21k_ft_in1k"
BASE = "vit_base_patch16_384.orig_in21k_ft_in1k"
DEIT = "deit_base_distilled_patch16_384.fb_in1k"


def published(miou: float, data: str = "cityscapes", protocol: str = SLIDING) -> tuple:
    return (Published(miou, data, "val", protocol, README),)


MAIN = Experiment(
    SETR,
    Recipe(
        crop=(768, 768), scales=(0.5, 2.0), continuous=True, cat_max_ratio=0.75, batch=8, iterations=80_000,
        loss="cross_entropy:all", lr=0.01, head_lr=10.0, weight_decay=0.0, decay_norms=False,
        schedule="poly", power=0.9, min_lr=1e-4, inference=SLIDING,
    ),
    model={"decoder": "pup", "size": "large", "table": 48}, starts_from=LARGE, published=published(79.34),
)  # fmt: skip
HALF = {"iterations": 40_000}
SLOW = {"lr": 0.002}
NAIVE = MAIN.but(model={"decoder": "naive"}, published=published(77.90))
MLA = MAIN.but(model={"decoder": "mla"}, recipe=SLOW, published=published(77.24))

EXPERIMENTS = {
    "pup": MAIN,
    "naive": NAIVE,
    "mla": MLA,
    "pup_40k": MAIN.but(recipe=HALF, published=published(78.39)),
    "naive_40k": NAIVE.but(recipe=HALF, published=published(77.37)),
    "mla_40k": MLA.but(recipe=HALF, published=published(76.65)),
    # smaller backbones, ViT-B/16 and DeiT-B/16
    "naive_base": NAIVE.but(model={"size": "base"}, starts_from=BASE, published=published(76.25)),
    "naive_deit": NAIVE.but(model={"size": "base"}, starts_from=DEIT, published=published(78.66)),
    "pup_deit": MAIN.but(model={"size": "base"}, starts_from=DEIT, published=published(79.45)),
    "mla_deit": MLA.but(model={"size": "base"}, starts_from=DEIT, published=published(78.98)),
}  # fmt: skip

# --- released weights: the authors' fudan-zvg/SETR


def options_of(state: State) -> dict[str, Any]:
    """Return the side of the table of positions: that of the crop they were trained with."""
    positions = state.get("backbone.pos_embed")
    return {} if positions is None else {"table": isqrt(positions.shape[1] - 1)}


def renames_of_a_head(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    return (
        (rf"^{theirs}\.norm\.", f"{ours}.norm."),
        (rf"^{theirs}\.conv_0\.", f"{ours}.mixed.0."),
        (rf"^{theirs}\.syncbn_fc_0\.", f"{ours}.mixed.1."),
        (rf"^{theirs}\.conv_1\.", f"{ours}.classifier."),
    )


AUXILIARY_RENAMES = renames_of_a_head(r"auxiliary_head\.(\d)", r"auxiliary.\1")
NAIVE_RENAMES = (*renames_of_a_head("decode_head", "decoder"), *AUXILIARY_RENAMES)
PUP_RENAMES = (
    (r"^decode_head\.norm\.", "decoder.norm."),
    (r"^decode_head\.conv_([0-3])\.", r"decoder.layers.\1.0."),
    (r"^decode_head\.syncbn_fc_(\d)\.", r"decoder.layers.\1.1."),
    (r"^decode_head\.conv_4\.", "decoder.classifier."),
    *AUXILIARY_RENAMES,
)
MLA_RENAMES = (
    (r"^backbone\.norm_(\d)\.", r"aggregation.norms.\1."),
    (r"^backbone\.mla\.mla_p(\d)_1x1\.", lambda m: f"aggregation.reduced.{int(m[1]) - 2}."),
    (r"^backbone\.mla\.mla_p(\d)\.", lambda m: f"aggregation.smoothed.{int(m[1]) - 2}."),
    (
        r"^decode_head\.mlahead\.head(\d)\.(\d)\.",
        lambda m: f"decoder.branches.{int(m[1]) - 2}.{int(m[2]) // 3}.{int(m[2]) % 3}.",
    ),
    (r"^decode_head\.cls\.", "decoder.classifier."),
    (r"^auxiliary_head\.(\d)\.aux\.", r"auxiliary.\1."),
)
UNUSED = (r"\.conv_seg\.",)  # the classifier of mmsegmentation's base class, which no head calls
RELEASED = {
    "setr_naive": Released(
        "setr/naive", "decode_head.conv_1.bias", NAIVE_RENAMES, UNUSED, options_of=options_of
    ),
    "setr_pup": Released(
        "setr/pup", "decode_head.conv_4.bias", PUP_RENAMES, UNUSED, options_of=options_of
    ),
    "setr_mla": Released(
        "setr/mla", "decode_head.cls.bias", MLA_RENAMES, UNUSED, options_of=options_of
    ),
}
