"""mIoU and its companions, all out of one confusion matrix over the whole set and every rank.

Mean accuracy is the mean of the classes' recalls. It is no average precision: nothing is ranked by
its confidence, though the notes on metrics that this project comes from liken it to detection's
mAP.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex


class JaccardIndex(MulticlassJaccardIndex):
    """mIoU of label maps; 255 is ignored, and a class that occurs nowhere is left out of the mean,
    as Cityscapes' script does."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="macro", ignore_index=255, validate_args=False)

    def update(self, predicted: Tensor, label: Tensor) -> None:
        """uint8 maps of any equal shape."""
        self.confmat += confusion_of(predicted, label, self.num_classes)


def confusion_of(predicted: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """(C, C) int64 pixels by truth and prediction; uint8 maps of any equal shape, 255 in a label is
    ignored."""
    if predicted.max() >= num_classes or (label.ge(num_classes) & label.ne(255)).any():
        raise ValueError(
            f"a prediction or a label lies outside 0..{num_classes - 1} (a label may also be "
            "255, which is ignored)"
        )
    # Ignored pixels get a row of their own, past the last class: no boolean mask, no copy.
    rows = label.to(torch.int32).clamp(max=num_classes)
    counts = torch.bincount(
        (rows * num_classes + predicted.to(torch.int32)).flatten(),
        minlength=num_classes * (num_classes + 1),
    )
    return counts[: num_classes**2].reshape(num_classes, num_classes)


def margins(confusion: Tensor) -> Tensor:
    """(..., C, C) counts by truth and prediction -> (..., 3, C): hits, pixels of the truth, pixels
    predicted. The scores need no more."""
    return torch.stack(
        [confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-1), confusion.sum(-2)], -2
    )


def rates(margins: Tensor) -> dict[str, Tensor]:
    """(..., 3, C) -> "iou" and "accuracy" (..., C), nan where a class has no pixel to be judged by,
    and the four means (...) over them.

    A class counts in the mean IoU where it is true or predicted anywhere, in the mean accuracy
    where it is true anywhere.
    """
    hit, true, predicted = margins.to(torch.float64).unbind(-2)
    iou, accuracy = hit / (true + predicted - hit), hit / true  # 0 / 0 is nan
    return {
        "iou": iou,
        "accuracy": accuracy,
        "miou": iou.nanmean(-1),
        "pixel_accuracy": hit.sum(-1) / true.sum(-1),
        "mean_accuracy": accuracy.nanmean(-1),
        "frequency_weighted_iou": (true * iou).nansum(-1) / true.sum(-1),
    }


def scores(confusion: Tensor, categories: Sequence[str] = ()) -> dict[str, Any]:
    """From (true, predicted) counts: the means of `rates`, IoU and accuracy per class (None where
    it has none), pixels.

    `categories`, a word per class, adds Cityscapes' IoU of the categories: a class taken for
    another one of its category is right.
    """
    found = rates(margins(confusion))
    per_class = {name: listed(found.pop(name)) for name in ("iou", "accuracy")}
    made = (
        {name: value.item() for name, value in found.items()}
        | per_class
        | {"pixels": int(confusion.sum())}
    )
    if categories:
        by_category = rates(margins(merged(confusion, categories)))
        made["categories"] = dict(zip(dict.fromkeys(categories), listed(by_category["iou"])))
        made["category_miou"] = by_category["miou"].item()
    return made


def listed(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def members(categories: Sequence[str]) -> Tensor:
    """(C, K): whether a class is in a category; the categories come in the order in which the
    classes name them."""
    return torch.tensor(
        [[each == name for name in dict.fromkeys(categories)] for each in categories]
    )


def merged(confusion: Tensor, categories: Sequence[str]) -> Tensor:
    """(C, C) counts by class -> (K, K) by category; float64, which whole numbers below 2**53 keep
    exactly."""
    groups = members(categories).to(confusion.device, torch.float64)
    return groups.T @ confusion.to(torch.float64) @ groups
