"""Tests of PNG windows: OpenCV's pixels for every way to write a PNG, and no damage unnoticed."""

import random
import struct
import threading
import zlib
from functools import partial
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules import DataError
from datamodules.labels import LabelSet
from datamodules.reading import png
from datamodules.reading.decoding import read_image, read_label
from datamodules.reading.sources import Files
from tests.support import trees

pytest.importorskip("imagecodecs")

SIZES = [(1, 1), (7, 5), (96, 64), (33, 300)]


def predicted(row: np.ndarray, above: np.ndarray, how: int, channels: int) -> np.ndarray:
    """What PNG's five ways expect of each byte, by the words of its specification."""
    left, above_left = (
        np.concatenate([np.zeros(channels, int), each[:-channels]]) for each in (row, above)
    )
    if how == 4:
        guess = left + above - above_left
        away = np.abs(np.stack([guess - left, guess - above, guess - above_left]))
        return np.choose(away.argmin(0), [left, above, above_left])  # the first of equals
    return [np.zeros_like(row), left, above, (left + above) // 2][how]


def written(
    pixels: np.ndarray, how: list[int], *, parts: int = 1, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG whose rows are predicted in these ways, one after the other, in so many IDAT chunks."""
    height, width, channels = (*pixels.shape, 1)[:3]
    rows = pixels.reshape(height, -1).astype(int)
    aboves = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    content = b"".join(
        bytes([how[at % len(how)]])
        + ((row - predicted(row, above, how[at % len(how)], channels)) % 256)
        .astype(np.uint8)
        .tobytes()
        for at, (row, above) in enumerate(zip(rows, aboves))
    )
    packed = zlib.compress(content)
    edges = np.linspace(0, len(packed), parts + 1).astype(int)
    head = chunk(
        b"IHDR", struct.pack(">2I5B", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    )
    data = b"".join(chunk(b"IDAT", packed[begin:end]) for begin, end in pairwise(edges))
    return png.SIGNATURE + head + before + data + chunk(b"IEND", b"") + after


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def picture(size: tuple[int, int], channels: int, seed: int = 0) -> np.ndarray:
    """Noise on a ramp, so that every way to predict has both small and large differences."""
    noise = np.random.default_rng(seed).integers(0, 60, (*size, channels))
    ramp = np.add.outer(np.arange(size[0]) * 3, np.arange(size[1]) * 2)[..., None]
    return ((noise + ramp) % 256).astype(np.uint8).squeeze(2 if channels == 1 else ())


def boxes(size: tuple[int, int], count: int) -> list[tuple[int, int, int, int]]:
    rng, (height, width) = random.Random(0), size
    corners = [(rng.randrange(height), rng.randrange(width)) for _ in range(count)]
    return [(0, 0, height, width)] + [
        (top, left, rng.randint(top + 1, height), rng.randint(left + 1, width))
        for top, left in corners
    ]


def by_opencv(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", [[0], [1], [2], [3], [4], [4, 0, 2, 1, 3]], ids=str)
def test_every_window_is_what_opencv_decodes(how: list[int], channels: int) -> None:
    for size in SIZES:
        pixels = picture(size, channels)
        data = written(pixels, how, parts=3)
        assert np.array_equal(by_opencv(data), pixels)
        for top, left, bottom, right in boxes(size, 10):
            assert np.array_equal(
                png.window(data, (top, left, bottom, right)), pixels[top:bottom, left:right]
            )
        assert np.array_equal(png.window(data), pixels)


def test_what_stands_beside_the_pixels_changes_nothing() -> None:
    pixels = picture((20, 30), 3)
    notes = (
        chunk(b"gAMA", struct.pack(">I", 45455))
        + chunk(b"tRNS", struct.pack(">3H", *map(int, pixels[3, 3])))
        + chunk(b"tEXt", b"a\0b")
    )
    for data in (
        written(pixels, [4], before=notes),
        written(pixels, [4], after=b"left over"),
        written(pixels, [4], parts=40),
    ):
        assert np.array_equal(png.window(data, (2, 3, 18, 25)), pixels[2:18, 3:25])


def test_pictures_for_other_decoders_are_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = written(picture((20, 30), 3), [4])
    turned = written(picture((20, 30), 3), [4], before=chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0"))
    others = [
        cv2.imencode(".png", np.zeros(shape, kind))[1].tobytes()
        for shape, kind in (((9, 9, 4), np.uint8), ((9, 9), np.uint16))
    ]
    interlaced = plain[:28] + b"\x01" + plain[29:]
    wide = written(np.zeros((1, 21845, 3), np.uint8), [0])
    assert [png.window(data) for data in (turned, interlaced, wide, *others)] == [None] * 5
    assert (
        png.window(plain) is not None
        and png.window(written(np.zeros((1, 21844, 3), np.uint8), [0])) is not None
    )
    monkeypatch.setattr(png, "LARGEST", 20 * 91 - 1)
    assert png.window(plain) is None
    monkeypatch.undo()
    monkeypatch.setattr(png, "codecs", lambda: None)
    assert png.window(plain) is None


def with_palette(ids: np.ndarray) -> bytes:
    out = BytesIO()
    drawn = Image.fromarray(ids, "L")
    drawn.putpalette(list(range(256)) * 3)
    drawn.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("quick", [True, False], ids=["imagecodecs", "without"])
@pytest.mark.parametrize(
    "read, channels, palette",
    [(read_image, 3, False), (read_label, 1, False), (read_label, 1, True)],
)
def test_no_flipped_bit_and_no_missing_byte_goes_unnoticed(
    read, channels: int, palette: bool, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not quick:
        monkeypatch.setattr(png, "codecs", lambda: None)
    pixels = picture((6, 5), channels) % 9
    data = with_palette(pixels) if palette else written(pixels, [4, 1], parts=2)
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            with pytest.raises(DataError, match="scan"):
                read("scan", read=lambda path, count=-1, given=bytes(changed): given)
        with pytest.raises(DataError, match="scan"):
            read("scan", read=lambda path, count=-1, given=data[:place]: given or b"\0")
    assert np.array_equal(read("scan", read=lambda path, count=-1: data), pixels)


def test_a_stream_that_holds_more_or_less_than_the_header_says_is_damaged() -> None:
    data = written(picture((6, 5), 3), [4])
    for height in (5, 7):
        head = struct.pack(">2I5B", 5, height, 8, 2, 0, 0, 0)
        with pytest.raises(png.Damaged):
            png.window(png.SIGNATURE + chunk(b"IHDR", head) + data[33:])


@pytest.mark.parametrize(("depth", "kind"), [(8, 0), (8, 2), (8, 3), (1, 0)])
@pytest.mark.parametrize("side", [100_000, 2**31 - 1])
def test_a_header_that_says_more_than_there_can_be_is_refused_in_a_sentence(
    side: int, depth: int, kind: int
) -> None:
    head = chunk(b"IHDR", struct.pack(">2I5B", side, side, depth, kind, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(range(6))) if kind == 3 else b""
    data = (
        png.SIGNATURE
        + head
        + palette
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )
    for read in (read_image, partial(read_label, colored=True)):
        with pytest.raises(DataError, match="scan is cut short or damaged"):
            read("scan", read=lambda path, count=-1: data)


def test_threads_do_not_disturb_each_other() -> None:
    pictures = [picture((80 + number, 90), 3, number) for number in range(4)]
    files, wrong = [written(pixels, [4, 2]) for pixels in pictures], []

    def work(number: int) -> None:
        for turn in range(60):
            top = (turn * 7) % 40
            if not np.array_equal(
                png.window(files[number], (top, 5, 80, 60)), pictures[number][top:80, 5:60]
            ):
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_files_give_the_same_windows_with_it_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, label = picture((40, 60), 3), picture((40, 60), 1) % 3
    pair = trees.save(tmp_path / "image.png", image), trees.save(tmp_path / "label.png", label)
    files = Files([pair], LabelSet(("a", "b", "c"), ((0, 0, 0), (9, 0, 0), (0, 9, 0)), (0, 1, 2)))
    fast = [files.window(0, box) for box in boxes((40, 60), 8)]
    monkeypatch.setattr(png, "codecs", lambda: None)
    for (found, ids), box in zip(fast, boxes((40, 60), 8)):
        plain, numbers = files.window(0, box)
        assert (
            np.array_equal(found, plain)
            and np.array_equal(ids, numbers)
            and found.dtype == ids.dtype == np.uint8
        )
