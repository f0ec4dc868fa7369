"""Official layouts: a split's files by name, found by folder and ending or by a list of names."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from datamodules.errors import DataError


def below(root: Path, pattern: str, ending: str, remedy: str) -> dict[str, Path]:
    """The files that a pattern finds, by name without `ending`, sorted by path:
    rgb_anon/fog/train/*/*_rgb_anon.png.
    """
    files = sorted(path for path in root.glob(pattern + ending) if not path.name.startswith("."))
    if not files:
        raise DataError(f"{root} holds no {pattern}{ending}: {remedy}")
    found = {file.name.removesuffix(ending): file for file in files}
    if len(found) < len(files):
        twice = next(file for file in files if found[file.name.removesuffix(ending)] != file)
        raise DataError(
            f"{twice} and {found[twice.name.removesuffix(ending)]} share their name: keep one "
            "of the two"
        )
    return found


def names_in(file: Path, remedy: str) -> list[str]:
    """A split's list, one image a line; of a line of paths, as some packages have them, the first
    one's stem.
    """
    if not file.is_file():
        raise DataError(f"there is no split list {file}: {remedy}")
    names = [
        Path(line.split()[0]).stem
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    if not names:
        raise DataError(f"{file} names no image: {remedy}")
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise DataError(
            f"{file} names {twice} twice: take the list anew from where the data set came from"
        )
    return names


def picked(
    names: Sequence[str], files: dict[str, Path], folder: Path, file: Path
) -> dict[str, Path]:
    """The files that a list names, in its order; refuses a name without a file."""
    absent = [name for name in names if name not in files]
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise DataError(
            f"{file} names {absent[0]}{more}, of which {folder} holds no file: unpack the data "
            "set again"
        )
    return {name: files[name] for name in names}


def original(files: dict[str, Path]) -> dict[str, Path]:
    """Without what other repositories' preparation writes beside the data set's own labels."""
    return {name: file for name, file in files.items() if not name.endswith("_labelTrainIds")}


@rank_zero_only
def tell(data: str, root: Path, split: str, found: int, official: int) -> None:
    """Says that a tree is not the official one; training on a part of it is nobody's mistake."""
    if found != official:
        print(
            f"{root}: {split} has {found} images, the official {data} {official}", file=sys.stderr
        )


def one_of(field: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise DataError(f"data.{field}={value} is none of {', '.join(allowed)}")
    return value


def whole_number(field: str, value: float, least: int) -> None:
    if int(value) != value or value < least:
        raise DataError(
            f"{field}={value} is not a whole number from {least} up: the nearest is "
            f"{max(round(value), least)}"
        )


def matrix(file: Path, key: str) -> Any:
    """An array out of a Matlab file."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(
            f"{file} is a Matlab file, and reading it needs scipy: pip install scipy"
        ) from None
    try:
        return loadmat(file, variable_names=[key])[key]
    except KeyError:
        raise DataError(
            f"{file} holds no {key}: it is not the file of this data set, download it again"
        ) from None
    except Exception as error:  # scipy raises whatever the bytes made it trip over
        raise DataError(
            f"{file} cannot be read as a Matlab file ({type(error).__name__}): download it again"
        ) from None
