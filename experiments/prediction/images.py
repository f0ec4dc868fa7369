"""Predict images; threads read and write while the network computes."""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.progress import with_progress
from datamodules.thread_pools import prefetch, write_behind
from experiments.command_line.errors import as_user_error, quiet
from experiments.command_line.networks import Checkpoint
from experiments.prediction.inputs import Target
from experiments.prediction.outputs import IN_COLOR, LEGEND, folder_name, output_path
from experiments.prediction.predictor import Pictures, Predictor, prepare_out, write_picture
from experiments.prediction.read_image import (
    Size,
    Unreadable,
    image_size,
    left_out,
    or_unreadable,
    read_image,
    refusal,
    without_warnings,
)
from experiments.reports.number_formats import plural

THREADS = 4  # that read, and as many that write


def predict_images(
    source: Checkpoint,
    targets: Sequence[Target],
    args: argparse.Namespace,
) -> int:
    """Check all headers, then predict; an image that is damaged inside stops no other."""
    quiet()
    without_warnings()
    damaged: list[Unreadable] = []
    with as_user_error():
        predictor = Predictor(source, args)
        readable = check_images(targets, args.batch, damaged)
        if damaged and not (args.skip_unreadable and readable):
            raise refusal(damaged)
    prepare_out(args.out, predictor)

    def write(name: Path, image: np.ndarray, maps: Pictures) -> None:
        for kind, picture in predictor.pictures(image, maps).items():
            write_picture(picture, output_path(args.out, kind, name))

    begun = time.perf_counter()
    with write_behind(THREADS) as submit:
        for images, batch in read_batches(readable, args.batch, damaged):
            for image, maps, (_, name) in zip(images, predictor(images), batch):
                submit(write, name, image, maps)
    if done := predictor.count():
        seconds = time.perf_counter() - begun
        places = [str(args.out / folder_name(kind)) for kind in args.kinds]
        if IN_COLOR & set(args.kinds):
            places.append(str(args.out / LEGEND))
        print(f"{plural(done, 'image')}: {', '.join(places)}")
        print(predictor.speed("images", seconds), flush=True)
    if damaged:
        raise left_out(damaged, len(targets))
    return 0


def check_images(targets: Sequence[Target], batch: int, damaged: list[Unreadable]) -> list[Target]:
    """The images whose header and end are right; the others join the damaged.

    For batches those of one size come together; one by one they keep their order.
    """
    by_size: dict[Size | None, list[Target]] = defaultdict(list)
    for target, size in read_all(image_size, targets, "checking", damaged):
        by_size[size if batch > 1 else None].append(target)
    return list(chain.from_iterable(by_size.values()))


def read_batches(
    targets: Sequence[Target], most: int, damaged: list[Unreadable]
) -> Iterator[tuple[list[np.ndarray], list[Target]]]:
    """At most so many successive images of one size, with their targets."""
    images = read_all(read_image, targets, "predicting", damaged)
    for _, same_size in groupby(images, key=lambda read: read[1].shape):
        while batch := list(islice(same_size, most)):
            yield [image for _, image in batch], [target for target, _ in batch]


def read_all(
    read: Callable[[Path], Any], targets: Sequence[Target], title: str, damaged: list[Unreadable]
) -> Iterator[tuple[Target, Any]]:
    """Read in threads, in order; what cannot be read joins the damaged."""
    results = prefetch(or_unreadable(read), [file for file, _ in targets], THREADS)
    for target, result in zip(targets, with_progress(results, title, len(targets))):
        if isinstance(result, Unreadable):
            damaged.append(result)
        else:
            yield target, result
