"""ViT: An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale
Dosovitskiy, Beyer, Kolesnikov, Weissenborn, Zhai, Unterthiner, Dehghani, Minderer, Heigold, Gelly,
Uszkoreit, Houlsby. ICLR 2021. arXiv:2010.11929

An image is a sentence, and its patches are the words. ViT assumes nothing else: neighborhood, which
a convolution has built in, it must learn from the data. One linear layer turns the pixels of a patch
into a token, a token for the image stands in front, positions are added, and blocks of attention
follow. The paper classifies images; here its one linear classifier reads every patch too.

    image -> patches of 16x16, linear ─┬─ + positions -> blocks: LN, attention; LN, MLP -> LN ─┬─ patch i ─┐
                       class token ────┘                                                       └─ image ───┴─ sum, linear -> logits at 1/16

                                             shape of the tokens at 224x224, ViT-B/16
    patches      16 x 16 x 3 = 768 numbers   196 x 768
    class token  one more, learned           197 x 768
    positions    a learned table, added      197 x 768
    attention    12 heads, 64 channels each  197 x 768, of 197 x 197 weights a head
    MLP          four times as wide, back    197 x 3072, 197 x 768

    attention(Q, K, V) = softmax(Q K^T / sqrt(64)) V
    sines        position k: sin(k / 10000^(2i / C)), cos(k / 10000^(2i / C)); fixed
    1-D          patches are numbered 1 to 196; 2-D: half of the channels for the row, half for the column

Departures:
- The paper has no segmentation. The logits of a patch are the classifier's of its token plus the
  token of the image: that of the class token, or the mean over all patches ("mean_token").
- The recipe is SETR's for the same backbone, with one rate for all; no figure was seen under it.
- The ablations are trained from scratch, since ImageNet weights fit only one of them. "linear" and
  the convolution of the main row are the same function of other names.
- In "concatenated" patches and positions have half of the channels each, so that blocks are as wide
  as they were.
- "stem" puts four 3x3 convolutions of stride 2 and a 1x1 in the place of the patches; the paper's
  own hybrid is a ResNet.
"""

from typing import Literal, NamedTuple

from torch import Tensor, nn

from segmodels.module import Normalization, SegmentationModule
from segmodels.paper import Experiment
from segmodels.parts.backbones.vit import Embedding, Joined, Positions, Size, ViT
from segmodels.recipe import Recipe

# --- network (section 3.1)


class Tokens(NamedTuple):
    """What the last layer norm gives."""

    patches: Tensor  # (B, C, h, w)
    image: Tensor  # (B, C): the class token, or the mean over the patches


class VisionTransformer(SegmentationModule):
    """ViT -> the tokens of patches, each with the image's -> linear classifier at 1/16."""

    multiple = 16

    def __init__(
        self,
        num_classes: int,
        size: Size = "base",
        embedding: Embedding = "convolution",
        token: Literal["class", "mean"] = "class",
        positions: Positions = "learned",
        joined: Joined = "sum",
    ) -> None:
        """Build it with the table of positions of 384x384, ImageNet's size: 24 x 24."""
        super().__init__(num_classes)
        self.token = token
        tokens = ("cls_token",) if token == "class" else ()
        self.backbone = ViT(
            size, 24, tokens=tokens, embedding=embedding, positions=positions, joined=joined
        )
        self.classifier = nn.Conv2d(self.backbone.width, num_classes, 1)
        nn.init.zeros_(self.classifier.weight)  # as the paper fine-tunes (section 3.2)
        nn.init.zeros_(self.classifier.bias)

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> Tokens:
        (tokens,) = self.backbone(image)
        of_image = tokens[:, 0] if self.token == "class" else tokens.mean(1)
        return Tokens(self.backbone.as_map(tokens, image), of_image)

    def decode(self, features: Tokens) -> Tensor:
        return self.classifier(features.patches + features.image[:, :, None, None])


# --- experiments

MAIN = Experiment(
    VisionTransformer,
    Recipe(
        crop=(768, 768), scales=(0.5, 2.0), continuous=True, cat_max_ratio=0.75, batch=8, iterations=80_000,
        lr=0.01, weight_decay=0.0, decay_norms=False, schedule="poly", power=0.9, min_lr=1e-4,
        inference="slide:768x768/512x512",
    ),
    model={"size": "base"}, starts_from="vit_base_patch16_384.orig_in21k_ft_in1k",
    normalization=Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
)  # fmt: skip
FROM_SCRATCH = MAIN.but(starts_from="scratch")

EXPERIMENTS = {
    "base": MAIN,
    "large": MAIN.but(
        model={"size": "large"}, starts_from="vit_large_patch16_384.augreg_in21k_ft_in1k"
    ),
    # what the parts are worth, from scratch
    "from_scratch": FROM_SCRATCH,
    "linear": FROM_SCRATCH.but(model={"embedding": "linear"}),
    "stem": FROM_SCRATCH.but(model={"embedding": "stem"}),
    "mean_token": FROM_SCRATCH.but(model={"token": "mean"}),
    "no_positions": FROM_SCRATCH.but(model={"positions": "none"}),
    "learned_2d": FROM_SCRATCH.but(model={"positions": "learned_2d"}),
    "sines": FROM_SCRATCH.but(model={"positions": "sines"}),
    "sines_2d": FROM_SCRATCH.but(model={"positions": "sines_2d"}),
    "concatenated": FROM_SCRATCH.but(model={"joined": "concatenation"}),
}  # fmt: skip
