"""Packs: a split in one file, from which any window can be read without decoding the rest. Nothing is lost: pixels and label numbers are
those of the original files.

Two forms. "tiles" is small and fast: each image is cut into tiles of 128 x 256, each row of a tile is stored as its difference from the row
above, and zstd compresses what is left. "raw" is large and faster: plain pixels, read through a memory map; each image's
checksum is compared when it is first read.

    8 bytes b"SEGPACK1" | description (JSON) | records, one per image | index (JSON + table) | where the index begins | b"SEGPACK."
    a record: its lengths and checksum | name | blobs: image tiles row by row, then label tiles; or image, label

What is written is the same, byte for byte, however often writing was interrupted: an image is one record, and a torn record is cut off.
"""

import json
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from datamodules import DataError
from datamodules.labels import LabelSet
from datamodules.reading.decoding import Box, Size
from datamodules.reading.sources import Pair

START, END, RECORD = b"SEGPACK1", b"SEGPACK.", b"RECO"
VERSION = 1
TILE = (128, 256)
LEVEL = 9  # of zstd: writing is slower and reading is not
MATCH = 6  # bytes; shorter repetitions in photographs are chance: without them reading is faster, and the file no larger
Form = Literal["tiles", "raw"]
OWN = threading.local()
HEAD = struct.Struct(
    "<4sHIIIIQ"
)  # magic, bytes of the name, height, width, number of blobs, checksum of all that follows, its length


# --- one image as blobs, and back


def zstd() -> Any:
    try:
        import zstandard
    except ImportError:
        raise DataError(
            "packs of tiles need zstandard: pip install zstandard, or take packs of the raw form"
        ) from None
    return zstandard


def grid(size: Size) -> tuple[int, int]:
    """Rows and columns of tiles."""
    return -(-size[0] // TILE[0]), -(-size[1] // TILE[1])


def tiles(array: np.ndarray) -> Iterator[np.ndarray]:
    """Row by row; those at the right and bottom border are smaller."""
    for top in range(0, array.shape[0], TILE[0]):
        for left in range(0, array.shape[1], TILE[1]):
            yield array[top : top + TILE[0], left : left + TILE[1]]


def encoded(image: np.ndarray, label: np.ndarray, form: Form) -> list[bytes]:
    """`label` holds the numbers of the file."""
    if form == "raw":
        return [image.tobytes(), label.tobytes()]
    settings = zstd().ZstdCompressionParameters(
        compression_level=LEVEL, min_match=MATCH, write_checksum=True, write_content_size=True
    )
    compressor = zstd().ZstdCompressor(compression_params=settings)
    blobs = []
    for tile in tiles(image):
        change = tile.copy()
        change[1:] -= tile[:-1]
        blobs.append(compressor.compress(np.ascontiguousarray(change)))
    return blobs + [compressor.compress(np.ascontiguousarray(tile)) for tile in tiles(label)]


def restore(changes: np.ndarray) -> None:
    """In place: rows of (bands, rows, bytes) that are differences from the row above become pixels, all bands at once."""
    for row in range(1, changes.shape[1]):
        np.add(changes[:, row], changes[:, row - 1], out=changes[:, row])


# --- writing


def record(name: str, image: np.ndarray, label: np.ndarray, form: Form) -> bytes:
    blobs = encoded(image, label, form)
    lengths = np.array([len(blob) for blob in blobs], "<u4").tobytes()
    body = b"".join([name.encode(), lengths, *blobs])
    height, width = label.shape
    return (
        HEAD.pack(
            RECORD, len(name.encode()), height, width, len(blobs), zlib.crc32(body), len(body)
        )
        + body
    )


def write(
    file: Path,
    description: dict[str, Any],
    names: Sequence[str],
    records: Callable[[int], Iterable[bytes]],
) -> None:
    """Goes on with what an interrupted writing left; `records(first)` makes the records from that image on. The pack appears when whole."""
    partial = file.with_name(f".{file.name}.partial")
    head = START + framed(
        description | {"version": VERSION, "tile": list(TILE), "images": len(names)}
    )
    kept = scan(partial, head, names) if partial.exists() else []
    with partial.open("r+b" if kept else "wb") as out:
        if not kept:
            out.write(head)
        out.truncate(kept[-1][1] if kept else len(head))
        out.seek(0, os.SEEK_END)
        for each in records(len(kept)):
            out.write(each)
        out.flush()
        index = index_of(out, partial, head, names)
        begins = out.tell()
        out.write(index + struct.pack("<Q", begins) + END)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


def framed(content: dict[str, Any]) -> bytes:
    """JSON with its length and checksum before it."""
    text = json.dumps(content, sort_keys=True).encode()
    return struct.pack("<II", len(text), zlib.crc32(text)) + text


def scan(partial: Path, head: bytes, names: Sequence[str]) -> list[tuple[int, int]]:
    """Where the whole records of an interrupted writing begin and end; none if it was of other images or another form."""
    found: list[tuple[int, int]] = []
    ends = partial.stat().st_size
    with partial.open("rb") as file:
        if file.read(len(head)) != head:
            return []
        while len(found) < len(names):
            begins, fixed = file.tell(), file.read(HEAD.size)
            if len(fixed) < HEAD.size:
                break
            magic, named, _, _, _, checksum, length = HEAD.unpack(fixed)
            body = file.read(length) if length <= ends - file.tell() else b""
            if (
                len(body) < length
                or magic != RECORD
                or zlib.crc32(body) != checksum
                or body[:named] != names[len(found)].encode()
            ):
                break
            found.append((begins, file.tell()))
    return found


def index_of(out: BinaryIO, partial: Path, head: bytes, names: Sequence[str]) -> bytes:
    """Sizes, and where each image's blobs begin and end, read back from what was written: a record that is not whole ends it here."""
    sizes, bounds = [], []
    with partial.open("rb") as file:
        file.seek(len(head))
        for name in names:
            begins, fixed = file.tell(), file.read(HEAD.size)
            magic, named, height, width, count, _, length = (
                HEAD.unpack(fixed) if len(fixed) == HEAD.size else (b"", *[0] * 6)
            )
            if magic != RECORD or file.read(named) != name.encode():
                raise DataError(f"{partial} is damaged at {name}: remove it and pack again")
            lengths = np.frombuffer(file.read(4 * count), "<u4").astype(np.uint64)
            first = begins + HEAD.size + named + 4 * count
            bounds.append(first + np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64))
            sizes.append((height, width))
            file.seek(begins + HEAD.size + length)
    table = np.concatenate(bounds).astype("<u8").tobytes() if bounds else b""
    counts = [len(each) for each in bounds]
    return (
        framed(
            {"names": list(names), "sizes": sizes, "bounds": counts, "checksum": zlib.crc32(table)}
        )
        + table
    )


# --- reading


@dataclass(frozen=True)
class Index:
    names: tuple[str, ...]
    sizes: list[Size]
    starts: np.ndarray  # of each image's bounds in `bounds`
    bounds: np.ndarray  # where blobs begin and end in the file


class Pack:
    """A pack as a source of pixels. The file is opened by whoever reads first, so that each worker has its own."""

    def __init__(self, file: Path, labels: LabelSet | None = None) -> None:
        self.file, self.labels = Path(file), labels
        try:
            self.description, self.index = opened(self.file)
        except OSError as error:
            raise DataError(
                f"{file} cannot be read ({error.strerror}): make it readable, or pack this split again"
            ) from None
        self.names, self.form = self.index.names, self.description["form"]

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in vars(self).items() if name not in ("mapped", "checked")
        }

    @cached_property
    def checked(self) -> set[int]:
        """The images of a raw pack that were found whole, by this process."""
        return set()

    @cached_property
    def mapped(self) -> mmap.mmap:
        with self.file.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @property
    def decompressor(self) -> Any:
        """One for each thread: zstandard's are not safe to share."""
        if not hasattr(OWN, "decompressor"):
            OWN.decompressor = zstd().ZstdDecompressor()
        return OWN.decompressor

    def __len__(self) -> int:
        return len(self.names)

    def size(self, index: int) -> Size:
        return self.index.sizes[index]

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        numbers = self.plain(index, box, 1) if self.form == "raw" else self.tiled(index, box, 1)
        return (
            self.labels.encode(numbers, f"{self.file} ({self.names[index]})")
            if self.labels
            else numbers
        )

    def window(self, index: int, box: Box | None = None) -> Pair:
        image = self.plain(index, box, 3) if self.form == "raw" else self.tiled(index, box, 3)
        return image, self.label(index, box)

    def blobs(self, index: int) -> np.ndarray:
        return self.index.bounds[self.index.starts[index] : self.index.starts[index + 1]]

    def plain(self, index: int, box: Box | None, channels: int) -> np.ndarray:
        if (
            index not in self.checked
        ):  # a tile has its own checksum, a plain record one for all of it
            self.record(index)
            self.checked.add(index)
        (height, width), bounds = self.size(index), self.blobs(index)
        start, shape = (
            int(bounds[0 if channels == 3 else 1]),
            (height, width, 3) if channels == 3 else (height, width),
        )
        array = np.frombuffer(self.mapped, np.uint8, height * width * channels, start).reshape(
            shape
        )
        return array if box is None else array[box[0] : box[2], box[1] : box[3]]

    def tiled(self, index: int, box: Box | None, channels: int) -> np.ndarray:
        """Only the tiles that the box touches are read."""
        (height, width), bounds = self.size(index), self.blobs(index)
        top, left, bottom, right = box or (0, 0, height, width)
        columns = grid((height, width))[1]
        blobs = 0 if channels == 3 else len(bounds) // 2
        rows, across = (
            range(top // TILE[0], -(-bottom // TILE[0])),
            range(left // TILE[1], -(-right // TILE[1])),
        )
        out = np.empty((len(rows) * TILE[0], right - left, channels), np.uint8)
        for down, row in enumerate(rows):
            tall = min(TILE[0], height - row * TILE[0])
            for column in across:
                blob = blobs + row * columns + column
                begin, end = column * TILE[1], min((column + 1) * TILE[1], width)
                packed = memoryview(self.mapped)[int(bounds[blob]) : int(bounds[blob + 1])]
                pixels = self.unpacked(index, packed, tall * (end - begin) * channels)
                tile = np.frombuffer(pixels, np.uint8).reshape(tall, end - begin, channels)
                first, last = max(begin, left), min(end, right)
                out[down * TILE[0] : down * TILE[0] + tall, first - left : last - left] = tile[
                    :, first - begin : last - begin
                ]
        if channels == 3:
            restore(out.reshape(len(rows), TILE[0], (right - left) * channels))
        high = rows.start * TILE[0]
        cut = out[top - high : bottom - high]
        return cut if channels == 3 else cut[..., 0]

    def unpacked(self, index: int, packed: memoryview, count: int) -> bytes:
        """A tile's bytes. So many must be announced: for what a damaged number says there may be no memory."""
        try:
            if zstd().frame_content_size(packed) == count:
                return self.decompressor.decompress(packed)
        except zstd().ZstdError:
            pass
        raise DataError(f"{self.file} is damaged in {self.names[index]}: pack this split again")

    def record(self, index: int) -> memoryview:
        """An image's part of the file, checked."""
        bounds = self.blobs(index)
        begins = (
            int(bounds[0]) - 4 * (len(bounds) - 1) - len(self.names[index].encode()) - HEAD.size
        )
        *fixed, checksum, length = HEAD.unpack_from(self.mapped, begins)
        whole = memoryview(self.mapped)[begins : begins + HEAD.size + length]
        expected = [RECORD, len(self.names[index].encode()), *self.size(index), len(bounds) - 1]
        if fixed != expected or zlib.crc32(whole[HEAD.size :]) != checksum:
            raise DataError(f"{self.file} is damaged in {self.names[index]}: pack this split again")
        return whole

    def verify(self, progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> list[str]:
        """The names of images whose bytes are not those that were written."""
        damaged = []
        for number in progress(range(len(self))):
            try:
                self.record(number)
            except DataError:
                damaged.append(self.names[number])
        return damaged


def opened(file: Path) -> tuple[dict[str, Any], Index]:
    """The description and the index, both checked."""
    again = "pack this split again"
    with file.open("rb") as pack:
        if pack.read(len(START) - 1) != START[:-1]:
            raise DataError(f"{file} is not a pack: {again} with experiments/pack.py")
        if pack.read(1) != START[-1:]:
            raise DataError(
                f"{file} is a pack of another version than {VERSION}: {again}, or read it with the version that wrote it"
            )
        description = unframed(pack, file)
        if description["version"] != VERSION:
            raise DataError(
                f"{file} is a pack of version {description['version']}, and this reads {VERSION}: {again}"
            )
        pack.seek(-16, os.SEEK_END)
        begins, end = struct.unpack("<Q8s", pack.read(16))
        if end != END:
            raise DataError(f"{file} is cut short: copy it again, or {again}")
        pack.seek(min(begins, pack.tell()))  # a damaged place may lie beyond the end
        index = unframed(pack, file)
        table = pack.read(8 * sum(index["bounds"]))
        if zlib.crc32(table) != index["checksum"]:
            raise DataError(f"{file} is damaged in its index: {again}")
    starts = np.concatenate([[0], np.cumsum(index["bounds"])]).astype(np.int64)
    sizes = [tuple(size) for size in index["sizes"]]
    return description, Index(tuple(index["names"]), sizes, starts, np.frombuffer(table, "<u8"))


def unframed(pack: BinaryIO, file: Path | str) -> dict[str, Any]:
    fixed = pack.read(8)
    length, checksum = struct.unpack("<II", fixed) if len(fixed) == 8 else (0, None)
    text = pack.read(length)
    if zlib.crc32(text) != checksum:
        raise DataError(f"{file} is damaged: copy it again, or pack this split again")
    return json.loads(text)
