"""Whether a network knows when it errs: of what it predicts at 80 % confidence, 80 % should be
right (Guo et al., arXiv:1706.04599)."""

import torch
from torch import Tensor


def calibration_counts(
    confidence: Tensor, predicted: Tensor, label: Tensor, num_classes: int, bins: int = 15
) -> Tensor:
    """float64 (C, bins, 3), by predicted class: pixels, sum of confidence, hits. Maps of any equal
    shape: rows may come in strips.

    `confidence` is the probability of the predicted class. Bin b of B holds what is above b / B, up
    to (b + 1) / B; the first one also 0.
    """
    labeled = label != 255
    confidence, predicted, label = (
        confidence[labeled].double(),
        predicted[labeled],
        label[labeled],
    )
    place = (confidence * bins).ceil().sub(1).clamp(0, bins - 1).int() + predicted.int() * bins
    size = num_classes * bins
    pixels, hits = (
        torch.bincount(place, minlength=size),
        torch.bincount(place[predicted == label], minlength=size),
    )
    sums = torch.bincount(place, weights=confidence, minlength=size)
    return torch.stack([pixels, sums, hits], dim=-1).reshape(num_classes, bins, 3)


def calibration_scores(counts: Tensor) -> dict[str, float | list]:
    """Of (C, bins, 3), summed over images: how far confidence lies from accuracy, and the curve of
    the two.

    "ece" weighs the gaps of the bins by their pixels, "mce" is the widest. "class_ece" is the ECE
    of what is predicted as each class (None where that is nothing), "classwise_ece" its mean, in
    which a rare class weighs as much as the road. That is not the static calibration error of Nixon
    et al., which bins the probability of every class at every pixel. "reliability" has per bin
    (pixels, mean confidence, accuracy), None for an empty one.
    """
    curve, curves = _curve(counts.sum(0)), [_curve(each) for each in counts]
    per_class = [_expected(each) if any(each) else None for each in curves]
    known = [each for each in per_class if each is not None]
    return {
        "ece": _expected(curve) if known else float("nan"),
        "mce": max(
            (abs(confidence - accuracy) for _, confidence, accuracy in filter(None, curve)),
            default=float("nan"),
        ),
        "classwise_ece": sum(known) / len(known) if known else float("nan"),
        "class_ece": per_class,
        "reliability": curve,
    }


def _curve(counts: Tensor) -> list[tuple[int, float, float] | None]:
    """Of (bins, 3)."""
    return [
        (int(pixels), total / pixels, hits / pixels) if pixels else None
        for pixels, total, hits in counts.tolist()
    ]


def _expected(curve: list[tuple[int, float, float] | None]) -> float:
    """The gap between confidence and accuracy, weighed by pixels."""
    full = [each for each in curve if each]
    return sum(pixels * abs(confidence - accuracy) for pixels, confidence, accuracy in full) / sum(
        pixels for pixels, _, _ in full
    )
