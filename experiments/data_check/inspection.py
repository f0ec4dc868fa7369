"""Read every file of a data set once, and collect what is found in a `Split` of findings.py.

A JPEG that is damaged in its middle still decodes, to wrong pixels that nothing here tells from
right ones; a PNG carries checksums.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np

from datamodules import DataError
from datamodules.labels import IGNORED, LabelSet
from datamodules.module import SegmentationData
from datamodules.packs.format import Pack
from datamodules.packs.object_store import RemotePack
from datamodules.progress import with_progress
from datamodules.reading.decoding import read_image
from datamodules.reading.sources import Files, Memory, Source, Unpaired
from datamodules.sampling.class_uniform import counted
from datamodules.sampling.threads import prefetch
from experiments.data_check.findings import Measurements, Split, place

Wrong = list[tuple[str, str]]  # (kind, sentence)
MAY_LOSE_BITS = (".tif", ".tiff", ".webp", ".bmp")

# --- one sample


class Sample(NamedTuple):
    """An image and its label as far as they can be read: the rest is None, and `wrong` says why."""

    image: np.ndarray | None  # RGB (H, W, 3)
    numbers: np.ndarray | None  # of the label file: ids (H, W), or colors (H, W, 3)
    label: np.ndarray | None  # train ids (H, W); an unknown id is ignored
    wrong: Wrong


def read_sample(source: Source, labels: LabelSet, index: int) -> Sample:
    """Read the image and the label one by one, so that a damaged one does not hide the other."""
    wrong: Wrong = []
    image = numbers = None
    where = place(source, index)
    label_where = source.pairs[index][1] if isinstance(source, Files) else where
    if isinstance(source, Files):
        with noted(wrong, where):
            image = read_picture(source, where, wrong)
        with noted(wrong, label_where):
            numbers = source.numbers(index)
    else:
        with noted(wrong, where):
            image, numbers = source.window(index)
    if isinstance(source, Memory):
        return Sample(image, None, numbers, wrong)
    label = train_ids(numbers, labels, label_where, wrong)
    if image is not None and label is not None and image.shape[:2] != label.shape:
        (high, wide), (tall, broad) = image.shape[:2], label.shape
        sentence = (
            f"{where} is {high}x{wide} and its label {label_where} is {tall}x{broad} "
            "(height x width): save both at one size"
        )
        wrong.append(("size", sentence))
    if isinstance(source, Files) and numbers is not None and numbers.ndim == 2:
        with noted(wrong, label_where):
            check_palette(source, label_where, numbers, wrong)
    return Sample(image, numbers, label, wrong)


@contextmanager
def noted(wrong: Wrong, where: str) -> Iterator[None]:
    """Note a file that cannot be read, whatever a decoder raises: no file ends the check."""
    try:
        yield
    except DataError as problem:
        wrong.append(("file", str(problem)))
    except Exception as problem:
        remedy = "copy it again from where the data set came from"
        wrong.append(("file", f"{where} cannot be read ({type(problem).__name__}): {remedy}"))


def read_picture(source: Files, path: str, wrong: Wrong) -> np.ndarray:
    """The image; formats in which OpenCV would silently drop bits or an alpha channel are named."""
    image = read_image(path, source.read)
    if path.lower().endswith(MAY_LOSE_BITS):
        import cv2

        plain = cv2.imdecode(np.frombuffer(source.read(path), np.uint8), cv2.IMREAD_UNCHANGED)
        lost = None
        if plain.dtype != np.uint8:
            lost = f"{8 * plain.dtype.itemsize} bits"
        elif plain.shape[2:] == (4,):
            lost = "an alpha channel"
        if lost:
            remedy = "convert it, for example with PIL's Image.convert('RGB')"
            wrong.append(("file", f"{path} has {lost}; images must be 8-bit RGB: {remedy}"))
    return image


def train_ids(
    numbers: np.ndarray | None, labels: LabelSet, where: str, wrong: Wrong
) -> np.ndarray | None:
    """Unknown ids are named and then ignored; unknown colors leave no label."""
    if numbers is None:
        return None
    painted = numbers.ndim == 3
    try:
        return (labels.encode_colors if painted else labels.encode)(numbers, where)
    except DataError as problem:
        wrong.append(("ids", str(problem)))
    return None if painted else labels.table[numbers]


def check_palette(source: Files, path: str, numbers: np.ndarray, wrong: Wrong) -> None:
    """Note a palette PNG that some program renumbered.

    It looks right in every viewer, and its numbers mean other classes.
    """
    labels = source.labels
    if source.read(path, 32)[25] != 3:
        return
    colors = palette(source.read(path))
    looks = {}  # number -> the class whose color it has, where that is one class's alone
    for value in np.unique(numbers).tolist():
        if value < len(colors) and labels.palette.count(colors[value]) == 1:
            looks[value] = labels.palette.index(colors[value])
    others = [value for value, train_id in looks.items() if labels.table[value] != train_id]
    if len(looks) >= 2 and 2 * len(others) > len(looks):
        value = others[0]
        train_id = labels.table[value]
        means = "nothing" if train_id == IGNORED else labels.names[train_id]
        sentence = (
            f"{path} is a palette picture whose number {value} has the color of "
            f"{labels.names[looks[value]]} and means {means}: "
            "its numbers are a program's own; save ids as 8-bit gray PNG"
        )
        wrong.append(("palette", sentence))


def palette(data: bytes) -> list[tuple[int, ...]]:
    """A PNG's PLTE chunk."""
    at = 8
    while data[at + 4 : at + 8] not in (b"PLTE", b""):
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    table = data[at + 8 : at + 8 + int.from_bytes(data[at : at + 4], "big")]
    return [tuple(table[first : first + 3]) for first in range(0, len(table), 3)]


def measure(source: Source, labels: LabelSet, index: int) -> Measurements:
    import cv2

    sample = read_sample(source, labels, index)
    measured = Measurements(index, sample.wrong)
    if sample.numbers is not None and sample.numbers.ndim == 2:
        measured.values = counted(sample.numbers)
    if sample.label is not None:
        measured.size = sample.label.shape
        measured.classes = counted(sample.label)
    if sample.image is not None:
        measured.size = sample.image.shape[:2]
        mean, std = cv2.meanStdDev(sample.image)
        measured.mean = mean.ravel()  # (3, 1) -> (3,)
        measured.std = std.ravel()
        pixels = hashlib.blake2b(np.ascontiguousarray(sample.image), digest_size=16)
        pixels.update(repr(sample.image.shape).encode())
        measured.digest = pixels.digest()
    return measured


# --- splits


def open_splits(
    data: SegmentationData, names: Sequence[str], optional: Sequence[str] = ()
) -> list[Split]:
    """The splits, with none of their images read.

    One that cannot be listed is a problem of its own where another can; those in `optional` need
    not be there.
    """
    splits = []
    failed = {}
    for name in dict.fromkeys(names):
        try:
            splits.append(open_split(data, name))
        except (DataError, OSError) as problem:
            if name not in optional:
                failed[name] = str(problem)
    if failed and (not splits or set(failed) & set(data.hidden)):
        raise DataError(next(iter(failed.values())))
    for name, sentence in failed.items():
        splits.append(Split(name, data.labels))
        splits[-1].found("listing", sentence)
    return splits


def open_split(data: SegmentationData, name: str) -> Split:
    """A damaged image must not end the check, so none is looked at."""
    if name in data.hidden:
        raise DataError(f"{data.name}'s {name} labels are not public: {data.hidden[name]}")
    split = Split(name, data.labels, official=data.official(name))
    try:
        split.source = data.stored(name)
    except Unpaired as problem:
        for file in problem.files:
            sentence = f"{file} stands alone, so nothing of {name} was read: {problem.remedy}"
            split.found("pairs", sentence, file=file)
    if isinstance(split.source, Pack):
        split.source.labels = None  # so that its labels are the files' numbers
    return split


def inspect_split(split: Split, limit: int | None, workers: int) -> None:
    """Read all images, or `limit` spread over the split, in threads: decoding holds no lock."""
    source = split.source
    if source is None:
        return
    count = len(source)
    part = min(limit or count, count)
    indices = [number * count // part for number in range(part)]
    if isinstance(source, Pack) and not isinstance(source, RemotePack):
        damaged = source.verify(with_progress(indices, f"checksums of {split.name}"))
        for name in damaged:
            sentence = f"{source.file} is damaged in {name}: pack this split again"
            split.found("file", sentence, source.names.index(name))
        split.checked += len(damaged)
        indices = [index for index in indices if source.names[index] not in set(damaged)]
    samples = prefetch(partial(measure, source, split.labels), indices, workers)
    for sample in with_progress(samples, f"reading {split.name}", len(indices)):
        split.add(sample)
    split.check_whole()


def compare_splits(splits: Sequence[Split]) -> None:
    """Find images that are in two splits: what is evaluated must not have been learned."""
    for number, later in enumerate(splits):
        for earlier in splits[:number]:
            both = later.digests.keys() & earlier.digests.keys()
            pairs = [(later.digests[same][0], earlier.digests[same][0]) for same in both]
            for one, other in sorted(pairs):
                sentence = (
                    f"{place(later.source, one)} ({later.name}) is the same image as "
                    f"{place(earlier.source, other)} ({earlier.name}): take one of the two out"
                )
                later.found("leak", sentence, one)
