"""Predict images; threads read and write while the network computes."""

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from datamodules.progress import with_progress
from datamodules.sampling.threads import prefetch, write_behind
from experiments.command_line.errors import as_user_error, quiet
from experiments.command_line.networks import ReleasedCheckpoint
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

THREADS = 4  # that read, and as many that write


def predict_images(
    source: Path | ReleasedCheckpoint,
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
        print(f"{done} image{'s' * (done > 1)}: {', '.join(places)}")
        print(predictor.speed("images", seconds), flush=True)
    if damaged:
        raise left_out(damaged, len(targets))
    return 0


def check_images(targets: Sequence[Target], batch: int, damaged: list[Unreadable]) -> list[Target]:
    """The images whose header and end are right; the others join the damaged.

    For batches those of one size come together; one by one they keep their order.
    """
    files = [file for file, _ in targets]
    sizes = prefetch(or_unreadable(image_size), files, THREADS)
    by_size: dict[Size | None, list[Target]] = {}
    for target, size in zip(targets, with_progress(sizes, "checking", len(files))):
        if isinstance(size, Unreadable):
            damaged.append(size)
        else:
            key = size if batch > 1 else None
            by_size.setdefault(key, []).append(target)
    return list(chain.from_iterable(by_size.values()))


def read_batches(
    targets: Sequence[Target], most: int, damaged: list[Unreadable]
) -> Iterator[tuple[list[np.ndarray], list[Target]]]:
    """At most so many successive images of one size, with their targets."""
    files = [file for file, _ in targets]
    images = prefetch(or_unreadable(read_image), files, THREADS)
    batch: list[Target] = []
    pixels: list[np.ndarray] = []
    for target, image in zip(targets, with_progress(images, "predicting", len(files))):
        if isinstance(image, Unreadable):
            damaged.append(image)
            continue
        if len(batch) == most or (pixels and image.shape != pixels[0].shape):
            yield pixels, batch
            batch, pixels = [], []
        batch.append(target)
        pixels.append(image)
    if batch:
        yield pixels, batch
