"""Tests of read_image.py: pixels are those of a viewer, 16 bits are rounded to 8, refusals."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from datamodules.labels import CITYSCAPES
from experiments.command_line.errors import UserError
from experiments.prediction.read_image import (
    Unreadable,
    check_supported,
    image_size,
    left_out,
    or_unreadable,
    read_image,
    refusal,
)
from tests.support.pictures import noise, picture

PALETTE = np.array(CITYSCAPES.palette, np.uint8)


def deep_values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)


def rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(values.astype(float) / 257).astype(np.uint8)


# --- what is seen

# what turns a picture upright, by its EXIF note (TIFF 6.0, tag 274)
TURNS = {
    1: lambda pixels: pixels, 2: lambda pixels: pixels[:, ::-1], 3: lambda pixels: pixels[::-1, ::-1], 4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1), 6: lambda pixels: np.rot90(pixels, -1), 7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}  # fmt: skip


@pytest.mark.parametrize("note", TURNS)
def test_a_photograph_is_turned_as_its_camera_says(note: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = note
    picture(tmp_path / "photo.jpg", noise(40, 60), exif=exif)
    with Image.open(tmp_path / "photo.jpg") as image:
        stored = np.asarray(image)
    assert np.array_equal(read_image(tmp_path / "photo.jpg"), TURNS[note](stored))


def test_gray_transparent_and_palette_pictures_are_what_a_viewer_shows(tmp_path: Path) -> None:
    rgb, gray = noise(20, 30), noise(20, 30)[..., 0]
    alpha = np.full((20, 30, 1), 77, np.uint8)
    kinds = {
        "gray": (gray, gray[..., None].repeat(3, 2)),
        "gray and alpha": (np.dstack([gray, alpha]), gray[..., None].repeat(3, 2)),
        "rgba": (np.dstack([rgb, alpha]), rgb),
        "bilevel": (
            Image.fromarray(gray > 99),
            np.where(gray > 99, 255, 0)[..., None].repeat(3, 2),
        ),
    }
    for name, (pixels, expected) in kinds.items():
        picture(tmp_path / f"{name}.png", pixels)
        assert np.array_equal(read_image(tmp_path / f"{name}.png"), expected), name
    indices = np.arange(600, dtype=np.uint8).reshape(20, 30) % 19
    paletted = Image.fromarray(indices)
    paletted.putpalette(PALETTE.flatten().tolist())
    picture(tmp_path / "palette.png", paletted)
    assert np.array_equal(read_image(tmp_path / "palette.png"), PALETTE[indices])


def test_a_transparent_palette_and_print_colors_are_read(tmp_path: Path) -> None:
    indices = np.arange(600, dtype=np.uint8).reshape(20, 30) % 19
    paletted = Image.fromarray(indices)
    paletted.putpalette(PALETTE.flatten().tolist())
    paletted.save(tmp_path / "palette.png", transparency=bytes([0, 128, 255]))
    assert np.array_equal(read_image(tmp_path / "palette.png"), PALETTE[indices])
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (100, 150, 200)]
    bars = np.array(colors, np.uint8).repeat(16, 0)[None].repeat(32, 0)
    Image.fromarray(bars).convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "print.jpg")[16, 8::16].astype(int) - colors).max() <= 4


@pytest.mark.parametrize("name", ["rgb.png", "rgba.png", "rgb.tif", "gray.png", "gray.tif"])
def test_16_bits_are_rounded_to_8(name: str, tmp_path: Path) -> None:
    values = deep_values(256, 256, {"rgb": 3, "rgba": 4, "gray": 1}[name.partition(".")[0]])
    values[..., 0] = np.arange(65536).reshape(256, 256)  # each value once
    cv2.imwrite(
        str(tmp_path / name),
        values[..., [2, 1, 0, 3][: values.shape[2]]] if values.shape[2] > 1 else values,
    )
    assert np.array_equal(
        read_image(tmp_path / name), np.broadcast_to(rounded(values[..., :3]), (256, 256, 3))
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_16_bits_of_gray_and_alpha_are_read(tmp_path: Path) -> None:
    """No library here writes such a PNG."""
    values = deep_values(5, 7, 2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 5, 16, 4, 0, 0, 0))
    file = tmp_path / "gray and alpha.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    assert np.array_equal(read_image(file), rounded(values[..., :1]).repeat(3, 2))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_turned_upright(suffix: str, tmp_path: Path) -> None:
    exif, values = Image.Exif(), deep_values(40, 60)
    exif[274] = 6
    Image.fromarray(values).save(tmp_path / f"turned.{suffix}", exif=exif)
    assert np.array_equal(
        read_image(tmp_path / f"turned.{suffix}")[..., 0], np.rot90(rounded(values), -1)
    )


@pytest.mark.parametrize(("note", "quarters"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_16_bits_of_color_are_turned_upright(note: int, quarters: int, tmp_path: Path) -> None:
    values = deep_values(40, 60, 3)
    cv2.imwrite(str(tmp_path / "plain.png"), values[..., ::-1])
    data = (tmp_path / "plain.png").read_bytes()
    exif = Image.Exif()
    exif[274] = note
    noted = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "turned.png").write_bytes(data[:33] + noted + data[33:])  # after the header
    upright = np.rot90(rounded(values), quarters)
    assert np.array_equal(read_image(tmp_path / "turned.png"), upright)


def test_16_bits_that_are_damaged_are_not_black(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "street.png"), deep_values(40, 60, 3))
    data = bytearray((tmp_path / "street.png").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "street.png").write_bytes(data)
    with pytest.raises(Unreadable, match=r"street\.png \(.+\)"):
        read_image(tmp_path / "street.png")


# --- what is not offered


def frames(count: int, size: tuple[int, int] = (20, 30)) -> list[Image.Image]:
    return [Image.fromarray(noise(*size, seed=number)) for number in range(count)]


def test_animations_and_pages_are_refused_and_a_photographs_preview_is_not(tmp_path: Path) -> None:
    first, *others = frames(3)
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        first.save(tmp_path / name, save_all=True, append_images=others)
        for read in (read_image, image_size):
            with pytest.raises(Unreadable, match="it holds 3 pictures, an animation or pages"):
                read(tmp_path / name)
    first.save(tmp_path / "alone.gif")
    assert read_image(tmp_path / "alone.gif").shape == (20, 30, 3)
    first.save(tmp_path / "phone.mpo", save_all=True, append_images=others)
    assert image_size(tmp_path / "phone.mpo") == (30, 20) and read_image(
        tmp_path / "phone.mpo"
    ).shape == (
        20,
        30,
        3,
    )


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_other_pixels_than_of_8_or_16_bits_are_refused(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 5)).save(tmp_path / "street.tif")
    for read in (read_image, image_size):
        with pytest.raises(
            Unreadable, match=f"of another kind than 8 or 16 bits of gray or color, mode {mode}"
        ):
            read(tmp_path / "street.tif")


# --- what headers and ends tell

WRITTEN = {
    "png": {},
    "jpg": {},
    "webp": {"lossless": True},
    "tif": {},
    "tiff": {"compression": "tiff_lzw"},
    "bmp": {},
}


@pytest.fixture
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda image: pytest.fail("pixels were decoded")
    )


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_whole_image_is_known_by_its_header_and_end(
    suffix: str, no_pixels: None, tmp_path: Path
) -> None:
    file = tmp_path / f"street.{suffix}"
    frames(1, (40, 60))[0].save(file, **WRITTEN[suffix])
    assert image_size(file) == (60, 40)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_picture_cut_anywhere_is_either_whole_or_refused(suffix: str, tmp_path: Path) -> None:
    frames(1)[0].save(tmp_path / f"whole.{suffix}", **WRITTEN[suffix])
    data, full = (
        (tmp_path / f"whole.{suffix}").read_bytes(),
        read_image(tmp_path / f"whole.{suffix}"),
    )
    file = tmp_path / f"cut.{suffix}"
    for length in range(0, len(data), 7):
        file.write_bytes(data[:length])
        size, image = or_unreadable(image_size)(file), or_unreadable(read_image)(file)
        if isinstance(size, Unreadable):
            assert str(size).startswith(f"{file} (")
        else:  # found before anything is predicted, never after
            assert np.array_equal(image, full), f"{suffix} cut to {length} of {len(data)} bytes"


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_what_stands_behind_an_image_does_no_harm(suffix: str, tmp_path: Path) -> None:
    """As behind the photographs of some phones."""
    file = tmp_path / f"street.{suffix}"
    frames(1)[0].save(file)
    expected = read_image(file)
    file.write_bytes(file.read_bytes() + b"a film of the moment before")
    assert image_size(file) == (30, 20) and np.array_equal(read_image(file), expected)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_whatever_is_damaged_is_said_in_a_sentence_alone(suffix: str, tmp_path: Path) -> None:
    frames(1)[0].save(tmp_path / f"whole.{suffix}", **WRITTEN[suffix])
    data, random = (tmp_path / f"whole.{suffix}").read_bytes(), np.random.default_rng(0)
    file = tmp_path / f"damaged.{suffix}"
    for _ in range(150):
        damaged = bytearray(data)
        for place in random.integers(0, min(len(data), 400), 3):
            damaged[place] = random.integers(256)
        file.write_bytes(damaged)
        for read in (image_size, read_image):
            try:
                read(file)
            except Unreadable as problem:
                assert "()" not in str(problem) and "\n" not in str(problem)


# --- what is said


def test_many_are_named_in_one_sentence(tmp_path: Path) -> None:
    bad = [Unreadable(f"{tmp_path / str(number)}.png (broken)") for number in range(13)]
    assert str(refusal(bad[:1])).startswith(
        f"1 image cannot be read: {tmp_path / '0.png'} (broken); convert to PNG"
    )
    said = str(refusal(bad))
    assert (
        said.startswith(f"13 images cannot be read: {tmp_path / '0.png'} (broken), ")
        and ", and 3 more; convert" in said
    )
    assert "9.png" in said and "10.png" not in said
    assert isinstance(left_out(bad, 99), UserError) and all(
        str(tmp_path / f"{number}.png") in str(left_out(bad, 99)) for number in range(13)
    )


def test_16_bits_of_cmyk_are_refused() -> None:
    """OpenCV, which reads 16 bits, would take them for other colors."""
    image = Image.new("CMYK", (2, 2))
    image.tile = [("raw", (0, 0, 2, 2), 0, ("CMYK;16L", 0, 1))]
    with pytest.raises(ValueError, match="mode CMYK"):
        check_supported(image)
