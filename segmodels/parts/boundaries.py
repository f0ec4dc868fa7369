"""Where a label map changes, made on its own device out of label numbers alone, as OpenCV does it; and the loss of its prediction."""

import torch
import torch.nn.functional as F
from torch import Tensor


def canny(label: Tensor) -> Tensor:
    """(B, H, W) bool: OpenCV's Canny on label numbers at thresholds below 1, that is every local maximum of the gradient."""
    x = F.pad(label[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0].int()
    across, down = x[..., 2:] - x[..., :-2], x[:, 2:] - x[:, :-2]
    dx = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    dy = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    size, (height, width) = dx.abs() + dy.abs(), label.shape[-2:]
    around = F.pad(size, (1, 1, 1, 1))

    def beside(row: int, column: int) -> Tensor:
        return around[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    flat, steep = (
        dx.abs() * 13573,
        dx.abs() * (13573 + (1 << 16)),
    )  # the tangents of 22.5 and 67.5 degrees, times 2 ** 15
    horizontal, vertical = (dy.abs() << 15) < flat, (dy.abs() << 15) > steep
    falling = (dx ^ dy) < 0
    before = (
        torch.where(falling, beside(-1, 1), beside(-1, -1))
        .where(~horizontal, beside(0, -1))
        .where(~vertical, beside(-1, 0))
    )
    behind = (
        torch.where(falling, beside(1, -1), beside(1, 1))
        .where(~horizontal, beside(0, 1))
        .where(~vertical, beside(1, 0))
    )
    ties = (horizontal | vertical) & (size == behind)
    return (size > before) & ((size > behind) | ties)


def dilated(edges: Tensor) -> Tensor:
    """By a 4x4 block of ones, whose anchor is its third pixel, as OpenCV's is."""
    return F.max_pool2d(F.pad(edges.float(), (2, 1, 2, 1)), 4, 1)


def boundaries(label: Tensor, frame: int = 6) -> Tensor:
    """(B, H, W) of 0 and 1."""
    edges, inner = canny(label), slice(frame, -frame)
    framed = torch.zeros_like(edges)
    framed[:, inner, inner] = edges[:, inner, inner]
    return dilated(framed)


def balanced_bce(logits: Tensor, edges: Tensor) -> Tensor:
    """Both kinds of pixels weigh the same in sum; 0 where there are no edges. Divided by all pixels of the batch."""
    # 1 - edges.mean() would lose its digits where nearly all pixels are edges
    weight = torch.where(edges > 0, (1 - edges).mean(), edges.mean())
    return F.binary_cross_entropy_with_logits(logits, edges, weight)
