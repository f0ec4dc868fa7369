"""Calibration: of the pixels predicted with 80 % confidence, 80 % should be right.

See Guo et al., arXiv:1706.04599.
"""

import torch
from torch import Tensor


def calibration_counts(
    confidence: Tensor, predicted: Tensor, label: Tensor, num_classes: int, bins: int = 15
) -> Tensor:
    """Count pixels, sum of confidence and hits by predicted class: float64 (C, bins, 3).

    The maps have any equal shape, so that rows may come in strips. `confidence` is the probability
    of the predicted class. Bin b of B holds values above b / B, up to (b + 1) / B; the first one
    also 0.
    """
    labeled = label != 255
    confidence = confidence[labeled].double()
    predicted = predicted[labeled]
    label = label[labeled]
    place = (confidence * bins).ceil().sub(1).clamp(0, bins - 1).int() + predicted.int() * bins
    size = num_classes * bins
    pixels = torch.bincount(place, minlength=size)
    sums = torch.bincount(place, weights=confidence, minlength=size)
    hits = torch.bincount(place[predicted == label], minlength=size)
    counts = torch.stack([pixels, sums, hits], dim=-1)
    return counts.reshape(num_classes, bins, 3)  # (C * bins, 3) -> (C, bins, 3)


def calibration_scores(counts: Tensor) -> dict[str, float | list]:
    """Return the calibration errors and the reliability curve, from counts summed over images.

    "ece" weighs the gaps of the bins by their pixels, "mce" is the widest. "class_ece" is the ECE
    of the pixels predicted as each class (None if there are none), "classwise_ece" its mean, in
    which a rare class weighs as much as the road. That is not the static calibration error of Nixon
    et al., which bins the probability of every class at every pixel. "reliability" has per bin
    (pixels, mean confidence, accuracy), None for an empty one.
    """
    curve = _curve(counts.sum(0))
    curves = [_curve(each) for each in counts]
    per_class = [_expected(each) if any(each) else None for each in curves]
    known = [each for each in per_class if each is not None]
    gaps = [abs(confidence - accuracy) for _, confidence, accuracy in filter(None, curve)]
    return {
        "ece": _expected(curve) if known else float("nan"),
        "mce": max(gaps, default=float("nan")),
        "classwise_ece": sum(known) / len(known) if known else float("nan"),
        "class_ece": per_class,
        "reliability": curve,
    }


def _curve(counts: Tensor) -> list[tuple[int, float, float] | None]:
    """Return (pixels, mean confidence, accuracy) of each bin, from counts (bins, 3)."""
    return [
        (int(pixels), total / pixels, hits / pixels) if pixels else None
        for pixels, total, hits in counts.tolist()
    ]


def _expected(curve: list[tuple[int, float, float] | None]) -> float:
    """Return the mean gap between confidence and accuracy, weighted by pixels."""
    full = [each for each in curve if each]
    gaps = sum(pixels * abs(confidence - accuracy) for pixels, confidence, accuracy in full)
    return gaps / sum(pixels for pixels, _, _ in full)
