"""Sources of pixels: one small interface for reading windows of images, and what is behind it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from datamodules.errors import DataError
from datamodules.labels import LabelSet
from datamodules.progress import with_progress
from datamodules.reading.decoding import (
    Box,
    Pair,
    Reader,
    Size,
    from_disk,
    image_window,
    inside,
    png_header,
    read_image,
    read_label,
)


class Source(Protocol):
    """Images and labels by index, whole or the part in a box."""

    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def size(self, index: int) -> Size: ...

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        """The label alone, for those who count classes: no image is decoded."""

    def window(self, index: int, box: Box | None = None) -> Pair: ...


class Part(Source):
    """Some images of a source, in the order given."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = tuple(indices)
        self.names = tuple(source.names[index] for index in indices)

    def size(self, index: int) -> Size:
        return self.source.size(self.indices[index])

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        return self.source.label(self.indices[index], box)

    def window(self, index: int, box: Box | None = None) -> Pair:
        return self.source.window(self.indices[index], box)


# --- arrays in memory


class Memory(Source):
    """Images and labels as arrays."""

    def __init__(self, pairs: Iterable[Pair], names: Sequence[str] | None = None) -> None:
        self.pairs = [(np.array(image), np.array(label)) for image, label in pairs]
        self.names = tuple(names or (f"{index:06d}" for index in range(len(self.pairs))))

    def size(self, index: int) -> Size:
        return self.pairs[index][1].shape

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        return inside(self.pairs[index][1], box)

    def window(self, index: int, box: Box | None = None) -> Pair:
        image, label = self.pairs[index]
        return inside(image, box), inside(label, box)


def in_memory(source: Source) -> Memory:
    """Everything that a source has, read once."""
    indices = with_progress(range(len(source)), "reading all images")
    return Memory((source.window(index) for index in indices), source.names)


# --- files


class Files(Source):
    """Image files beside label PNGs; the label's size stands for both, and they must agree.

    `read` gives the bytes of a path.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path | str, Path | str]],
        labels: LabelSet,
        *,
        names: Sequence[str] | None = None,
        colored: bool = False,
        read: Reader = from_disk,
    ) -> None:
        self.pairs = [(str(image), str(label)) for image, label in pairs]
        self.names = tuple(names or (Path(image).stem for image, _ in self.pairs))
        self.labels = labels
        self.colored = colored
        self.read = read
        self.sizes: dict[int, Size] = {}

    def size(self, index: int) -> Size:
        if index not in self.sizes:
            path = self.pairs[index][1]
            self.sizes[index] = png_header(self.read(path, 32), path).size
        return self.sizes[index]

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        values = self.numbers(index, box)
        encode = self.labels.encode if values.ndim == 2 else self.labels.encode_colors
        return encode(values, self.pairs[index][1])

    def numbers(self, index: int, box: Box | None = None) -> np.ndarray:
        """The values in the label file: ids (H, W), or colors (H, W, 3)."""
        return read_label(self.pairs[index][1], self.colored, self.read, box)

    def image(self, index: int, box: Box | None = None) -> np.ndarray:
        path, label_path = self.pairs[index]
        height, width = self.size(index)
        pixels, size = image_window(self.read(path), path, box)
        if size != (height, width):
            raise DataError(
                f"{path} is {size[0]}x{size[1]} and its label {label_path} is {height}x{width} "
                "(height x width): save both at one size, without a rotation note (EXIF) in "
                "the image"
            )
        return pixels

    def window(self, index: int, box: Box | None = None) -> Pair:
        return self.image(index, box), self.label(index, box)


class Images:
    """Image files by name, without labels."""

    def __init__(self, files: dict[str, str], read: Reader = from_disk) -> None:
        self.names = list(files)
        self.files = list(files.values())
        self.read = read

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> np.ndarray:
        return read_image(self.files[index], self.read)
