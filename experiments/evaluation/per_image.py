"""Record each image while a split is evaluated: its confusion matrix, and what --full adds."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning import Callback, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from experiments.evaluation.failure_analysis import further_scores
from experiments.records.image_records import BINS, RADII, Examined
from segmodels.inference import Strips
from segmodels.metrics.boundary import band_confusions, boundary_counts, boundary_iou_counts
from segmodels.metrics.calibration import calibration_counts
from segmodels.metrics.comparison import interval
from segmodels.metrics.confusion import confusion_of, scores
from segmodels.metrics.instances import instance_counts
from segmodels.module import SegmentationModule

ROWS = 128  # of the image at a time: its logits never exist at full size
DRAWS = 1000  # of the bootstrap


class JudgingBar(Callback):
    """Images judged so far, where there is a terminal."""

    def __init__(self, images: int) -> None:
        self.images, self.progress = images, None

    def _start(self) -> None:
        columns = (
            TextColumn("judging"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, transient=True, disable=not sys.stdout.isatty())
        self.task = self.progress.add_task("", total=self.images)
        self.progress.start()

    def on_validation_start(self, *unused: Any) -> None:
        self._start()

    def on_validation_batch_end(self, *unused: Any) -> None:
        self.progress.advance(self.task)

    def on_validation_end(self, *unused: Any) -> None:
        self.progress.stop()

    def on_exception(self, *unused: Any) -> None:
        if self.progress:
            self.progress.stop()

    on_test_start, on_test_batch_end, on_test_end = (
        on_validation_start,
        on_validation_batch_end,
        on_validation_end,
    )


class Examiner(Callback):
    """Sees every image of a split in order, on one device."""

    def __init__(self, data: Any, split: str, full: bool) -> None:
        self.data, self.split, self.full = data, split, full
        self.source = data.open(split)
        self.seen: dict[str, list[Any]] = {}
        self.sums: dict[str, Tensor] = {}
        self.all_instances = True  # an iIoU of some of the images would be none

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: SegmentationModule,
        outputs: dict[str, Any],
        batch: Any,
        batch_idx: int,
        *unused: Any,
    ) -> None:
        for label, predicted in zip(batch[1], outputs["predicted"]):
            self.keep(
                "confusions", confusion_of(predicted, label, module.num_classes).to(torch.int32)
            )
        if self.full:
            self.look(
                module.num_classes,
                outputs["strips"],
                outputs["predicted"][0],
                batch[1][0],
                batch_idx,
            )

    on_test_batch_end = on_validation_batch_end

    def look(
        self, classes: int, strips: Strips, predicted: Tensor, label: Tensor, index: int
    ) -> None:
        loss, confidence = surprise(strips, label)
        self.keep("losses", loss)
        self.keep("boundaries", boundary_counts(predicted, label, classes))
        self.keep("boundary_overlaps", boundary_iou_counts(predicted, label, classes))
        self.add("bands", band_confusions(predicted, label, classes, RADII))
        self.add("calibration", calibration_counts(confidence, predicted, label, classes, BINS))
        sizes = self.data.labels.instance_sizes
        instances = self.data.instances(self.split, index) if sizes and self.all_instances else None
        self.all_instances = instances is not None
        if self.all_instances:
            there = torch.from_numpy(instances).to(label.device)
            self.add(
                "instances",
                instance_counts(
                    predicted, label, there, classes, sizes, self.data.labels.categories
                ),
            )

    def keep(self, name: str, value: Tensor) -> None:
        self.seen.setdefault(name, []).append(value.cpu().numpy())

    def add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def found(
        self, title: str, classes: Sequence[str], palette: Sequence[Sequence[int]]
    ) -> Examined:
        stacked = {name: np.stack(values) for name, values in self.seen.items()}
        sums = {name: value.cpu().numpy() for name, value in self.sums.items()}
        sizes = self.data.labels.instance_sizes
        if not self.all_instances:
            sums.pop("instances", None)
        elif "instances" in sums:
            sums["instance_sizes"] = np.array(
                [sizes.get(number, 0.0) for number in range(len(classes))]
            )
        return Examined(
            title,
            classes,
            palette,
            self.data.labels.categories,
            list(self.source.names),
            **stacked,
            **sums,
        )


def surprise(strips: Strips, label: Tensor) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of an image's labeled pixels, nan where there are none; and the confidence at each pixel."""
    height, total = strips.size[0], torch.zeros((), dtype=torch.float64, device=label.device)
    confidences = []
    for top in range(0, height, ROWS):
        bottom = min(top + ROWS, height)
        log = strips.log_probabilities(top, bottom)[:1]
        total += F.nll_loss(
            log, label[None, top:bottom].long(), ignore_index=255, reduction="sum"
        ).double()
        confidences.append(log[0].amax(0).exp())
    return total / (label != 255).sum(), torch.cat(confidences)


def uncertainty(examined: Examined) -> dict[str, Any]:
    """How far another draw of images would move the score; a single image says nothing about that."""
    if len(examined.names) < 2:
        return {"interval": None}
    return {"interval": list(interval(examined.confusions, draws=DRAWS))}


def measures(examined: Examined) -> dict[str, Any]:
    """What --full adds to a result, as fractions; per class by name, None where there is nothing to judge by."""
    names = list(examined.classes)
    losses = examined.losses[~np.isnan(examined.losses)]
    found = {"loss": float(losses.mean()) if len(losses) else None} | further_scores(examined)
    found |= {
        f"boundary_{name}_by_class": found.pop(name) for name in ("f1", "precision", "recall")
    }
    per_class = {
        name: values
        for name, values in found.items()
        if isinstance(values, list) and len(values) == len(names) and name != "reliability"
    }
    bands = [scores(torch.from_numpy(band)) for band in examined.bands]
    near = {
        str(radius): {name: band[name] for name in ("miou", "pixel_accuracy")}
        for radius, band in zip(RADII, bands)
    }
    return without_nan(
        found
        | {name: dict(zip(names, values)) for name, values in per_class.items()}
        | {"trimap": near}
    )


def without_nan(value: Any) -> Any:
    """JSON knows no nan: None says that there was nothing to judge by."""
    if isinstance(value, dict):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and np.isnan(value) else value
