"""Looks at every file of a data set once; what it finds goes into experiments/checked.py.

A JPEG that is damaged in its middle still decodes, to wrong pixels that nothing here tells from right ones; a PNG carries checksums.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from datamodules import DataError
from datamodules.labels import IGNORED, LabelSet
from datamodules.packs.format import Pack
from datamodules.packs.stream import Stream
from datamodules.progress import with_progress
from datamodules.reading.decoding import read_image
from datamodules.reading.sources import Files, Memory, Source, Unpaired
from datamodules.sampling.threads import prefetch
from experiments.data_check.findings import Measured, Split, place

# --- one sample


class Sample(NamedTuple):
    """What could be read of an image and its label; what could not is None, and `wrong` says why: (kind, sentence)."""

    image: np.ndarray | None  # RGB (H, W, 3)
    numbers: np.ndarray | None  # of the label file: ids (H, W), or colors (H, W, 3)
    label: np.ndarray | None  # train ids (H, W); an unknown id is ignored
    wrong: list[tuple[str, str]]


def read(source: Source, labels: LabelSet, index: int) -> Sample:
    """Image and label apart from one another, so that one that is damaged does not hide the other."""
    wrong: list[tuple[str, str]] = []
    if isinstance(source, Files):
        image = attempt(wrong, place(source, index), lambda: picture(source, index, wrong))
        numbers = attempt(wrong, source.pairs[index][1], lambda: source.numbers(index))
    else:
        both = attempt(wrong, place(source, index), lambda: source.window(index))
        image, numbers = both or (None, None)
    if isinstance(source, Memory):
        return Sample(image, None, numbers, wrong)
    where = source.pairs[index][1] if isinstance(source, Files) else place(source, index)
    label = meant(numbers, labels, where, wrong)
    if image is not None and label is not None and image.shape[:2] != label.shape:
        (high, wide), (tall, broad) = image.shape[:2], label.shape
        sentence = f"{place(source, index)} is {high}x{wide} and its label {where} is {tall}x{broad} (height x width): save both at one size"
        wrong.append(("size", sentence))
    if isinstance(source, Files) and numbers is not None and numbers.ndim == 2:
        attempt(wrong, where, lambda: check_palette(source, index, numbers, wrong))
    return Sample(image, numbers, label, wrong)


def attempt(wrong: list[tuple[str, str]], where: str, act: Callable[[], Any]) -> Any:
    try:
        return act()
    except DataError as problem:
        wrong.append(("file", str(problem)))
    except (
        Exception
    ) as problem:  # whatever the bytes made a decoder trip over: no file ends the check
        wrong.append(
            (
                "file",
                f"{where} cannot be read ({type(problem).__name__}): copy it again from where the data set came from",
            )
        )
    return None


def picture(source: Files, index: int, wrong: list[tuple[str, str]]) -> np.ndarray:
    """The image; formats in which OpenCV would silently drop bits or an alpha channel are named."""
    path = source.pairs[index][0]
    image = read_image(path, source.read)
    if path.lower().endswith((".tif", ".tiff", ".webp", ".bmp")):
        import cv2

        plain = cv2.imdecode(np.frombuffer(source.read(path), np.uint8), cv2.IMREAD_UNCHANGED)
        if plain.dtype != np.uint8 or (plain.ndim == 3 and plain.shape[2] == 4):
            kind = (
                "an alpha channel"
                if plain.dtype == np.uint8
                else f"{8 * plain.dtype.itemsize} bits"
            )
            wrong.append(
                (
                    "file",
                    f"{path} has {kind}; images must be 8-bit RGB: convert it, for example with PIL's Image.convert('RGB')",
                )
            )
    return image


def meant(
    numbers: np.ndarray | None, labels: LabelSet, where: str, wrong: list[tuple[str, str]]
) -> np.ndarray | None:
    """Train ids; unknown ids are named and then ignored, unknown colors leave no label."""
    if numbers is None:
        return None
    try:
        return (
            labels.encode(numbers, where)
            if numbers.ndim == 2
            else labels.encode_colors(numbers, where)
        )
    except DataError as problem:
        wrong.append(("ids", str(problem)))
    return labels.table[numbers] if numbers.ndim == 2 else None


def check_palette(
    source: Files, index: int, numbers: np.ndarray, wrong: list[tuple[str, str]]
) -> None:
    """A palette PNG that some program renumbered: it looks right in every viewer, and its numbers mean other classes."""
    path, labels = source.pairs[index][1], source.labels
    if source.read(path, 32)[25] != 3:
        return
    class_of = {
        color: train_id
        for train_id, color in enumerate(labels.palette)
        if labels.palette.count(color) == 1
    }
    colors, used = (
        palette(source.read(path)),
        np.flatnonzero(np.bincount(numbers.ravel(), minlength=256)),
    )
    looks = {
        value: class_of[colors[value]]
        for value in used.tolist()
        if value < len(colors) and colors[value] in class_of
    }
    others = {
        value: train_id for value, train_id in looks.items() if labels.table[value] != train_id
    }
    if len(looks) >= 2 and 2 * len(others) > len(looks):
        value, train_id = next(iter(others.items()))
        means = labels.names[labels.table[value]] if labels.table[value] != IGNORED else "nothing"
        wrong.append(
            (
                "palette",
                f"{path} is a palette picture whose number {value} has the color of {labels.names[train_id]} and means {means}: "
                "its numbers are a program's own; save ids as 8-bit gray PNG",
            )
        )


def palette(data: bytes) -> list[tuple[int, ...]]:
    """A PNG's PLTE chunk."""
    at = 8
    while data[at + 4 : at + 8] not in (b"PLTE", b""):
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    table = data[at + 8 : at + 8 + int.from_bytes(data[at : at + 4], "big")]
    return [tuple(table[first : first + 3]) for first in range(0, len(table), 3)]


def measure(source: Source, labels: LabelSet, index: int) -> Measured:
    import cv2

    sample = read(source, labels, index)
    either = sample.image if sample.image is not None else sample.label
    plain = sample.numbers is not None and sample.numbers.ndim == 2
    mean, std = cv2.meanStdDev(sample.image) if sample.image is not None else (None, None)
    return Measured(
        index,
        either.shape[:2] if either is not None else None,
        np.bincount(sample.numbers.ravel(), minlength=256) if plain else None,
        np.bincount(sample.label.ravel(), minlength=256) if sample.label is not None else None,
        mean.ravel() if mean is not None else None,
        std.ravel() if std is not None else None,
        digest(sample.image) if sample.image is not None else None,
        sample.wrong,
    )


def digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(
        np.ascontiguousarray(image), digest_size=16, salt=repr(image.shape).encode()[:16]
    ).digest()


# --- all splits


def listed(data: Any, name: str) -> Split:
    """The split's images, without a look at any of them: a damaged one must not end the check."""
    if name in data.hidden:
        raise DataError(f"{data.name}'s {name} labels are not public: {data.hidden[name]}")
    split = Split(name, data.labels, official=data.official(name))
    try:
        source = data.stored(name)
    except Unpaired as problem:
        for file in problem.files:
            split.found(
                "pairs",
                f"{file} stands alone, so nothing of {name} was read: {problem.remedy}",
                file=file,
            )
        return split
    if isinstance(source, (Pack, Stream)):
        source.labels = None  # so that its labels are the files' numbers
    split.source = source
    return split


def chosen(count: int, limit: int | None) -> list[int]:
    """Which images of a split: all, or as many as `limit` says, spread over it."""
    if not limit or limit >= count:
        return list(range(count))
    return [number * count // limit for number in range(limit)]


def look(split: Split, limit: int | None, workers: int) -> None:
    """Reads everything in threads: decoding holds no lock."""
    if split.source is None:
        return
    indices = chosen(len(split.source), limit)
    if isinstance(split.source, Pack):
        names = {name: index for index, name in enumerate(split.source.names)}
        damaged = split.source.verify(
            lambda _: with_progress(indices, f"checksums of {split.name}")
        )
        for name in damaged:
            split.found(
                "file",
                f"{split.source.file} is damaged in {name}: pack this split again",
                names[name],
            )
        split.checked += len(damaged)
        indices = [index for index in indices if split.source.names[index] not in set(damaged)]
    samples = prefetch(partial(measure, split.source, split.labels), indices, workers)
    for each in with_progress(samples, f"reading {split.name}", len(indices)):
        split.add(each)
    split.judge()


def compare(splits: Sequence[Split]) -> None:
    """Images that are in two splits: what is judged must not have been learned."""
    for number, later in enumerate(splits):
        for earlier in splits[:number]:
            both = later.digests.keys() & earlier.digests.keys()
            for one, other in sorted(
                (later.digests[same][0], earlier.digests[same][0]) for same in both
            ):
                sentence = f"{place(later.source, one)} ({later.name}) is the same image as {place(earlier.source, other)} ({earlier.name})"
                later.found("leak", f"{sentence}: take one of the two out", one)
