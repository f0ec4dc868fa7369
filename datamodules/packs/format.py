"""Packs: a split in one file, from which any window can be read without decoding the rest. Nothing
is lost: pixels and label numbers are those of the original files.

Two forms. "tiles" is small and fast: each image is cut into tiles of 128 x 256, each row of a tile
is stored as its difference from the row above, and zstd compresses what is left. "raw" is large and
faster: plain pixels, read through a memory map; each image's checksum is compared when it is first
read.

    a pack    8 bytes b"SEGPACK1" | description (JSON) | records, one per image
              | index (JSON + table) | where the index begins | b"SEGPACK."
    a record  HEAD | name | lengths of its blobs | blobs: image tiles row by row, then label tiles;
              or image, label

What is written is the same, byte for byte, however often writing was interrupted: an image is one
record, and a torn record is cut off.
"""

import json
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from datamodules.errors import DataError
from datamodules.labels import LabelSet
from datamodules.reading.decoding import Box, Pair, Size, inside
from datamodules.reading.sources import Source

START, END, RECORD = b"SEGPACK1", b"SEGPACK.", b"RECO"
VERSION = 1
BEGINNING = 1 << 16  # bytes that hold the description
TILE = (128, 256)
LEVEL = 9  # of zstd: writing is slower and reading is not
# bytes; shorter repetitions in photographs are chance: without them reading is faster, and the file
# no larger
MATCH = 6
# magic, bytes of the name, height, width, number of blobs, checksum and length of what follows
HEAD = struct.Struct("<4sHIIIIQ")
Form = Literal["tiles", "raw"]


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
    """In place: rows of (bands, rows, w, 3) that are differences from the row above become pixels,
    all bands at once.
    """
    for row in range(1, changes.shape[1]):
        changes[:, row] += changes[:, row - 1]


def decoded(blobs: Sequence[memoryview], shape: tuple[int, int, int], box: Box) -> np.ndarray:
    """The pixels (h, w, channels) in the box, out of the tiles that it touches."""
    height, width, channels = shape
    top, left, bottom, right = box
    rows = range(top // TILE[0], -(-bottom // TILE[0]))
    columns = range(left // TILE[1], -(-right // TILE[1]))
    tiles_across = -(-width // TILE[1])
    out = np.empty((len(rows) * TILE[0], len(columns) * TILE[1], channels), np.uint8)
    decompressor = zstd().ZstdDecompressor()
    for (down, row), (across, column) in product(enumerate(rows), enumerate(columns)):
        tall = min(TILE[0], height - row * TILE[0])
        wide = min(TILE[1], width - column * TILE[1])
        blob = blobs[row * tiles_across + column]
        # It must announce so many bytes: a damaged number might ask for any memory.
        if zstd().frame_content_size(blob) != tall * wide * channels:
            raise zstd().ZstdError
        tile = np.frombuffer(decompressor.decompress(blob), np.uint8)
        place = out[down * TILE[0] :, across * TILE[1] :]
        place[:tall, :wide] = tile.reshape(tall, wide, channels)
    left -= columns.start * TILE[1]
    right -= columns.start * TILE[1]
    out = out[:, left:right]
    if channels == 3:
        restore(out.reshape(len(rows), TILE[0], right - left, channels))
    above = rows.start * TILE[0]
    return out[top - above : bottom - above]


# --- writing


class Place(NamedTuple):
    """Where an image's record is in the file: its blobs begin and end at `bounds`, the last of
    which ends the record."""

    name: str
    size: Size
    bounds: np.ndarray

    @property
    def end(self) -> int:
        return int(self.bounds[-1])

    @property
    def span(self) -> tuple[int, int]:
        """The start and the length of the record."""
        lengths = 4 * (len(self.bounds) - 1)
        start = int(self.bounds[0]) - lengths - len(self.name.encode()) - HEAD.size
        return start, self.end - start


def head_of(name: str, size: Size, blobs: int, body: bytes | memoryview) -> bytes:
    return HEAD.pack(RECORD, len(name.encode()), *size, blobs, zlib.crc32(body), len(body))


def record(name: str, image: np.ndarray, label: np.ndarray, form: Form) -> bytes:
    blobs = encoded(image, label, form)
    lengths = np.array([len(blob) for blob in blobs], "<u4").tobytes()
    body = b"".join([name.encode(), lengths, *blobs])
    return head_of(name, label.shape, len(blobs), body) + body


def place_of(name: str, data: bytes | memoryview, start: int) -> Place | None:
    """The place of the record that `data` begins with; None unless it is this image's, and whole."""
    if len(data) < HEAD.size:
        return None
    _, named, height, width, count, _, length = HEAD.unpack_from(data)
    body = data[HEAD.size : HEAD.size + length]
    head = head_of(name, (height, width), count, body)
    if data[: HEAD.size] != head or body[:named] != name.encode():
        return None
    lengths = np.frombuffer(body, "<u4", count, named).astype(np.uint64)
    first = start + HEAD.size + named + 4 * count
    bounds = first + np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
    return Place(name, (height, width), bounds)


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
    about = {"version": VERSION, "tile": list(TILE), "images": len(names)}
    head = START + framed(description | about)
    places = written_places(partial, head, names) if partial.exists() else []
    if places:
        os.truncate(partial, places[-1].end)
    else:
        partial.write_bytes(head)
    with partial.open("ab") as out:
        for each in records(len(places)):
            places.append(place_of(names[len(places)], each, out.tell()))
            out.write(each)
        begins = out.tell()
        out.write(framed_index(places) + struct.pack("<Q", begins) + END)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


def written_places(partial: Path, head: bytes, names: Sequence[str]) -> list[Place]:
    """The whole records of an interrupted writing, if it was of the same images and form."""
    file = LocalFile(partial)
    places: list[Place] = []
    if file.read(0, len(head)) != head:
        return places
    start = len(head)
    for name in names:
        place = place_of(name, file.read(start, file.size), start)
        if place is None:
            break
        places.append(place)
        start = place.end
    return places


def framed_index(places: Sequence[Place]) -> bytes:
    table = b"".join(place.bounds.astype("<u8").tobytes() for place in places)
    index = {
        "names": [place.name for place in places],
        "sizes": [place.size for place in places],
        "bounds": [len(place.bounds) for place in places],
        "checksum": zlib.crc32(table),
    }
    return framed(index) + table


def framed(content: dict[str, Any]) -> bytes:
    """JSON with its length and checksum before it."""
    text = json.dumps(content, sort_keys=True).encode()
    return struct.pack("<II", len(text), zlib.crc32(text)) + text


def unframed(data: memoryview, file: Path | str) -> tuple[dict[str, Any], memoryview]:
    """The content that `framed` wrote, and what follows it."""
    begin = bytes(data[:8]).ljust(8, b"\xff")  # of too few bytes, no checksum is right
    length, checksum = struct.unpack("<II", begin)
    text = data[8 : 8 + length]
    if zlib.crc32(text) != checksum:
        raise DataError(f"{file} is damaged: copy it again, or pack this split again")
    return json.loads(bytes(text)), data[8 + length :]


# --- reading


class Reader(Protocol):
    """A file, wherever it is."""

    size: int

    def read(self, start: int, length: int) -> memoryview: ...


class LocalFile:
    """A file on a disk, read through a memory map that each process makes for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size

    def __reduce__(self) -> tuple[type["LocalFile"], tuple[Path]]:
        return LocalFile, (self.path,)

    @cached_property
    def mapped(self) -> memoryview:
        with self.path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def read(self, start: int, length: int) -> memoryview:
        return self.mapped[start : start + length] if self.size else memoryview(b"")


def opened(reader: Reader, file: Path | str) -> tuple[dict[str, Any], list[Place]]:
    """The description and the places of all images, both checked."""
    again = "pack this split again"
    start = reader.read(0, min(BEGINNING, reader.size))
    magic = bytes(start[: len(START)])
    if magic[:-1] != START[:-1]:
        raise DataError(f"{file} is not a pack: {again} with experiments/pack.py")
    if magic != START:
        raise DataError(
            f"{file} is a pack of another version than {VERSION}: {again}, "
            "or read it with the version that wrote it"
        )
    description, _ = unframed(start[len(START) :], file)
    begins, end = struct.unpack("<Q8s", reader.read(reader.size - 16, 16))
    if end != END:
        raise DataError(f"{file} is cut short: copy it again, or {again}")
    begins = min(begins, reader.size - 16)  # a damaged place may lie beyond the end
    index, rest = unframed(reader.read(begins, reader.size - 16 - begins), file)
    table = rest[: 8 * sum(index["bounds"])]
    if zlib.crc32(table) != index["checksum"]:
        raise DataError(f"{file} is damaged in its index: {again}")
    bounds = np.split(np.frombuffer(bytes(table), "<u8"), np.cumsum(index["bounds"])[:-1])
    return description, list(map(Place, index["names"], map(tuple, index["sizes"]), bounds))


class Pack(Source):
    """A pack as a source of pixels."""

    def __init__(
        self, file: Path | str, labels: LabelSet | None = None, reader: Reader | None = None
    ) -> None:
        self.file = file
        self.labels = labels
        try:
            self.reader = reader or LocalFile(Path(file))
            self.description, self.places = opened(self.reader, file)
        except OSError as error:
            raise DataError(
                f"{file} cannot be read ({error.strerror}): make it readable, or pack this "
                "split again"
            ) from None
        self.form = self.description["form"]
        self.names = tuple(place.name for place in self.places)
        self.whole: set[int] = set()  # records whose checksum was compared

    def size(self, index: int) -> Size:
        return self.places[index].size

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        return self.train_ids(index, self.record(index), box)

    def window(self, index: int, box: Box | None = None) -> Pair:
        record = self.record(index)
        return self.pixels(index, record, box, 3), self.train_ids(index, record, box)

    def train_ids(self, index: int, record: memoryview, box: Box | None) -> np.ndarray:
        numbers = self.pixels(index, record, box, 1)
        if self.labels is None:
            return numbers
        return self.labels.encode(numbers, f"{self.file} ({self.names[index]})")

    # --- an image's part of the file

    def record(self, index: int) -> memoryview:
        """The image's record. Each tile has a checksum; a raw record has one, compared once."""
        record = self.read(index)
        if self.form == "raw" and not self.intact_once(index, record):
            raise self.damaged(index)
        return record

    def read(self, index: int) -> memoryview:
        return self.reader.read(*self.places[index].span)

    def intact(self, index: int, record: memoryview) -> bool:
        """Whether the record's bytes are those that were written."""
        name, size, bounds = self.places[index]
        return record[: HEAD.size] == head_of(name, size, len(bounds) - 1, record[HEAD.size :])

    def intact_once(self, index: int, record: memoryview) -> bool:
        if index not in self.whole and self.intact(index, record):
            self.whole.add(index)
        return index in self.whole

    def damaged(self, index: int) -> DataError:
        return DataError(f"{self.file} is damaged in {self.names[index]}: pack this split again")

    def verify(self, indices: Iterable[int]) -> list[str]:
        """The names of those images whose bytes are not the ones that were written."""
        return [self.names[index] for index in indices if not self.intact(index, self.read(index))]

    # --- pixels of a record

    def pixels(self, index: int, record: memoryview, box: Box | None, channels: int) -> np.ndarray:
        """The image (h, w, 3) or the label's numbers (h, w) in the box."""
        place = self.places[index]
        bounds = place.bounds.astype(np.int64) - place.span[0]
        blobs = [record[begin:end] for begin, end in pairwise(bounds)]
        half = len(blobs) // 2
        blobs = blobs[:half] if channels == 3 else blobs[half:]
        shape = (*place.size, channels)
        if self.form == "raw":
            pixels = inside(np.frombuffer(blobs[0], np.uint8).reshape(shape), box)
        else:
            try:
                pixels = decoded(blobs, shape, box or (0, 0, *place.size))
            except zstd().ZstdError:
                raise self.damaged(index) from None
        return pixels if channels == 3 else pixels[..., 0]  # (h, w, 1) -> (h, w)
