"""What a pass over a split found out, image by image: plain numbers, out of which every score and page is made."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from experiments.command_line.files import whole

RADII = (1, 2, 4, 8, 16, 32)  # pixels from a boundary of the truth
BINS = 15  # of confidence


@dataclass
class Examined:
    """N images, C classes. What was not asked for, or cannot be known, is None."""

    title: str  # "bisenet/resnet18 on 233 images of camvid test (whole, 32-true)"
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    categories: Sequence[str]  # one per class; empty where the data set has none
    names: Sequence[str]  # of the images
    confusions: np.ndarray  # (N, C, C) int32: pixels by truth and prediction
    losses: np.ndarray | None = (
        None  # (N,) float64: mean cross-entropy of the labeled pixels in nats; nan where there are none
    )
    boundaries: np.ndarray | None = (
        None  # (N, C, 4) int64: boundary pixels predicted, of them matched, true, of them matched
    )
    boundary_overlaps: np.ndarray | None = (
        None  # (N, C, 2) int64: intersection and union of the areas along boundaries
    )
    bands: np.ndarray | None = (
        None  # (R, C, C) int64: as `confusions`, but summed over images, within each of RADII
    )
    calibration: np.ndarray | None = (
        None  # (C, BINS, 3) float64, by predicted class: pixels, sum of confidence, hits
    )
    instance_sizes: np.ndarray | None = (
        None  # (C,) float64: average pixels of a class's instances, 0 for a class without any
    )
    instances: np.ndarray | None = (
        None  # (C + categories, 3) float64: weighted hits, weighted misses, false alarms
    )

    @property
    def confusion(self) -> np.ndarray:
        return self.confusions.sum(0)

    def save(self, file: Path) -> None:
        """Whole or not at all; arrays and strings alone, so that it is read without running anything."""
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        with whole(file) as partial, partial.open("wb") as out:
            np.savez_compressed(
                out,
                **{name: np.asarray(value) for name, value in known.items() if value is not None},
            )


def sizes_of(examined: Examined) -> dict[int, float]:
    """Average pixels of an instance, by class; nothing for a class without any."""
    return (
        {number: size for number, size in enumerate(examined.instance_sizes.tolist()) if size}
        if examined.instance_sizes is not None
        else {}
    )


def load(file: Path | BinaryIO) -> Examined:
    with np.load(file, allow_pickle=False) as stored:
        content = {name: stored[name] for name in stored.files}
    for name in ("classes", "categories", "names", "palette"):
        content[name] = content[name].tolist()
    return Examined(**content | {"title": str(content["title"])})
