"""Inference modes: whole, resized, sliding windows, tiles, stitched shifts, flip, several scales,
fully-connected CRF. They nest.

A mode returns `Strips`: logits at the image's size that are made a block of rows at a time, so that
no memory is needed for the full size.
"""

from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.parts.crf import Settings, marginals
from segmodels.parts.resize import compute_dtype, mirrored, strip
from segmodels.recipe import inference_steps


class Strips:
    """Logits of an image, made a block of rows at a time; probabilities if modes were averaged.

    `rows(top, bottom)` makes (B, C, bottom - top, W).
    """

    def __init__(
        self, size: tuple[int, int], rows: Callable[[int, int], Tensor], averaged: bool = False
    ) -> None:
        self.size = size
        self.rows = rows
        self.averaged = averaged

    def probabilities(self, top: int, bottom: int) -> Tensor:
        rows = self.rows(top, bottom)
        return rows if self.averaged else rows.softmax(1)

    def log_probabilities(self, top: int, bottom: int) -> Tensor:
        """Return log-probabilities; those of averaged probabilities are bounded below."""
        rows = self.rows(top, bottom)
        if self.averaged:
            return rows.clamp_min(torch.finfo(rows.dtype).tiny).log()
        return rows.log_softmax(1)

    def full(self) -> Tensor:
        return self.rows(0, self.size[0])

    def most_likely(self, block: int = 128) -> tuple[Tensor, Tensor]:
        """Return each pixel's largest probability (B, H, W), and its class, uint8 (B, H, W)."""
        probabilities = []
        classes = []
        for top in range(0, self.size[0], block):
            values, label = self.probabilities(top, min(top + block, self.size[0])).max(1)
            probabilities.append(values)
            classes.append(label.to(torch.uint8))
        return torch.cat(probabilities, 1), torch.cat(classes, 1)

    def cropped(self, size: tuple[int, int]) -> "Strips":
        """Return the upper left part."""
        if size == self.size:
            return self

        def rows(top: int, bottom: int) -> Tensor:
            return self.rows(top, bottom)[..., : size[1]]

        return Strips(size, rows, self.averaged)

    def argmax(self, block: int = 128) -> Tensor:
        """Return the class of each pixel, uint8 (B, H, W)."""
        classes = []
        for top in range(0, self.size[0], block):
            logits = self.rows(top, min(top + block, self.size[0]))
            classes.append(most_likely_classes(logits))
        return torch.cat(classes, 1)

    def argmax_and_loss(self, label: Tensor, block: int = 128) -> tuple[Tensor, Tensor]:
        """Return the class of each pixel, uint8 (B, H, W), and the mean cross-entropy.

        Pixels whose label is 255 do not count; without any other the loss is 0.
        """
        classes = []
        loss = torch.zeros((), device=label.device)
        for top in range(0, self.size[0], block):
            bottom = min(top + block, self.size[0])
            rows = self.rows(top, bottom)
            classes.append(most_likely_classes(rows))
            true = label[:, top:bottom].long()
            if self.averaged:
                rows = rows.clamp_min(torch.finfo(rows.dtype).tiny).log_()
                each = F.nll_loss(rows, true, ignore_index=255, reduction="sum")
            else:
                each = F.cross_entropy(rows, true, ignore_index=255, reduction="sum")
            loss += each
        return torch.cat(classes, 1), loss / label.ne(255).sum().clamp(min=1)


def most_likely_classes(rows: Tensor) -> Tensor:
    """Return the class of each pixel, the first one of equals: (B, C, rows, W) -> (B, rows, W)."""
    return rows.max(1).indices.to(torch.uint8)  # on a CPU several times quicker than argmax


class Network(Protocol):
    align_corners: bool
    margin: int
    multiple: int

    def normalized(self, image: Tensor) -> Tensor: ...

    def padded(self, image: Tensor) -> Tensor: ...

    def inner_size(self, padded: Tensor) -> tuple[int, int]: ...

    def logits(self, image: Tensor) -> Tensor: ...

    def as_pixels(self, image: Tensor) -> Tensor: ...

    def valid_side(self, side: int) -> int: ...

    def strips(self, image: Tensor) -> Strips: ...

    def inner_strips(self, padded: Tensor) -> Strips: ...


Mode = Callable[[Network, Tensor], Strips]


def whole(network: Network, image: Tensor) -> Strips:
    return network.strips(image)


def resized(scale: float, inner: Mode = whole) -> Mode:
    """Scale the image, and bring its logits back to full size.

    STDC's Seg50 and Seg75 and BiSeNet's 768x1536 are evaluated so.
    """

    def predict(network: Network, image: Tensor) -> Strips:
        strips = inner(network, at_scale(network.normalized(image), scale))
        return rescaled(strips, tuple(image.shape[-2:]))

    return predict


def flip(inner: Mode = whole) -> Mode:
    """Average the probabilities of an image and of its mirror image."""

    def predict(network: Network, image: Tensor) -> Strips:
        straight = inner(network, image)
        flipped = inner(network, image.flip(-1))

        def rows(top: int, bottom: int) -> Tensor:
            return flipped.rows(top, bottom).flip(-1)

        return mean_of([straight, Strips(flipped.size, rows, flipped.averaged)])

    return predict


def multiscale(scales: tuple[float, ...], inner: Mode = whole) -> Mode:
    """Average the probabilities over scales."""

    def predict(network: Network, image: Tensor) -> Strips:
        return mean_of([resized(scale, inner)(network, image) for scale in scales])

    return predict


def slide(
    window: tuple[int, int], stride: tuple[int, int] | None = None, inner: Mode = whole
) -> Mode:
    """Slide a window over the image, and average the logits where windows overlap.

    Without a stride it is two thirds of the window.
    """
    steps = stride or tuple(-(-2 * side // 3) for side in window)

    def predict(network: Network, image: Tensor) -> Strips:
        height, width = image.shape[-2:]
        tall = min(window[0], height)
        wide = min(window[1], width)
        # Windows are normalized one by one: a large image needs no float copy.
        windows = {
            (top, left): inner(network, image[..., top : top + tall, left : left + wide])
            for top in starts(height, tall, steps[0])
            for left in starts(width, wide, steps[1])
        }
        averaged = next(iter(windows.values())).averaged

        def rows(top: int, bottom: int) -> Tensor:
            return _overlapped(windows, (tall, wide), width, top, bottom)

        return Strips((height, width), rows, averaged)

    return predict


def tiles(tile: tuple[int, int]) -> Mode:
    """Cut the image into U-Net's overlap tiles (figure 2), mirrored only beyond the image's border.

    Tiles begin on the network's pooling grid, so their logits are those of the whole image: a tile
    of 388 = 24 x 16 + 4 is followed by one 384 pixels further on, and both have the same logits at
    the 4 pixels that they share.
    """

    def predict(network: Network, image: Tensor) -> Strips:
        height, width = image.shape[-2:]
        margin = network.margin
        grid = network.multiple
        tall, wide = (network.valid_side(side + 2 * margin) - 2 * margin for side in tile)
        tops = range(0, height, max(tall // grid * grid, grid))
        lefts = range(0, width, max(wide // grid * grid, grid))
        full_height = max(tops[-1] + tall, height)
        full_width = max(lefts[-1] + wide, width)
        framed = mirrored(
            network.normalized(image),
            rows=(margin, margin + full_height - height),
            columns=(margin, margin + full_width - width),
        )
        made = {}
        for top in tops:
            for left in lefts:
                seen = framed[..., top : top + tall + 2 * margin, left : left + wide + 2 * margin]
                made[top, left] = network.inner_strips(seen)

        def rows(top: int, bottom: int) -> Tensor:
            return _overlapped(made, (tall, wide), full_width, top, bottom)

        return Strips((full_height, full_width), rows).cropped((height, width))

    return predict


def stitch(stride: int) -> Mode:
    """Shift the image by every number of rows and columns below the stride, and interlace the
    logits of the shifts (shift-and-stitch, FCN's section 3.2).

    Every pixel gets the network's own coarse logits, not interpolated ones: those of dense
    evaluation, in which strides are traded for dilation, except where a pixel's receptive field
    meets the border. It takes stride * stride passes. A network that upsamples inside has logits
    everywhere, mixed of its coarse ones; each pass gives those of every stride-th pixel, so that all
    pixels lie alike between coarse ones.
    """

    def predict(network: Network, image: Tensor) -> Strips:
        height, width = image.shape[-2:]
        normalized = network.normalized(image)
        # The first of coarse logits stands for this row and column, half a stride inside.
        center = 0 if network.align_corners else (stride - 1) // 2
        last = stride - 1
        below = last + -(height + last) % stride  # all shifts have whole strides of rows
        beside = last + -(width + last) % stride
        dense = None
        for down in range(stride):
            for right in range(stride):
                shifted = F.pad(normalized, (right, beside - right, down, below - down))
                coarse = _coarse_logits(network, shifted, stride, center)
                if dense is None:
                    batch, classes, rows, columns = coarse.shape
                    dense = coarse.new_empty(batch, classes, rows * stride, columns * stride)
                dense[..., last - down :: stride, last - right :: stride] = coarse
        first = last - center
        dense = dense[..., first : first + height, first : first + width]

        def rows(top: int, bottom: int) -> Tensor:
            return dense[..., top:bottom, :]

        return Strips((height, width), rows)

    return predict


def crf(settings: Settings, inner: Mode = whole) -> Mode:
    """Refine the probabilities by a fully-connected CRF, which needs those of the whole image."""

    def predict(network: Network, image: Tensor) -> Strips:
        strips = inner(network, image)

        @cache
        def refined() -> Tensor:
            pixels = network.as_pixels(image)
            probabilities = strips.probabilities(0, strips.size[0])
            if image.device.type == "mps":  # it has no float64
                pixels, probabilities = pixels.cpu(), probabilities.cpu()
            each = [marginals(*pair, settings) for pair in zip(probabilities, pixels)]
            return torch.stack(each).to(image.device)

        def rows(top: int, bottom: int) -> Tensor:
            return refined()[:, :, top:bottom]

        return Strips(strips.size, rows, averaged=True)

    return predict


def _coarse_logits(network: Network, image: Tensor, stride: int, center: int) -> Tensor:
    """Return logits at 1/stride of a normalized image, or every stride-th of a full-size network."""
    padded = network.padded(image)
    size = network.inner_size(padded)
    logits = network.logits(padded)
    own = tuple(logits.shape[-2:])
    if own == size:
        logits = logits[..., center::stride, center::stride]
    elif own != tuple(-(-side // stride) for side in size):
        raise ValueError(
            f"stitch:{stride} takes logits at 1/{stride} of {size[0]}x{size[1]}, and this network "
            f"has {own[0]}x{own[1]}; give its own stride, such as stitch:{-(-size[0] // own[0])}"
        )
    return logits.to(compute_dtype(logits))  # half precision would tie neighboring classes


def starts(side: int, window: int, step: int) -> list[int]:
    """Return the positions at which windows begin; the last window ends at the border."""
    return [
        min(start, side - window)
        for start in range(0, max(side - window, 0) + step, step)
        if start < side - window + step
    ]


def _overlapped(
    tiles: dict[tuple[int, int], Strips], window: tuple[int, int], width: int, top: int, bottom: int
) -> Tensor:
    """Return rows of the mean of tiles, which are given by their top left corner."""
    total = None
    count = None
    for (y, x), tile in tiles.items():
        low = max(top, y)
        high = min(bottom, y + window[0])
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
    """Resize strips; only those of their rows that are needed are made."""

    def rows(top: int, bottom: int) -> Tensor:
        wanted = strip(strips.size[0], size, top, bottom, align_corners=False)
        return wanted.upsampled(strips.rows(wanted.first, wanted.last))

    return strips if strips.size == size else Strips(size, rows, strips.averaged)


def mean_of(many: list[Strips]) -> Strips:
    def rows(top: int, bottom: int) -> Tensor:
        return sum(each.probabilities(top, bottom) for each in many) / len(many)

    return Strips(many[0].size, rows, averaged=True)


def mode(text: str) -> Mode:
    """Make the mode that a recipe names, such as "multiscale:0.75,1,1.25+flip+slide:769x769"."""
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
    if name == "stitch":
        return stitch(int(argument))
    if name == "flip":
        return flip(inner)
    if name == "crf":
        steps, *kernels = argument.split(",")
        return crf(Settings(int(steps), *map(float, kernels)), inner)
    return inner
