"""Find where a network fails: the pairs of classes, the images and the places that cost most.

All of it is computed from the records that an evaluation keeps of each image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments.records.image_records import RADII, Examined, sizes_of
from segmodels.metrics.boundary import boundary_iou_scores, boundary_scores
from segmodels.metrics.calibration import calibration_scores
from segmodels.metrics.comparison import image_scores
from segmodels.metrics.confusion import margins, rates
from segmodels.metrics.instances import instance_scores


@dataclass(frozen=True)
class Confused:
    """Pixels of one class that were taken for another.

    Every wrong pixel widens the union of the class that it is and of the class that it was taken
    for, and nothing else lowers an IoU. So 1 - mIoU is the sum over all pairs of pixels * (1 / union
    of the one + 1 / union of the other) / classes: `cost` is a pair's part.
    """

    truth: int
    predicted: int
    pixels: int
    share: float  # of the truth's pixels
    cost: float  # of mIoU, as a fraction
    image: int  # the one that holds most of these pixels


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """nan where there is nothing to be a part of."""
    whole = np.asarray(whole, np.float64)
    return np.divide(
        part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0
    )


def rated(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """`rates` of (..., C, C) counts."""
    return {
        name: value.numpy() for name, value in rates(margins(torch.from_numpy(confusion))).items()
    }


def further_scores(examined: Examined) -> dict[str, Any]:
    """Of what was counted beside the confusions; what was not counted is missing."""
    found: dict[str, Any] = {}
    if examined.boundaries is not None:
        found |= boundary_scores(torch.from_numpy(examined.boundaries))
    if examined.boundary_overlaps is not None:
        found |= boundary_iou_scores(torch.from_numpy(examined.boundary_overlaps.sum(0)))
    if examined.calibration is not None:
        found |= calibration_scores(torch.from_numpy(examined.calibration))
    if examined.instances is not None:
        counts = torch.from_numpy(examined.instances)
        found |= instance_scores(counts, sizes_of(examined), examined.categories)
    return found


def image_iou(confusions: np.ndarray) -> np.ndarray:
    """(N, C, C) -> (N,): the mean over the classes that are true in the image, else nan."""
    return np.array(image_scores(torch.from_numpy(confusions)), np.float64)


def costs(confusion: np.ndarray) -> np.ndarray:
    """(C, C): what every pair takes from mIoU; 0 on the diagonal."""
    union = confusion.sum(0) + confusion.sum(1) - np.diagonal(confusion)
    weight = np.divide(1, union, out=np.zeros(len(union)), where=union > 0) / max(
        (union > 0).sum(), 1
    )
    return confusion * (weight[:, None] + weight) * (1 - np.eye(len(union)))


def most_confused(confusions: np.ndarray, most: int) -> list[Confused]:
    """The pairs that cost most, of (N, C, C) counts."""
    return confused(confusions, costs(confusions.sum(0)), most)


def largest_confused(confusion: np.ndarray, most: int) -> list[Confused]:
    """The pairs with most pixels, of (C, C) counts.

    In one image a stray pixel of a class that it lacks would cost most.
    """
    return confused(confusion[None], confusion * (1 - np.eye(len(confusion))), most)


def confused(confusions: np.ndarray, weight: np.ndarray, most: int) -> list[Confused]:
    """The heaviest pairs by their (C, C) weight."""
    confusion = confusions.sum(0)
    cost, true = costs(confusion), confusion.sum(1)
    found = []
    for place in np.argsort(-weight, axis=None, kind="stable")[:most]:
        t, p = np.unravel_index(place, cost.shape)
        if not weight[t, p]:
            break
        pixels = int(confusion[t, p])
        found.append(
            Confused(
                int(t),
                int(p),
                pixels,
                pixels / int(true[t]),
                float(cost[t, p]),
                int(confusions[:, t, p].argmax()),
            )
        )
    return found


def taken_for(confusion: np.ndarray, truth: int) -> tuple[int, float] | None:
    """The class that the pixels of `truth` are most often taken for, with their share."""
    row = confusion[truth].astype(np.float64)
    total, row[truth] = row.sum(), 0
    return (int(row.argmax()), float(row.max() / total)) if row.any() else None


def worst_images(examined: Examined, pairs: Sequence[Confused], worst: int) -> dict[int, list[str]]:
    """Images to look at with the reasons why, lowest IoU first.

    They are the worst by IoU, the worst by loss, and those where a pair is seen best.
    """
    iou = image_iou(examined.confusions)
    reasons: dict[int, list[str]] = {}
    for values, word in (
        (iou, "lowest IoU"),
        (None if examined.losses is None else -examined.losses, "highest loss"),
    ):
        for place, index in enumerate([] if values is None else ranked(values)[:worst]):
            reasons.setdefault(index, []).append(
                word if place == 0 else f"{ordinal(place + 1)} {word}"
            )
    for pair in pairs:
        names = examined.classes[pair.truth], examined.classes[pair.predicted]
        reasons.setdefault(pair.image, []).append(f"most {names[0]} taken for {names[1]}")
    return {index: reasons[index] for index in ranked(iou) if index in reasons}


def ranked(values: np.ndarray) -> list[int]:
    """Indexes from the smallest value up; what has none is left out."""
    return [int(index) for index in np.argsort(values, kind="stable") if np.isfinite(values[index])]


def ordinal(number: int) -> str:
    ending = (
        "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    )
    return f"{number}{ending}"


def matrix_part(confusion: np.ndarray, most: int) -> list[int]:
    """The classes of a readable matrix: all, or those of the pairs that cost most, in the data set's order."""
    if len(confusion) <= most:
        return list(range(len(confusion)))
    cost, chosen = costs(confusion), []
    for place in np.argsort(-cost, axis=None, kind="stable"):
        pair = [int(each) for each in np.unravel_index(place, cost.shape)]
        new = [each for each in dict.fromkeys(pair) if each not in chosen]
        if len(chosen) + len(new) > most:
            break
        chosen += new
    return sorted(chosen)


def excess(bins: np.ndarray) -> np.ndarray:
    """(..., BINS, 3) -> (...): mean confidence less accuracy; above 0 it is too sure of itself."""
    pixels, confidence, hits = np.moveaxis(bins, -1, 0)
    return ratio((confidence - hits).sum(-1), pixels.sum(-1))


@dataclass(frozen=True)
class Band:
    """What lies within `radius` pixels of a boundary; None is everything."""

    radius: int | None
    pixels: float  # share of all
    errors: float  # share of all
    accuracy: float
    miou: float


def bands(examined: Examined) -> list[Band]:
    """Every radius, then the whole."""
    found = []
    pixels, errors = (examined.confusion.sum(), wrong(examined.confusion))
    for radius, counts in zip((*RADII, None), (*examined.bands, examined.confusion)):
        shares = float(ratio(counts.sum(), pixels)), float(ratio(wrong(counts), errors))
        found.append(
            Band(
                radius,
                *shares,
                *(float(rated(counts)[name]) for name in ("pixel_accuracy", "miou")),
            )
        )
    return found


def wrong(confusion: np.ndarray) -> int:
    return int(confusion.sum() - np.trace(confusion))
