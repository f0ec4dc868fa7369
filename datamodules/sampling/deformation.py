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


class MovedWindow(NamedTuple):
    """Where in the scaled image every pixel of a crop is read. It is cut as a `Window` is, but for
    the whole crop, padding included.
    """

    window: Window
    places: np.ndarray  # (2, H, W): row and column
    outside: np.ndarray  # (H, W): whether that is beyond the image

    @property
    def box(self) -> Box:
        """The pixels of the unscaled image that are read; those nearest to it if it is left."""
        last = np.array(self.window.scaled) - 1
        top, left = np.floor(self.places.min((1, 2))).clip(0, last).astype(int).tolist()
        bottom, right = np.ceil(self.places.max((1, 2))).clip(0, last).astype(int).tolist()
        part = {"top": top, "left": left, "height": bottom - top + 1, "width": right - left + 1}
        return self.window._replace(**part).box

    def cut_image(self, image: np.ndarray, corner: Corner = (0, 0)) -> np.ndarray:
        """Bilinear, and where nothing moves what a `Window` reads."""
        import cv2

        side, step = by_axis(self.window.scaled), by_axis(self.window.steps)
        places = self.places.clip(-0.5, side - 0.5)
        rows, columns = np.float32((places + 0.5) * step - 0.5 - by_axis(corner))
        colors = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)  # OpenCV reads four channels twice as fast
        how = {"interpolation": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
        return cv2.cvtColor(cv2.remap(colors, columns, rows, **how), cv2.COLOR_RGBA2RGB)

    def cut_label(self, label: np.ndarray, corner: Corner = (0, 0)) -> np.ndarray:
        """The label at the nearest pixel of the scaled image; ignored outside of it."""
        side, step = by_axis(self.window.scaled), by_axis(self.window.steps)
        pixels = np.floor(self.places + 0.5).clip(0, side - 1)
        rows, columns = nearest(pixels, step, by_axis(self.window.size)) - by_axis(corner)
        numbers = label[rows, columns]
        numbers[self.outside] = IGNORED
        return numbers


def by_axis(pair: tuple[float, float]) -> np.ndarray:
    """A number for rows and one for columns, (2, 1, 1): for places (2, H, W)."""
    return np.array(pair)[:, None, None]


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


def move(crop: Crop, window: Window, motion: Motion) -> MovedWindow:
    """Backwards from a pixel of the crop: deformed, flipped, into the window, shifted back, turned
    back.
    """
    rows, columns = np.ogrid[: crop.size[0], : crop.size[1]]  # (H, 1), (1, W)
    if motion.grid is not None:
        down, right = displacements(motion.grid, crop.size)
        rows, columns = rows + down, columns + right  # (H, W)
    rows = rows - window.down + window.top - motion.shift[0]
    columns = columns - window.right
    if window.flip:
        columns = window.width - 1 - columns
    columns = columns + window.left - motion.shift[1]
    places = np.stack(rotated(rows, columns, window.scaled, -motion.angle))  # (2, H, W)
    side = by_axis(window.scaled)
    outside = ((places < -0.5) | (places >= side - 0.5)).any(0)  # (H, W)
    if PADDING[crop.padding] is None:
        # mirrored into the image at its first and last pixel, as often as need be
        period = np.maximum(2 * (side - 1), 1)
        places %= period
        places = np.minimum(places, period - places)
    return MovedWindow(window, places, outside)


def displacements(grid: np.ndarray, size: Size) -> np.ndarray:
    """Displacement of every pixel, bicubic in the grid: (2, 3, 3) -> (2, H, W)."""
    over_rows, over_columns = (cubic_weights(side) for side in size)  # (H, 3), (W, 3)
    # Products are added in this order, whatever a library of linear algebra would do: draws must
    # not depend on threads.
    fields = np.zeros((2, *size))
    for row in range(GRID):
        along = sum(grid[:, row, each, None] * over_columns[:, each] for each in range(GRID))
        fields += over_rows[:, row, None] * along[:, None]  # (2, 1, W) times (H, 1)
    return fields


def cubic_weights(side: int) -> np.ndarray:
    """(side, 3): what each of three vectors counts at each pixel; the first and last stand on the
    border pixels and are repeated beyond.
    """
    vectors = torch.eye(GRID, dtype=torch.float64)[None, :, :, None]  # (1, 3, 3, 1)
    how = {"mode": "bicubic", "align_corners": True}
    weights = functional.interpolate(vectors, (side, 1), **how)  # (1, 3, side, 1)
    return weights[0, :, :, 0].T.numpy()
