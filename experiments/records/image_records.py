"""Records of each image of a split: the counts out of which every score and page is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from experiments.command_line.files import whole

RADII = (1, 2, 4, 8, 16, 32)  # pixels from a boundary of the truth
BINS = 15  # of confidence


@dataclass
class Examined:
    """Counts of N images and C classes. A measure that nobody wanted, or that cannot be known, is
    None."""

    title: str  # "bisenet/resnet18 on 233 images of camvid test (whole, 32-true)"
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    categories: Sequence[str]  # one per class; empty where the data set has none
    names: Sequence[str]  # of the images
    confusions: np.ndarray  # (N, C, C) int32: pixels by truth and prediction
    # (N,) float64: mean cross-entropy of the labeled pixels in nats; nan where there are none
    losses: np.ndarray | None = None
    # (N, C, 4) int64: boundary pixels predicted, of them matched, true, of them matched
    boundaries: np.ndarray | None = None
    # (N, C, 2) int64: intersection and union of the areas along boundaries
    boundary_overlaps: np.ndarray | None = None
    # (R, C, C) int64: as `confusions`, but summed over images, within each of RADII
    bands: np.ndarray | None = None
    # (C, BINS, 3) float64, by predicted class: pixels, sum of confidence, hits
    calibration: np.ndarray | None = None
    # (C,) float64: average pixels of a class's instances, 0 for a class without any
    instance_sizes: np.ndarray | None = None
    # (C + categories, 3) float64: weighted hits, weighted misses, false alarms
    instances: np.ndarray | None = None

    @property
    def confusion(self) -> np.ndarray:
        return self.confusions.sum(0)

    def save(self, file: Path) -> None:
        """Write arrays and strings alone, so that reading runs no code of the file."""
        known = {name: np.asarray(value) for name, value in vars(self).items() if value is not None}
        with whole(file) as partial, partial.open("wb") as out:
            np.savez_compressed(out, **known)


def sizes_of(examined: Examined) -> dict[int, float]:
    """Average pixels of an instance, by class; nothing for a class without any."""
    if examined.instance_sizes is None:
        return {}
    return {number: size for number, size in enumerate(examined.instance_sizes.tolist()) if size}


def load(file: Path | BinaryIO) -> Examined:
    with np.load(file, allow_pickle=False) as stored:
        content = {name: stored[name] for name in stored.files}
    for name in ("classes", "categories", "names", "palette"):
        content[name] = content[name].tolist()
    return Examined(**content | {"title": str(content["title"])})
