"""SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers
Xie, Wang, Yu, Anandkumar, Alvarez, Luo. NeurIPS 2021. arXiv:2105.15203

A transformer of four stages, which halves its map between them as a convolutional network does, so
that there are fine maps for borders and coarse ones for meaning. It has no table of positions, whose
size would be that of the training images: a 3x3 inside each feed-forward network tells a place by
the zeros beyond the border. Attention reaches everywhere at any depth, hence the decoder may be
plain: one linear layer per map, and one for all of them.

    image ─ stage 1 ─┬─ stage 2 ─┬─ stage 3 ─┬─ stage 4 ─┐
              1/4    │    1/8    │   1/16    │   1/32    │
                   linear      linear      linear      linear
                     └───────────┴─ up to 1/4 ───────────┴─ 1x1, BN, relu ─ dropout, 1x1 ─> logits at 1/4

    stage      overlapping patches: 7x7 / 4, then 3x3 / 2 ─ LN ─ blocks ─ LN
    block      x + attention(LN(x));  x + Mix-FFN(LN(x));  in training each branch is left out at times
    attention  queries from all N pixels, keys and values from N / R²: a convolution R x R / R and LN
               softmax(Q K' / sqrt(d)) V,  R = 8, 4, 2, 1
    Mix-FFN    linear to 4 C ─ depthwise 3x3 ─ gelu ─ linear to C

Departures:
- The rate begins to fall when the warm-up has ended; the authors' falls from the first step on, and
  is up to 1 % lower for it.
- The authors' color distortion is contrast, brightness and saturation in a random order; here the
  jitter of all recipes by its amount, and its turn of the hue.
- On ADE20K the authors resize images so that both sides are multiples of 32; such figures stand
  beside no result of ours. Other figures of the paper's tables were not seen and are in no row.
- No library has the authors' ImageNet weights by name: --init FILE takes them under the authors'
  names, transformers' or mmsegmentation's.
- An image is padded to 29 pixels at least, with which each stage has a map to attend to.
"""

import re
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import drop_path
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, Released
from segmodels.parts.backbones.resnet import initialize
from segmodels.parts.layers import conv_bn_relu, resized
from segmodels.parts.weight_files import State
from segmodels.recipe import Recipe

# --- Mix Transformer (section 3.1); maps are (B, H, W, C) inside it


class Attention(nn.Module):
    """Multi-head attention of all pixels to a map that is `reduction` times as coarse."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.projection = nn.Linear(channels, channels)
        self.reduction = None
        if reduction > 1:
            self.reduction = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        coarse = x
        if self.reduction is not None:
            coarse = self.norm(channels_last(self.reduction(channels_first(x))))
        query = self.split(self.query(x))
        key = self.split(self.key(coarse))
        value = self.split(self.value(coarse))
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = attended.transpose(1, 2).flatten(2)  # (B, heads, N, C/heads) -> (B, N, C)
        return self.projection(attended.unflatten(1, x.shape[1:3]))  # -> (B, H, W, C)

    def split(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2).unflatten(2, (self.heads, -1))  # (B, H, W, C) -> (B, N, heads, C/heads)
        return x.transpose(1, 2)  # -> (B, heads, N, C/heads)


class MixFFN(nn.Module):
    """Two linear layers, and a depthwise 3x3 between them that knows where the border is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inside = 4 * channels
        self.expand = nn.Linear(channels, inside)
        self.depthwise = nn.Conv2d(inside, inside, 3, padding=1, groups=inside)
        self.shrink = nn.Linear(inside, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(channels_first(self.expand(x)))
        return self.shrink(F.gelu(channels_last(x)))


class Block(nn.Module):
    """Attention and Mix-FFN, both behind a norm and beside a shortcut."""

    def __init__(self, channels: int, heads: int, reduction: int, drop: float) -> None:
        """`drop` is the chance that a branch is left out of an image's pass, in training."""
        super().__init__()
        self.drop = drop
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attention = Attention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.ffn = MixFFN(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + drop_path(self.attention(self.norm1(x)), self.drop, self.training)
        return x + drop_path(self.ffn(self.norm2(x)), self.drop, self.training)


class Stage(nn.Module):
    """Overlapping patches and blocks: (B, C, H, W) -> (B, C', H/stride, W/stride)."""

    def __init__(
        self, inside: int, channels: int, heads: int, reduction: int, drops: list[float]
    ) -> None:
        super().__init__()
        kernel, stride = (7, 4) if inside == 3 else (3, 2)
        self.patches = nn.Conv2d(inside, channels, kernel, stride, kernel // 2)
        self.patch_norm = nn.LayerNorm(channels)
        blocks = [Block(channels, heads, reduction, drop) for drop in drops]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_norm(channels_last(self.patches(x)))
        return channels_first(self.norm(self.blocks(x)))


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)


def channels_first(x: Tensor) -> Tensor:
    x = x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
    # Exported for any size, a convolution of a map in this order in memory would not take one image.
    return x if isinstance(x.shape[0], int) else x.contiguous()


Size = Literal["b0", "b1", "b2", "b3", "b4", "b5"]
DEPTHS = {
    "b0": (2, 2, 2, 2),
    "b1": (2, 2, 2, 2),
    "b2": (3, 4, 6, 3),
    "b3": (3, 4, 18, 3),
    "b4": (3, 8, 27, 3),
    "b5": (3, 6, 40, 3),
}


class MixTransformer(nn.Module):
    """image -> maps at 1/4, 1/8, 1/16, 1/32: the paper's MiT-B0 to MiT-B5."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        heads = (1, 2, 5, 8)
        self.channels = [each * (32 if size == "b0" else 64) for each in heads]
        depths = DEPTHS[size]
        drops = torch.linspace(0, 0.1, sum(depths), device="cpu").tolist()  # of the first, the last
        stages = []
        widths = zip([3, *self.channels], self.channels, heads, (8, 4, 2, 1), depths)
        for inside, channels, number, reduction, depth in widths:
            stages.append(Stage(inside, channels, number, reduction, drops[:depth]))
            drops = drops[depth:]
        self.stages = nn.ModuleList(stages)
        for layer in self.modules():
            initialize_layer(layer)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return maps

    def renamed(self, state: State) -> State:
        """Name ImageNet weights of three code lines as ours."""
        for pattern, replacement in BACKBONE:
            state = {re.sub(pattern, replacement, name): each for name, each in state.items()}
        bare = {name.removeprefix("backbone."): each for name, each in state.items()}
        return separated(bare)


def initialize_layer(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    if isinstance(layer, nn.Conv2d):
        # kaiming_normal_ counts the outputs of all groups, of which a depthwise weight feeds one.
        outputs = layer.out_channels // layer.groups * layer.kernel_size[0] ** 2
        nn.init.normal_(layer.weight, std=(2 / outputs) ** 0.5)
        nn.init.zeros_(layer.bias)


# --- network: the MLP decoder (section 3.2)


class Embedding(nn.Linear):
    """A linear layer of each pixel, (B, C, H, W) -> (B, C', H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(super().forward(channels_last(x)))


class SegFormer(SegmentationModule):
    """Mix Transformer -> its maps, each by a linear layer, stacked at 1/4 -> 1x1 -> classifier."""

    def __init__(self, num_classes: int, size: Size = "b0", channels: int = 256) -> None:
        """`channels` are the decoder's, the paper's C."""
        super().__init__(num_classes)
        self.backbone = MixTransformer(size)
        widths = self.backbone.channels
        self.embeddings = nn.ModuleList(Embedding(width, channels) for width in widths)
        self.fusion = conv_bn_relu(4 * channels, channels, 1)
        initialize(self.fusion)
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(channels, num_classes, 1))

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> list[Tensor]:
        return self.backbone(image)  # 1/4, 1/8, 1/16, 1/32

    def decode(self, features: list[Tensor]) -> Tensor:
        embedded = [embed(x) for embed, x in zip(self.embeddings, features)]
        coarse_first = [resized(x, features[0]) for x in reversed(embedded)]
        return self.classifier(self.fusion(torch.cat(coarse_first, 1)))

    def valid_side(self, side: int) -> int:
        return max(side, 29)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Spare the transformer's norms alone, as the authors do: biases and the decoder decay."""
        layer = self.get_submodule(name.rpartition(".")[0])
        return self.recipe.decay_norms or not isinstance(layer, nn.LayerNorm)


# --- experiments (section 4)

PAPER = Recipe(
    crop=(1024, 1024), scales=(0.5, 2.0), continuous=True, cat_max_ratio=0.75, jitter=0.5, hue=0.1,
    batch=8, iterations=160_000, loss="cross_entropy:all", optimizer="adamw", lr=6e-5, head_lr=10.0,
    weight_decay=0.01, decay_norms=False, schedule="poly", power=1.0, warmup=1500, warmup_from=1e-6,
    inference="slide:1024x1024/768x768",
)  # fmt: skip
QUOTED = "paper, as docs/MODELS.md of sithu31296/semantic-segmentation quotes it"
ABSTRACT = "paper, abstract, as mmsegmentation's README quotes it"


def published(cityscapes: float, ade20k: float) -> tuple[Published, ...]:
    return (
        Published(cityscapes, "cityscapes", "val", PAPER.inference, QUOTED),
        Published(ade20k, "ade20k", "val", "sides made multiples of 32", QUOTED),
    )


MAIN = Experiment(SegFormer, PAPER, model={"size": "b0", "channels": 256})
LARGE = MAIN.but(model={"size": "b2", "channels": 768})

EXPERIMENTS = {
    "b0": MAIN,
    "b1": MAIN.but(model={"size": "b1"}, published=published(78.5, 42.2)),
    "b2": LARGE.but(published=published(81.0, 46.5)),
    "b3": LARGE.but(model={"size": "b3"}, published=published(81.7, 49.4)),
    "b4": LARGE.but(model={"size": "b4"}),
    "b5": LARGE.but(
        model={"size": "b5"},
        published=(Published(84.0, "cityscapes", "val", "scales not stated", ABSTRACT),),
    ),
}  # fmt: skip

# --- released weights: the authors' (NVlabs/SegFormer), and other code lines' names of the backbone


def in_stage(part: str) -> Callable[[re.Match], str]:
    """Return a rename to a part of a stage, which the authors count from 1."""
    return lambda match: f"{match[1] or ''}stages.{int(match[2]) - 1}.{part}"


BACKBONE = (
    (r"^(backbone\.)?patch_embed(\d)\.", in_stage("patch_embed.")),
    (r"^(backbone\.)?block(\d)\.", in_stage("blocks.")),
    (r"^(backbone\.)?norm(\d)\.", in_stage("norm.")),
    # transformers
    (r"^segformer\.encoder\.", "backbone."),
    (r"^(backbone\.|)patch_embeddings\.(\d)\.", r"\1stages.\2.patch_embed."),
    (r"^(backbone\.|)block\.(\d)\.", r"\1stages.\2.blocks."),
    (r"^(backbone\.|)layer_norm\.(\d)\.", r"\1stages.\2.norm."),
    (r"\.attention\.self\.", ".attention."),
    (r"\.attention\.output\.dense\.", ".attention.projection."),
    (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.layer_norm\.", ".norm."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
    # mmsegmentation
    (r"^(backbone\.|)layers\.(\d)\.0\.", r"\1stages.\2.patch_embed."),
    (r"^(backbone\.|)layers\.(\d)\.1\.", r"\1stages.\2.blocks."),
    (r"^(backbone\.|)layers\.(\d)\.2\.", r"\1stages.\2.norm."),
    (r"\.attn\.attn\.in_proj_", ".attention.in_proj."),
    (r"\.attn\.attn\.out_proj\.", ".attention.projection."),
    (r"\.ffn\.layers\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.dwconv.dwconv."),
    (r"\.ffn\.layers\.4\.", ".mlp.fc2."),
    # all
    (r"\.patch_embed\.proj(ection)?\.", ".patches."),
    (r"\.patch_embed\.norm\.", ".patch_norm."),
    (r"\.attn\.", ".attention."),
    (r"\.attention\.q\.", ".attention.query."),
    (r"\.attention\.proj\.", ".attention.projection."),
    (r"\.attention\.sr\.", ".attention.reduction."),
    (r"\.mlp\.fc1\.", ".ffn.expand."),
    (r"\.mlp\.dwconv\.dwconv\.", ".ffn.depthwise."),
    (r"\.mlp\.fc2\.", ".ffn.shrink."),
)


def separated(state: State) -> State:
    """Give query, key and value weights of their own, and linear layers no kernel."""
    parts = {"in_proj": ("query", "key", "value"), "kv": ("key", "value")}
    found = {}
    for name, tensor in state.items():
        if joint := re.fullmatch(r"(.*\.attention\.)(in_proj|kv)\.(weight|bias)", name):
            place, which, kind = joint.groups()
            pieces = tensor.chunk(len(parts[which]))  # (n*C, ...) -> n times (C, ...)
            found |= {f"{place}{part}.{kind}": each for part, each in zip(parts[which], pieces)}
        elif re.search(r"\.(expand|shrink)\.weight$", name):
            found[name] = tensor.flatten(1)  # (C', C) or (C', C, 1, 1) -> (C', C)
        else:
            found[name] = tensor
    return found


RENAMES = (
    *BACKBONE,
    (r"^decode_head\.linear_c(\d)\.proj\.", lambda match: f"embeddings.{int(match[1]) - 1}."),
    (r"^decode_head\.linear_fuse\.conv\.", "fusion.0."),
    (r"^decode_head\.linear_fuse\.bn\.", "fusion.1."),
    (r"^decode_head\.linear_pred\.", "classifier.1."),
)
UNUSED = (r"^decode_head\.conv_seg\.",)  # the classifier of every decoder there, unused in this one
RELEASED = {
    f"segformer_{size}": Released(
        f"segformer/{size}", "decode_head.linear_pred.bias", RENAMES, UNUSED, convert=separated
    )
    for size in DEPTHS
}
