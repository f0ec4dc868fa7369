"""Read every file of a data set once, and collect what is found in a `Split` of findings.py.

A JPEG that is damaged in its middle still decodes, to wrong pixels that nothing here tells from
right ones; a PNG carries checksums.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from typing import NamedTuple

import numpy as np

from datamodules import DataError
from datamodules.file_trees import Unpaired
from datamodules.labels import IGNORED, LabelSet
from datamodules.module import SegmentationData
from datamodules.packs.format import Pack
from datamodules.packs.object_store import RemotePack
from datamodules.progress import with_progress
from datamodules.reading.decoding import read_image
from datamodules.reading.polygons import Drawn, UnknownName
from datamodules.reading.sources import Files, Memory, Source
from datamodules.sampling.class_uniform import counted
from datamodules.thread_pools import prefetch
from experiments.command_line.parser import by
from experiments.data_check.findings import Measurements, Split, place, spread

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
    where = label_where = place(source, index)
    if isinstance(source, Files):
        label_where = source.pairs[index][1]
        with naming_unreadable(wrong, where):
            image = read_picture(source, where, wrong)
        with naming_unreadable(wrong, label_where):
            numbers = source.numbers(index)
    else:
        with naming_unreadable(wrong, where):
            image, numbers = source.window(index)
    if isinstance(source, Memory):
        return Sample(image, None, numbers, wrong)
    label = None if numbers is None else train_ids(numbers, labels, label_where, wrong)
    if image is not None and label is not None and image.shape[:2] != label.shape:
        sentence = (
            f"{where} is {by(image.shape[:2])} and its label {label_where} is {by(label.shape)} "
            "(height x width): save both at one size"
        )
        wrong.append(("size", sentence))
    stored = isinstance(source, Files) and not isinstance(source, Drawn)
    if stored and numbers is not None and numbers.ndim == 2:
        with naming_unreadable(wrong, label_where):
            check_palette(source, label_where, numbers, wrong)
    return Sample(image, numbers, label, wrong)


@contextmanager
def naming_unreadable(wrong: Wrong, where: str) -> Iterator[None]:
    """Note a file that cannot be read, whatever a decoder raises: no file ends the check."""
    try:
        yield
    except UnknownName as problem:
        wrong.append(("ids", str(problem)))
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
        lost = "an alpha channel" if plain.shape[2:] == (4,) else ""
        if plain.dtype != np.uint8:
            lost = f"{8 * plain.dtype.itemsize} bits"
        if lost:
            remedy = "convert it, for example with PIL's Image.convert('RGB')"
            wrong.append(("file", f"{path} has {lost}; images must be 8-bit RGB: {remedy}"))
    return image


def train_ids(numbers: np.ndarray, labels: LabelSet, where: str, wrong: Wrong) -> np.ndarray | None:
    """Unknown ids are named and then ignored; unknown colors leave no label."""
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
    from PIL import Image

    labels = source.labels
    picture = Image.open(BytesIO(source.read(path)))
    if picture.mode != "P":
        return
    flat = picture.getpalette()
    colors = dict(enumerate(zip(flat[::3], flat[1::3], flat[2::3])))
    looks = {}  # number -> the class whose color it has, where that is one class's alone
    for value in np.unique(numbers).tolist():
        color = colors.get(value)
        if labels.palette.count(color) == 1:
            looks[value] = labels.palette.index(color)
    others = [value for value, train_id in looks.items() if labels.table[value] != train_id]
    if len(looks) >= 2 and 2 * len(others) > len(looks):
        value = others[0]
        meant = labels.table[value]
        means = "nothing" if meant == IGNORED else labels.names[meant]
        sentence = (
            f"{path} is a palette picture whose number {value} has the color of "
            f"{labels.names[looks[value]]} and means {means}: "
            "its numbers are a program's own; save ids as 8-bit gray PNG"
        )
        wrong.append(("palette", sentence))


def measure(source: Source, labels: LabelSet, index: int) -> Measurements:
    import cv2

    image, numbers, label, wrong = read_sample(source, labels, index)
    measured = Measurements(index, wrong)
    if numbers is not None and numbers.ndim == 2:
        measured.values = counted(numbers)
    if label is not None:
        measured.size = label.shape
        measured.classes = counted(label)
    if image is not None:
        measured.size = image.shape[:2]
        measured.colors = np.stack([counted(channel) for channel in cv2.split(image)])
        pixels = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16)
        pixels.update(repr(image.shape).encode())
        measured.digest = pixels.digest()
    return measured


# --- splits


def open_splits(
    data: SegmentationData, names: Sequence[str], optional: Sequence[str] = ()
) -> list[Split]:
    """The splits, with none of their images read: a damaged one must not end the check.

    A split that cannot be listed is a problem of its own where another can; those in `optional`
    need not be there.
    """
    opened: list[Split] = []
    failed: list[Split] = []
    for name in dict.fromkeys(names):
        split = Split(name, data.labels)
        try:
            split.source = data.stored(name)
        except Unpaired as problem:
            for file in problem.files:
                sentence = f"{file} stands alone, so nothing of {name} was read: {problem.remedy}"
                split.note("pairs", sentence, file=file)
        except (DataError, OSError) as problem:
            if name not in optional:
                split.note("listing", str(problem))
                failed.append(split)
            continue
        split.official = data.counts.get(name)
        if isinstance(split.source, Pack):
            split.source.labels = None  # so that its labels are the files' numbers
        opened.append(split)
    if failed and not opened:
        raise DataError(failed[0].findings[0].sentence)
    return opened + failed


def inspect_split(split: Split, limit: int | None, workers: int) -> None:
    """Read all images, or `limit` spread over the split, in threads: decoding holds no lock."""
    source = split.source
    if source is None:
        return
    indices = spread(len(source), limit or len(source))
    if isinstance(source, Pack) and not isinstance(source, RemotePack):
        damaged = source.verify(with_progress(indices, f"checksums of {split.name}"))
        for name in damaged:
            sentence = f"{source.file} is damaged in {name}: pack this split again"
            split.note("file", sentence, source.names.index(name))
        split.checked += len(damaged)
        indices = [index for index in indices if source.names[index] not in set(damaged)]
    samples = prefetch(partial(measure, source, split.labels), indices, workers)
    for sample in with_progress(samples, f"reading {split.name}", len(indices)):
        split.add(sample)
    split.check_whole()
