"""One checkpoint at several image sizes: scores beside operations and seconds."""

from collections.abc import Sequence
from functools import partial
from statistics import median

import numpy as np
import torch
from rich.text import Text

from datamodules.module import SegmentationData
from datamodules.progress import with_progress
from experiments.benchmarks.alternation import take_turns
from experiments.benchmarks.structure_costs import seconds
from experiments.command_line.parser import by
from experiments.records.image_records import Examined
from experiments.records.results import Result
from experiments.reports.number_formats import bare_table, console, percent
from experiments.reports.published_figures import comparable
from segmodels.inference_modes import at_scale, mode
from segmodels.module import SegmentationModule
from segmodels.paper import macs
from segmodels.prediction import autocast, prepared

ROUNDS = 5  # in which each size computes an image once


def mode_of(scale: float) -> str:
    return "whole" if scale == 1 else f"resized:{scale:g}"


def size_table(
    scales: Sequence[float],
    results: Sequence[Result],
    examined: Examined,
    module: SegmentationModule,
    data: SegmentationData,
    split: str,
) -> None:
    """Print a line for each size; large and small classes have a mean of their own."""
    small = small_classes(examined)
    image, _ = data.open(split).window(0)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]  # (1, 3, H, W)
    times = seconds_by_scale(module, pixels, scales)
    table = bare_table("size", "image")
    for head in ("mIoU", "small classes", "large classes", "MACs", "seconds", "published"):
        table.add_column(head, justify="right")
    table.add_column("source")
    for scale, result in zip(scales, results):
        size = tuple(at_scale(pixels.float(), scale).shape[-2:])
        count = macs(module, size)
        ours = [
            f"{scale:g}",
            by(size),
            percent(result.miou, 1),
            percent(mean(result.iou, small), 1),
            percent(mean(result.iou, set(examined.classes) - small), 1),
            "-" if count is None else f"{count / 1e9:.3g}G",
            f"{times[scale]:.3f}",
        ]
        for figure in comparable(result):
            table.add_row(*ours, f"{figure.miou:.1f}", Text(figure.source))
            ours = [""] * len(ours)
        if any(ours):
            table.add_row(*ours, "-", "")
    print()
    console().print(table)
    names = ", ".join(name for name in examined.classes if name in small)
    print(
        f"small: the half of the classes with the fewest pixels in images that show them ({names})"
    )
    print(f"seconds: of one image, logits included; the median of {ROUNDS} turns on this machine")


def small_classes(examined: Examined) -> set[str]:
    """Return the half of the classes that have the fewest pixels in the images that show them."""
    pixels = examined.confusions.sum(2)  # (N, C, C) -> (N, C): of the truth
    shown = (pixels > 0).sum(0)
    known = [index for index in range(len(shown)) if shown[index]]
    known.sort(key=lambda index: pixels[:, index].sum() / shown[index])
    return {examined.classes[index] for index in known[: len(known) // 2]}


def mean(scores: dict[str, float | None], names: set[str]) -> float | None:
    """Return the mean of the classes that were met; None without any."""
    known = [score for name, score in scores.items() if name in names and score is not None]
    return float(np.mean(known)) if known else None


def seconds_by_scale(
    module: SegmentationModule, pixels: torch.Tensor, scales: Sequence[float]
) -> dict[float, float]:
    """Return how long an image takes at each size, up to its classes; sizes take turns."""
    network = prepared(module)
    pixels = pixels.to(network.device)

    def work(scale: float) -> None:
        with torch.inference_mode(), autocast(module):
            mode(mode_of(scale))(network, pixels).argmax()

    def measured(scale: float, turn: int) -> float:
        return seconds(partial(work, scale), network.device.type)

    for scale in scales:  # a first pass allocates memory
        work(scale)
    rounds = with_progress(range(ROUNDS), "timing, round")
    times = take_turns({scale: scale for scale in scales}, rounds, measured)
    return {scale: median(each) for scale, each in times.items()}
