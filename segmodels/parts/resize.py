"""Bilinear upsampling of a strip of rows, for maps that are too large to hold at full size.

A tile has a part of the columns too, and is made by two matrix products. On a CPU they are quicker
than blending rows, most of all for bringing a gradient back; `products_are_exact` says where.
Labels come from strips: products may round equal logits of two classes apart.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

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

    @property
    def at(self) -> tuple[slice, slice]:
        """Rows and columns of the upsampled map."""
        return slice(self.top, self.bottom), slice(None)

    @property
    def source(self) -> tuple[slice, slice]:
        """Rows and columns of the map that they are blended from."""
        return slice(self.first, self.last), slice(None)

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

    def with_transpose(self, part: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return `upsampled(part)`, and a function that brings its gradient back to `part`."""
        part = part.detach().requires_grad_()
        full = self.upsampled(part)
        return full.detach(), partial(_gradient, full, part)


@dataclass(frozen=True)
class Tile:
    """Rows and columns `at` of an upsampled map, blended from `source` by two matrix products."""

    at: tuple[slice, slice]
    source: tuple[slice, slice]
    # The two are None if the height or the width does not change.
    down: Tensor | None  # (rows, source rows): the share of each source row
    across: Tensor | None  # (columns, source columns)

    def upsampled(self, part: Tensor) -> Tensor:
        """Upsample a contiguous part of the map, (B, C, source rows, source columns)."""
        images, classes, rows, _ = part.shape
        if self.across is not None:
            part = _product(part.flatten(0, 2), self.across.T)  # (B*C*rows, columns)
        part = part.view(images * classes, rows, -1)
        if self.down is not None:
            part = _product(self.down.expand(len(part), -1, -1), part)
        return part.view(images, classes, *part.shape[1:])

    def transposed(self, slope: Tensor) -> Tensor:
        """Bring a contiguous gradient in what was upsampled back to its part of the map."""
        images, classes, *_ = slope.shape
        slope = slope.flatten(0, 1)  # (B, C, rows, columns) -> (B*C, rows, columns)
        if self.down is not None:
            slope = _product(self.down.T.expand(len(slope), -1, -1), slope)
        rows = slope.shape[1]
        if self.across is not None:
            slope = _product(slope.flatten(0, 1), self.across)  # (B*C*rows, source columns)
        return slope.view(images, classes, rows, -1)

    def with_transpose(self, part: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return `upsampled(part)`, and a function that brings its gradient back to `part`."""
        return self.upsampled(part), self.transposed


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


def tiles(
    source: tuple[int, int],
    size: tuple[int, int],
    rows: int,
    columns: int,
    align_corners: bool,
    dtype: torch.dtype,
) -> Iterator[Tile]:
    """Yield a map of `source` size, resized to `size`, in tiles of so many rows and columns."""
    vertical = _pieces(source[0], size[0], rows, align_corners, dtype)
    horizontal = list(_pieces(source[1], size[1], columns, align_corners, dtype))
    for at_rows, source_rows, down in vertical:
        for at_columns, source_columns, across in horizontal:
            yield Tile((at_rows, at_columns), (source_rows, source_columns), down, across)


def products_are_exact(logits: Tensor) -> bool:
    """Return whether matrix products upsample these logits as exactly as F.interpolate does.

    They do not if torch may shorten their factors, nor beside infinity: 0 times infinity would
    reach a whole tile. Whether they are quicker was measured on CPUs alone.
    """
    shortened = torch.backends.mkldnn.matmul.fp32_precision not in ("none", "ieee")
    if shortened or not logits.is_cpu:
        return False
    return all(math.isfinite(limit) for limit in torch.aminmax(logits.detach()))


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


def upsampled_at(
    logits: Tensor, size: tuple[int, int], rows: Tensor, columns: Tensor, align_corners: bool
) -> Tensor:
    """Compute F.interpolate(logits, size, mode="bilinear") at these rows and columns alone."""
    logits = logits.to(compute_dtype(logits))
    for dim, places in ((2, rows), (3, columns)):
        length = size[dim - 2]
        taps = _taps(logits.shape[dim], length, 0, length, align_corners, logits.dtype)
        upper, lower, share = (each[places].to(logits.device) for each in taps)
        share = share[:, None] if dim == 2 else share
        logits = torch.lerp(logits.index_select(dim, upper), logits.index_select(dim, lower), share)
    return logits


def corner_taps(source: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two places that each of `size` places lies between, corner on corner, and the
    share of the second.
    """
    return _taps(source, size, 0, size, True, torch.float64)


def mirrored(image: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Reflect an image (B, C, H, W) at its borders, again and again if it is small.

    `rows` are those added above and below, `columns` those added left and right.
    """
    for axis, (before, behind) in ((-2, rows), (-1, columns)):
        length = image.shape[axis]
        # a tensor, because ONNX's remainder takes no number that varies with the image's size
        period = torch.full((), max(2 * (length - 1), 1), device=image.device)
        place = torch.arange(before + length + behind, device=image.device) - before
        place = place % period
        image = image.index_select(axis, torch.minimum(place, period - place))
    return image


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return float32 for every shorter type, as F.interpolate itself computes, or float64."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _taps(
    source: int, size: int, top: int, bottom: int, align_corners: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two source rows (or columns) of each output row and the share of the second.

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


def _pieces(
    source: int, size: int, step: int, align_corners: bool, dtype: torch.dtype
) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """Yield `step` rows (or columns) at a time, their source, and the share of each in each."""
    for first in range(0, size, step):
        last = min(first + step, size)
        if source == size:
            yield slice(first, last), slice(first, last), None
            continue
        upper, lower, share = _taps(source, size, first, last, align_corners, dtype)
        start, stop = int(upper[0]), int(lower[-1]) + 1
        shares = torch.zeros(last - first, stop - start, dtype=dtype)
        shares.scatter_add_(1, (upper - start)[:, None], (1 - share)[:, None])
        shares.scatter_add_(1, (lower - start)[:, None], share[:, None])
        yield slice(first, last), slice(start, stop), shares


def _product(left: Tensor, right: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):  # it would shorten the factors
        return left @ right


def _gradient(full: Tensor, part: Tensor, slope: Tensor) -> Tensor:
    return torch.autograd.grad(full, part, slope)[0]
