"""The findings of a data check, certain problems or worth a look, and the numbers of a split."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from datamodules.labels import IGNORED, LabelSet, spans
from datamodules.packs.format import Pack
from datamodules.reading.sources import Files, Source
from datamodules.sampling.class_frequencies import Frequencies, none_yet

SPLITS = ("train", "val", "test")
LOOKS = ("count", "ignored", "classes", "twice")  # kinds for a person to look at
# An image's share of ignored pixels is suspicious this far from the median, or 8 robust deviations
# if that is more.
FAR = 0.25
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


@dataclass
class Measurements:
    """The numbers of one sample; those of an image or label that cannot be read stay 0 or None."""

    index: int
    wrong: list[tuple[str, str]]  # (kind, sentence)
    size: tuple[int, int] | None = None
    values: np.ndarray | int = 0  # (256,): pixels of every byte in the label file
    classes: np.ndarray | None = None  # (256,): pixels of every train id
    colors: np.ndarray | int = 0  # (3, 256): pixels of every level of red, green and blue
    digest: bytes | None = None  # of the image's pixels, however they were compressed


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly spread."""
    part = min(most, count)
    return [number * count // part for number in range(part)]


def place(source: Source, index: int) -> str:
    """Where the image is, for a person."""
    name = source.names[index]
    if isinstance(source, Files):
        return source.pairs[index][0]
    if isinstance(source, Pack):
        return f"{source.file} ({name})"
    return name


@dataclass
class Split:
    """The findings in a split, and the sums behind its row of the table."""

    name: str
    labels: LabelSet
    source: Source | None = None
    official: int | None = None
    checked: int = 0
    values: np.ndarray = field(default_factory=none_yet)
    frequencies: Frequencies = field(default_factory=Frequencies)  # of train ids
    sizes: Counter = field(default_factory=Counter)
    colors: np.ndarray = field(default_factory=lambda: np.zeros((3, 256)))  # as in Measurements
    ignored: dict[int, float] = field(default_factory=dict)  # index -> its share of ignored pixels
    digests: dict[bytes, list[int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def note(self, kind: str, sentence: str, index: int | None = None, file: str = "") -> None:
        if index is not None:
            file = place(self.source, index)
        # a name that is no UTF-8 must not end the report
        sentence = sentence.encode("utf-8", "backslashreplace").decode()
        problem = kind not in LOOKS
        self.findings.append(Finding(kind, self.name, sentence, file, index, problem))

    def add(self, sample: Measurements) -> None:
        self.checked += 1
        for kind, sentence in sample.wrong:
            self.note(kind, sentence, sample.index)
        if sample.size:
            self.sizes[sample.size] += 1
        self.values += sample.values
        self.colors += sample.colors
        if sample.classes is not None:
            self.frequencies.add(sample.classes)
            self.ignored[sample.index] = float(sample.classes[IGNORED] / sample.classes.sum())
        if sample.digest:
            self.digests.setdefault(sample.digest, []).append(sample.index)

    # --- numbers

    @property
    def class_pixels(self) -> np.ndarray:
        return self.frequencies.pixels[: len(self.labels.names)]

    def shares(self) -> list[float]:
        """Each class's share of the labeled pixels."""
        return (self.class_pixels / max(self.class_pixels.sum(), 1)).tolist()

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the channels, 0 to 1."""
        levels = np.arange(256) / 255
        shares = self.colors / np.maximum(self.colors.sum(1, keepdims=True), 1)
        mean = shares @ levels
        std = np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0))
        return mean.tolist(), std.tolist()

    def pixels_of(self, values: Iterable[int]) -> dict[int, int]:
        """The numbers among these that the label files hold, and their pixels."""
        return {value: int(self.values[value]) for value in values if self.values[value]}

    @property
    def unknown(self) -> dict[int, int]:
        """Ids that are neither a class nor declared void, and their pixels."""
        return self.pixels_of(sorted({*range(256)} - self.labels.known))

    @property
    def void(self) -> dict[int, int]:
        """Ids that are ignored, and their pixels."""
        return self.pixels_of(sorted({value % 256 for value in self.labels.void}))

    @property
    def ignored_share(self) -> float:
        pixels = self.frequencies.pixels
        return float(pixels[IGNORED] / max(pixels.sum(), 1))

    def weights(self) -> dict[str, list[float]]:
        """The class weights that `recipe.class_weights` names too."""
        classes = len(self.labels.names)
        return {
            "median_frequency": self.frequencies.median_frequency(classes),
            "inverse_log": self.frequencies.inverse_log(classes),
        }

    def summary(self) -> dict[str, Any]:
        """The numbers of a split, for other programs."""
        rows = zip(
            self.labels.names,
            self.class_pixels.tolist(),
            self.shares(),
            self.frequencies.images.tolist(),
        )
        mean, std = self.mean_and_std()
        return {
            "images": None if self.source is None else len(self.source),
            "official": self.official,
            "checked": self.checked,
            "sizes": [[*size, count] for size, count in self.sizes.most_common()],
            "ids": self.pixels_of(range(256)),
            "unknown_ids": self.unknown,
            "ignored": self.ignored_share,
            "classes": [dict(zip(("name", "pixels", "share", "images"), row)) for row in rows],
            "mean": mean,
            "std": std,
        }

    # --- findings of a whole split

    def check_whole(self) -> None:
        count = len(self.source)
        if self.official not in (None, count):
            sentence = f"{self.name} has {count} images, the official data set {self.official}"
            self.note("count", sentence)
        self.check_meaning()
        self.check_ignored()
        never = [name for name, pixels in zip(self.labels.names, self.class_pixels) if not pixels]
        if never and self.ignored:
            some = ", ".join(never[:6]) + (f" and {len(never) - 6} more" if len(never) > 6 else "")
            self.note("classes", f"{self.name}: no pixel that was read is {some}")
        for same in self.digests.values():
            if len(same) > 1:
                names = " and ".join(place(self.source, index) for index in same[:3])
                more = f" (and {len(same) - 3} more)" if len(same) > 3 else ""
                self.note("twice", f"{self.name}: {names}{more} are the same image", same[0])

    def check_meaning(self) -> None:
        """Note numbers that are all allowed and all mean something else."""
        ids = self.labels.ids
        used = self.pixels_of(range(IGNORED))
        beyond = [value for value in ids if value >= len(ids)]
        if used and len(beyond) >= 3 and max(used) < len(ids):
            self.note(
                "meaning",
                f"{self.name}: the label files hold only {spans([*used])}, which look like train "
                f"ids, and this data set's ids are {spans(frozenset(ids))}: "
                "take the files with ids (of Cityscapes *_labelIds.png)",
            )
        present = np.flatnonzero(self.class_pixels)
        if len(present) == 1 and len(ids) > 1 and IGNORED in self.void:
            self.note(
                "meaning",
                f"{self.name}: the only class is {self.labels.names[present[0]]}, and all else is "
                "255, which is ignored: if 255 was meant as a class, save it as that class's id "
                "or give the class id: 255 in classes.yaml (background: NAME, around polygons)",
            )

    def check_ignored(self) -> None:
        """Note images of which all, or unusually much or little, is ignored; the farthest first."""
        middle = float(np.median([*self.ignored.values()])) if self.ignored else 0.0
        distances = {index: abs(share - middle) for index, share in self.ignored.items()}
        limit = math.inf
        if len(distances) >= ENOUGH:
            limit = max(FAR, 8 * 1.4826 * float(np.median([*distances.values()])))
        for index in sorted(distances, key=distances.get, reverse=True):
            share = self.ignored[index]
            sentence = f"{share:.0%} of it is ignored, and of the median image {middle:.0%}"
            if share == 1:
                sentence = (
                    "every pixel of its label is ignored; look whether that is meant, "
                    "or take it out"
                )
            if share == 1 or distances[index] > limit:
                self.note("ignored", f"{place(self.source, index)}: {sentence}", index)


def content(splits: Sequence[Split]) -> dict[str, Any]:
    """The whole result of a check, for other programs."""
    train = weighed(splits)
    findings = [asdict(finding) for split in splits for finding in split.findings]
    return {
        "splits": {split.name: split.summary() for split in splits},
        "weights": train.weights() if train else None,
        "problems": [each for each in findings if each["problem"]],
        "look": [each for each in findings if not each["problem"]],
    }


def weighed(splits: Sequence[Split]) -> Split | None:
    """The training split, of which class weights are made."""
    return next((split for split in splits if split.name == "train" and split.ignored), None)


# --- between splits


def compare_splits(splits: Sequence[Split]) -> None:
    """Find images that are in two splits: what is evaluated must not have been learned."""
    for earlier, later in combinations(splits, 2):
        both = later.digests.keys() & earlier.digests.keys()
        pairs = [(later.digests[same][0], earlier.digests[same][0]) for same in both]
        for one, other in sorted(pairs):
            sentence = (
                f"{place(later.source, one)} ({later.name}) is the same image as "
                f"{place(earlier.source, other)} ({earlier.name}): take one of the two out"
            )
            later.note("leak", sentence, one)
