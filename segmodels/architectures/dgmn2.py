"""DGMN2: Dynamic Graph Message Passing Networks for Visual Recognition
Zhang, Chen, Arnab, Xue, Torr. IEEE TPAMI 2022. arXiv:2209.09760

DGMN's message passing as the attention of a transformer. A pixel asks nine others, and each head
walks to its nine by itself; so attention costs as much per pixel on a map of any size, and the
backbone can be a pyramid that begins at 1/4. Semantic FPN makes logits of its four maps.

    image -> stem, 1/4 ─ blocks ─┬─ 3x3, 1/8 ─ blocks ─┬─ 3x3, 1/16 ─ blocks ─┬─ 3x3, 1/32 ─ blocks ─┐
                                 │ 1x1                 │ 1x1                  │ 1x1                  │ 1x1
                                (+) <────── up ────── (+) <─────── up ────── (+) <────── up ─────────┤
                                 │ 3x3                 │ 3x3                  │ 3x3                  │ 3x3
                                3x3                   3x3, up                3x3, up, twice         3x3, up, three times
                                 └────────── sum at 1/4, dropout, 1x1 -> logits ─────────────────────┘

    a block     x = x + attention(norm(x));   x = x + MLP(norm(x))
    nodes       (k[i, s], v[i, s]) = (k, v) at p[i] + d[s] + walk[i, s];   d[s]: the places of a 3x3
    attention   w[i, s] = softmax over s of (q[i] . k[i, s] / sqrt(C) + q[i] . (column[i, s] + row[i, s]))
    result      y[i] = sum over s of w[i, s] v[i, s]

Departures:
- Network, recipe and figures are those of the authors' code (fudan-zvg/DGMN2), with
  mmsegmentation's FPN and its head. Colors are not disturbed here, and images are not enlarged from
  1024x2048 to 1025x2049, neither in training nor for a test.
- Its two quirks are kept, since released weights were trained with them. Node s of row i has the
  position s - i, as if the nine stood at the beginning of the row; the same in columns. And the
  term of the rows comes as a map (w, h), which is not transposed but resized to (h, w).
- The authors' ImageNet weights cannot be fetched by name: `load_pretrained(file)` loads them, or a
  run's `--init FILE`.
- SETR's heads on this backbone are not here.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, Released, unknown
from segmodels.parts.backbones.resnet import initialize
from segmodels.parts.deformable_sampling import sampled
from segmodels.parts.layers import conv_bn_relu, resized_with_corners
from segmodels.parts.weight_files import State
from segmodels.recipe import Recipe

Depth = Literal["tiny", "small", "medium", "large"]
BLOCKS = {
    "tiny": (2, 2, 2, 2),
    "small": (3, 4, 6, 3),
    "medium": (3, 4, 18, 3),
    "large": (3, 8, 27, 3),
}
CHANNELS = (64, 128, 320, 512)
RATIOS = (8, 8, 4, 4)  # of an MLP's width to the block's
WIDTH = 64  # of a head
NODES = 9

# --- attention to sampled nodes


class RelativePositions(nn.Module):
    """What a query has to do with the position of each of its nodes, along rows and columns."""

    def __init__(self, side: int) -> None:
        """`side` is that of a map of an image of 224x224: tables are stretched for other sizes."""
        super().__init__()
        self.columns = nn.Parameter(WIDTH**-0.5 * torch.randn(side + NODES - 1, WIDTH))
        self.rows = nn.Parameter(WIDTH**-0.5 * torch.randn(side + NODES - 1, WIDTH))

    def forward(self, query: Tensor) -> Tensor:
        along_rows = products(query, self.columns)  # (B, h, w, C) -> (B, h, w, 9)
        along_columns = products(query.transpose(1, 2), self.rows)  # (B, w, h, 9)
        size = along_rows.shape[1:3]
        along_columns = along_columns.permute(0, 3, 1, 2)  # (B, 9, w, h), and resized as it is
        along_columns = F.interpolate(along_columns, size, mode="bilinear", align_corners=False)
        return along_rows + along_columns.permute(0, 2, 3, 1)


def products(query: Tensor, table: Tensor) -> Tensor:
    """Multiply queries (B, m, n, C) by the positions s - i of their nodes s, to (B, m, n, 9).

    i counts queries along n; the table has a line for each position from 1 - n to 8.
    """
    count = query.shape[2]
    size = (count + NODES - 1, table.shape[1])
    table = F.interpolate(table[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    each = query @ table.T  # (B, m, n, n+8)
    place = torch.arange(count, device=query.device)[:, None]
    line = torch.arange(NODES, device=query.device) - place + count - 1  # (n, 9)
    return each[:, :, place, line]


class SampledAttention(nn.Module):
    """Attention of each pixel to nine nodes, which each head samples by itself."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.heads = channels // WIDTH
        self.qkv = nn.Linear(channels, 3 * channels)
        self.walks = nn.Linear(WIDTH, 2 * NODES)  # the same for all heads
        self.positions = RelativePositions(side)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self.of_heads(each) for each in self.qkv(x).chunk(3, 3))
        walks = self.walks(self.of_heads(x)).permute(0, 3, 1, 2)  # (B*heads, 18, h, w)
        pairs = torch.cat([key, value], 3).permute(0, 3, 1, 2)  # (B*heads, 2C, h, w)
        keys, values = sampled(pairs, walks).chunk(2, 1)  # (B*heads, C, 9, h, w)
        likeness = torch.einsum("bhwc,bcshw->bhws", query, keys) / WIDTH**0.5
        weights = (likeness + self.positions(query)).softmax(3)  # (B*heads, h, w, 9)
        result = torch.einsum("bhws,bcshw->bhwc", weights, values)
        result = result.unflatten(0, (-1, self.heads)).permute(0, 2, 3, 1, 4)
        return self.out(result.flatten(3))  # (B, h, w, heads, C) -> (B, h, w, heads*C)

    def of_heads(self, x: Tensor) -> Tensor:
        """Make each head an image: (B, h, w, heads*C) -> (B*heads, h, w, C)."""
        return x.unflatten(3, (self.heads, WIDTH)).permute(0, 3, 1, 2, 4).flatten(0, 1)


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and around a shortcut."""

    def __init__(self, channels: int, ratio: int, side: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attention = SampledAttention(channels, side)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(channels, ratio * channels), nn.GELU(), nn.Linear(ratio * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


# --- backbone


class Backbone(nn.Module):
    """Four stages of convolutions and blocks, at 1/4, 1/8, 1/16 and 1/32."""

    def __init__(self, depth: Depth) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(unknown("depth", depth, list(BLOCKS)))
        first, *later = CHANNELS
        narrow = first // 2
        stem = nn.Sequential(
            conv_bn_relu(3, narrow, stride=2),
            conv_bn_relu(narrow, narrow),
            conv_bn_relu(narrow, first, stride=2),
        )
        steps = [conv_bn_relu(*pair, stride=2) for pair in zip(CHANNELS, later)]
        self.embeddings = nn.ModuleList([stem, *steps])
        self.stages = nn.ModuleList()
        for stage, count in enumerate(BLOCKS[depth]):
            side = 224 // 2 ** (stage + 2)
            blocks = (Block(CHANNELS[stage], RATIOS[stage], side) for _ in range(count))
            self.stages.append(nn.Sequential(*blocks))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [image]
        for embedding, blocks in zip(self.embeddings, self.stages):
            x = embedding(maps[-1]).permute(0, 2, 3, 1)  # (B, h, w, C)
            maps.append(blocks(x).permute(0, 3, 1, 2))
        return maps[1:]

    def renamed(self, state: State) -> State:
        """Name the authors' classifier as this backbone."""
        state = {f"backbone.{name}": tensor for name, tensor in state.items()}
        state = RELEASED["dgmn2_tiny_fpn"].renamed(state)
        return {name.removeprefix("backbone."): tensor for name, tensor in state.items()}


# --- Semantic FPN (Kirillov et al., 2019. arXiv:1901.02446)


class FeaturePyramid(nn.Module):
    """Sums from the deepest map to the finest one, and a 3x3 on each."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(inside, width, 1) for inside in CHANNELS)
        self.outs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in CHANNELS)
        for conv in (*self.laterals, *self.outs):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps)]
        for i in reversed(range(len(levels) - 1)):
            size = levels[i].shape[2:]
            levels[i] = levels[i] + F.interpolate(levels[i + 1], size, mode="nearest")
        return [out(x) for out, x in zip(self.outs, levels)]


class SumHead(nn.Module):
    """Every level enlarged to 1/4, step by step between 3x3 convolutions, and their sum."""

    def __init__(self, inside: int = 256, width: int = 128) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.Sequential(conv_bn_relu(inside, width))])
        for steps in (1, 2, 3):
            level = nn.Sequential()
            for step in range(steps):
                level.append(conv_bn_relu(width if step else inside, width))
                level.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))
            self.levels.append(level)
        initialize(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        finest, *others = [level(x) for level, x in zip(self.levels, maps)]
        for x in others:
            finest = finest + resized_with_corners(x, finest)
        return finest


class DGMN2(SegmentationModule):
    """Backbone -> feature pyramid -> sum of its levels -> classifier at 1/4."""

    align_corners = True

    def __init__(self, num_classes: int, depth: Depth = "tiny") -> None:
        super().__init__(num_classes)
        self.backbone = Backbone(depth)
        self.pyramid = FeaturePyramid()
        self.head = SumHead()
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(128, num_classes, 1))
        nn.init.normal_(self.classifier[1].weight, std=0.01)
        nn.init.zeros_(self.classifier[1].bias)

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> list[Tensor]:
        return self.backbone(image)  # 1/4, 1/8, 1/16, 1/32

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.classifier(self.head(self.pyramid(features)))


# --- experiments

SLIDING = "slide:769x769/513x513"
SCALES = f"multiscale:0.5,0.75,1,1.25,1.5,1.75+flip+{SLIDING}"


def published(single: float, several: float) -> tuple[Published, ...]:
    source = "README of the authors' DGMN2"
    return (
        Published(single, "cityscapes", "val", SLIDING, source),
        Published(several, "cityscapes", "val", SCALES, source),
    )


MAIN = Experiment(
    DGMN2,
    Recipe(
        crop=(769, 769), scales=(0.5, 2.0), continuous=True, cat_max_ratio=0.75, batch=8, iterations=40_000,
        loss="cross_entropy:all", optimizer="adamw", lr=1e-4, weight_decay=1e-4, inference=SLIDING,
    ),
    model={"depth": "tiny"}, published=published(78.09, 79.40),
)  # fmt: skip

EXPERIMENTS = {
    "tiny": MAIN,
    "small": MAIN.but(model={"depth": "small"}, published=published(80.65, 81.58)),
    "medium": MAIN.but(model={"depth": "medium"}, published=published(80.60, 81.79)),
    "large": MAIN.but(model={"depth": "large"}, published=published(81.75, 82.64)),
}

# --- released weights: the authors' fudan-zvg/DGMN2


RENAMES = (
    (
        r"^backbone\.patch_embed1\.(conv|norm)(\d)\.",
        lambda m: f"backbone.embeddings.0.{int(m[2]) - 1}.{['conv', 'norm'].index(m[1])}.",
    ),
    (
        r"^backbone\.patch_embed(\d)\.(conv|norm)\.",
        lambda m: f"backbone.embeddings.{int(m[1]) - 1}.{['conv', 'norm'].index(m[2])}.",
    ),
    (r"^backbone\.block(\d)\.", lambda m: f"backbone.stages.{int(m[1]) - 1}."),
    (r"\.attn\.conv_offset\.", ".attention.walks."),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.attn\.pos_emb\.rel_width$", ".attention.positions.columns"),
    (r"\.attn\.pos_emb\.rel_height$", ".attention.positions.rows"),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"pyramid.laterals.\1."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"pyramid.outs.\1."),
    (r"^decode_head\.scale_heads\.(\d)\.(\d)\.conv\.", r"head.levels.\1.\2.0."),
    (r"^decode_head\.scale_heads\.(\d)\.(\d)\.bn\.", r"head.levels.\1.\2.1."),
    (r"^decode_head\.conv_seg\.", "classifier.1."),
)
RELEASED = {"dgmn2_tiny_fpn": Released("dgmn2/tiny", "decode_head.conv_seg.bias", RENAMES)}
