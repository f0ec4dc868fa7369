"""Sampling of a map at learned places, as deformable convolutions read it, in plain torch.

It is Dai et al.'s (2017. arXiv:1703.06211): the nine places of a 3x3 kernel, each moved by an
offset of its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.parts.resize import compute_dtype


def sampled(x: Tensor, offsets: Tensor, rate: int = 1) -> Tensor:
    """Read x (B, C, h, w) at nine places around each pixel, as (B, C, 9, h, w).

    The places lie `rate` pixels apart, in rows. Offsets (B, 18, h, w) move them by pixels: down and
    right of the first place, then of the next. Between pixels x is interpolated, and beyond the map
    it is zero.
    """
    # Positions are never half precision, in which neighboring columns would coincide.
    offsets = offsets.unflatten(1, (9, 2)).to(compute_dtype(offsets))  # (B, 9, 2, h, w)
    down, right = offsets.unbind(2)
    place = torch.arange(9, device=x.device)
    height, width = x.shape[-2:]
    row = torch.arange(height, device=x.device)[:, None] + steps(place // 3, rate)  # (9, h, 1)
    column = torch.arange(width, device=x.device) + steps(place % 3, rate)  # (9, 1, w)
    grid = torch.stack([relative(right + column, width), relative(down + row, height)], -1)
    grid = grid.flatten(1, 2)  # (B, 9, h, w, 2) -> (B, 9*h, w, 2)
    read = F.grid_sample(
        x.to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return read.to(x.dtype).unflatten(2, (9, height))


def steps(index: Tensor, rate: int) -> Tensor:
    """Return how far the places 0, 1 and 2 of a side lie from its middle, (9, 1, 1)."""
    return rate * (index - 1)[:, None, None]


def relative(position: Tensor, side: int) -> Tensor:
    """Return positions of pixels as shares of a side from -1 to 1, pixels being squares."""
    # full, because a plain number would be exported for one size only
    side = torch.full((), side, dtype=position.dtype, device=position.device)
    return (2 * position + 1) / side - 1
