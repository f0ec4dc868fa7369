"""What looking at a data set found: what is certainly wrong, what is worth a look, and what the classes weigh."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datamodules.labels import IGNORED, LabelSet, spans
from datamodules.packs.format import Pack
from datamodules.packs.stream import Stream
from datamodules.reading.sources import Files, Source
from datamodules.sampling.class_frequencies import Frequencies

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


def place(source: Source, index: int) -> str:
    """Where the image is, for a person."""
    if isinstance(source, Files):
        return source.pairs[index][0]
    if isinstance(source, (Pack, Stream)):
        return (
            f"{source.file if isinstance(source, Pack) else source.place} ({source.names[index]})"
        )
    return source.names[index]


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
    frequencies: Frequencies = field(default_factory=Frequencies)  # of train ids
    sizes: Counter = field(default_factory=Counter)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(3))
    ignored: dict[int, float] = field(default_factory=dict)  # index -> its share of ignored pixels
    digests: dict[bytes, list[int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def found(
        self,
        kind: str,
        sentence: str,
        index: int | None = None,
        problem: bool = True,
        file: str = "",
    ) -> None:
        file = file or (place(self.source, index) if index is not None else "")
        sentence = sentence.encode(
            "utf-8", "backslashreplace"
        ).decode()  # a name that is no UTF-8 must not end the report
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
            self.frequencies.add(each.classes)
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
        return self.frequencies.pixels[: len(self.labels.names)]

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
        return {
            value: int(self.values[value])
            for value in range(256)
            if self.values[value] and value not in self.labels.known
        }

    @property
    def void(self) -> dict[int, int]:
        """Ids that are ignored, and their pixels."""
        void = sorted({value % 256 for value in self.labels.void})
        return {value: int(self.values[value]) for value in void if self.values[value]}

    def ignored_share(self) -> float:
        pixels = self.frequencies.pixels
        return float(pixels[IGNORED] / max(pixels.sum(), 1))

    # --- what the whole tells

    def judge(self) -> None:
        if self.source is not None and self.official not in (None, len(self.source)):
            self.found(
                "count",
                f"{self.name} has {len(self.source)} images, the official data set {self.official}",
                problem=False,
            )
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
                self.found(
                    "twice",
                    f"{self.name}: {names}{more} are the same image",
                    same[0],
                    problem=False,
                )

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
        far = [
            (abs(share - middle), index)
            for index, share in self.ignored.items()
            if abs(share - middle) > limit and share < 1
        ]
        for _, index in sorted(far, reverse=True):
            sentence = f"{place(self.source, index)}: {self.ignored[index]:.0%} of it is ignored, and of the median image {middle:.0%}"
            self.found("ignored", sentence, index, problem=False)

    # --- weights

    def median_frequency(self) -> list[float]:
        return self.frequencies.median_frequency(len(self.labels.names))

    def inverse_log(self) -> list[float]:
        return self.frequencies.inverse_log(len(self.labels.names))

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
                {
                    "name": name,
                    "pixels": int(pixels),
                    "share": int(pixels) / total,
                    "images": int(self.frequencies.images[train_id]),
                }
                for train_id, (name, pixels) in enumerate(zip(self.labels.names, self.labelled))
            ],
            "mean": self.mean,
            "std": self.std,
        }
