"""Segmenter: Transformer for Semantic Segmentation
Strudel, Garcia, Laptev, Schmid. ICCV 2021. arXiv:2105.05633

A plain ViT, and nothing convolutional behind it. In the linear decoder each patch is classified by
itself. In the mask decoder the classes join in: each has a token of its own, which attends to all
patches and to the other classes, and at the end a patch belongs to the class whose token it is most
similar to.

    image -> ViT, patches of 16x16 -> patches at 1/16 ─ linear ─────────────────── logits at 1/16
                                        └─ linear ─┬─ 2 blocks ─ patches P ─┬──────┘
                                class tokens ──────┘           └ classes C ─┘
    logits = LN(cosine(P[i] W, C[k] V)), the norm over the classes k of a patch i

Departures:
- Images are resized, cropped and mirrored as in the authors' code; colors are not disturbed here.
- The authors start from AugReg weights that timm has by the same names; those of ViT-B/8 are theirs
  alone, and the row starts from timm's at another size.
- The README counts 322M parameters in the network for Cityscapes, and 334M in that for ADE20K. Both
  are ViT-L/16 with a mask decoder, of one block and of two: the number of blocks for Cityscapes is
  read from this count.
- Their evaluation enlarges an image whose shorter side is below that of the window; here it is
  evaluated as it is. They average probabilities over scales, and logits over windows, as here.
- On ADE20K and PASCAL Context they resize each image so that its shorter side is 512, 640 or 520
  pixels, in training too; here images keep their size, and no mode computes these protocols. The
  background of PASCAL Context is a class of theirs: `data.background=True`.
- The README counts 106M parameters for ViT-B with a mask decoder; its code makes 103M.
- Weight decay is 0. If it is not, tokens, position tables and both projections of the mask decoder
  are spared here; timm's rule, which the authors use, spares no matrix.
"""

from math import isqrt
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import Normalization, SegmentationModule
from segmodels.paper import Experiment, Options, Published, PublishedSpeed, Released
from segmodels.parts.backbones.vit import SIZES, Block, Size, ViT, initialize
from segmodels.parts.weight_files import State
from segmodels.recipe import Recipe

EPS = 1e-5  # of layer norms
HEAD = 64  # channels of a head

# --- decoders (section 3.2)


class LinearDecoder(nn.Module):
    """Each patch's token -> logits (equation 3)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, num_classes)
        initialize(self)

    def forward(self, patches: Tensor) -> Tensor:
        return self.head(patches)  # (B, N, C) -> (B, N, K)


class MaskDecoder(nn.Module):
    """Patches and a token of each class, together through blocks; logits are their cosines."""

    def __init__(self, width: int, num_classes: int, blocks: int) -> None:
        super().__init__()
        self.proj_dec = nn.Linear(width, width)
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, width))
        self.blocks = nn.ModuleList(
            Block(width, width // HEAD, dropout=0.1, eps=EPS) for _ in range(blocks)
        )
        self.decoder_norm = nn.LayerNorm(width, EPS)
        self.proj_patch = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.proj_classes = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.mask_norm = nn.LayerNorm(num_classes, EPS)
        initialize(self)
        nn.init.trunc_normal_(self.cls_emb, std=0.02)

    def forward(self, patches: Tensor) -> Tensor:
        count = self.cls_emb.shape[1]
        classes = self.cls_emb.expand(patches.shape[0], -1, -1)
        x = torch.cat([self.proj_dec(patches), classes], 1)  # (B, N + K, C)
        for block in self.blocks:
            x = block(x)
        patches = self.decoder_norm(x[:, :-count]) @ self.proj_patch
        classes = self.decoder_norm(x[:, -count:]) @ self.proj_classes
        similarity = F.normalize(patches, dim=2) @ F.normalize(classes, dim=2).mT
        return self.mask_norm(similarity)  # (B, N, K)


# --- network (section 3)

Decoder = Literal["mask", "linear"]


class Segmenter(SegmentationModule):
    """ViT -> patches -> linear or mask decoder -> logits at 1/16, or at 1/8 if patches are 8x8."""

    def __init__(
        self,
        num_classes: int,
        decoder: Decoder = "mask",
        size: Size = "large",
        patch: int = 16,
        table: int = 48,
        blocks: int = 1,
        distilled: bool = False,
    ) -> None:
        """`blocks` counts those of the mask decoder; `distilled` is DeiT, with one more token.

        `table` is the side of the table of positions: that of the crop, in patches.
        """
        super().__init__(num_classes)
        self.multiple = patch
        tokens = ("cls_token", "dist_token") if distilled else ("cls_token",)
        self.backbone = ViT(size, table, patch, tokens=tokens, drop_path=0.1, eps=EPS)
        width, *_ = SIZES[size]
        if decoder == "mask":
            self.decoder = MaskDecoder(width, num_classes, blocks)
        else:
            self.decoder = LinearDecoder(width, num_classes)

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> Tensor:
        return self.backbone.as_map(self.backbone(image)[0], image)  # (B, C, h, w)

    def decode(self, features: Tensor) -> Tensor:
        logits = self.decoder(features.flatten(2).mT)  # (B, h w, K)
        return logits.mT.contiguous().unflatten(2, features.shape[-2:])  # (B, K, h, w)


# --- experiments (section 4)

README = "README of the authors' segmenter"
SLIDING = "slide:768x768/736x736"
SCALES = f"multiscale:0.5,0.75,1,1.25,1.5,1.75+flip+{SLIDING}"
VIT = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def published(
    single: float, several: float, data: str, short: int = 0, options: Options = ()
) -> tuple[Published, ...]:
    """Make figures at one scale and at several; images are resized if a `short` side is given."""
    one, many = SLIDING, SCALES
    if short:
        one = f"short side {short}, sliding"
        many = f"short side {short}, scales 0.5 to 1.75, flip, sliding"
    return (
        Published(single, data, "val", one, README, options=options),
        Published(several, data, "val", many, README, options=options),
    )


def speed(fps: float) -> tuple[PublishedSpeed, ...]:
    return (PublishedSpeed(fps, (512, 512), "not stated", README),)


MAIN = Experiment(
    Segmenter,
    Recipe(
        crop=(768, 768), scales=(0.5, 2.0), continuous=True, cat_max_ratio=0.75, batch=8, iterations=216 * 372,
        lr=0.01, weight_decay=0.0, decay_norms=False, schedule="poly", power=0.9, min_lr=1e-5, inference=SLIDING,
    ),
    model={"decoder": "mask", "size": "large", "patch": 16, "table": 48, "blocks": 1, "distilled": False},
    normalization=VIT, starts_from="vit_large_patch16_384.augreg_in21k_ft_in1k",
    published=published(79.1, 81.3, "cityscapes"),
)  # fmt: skip
ADE20K = MAIN.but(
    data="ade20k", model={"size": "base", "table": 32, "blocks": 2},
    recipe={"crop": (512, 512), "iterations": 64 * 2527, "lr": 0.001, "inference": "slide:512x512/480x480"},
    starts_from="vit_base_patch16_384.augreg_in21k_ft_in1k", published=published(48.5, 50.0, "ade20k", 512),
    published_speed=speed(24.1),
)  # fmt: skip
LINEAR = {"decoder": "linear"}
DEIT = ADE20K.but(
    model={"distilled": True}, starts_from="deit_base_distilled_patch16_384.fb_in1k",
    normalization=Normalization(), published=published(48.7, 50.1, "ade20k", 512), published_speed=speed(24.1),
)  # fmt: skip

EXPERIMENTS = {
    "mask": MAIN,
    "linear": MAIN.but(model=LINEAR),
    "ade20k_tiny": ADE20K.but(
        model={"size": "tiny"}, starts_from="vit_tiny_patch16_384.augreg_in21k_ft_in1k",
        published=published(38.1, 38.8, "ade20k", 512), published_speed=speed(52.4),
    ),
    "ade20k_small": ADE20K.but(
        model={"size": "small"}, starts_from="vit_small_patch16_384.augreg_in21k_ft_in1k",
        published=published(45.3, 46.9, "ade20k", 512), published_speed=speed(34.8),
    ),
    "ade20k_base": ADE20K,
    "ade20k_large": ADE20K.but(
        model={"size": "large", "table": 40}, starts_from="vit_large_patch16_384.augreg_in21k_ft_in1k",
        recipe={"crop": (640, 640), "inference": "slide:640x640/608x608"},
        published=published(51.8, 53.6, "ade20k", 640),
    ),
    "ade20k_base_patch8": ADE20K.but(
        model={**LINEAR, "patch": 8, "table": 64}, starts_from="vit_base_patch8_224.augreg_in21k_ft_in1k",
        published=published(49.5, 50.5, "ade20k", 512), published_speed=speed(4.2),
    ),
    "ade20k_deit": DEIT,
    "ade20k_deit_linear": DEIT.but(
        model=LINEAR, published=published(47.1, 48.1, "ade20k", 512), published_speed=speed(27.3),
    ),
    "context_large": MAIN.but(
        data="context", model={"table": 30, "blocks": 2},
        recipe={
            "crop": (480, 480), "batch": 16, "iterations": 256 * 313, "lr": 0.001,
            "inference": "slide:480x480/448x448",
        },
        published=published(58.1, 59.0, "context", 520, (("background", True),)),
    ),
}  # fmt: skip

# --- released weights: the authors' rstrudel/segmenter


def options_of(state: State) -> dict[str, Any]:
    """Return what the shapes of a checkpoint say: its blocks, and the side of its table."""
    positions = state.get("backbone.pos_embed")
    if positions is None:
        return {}
    tokens = 1 + ("backbone.dist_token" in state)
    blocks = {name.split(".")[2] for name in state if name.startswith("decoder.blocks.")}
    return {"table": isqrt(positions.shape[1] - tokens), "blocks": max(1, len(blocks))}


RENAMES = ((r"^encoder\.", "backbone."),)
CLASSIFIER = (r"^encoder\.head",)  # ImageNet's, which a segmenter does not call
MASK, HEAD_BIAS = "decoder.mask_norm.weight", "decoder.head.bias"


def released(row: str, classes: str, normalization: Normalization = VIT) -> Released:
    return Released(
        f"segmenter/{row}", classes, RENAMES, CLASSIFIER, normalization, options_of=options_of
    )


RELEASED = {
    "segmenter_l_mask": released("mask", MASK),
    "segmenter_ti_mask_ade20k": released("ade20k_tiny", MASK),
    "segmenter_deit_b_ade20k": released("ade20k_deit_linear", HEAD_BIAS, Normalization()),
}
