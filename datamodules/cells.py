"""Cells: built-in pictures of touching cells under a microscope, drawn while they load.

They show what a loss that minds borders does: where two cells touch, one or two pixels of
background are all that parts them. Picture k of a split is a function of (cell seed, split, k).
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datamodules.built_in import BuiltIn
from datamodules.labels import LabelSet
from datamodules.progress import with_progress
from datamodules.reading.decoding import Pair
from datamodules.reading.sources import Memory

RADII = (11.0, 19.0)  # pixels, of a cell
TOUCHING = 0.8  # share of the cells that are placed at another one's side
AREA = 1000  # pixels of a picture for each cell
TRIES = 20  # to place a cell beside the others
Circle = tuple[float, float, float]  # row and column of the middle, radius
CELLS = LabelSet(("background", "cell"), ((70, 60, 90), (120, 200, 80)), (0, 1))


class Cells(BuiltIn):
    labels = CELLS
    name = "cells"
    files_instead = "--data folder for pictures of your own"
    caution = (
        "cells are drawn: they show what a loss does; "
        "a score on them ranks nothing and compares with no paper"
    )
    budget = {
        "iterations": 300,
        "batch": 8,
        "crop": (192, 192),
        "scales": (0.8, 1.25),
        "continuous": True,
        "optimizer": "adamw",
        "lr": 2e-3,
        "head_lr": 1.0,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup": 25,
        "precision": "auto",
        "inference": "whole",
    }

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        height: int = 256,
        width: int = 256,
        train: int = 60,
        val: int = 20,
        test: int = 20,
        cell_seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        counts = {"train": train, "val": val, "test": test}
        self.settle((height, width), counts, ("cell_seed", cell_seed))

    def source(self, split: str) -> Memory:
        count = self.picture_counts[split]
        numbers = with_progress(range(count), f"drawing {count} pictures of cells")
        seed = self.split_seed(split)
        pairs = (picture(seed, number, *self.size) for number in numbers)
        return Memory(pairs, [f"cells_{number:06d}" for number in range(count)])


# --- drawing


def picture(seed: int, number: int, height: int, width: int) -> Pair:
    """Draw gray RGB (H, W, 3) and its label (H, W), both uint8."""
    random = np.random.default_rng((seed, number))
    owner = parted(grown(random, height, width))
    return microscope(random, owner), (owner > 0).astype(np.uint8)


def grown(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return the number of the cell that each pixel belongs to (H, W), 0 where there is none.

    A cell is round with two waves along its outline; a pixel within several belongs to the one
    whose middle is nearest in terms of its radius.
    """
    nearest = np.ones((height, width))
    owner = np.zeros((height, width), np.int32)
    for number, (row, column, radius) in enumerate(places(random, height, width), start=1):
        reach = int(1.3 * radius) + 1
        rows = slice(max(int(row) - reach, 0), min(int(row) + reach, height))
        columns = slice(max(int(column) - reach, 0), min(int(column) + reach, width))
        y, x = np.mgrid[rows, columns]
        y, x = y - row, x - column
        angle = np.arctan2(y, x)
        outline = 1.0
        for count in (2, 3):
            phase = random.uniform(0, 2 * np.pi)
            outline = outline + random.uniform(0, 0.12) * np.cos(count * angle + phase)
        distance = np.hypot(y, x) / (radius * outline)
        mine = distance < nearest[rows, columns]
        nearest[rows, columns][mine] = distance[mine]
        owner[rows, columns][mine] = number
    return owner


def places(random: np.random.Generator, height: int, width: int) -> list[Circle]:
    """Place cells at each other's sides or anywhere; one that finds no free place is left out."""
    placed: list[Circle] = []
    for _ in range(height * width // AREA + 1):
        radius = random.uniform(*RADII)
        for _ in range(TRIES):
            row, column = place(random, placed, radius, height, width)
            gaps = [np.hypot(row - y, column - x) - 0.9 * (radius + r) for y, x, r in placed]
            if min(gaps, default=0) >= 0 and 0 <= row < height and 0 <= column < width:
                placed.append((row, column, radius))
                break
    return placed


def place(
    random: np.random.Generator, placed: list[Circle], radius: float, height: int, width: int
) -> tuple[float, float]:
    if not placed or random.random() > TOUCHING:
        return random.uniform(0, height), random.uniform(0, width)
    row, column, other = placed[random.integers(len(placed))]
    turn = random.uniform(0, 2 * np.pi)
    apart = 0.95 * (radius + other)
    return row + apart * np.sin(turn), column + apart * np.cos(turn)


def parted(owner: np.ndarray) -> np.ndarray:
    """Give the background every pixel beside a cell of a lower number, so that no two cells touch."""
    free = np.iinfo(owner.dtype).max
    around = np.where(owner > 0, owner, free).astype(np.float64)
    lowest = cv2.erode(around, np.ones((3, 3)), borderValue=float(free))
    return np.where(lowest < owner, 0, owner)


def microscope(random: np.random.Generator, owner: np.ndarray) -> np.ndarray:
    """Draw the cells in gray, each a little brighter or darker, with dim rims, blurred and noisy."""
    height, width = owner.shape
    inside = (owner > 0).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    shades = np.concatenate([[0.0], random.normal(0.16, 0.05, owner.max())])
    gray = 0.38 + shades[owner] - 0.14 * inside * np.exp(-depth / 2)
    gray += 0.03 * smooth(random, height, width, 24) + 0.025 * smooth(random, height, width, 2)
    gray = cv2.GaussianBlur(gray, (0, 0), 0.8) + random.normal(0, 0.02, (height, width))
    pixels = np.clip(255 * gray, 0, 255).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, axis=2)  # (H, W) -> (H, W, 3)


def smooth(random: np.random.Generator, height: int, width: int, sigma: float) -> np.ndarray:
    """Return noise of unit deviation whose neighbors within `sigma` pixels are alike."""
    noise = cv2.GaussianBlur(random.normal(size=(height, width)), (0, 0), sigma)
    return noise / max(noise.std(), 1e-6)
