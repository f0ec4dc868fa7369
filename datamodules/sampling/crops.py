"""Random crops: a window of an image at a scale, cut without scaling the rest, and its color.

Randomness is a pure function of (seed, draw number): nothing depends on workers, ranks, batch sizes
or what was drawn before, so draw k of a run is the same sample wherever and whenever it is made.
"""

import math
import os
import random
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datamodules.errors import DataError
from datamodules.labels import IGNORED
from datamodules.reading.decoding import Box, Pair, Size

if TYPE_CHECKING:
    from albumentations import ColorJitter

MEAN = (124, 116, 104)  # ImageNet's mean color: what padding shows a network is close to nothing
PADDING = {"mean": MEAN, "black": (0, 0, 0), "mirror": None}  # None: the image, reflected
ORDER, WINDOW, COLOR, SPLIT = 1, 2, 3, 4  # separate streams of one seed
TURN, SHIFT, ELASTIC, BLUR = 5, 6, 7, 8
TRIES = 10  # to avoid a window dominated by one class; the last is not checked, as in mmseg
Spot = tuple[int, int]  # row and column of a class in the unscaled image
Corner = tuple[int, int]
OWN = threading.local()  # what each thread keeps

RANGES = {  # of an option's value: from, to, in words
    "flip": (0, 1, "a probability from 0 to 1"),
    "jitter": (0, 1, "a strength from 0 to 1"),
    "hue": (0, 0.5, "a share of the color circle from 0 to 0.5"),
    "class_uniform": (0, 1, "a share of the draws from 0 to 1"),
    "rotation": (0, 180, "degrees from 0 to 180"),
    "rotation_chance": (0, 1, "a probability from 0 to 1"),
    "shift": (0, math.inf, "a number of pixels from 0 up"),
    "elastic": (0, math.inf, "a number of pixels from 0 up"),
    "blur_chance": (0, 1, "a probability from 0 to 1"),
}


@dataclass(frozen=True)
class Crop:
    """The options of a random crop; a data module takes them by the same names, and `size` as
    `crop`.

    `continuous` makes (scales[0], scales[-1]) a range; `jitter` is the strength for brightness,
    contrast and saturation, `hue` the largest share of the color circle by which colors turn.

    A window of which one class has a share of `cat_max_ratio` or more is drawn again;
    `class_uniform` is the share of draws about a class. `rotation` is in degrees to either side,
    `shift` in pixels, `elastic` the standard deviation of displacements in pixels. `blur` is none,
    kernel:5 or sigma:0.15,1.3; `padding` is mean, black or mirror.
    """

    size: Size = (1024, 1024)
    scales: tuple[float, ...] = (1.0,)
    continuous: bool = False
    flip: float = 0.5
    jitter: float = 0.0
    hue: float = 0.0
    cat_max_ratio: float = 1.0
    class_uniform: float = 0.0
    rotation: float = 0.0
    rotation_chance: float = 1.0
    shift: float = 0.0
    elastic: float = 0.0
    blur: str = "none"
    blur_chance: float = 1.0
    padding: str = "mean"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        object.__setattr__(self, "scales", tuple(self.scales))
        if len(self.size) != 2 or not all(int(side) == side > 0 for side in self.size):
            raise DataError(f"crop={self.size} is not two whole numbers above 0: height, width")
        rising = list(self.scales) == sorted(self.scales)
        if not (self.scales and min(self.scales) > 0 and rising):
            raise DataError(
                f"scales={self.scales} is not factors above 0 in rising order, such as (0.5, "
                "1.0, 2.0)"
            )
        for name, (low, high, words) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise DataError(f"{name}={value} is not {words}")
        if not 0 < self.cat_max_ratio <= 1:
            raise DataError(
                f"cat_max_ratio={self.cat_max_ratio} is not a share above 0, with 1 for any window"
            )
        if self.padding not in PADDING:
            raise DataError(f"padding={self.padding} is not mean, black or mirror")
        blur_settings(self.blur)


# --- the random window


def draw(seed: int, number: int, stream: int = WINDOW) -> np.random.Generator:
    return np.random.default_rng((seed, stream, number))


class Window(NamedTuple):
    """A part of the scaled image, and where it stands in the crop when it is smaller than the
    crop.

    `corner` is where a part that was read of the image begins: its top and left.
    """

    scaled: Size
    top: int
    left: int
    height: int
    width: int
    down: int
    right: int
    flip: bool
    size: Size  # of the image before it is scaled

    @property
    def steps(self) -> tuple[float, float]:
        """Pixels of the image in one of the scaled image, down and across.

        Twice inverted, as OpenCV's resize does: the last bit decides labels.
        """
        return 1 / (self.scaled[0] / self.size[0]), 1 / (self.scaled[1] / self.size[1])

    @property
    def box(self) -> Box:
        """The pixels of the image that the window touches, one to spare."""
        down, across = self.steps
        return (
            max(int(self.top * down) - 1, 0),
            max(int(self.left * across) - 1, 0),
            min(int((self.top + self.height) * down) + 2, self.size[0]),
            min(int((self.left + self.width) * across) + 2, self.size[1]),
        )

    def cut_image(self, image: np.ndarray, corner: Corner = (0, 0)) -> np.ndarray:
        """The window of the scaled image: bilinear without antialiasing, as cv2.resize."""
        import cv2

        down, across = self.steps
        top = down * (self.top + 0.5) - 0.5 - corner[0]
        left = across * (self.left + 0.5) - 0.5 - corner[1]
        if self.flip:
            left += across * (self.width - 1)
            across = -across
        # OpenCV warps four channels in less than half of the time that it takes for three.
        warped = cv2.warpAffine(
            cv2.cvtColor(image, cv2.COLOR_RGB2RGBA),
            np.float64([[across, 0, left], [0, down, top]]),  # pixel of the window -> of the part
            (self.width, self.height),
            dst=scratch_buffer((self.height, self.width, 4)),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)

    def cut_label(self, label: np.ndarray, corner: Corner = (0, 0)) -> np.ndarray:
        """The window of the scaled label: by nearest index, as cv2.resize."""
        down, across = self.steps
        rows = np.arange(self.top, self.top + self.height)
        columns = np.arange(self.left, self.left + self.width)
        rows = nearest(rows, down, self.size[0]) - corner[0]
        columns = nearest(columns, across, self.size[1]) - corner[1]
        if self.flip:
            columns = columns[::-1]
        # The slow gather is the one along rows of memory: it comes where there are fewer of them.
        if len(label) < len(rows):
            return label.take(columns, 1).take(rows, 0)
        return label.take(rows, 0).take(columns, 1)


def nearest(pixels: np.ndarray, step: float, side: int) -> np.ndarray:
    """The pixels along a side of the image that those of the scaled image are made of."""
    return np.floor(pixels * step).astype(np.intp).clip(max=side - 1)


def scratch_buffer(shape: tuple[int, ...]) -> np.ndarray:
    """Memory of this thread, used again and again: fresh memory costs as much as writing it."""
    if getattr(OWN, "buffer", np.empty(0)).shape != shape:
        OWN.buffer = np.empty(shape, np.uint8)
    return OWN.buffer


def choose(crop: Crop, size: Size, rng: np.random.Generator, spot: Spot | None = None) -> Window:
    """Always four random numbers, whatever the settings: changing one of them leaves the others'
    draws alone.
    """
    at_scale, at_top, at_left, at_flip = rng.random(4)
    if crop.continuous:
        low, high = crop.scales[0], crop.scales[-1]
        scale = low + at_scale * (high - low)
    else:
        scale = crop.scales[int(at_scale * len(crop.scales))]
    scaled = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    return laid(crop, size, scaled, (at_top, at_left), bool(at_flip < crop.flip), spot)


def laid(
    crop: Crop, size: Size, scaled: Size, at: Sequence[float], flip: bool, spot: Spot | None
) -> Window:
    """The window at a place given by two numbers from 0 to 1: anywhere in the scaled image, or
    about a spot of the unscaled one.
    """
    centers = [None, None]
    if spot is not None:
        centers = [int(place * after / before) for place, after, before in zip(spot, scaled, size)]
    (top, height, down), (left, width, right) = map(along, at, scaled, crop.size, centers)
    return Window(scaled, top, left, height, width, down, right, flip, size)


def along(at: float, have: int, want: int, center: int | None) -> tuple[int, int, int]:
    """One side of a window: its start, its length, and its place in a crop that is longer.

    About a center, any window that has it inside or at its edge is equally likely, before those
    beyond the image are moved into it.
    """
    last = max(have - want, 0)
    if center is None:
        begin = int(at * (last + 1))
    else:
        begin = min(max(center - want + int(at * (want + 1)), 0), last)
    return begin, min(have, want), int(at * max(want - have + 1, 1))


def varied(
    crop: Crop,
    window: Window,
    rng: np.random.Generator,
    spot: Spot | None,
    count: Callable[[Window], np.ndarray],
) -> Window:
    """The window, or another of the same scaled image if one class dominates it; `count(window)`
    tells each number's pixels.
    """
    if (window.height, window.width) == window.scaled:
        return window  # there is no other
    for _ in range(TRIES):
        if not dominated(count(window), crop.cat_max_ratio):
            break
        window = laid(crop, window.size, window.scaled, rng.random(2), window.flip, spot)
    return window


def dominated(counts: np.ndarray, share: float) -> bool:
    """Whether one class has so large a share of the pixels that are not ignored; a window without
    any is no better.
    """
    classes = counts[:IGNORED]
    return not classes.any() or classes.max() / classes.sum() >= share


def pad(
    image: np.ndarray, label: np.ndarray, window: Window, size: Size, padding: str = "mean"
) -> Pair:
    """An image smaller than the crop stands at a random place of it, on one color or its own mirror
    images, and on ignored label."""
    import cv2

    height, width = label.shape
    if (height, width) == size:
        return image, label
    below = size[0] - height - window.down
    beside = size[1] - width - window.right
    around = (window.down, below, window.right, beside)
    color = PADDING[padding]
    border = cv2.BORDER_CONSTANT if color else cv2.BORDER_REFLECT_101
    image = cv2.copyMakeBorder(image, *around, border, value=color or MEAN)
    return image, cv2.copyMakeBorder(label, *around, cv2.BORDER_CONSTANT, value=IGNORED)


# --- color jitter: the one place where albumentations is called


@lru_cache
def color_jitter(strength: float, hue: float, thread: int) -> "ColorJitter":
    """One for each thread: it is seeded before it is used."""
    # it asks the package index for news when imported
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        from albumentations import ColorJitter
    except ImportError as error:
        raise DataError(
            f"jitter={strength} needs albumentations ({error}): pip install "
            "albumentations, or set jitter=0"
        ) from None
    return ColorJitter(strength, strength, strength, hue, p=1.0)


def recolor(
    image: np.ndarray, strength: float, seed: int, number: int, hue: float = 0.0
) -> np.ndarray:
    """Seeded per draw: left to itself, albumentations 2.0.8 repeats draws over workers, epochs."""
    jitter = color_jitter(strength, hue, threading.get_ident())
    jitter.set_random_state(draw(seed, number, COLOR), random.Random(f"{seed}-{number}"))
    return jitter(image=image)["image"]


# --- blur


class Blur(NamedTuple):
    """A kernel's side, for which OpenCV knows a width; or, where side is 0, the range of widths."""

    side: int
    low: float
    high: float


def blur_settings(words: str) -> Blur | None:
    """ "kernel:5" or "sigma:0.15,1.3"; None for "none"."""
    if words == "none":
        return None
    if match := re.fullmatch(r"kernel:(\d+)", words):
        side = int(match[1])
        if side >= 3 and side % 2:
            return Blur(side, 0.0, 0.0)
    if match := re.fullmatch(r"sigma:(\d*\.?\d+),(\d*\.?\d+)", words):
        low, high = map(float, match.groups())
        if 0 < low <= high:
            return Blur(0, low, high)
    raise DataError(
        f"blur={words} is none of none, kernel:5 (an odd side of pixels) and sigma:0.15,1.3 (a "
        "range of pixels)"
    )


def blurred(image: np.ndarray, crop: Crop, seed: int, number: int) -> np.ndarray:
    """By a Gaussian; one of a given width is cut off at four of them, as scikit-image does it."""
    import cv2

    blur = blur_settings(crop.blur)
    at_chance, at_sigma = draw(seed, number, BLUR).random(2)
    if blur is None or at_chance >= crop.blur_chance:
        return image
    sigma = blur.low + (blur.high - blur.low) * at_sigma
    side = blur.side or 2 * int(4 * sigma + 0.5) + 1
    return cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
