"""Find where a network fails: the pairs of classes, the images and the places that cost most.

All of it is computed from the records that an evaluation keeps of each image.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments.records.image_records import Examined, sizes_of
from segmodels.metrics.bootstrap import image_scores
from segmodels.metrics.boundary import boundary_iou_scores, boundary_scores
from segmodels.metrics.calibration import calibration_scores
from segmodels.metrics.confusion import margins, rates
from segmodels.metrics.instance_iou import instance_scores

ORDINALS = {1: "", 2: "2nd ", 3: "3rd "}


@dataclass(frozen=True)
class Confused:
    """Pixels of one class that were taken for another.

    Every wrong pixel widens the union of the class that it is and of the class that it was taken
    for, and nothing else lowers an IoU. So 1 - mIoU is the sum over all pairs of pixels * (1 /
    union of the one + 1 / union of the other) / classes: `cost` is a pair's part.
    """

    truth: int
    predicted: int
    pixels: int
    share: float  # of the truth's pixels
    cost: float  # of mIoU, as a fraction
    image: int  # the one that holds most of these pixels


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The quotient, nan where there is nothing to be a part of."""
    return part / np.where(whole > 0, whole, np.nan)


def rated(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """`rates` of (..., C, C) counts."""
    scores = rates(margins(torch.from_numpy(confusion)))
    return {name: value.numpy() for name, value in scores.items()}


def further_scores(examined: Examined) -> dict[str, Any]:
    """The scores of everything that was counted beside the confusions."""
    scores: dict[str, Any] = {}
    if examined.boundaries is not None:
        scores |= boundary_scores(torch.from_numpy(examined.boundaries))
    if examined.boundary_overlaps is not None:
        scores |= boundary_iou_scores(torch.from_numpy(examined.boundary_overlaps.sum(0)))
    if examined.calibration is not None:
        scores |= calibration_scores(torch.from_numpy(examined.calibration))
    if examined.instances is not None:
        counts = torch.from_numpy(examined.instances)
        scores |= instance_scores(counts, sizes_of(examined), examined.categories)
    return scores


def image_iou(confusions: np.ndarray) -> np.ndarray:
    """(N, C, C) -> (N,): the mean over the classes that are true in the image, else nan."""
    return np.array(image_scores(torch.from_numpy(confusions)), np.float64)


# --- pairs of classes


def costs(confusion: np.ndarray) -> np.ndarray:
    """(C, C): the part of mIoU that every pair takes; 0 on the diagonal."""
    union = confusion.sum(0) + confusion.sum(1) - np.diagonal(confusion)
    weight = np.nan_to_num(ratio(1, union)) / max((union > 0).sum(), 1)
    return off_diagonal(confusion * (weight[:, None] + weight))


def off_diagonal(counts: np.ndarray) -> np.ndarray:
    """(..., C, C), with zeros on the diagonal."""
    return counts * (1 - np.eye(counts.shape[-1]))


def heaviest(weight: np.ndarray) -> list[tuple[int, int]]:
    """All pairs (true, predicted) by their (C, C) weight."""
    order = np.argsort(-weight, axis=None, kind="stable")
    return [divmod(place, len(weight)) for place in order.tolist()]


def most_confused(
    confusions: np.ndarray, most: int, weigh: Callable[[np.ndarray], np.ndarray] = costs
) -> list[Confused]:
    """The pairs that weigh most, of (N, C, C) counts: those that cost most, or have most pixels.

    In one image a stray pixel of a class that it lacks would cost most: weigh by `off_diagonal`.
    """
    confusion = confusions.sum(0)
    weight = weigh(confusion)
    cost = costs(confusion)
    pairs = []
    for pair in heaviest(weight)[:most]:
        if weight[pair]:
            pixels = int(confusion[pair])
            share = pixels / int(confusion[pair[0]].sum())
            image = int(confusions[:, *pair].argmax())
            pairs.append(Confused(*pair, pixels, share, float(cost[pair]), image))
    return pairs


def matrix_part(confusion: np.ndarray, most: int) -> list[int]:
    """The classes of a readable matrix, in the data set's order.

    They are all, or those of the pairs that cost most.
    """
    if len(confusion) <= most:
        return list(range(len(confusion)))
    chosen: set[int] = set()
    for pair in heaviest(costs(confusion)):
        if len(chosen.union(pair)) > most:
            break
        chosen.update(pair)
    return sorted(chosen)


# --- images


def worst_images(examined: Examined, pairs: Sequence[Confused], worst: int) -> dict[int, list[str]]:
    """Images to look at with the reasons why, lowest IoU first.

    They are the worst by IoU, the worst by loss, and those that show most of a pair.
    """
    iou = image_iou(examined.confusions)
    orders = {"lowest IoU": ranked(iou)}
    if examined.losses is not None:
        orders["highest loss"] = ranked(-examined.losses)
    reasons: dict[int, list[str]] = defaultdict(list)
    for reason, indexes in orders.items():
        for place, index in enumerate(indexes[:worst], start=1):
            reasons[index].append(f"{ORDINALS.get(place, f'{place}th ')}{reason}")
    for pair in pairs:
        names = f"{examined.classes[pair.truth]} taken for {examined.classes[pair.predicted]}"
        reasons[pair.image].append(f"most {names}")
    return {index: reasons[index] for index in ranked(iou) if index in reasons}


def ranked(values: np.ndarray) -> list[int]:
    """Indexes from the smallest value up; what has none is left out."""
    order = np.argsort(values, kind="stable")
    return order[np.isfinite(values[order])].tolist()


# --- confidence and boundaries


def excess(bins: np.ndarray) -> np.ndarray:
    """(..., BINS, 3) -> (...): mean confidence less accuracy; above 0 it is too sure of itself."""
    pixels, confidence, hits = np.moveaxis(bins.sum(-2), -1, 0)
    return ratio(confidence - hits, pixels)


def bands(examined: Examined) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores, and shares of the pixels (R + 1): within every radius of a boundary, then everywhere."""
    counts = np.stack([*examined.bands, examined.confusion])  # (R + 1, C, C)
    scores = rated(counts)
    pixels = counts.sum((1, 2))
    errors = off_diagonal(counts).sum((1, 2))
    return (
        {"pixel accuracy": scores["pixel_accuracy"], "mIoU": scores["miou"]},
        {
            "of the wrong pixels": ratio(errors, errors[-1]),
            "of all pixels": ratio(pixels, pixels[-1]),
        },
    )
