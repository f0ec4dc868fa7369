"""iIoU: the IoU of Cityscapes in which a small instance weighs as much as a large one.

See Cordts et al., CVPR 2016, section 4.1. A true pixel of an instance weighs (average size of its
class's instances) / (size of its instance), hit or missed. A wrongly predicted pixel belongs to no
instance and weighs 1. A group, whose members are not labeled one by one, is no instance and adds
neither hits nor misses.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from segmodels.metrics.confusion import confusion_of, listed, members, merged

NUMBERS = 1000  # an instance's id is NUMBERS times its class, plus its number


def instance_counts(
    predicted: Tensor,
    label: Tensor,
    instances: Tensor,
    num_classes: int,
    sizes: Mapping[int, float],
    categories: Sequence[str] = (),
) -> Tensor:
    """Count one image's weighted hits, weighted misses and false alarms.

    The counts, (C + categories, 3) float64, add up over images. `predicted` and `label` hold train
    ids, 255 ignored; `instances` a train id * 1000 + a number in every instance and -1 elsewhere;
    `sizes` the average pixels of an instance, for the classes that have any; `categories` a word
    per class, or nothing. As in the official script, hits and misses follow the instances alone,
    even where the label is ignored, and false alarms the labels.
    """
    if not predicted.shape == label.shape == instances.shape:
        shapes = ", ".join(str(tuple(each.shape)) for each in (predicted, label, instances))
        raise ValueError(
            f"prediction, label and instances have the shapes {shapes}: give the three maps of "
            "one image"
        )
    if instances.max() >= NUMBERS * num_classes:
        raise ValueError(
            f"the instance {instances.max()} is of none of {num_classes} classes: give train "
            f"ids * {NUMBERS} + numbers"
        )
    confusion = confusion_of(predicted, label, num_classes)
    per_class = hits_and_misses(predicted, instances, sizes, torch.arange(num_classes))
    counts = [torch.column_stack([per_class, false_alarms(confusion)])]
    if categories:
        groups = members(categories)
        grouped = hits_and_misses(predicted, instances, sizes, groups.int().argmax(1))
        per_category = groups.T.to(grouped) @ grouped
        alarms = false_alarms(merged(confusion, categories))
        counts.append(torch.column_stack([per_category, alarms]))
    return torch.cat(counts)


def hits_and_misses(
    predicted: Tensor, instances: Tensor, sizes: Mapping[int, float], group: Tensor
) -> Tensor:
    """Return the weighted hits and misses of each class's instances, (C, 2).

    A hit is a pixel predicted as any class of the same group.
    """
    inside = instances >= 0
    ids = instances[inside].long()
    guess = predicted[inside].long()
    group = group.to(predicted.device)
    right = group[guess] == group[ids // NUMBERS]
    pixels = pixels_of_instances(ids, len(group))
    hits = pixels_of_instances(ids[right], len(group))
    average = [sizes.get(each, 0.0) for each in range(len(group))]
    average = torch.tensor(average, dtype=torch.float64)
    weight = average.to(predicted.device)[:, None] / pixels.clamp(min=1)
    # (C, NUMBERS) -> (C,); the weight is 0 for a class without instances
    return torch.stack([(hits * weight).sum(1), ((pixels - hits) * weight).sum(1)], 1)


def pixels_of_instances(ids: Tensor, classes: int) -> Tensor:
    """Count the pixels of every instance, (C, NUMBERS) float64."""
    counts = torch.bincount(ids, minlength=classes * NUMBERS)
    return counts.reshape(classes, NUMBERS).double()  # (C * NUMBERS,) -> (C, NUMBERS)


def false_alarms(confusion: Tensor) -> Tensor:
    return (confusion.sum(0) - confusion.diag()).double()


def instance_scores(
    counts: Tensor, sizes: Mapping[int, float], categories: Sequence[str] = ()
) -> dict[str, Any]:
    """Return iIoU per class and per category, and their means, from summed counts.

    A category has an iIoU if all its classes have instances: Cityscapes' human and vehicle. Others
    have None.
    """
    iiou = counts[:, 0] / counts.sum(1)  # nan without any pixel
    classes = len(iiou) - len(set(categories))
    countable = torch.tensor([each in sizes for each in range(classes)])
    if categories:
        countable = torch.cat([countable, (countable[:, None] | ~members(categories)).all(0)])
    iiou = iiou.masked_fill(~countable.to(iiou.device), float("nan"))
    result = {"miiou": iiou[:classes].nanmean().item(), "iiou": listed(iiou[:classes])}
    if categories:
        result["category_miiou"] = iiou[classes:].nanmean().item()
        result["iiou_categories"] = dict(zip(dict.fromkeys(categories), listed(iiou[classes:])))
    return result
