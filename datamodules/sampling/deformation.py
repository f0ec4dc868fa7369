"""Rotation, shift and elastic deformation of a crop: where in the scaled image each of its pixels
is read.

The image is turned about its center and shifted before the window is cut, as in hszhao/semseg; the
window is then deformed as in U-Net.
Image and label are read once, at the same places. What lies outside of the image is ignored, and
shows the padding in the end, or the image mirrored.
"""

import math
from typing import NamedTuple

import numpy as np

from datamodules.labels import IGNORED
from datamodules.reading.decoding import Box, Size
from datamodules.sampling.crops import (
    ELASTIC,
    PADDING,
    SHIFT,
    TURN,
    Crop,
    Spot,
    Window,
    box_of,
    draw,
    factors,
    folded,
)

GRID = 3  # displacement vectors along each side of a crop, from border to border, as U-Net has them


class Motion(NamedTuple):
    """Degrees counterclockwise about the image's center; pixels down and right; displacements (2,
    3, 3) in pixels down and right.
    """

    angle: float
    shift: tuple[float, float]
    grid: np.ndarray | None


class Places(NamedTuple):
    """Row and column (H, W) of every pixel of a crop in the scaled image, and whether it is
    outside."""

    rows: np.ndarray
    columns: np.ndarray
    outside: np.ndarray


def drawn(crop: Crop, seed: int, number: int) -> Motion | None:
    """The motion of a draw, each part from a stream of its own; None where nothing moves."""
    angle, shift, grid = 0.0, (0.0, 0.0), None
    if crop.rotation:
        at_chance, at_angle = draw(seed, number, TURN).random(2)
        if at_chance < crop.rotation_chance:
            angle = crop.rotation * (2 * at_angle - 1)
    if crop.shift:
        down, right = draw(seed, number, SHIFT).uniform(-crop.shift, crop.shift, 2)
        shift = (float(down), float(right))
    if crop.elastic:
        grid = draw(seed, number, ELASTIC).normal(0.0, crop.elastic, (2, GRID, GRID))
    moves = angle != 0 or shift != (0.0, 0.0) or grid is not None
    return Motion(angle, shift, grid) if moves else None


def turned(spot: Spot, size: Size, motion: Motion) -> Spot:
    """The place of a spot once the image is turned."""
    cosine, sine = cosine_and_sine(motion.angle)
    center_row, center_column = (size[0] - 1) / 2, (size[1] - 1) / 2
    down, right = spot[0] - center_row, spot[1] - center_column
    row = center_row + cosine * down - sine * right
    column = center_column + sine * down + cosine * right
    return round(row), round(column)


def cosine_and_sine(degrees: float) -> tuple[float, float]:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


# --- places


def places(crop: Crop, window: Window, motion: Motion) -> Places:
    """Backwards from a pixel of the crop: deformed, flipped, into the window, shifted back, turned
    back.
    """
    height, width = crop.size
    rows = np.arange(height, dtype=np.float64)[:, None]  # (H, 1)
    columns = np.arange(width, dtype=np.float64)[None]  # (1, W)
    if motion.grid is not None:
        down, right = displacements(motion.grid, crop.size)
        rows, columns = rows + down, columns + right  # (H, W)
    rows = rows - window.down + window.top
    columns = columns - window.right
    if window.flip:
        columns = window.width - 1 - columns
    columns = columns + window.left

    center_row, center_column = (window.scaled[0] - 1) / 2, (window.scaled[1] - 1) / 2
    below = rows - motion.shift[0] - center_row
    beside = columns - motion.shift[1] - center_column
    cosine, sine = cosine_and_sine(motion.angle)
    rows = center_row + cosine * below + sine * beside  # (H, W)
    columns = center_column - sine * below + cosine * beside  # (H, W)
    outside = (rows < -0.5) | (rows >= window.scaled[0] - 0.5)
    outside |= (columns < -0.5) | (columns >= window.scaled[1] - 0.5)
    if PADDING[crop.padding] is None:
        rows, columns = folded(rows, window.scaled[0]), folded(columns, window.scaled[1])
    return Places(rows, columns, outside)


def displacements(grid: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Displacement of every pixel, bicubic in the grid: (2, 3, 3) -> (H, W) down, (H, W) right."""
    over_rows, over_columns = (cubic_weights(side) for side in size)  # (H, 3), (W, 3)
    # Products are added in this order, whatever a library of linear algebra would do: draws must
    # not depend on threads.
    fields = np.zeros((2, *size))
    for row in range(GRID):
        along = sum(grid[:, row, each, None] * over_columns[:, each] for each in range(GRID))
        fields += over_rows[:, row, None] * along[:, None]  # (2, 1, W) times (H, 1)
    return fields[0], fields[1]


def cubic_weights(side: int) -> np.ndarray:
    """(side, 3): what each of three vectors counts at each pixel; the first and last stand on the
    border pixels and are repeated beyond.
    """
    at = np.linspace(0, GRID - 1, side) if side > 1 else np.zeros(1)
    first = np.minimum(np.floor(at).astype(np.intp), GRID - 2)
    weights = np.zeros((side, GRID))
    for step in (-1, 0, 1, 2):
        node = (first + step).clip(0, GRID - 1)
        weights[np.arange(side), node] += cubic(at - (first + step))
    return weights


def cubic(distance: np.ndarray) -> np.ndarray:
    """The kernel of cubic convolution (Keys 1981), with the -0.75 of OpenCV and torch."""
    x = np.abs(distance)
    near = 1.25 * x**3 - 2.25 * x**2 + 1
    far = -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


# --- pixels


def touched(at: Places, window: Window, size: Size) -> Box:
    """The pixels of the unscaled image that are read."""
    top, bottom = extent(at.rows, window.scaled[0])
    left, right = extent(at.columns, window.scaled[1])
    part = window._replace(top=top, left=left, height=bottom - top + 1, width=right - left + 1)
    return box_of(part, size)


def extent(place: np.ndarray, side: int) -> tuple[int, int]:
    """The first and last pixel along a side that are read; the nearest one where the crop lies
    beyond it.
    """
    first = min(max(math.floor(place.min()), 0), side - 1)
    last = max(min(math.ceil(place.max()), side - 1), 0)
    return first, last


def warped(image: np.ndarray, at: Places, window: Window, size: Size, box: Box) -> np.ndarray:
    """Bilinear, and where nothing moves what `crops.warp` reads."""
    import cv2

    row_step, column_step = factors(window.scaled, size)
    rows = between(at.rows, window.scaled[0], row_step) - box[0]
    columns = between(at.columns, window.scaled[1], column_step) - box[1]
    how = {"interpolation": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    colors = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)  # OpenCV reads four channels twice as fast
    found = cv2.remap(colors, np.float32(columns), np.float32(rows), **how)
    return cv2.cvtColor(found, cv2.COLOR_RGBA2RGB)


def between(place: np.ndarray, side: int, step: float) -> np.ndarray:
    """Places along a side of the scaled image as places of the unscaled one."""
    return (place.clip(-0.5, side - 0.5) + 0.5) * step - 0.5


def numbers(label: np.ndarray, at: Places, window: Window, size: Size, box: Box) -> np.ndarray:
    """The label at the nearest pixel of the scaled image; ignored outside of it."""
    row_step, column_step = factors(window.scaled, size)
    rows = nearest(at.rows, window.scaled[0], row_step, size[0]) - box[0]
    columns = nearest(at.columns, window.scaled[1], column_step, size[1]) - box[1]
    found = label[rows, columns]
    found[at.outside] = IGNORED
    return found


def nearest(place: np.ndarray, side: int, step: float, unscaled: int) -> np.ndarray:
    """The pixel of the unscaled image that the nearest one of the scaled image is made of."""
    pixel = np.floor(place + 0.5).clip(0, side - 1)
    return np.floor(pixel * step).astype(np.intp).clip(max=unscaled - 1)
