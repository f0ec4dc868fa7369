"""From a network and an image to logits: whole, resized, sliding, mirrored, at several scales. The
modes nest.

What a mode returns are `Strips`: logits at the image's size that are made a block of rows at a
time, so that the memory for the full size is never taken.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.parts.resize import mirrored, strip
from segmodels.recipe import inference_steps


class Strips:
    """`rows(top, bottom)` makes those rows, (B, C, bottom - top, W), of an image's logits; of
    probabilities, once modes were averaged."""

    def __init__(
        self, size: tuple[int, int], rows: Callable[[int, int], Tensor], averaged: bool = False
    ) -> None:
        self.size, self.rows, self.averaged = size, rows, averaged

    def probabilities(self, top: int, bottom: int) -> Tensor:
        rows = self.rows(top, bottom)
        return rows if self.averaged else rows.softmax(1)

    def log_probabilities(self, top: int, bottom: int) -> Tensor:
        """Exact for logits, however small; those of averaged probabilities end where their number
        type does."""
        rows = self.rows(top, bottom)
        return (
            rows.clamp_min(torch.finfo(rows.dtype).tiny).log()
            if self.averaged
            else rows.log_softmax(1)
        )

    def full(self) -> Tensor:
        return self.rows(0, self.size[0])

    def most_likely(self, block: int = 128) -> tuple[Tensor, Tensor]:
        """The probability of each pixel's likeliest class (B, H, W), and that class, uint8."""
        shares, classes = [], []
        for top in range(0, self.size[0], block):
            share, label = self.probabilities(top, min(top + block, self.size[0])).max(1)
            shares.append(share)
            classes.append(label.to(torch.uint8))
        return torch.cat(shares, 1), torch.cat(classes, 1)

    def cropped(self, size: tuple[int, int]) -> "Strips":
        """The upper left part."""
        if size == self.size:
            return self
        return Strips(
            size, lambda top, bottom: self.rows(top, bottom)[..., : size[1]], self.averaged
        )

    def argmax(self, block: int = 128) -> Tensor:
        """The class of each pixel, uint8 (B, H, W)."""
        height = self.size[0]
        return torch.cat(
            [
                self.rows(top, min(top + block, height)).argmax(1).to(torch.uint8)
                for top in range(0, height, block)
            ],
            1,
        )


class Network(Protocol):
    margin: int
    multiple: int

    def normalized(self, image: Tensor) -> Tensor: ...

    def valid_side(self, side: int) -> int: ...

    def strips(self, image: Tensor) -> Strips: ...

    def inner_strips(self, padded: Tensor) -> Strips: ...


Mode = Callable[[Network, Tensor], Strips]


def whole(network: Network, image: Tensor) -> Strips:
    return network.strips(image)


def resized(scale: float, inner: Mode = whole) -> Mode:
    """The image at `scale`, its logits brought back to full size (STDC's Seg50 and Seg75, BiSeNet's
    768x1536)."""

    def judged(network: Network, image: Tensor) -> Strips:
        return rescaled(
            inner(network, at_scale(network.normalized(image), scale)), tuple(image.shape[-2:])
        )

    return judged


def flip(inner: Mode = whole) -> Mode:
    """The mean of the probabilities of an image and of its mirror image."""

    def judged(network: Network, image: Tensor) -> Strips:
        straight, mirrored = inner(network, image), inner(network, image.flip(-1))
        return mean_of(
            [
                straight,
                Strips(
                    mirrored.size,
                    lambda top, bottom: mirrored.rows(top, bottom).flip(-1),
                    mirrored.averaged,
                ),
            ]
        )

    return judged


def multiscale(scales: tuple[float, ...], inner: Mode = whole) -> Mode:
    """The mean of the probabilities over scales."""

    def judged(network: Network, image: Tensor) -> Strips:
        return mean_of([resized(scale, inner)(network, image) for scale in scales])

    return judged


def slide(
    window: tuple[int, int], stride: tuple[int, int] | None = None, inner: Mode = whole
) -> Mode:
    """Windows over the image, two thirds of a window apart unless told; logits are averaged where
    windows overlap."""
    steps = stride or tuple(-(-2 * side // 3) for side in window)

    def judged(network: Network, image: Tensor) -> Strips:
        height, width = image.shape[
            -2:
        ]  # windows are normalized one by one: no float copy of a large image
        tall, wide = min(window[0], height), min(window[1], width)
        tiles = {
            (top, left): inner(network, image[..., top : top + tall, left : left + wide])
            for top in starts(height, tall, steps[0])
            for left in starts(width, wide, steps[1])
        }
        averaged = next(iter(tiles.values())).averaged
        return Strips(
            (height, width),
            lambda top, bottom: _overlapped(tiles, (tall, wide), width, top, bottom),
            averaged,
        )

    return judged


def tiles(tile: tuple[int, int]) -> Mode:
    """U-Net's overlap tiles (figure 2): each sees its true surroundings, mirrored only beyond the
    image.

    Tiles begin on the network's pooling grid, so they say what the network says of the whole image:
    a tile of 388 = 24 x 16 + 4 is followed by one 384 pixels further on, and both say the same of
    the 4 pixels that they share.
    """

    def judged(network: Network, image: Tensor) -> Strips:
        height, width = image.shape[-2:]
        margin, grid = network.margin, network.multiple
        tall, wide = (network.valid_side(side + 2 * margin) - 2 * margin for side in tile)
        tops = range(0, height, max(tall // grid * grid, grid))
        lefts = range(0, width, max(wide // grid * grid, grid))
        full = max(tops[-1] + tall, height), max(lefts[-1] + wide, width)
        rows = (margin, margin + full[0] - height)
        columns = (margin, margin + full[1] - width)
        framed = mirrored(network.normalized(image), rows, columns)
        made = {}
        for top in tops:
            for left in lefts:
                seen = framed[..., top : top + tall + 2 * margin, left : left + wide + 2 * margin]
                made[top, left] = network.inner_strips(seen)

        def overlapped(top: int, bottom: int) -> Tensor:
            return _overlapped(made, (tall, wide), full[1], top, bottom)

        return Strips(full, overlapped).cropped((height, width))

    return judged


def starts(side: int, window: int, step: int) -> list[int]:
    """Where windows begin; the last one ends at the border."""
    return [
        min(start, side - window)
        for start in range(0, max(side - window, 0) + step, step)
        if start < side - window + step
    ]


def _overlapped(
    tiles: dict[tuple[int, int], Strips], window: tuple[int, int], width: int, top: int, bottom: int
) -> Tensor:
    total, count = None, None
    for (y, x), tile in tiles.items():
        low, high = max(top, y), min(bottom, y + window[0])
        if low >= high:
            continue
        part = tile.rows(low - y, high - y)
        if total is None:
            total = part.new_zeros((*part.shape[:2], bottom - top, width))
            count = part.new_zeros((bottom - top, width))
        total[..., low - top : high - top, x : x + window[1]] += part
        count[low - top : high - top, x : x + window[1]] += 1
    return total / count


def at_scale(image: Tensor, scale: float) -> Tensor:
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    return F.interpolate(image, size, mode="bilinear", align_corners=False)


def rescaled(strips: Strips, size: tuple[int, int]) -> Strips:
    """Strips at another size; of the strips given only the rows that are needed are made."""

    def rows(top: int, bottom: int) -> Tensor:
        wanted = strip(strips.size[0], size, top, bottom, align_corners=False)
        return wanted.upsampled(strips.rows(wanted.first, wanted.last))

    return strips if strips.size == size else Strips(size, rows, strips.averaged)


def mean_of(many: list[Strips]) -> Strips:
    def rows(top: int, bottom: int) -> Tensor:
        return sum(each.probabilities(top, bottom) for each in many) / len(many)

    return Strips(many[0].size, rows, averaged=True)


def mode(text: str) -> Mode:
    """A mode by its name in a recipe, such as "resized:0.75" or
    "multiscale:0.75,1,1.25+flip+slide:769x769"."""
    inner: Mode = whole
    for name, argument in reversed(inference_steps(text)):
        inner = _named(name, argument, inner)
    return inner


def _named(name: str, argument: str, inner: Mode) -> Mode:
    if name == "resized":
        return resized(float(argument), inner)
    if name == "multiscale":
        return multiscale(tuple(float(scale) for scale in argument.split(",")), inner)
    if name in ("slide", "tiles"):
        sizes = [tuple(map(int, size.split("x"))) for size in argument.split("/")]
        return slide(*sizes, inner=inner) if name == "slide" else tiles(*sizes)
    return flip(inner) if name == "flip" else inner
