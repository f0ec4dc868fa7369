"""Images in: 8-bit RGB, upright, as a viewer shows them; what cannot be read so is said in a sentence. Imports no torch."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.command_line.errors import UserError

Made = TypeVar("Made")
Size = tuple[int, int]  # width, height
EIGHT_BITS = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
)  # PIL's modes of images that are converted to RGB
ORIENTATION = (
    274  # the EXIF note that says how a camera was held; from 5 up, width and height are exchanged
)
NAMED = 10  # files in one sentence
REMEDY = "convert it to PNG or JPEG, leave it out, or give --skip-unreadable"
REMEDIES = "convert them to PNG or JPEG, leave them out, or give --skip-unreadable"


def without_warnings() -> None:
    """PIL and OpenCV warn of what they read all the same."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Unreadable(UserError):
    """A file that is no image, or one that would be seen otherwise than a person means it."""

    def __init__(self, file: Path, why: object) -> None:
        super().__init__(f"{file} is not an image that can be read ({why}); {REMEDY}")
        self.said = f"{file} ({why})"


def refusal(found: Sequence[Unreadable]) -> UserError:
    """Of what was found before anything was predicted."""
    if len(found) == 1:
        return found[0]
    more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return UserError(
        f"{len(found)} images cannot be read: {', '.join(each.said for each in found[:NAMED])}{more}; {REMEDIES}"
    )


def left_out(found: Sequence[Unreadable], total: int) -> UserError:
    """Of what was passed over; all are named, since hours may lie between the first and the last."""
    was, them = ("was", "it") if len(found) == 1 else ("were", "them")
    said = ", ".join(each.said for each in found)
    return UserError(
        f"{len(found)} of {total} images {was} left out: {said}; replace {them} and predict {them} alone, into the same --out"
    )


def tried(read: Callable[[Path], Made]) -> Callable[[Path], Made | Unreadable]:
    """Hands over what is wrong with a file instead of raising it, so that the files after it are read too."""

    def attempt(file: Path) -> Made | Unreadable:
        try:
            return read(file)
        except Unreadable as problem:
            return problem

    return attempt


def opened(file: Path) -> np.ndarray:
    """RGB (H, W, 3); turned as the camera's EXIF note says."""
    with photograph(file) as image:
        return np.asarray(ImageOps.exif_transpose(eight_bits(image, file)).convert("RGB"))


def size_of(file: Path) -> Size:
    """Upright, of an image whose header and end are there. Pixels are decoded only where the end is not where its format puts it."""
    with photograph(file) as image:
        size = image.size[::-1] if turned(image) else image.size
        if not ended(image, file):
            image.draft(
                image.mode, (1, 1)
            )  # an eighth of a JPEG's size tells as well whether it is whole
            image.load()
        return size


@contextmanager
def photograph(file: Path) -> Iterator[Image.Image]:
    """The image, not decoded yet. PIL raises almost anything on damaged files, hence every exception here is about the file."""
    try:
        with (
            file.open("rb") as stream,
            Image.open(stream) as image,
        ):  # of a path PIL would map gray TIFFs, and mix up turned ones
            check_offered(image)
            yield image
    except UnidentifiedImageError:
        raise Unreadable(file, "its format is not known") from None
    except Exception as problem:
        raise Unreadable(
            file, getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        ) from None


def check_offered(image: Image.Image) -> None:
    if image.mode not in EIGHT_BITS and not gray_16(image):
        raise ValueError(
            f"its pixels are of another kind than 8 or 16 bits of gray or color, mode {image.mode}"
        )
    if image.mode == "CMYK" and deep(image):
        raise ValueError("its pixels are CMYK of 16 bits")
    if pages(image) > 1:
        raise ValueError(
            f"it holds {pages(image)} pictures, an animation or pages; an MP4 of them is filmed, and one alone predicted"
        )


def pages(image: Image.Image) -> int:
    """More than one where none of them is the image; a photograph's second picture is a preview, and so may a TIFF's be."""
    count = getattr(image, "n_frames", 1)
    if count == 1 or image.format == "MPO":
        return 1
    if image.format != "TIFF":
        return count
    reduced = 0
    for place in range(1, count):
        image.seek(place)
        reduced += image.tag_v2.get(254, 0) & 1  # NewSubfileType: a smaller copy of another page
    image.seek(0)
    return count - reduced


# --- 16 bits


def gray_16(image: Image.Image) -> bool:
    """PIL calls a PNG's 16 bits "I" in some versions; any other "I" has 32."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def deep(image: Image.Image) -> bool:
    """Whether a color has 16 bits, of which PIL would keep the upper 8."""
    return not gray_16(image) and any(";16" in str(tile[3]) for tile in image.tile)


def eight_bits(image: Image.Image, file: Path) -> Image.Image:
    """The image, or its 16 bits as 8."""
    if not (gray_16(image) or deep(image)):
        image.info.pop("transparency", None)
        return image
    image.load()  # OpenCV shows what is cut off as black
    values = np.asarray(image) if gray_16(image) else colors_16(file, image.size)
    made = Image.fromarray(byte(values))
    made.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    return made


def colors_16(file: Path, size: Size) -> np.ndarray:
    """uint16 RGB, by OpenCV, since PIL has no such mode."""
    how = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    found = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), how)
    if found is None or found.dtype != np.uint16 or found.shape != (size[1], size[0], 3):
        raise ValueError("its 16 bits are stored in a way that is not known")
    return cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


def byte(values: np.ndarray) -> np.ndarray:
    """0 to 65535 as 0 to 255, rounded: both ends are kept, hence by 257."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


# --- what headers and ends tell


def turned(image: Image.Image) -> bool:
    """Whether width and height are exchanged: PIL did it for a TIFF; a PNG may say so behind its pixels, which are not decoded for that."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return False
    return image.getexif().get(ORIENTATION, 1) >= 5


def ended(image: Image.Image, file: Path) -> bool:
    """Whether the file holds its last byte, as far as its format says which that is; what comes behind it makes that uncertain."""
    total = file.stat().st_size
    if image.format == "TIFF":
        return places_end(image) <= total
    with file.open("rb") as stream:
        head = stream.read(8)
        stream.seek(max(0, total - 8))
        tail = stream.read(8)
    if image.format == "WEBP":  # "RIFF", and the number of bytes behind these 8
        return 8 + int.from_bytes(head[4:], "little") <= total
    if image.format == "BMP":  # "BM", and the file's size
        return int.from_bytes(head[2:6], "little") == total
    return tail.endswith(
        {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}.get(
            image.format, b"no such end"
        )
    )


def places_end(image: Image.Image) -> float:
    """Where the last strip or tile of a TIFF ends; infinity where it does not say."""
    tags = image.tag_v2
    for starts, lengths in (
        (273, 279),
        (324, 325),
    ):  # StripOffsets and StripByteCounts, TileOffsets and TileByteCounts
        if starts in tags and lengths in tags:
            return max(start + length for start, length in zip(tags[starts], tags[lengths]))
    return float("inf")
