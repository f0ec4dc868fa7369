"""Bilinear upsampling of a strip of rows, for maps that are too large to hold at full size."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Strip:
    """Rows `top` to `bottom` of an upsampled map, blended from its rows `first` to `last`."""

    top: int
    bottom: int
    first: int
    last: int
    # The three are None if the height does not change.
    upper: Tensor | None  # (bottom - top,): the row above each position, counted from `first`
    lower: Tensor | None  # (bottom - top,): the row below
    share: Tensor | None  # (bottom - top, 1): the weight of the lower row
    width: int
    align_corners: bool

    def upsampled(self, part: Tensor) -> Tensor:
        """Upsample (B, C, last - first, w) to (B, C, bottom - top, W).

        The width comes first, because the small map has fewer rows to widen.
        """
        if part.shape[-1] != self.width:
            size = (part.shape[-2], self.width)
            part = F.interpolate(part, size, mode="bilinear", align_corners=self.align_corners)
        if self.upper is None:
            return part
        upper = self.upper.to(part.device, non_blocking=True)
        lower = self.lower.to(part.device, non_blocking=True)
        share = self.share.to(part.device, non_blocking=True)
        return part.index_select(2, upper).lerp_(part.index_select(2, lower), share)


def strip(
    height: int,
    size: tuple[int, int],
    top: int,
    bottom: int,
    align_corners: bool,
    dtype: torch.dtype = torch.float32,
) -> Strip:
    """Return a strip of a map of this height, resized to `size` and computed in `dtype`."""
    if height == size[0]:
        return Strip(top, bottom, top, bottom, None, None, None, size[1], align_corners)
    upper, lower, share = _taps(height, size[0], top, bottom, align_corners, dtype)
    first = int(upper[0])
    last = int(lower[-1]) + 1
    return Strip(
        top,
        bottom,
        first,
        last,
        upper - first,
        lower - first,
        share[:, None],
        size[1],
        align_corners,
    )


def upsampled_rows(
    logits: Tensor, size: tuple[int, int], top: int, bottom: int, align_corners: bool
) -> Tensor:
    """Compute F.interpolate(logits, size, mode="bilinear")[:, :, top:bottom] and no other rows."""
    if not 0 <= top < bottom <= size[0]:
        raise ValueError(
            f"rows {top}:{bottom} of a map that is {size[0]} rows high; allowed: 0 <= top < "
            f"bottom <= {size[0]}"
        )
    rows = strip(logits.shape[-2], size, top, bottom, align_corners, compute_dtype(logits))
    part = logits[:, :, rows.first : rows.last]
    return rows.upsampled(part.to(compute_dtype(logits))).to(logits.dtype)


def mirrored(image: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Reflect an image (B, C, H, W) at its borders, again and again if it is small.

    `rows` are those added above and below, `columns` those added left and right.
    """
    for axis, (before, behind) in ((-2, rows), (-1, columns)):
        length = image.shape[axis]
        period = max(2 * (length - 1), 1)
        place = torch.arange(-before, length + behind, device=image.device) % period
        image = image.index_select(axis, torch.minimum(place, period - place))
    return image


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return float32 for every shorter type, as F.interpolate itself computes, or float64."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _taps(
    source: int, size: int, top: int, bottom: int, align_corners: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two source rows of each output row and the share of the second.

    They are rounded as in F.interpolate on maps of more than a few rows.
    """
    position = torch.arange(top, bottom, dtype=dtype)
    if align_corners:
        position *= torch.tensor(source - 1, dtype=dtype) / max(size - 1, 1)
    else:
        scale = torch.tensor(source, dtype=dtype) / size
        position = ((position + 0.5) * scale - 0.5).clamp_(min=0)
    upper = position.long().clamp_(max=source - 1)
    lower = (upper + 1).clamp_(max=source - 1)
    return upper, lower, position - upper
