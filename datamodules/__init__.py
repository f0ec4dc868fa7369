"""Data sets, one file each, found by being in this folder; a class is imported only when it is
used."""

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.errors import DataError as DataError

if TYPE_CHECKING:
    from datamodules.module import SegmentationData

HERE = Path(__file__).parent


def names() -> dict[str, str]:
    """{"cityscapes": "Cityscapes", ...}: a data set's file is named as its class, in lower case."""
    bases = {}
    stems = {file.stem for file in HERE.glob("*.py")}
    for stem in sorted(stems):
        text = (HERE / f"{stem}.py").read_text(encoding="utf-8")
        bases.update(re.findall(r"^class (\w+)\((\w+)", text, flags=re.MULTILINE))
    return {name.lower(): name for name in bases if name.lower() in stems and descends(name, bases)}


def descends(name: str, bases: dict[str, str]) -> bool:
    """Whether the class is a data set, perhaps by way of another one."""
    base = bases.get(name, "")
    return base == "SegmentationData" or (base in bases and descends(base, bases))


def dataset(name: str) -> "type[SegmentationData]":
    """The class of a data set by its name on the command line, such as "cityscapes"."""
    return getattr(importlib.import_module(f"datamodules.{name}"), names()[name])


def __getattr__(name: str) -> "type[SegmentationData]":
    if names().get(name.lower()) != name:
        known = ", ".join(names().values())
        raise AttributeError(f"datamodules has no {name}; its data sets are {known}")
    return dataset(name.lower())


def __dir__() -> list[str]:
    return [*globals(), *names().values()]
