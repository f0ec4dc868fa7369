"""Predict images; threads read and write while the network computes."""

import argparse
import time
from collections.abc import Iterator, Sequence
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
    kinds: Sequence[str],
    args: argparse.Namespace,
) -> int:
    """Check all headers, then predict; an image that is damaged inside stops no other."""
    quiet()
    without_warnings()
    damaged: list[Unreadable] = []
    with as_user_error():
        predictor = Predictor(source, kinds, args)
        groups = group_by_size(targets, args.batch, damaged)
        if damaged and not (args.skip_unreadable and groups):
            raise refusal(damaged)
        prepare_out(args.out, predictor, [target for group in groups for target in group])
    begun = time.perf_counter()
    with write_behind(THREADS) as submit:
        batches = with_progress(read_batches(groups, damaged), "predicting", len(groups))
        for images, batch in batches:
            for image, maps, (_, name) in zip(images, predictor(images), batch):
                submit(write_pictures, args.out, name, image, maps, predictor)
    if done := predictor.count():
        seconds = time.perf_counter() - begun
        places = [str(args.out / folder_name(kind)) for kind in kinds]
        if IN_COLOR & set(kinds):
            places.append(str(args.out / LEGEND))
        print(f"{done} image{'s' * (done > 1)}: {', '.join(places)}")
        print(predictor.speed("images", seconds), flush=True)
    if damaged:
        raise left_out(damaged, len(targets))
    return 0


def group_by_size(
    targets: Sequence[Target], batch: int, damaged: list[Unreadable]
) -> list[list[Target]]:
    """Images of one size, at most `batch` together; one by one they keep their order.

    Those whose header or end is wrong join the damaged.
    """
    files = [file for file, _ in targets]
    sizes = prefetch(or_unreadable(image_size), files, THREADS)
    groups: list[list[Target]] = []
    open_groups: dict[Size, list[Target]] = {}
    for target, size in zip(targets, with_progress(sizes, "checking", len(files))):
        if isinstance(size, Unreadable):
            damaged.append(size)
            continue
        group = open_groups.get(size, [])
        if len(group) % batch == 0:
            group = open_groups[size] = []
            groups.append(group)
        group.append(target)
    return groups


def read_batches(
    groups: Sequence[list[Target]], damaged: list[Unreadable]
) -> Iterator[tuple[list[np.ndarray], list[Target]]]:
    """The images of each group. What is damaged inside joins the damaged.

    A photograph that its EXIF note turns has another size than the group: it comes by itself.
    """
    files = [file for group in groups for file, _ in group]
    images = prefetch(or_unreadable(read_image), files, THREADS)
    for group in groups:
        by_shape: dict[tuple[int, ...], tuple[list[np.ndarray], list[Target]]] = {}
        for target in group:
            image = next(images)
            if isinstance(image, Unreadable):
                damaged.append(image)
                continue
            batch = by_shape.setdefault(image.shape, ([], []))
            batch[0].append(image)
            batch[1].append(target)
        yield from by_shape.values()


def write_pictures(
    out: Path, name: Path, image: np.ndarray, maps: Pictures, predictor: Predictor
) -> None:
    for kind, picture in predictor.pictures(image, maps).items():
        write_picture(picture, output_path(out, kind, name))
