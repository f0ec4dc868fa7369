"""Where pixels come from: one small reading interface, and the sources behind it.

A source is asked for windows, never for files, so that another store can read less than a whole picture.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from datamodules import DataError
from datamodules.labels import LabelSet

Size = tuple[int, int]
Box = tuple[int, int, int, int]  # top, left, bottom, right
Pair = tuple[np.ndarray, np.ndarray]  # image uint8 RGB (H, W, 3), label uint8 train ids (H, W)
Reader = Callable[..., bytes]  # (path, count=-1) -> its first bytes, or all
Place = TypeVar("Place", Path, str)  # of a file: on the disk, or where a reader finds it
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LABELS = (".png",)


class Source(Protocol):
    names: Sequence[str]

    def __len__(self) -> int: ...

    def size(self, index: int) -> Size: ...

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        """The label alone, for those who count classes: no image is decoded."""

    def window(self, index: int, box: Box | None = None) -> Pair: ...


def inside(array: np.ndarray, box: Box | None) -> np.ndarray:
    return array if box is None else array[box[0] : box[2], box[1] : box[3]]


class Part:
    """Some images of a source, in the order given."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source, self.indices = source, tuple(indices)
        self.names = tuple(source.names[index] for index in indices)

    def __len__(self) -> int:
        return len(self.indices)

    def size(self, index: int) -> Size:
        return self.source.size(self.indices[index])

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        return self.source.label(self.indices[index], box)

    def window(self, index: int, box: Box | None = None) -> Pair:
        return self.source.window(self.indices[index], box)


# --- arrays in memory


class Memory:
    """Images and labels in one flat tensor each."""

    def __init__(self, names: Sequence[str], sizes: Sequence[Size]) -> None:
        self.names, self.sizes = tuple(names), tuple(sizes)
        self.starts = np.cumsum([0] + [height * width for height, width in sizes]).tolist()
        self.images = torch.zeros(3 * self.starts[-1], dtype=torch.uint8)
        self.labels = torch.zeros(self.starts[-1], dtype=torch.uint8)

    @classmethod
    def of(cls, pairs: Iterable[Pair], names: Sequence[str] | None = None) -> "Memory":
        pairs = list(pairs)
        memory = cls(names or [f"{index:06d}" for index in range(len(pairs))], [label.shape for _, label in pairs])
        for index, (image, label) in enumerate(pairs):
            memory.put(index, image, label)
        return memory

    def put(self, index: int, image: np.ndarray, label: np.ndarray) -> None:
        pixels, ids = self.window(index)
        if image.shape != pixels.shape or label.shape != ids.shape:
            raise DataError(f"{self.names[index]}: image {image.shape} and label {label.shape} do not fill {pixels.shape} and {ids.shape}")
        pixels[:], ids[:] = image, label

    def __len__(self) -> int:
        return len(self.names)

    def size(self, index: int) -> Size:
        return self.sizes[index]

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        height, width = self.sizes[index]
        return inside(self.labels[self.starts[index] :][: height * width].view(height, width).numpy(), box)

    def window(self, index: int, box: Box | None = None) -> Pair:
        height, width = self.sizes[index]
        image = self.images[3 * self.starts[index] :][: 3 * height * width].view(height, width, 3).numpy()
        return inside(image, box), self.label(index, box)


# --- files


class Files:
    """Image files beside label PNGs; the label's size stands for both, and they must agree. `read` gives the bytes of a path."""

    def __init__(
        self,
        pairs: Sequence[tuple[Path | str, Path | str]],
        labels: LabelSet,
        *,
        names: Sequence[str] | None = None,
        colored: bool = False,
        read: Reader | None = None,
    ) -> None:
        self.pairs = [(str(image), str(label)) for image, label in pairs]
        self.names = tuple(names or (Path(image).stem for image, _ in self.pairs))
        self.labels, self.colored, self.read = labels, colored, read or from_disk
        self.sizes: dict[int, Size] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def size(self, index: int) -> Size:
        if index not in self.sizes:
            path = self.pairs[index][1]
            self.sizes[index] = png_header(self.read(path, 32), path).size
        return self.sizes[index]

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        path = self.pairs[index][1]
        values = self.numbers(index)
        encode = self.labels.encode if values.ndim == 2 else self.labels.encode_colors
        return encode(inside(values, box), path)

    def numbers(self, index: int) -> np.ndarray:
        """What the label file holds: ids (H, W), or colors (H, W, 3)."""
        return read_label(self.pairs[index][1], self.colored, self.read)

    def image(self, index: int) -> np.ndarray:
        path, label_path = self.pairs[index]
        image, size = read_image(path, self.read), self.size(index)
        if image.shape[:2] != size:
            raise DataError(
                f"{path} is {image.shape[0]}x{image.shape[1]} and its label {label_path} is {size[0]}x{size[1]} "
                "(height x width): save both at one size, without a rotation note (EXIF) in the image"
            )
        return image

    def window(self, index: int, box: Box | None = None) -> Pair:
        return inside(self.image(index), box), self.label(index, box)


class Images:
    """Image files by name, without labels."""

    def __init__(self, files: dict[str, str], read: Reader | None = None) -> None:
        self.names, self.files, self.read = list(files), list(files.values()), read or from_disk

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> np.ndarray:
        return read_image(self.files[index], self.read)


class Header(NamedTuple):
    size: Size
    depth: int  # bits per channel
    kind: int  # 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGBA


KINDS = {0: "gray", 2: "an RGB picture", 3: "palette", 4: "gray with alpha", 6: "an RGBA picture"}


def png_header(data: bytes, path: str) -> Header:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 26:
        raise DataError(f"{path} is not a PNG, or only the beginning of one: labels must be 8-bit PNG files, save or copy it again")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return Header((height, width), data[24], data[25])


def from_disk(path: str, count: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(count)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): restore it or take its pair out of the data") from None
    if not data:
        raise DataError(f"{path} is empty: copy it again from where the data set came from")
    return data


def whole(data: bytes) -> bool:
    """Whether the end of the file is there: some decoders fill what is missing with gray and say nothing."""
    if data[:4] == b"\x89PNG":
        return b"IEND" in data[-4096:]
    return data[:2] != b"\xff\xd8" or b"\xff\xd9" in data[-4096:]


def decode(data: bytes, path: str, how: Callable[[np.ndarray], np.ndarray | None]) -> np.ndarray:
    pixels = how(np.frombuffer(data, np.uint8)) if whole(data) else None
    if pixels is None:
        raise DataError(f"{path} is cut short or damaged ({len(data)} bytes): copy it again from where the data set came from")
    return pixels


@cache
def png_decoder() -> Callable[[bytes], np.ndarray] | None:
    """imagecodecs' libspng where it is installed: the same pixels as OpenCV's in two thirds of the time. pyspng overlooks damage."""
    try:
        from imagecodecs import spng_decode

        return spng_decode
    except ImportError:
        return None


def read_image(path: str, read: Reader = from_disk) -> np.ndarray:
    """Any 8-bit picture as RGB (H, W, 3), turned as its EXIF note says."""
    import cv2

    data = read(path)
    if data[:4] == b"\x89PNG":
        header = png_header(data, path)
        if header.depth > 8 or header.kind in (4, 6):
            raise DataError(
                f"{path} is {KINDS[header.kind]} of {header.depth} bits; images must be 8-bit RGB: convert it, "
                "for example with PIL's Image.convert('RGB')"
            )
        if header[1:] == (8, 2) and whole(data) and (fast := png_decoder()) and b"eXIf" not in data[:1024]:
            return quickly(fast, data, path)
    return decode(data, path, lambda buffer: cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB))


def quickly(fast: Callable[[bytes], np.ndarray], data: bytes, path: str) -> np.ndarray:
    try:
        return fast(data)
    except Exception:  # each package has errors of its own
        raise DataError(f"{path} is cut short or damaged ({len(data)} bytes): copy it again from where the data set came from") from None


def read_label(path: str, colored: bool = False, read: Reader = from_disk) -> np.ndarray:
    """The numbers in the file (H, W), a palette's indices among them; RGB (H, W, 3) only where `colored` allows it."""
    import cv2

    data = read(path)
    header = png_header(data, path)
    if header.kind == 2 and header.depth == 8 and colored:
        return decode(data, path, lambda buffer: cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB))
    if header.kind == 3 or header[1:] == (1, 0):
        return decode(data, path, indices)
    if header[1:] != (8, 0):
        remedy = "give every class its color in classes.yaml (of --data folder), or save ids" if header.kind in (2, 6) else "save ids"
        raise DataError(
            f"{path} is {KINDS.get(header.kind, 'unknown')} of {header.depth} bits; "
            f"a label is one 8-bit channel of ids: {remedy} as 8-bit gray PNG"
        )
    return decode(data, path, lambda buffer: cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED))


def indices(buffer: np.ndarray) -> np.ndarray | None:
    """A palette PNG's own numbers, which OpenCV would turn into colors."""
    from io import BytesIO

    from PIL import Image

    try:
        return np.asarray(Image.open(BytesIO(buffer.tobytes()))).astype(np.uint8)
    except (OSError, SyntaxError, ValueError):
        return None


# --- pairs of files


def by_stem(folder: Path, suffixes: Sequence[str], remedy: str) -> dict[str, Path]:
    """The files of a folder by name without suffix, in sorted order; `remedy` tells what belongs there."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: {remedy}")
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    if not files:
        raise DataError(f"{folder} holds no {' or '.join(suffixes)} file: {remedy}")
    found = {path.stem: path for path in files}
    if len(found) < len(files):
        twice = next(path for path in files if found[path.stem] != path)
        raise DataError(f"{twice} and {found[twice.stem].name} share their name: keep one of the two")
    return found


class Unpaired(DataError):
    """Files that stand alone, for who wants to name all of them; the sentence names the first."""

    def __init__(self, sentence: str, files: Sequence[str] = (), remedy: str = "") -> None:
        super().__init__(sentence)
        self.files, self.remedy = tuple(files), remedy


def paired(images: dict[str, Place], labels: dict[str, Place], remedy: str) -> list[tuple[Place, Place]]:
    """Each image with its label; refuses one that stands alone."""
    lone_images = [path for key, path in images.items() if key not in labels]
    lone_labels = [path for key, path in labels.items() if key not in images]
    for alone, what, other in ((lone_images, "image", "label"), (lone_labels, "label", "image")):
        if alone:
            more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
            sentence = f"the {what} {alone[0]}{more} has no {other} of the same name: {remedy}"
            raise Unpaired(sentence, [str(path) for path in lone_images + lone_labels], remedy)
    return [(images[key], labels[key]) for key in images]
