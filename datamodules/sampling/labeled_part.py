"""The labeled part of the training images: "1/8", a count, a published list, or a file of names.

lists/<data set>.json.gz holds the labeled lists that papers share, with their source and a
checksum of each: {source, lists: {words: {sha256, names}}}. "unimatch:1/8" is UniMatch's;
"u2pl:1/8" is U2PL's, out of UniMatch's repository.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from datamodules.errors import DataError
from datamodules.sampling.crops import SPLIT, draw

LISTS = Path(__file__).parents[1] / "lists"
WAYS = (
    "a share such as 1/8 or a number of images (:2 after either draws another part), a "
    "published list such as unimatch:1/8, "
    "or a text file of image names, one per line"
)


def chosen(names: Sequence[str], words: str) -> list[int]:
    """Indices in rising order.

    A smaller part lies within a larger one of the same draw, which is the same for every seed of a
    run.
    """
    if match := re.fullmatch(r"(\d+)(?:/(\d+))?(?::(\d+))?", words):
        first, whole, number = (int(part) if part else None for part in match.groups())
        # rounded up, as in the published lists of Cityscapes
        count = -(-len(names) * first // whole) if whole else first
        if not 1 <= count <= len(names):
            raise DataError(
                f"data.labeled={words} is {count} of {len(names)} training images: take from 1 "
                f"to {len(names)}"
            )
        return sorted(draw(number or 0, 0, SPLIT).permutation(len(names))[:count].tolist())
    if re.fullmatch(r"[a-z]\w*:\d+(/\d+)?", words):
        return published(names, words)
    return listed(names, Path(words).expanduser())


def published(names: Sequence[str], words: str) -> list[int]:
    """The list of that name whose images these are: several data sets may have one."""
    index = {name: number for number, name in enumerate(names)}
    every = stored()
    lists = {data: entries[words] for data, entries in every.items() if words in entries}
    if not lists:
        known = "; ".join(f"{data}: {', '.join(entries)}" for data, entries in every.items())
        raise DataError(f"there is no published list {words}; there are {known}")
    closest = max(lists.values(), key=lambda wanted: len(index.keys() & wanted) / len(wanted))
    absent = [name for name in closest if name not in index]
    if absent:
        raise DataError(
            f"data.labeled={words} is a list for {' and '.join(lists)}, and these {len(names)} "
            f"training images are not all of theirs: {absent[0]} is missing; take the whole "
            "official training set, or a share such as 1/8"
        )
    return sorted(index[name] for name in closest)


def stored() -> dict[str, dict[str, list[str]]]:
    """{data set: {words: image names}}, each list checked against its checksum."""
    every = {}
    for file in sorted(LISTS.glob("*.json.gz")):
        lists = json.loads(gzip.decompress(file.read_bytes()))["lists"]
        for words, entry in lists.items():
            if hashlib.sha256("\n".join(entry["names"]).encode()).hexdigest() != entry["sha256"]:
                raise DataError(
                    f"{file} is not as it was published ({words}): install the project again"
                )
        data = file.name.removesuffix(".json.gz")
        every[data] = {words: entry["names"] for words, entry in lists.items()}
    return every


def listed(names: Sequence[str], file: Path) -> list[int]:
    if not file.is_file():
        raise DataError(f"data.labeled={file} is no file and no part: give {WAYS}")
    wanted = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    index = {name: number for number, name in enumerate(names)}
    if unknown := [name for name in wanted if name not in index]:
        raise DataError(
            f"{file} names {len(unknown)} images that the training set does not have "
            f"({unknown[0]}, ...), such as {names[0]}"
        )
    if not wanted:
        raise DataError(f"{file} names no image: write one per line, such as {names[0]}")
    return sorted({index[name] for name in wanted})


def fingerprint(names: Sequence[str]) -> str:
    """The same for the same images, in whatever order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]
