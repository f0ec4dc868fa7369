"""What packing leaves of a split below a data set's root, its pack or its stream: found, and held against what is asked for."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules import DataError
from datamodules.packs.format import Pack
from datamodules.packs.stream import Stream, address


def packed(
    root: str | Path,
    data: str,
    split: str,
    options: Mapping[str, Any],
    *,
    cache: str | None,
    gigabytes: float,
) -> Pack | Stream | None:
    """The split's stream or pack, where root holds one, without its labels' meaning; it must have been packed with these options."""
    stem = f"{data}-{split}"
    if place := address(root, stem):
        found: Pack | Stream = Stream(place, None, cache, gigabytes)
    elif (file := Path(root).expanduser() / f"{stem}.pack").is_file():
        found, place = Pack(file), str(file)
    else:
        return None
    said = {"data": data, "split": split, "options": {}} | found.description
    if (said["data"], said["split"]) != (data, split):
        raise DataError(
            f"{place} was packed from {said['data']} {said['split']} and carries another name: give it its own name back"
        )
    for name, value in said["options"].items():
        if options.get(name) != value:
            raise DataError(
                f"{place} was packed with data.{name}={value} and not {options.get(name)}: pack again, or give that value"
            )
    return found


def packs_beside(root: str | Path, data: str, split: str) -> list[str]:
    """What packing other splits wrote, or began to write, where the split has no pack."""
    if not (folder := Path(root).expanduser()).is_dir():
        return []
    found = sorted(
        file.name
        for file in folder.iterdir()
        if re.match(rf"\.?{data}-\w+\.(pack|stream)", file.name)
    )
    return [] if any(name.startswith(f"{data}-{split}.") for name in found) else found
