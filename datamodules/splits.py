"""Which training images keep their labels, when only a part of them may: "1/8", a count, or a file of names."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from datamodules import DataError
from datamodules.crops import SPLIT, draw

WAYS = "a share such as 1/8, a number of images, or a text file of image names, one per line; :2 after either draws another part"


def chosen(names: Sequence[str], words: str) -> list[int]:
    """Indices in rising order. A smaller part lies within a larger one of the same draw, which is the same for every seed of a run."""
    if match := re.fullmatch(r"(\d+)(?:/(\d+))?(?::(\d+))?", words):
        first, whole, number = (int(part) if part else None for part in match.groups())
        count = -(-len(names) * first // whole) if whole else first  # rounded up, as in the published lists of Cityscapes
        if not 1 <= count <= len(names):
            raise DataError(f"data.labelled={words} is {count} of {len(names)} training images: take from 1 to {len(names)}")
        return sorted(draw(number or 0, 0, SPLIT).permutation(len(names))[:count].tolist())
    return listed(names, Path(words).expanduser())


def listed(names: Sequence[str], file: Path) -> list[int]:
    if not file.is_file():
        raise DataError(f"data.labelled={file} is no file and no part: give {WAYS}")
    wanted = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    index = {name: number for number, name in enumerate(names)}
    if unknown := [name for name in wanted if name not in index]:
        raise DataError(f"{file} names {len(unknown)} images that the training set does not have ({unknown[0]}, ...), such as {names[0]}")
    if not wanted:
        raise DataError(f"{file} names no image: write one per line, such as {names[0]}")
    return sorted({index[name] for name in wanted})


def fingerprint(names: Sequence[str]) -> str:
    """The same for the same images, in whatever order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]
