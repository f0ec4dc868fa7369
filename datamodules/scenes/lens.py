"""The camera: where it looks from, the hood of its car, the frame, blur, exposure and noise."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.scenes.dice import Dice
from datamodules.scenes.ids import EGO, OUT_OF_ROI
from datamodules.scenes.materials import textures
from datamodules.scenes.painter import FRACTION_BITS, Camera, sixteenths


@dataclass(frozen=True)
class Lens:
    """The camera in shares of the image's size."""

    focal: float
    center: float
    horizon: float
    eye: float  # meters above the ground
    bend: float  # of the street, 1 / meters

    @classmethod
    def drawn(cls, dice: Dice) -> "Lens":
        return cls(
            focal=dice.between(1.0, 1.2),
            center=dice.between(0.46, 0.54),
            horizon=dice.between(0.40, 0.47),
            eye=dice.between(1.2, 1.45),
            bend=dice.near(0, 0.0012),
        )

    def camera(self, height: int, width: int) -> Camera:
        # half a pixel less: OpenCV counts from the middle of the first pixel
        return Camera(
            self.focal * width,
            self.center * width - 0.5,
            self.horizon * height - 0.5,
            self.eye,
            self.bend,
        )


@dataclass(frozen=True)
class Exposure:
    """From the painted street to the camera's picture; lengths in shares of the image's size."""

    hood: float  # where the hood begins
    gray: float  # of the hood
    soft: bool
    gains: tuple[float, float, float]
    gamma: float
    brightness: float
    noise: float
    offset: tuple[float, float]  # of the noise

    @classmethod
    def drawn(cls, dice: Dice) -> "Exposure":
        return cls(
            hood=dice.between(0.87, 0.935),
            gray=dice.between(28, 70),
            soft=dice.chance(0.5),
            gains=(dice.between(0.93, 1.06), 1.0, dice.between(0.92, 1.08)),
            gamma=dice.between(0.85, 1.2),
            brightness=dice.between(0.72, 1.2),
            noise=dice.between(0.06, 0.24),
            offset=(dice.roll(), dice.roll()),
        )

    def develop(self, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Paints into both; the image that is returned is another one."""
        paint_hood(image, label, self.hood, self.gray)
        paint_frame(label)
        if self.soft:
            image = cv2.GaussianBlur(image, (3, 3), 0.55 if image.shape[1] < 1024 else 0.8)
        image = cv2.LUT(image, self.curve())
        return cv2.addWeighted(
            image, 1, grain_of(image.shape[:2], self.offset), self.noise, -128 * self.noise
        ), label

    def curve(self) -> np.ndarray:
        """(256, 1, 3): the channels' new values for 0..255."""
        values = (
            self.brightness
            * np.array(self.gains)
            * (np.arange(256)[:, None] / 255) ** self.gamma
            * 255
        )
        return np.clip(values, 0, 255).astype(np.uint8)[:, None]


def paint_hood(image: np.ndarray, label: np.ndarray, top: float, gray: float) -> None:
    """Of the own car: a dark dome with a lighter arc on it."""
    height, width = label.shape
    for share, light, own in ((0.0, 1.0, EGO), (0.3, 1.35, None), (0.4, 0.9, None)):
        x = np.linspace(-1, 1, 33)
        edge = height * (top + (1 - top) * (share + 1.05 * np.abs(x) ** 2.6))
        arc = np.stack([(x + 1) / 2 * width, edge], axis=1).tolist()
        outline = sixteenths([*arc, (width, height + 2), (0, height + 2)])
        cv2.fillPoly(
            image,
            [outline],
            (gray * light, gray * light, gray * light * 1.05),
            cv2.LINE_AA,
            FRACTION_BITS,
        )
        if own:
            cv2.fillPoly(label, [outline], own, cv2.LINE_8, FRACTION_BITS)


def paint_frame(label: np.ndarray) -> None:
    """Cityscapes leaves five pixels of 2048 unlabeled on the left, the right and the bottom."""
    frame = max(1, round(label.shape[1] * 5 / 2048))
    label[:, :frame] = label[:, -frame:] = label[-frame:] = OUT_OF_ROI


def grain_of(shape: tuple[int, int], offset: tuple[float, float]) -> np.ndarray:
    """A part of the noise, repeated where the image is larger."""
    grain = textures().grain
    top, left = int(offset[0] * 64), int(offset[1] * 64)
    repeats = (
        math.ceil((shape[0] + top) / grain.shape[0]),
        math.ceil((shape[1] + left) / grain.shape[1]),
    )
    repeated = grain if repeats == (1, 1) else np.tile(grain, (*repeats, 1))
    return repeated[top : top + shape[0], left : left + shape[1]]
