"""ViT as a backbone: an image is a sequence of patches, and every patch attends to all others.

Dosovitskiy et al., 2020. arXiv:2010.11929. Parameters have the names of timm's VisionTransformer.

    image (B, 3, H, W) -> patches (B, h w, C), h = H / 16 -> a token in front, positions added
        -> blocks: x + attention(LN(x)), x + MLP(LN(x)) -> LN -> (B, 1 + h w, C)

A learned table of positions has one size, and images have many: its part of the patches is resized
bilinearly as the map that it is, and a token's position stays.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt, log
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import drop_path
from torch import Tensor, nn

from segmodels.parts.layers import conv_bn_relu
from segmodels.parts.weight_files import State

Size = Literal["tiny", "small", "base", "large"]
Embedding = Literal["convolution", "linear", "stem"]
Positions = Literal["learned", "learned_2d", "sines", "sines_2d", "none"]
Joined = Literal["sum", "concatenation"]

SIZES = {  # width, blocks, heads
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


# --- a block


class Attention(nn.Module):
    """Every token asks all others: softmax(Q K^T / sqrt(d)) V in each head."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (B, N, C) -> (B, N, 3, heads, d)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        y = self.proj(y.transpose(1, 2).flatten(2))  # (B, heads, N, d) -> (B, N, C)
        return F.dropout(y, self.dropout, self.training)


class MLP(nn.Module):
    """Each token by itself: four times as wide, and back."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.gelu(self.fc1(x)), self.dropout, self.training)
        return F.dropout(self.fc2(x), self.dropout, self.training)


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and beside a shortcut.

    In training each of them is left out for `drop_path` of the images.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, dropout)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + drop_path(self.attn(self.norm1(x)), self.drop_path, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path, self.training)


def initialize(network: nn.Module) -> None:
    """Draw the weights of linear layers as ViT's authors do; their biases are zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)


# --- patches


class Patches(nn.Module):
    """A patch's pixels -> a token, as a convolution that steps from patch to patch."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image)  # (B, 3, H, W) -> (B, C, h, w)


class LinearPatches(nn.Module):
    """A patch's pixels -> a token, as the linear layer that the convolution is."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(3 * patch**2, width)

    def forward(self, image: Tensor) -> Tensor:
        pixels = F.pixel_unshuffle(image, self.patch)  # (B, 3, H, W) -> (B, 3 patch^2, h, w)
        return self.proj(pixels.movedim(1, 3)).movedim(3, 1)  # -> (B, C, h, w)


class Stem(nn.Module):
    """A small CNN in place of patches: a 3x3 of stride 2 for each halving, and a 1x1."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        halvings = patch.bit_length() - 1
        widths = [3, *(width >> step for step in reversed(range(halvings)))]
        self.layers = nn.Sequential()
        for inside, outside in pairwise(widths):
            self.layers.append(conv_bn_relu(inside, outside, 3, 2))
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(self.layers(image))  # (B, 3, H, W) -> (B, C, h, w)


EMBEDDINGS = {"convolution": Patches, "linear": LinearPatches, "stem": Stem}


# --- positions: the ones that are no table of all places


class AxisTables(nn.Module):
    """A learned table of rows and one of columns: each has half of the channels."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(1, width // 2, side))
        self.columns = nn.Parameter(torch.empty(1, width // 2, side))
        nn.init.trunc_normal_(self.rows, std=0.02)
        nn.init.trunc_normal_(self.columns, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows = F.interpolate(self.rows, height, mode="linear", align_corners=False)
        columns = F.interpolate(self.columns, width, mode="linear", align_corners=False)
        return crossed(rows, columns)


class Sines(nn.Module):
    """Fixed sines and cosines of a patch's number, or of its row and its column, half each."""

    def __init__(self, width: int, axes: int) -> None:
        super().__init__()
        self.width = width
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.axes == 1:
            return self.waves(height * width, self.width, x).unflatten(2, (height, width))
        half = self.width // 2
        return crossed(self.waves(height, half, x), self.waves(width, half, x))

    def waves(self, count: int, width: int, like: Tensor) -> Tensor:
        """Return sin(k / 10000^(2i / C)) and its cosine for k < count: (1, C, count)."""
        number = torch.arange(count, device=like.device, dtype=torch.float32)
        octave = torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width
        angle = number * torch.exp(-log(10_000) * octave)[:, None]  # (C / 2, count)
        return torch.cat([angle.sin(), angle.cos()])[None].to(like.dtype)


def crossed(rows: Tensor, columns: Tensor) -> Tensor:
    """Put a row's channels beside a column's: (1, C, h) and (1, C, w) -> (1, 2 C, h, w)."""
    height, width = rows.shape[2], columns.shape[2]
    rows = rows[..., None].expand(-1, -1, -1, width)
    columns = columns[:, :, None].expand(-1, -1, height, -1)
    return torch.cat([rows, columns], 1)


# --- the network


class ViT(nn.Module):
    """image -> tokens (B, N, C) behind the blocks whose numbers are `taken`, or the last one alone.

    `table` is the side of the learned table of positions. `tokens` names what stands before the
    patches: DeiT has "dist_token" beside "cls_token". If `token_attends` is False it is taken away
    before the first block, and if `final_norm` is False the last layer norm is a head's.
    """

    def __init__(
        self,
        size: Size,
        table: int,
        patch: int = 16,
        *,
        tokens: Sequence[str] = ("cls_token",),
        token_attends: bool = True,
        taken: Sequence[int] = (),
        final_norm: bool = True,
        embedding: Embedding = "convolution",
        positions: Positions = "learned",
        joined: Joined = "sum",
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.width, depth, heads = SIZES[size]
        self.patch = patch
        self.table = table
        self.names = tuple(tokens)
        self.token_attends = token_attends
        self.taken = tuple(taken) or (depth,)
        self.joined = joined
        width = self.width if joined == "sum" else self.width // 2  # of content and of positions
        self.patch_embed = EMBEDDINGS[embedding](patch, width)
        for name in self.names:
            self.register_parameter(name, drawn(1, width))
        self.pos_embed = None
        self.positions: nn.Module | None = None
        if positions == "learned":
            self.pos_embed = drawn(len(self.names) + table**2, width)
        elif positions == "learned_2d":
            self.positions = AxisTables(table, width)
        elif positions != "none":
            self.positions = Sines(width, axes=2 if positions == "sines_2d" else 1)
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()  # rise with the depth
        self.blocks = nn.ModuleList(Block(self.width, heads, 0.0, rate, eps) for rate in rates)
        self.norm = nn.LayerNorm(self.width, eps) if final_norm else nn.Identity()
        initialize(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.embedded(image)
        if not self.token_attends:
            x = x[:, len(self.names) :]
        outputs = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in self.taken:
                outputs.append(self.norm(x))
        return outputs

    def embedded(self, image: Tensor) -> Tensor:
        """Return tokens with their positions: (B, 3, H, W) -> (B, N, C)."""
        patches = self.patch_embed(image)
        content = patches.flatten(2).mT  # (B, C, h, w) -> (B, h w, C)
        tokens = [getattr(self, name).expand(image.shape[0], -1, -1) for name in self.names]
        content = torch.cat([*tokens, content], 1)
        if self.pos_embed is None and self.positions is None:
            return content
        positions = self.positions_of(patches)
        if self.joined == "sum":
            return content + positions
        return torch.cat([content, positions.expand(image.shape[0], -1, -1)], 2)

    def positions_of(self, patches: Tensor) -> Tensor:
        """Return the positions (1, N, C) of a map of patches and of the tokens before them."""
        count = len(self.names)
        if self.pos_embed is None:  # then tokens have none
            return F.pad(self.positions(patches).flatten(2).mT, (0, 0, count, 0))
        table = resized_table(self.pos_embed[:, count:], patches.shape[-2:])
        return torch.cat([self.pos_embed[:, :count], table], 1)

    def as_map(self, tokens: Tensor, image: Tensor) -> Tensor:
        """Return the patches' tokens as a map: (B, N, C) -> (B, C, h, w).

        It is contiguous: what torch exports of a strided one holds for batches above 1 alone.
        """
        height, width = (side // self.patch for side in image.shape[-2:])
        count = len(self.names) if self.token_attends else 0
        return tokens[:, count:].mT.contiguous().unflatten(2, (height, width))

    def renamed(self, state: State) -> State:
        """Return a classifier's weights for this table and this embedding.

        A token that is not here is left out, and its position too.
        """
        state = dict(state)
        name = next((each for each in state if each.endswith("pos_embed")), "")
        if name and self.pos_embed is not None:
            state[name] = self.fitting_table(state[name], distilled="dist_token" in " ".join(state))
        name = next((each for each in state if each.endswith("patch_embed.proj.weight")), "")
        if name and isinstance(self.patch_embed, LinearPatches):
            state[name] = state[name].flatten(1)
        return state

    def fitting_table(self, table: Tensor, distilled: bool) -> Tensor:
        """Return another table of positions (1, N, C) for these tokens and at this side."""
        given = ("cls_token", "dist_token") if distilled else ("cls_token",)
        places = table.shape[1] - len(given)
        if isqrt(places) ** 2 != places:  # a classifier without a token
            given = ()
        kept = [table[:, [given.index(name)]] for name in self.names if name in given]
        grid = resized_table(table[:, len(given) :], (self.table, self.table))
        return torch.cat([*kept, grid], 1)


def drawn(count: int, width: int) -> nn.Parameter:
    """Draw a table of tokens or positions."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, count, width), std=0.02))


def resized_table(table: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a square table of positions as the map that it is: (1, n n, C) -> (1, h w, C)."""
    side = isqrt(table.shape[1])
    grid = table.mT.unflatten(2, (side, side))
    return F.interpolate(grid, tuple(size), mode="bilinear", align_corners=False).flatten(2).mT
