"""mIoU and related scores, from one confusion matrix over the whole data set and all ranks.

Mean accuracy is the mean of the classes' recalls. It is no average precision, since nothing is
ranked by confidence, though the notes on metrics that this project comes from liken it to the mAP
of object detection.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex


class JaccardIndex(MulticlassJaccardIndex):
    """mIoU of label maps, in which 255 is ignored.

    A class that occurs nowhere is left out of the mean, as in Cityscapes' script.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="macro", ignore_index=255, validate_args=False)

    def update(self, predicted: Tensor, label: Tensor) -> None:
        """Add uint8 maps of any equal shape."""
        self.confmat += confusion_of(predicted, label, self.num_classes)


def confusion_of(predicted: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count the pixels of uint8 maps by truth and prediction: (C, C) int64.

    The maps have any equal shape; 255 in a label is ignored.
    """
    # Every value of a label is counted: forbidden rows are found sooner than forbidden pixels.
    place = label.to(torch.int32).mul_(num_classes).add_(predicted)
    counts = torch.bincount(place.flatten(), minlength=256 * num_classes)
    counts = counts[: 256 * num_classes].view(256, num_classes)  # (256 * C,) -> (256, C)
    if predicted.max() >= num_classes or counts[num_classes:255].any():
        raise ValueError(
            f"a prediction or a label lies outside 0..{num_classes - 1} (a label may also be "
            "255, which is ignored)"
        )
    return counts[:num_classes]


def margins(confusion: Tensor) -> Tensor:
    """Return hits, true pixels and predicted pixels per class: (..., C, C) -> (..., 3, C).

    The scores need no more.
    """
    return torch.stack(
        [confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-1), confusion.sum(-2)], -2
    )


def rates(margins: Tensor) -> dict[str, Tensor]:
    """Return IoU and accuracy per class (..., C) and four means (...) from margins (..., 3, C).

    They are nan for a class without pixels. A class counts in the mean IoU if it is true or
    predicted anywhere, in the mean accuracy if it is true anywhere.
    """
    hit, true, predicted = margins.to(torch.float64).unbind(-2)
    iou = hit / (true + predicted - hit)  # 0 / 0 is nan
    accuracy = hit / true
    return {
        "iou": iou,
        "accuracy": accuracy,
        "miou": iou.nanmean(-1),
        "pixel_accuracy": hit.sum(-1) / true.sum(-1),
        "mean_accuracy": accuracy.nanmean(-1),
        "frequency_weighted_iou": (true * iou).nansum(-1) / true.sum(-1),
    }


def scores(confusion: Tensor, categories: Sequence[str] = ()) -> dict[str, Any]:
    """Return all scores of a confusion matrix as plain values; None for nan of a class.

    `categories`, a word per class, adds Cityscapes' IoU of the categories: a class predicted as
    another one of its category is right.
    """
    confusion = confusion.cpu()  # Apple's GPU has no float64
    means = rates(margins(confusion))
    per_class = {name: listed(means.pop(name)) for name in ("iou", "accuracy")}
    result = {name: value.item() for name, value in means.items()}
    result |= per_class
    result["pixels"] = int(confusion.sum())
    if categories:
        by_category = rates(margins(merged(confusion, categories)))
        result["categories"] = dict(zip(dict.fromkeys(categories), listed(by_category["iou"])))
        result["category_miou"] = by_category["miou"].item()
    return result


def listed(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def members(categories: Sequence[str]) -> Tensor:
    """Return whether each class is in each category, (C, K) bool.

    The categories are ordered by their first class.
    """
    names = list(dict.fromkeys(categories))
    index = torch.tensor([names.index(each) for each in categories])
    return index[:, None] == torch.arange(len(names))


def merged(confusion: Tensor, categories: Sequence[str]) -> Tensor:
    """Add up counts by class (C, C) to counts by category (K, K).

    They are float64, which is exact for whole numbers below 2**53.
    """
    groups = members(categories).to(confusion.device, torch.float64)
    return groups.T @ confusion.to(torch.float64) @ groups
