"""Data sets, one file each, found by being in this folder; a class is imported when it is used."""

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.errors import DataError as DataError

if TYPE_CHECKING:
    from datamodules.module import SegmentationData

HERE = Path(__file__).parent
BASES = "SegmentationData|BuiltIn"


def names() -> dict[str, str]:
    """{"cityscapes": "Cityscapes", ...}: a data set's file is named as its class, in lower case."""
    found = {}
    for file in sorted(HERE.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        for name in re.findall(rf"^class (\w+)\((?:{BASES})\)", text, flags=re.MULTILINE):
            if name.lower() == file.stem and name not in BASES:
                found[file.stem] = name
    return found


def dataset(name: str) -> "type[SegmentationData]":
    """The class of a data set by its name on the command line, such as "cityscapes"."""
    return getattr(importlib.import_module(f"datamodules.{name}"), names()[name])


def __getattr__(name: str) -> "type[SegmentationData]":
    if name == "Images":
        return importlib.import_module("datamodules.images").Images
    if names().get(name.lower()) != name:
        known = ", ".join(names().values())
        raise AttributeError(f"datamodules has no {name}; its data sets are {known}")
    return dataset(name.lower())


def __dir__() -> list[str]:
    return [*globals(), *names().values()]
