"""Find a split's pack below a data set's root, and check that it holds what is wanted."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.packs.format import Pack
from datamodules.packs.object_store import RemotePack, is_address


def find_pack(
    root: str | Path,
    data: str,
    split: str,
    options: Mapping[str, Any],
    cache: str | None,
    gigabytes: float,
) -> Pack | None:
    """The split's pack where root holds one; it must have been packed with these options."""
    name = f"{data}-{split}.pack"
    if is_address(root):
        pack = RemotePack(f"{str(root).rstrip('/')}/{name}", None, cache, gigabytes)
    else:
        file = Path(root).expanduser() / name
        if file.with_suffix(".stream").is_dir():
            raise DataError(
                f"{file.with_suffix('.stream')} is a stream of an earlier version: "
                "copy packs in its place, which are read from an object store too"
            )
        if not file.is_file():
            return None
        pack = Pack(file)
    said = {"data": data, "split": split, "options": {}} | pack.description
    if (said["data"], said["split"]) != (data, split):
        raise DataError(
            f"{pack.file} was packed from {said['data']} {said['split']} and carries another name: "
            "give it its own name back"
        )
    for option, value in said["options"].items():
        if options.get(option) != value:
            raise DataError(
                f"{pack.file} was packed with data.{option}={value} and not {options.get(option)}: "
                "pack again, or give that value"
            )
    return pack


def packs_beside(root: str | Path, data: str, split: str) -> list[str]:
    """Packs of other splits, complete or not, where this split has none."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        return []
    names = sorted(file.name for file in folder.iterdir())
    packs = [name for name in names if re.match(rf"\.?{data}-\w+\.pack", name)]
    return [] if f"{data}-{split}.pack" in packs else packs
