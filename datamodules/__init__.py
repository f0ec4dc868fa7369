"""Data sets: one file each, found by being here; a class is imported only when it is asked for."""

import importlib
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class DataError(ValueError):
    """What is wrong with the user's data: one sentence that names the file and says what to do."""


def names() -> dict[str, str]:
    """{"cityscapes": "Cityscapes", ...}: a data set's file defines the class whose lower-case name is the file's."""
    bases, stems = {}, {file.stem for file in HERE.glob("*.py")}
    for stem in sorted(stems):
        bases.update(
            re.findall(
                r"^class (\w+)\((\w+)",
                (HERE / f"{stem}.py").read_text(encoding="utf-8"),
                flags=re.MULTILINE,
            )
        )
    return {name.lower(): name for name in bases if name.lower() in stems and descends(name, bases)}


def descends(name: str, bases: dict[str, str]) -> bool:
    """Whether the class is a data set, by way of others if need be: files beside them hold other classes."""
    return bases.get(name) == "SegmentationData" or (name in bases and descends(bases[name], bases))


def __getattr__(name: str) -> Any:
    if names().get(name.lower()) != name:
        raise AttributeError(
            f"datamodules has no {name}; its data sets are {', '.join(names().values())}"
        )
    return getattr(importlib.import_module(f"datamodules.{name.lower()}"), name)


def __dir__() -> list[str]:
    return [*globals(), *names().values()]
