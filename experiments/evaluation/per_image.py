"""Record each image while a split is evaluated: its confusion matrix, and what --full adds."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning import Callback, Trainer
from torch import Tensor

from datamodules.module import SegmentationData
from experiments.evaluation.failure_analysis import further_scores
from experiments.records.image_records import BINS, RADII, Examined
from segmodels.inference_modes import Strips
from segmodels.metrics.boundary import band_confusions, boundary_counts, boundary_iou_counts
from segmodels.metrics.calibration import calibration_counts
from segmodels.metrics.confusion import confusion_of, scores
from segmodels.metrics.instance_iou import instance_counts
from segmodels.module import SegmentationModule

ROWS = 128  # of the image at a time: its logits never exist at full size


class Examiner(Callback):
    """Count every image of a split in order, on one device."""

    def __init__(self, data: SegmentationData, split: str, full: bool) -> None:
        self.data = data
        self.split = split
        self.full = full
        self.records: dict[str, list[np.ndarray]] = defaultdict(list)  # by image
        self.sums: dict[str, Tensor | int] = defaultdict(int)  # over the images
        self.all_instances = bool(data.labels.instance_sizes)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: SegmentationModule,
        outputs: dict[str, Any],
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        *unused: Any,
    ) -> None:
        labels, predictions = batch[1], outputs["predicted"]
        if labels.device.type == "mps":  # it has no float64
            labels, predictions = labels.cpu(), predictions.cpu()
        for label, predicted in zip(labels, predictions):
            counts = confusion_of(predicted, label, module.num_classes)
            self.record("confusions", counts.to(torch.int32))
        if self.full:
            self.measure(batch_idx, outputs["strips"], predictions[0], labels[0])

    on_test_batch_end = on_validation_batch_end

    def measure(self, index: int, strips: Strips, predicted: Tensor, label: Tensor) -> None:
        classes = len(self.data.class_names)
        loss, confidence = loss_and_confidence(strips, label)
        self.record("losses", loss)
        self.record("boundaries", boundary_counts(predicted, label, classes))
        self.record("boundary_overlaps", boundary_iou_counts(predicted, label, classes))
        self.sums["bands"] += band_confusions(predicted, label, classes, RADII)
        self.sums["calibration"] += calibration_counts(confidence, predicted, label, classes, BINS)
        instances = self.data.instances(self.split, index) if self.all_instances else None
        if instances is None:  # an iIoU of some of the images would be none
            self.all_instances = False
            self.sums.pop("instances", None)
        else:
            numbers = torch.from_numpy(instances).to(label.device)
            labels = self.data.labels
            self.sums["instances"] += instance_counts(
                predicted, label, numbers, classes, labels.instance_sizes, labels.categories
            )

    def record(self, name: str, value: Tensor) -> None:
        self.records[name].append(value.cpu().numpy())

    def examined(self, title: str) -> Examined:
        data = self.data
        arrays = {name: np.stack(values) for name, values in self.records.items()}
        arrays |= {name: value.cpu().numpy() for name, value in self.sums.items()}
        if "instances" in arrays:
            sizes = data.labels.instance_sizes
            numbers = range(len(data.class_names))
            arrays["instance_sizes"] = np.array([sizes.get(number, 0.0) for number in numbers])
        names = list(data.open(self.split).names)
        categories = data.labels.categories
        return Examined(title, data.class_names, data.palette, categories, names, **arrays)


def loss_and_confidence(strips: Strips, label: Tensor) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of an image's labeled pixels, and the confidence at each pixel (H, W).

    The first is nan where no pixel is labeled.
    """
    height = strips.size[0]
    total = torch.zeros((), dtype=torch.float64, device=label.device)
    confidences = []
    for top in range(0, height, ROWS):
        bottom = min(top + ROWS, height)
        log = strips.log_probabilities(top, bottom)[:1].to(label.device)  # (1, C, rows, W)
        rows = label[None, top:bottom].long()
        total += F.nll_loss(log, rows, ignore_index=255, reduction="sum").double()
        confidences.append(log[0].amax(0).exp())
    return total / (label != 255).sum(), torch.cat(confidences)


def measures(examined: Examined) -> dict[str, Any]:
    """The measures that --full adds to a result, as fractions; per class by name."""
    losses = examined.losses[~np.isnan(examined.losses)]
    measured = {"loss": losses.mean() if len(losses) else None} | further_scores(examined)
    for name in ("f1", "precision", "recall"):
        measured[f"boundary_{name}_by_class"] = measured.pop(name)
    for name, values in measured.items():
        if isinstance(values, list) and name != "reliability":
            measured[name] = dict(zip(examined.classes, values))
        else:
            measured[name] = without_nan(values)
    measured["trimap"] = {}
    for radius, band in zip(RADII, examined.bands):
        near = scores(torch.from_numpy(band))
        names = ("miou", "pixel_accuracy")
        measured["trimap"][str(radius)] = {name: without_nan(near[name]) for name in names}
    return measured


def without_nan(value: Any) -> Any:
    """JSON knows no nan: None says that there was nothing to measure."""
    return None if isinstance(value, float) and math.isnan(value) else value
