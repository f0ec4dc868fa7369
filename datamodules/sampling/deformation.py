"""Rotation, shift and elastic deformation of a crop: where in the scaled image each of its pixels
is read.

The image is turned about its center and shifted before the window is cut, as in hszhao/semseg; the
window is then deformed as in U-Net.
Image and label are read once, at the same places. What lies outside of the image is ignored, and
shows the padding in the end, or the image mirrored.
"""

import math
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch.nn import functional

from datamodules.labels import IGNORED
from datamodules.reading.decoding import Box, Size
from datamodules.sampling.crops import (
    ELASTIC,
    PADDING,
    SHIFT,
    TURN,
    Corner,
    Crop,
    Spot,
    Window,
    draw,
    nearest,
)

GRID = 3  # displacement vectors along each side of a crop, from border to border, as U-Net has them
Where = TypeVar("Where", int, np.ndarray)


class Motion(NamedTuple):
    """Degrees counterclockwise about the image's center; pixels down and right; displacements (2,
    3, 3) in pixels down and right.
    """

    angle: float
    shift: tuple[float, float]
    grid: np.ndarray | None


class Places(NamedTuple):
    """A moved window: row and column (H, W) of every pixel of a crop in the scaled image, and
    whether it is outside. It is cut as a `Window` is, but for the whole crop.
    """

    window: Window
    rows: np.ndarray
    columns: np.ndarray
    outside: np.ndarray

    @property
    def box(self) -> Box:
        """The pixels of the unscaled image that are read."""
        height, width = self.window.scaled
        top, bottom = extent(self.rows, height)
        left, right = extent(self.columns, width)
        part = {"top": top, "left": left, "height": bottom - top + 1, "width": right - left + 1}
        return self.window._replace(**part).box

    def cut_image(self, image: np.ndarray, corner: Corner = (0, 0)) -> np.ndarray:
        """Bilinear, and where nothing moves what a `Window` reads."""
        import cv2

        (height, width), (down, across) = self.window.scaled, self.window.steps
        rows = unscaled(self.rows, height, down) - corner[0]
        columns = unscaled(self.columns, width, across) - corner[1]
        colors = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)  # OpenCV reads four channels twice as fast
        warped = cv2.remap(
            colors,
            np.float32(columns),
            np.float32(rows),
            interpolation=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)

    def cut_label(self, label: np.ndarray, corner: Corner = (0, 0)) -> np.ndarray:
        """The label at the nearest pixel of the scaled image; ignored outside of it."""
        (height, width), (down, across) = self.window.scaled, self.window.steps
        rows = np.floor(self.rows + 0.5).clip(0, height - 1)
        columns = np.floor(self.columns + 0.5).clip(0, width - 1)
        rows = nearest(rows, down, self.window.size[0]) - corner[0]
        columns = nearest(columns, across, self.window.size[1]) - corner[1]
        numbers = label[rows, columns]
        numbers[self.outside] = IGNORED
        return numbers


def extent(place: np.ndarray, side: int) -> tuple[int, int]:
    """The first and last pixel along a side that are read; the nearest one where the crop lies
    beyond it.
    """
    first, last = np.clip([math.floor(place.min()), math.ceil(place.max())], 0, side - 1)
    return int(first), int(last)


def unscaled(place: np.ndarray, side: int, step: float) -> np.ndarray:
    """Places along a side of the scaled image as places of the unscaled one."""
    return (place.clip(-0.5, side - 0.5) + 0.5) * step - 0.5


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
    row, column = rotated(*spot, size, motion.angle)
    return round(row), round(column)


def rotated(rows: Where, columns: Where, size: Size, degrees: float) -> tuple[Where, Where]:
    """Places of an image, turned counterclockwise about its center."""
    center_row, center_column = (size[0] - 1) / 2, (size[1] - 1) / 2
    down, right = rows - center_row, columns - center_column
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (
        center_row + cosine * down - sine * right,
        center_column + sine * down + cosine * right,
    )


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

    rows, columns = rows - motion.shift[0], columns - motion.shift[1]
    rows, columns = rotated(rows, columns, window.scaled, -motion.angle)  # (H, W) each
    outside = (rows < -0.5) | (rows >= window.scaled[0] - 0.5)
    outside |= (columns < -0.5) | (columns >= window.scaled[1] - 0.5)
    if PADDING[crop.padding] is None:
        rows, columns = folded(rows, window.scaled[0]), folded(columns, window.scaled[1])
    return Places(window, rows, columns, outside)


def folded(place: np.ndarray, side: int) -> np.ndarray:
    """Places beyond a side, mirrored into it at its first and last pixel, as often as need be."""
    period = max(2 * (side - 1), 1)
    place = place % period
    return np.minimum(place, period - place)


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
    vectors = torch.eye(GRID, dtype=torch.float64)[None, :, :, None]  # (1, 3, 3, 1)
    how = {"mode": "bicubic", "align_corners": True}
    weights = functional.interpolate(vectors, (side, 1), **how)  # (1, 3, side, 1)
    return weights[0, :, :, 0].T.numpy()
