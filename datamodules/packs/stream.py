"""Packs in an object store: a run takes an image from s3:// or gs:// when its turn comes, and keeps what fits into `data.cache`.

A stream is a folder that litdata writes and reads, `<data set>-<split>.stream`; beside a run it may also lie on a local disk. Its item 0 is
b"SEGSTRM1" and what there is (JSON, framed as in a pack); item 1 + n is the record of image n, byte for byte that of its pack.

Of litdata only two things are used: writing items, and reading one by its number. Its sampling, state and cache are not. The order is that
of crops.py, so that a run resumes exactly. The cache is one file per image and never takes one back: epochs that read every image once in
a new order find most in a cache that stays as it is. litdata 0.2.76 deletes whole chunks under a budget, and, asked for one of them again,
may wait half a minute until it downloads it.
"""

import hashlib
import mmap
import os
import shutil
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from datamodules import DataError
from datamodules.labels import LabelSet
from datamodules.packs.format import HEAD, Index, Pack, framed, unframed
from datamodules.reading.decoding import Box, Size
from datamodules.reading.sources import Pair

START = b"SEGSTRM1"
VERSION = 1
STORES = ("s3://", "gs://")  # litdata reads parts of files there; of others it copies whole chunks
CHUNK = 64 << 20  # bytes; an image is read without the rest of its chunk
PAUSES = (1, 4, 16)  # seconds before an image is asked for again
OPENING = (
    threading.Lock()
)  # litdata's names of files half copied are one process's, not one thread's
Bytes = bytes | mmap.mmap


def litdata() -> Any:
    try:
        import litdata
    except ImportError:
        raise DataError("streams need litdata: pip install 'segmodels[stream]'") from None
    return litdata


def client(place: str) -> dict[str, Any]:
    """How the store's client is made; credentials and endpoints come from where that client always looks for them."""
    if place.startswith("gs://"):
        try:
            import google.cloud.storage  # noqa: F401
        except ImportError:
            raise DataError(
                f"{place} needs google-cloud-storage: pip install google-cloud-storage"
            ) from None
    if not place.startswith("s3://"):
        return {}
    from botocore.config import Config

    return {
        "config": Config(retries={"max_attempts": 5, "mode": "standard"}, connect_timeout=10)
    }  # litdata's own 1000 attempts take minutes


def address(root: str | Path, stem: str) -> str | None:
    """Of a split's stream below root; None where root is a folder without one."""
    if "://" not in str(root):
        folder = Path(root).expanduser() / f"{stem}.stream"
        return str(folder) if folder.is_dir() else None
    if not str(root).startswith(STORES):
        raise DataError(
            f"data.root={root} is no address that can be streamed: give one of {' or '.join(STORES)}, or a folder"
        )
    return f"{str(root).rstrip('/')}/{stem}.stream"


# --- writing


def write(
    pack: Pack,
    place: Path,
    before: int = 0,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> int:
    """A pack as a stream, whose bytes are returned. `before`: those of the streams that go into a cache before this one."""
    litdata()
    from litdata.streaming import Cache

    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    lengths = [len(pack.record(number)) for number in range(len(pack))]
    checksums = [zlib.crc32(pack.record(number)) for number in range(len(pack))]
    content = {
        "version": VERSION,
        "pack": pack.description,
        "names": pack.names,
        "sizes": pack.index.sizes,
        "before": before,
    }
    chunks = Cache(str(partial), chunk_bytes=CHUNK)
    chunks[0] = START + framed(content | {"lengths": lengths, "checksums": checksums})
    for number in progress(range(len(pack))):
        chunks[1 + number] = bytes(pack.record(number))
    chunks.done()
    chunks.merge()
    partial.replace(place)
    return sum(lengths)


# --- reading


class Record(Pack):
    """A record as a pack of one image, wherever its bytes are."""

    def __init__(self, content: Bytes, place: str, labels: LabelSet | None, form: str) -> None:
        _, named, height, width, count, *_ = HEAD.unpack_from(content)
        name, first = content[HEAD.size : HEAD.size + named].decode(), HEAD.size + named + 4 * count
        lengths = np.frombuffer(content, "<u4", count, HEAD.size + named).astype(np.uint64)
        bounds = first + np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
        self.file, self.labels, self.form, self.names = place, labels, form, (name,)
        self.index = Index(self.names, [(height, width)], np.array([0, len(bounds)]), bounds)
        self.mapped = content


class Stream:
    """A stream as a source of pixels. A reader is one thread's at a time, because litdata's has one chunk open, and one process's, because
    the client of a store does not survive a fork.

    The first images are kept in `cache`, as many as `gigabytes` hold: every process knows which without asking another.
    """

    def __init__(
        self,
        place: str,
        labels: LabelSet | None = None,
        cache: str | Path | None = None,
        gigabytes: float = 50.0,
    ) -> None:
        self.place, self.labels = place, labels
        self.cache = Path(cache).expanduser() if cache else None
        self.free, self.process = deque(), 0
        head = self.item(0, pauses=())
        content = described(head, place)
        self.description, self.names = content["pack"], tuple(content["names"])
        self.sizes: list[Size] = [tuple(size) for size in content["sizes"]]
        self.lengths, self.checksums = content["lengths"], content["checksums"]
        self.keeps = 0
        if self.cache:
            ends = content["before"] + np.cumsum(self.lengths)
            self.keeps = int(np.searchsorted(ends, gigabytes * 1e9, side="right"))
            self.kept = self.cache / hashlib.sha256(head).hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"free": deque(), "process": 0}

    def __len__(self) -> int:
        return len(self.names)

    def size(self, index: int) -> Size:
        return self.sizes[index]

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        return self.read(index, lambda record: record.label(0, box))

    def window(self, index: int, box: Box | None = None) -> Pair:
        return self.read(index, lambda record: record.window(0, box))

    def read(self, index: int, how: Callable[[Record], Any]) -> Any:
        if held := self.held(index):
            try:
                return how(self.opened(held))
            except DataError:  # damaged in the cache, perhaps: what the store has decides
                self.file(index).unlink(missing_ok=True)
        content = self.item(1 + index)
        if len(content) != self.lengths[index] or zlib.crc32(content) != self.checksums[index]:
            raise DataError(
                f"{self.place} was changed or is damaged at {self.names[index]}: start the run again, or stream this split anew"
            )
        if index < self.keeps:
            self.keep(index, content)
        return how(self.opened(content))

    def opened(self, content: Bytes) -> Record:
        return Record(content, self.place, self.labels, self.description["form"])

    # --- the store

    def item(self, number: int, pauses: Iterable[float] = PAUSES) -> bytes:
        """One of the stream's items; a connection that breaks is made anew."""
        litdata()
        for pause in (*pauses, None):
            try:
                reader = self.reader()
                found = reader[number]
                found = (
                    bytes(found) if isinstance(found, memoryview) else found
                )  # litdata closes the chunk that a view shows
                self.free.append(reader)
                return found
            except DataError:
                raise
            except Exception as error:  # each store's client has errors of its own
                if pause is None:
                    why = " ".join(str(error).split())[:200] or type(error).__name__
                    raise DataError(
                        f"{self.place} cannot be read ({why}): check the address, the connection and the store's credentials"
                    ) from None
                time.sleep(pause)
        raise AssertionError("unreachable")

    def reader(self) -> Any:
        """One that no other thread has."""
        if self.process != os.getpid():
            self.free, self.process = deque(), os.getpid()
        try:
            return self.free.pop()
        except IndexError:
            with OPENING:
                folder = (
                    str(self.cache / "litdata") if self.cache else None
                )  # it keeps a copy of the index there
                return litdata().StreamingDataset(
                    self.place, folder, storage_options=client(self.place)
                )

    # --- the cache

    def file(self, index: int) -> Path:
        return self.kept / f"{index:06d}.record"

    def held(self, index: int) -> Bytes | None:
        """The image's record, if the cache has it."""
        if index >= self.keeps:
            return None
        try:
            with self.file(index).open("rb") as file:
                if os.fstat(file.fileno()).st_size == self.lengths[index]:
                    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError:  # not there yet; if it cannot be, `keep` says so
            pass
        return None

    def keep(self, index: int, content: bytes) -> None:
        """In one move, so that no other process sees a part of it."""
        try:
            self.kept.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.kept, prefix=".", delete=False) as file:
                try:
                    file.write(content)
                    file.flush()
                    os.replace(file.name, self.file(index))
                except OSError:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            raise DataError(
                f"the cache {self.kept} cannot be written ({error.strerror}): "
                "give data.cache another folder, or data.cache_gb what the disk has room for"
            ) from None


def described(head: Any, place: str) -> dict[str, Any]:
    """What item 0 says."""
    again = "write the stream again with experiments/pack.py --stream"
    if not isinstance(head, bytes) or head[: len(START) - 1] != START[:-1]:
        raise DataError(f"{place} is litdata's, but no stream of images and labels: {again}")
    if head[: len(START)] != START:
        raise DataError(
            f"{place} is a stream of another version than {VERSION}: {again}, or read it with the version that wrote it"
        )
    content = unframed(BytesIO(head[len(START) :]), place)
    if content["version"] != VERSION:
        raise DataError(
            f"{place} is a stream of version {content['version']}, and this reads {VERSION}: {again}"
        )
    return content
