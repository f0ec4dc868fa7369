"""Looks at every file of a data set once: what is certainly wrong, what is worth a look, and what the classes weigh.

A JPEG that is damaged in its middle still decodes, to wrong pixels that nothing here tells from right ones; a PNG carries checksums.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from datamodules import DataError
from datamodules.decoding import read_image
from datamodules.labels import IGNORED, LabelSet, spans
from datamodules.packs import Pack
from datamodules.progress import shown
from datamodules.store import Files, Memory, Source, Unpaired
from datamodules.stream import Stream
from experiments.threads import ahead

SPLITS = ("train", "val", "test")
FAR = 0.25  # an image's share of ignored pixels is suspicious this far from the median, or 8 robust deviations if that is more
ENOUGH = 8  # images from which a median is worth something


@dataclass(frozen=True)
class Finding:
    """One sentence. A problem is certainly wrong; the others are for a person to look at."""

    kind: str
    split: str
    sentence: str
    file: str = ""
    index: int | None = None
    problem: bool = True


class Sample(NamedTuple):
    """What could be read of an image and its label; what could not is None, and `wrong` says why: (kind, sentence)."""

    image: np.ndarray | None  # RGB (H, W, 3)
    numbers: np.ndarray | None  # of the label file: ids (H, W), or colors (H, W, 3)
    label: np.ndarray | None  # train ids (H, W); an unknown id is ignored
    wrong: list[tuple[str, str]]


@dataclass(frozen=True)
class Measured:
    """Of one sample, small enough to be kept."""

    index: int
    size: tuple[int, int] | None
    values: np.ndarray | None  # pixels of every byte in the label file (256)
    classes: np.ndarray | None  # pixels of every train id (256)
    mean: np.ndarray | None
    std: np.ndarray | None
    digest: bytes | None  # of the image's pixels, however they were compressed
    wrong: list[tuple[str, str]]


# --- one sample


def place(source: Source, index: int) -> str:
    """Where the image is, for a person."""
    if isinstance(source, Files):
        return source.pairs[index][0]
    if isinstance(source, (Pack, Stream)):
        return f"{source.file if isinstance(source, Pack) else source.place} ({source.names[index]})"
    return source.names[index]


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
        sentence = (
            f"{place(source, index)} is {high}x{wide} and its label {where} is {tall}x{broad} (height x width): save both at one size"
        )
        wrong.append(("size", sentence))
    if isinstance(source, Files) and numbers is not None and numbers.ndim == 2:
        attempt(wrong, where, lambda: check_palette(source, index, numbers, wrong))
    return Sample(image, numbers, label, wrong)


def attempt(wrong: list[tuple[str, str]], where: str, act: Callable[[], Any]) -> Any:
    try:
        return act()
    except DataError as problem:
        wrong.append(("file", str(problem)))
    except Exception as problem:  # whatever the bytes made a decoder trip over: no file ends the check
        wrong.append(("file", f"{where} cannot be read ({type(problem).__name__}): copy it again from where the data set came from"))
    return None


def picture(source: Files, index: int, wrong: list[tuple[str, str]]) -> np.ndarray:
    """The image; formats in which OpenCV would silently drop bits or an alpha channel are named."""
    path = source.pairs[index][0]
    image = read_image(path, source.read)
    if path.lower().endswith((".tif", ".tiff", ".webp", ".bmp")):
        import cv2

        plain = cv2.imdecode(np.frombuffer(source.read(path), np.uint8), cv2.IMREAD_UNCHANGED)
        if plain.dtype != np.uint8 or (plain.ndim == 3 and plain.shape[2] == 4):
            kind = "an alpha channel" if plain.dtype == np.uint8 else f"{8 * plain.dtype.itemsize} bits"
            wrong.append(("file", f"{path} has {kind}; images must be 8-bit RGB: convert it, for example with PIL's Image.convert('RGB')"))
    return image


def meant(numbers: np.ndarray | None, labels: LabelSet, where: str, wrong: list[tuple[str, str]]) -> np.ndarray | None:
    """Train ids; unknown ids are named and then ignored, unknown colors leave no label."""
    if numbers is None:
        return None
    try:
        return labels.encode(numbers, where) if numbers.ndim == 2 else labels.encode_colors(numbers, where)
    except DataError as problem:
        wrong.append(("ids", str(problem)))
    return labels.table[numbers] if numbers.ndim == 2 else None


def check_palette(source: Files, index: int, numbers: np.ndarray, wrong: list[tuple[str, str]]) -> None:
    """A palette PNG that some program renumbered: it looks right in every viewer, and its numbers mean other classes."""
    path, labels = source.pairs[index][1], source.labels
    if source.read(path, 32)[25] != 3:
        return
    class_of = {color: train_id for train_id, color in enumerate(labels.palette) if labels.palette.count(color) == 1}
    colors, used = palette(source.read(path)), np.flatnonzero(np.bincount(numbers.ravel(), minlength=256))
    looks = {value: class_of[colors[value]] for value in used.tolist() if value < len(colors) and colors[value] in class_of}
    others = {value: train_id for value, train_id in looks.items() if labels.table[value] != train_id}
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
    return hashlib.blake2b(np.ascontiguousarray(image), digest_size=16, salt=repr(image.shape).encode()[:16]).digest()


# --- one split


@dataclass
class Split:
    """What was found in a split, and the sums behind its table."""

    name: str
    labels: LabelSet
    source: Source | None = None
    official: int | None = None
    checked: int = 0
    pixels: int = 0  # of images, for their mean
    values: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    classes: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    pixels_beside: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # all pixels of the images that hold the class
    sizes: Counter = field(default_factory=Counter)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(3))
    ignored: dict[int, float] = field(default_factory=dict)  # index -> its share of ignored pixels
    digests: dict[bytes, list[int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def found(self, kind: str, sentence: str, index: int | None = None, problem: bool = True, file: str = "") -> None:
        file = file or (place(self.source, index) if index is not None else "")
        sentence = sentence.encode("utf-8", "backslashreplace").decode()  # a name that is no UTF-8 must not end the report
        self.findings.append(Finding(kind, self.name, sentence, file, index, problem))

    def add(self, each: Measured) -> None:
        self.checked += 1
        for kind, sentence in each.wrong:
            self.found(kind, sentence, each.index)
        if each.size:
            self.sizes[each.size] += 1
        if each.values is not None:
            self.values += each.values
        if each.classes is not None:
            self.classes += each.classes
            self.images_with += each.classes > 0
            self.pixels_beside += (each.classes > 0) * each.classes.sum()
            self.ignored[each.index] = float(each.classes[IGNORED] / each.classes.sum())
        if each.digest:
            count = each.size[0] * each.size[1]
            self.pixels += count
            self.sums += count * each.mean
            self.squares += count * (each.std**2 + each.mean**2)
            self.digests.setdefault(each.digest, []).append(each.index)

    @property
    def labelled(self) -> np.ndarray:
        """Pixels of each class."""
        return self.classes[: len(self.labels.names)]

    @property
    def mean(self) -> list[float]:
        return (self.sums / max(self.pixels, 1) / 255).tolist()

    @property
    def std(self) -> list[float]:
        mean = self.sums / max(self.pixels, 1)
        return (np.sqrt(np.maximum(self.squares / max(self.pixels, 1) - mean**2, 0)) / 255).tolist()

    @property
    def unknown(self) -> dict[int, int]:
        """Ids that are neither a class nor declared void, and their pixels."""
        return {value: int(self.values[value]) for value in range(256) if self.values[value] and value not in self.labels.known}

    @property
    def void(self) -> dict[int, int]:
        """Ids that are ignored, and their pixels."""
        void = sorted({value % 256 for value in self.labels.void})
        return {value: int(self.values[value]) for value in void if self.values[value]}

    def ignored_share(self) -> float:
        return float(self.classes[IGNORED] / max(self.classes.sum(), 1))

    # --- what the whole tells

    def judge(self) -> None:
        if self.source is not None and self.official not in (None, len(self.source)):
            self.found("count", f"{self.name} has {len(self.source)} images, the official data set {self.official}", problem=False)
        self.judge_meaning()
        self.judge_ignored()
        never = [name for name, pixels in zip(self.labels.names, self.labelled) if not pixels]
        if never and self.ignored:
            some = ", ".join(never[:6]) + (f" and {len(never) - 6} more" if len(never) > 6 else "")
            self.found("classes", f"{self.name}: no pixel that was read is {some}", problem=False)
        for same in self.digests.values():
            if len(same) > 1:
                names = " and ".join(place(self.source, index) for index in same[:3])
                more = f" (and {len(same) - 3} more)" if len(same) > 3 else ""
                self.found("twice", f"{self.name}: {names}{more} are the same image", same[0], problem=False)

    def judge_meaning(self) -> None:
        """Numbers that are all allowed and all mean something else."""
        used, count = set(np.flatnonzero(self.values).tolist()) - {IGNORED}, len(self.labels.ids)
        beyond = [value for value in self.labels.ids if value >= count]
        if used and len(beyond) >= 3 and max(used) < count:
            self.found(
                "meaning",
                f"{self.name}: the label files hold only {spans(used)}, which look like train ids, and this data set's ids are "
                f"{spans(frozenset(self.labels.ids))}: take the files with ids (of Cityscapes *_labelIds.png)",
            )
        present = np.flatnonzero(self.labelled)
        if len(present) == 1 and count > 1 and self.values[IGNORED] and IGNORED in self.void:
            self.found(
                "meaning",
                f"{self.name}: the only class is {self.labels.names[present[0]]}, and all else is 255, which is ignored: "
                "if 255 was meant as a class, save it as that class's id or give the class id: 255 in classes.yaml",
            )

    def judge_ignored(self) -> None:
        for index in [index for index, share in self.ignored.items() if share == 1]:
            sentence = f"{place(self.source, index)}: every pixel of its label is ignored; look whether that is meant, or take it out"
            self.found("ignored", sentence, index, problem=False)
        if len(self.ignored) < ENOUGH:
            return
        shares = np.array([*self.ignored.values()])
        middle = float(np.median(shares))
        limit = max(FAR, 8 * 1.4826 * float(np.median(np.abs(shares - middle))))
        far = [(abs(share - middle), index) for index, share in self.ignored.items() if abs(share - middle) > limit and share < 1]
        for _, index in sorted(far, reverse=True):
            sentence = f"{place(self.source, index)}: {self.ignored[index]:.0%} of it is ignored, and of the median image {middle:.0%}"
            self.found("ignored", sentence, index, problem=False)

    # --- weights

    def median_frequency(self) -> list[float]:
        """Eigen and Fergus (ICCV 2015), as SegNet: the median of the classes' frequencies over the class's own. A frequency is the share of
        the class in the images that hold it, whose ignored pixels count; a class without a pixel gets 0."""
        frequencies = self.labelled / np.maximum(self.pixels_beside[: len(self.labelled)], 1)
        middle = np.median(frequencies[frequencies > 0]) if frequencies.any() else 0
        return [float(middle / each) if each else 0.0 for each in frequencies]

    def inverse_log(self) -> list[float]:
        """ERFNet's 1 / ln(1.1 + p), p the class's share of the labelled pixels: what the built-in streets use."""
        return (1 / np.log(1.1 + self.labelled / max(self.labelled.sum(), 1))).tolist()

    def summary(self) -> dict[str, Any]:
        """For a file that other programs read."""
        total = max(int(self.labelled.sum()), 1)
        return {
            "images": len(self.source) if self.source is not None else None,
            "official": self.official,
            "checked": self.checked,
            "sizes": [[*size, count] for size, count in self.sizes.most_common()],
            "ids": {str(value): int(self.values[value]) for value in np.flatnonzero(self.values)},
            "unknown_ids": {str(value): pixels for value, pixels in self.unknown.items()},
            "ignored": self.ignored_share(),
            "classes": [
                {"name": name, "pixels": int(pixels), "share": int(pixels) / total, "images": int(self.images_with[train_id])}
                for train_id, (name, pixels) in enumerate(zip(self.labels.names, self.labelled))
            ],
            "mean": self.mean,
            "std": self.std,
        }


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
            split.found("pairs", f"{file} stands alone, so nothing of {name} was read: {problem.remedy}", file=file)
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
        damaged = split.source.verify(lambda _: shown(indices, f"checksums of {split.name}"))
        for name in damaged:
            split.found("file", f"{split.source.file} is damaged in {name}: pack this split again", names[name])
        split.checked += len(damaged)
        indices = [index for index in indices if split.source.names[index] not in set(damaged)]
    samples = ahead(partial(measure, split.source, split.labels), indices, workers)
    for each in shown(samples, f"reading {split.name}", len(indices)):
        split.add(each)
    split.judge()


def compare(splits: Sequence[Split]) -> None:
    """Images that are in two splits: what is judged must not have been learned."""
    for number, later in enumerate(splits):
        for earlier in splits[:number]:
            both = later.digests.keys() & earlier.digests.keys()
            for one, other in sorted((later.digests[same][0], earlier.digests[same][0]) for same in both):
                sentence = f"{place(later.source, one)} ({later.name}) is the same image as {place(earlier.source, other)} ({earlier.name})"
                later.found("leak", f"{sentence}: take one of the two out", one)
