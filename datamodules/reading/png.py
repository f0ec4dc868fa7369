"""A window of a PNG with little more work than the window needs, where imagecodecs is installed.

A PNG is one compressed stream, in which each byte is the difference to what its neighbors on the
left and above let expect. All of it must be inflated (libdeflate), but expectations need only be
added up (libspng) down to the window's last row and up to its right edge: that part is handed over
as a smaller PNG, stored without compression. Every checksum of the file is compared on the way.
"""

import struct
import threading
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3}  # by PNG's number of the kind: gray, RGB
TURNED, END = b"eXIf", b"IEND"  # the first may say that the picture is to be turned
LONGEST = 65535  # bytes of a stored block, which takes one row
LARGEST = 1 << 26  # bytes of pixels: what a larger picture needs is not kept by every thread
OWN = threading.local()  # what each thread keeps


class Damaged(Exception):
    """The file is not what was written."""


@cache
def codecs() -> Any | None:
    try:
        import imagecodecs

        return imagecodecs if imagecodecs.SPNG.available and imagecodecs.DEFLATE.available else None
    except ImportError:
        return None


def window(data: bytes, box: tuple[int, int, int, int] | None = None) -> np.ndarray | None:
    """Its uint8 pixels, (h, w, 3) or of a gray picture (h, w); None if this PNG is not for here.

    Raises Damaged.
    """
    eight_bits, not_interlaced = data[24:25] == b"\x08", data[28:29] == b"\x00"
    if codecs() is None or not eight_bits or data[25] not in CHANNELS or not not_interlaced:
        return None
    width, height = struct.unpack_from(">2I", data, 16)
    channels = CHANNELS[data[25]]
    row = 1 + channels * width  # each begins with the number of how it is predicted
    if row > LONGEST or height * row > LARGEST:
        return None
    try:
        kinds, streams = zip(*chunks(data))
        if TURNED in kinds:
            return None
        packed = b"".join(stream for kind, stream in zip(kinds, streams) if kind == b"IDAT")
        rows = room("rows", height * row)
        if len(codecs().deflate_decode(packed, out=rows)) != len(rows):
            raise Damaged
        top, left, bottom, right = box or (0, 0, height, width)
        smaller = stored(rows.reshape(height, row)[:bottom, : 1 + channels * right], channels)
        return codecs().spng_decode(smaller)[top:, left:]
    # imagecodecs' errors are RuntimeErrors
    except (ValueError, RuntimeError, struct.error, IndexError) as problem:
        raise Damaged from problem


def chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(kind, content) of each.

    Needs no imagecodecs: other decoders overlook wrong checksums, so it stands before them too.
    """
    place = len(SIGNATURE)
    view = memoryview(data)
    checksum = codecs().deflate_crc32 if codecs() else zlib.crc32
    while place < len(data):
        end = place + 8 + int.from_bytes(view[place : place + 4], "big")
        if checksum(view[place + 4 : end]).to_bytes(4, "big") != view[end : end + 4]:
            raise Damaged
        yield data[place + 4 : place + 8], view[place + 8 : end]
        if data[place + 4 : place + 8] == END:  # what follows is nobody's
            return
        place = end + 4
    raise Damaged


def stored(rows: np.ndarray, channels: int) -> np.ndarray:
    """A PNG of these predicted rows, each a block of its own that is not compressed.

    It lasts until the thread's next one.
    """
    height, width = len(rows), (rows.shape[1] - 1) // channels
    kind = next(number for number, count in CHANNELS.items() if count == channels)
    before = SIGNATURE + chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, kind, 0, 0, 0))
    size = height * (5 + rows.shape[1])
    before += struct.pack(">I", size + 6) + b"IDAT" + b"\x78\x01"
    after = struct.pack(">I", adler(rows))
    made = room("made", len(before) + size + len(after) + 4 + 12)
    made[: len(before)] = np.frombuffer(before, np.uint8)
    blocks = made[len(before) :][:size].reshape(height, 5 + rows.shape[1])
    length = rows.shape[1]
    blocks[:, :5] = np.frombuffer(struct.pack("<BHH", 0, length, length ^ 0xFFFF), np.uint8)
    blocks[-1, 0] = 1  # the last one
    blocks[:, 5:] = rows
    end = len(before) + size + len(after)
    made[len(before) + size : end] = np.frombuffer(after, np.uint8)
    checksum = codecs().deflate_crc32(made[len(before) - 6 : end])
    made[end:] = np.frombuffer(struct.pack(">I", checksum) + chunk(END, b""), np.uint8)
    return made


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = codecs().deflate_crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def adler(rows: np.ndarray) -> int:
    checksum = codecs().deflate_adler32
    if rows.flags.c_contiguous:
        return checksum(rows.reshape(-1))
    value = 1
    for row in rows:
        value = checksum(row, value)
    return value


def room(name: str, count: int) -> np.ndarray:
    """Memory of this thread's own, used again and again: fresh memory costs as much as writing
    it."""
    if len(getattr(OWN, name, ())) < count:
        setattr(OWN, name, np.empty(count, np.uint8))
    return getattr(OWN, name)[:count]
