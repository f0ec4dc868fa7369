"""File trees: a data set's files by name, out of folders and lists as its authors publish them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from datamodules.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LABELS = (".png",)
Place = TypeVar("Place", Path, str)  # of a file: on the disk, or in a zip


def files_in(folder: Path, suffixes: Sequence[str], remedy: str) -> dict[str, Path]:
    """The files of a folder by name without suffix; `remedy` tells what belongs there.

    Other repositories write *_labelTrainIds.png beside the data sets' own labels: left out.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: {remedy}")
    paths = [path for path in folder.iterdir() if path.suffix.lower() in suffixes]
    files = by_name(path for path in paths if not path.stem.endswith("_labelTrainIds"))
    if not files:
        raise DataError(f"{folder} holds no {' or '.join(suffixes)} file: {remedy}")
    return files


def by_name(paths: Iterable[Path], ending: str = "") -> dict[str, Path]:
    """Files sorted by path, by name without `ending` or else without suffix."""
    files: dict[str, Path] = {}
    for path in sorted(paths):
        if path.name.startswith("."):
            continue
        name = path.name.removesuffix(ending) if ending else path.stem
        if name in files:
            raise DataError(f"{files[name]} and {path} share their name: keep one of the two")
        files[name] = path
    return files


# --- lists of images


def read_list(file: Path, remedy: str) -> list[str]:
    """The names in a split's list, an image a line; some lists hold paths of image and label."""
    if not file.is_file():
        raise DataError(f"there is no split list {file}: {remedy}")
    lines = file.read_text(encoding="utf-8").splitlines()
    names = [Path(line.split()[0]).stem for line in lines if line.strip()]
    if not names:
        raise DataError(f"{file} names no image: {remedy}")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DataError(
            f"{file} names {name} twice: take the list anew from where the data set came from"
        )
    return names


def picked(names: Sequence[str], file: Path, *trees: dict[str, Path]) -> list[dict[str, Path]]:
    """The files that a list names, in its order, of each tree; refuses a name without a file."""
    for files in trees:
        absent = [name for name in names if name not in files]
        if absent:
            folder = next(iter(files.values())).parent
            raise DataError(
                f"{file} names {first_of(absent)}, of which {folder} holds no file: unpack the "
                "data set again"
            )
    return [{name: files[name] for name in names} for files in trees]


def read_matlab(file: Path, key: str) -> Any:
    """An array out of a Matlab file."""
    try:
        from scipy.io import loadmat

        return loadmat(file, variable_names=[key])[key]
    except ImportError:
        raise DataError(
            f"{file} is a Matlab file, and reading it needs scipy: pip install scipy"
        ) from None
    except KeyError:
        raise DataError(
            f"{file} holds no {key}: it is not the file of this data set, download it again"
        ) from None
    except Exception as error:  # scipy raises whatever the bytes made it trip over
        raise DataError(
            f"{file} cannot be read as a Matlab file ({type(error).__name__}): download it again"
        ) from None


# --- pairs


class Unpaired(DataError):
    """Files that stand alone, for who wants to name all of them; the sentence names the first."""

    def __init__(self, sentence: str, files: Sequence[str] = (), remedy: str = "") -> None:
        super().__init__(sentence)
        self.files = tuple(files)
        self.remedy = remedy


def paired(
    images: dict[str, Place], labels: dict[str, Place], remedy: str
) -> list[tuple[Place, Place]]:
    """Each image with its label; refuses one that stands alone."""
    lone_images = [path for key, path in images.items() if key not in labels]
    lone_labels = [path for key, path in labels.items() if key not in images]
    if lone_images:
        sentence = f"the image {first_of(lone_images)} has no label of the same name: {remedy}"
    elif lone_labels:
        sentence = f"the label {first_of(lone_labels)} has no image of the same name: {remedy}"
    else:
        return [(images[key], labels[key]) for key in images]
    raise Unpaired(sentence, [str(path) for path in lone_images + lone_labels], remedy)


def first_of(names: Sequence[Path | str]) -> str:
    return f"{names[0]} (and {len(names) - 1} more)" if len(names) > 1 else str(names[0])
