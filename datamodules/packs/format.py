"""Packs: a split in one file, from which any window can be read without decoding the rest. Nothing
is lost: pixels and label numbers are those of the original files.

Two forms. "tiles" is small and fast: each image is cut into tiles of 128 x 256, each row of a tile
is stored as its difference from the row above, and zstd compresses what is left. "raw" is large and
faster: plain pixels, read through a memory map; each image's checksum is compared when it is first
read.

    8 bytes b"SEGPACK1" | description (JSON) | records, one per image | index (JSON + table) | where
    the index begins | b"SEGPACK." a record: its lengths and checksum | name | blobs: image tiles
    row by row, then label tiles; or image, label

What is written is the same, byte for byte, however often writing was interrupted: an image is one
record, and a torn record is cut off.
"""

import json
import math
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

import numpy as np

from datamodules.errors import DataError
from datamodules.labels import LabelSet
from datamodules.reading.decoding import Box, Size, inside
from datamodules.reading.sources import Pair

START, END, RECORD = b"SEGPACK1", b"SEGPACK.", b"RECO"
VERSION = 1
BEGINNING = 1 << 16  # bytes that hold the description
TILE = (128, 256)
LEVEL = 9  # of zstd: writing is slower and reading is not
# bytes; shorter repetitions in photographs are chance: without them reading is faster, and the file
# no larger
MATCH = 6
Form = Literal["tiles", "raw"]
OWN = threading.local()
HEAD = struct.Struct(
    "<4sHIIIIQ"
    # magic, bytes of the name, height, width, number of blobs, checksum of all that follows, its
    # length
)


# --- one image as blobs, and back


def zstd() -> Any:
    try:
        import zstandard
    except ImportError:
        raise DataError(
            "packs of tiles need zstandard: pip install zstandard, or take packs of the raw form"
        ) from None
    return zstandard


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
    """In place: rows of (bands, rows, bytes) that are differences from the row above become pixels,
    all bands at once.
    """
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
    """Write a pack, which appears when it is whole, or go on with an interrupted one.

    `records(first)` makes the records from that image on.
    """
    partial = file.with_name(f".{file.name}.partial")
    head = START + framed(
        description | {"version": VERSION, "tile": list(TILE), "images": len(names)}
    )
    places = written_places(partial, head, names) if partial.exists() else []
    with partial.open("r+b" if places else "wb") as out:
        if not places:
            out.write(head)
        out.truncate(int(places[-1].bounds[-1]) if places else len(head))
        out.seek(0, os.SEEK_END)
        for each in records(len(places)):
            places.append(place_of(each, out.tell()))
            out.write(each)
        begins = out.tell()
        out.write(framed_index(names, places) + struct.pack("<Q", begins) + END)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


def framed(content: dict[str, Any]) -> bytes:
    """JSON with its length and checksum before it."""
    text = json.dumps(content, sort_keys=True).encode()
    return struct.pack("<II", len(text), zlib.crc32(text)) + text


class Place(NamedTuple):
    """An image's size, and where its blobs begin and end in the file; the last ends the record."""

    size: Size
    bounds: np.ndarray


def place_of(record: bytes, begins: int) -> Place:
    _, named, height, width, count, *_ = HEAD.unpack_from(record)
    lengths = np.frombuffer(record, "<u4", count, HEAD.size + named).astype(np.uint64)
    first = begins + HEAD.size + named + 4 * count
    bounds = first + np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
    return Place((height, width), bounds)


def written_places(partial: Path, head: bytes, names: Sequence[str]) -> list[Place]:
    """The whole records of an interrupted writing, if it was of the same images and form."""
    places: list[Place] = []
    with partial.open("rb") as file:
        if file.read(len(head)) != head:
            return []
        for name in names:
            begins, fixed = file.tell(), file.read(HEAD.size)
            if len(fixed) < HEAD.size:
                break
            magic, named, _, _, _, checksum, length = HEAD.unpack(fixed)
            body = file.read(min(length, partial.stat().st_size))
            whole = magic == RECORD and len(body) == length and zlib.crc32(body) == checksum
            if not whole or body[:named] != name.encode():
                break
            places.append(place_of(fixed + body, begins))
    return places


def framed_index(names: Sequence[str], places: Sequence[Place]) -> bytes:
    table = b"".join(place.bounds.astype("<u8").tobytes() for place in places)
    index = {
        "names": list(names),
        "sizes": [place.size for place in places],
        "bounds": [len(place.bounds) for place in places],
        "checksum": zlib.crc32(table),
    }
    return framed(index) + table


# --- reading


class Reader(Protocol):
    """A file, wherever it is."""

    size: int

    def read(self, start: int, length: int) -> memoryview: ...


class LocalFile:
    """A file on a disk, read through a memory map that each process makes for itself."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, path.stat().st_size

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "mapped"}

    @cached_property
    def mapped(self) -> memoryview:
        with self.path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def read(self, start: int, length: int) -> memoryview:
        return self.mapped[start : start + length] if self.size else memoryview(b"")


class Pack:
    """A pack as a source of pixels."""

    def __init__(
        self, file: Path | str, labels: LabelSet | None = None, reader: Reader | None = None
    ) -> None:
        self.file, self.labels = file, labels
        try:
            self.reader = reader or LocalFile(Path(file))
            self.description, self.index = opened(self.reader, file)
        except OSError as error:
            raise DataError(
                f"{file} cannot be read ({error.strerror}): make it readable, or pack this "
                "split again"
            ) from None
        self.names, self.form = self.index.names, self.description["form"]
        self.whole: set[int] = set()  # raw records whose checksum was compared

    def __len__(self) -> int:
        return len(self.names)

    def size(self, index: int) -> Size:
        return self.index.sizes[index]

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        return self.train_ids(index, self.record(index), box)

    def window(self, index: int, box: Box | None = None) -> Pair:
        return self.pair(index, self.record(index), box)

    def pair(self, index: int, record: memoryview, box: Box | None) -> Pair:
        return self.pixels(index, record, box, 3), self.train_ids(index, record, box)

    def train_ids(self, index: int, record: memoryview, box: Box | None) -> np.ndarray:
        numbers = self.pixels(index, record, box, 1)
        if self.labels is None:
            return numbers
        return self.labels.encode(numbers, f"{self.file} ({self.names[index]})")

    # --- an image's part of the file

    def blobs(self, index: int) -> np.ndarray:
        """The places in the file where the image's blobs begin and end."""
        return self.index.bounds[self.index.starts[index] : self.index.starts[index + 1]]

    def place(self, index: int) -> tuple[int, int]:
        """The start and the length of the image's record in the file."""
        blobs = self.blobs(index)
        lengths = 4 * (len(blobs) - 1)
        start = int(blobs[0]) - lengths - len(self.names[index].encode()) - HEAD.size
        return start, int(blobs[-1]) - start

    def record(self, index: int) -> memoryview:
        """The image's record. Each tile has a checksum; a raw record has one, compared once."""
        record = self.reader.read(*self.place(index))
        if self.form == "raw" and index not in self.whole:
            self.check(index, record)
            self.whole.add(index)
        return record

    def check(self, index: int, record: memoryview) -> None:
        name = self.names[index].encode()
        expected = [RECORD, len(name), *self.size(index), len(self.blobs(index)) - 1]
        if len(record) >= HEAD.size:
            *fixed, checksum, length = HEAD.unpack_from(record)
            content = record[HEAD.size :]
            if fixed == expected and length == len(content) and zlib.crc32(content) == checksum:
                return
        raise self.damaged(index)

    def damaged(self, index: int) -> DataError:
        return DataError(f"{self.file} is damaged in {self.names[index]}: pack this split again")

    def verify(self, indices: Iterable[int]) -> list[str]:
        """The names of those images whose bytes are not the ones that were written."""
        damaged = []
        for index in indices:
            try:
                self.check(index, self.reader.read(*self.place(index)))
            except DataError:
                damaged.append(self.names[index])
        return damaged

    # --- pixels of a record

    def pixels(self, index: int, record: memoryview, box: Box | None, channels: int) -> np.ndarray:
        """The image (h, w, 3) or the label's numbers (h, w) in the box."""
        bounds = self.blobs(index).astype(np.int64) - self.place(index)[0]
        if self.form == "tiles":
            return self.tiled(index, record, bounds, box, channels)
        shape = (*self.size(index), 3) if channels == 3 else self.size(index)
        start = bounds[0 if channels == 3 else 1]
        array = np.frombuffer(record, np.uint8, math.prod(shape), start)
        return inside(array.reshape(shape), box)  # (h * w * channels) -> (h, w, 3) or (h, w)

    def tiled(
        self, index: int, record: memoryview, bounds: np.ndarray, box: Box | None, channels: int
    ) -> np.ndarray:
        """Only the tiles that the box touches are decompressed."""
        height, width = self.size(index)
        top, left, bottom, right = box or (0, 0, height, width)
        rows = range(top // TILE[0], -(-bottom // TILE[0]))
        columns = range(left // TILE[1], -(-right // TILE[1]))
        first_blob = 0 if channels == 3 else len(bounds) // 2
        tiles_across = -(-width // TILE[1])
        out = np.empty((len(rows) * TILE[0], right - left, channels), np.uint8)
        for band, row in enumerate(rows):
            tall = min(TILE[0], height - row * TILE[0])
            for column in columns:
                blob = first_blob + row * tiles_across + column
                begin, end = column * TILE[1], min((column + 1) * TILE[1], width)
                pixels = self.decompressed(
                    index, record[bounds[blob] : bounds[blob + 1]], tall * (end - begin) * channels
                )
                tile = np.frombuffer(pixels, np.uint8).reshape(tall, end - begin, channels)
                first, last = max(begin, left), min(end, right)
                place = slice(band * TILE[0], band * TILE[0] + tall)
                out[place, first - left : last - left] = tile[:, first - begin : last - begin]
        if channels == 3:
            # (bands * rows, w, 3) -> (bands, rows, w * 3)
            restore(out.reshape(len(rows), TILE[0], (right - left) * channels))
        above = rows.start * TILE[0]
        part = out[top - above : bottom - above]
        return part if channels == 3 else part[..., 0]

    def decompressed(self, index: int, tile: memoryview, count: int) -> bytes:
        """A tile's bytes. It must announce so many: a damaged number might ask for any memory."""
        try:
            if zstd().frame_content_size(tile) == count:
                return decompressor().decompress(tile)
        except zstd().ZstdError:
            pass
        raise self.damaged(index)


def decompressor() -> Any:
    """One for each thread: zstandard's are not safe to share."""
    if not hasattr(OWN, "decompressor"):
        OWN.decompressor = zstd().ZstdDecompressor()
    return OWN.decompressor


@dataclass(frozen=True)
class Index:
    names: tuple[str, ...]
    sizes: list[Size]
    starts: np.ndarray  # of each image's bounds in `bounds`
    bounds: np.ndarray  # where blobs begin and end in the file


def opened(reader: Reader, file: Path | str) -> tuple[dict[str, Any], Index]:
    """The description and the index, both checked."""
    again = "pack this split again"
    start = BytesIO(reader.read(0, min(BEGINNING, reader.size)))
    if start.read(len(START) - 1) != START[:-1]:
        raise DataError(f"{file} is not a pack: {again} with experiments/pack.py")
    if start.read(1) != START[-1:]:
        raise DataError(
            f"{file} is a pack of another version than {VERSION}: {again}, "
            "or read it with the version that wrote it"
        )
    description = unframed(start, file)
    if description["version"] != VERSION:
        raise DataError(
            f"{file} is a pack of version {description['version']}, and this reads {VERSION}: "
            f"{again}"
        )
    begins, end = struct.unpack("<Q8s", reader.read(reader.size - 16, 16))
    if end != END:
        raise DataError(f"{file} is cut short: copy it again, or {again}")
    begins = min(begins, reader.size - 16)  # a damaged place may lie beyond the end
    rest = BytesIO(reader.read(begins, reader.size - 16 - begins))
    index = unframed(rest, file)
    table = rest.read(8 * sum(index["bounds"]))
    if zlib.crc32(table) != index["checksum"]:
        raise DataError(f"{file} is damaged in its index: {again}")
    starts = np.concatenate([[0], np.cumsum(index["bounds"])]).astype(np.int64)
    sizes = [tuple(size) for size in index["sizes"]]
    return description, Index(tuple(index["names"]), sizes, starts, np.frombuffer(table, "<u8"))


def unframed(file: BinaryIO, name: Path | str) -> dict[str, Any]:
    """The content that `framed` wrote."""
    fixed = file.read(8)
    length, checksum = struct.unpack("<II", fixed) if len(fixed) == 8 else (0, None)
    text = file.read(length)
    if zlib.crc32(text) != checksum:
        raise DataError(f"{name} is damaged: copy it again, or pack this split again")
    return json.loads(text)
