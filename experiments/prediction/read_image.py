"""Read images as 8-bit RGB, upright; one sentence says what cannot be read. Imports no torch."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.command_line.errors import UserError
from experiments.reports.number_formats import plural

Size = tuple[int, int]  # width, height
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # of 8 bits or less
ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}
LISTED = 10  # files in one sentence


def without_warnings() -> None:
    """PIL and OpenCV warn of what they read all the same."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Unreadable(UserError):
    """A file that is no image, or one that would be seen otherwise than a person means it.

    Its text is the file and, in brackets, the reason.
    """


def refusal(damaged: Sequence[Unreadable]) -> UserError:
    """The error for unreadable images before anything is predicted."""
    files = [str(each) for each in damaged[:LISTED]]
    if len(damaged) > LISTED:
        files.append(f"and {len(damaged) - LISTED} more")
    return UserError(
        f"{plural(len(damaged), 'image')} cannot be read: {', '.join(files)}; "
        "convert to PNG or JPEG, leave out what cannot be read, or give --skip-unreadable"
    )


def left_out(damaged: Sequence[Unreadable], total: int) -> UserError:
    """The error at the end. It names all: hours may lie between the first and the last."""
    return UserError(
        f"{len(damaged)} of {plural(total, 'image')} left out: {', '.join(map(str, damaged))}; "
        "replace what was left out and predict it alone, into the same --out"
    )


def or_unreadable(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Let `read` return its error instead of raising it, so that the files after it are read."""

    def attempt(file: Path) -> Any:
        try:
            return read(file)
        except Unreadable as problem:
            return problem

    return attempt


def read_image(file: Path) -> np.ndarray:
    """RGB (H, W, 3), turned as the camera's EXIF note says."""
    with opened(file) as image:
        if has_16_bits(image):
            image.load()  # damaged parts are an error here, and black in OpenCV
            return read_16_bits(file)
        image.info.pop("transparency", None)  # shown as if opaque
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def image_size(file: Path) -> Size:
    """The size as stored. Pixels are decoded only where the file's end does not show it whole."""
    with opened(file) as image:
        if not has_end(image, file):
            image.load()
        return image.size


@contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """The image, not decoded yet. Whatever is raised within is about the file."""
    try:
        # Of a path PIL would map gray TIFFs, and mix up turned ones.
        with file.open("rb") as stream, Image.open(stream) as image:
            check_supported(image)
            yield image
    except UnidentifiedImageError:
        raise Unreadable(f"{file} (its format is not known)") from None
    except Exception as problem:  # PIL raises almost anything on damaged files
        reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        raise Unreadable(f"{file} ({reason})") from None


def check_supported(image: Image.Image) -> None:
    deep = has_16_bits(image)
    if (deep and image.mode == "CMYK") or not (deep or image.mode in MODES):
        raise ValueError(
            f"its pixels are of another kind than 8 or 16 bits of gray or color, mode {image.mode}"
        )
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "MPO":  # a photograph with its preview
        raise ValueError(
            f"it holds {pages} pictures, an animation or pages; "
            "an MP4 of them is filmed, and one alone predicted"
        )


def has_end(image: Image.Image, file: Path) -> bool:
    """Whether the last bytes end the image; of most formats they do not tell."""
    with file.open("rb") as stream:
        stream.seek(-8, os.SEEK_END)
        return image.format in ENDS and stream.read().endswith(ENDS[image.format])


# --- 16 bits


def has_16_bits(image: Image.Image) -> bool:
    """PIL has no mode for colors of 16 bits and would cut them; its decoder's name tells."""
    return any(";16" in str(tile[3]) for tile in image.tile)


def read_16_bits(file: Path) -> np.ndarray:
    """RGB by OpenCV, which turns the image upright too; 0 to 65535 become 0 to 255, rounded."""
    data = np.frombuffer(file.read_bytes(), np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if values is None or values.dtype != np.uint16:
        raise ValueError("its 16 bits are stored in a way that is not known")
    rounded = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return cv2.cvtColor(rounded, cv2.COLOR_BGR2RGB)
