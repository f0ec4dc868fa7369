"""Decode images and labels out of files, whole or a window; damaged files are refused."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from datamodules.errors import DataError
from datamodules.reading import png

Size = tuple[int, int]
Pair = tuple[np.ndarray, np.ndarray]  # image uint8 RGB (H, W, 3), label uint8 train ids (H, W)
Box = tuple[int, int, int, int]  # top, left, bottom, right
Reader = Callable[..., bytes]  # (path, count=-1) -> its first bytes, or all


def inside(array: np.ndarray, box: Box | None) -> np.ndarray:
    return array if box is None else array[box[0] : box[2], box[1] : box[3]]


class Header(NamedTuple):
    size: Size
    depth: int  # bits per channel
    kind: int  # 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGBA


KINDS = {0: "gray", 2: "an RGB picture", 3: "palette", 4: "gray with alpha", 6: "an RGBA picture"}


def png_header(data: bytes, path: str) -> Header:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 26:
        raise DataError(
            f"{path} is not a PNG, or only the beginning of one: labels must be 8-bit PNG "
            "files, save or copy it again"
        )
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return Header((height, width), data[24], data[25])


def from_disk(path: str, count: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(count)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): restore it or take its pair out of the data"
        ) from None
    if not data:
        raise DataError(f"{path} is empty: copy it again from where the data set came from")
    return data


def whole(data: bytes) -> bool:
    """Whether the end of the file is there, and a PNG as it was written: some decoders guess what
    is missing and say nothing.
    """
    if data[:4] == b"\x89PNG":
        try:
            return all(True for _ in png.chunks(data))
        except png.Damaged:
            return False
    return data[:2] != b"\xff\xd8" or b"\xff\xd9" in data[-4096:]


def decode(data: bytes, path: str, how: Callable[[np.ndarray], np.ndarray | None]) -> np.ndarray:
    import cv2

    try:
        pixels = how(np.frombuffer(data, np.uint8)) if whole(data) else None
    except cv2.error:  # where a header asks for more pixels than there can be
        pixels = None
    if pixels is None:
        raise damaged(data, path)
    return pixels


def damaged(data: bytes, path: str) -> DataError:
    return DataError(
        f"{path} is cut short or damaged ({len(data)} bytes): copy it again from where the "
        "data set came from"
    )


def read_image(path: str, read: Reader = from_disk) -> np.ndarray:
    """Any 8-bit picture as RGB (H, W, 3), turned as its EXIF note says."""
    return image_window(read(path), path)[0]


def image_window(data: bytes, path: str, box: Box | None = None) -> tuple[np.ndarray, Size]:
    """Its pixels in the box, and the size of the whole."""
    import cv2

    if data[:4] == b"\x89PNG":
        header = png_header(data, path)
        if header.depth > 8 or header.kind in (4, 6):
            raise DataError(
                f"{path} is {KINDS[header.kind]} of {header.depth} bits; images must be 8-bit "
                "RGB: convert it, "
                "for example with PIL's Image.convert('RGB')"
            )
        if header.kind == 2 and (pixels := quickly(data, path, box)) is not None:
            return pixels, header.size
    pixels = decode(data, path, lambda buffer: cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB))
    return inside(pixels, box), pixels.shape[:2]


def read_label(
    path: str, colored: bool = False, read: Reader = from_disk, box: Box | None = None
) -> np.ndarray:
    """The numbers in the file (H, W), a palette's indices among them; RGB (H, W, 3) only where
    `colored` allows it.
    """
    import cv2

    data = read(path)
    header = png_header(data, path)
    if header.kind == 3 or header[1:] == (1, 0):
        return inside(decode(data, path, indices), box)
    if header.depth != 8 or not (header.kind == 0 or (header.kind == 2 and colored)):
        remedy = (
            "give every class its color in classes.yaml (of --data folder), or save ids"
            if header.kind in (2, 6)
            else "save ids"
        )
        raise DataError(
            f"{path} is {KINDS.get(header.kind, 'unknown')} of {header.depth} bits; "
            f"a label is one 8-bit channel of ids: {remedy} as 8-bit gray PNG"
        )
    if (values := quickly(data, path, box)) is not None:
        return values
    how = cv2.IMREAD_COLOR_RGB if header.kind == 2 else cv2.IMREAD_UNCHANGED
    return inside(decode(data, path, lambda buffer: cv2.imdecode(buffer, how)), box)


def quickly(data: bytes, path: str, box: Box | None) -> np.ndarray | None:
    """A window of an RGB or gray PNG, where it can be had without decoding the rest."""
    try:
        return png.window(data, box)
    except png.Damaged:
        raise damaged(data, path) from None


def indices(buffer: np.ndarray) -> np.ndarray | None:
    """A palette PNG's own numbers, which OpenCV would turn into colors."""
    from io import BytesIO

    from PIL import Image

    try:
        return np.asarray(Image.open(BytesIO(buffer.tobytes()))).astype(np.uint8)
    # the last where a header says that it is enormous
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
