"""Tests of packs and zips: the same pixels as the files, in any window.

Writing can be interrupted anywhere, and every kind of damage is named.
"""

import gc
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from datamodules import Cityscapes, DataError, Folder
from datamodules.labels import CITYSCAPES
from datamodules.packs import format
from datamodules.reading.zips import Zips
from datamodules.sampling.samples import Whole
from experiments import pack
from tests.support import trees
from tests.support.data import PAINTED, complaint
from tests.support.packs import SIZE, assert_same, packed, source, zipped
from tests.support.paths import ROOT
from tests.support.patience import until

pytest.importorskip("zstandard")


@pytest.fixture
def city(tmp_path: Path) -> Path:
    trees.cityscapes(tmp_path / "city", {"train": 5, "val": 3}, SIZE)
    return tmp_path / "city"


# --- the same pixels


@pytest.mark.parametrize("form", ["tiles", "raw"])
def test_a_pack_gives_every_window_of_the_files(form: str, city: Path, tmp_path: Path) -> None:
    folder = packed(city, tmp_path / "packs", "--form", form)
    found = source(folder)
    assert isinstance(found, format.Pack) and found.form == form
    assert_same(found, source(city))
    assert_same(pickle.loads(pickle.dumps(found)), source(city, "train"))
    assert_same(source(folder, "val"), source(city, "val"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_official_zips_are_read_as_they_are(method: int, city: Path, tmp_path: Path) -> None:
    out = zipped(city, tmp_path / "zips", method)
    found = source(out)
    assert_same(found, source(city))
    assert_same(pickle.loads(pickle.dumps(found)), source(city))
    assert_same(source(packed(out, tmp_path / "packs")), source(city))


def test_a_pack_keeps_the_numbers_of_the_files(city: Path, tmp_path: Path) -> None:
    """What a number means may change; the pack need not be written again."""
    files = source(city)
    plain = format.Pack(packed(city, tmp_path / "packs") / "cityscapes-train.pack")
    assert all(
        np.array_equal(plain.label(index), files.numbers(index)) for index in range(len(files))
    )


def test_masks_in_colors_are_packed_as_their_classes(tmp_path: Path) -> None:
    root = tmp_path / "painted"
    written = trees.folder(root, {"train": 2, "val": 1}, PAINTED, size=SIZE)
    colors = np.array([each["color"] for each in PAINTED], np.uint8)
    for name, (_, ids) in written.items():
        split, stem = name.split("/")
        trees.save(root / split / "masks" / f"{stem}.png", colors[ids])
    out = tmp_path / "packs"
    assert (
        pack.main(["--data", "folder", f"data.root={root}", "--out", str(out), "--workers", "1"])
        == 0
    )
    assert_same(Folder(out).open("train"), Folder(root).open("train"))


# --- writing


STUCK = """
import sys, time
from datamodules.packs import format
from experiments import pack
fast = format.record
format.record = lambda name, *given: time.sleep(600 * ("000003" in name)) or fast(name, *given)
pack.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_writing_that_was_killed_goes_on_and_writes_the_same_bytes(
    city: Path, tmp_path: Path
) -> None:
    whole = (packed(city, tmp_path / "whole") / "cityscapes-train.pack").read_bytes()
    out = tmp_path / "killed"
    words = ["--data", "cityscapes", f"data.root={city}", "--out", str(out), "--workers", "1"]
    child = subprocess.Popen(
        [sys.executable, "-c", STUCK, *words], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    partial = out / ".cityscapes-train.pack.partial"
    half_way = until(
        lambda: (
            child.poll() is not None
            or (partial.exists() and partial.stat().st_size > len(whole) // 4)
        )
    )
    child.kill()
    assert half_way and child.wait() == -9 and partial.exists()
    packed(city, out)
    assert (out / "cityscapes-train.pack").read_bytes() == whole
    assert not list(out.glob(".*"))


def test_any_torn_end_is_cut_off_and_written_again(city: Path, tmp_path: Path) -> None:
    """Ten random lengths, as a kill may leave them, one with nonsense behind it."""
    whole = (packed(city, tmp_path / "whole") / "cityscapes-train.pack").read_bytes()
    rng = np.random.default_rng(0)
    for attempt in range(10):
        out = tmp_path / f"torn{attempt}"
        out.mkdir()
        torn = whole[: rng.integers(0, len(whole))] + (b"nonsense" if attempt == 3 else b"")
        (out / ".cityscapes-train.pack.partial").write_bytes(torn)
        packed(city, out)
        assert (out / "cityscapes-train.pack").read_bytes() == whole


def test_what_other_images_left_is_not_gone_on_with(city: Path, tmp_path: Path) -> None:
    out = tmp_path / "packs"
    packed(city, out, "--splits", "val")
    (out / "cityscapes-val.pack").rename(out / ".cityscapes-train.pack.partial")
    packed(city, out, "--splits", "train")
    assert_same(source(out), source(city))


# --- damage


@pytest.mark.parametrize("form", ["tiles", "raw"])
def test_a_flipped_byte_is_found_and_named(
    form: str, city: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = (
        packed(city, tmp_path / "packs", "--form", form, "--splits", "train")
        / "cityscapes-train.pack"
    )
    assert pack.main(["--verify", str(tmp_path / "packs")]) == 0
    found = format.Pack(file, CITYSCAPES)
    place = int(found.places[2].bounds[0]) + 40
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)
    assert pack.main(["--verify", str(tmp_path / "packs")]) == 2
    assert (
        f"{file} is damaged in {found.names[2]}: pack this split again" in capsys.readouterr().err
    )
    for read in (
        format.Pack(file, CITYSCAPES).window,
        lambda index: format.Pack(file, CITYSCAPES).window(index, (0, 0, 9, 9)),
    ):
        complaint(lambda read=read: read(2), str(file), "is damaged in", found.names[2])
    format.Pack(file, CITYSCAPES).window(1)


def test_no_bit_of_a_tile_goes_unnoticed_in_training(city: Path, tmp_path: Path) -> None:
    """Its head among them, which says how much memory it takes."""
    file = packed(city, tmp_path / "packs", "--splits", "val") / "cityscapes-val.pack"
    whole, found = file.read_bytes(), format.Pack(file)
    image = found.window(0, (0, 0, 9, 9))[0].copy()
    begins, ends = map(int, found.places[0].bounds[:2])
    for place in (*range(begins, begins + 12), *range(ends - 4, ends)):
        for bit in range(8):
            file.write_bytes(replaced(whole, place, bytes([whole[place] ^ 1 << bit])))
            try:
                assert np.array_equal(
                    format.Pack(file).window(0, (0, 0, 9, 9))[0], image
                )  # some bits of the head mean nothing here
            except DataError as problem:
                assert (
                    str(problem) == f"{file} is damaged in {found.names[0]}: pack this split again"
                )


def replaced(content: bytes, at: int, by: bytes) -> bytes:
    return content[:at] + by + content[at + len(by) :]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda content: b"nothing of the kind", "is not a pack"),
        (lambda content: replaced(content, 7, b"2"), "is a pack of another version"),
        (lambda content: content[:-100], "is cut short"),
        (lambda content: content[:5], "is not a pack"),
        (lambda content: content[:8], "is damaged"),
        (lambda content: content[:12], "is damaged"),
        (
            lambda content: replaced(content, len(content) - 9, b"\xff"),
            "is damaged",
        ),  # the place of its index
        (lambda content: replaced(content, 20, b"x"), "is damaged"),
        (lambda content: replaced(content, len(content) - 30, b"xxxx"), "is damaged in its index"),
    ],
)
def test_a_pack_that_cannot_be_read_is_named_before_training(
    harm, words: str, city: Path, tmp_path: Path
) -> None:
    file = packed(city, tmp_path / "packs", "--splits", "train") / "cityscapes-train.pack"
    file.write_bytes(harm(file.read_bytes()))
    complaint(lambda: source(tmp_path / "packs"), str(file), words)


def test_any_byte_of_a_pack_is_watched_over(city: Path, tmp_path: Path) -> None:
    """Also those of a record's head, which a cache keeps."""
    file = packed(city, tmp_path / "packs", "--splits", "val") / "cityscapes-val.pack"
    whole, found = file.read_bytes(), format.Pack(file)
    heads = [place.span[0] for place in found.places]
    rng = np.random.default_rng(0)
    places = [head + byte for head in heads for byte in range(format.HEAD.size)]
    for place in (
        *places,
        *range(16),
        *range(len(whole) - 16, len(whole)),
        *rng.integers(0, len(whole), 100).tolist(),
    ):
        file.write_bytes(replaced(whole, place, bytes([whole[place] ^ 1 << int(rng.integers(8))])))
        try:
            noticed = format.Pack(file).verify(range(3))
        except DataError as problem:
            noticed = str(file) in str(problem)
        assert noticed, place


def test_a_pack_that_may_not_be_read_is_named(
    city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = packed(city, tmp_path / "packs", "--splits", "train") / "cityscapes-train.pack"

    def refused(*given: object) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(format, "opened", refused)
    complaint(
        lambda: source(tmp_path / "packs"),
        f"{file} cannot be read (Permission denied)",
        "make it readable",
    )


def test_a_split_without_a_pack_is_named_where_others_have_one(city: Path, tmp_path: Path) -> None:
    out = packed(city, tmp_path / "packs", "--splits", "train")
    complaint(
        lambda: source(out, "val"),
        f"{out} holds cityscapes-train.pack and no pack of val",
        "pack val there too",
    )
    (out / "cityscapes-train.pack").rename(out / ".cityscapes-train.pack.partial")
    complaint(lambda: source(out), "holds .cityscapes-train.pack.partial and no pack of train")
    complaint(lambda: Cityscapes(tmp_path / "nowhere").open("train"), "there is no folder")


@pytest.mark.parametrize(
    ("split", "name"), [("train", "cityscapes-val"), ("val", "cityscapes-train")]
)
def test_a_pack_of_another_split_under_this_name_is_refused(
    split: str, name: str, city: Path, tmp_path: Path
) -> None:
    out = packed(city, tmp_path / "packs", "--splits", split)
    (out / f"cityscapes-{split}.pack").rename(out / f"{name}.pack")
    complaint(
        lambda: source(out, name.split("-")[1]),
        f"{name}.pack was packed from cityscapes {split}",
        "its own name",
    )


def test_raw_packs_are_judged_without_a_warning(city: Path, tmp_path: Path) -> None:
    """Their windows show the file's own bytes, which nobody may write."""
    out = packed(city, tmp_path / "packs", "--form", "raw")
    found = source(out, "val")
    image = Whole(found)[0][0].permute(1, 2, 0)
    assert np.array_equal(image.numpy(), source(city, "val").window(0)[0])


def test_a_zip_that_is_cut_short_or_damaged_or_odd_is_named(city: Path, tmp_path: Path) -> None:
    out = zipped(city, tmp_path / "zips")
    file = out / "gtFine_trainvaltest.zip"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    complaint(lambda: source(out), str(file), "only the beginning of one", "download it again")
    file.write_bytes(replaced(content, content.index(b"PK\3\4", 100), b"XXXX"))
    complaint(
        lambda: [source(out).label(index) for index in range(5)],
        str(file),
        "is damaged at gtFine/train",
    )
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("../outside.png", b"")
    complaint(lambda: source(out), str(file), "names a file outside itself (../outside.png)")


def test_damage_anywhere_in_the_list_of_a_zip_is_no_traceback(city: Path, tmp_path: Path) -> None:
    out = zipped(city, tmp_path / "zips")
    file, rng = out / "gtFine_trainvaltest.zip", np.random.default_rng(0)
    content = file.read_bytes()
    first = content.index(b"PK\1\2")
    for place in (
        first + 6,
        *rng.integers(first, len(content), 120).tolist(),
    ):  # a version that no zip has, and anything
        file.write_bytes(
            replaced(content, place, bytes([255 if place == first + 6 else int(rng.integers(256))]))
        )
        try:
            found = source(out)
            for index in range(len(found)):
                found.label(index)
        except DataError as problem:
            assert str(out) in str(problem)


def test_a_zip_that_says_other_lengths_than_it_has_takes_no_memory_for_them(tmp_path: Path) -> None:
    file = tmp_path / "some.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.png", bytes(1 << 24))
    content = file.read_bytes()
    entry = content.index(b"PK\1\2")

    def peak_of_reading(harmed: bytes) -> int:
        file.write_bytes(harmed)
        reader = Zips([str(file)])
        tracemalloc.start()
        try:
            assert reader(f"{file}/image.png") == bytes(1 << 24)
        except DataError as problem:
            assert f"{file} is damaged at image.png: download it again" in str(problem)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    short = replaced(content, entry + 24, struct.pack("<I", 1000))
    assert peak_of_reading(short) < 1 << 23
    complaint(lambda: Zips([str(file)])(f"{file}/image.png"), f"{file} is damaged at image.png")
    name = content[entry + 46 : entry + 46 + len("image.png")]
    for sizes in ((1 << 24, 1 << 60), (1 << 60, 1 << 60)):
        wide = struct.pack("<HHQQ", 1, 16, *sizes)  # the large lengths of zip64
        listed = content[entry : entry + 20] + b"\xff" * 8 + content[entry + 28 : entry + 30]
        listed += struct.pack("<H", len(wide)) + content[entry + 32 : entry + 46] + name + wide
        ending = content[-22:-10] + struct.pack("<I", len(listed)) + content[-6:]
        assert peak_of_reading(content[:entry] + listed + ending) < 1 << 27


def test_an_encrypted_member_of_a_zip_is_named(tmp_path: Path) -> None:
    file = tmp_path / "some.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("image.png", b"secret")
    content = file.read_bytes()
    for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content = replaced(content, content.index(start) + flags, b"\1")
    file.write_bytes(content)
    complaint(
        lambda: Zips([str(file)])(f"{file}/image.png"), "holds image.png encrypted", "unpack it"
    )


def test_many_threads_read_a_zip_and_its_first_bytes(city: Path, tmp_path: Path) -> None:
    found, plain = source(zipped(city, tmp_path / "zips")), source(city)
    with ThreadPoolExecutor(4) as pool:
        for number, pair in enumerate(pool.map(lambda each: found.window(each % 5), range(100))):
            right = plain.window(number % 5)
            assert all(np.array_equal(a, b) for a, b in zip(pair, right, strict=True))
    path = found.pairs[0][0]
    assert found.read(path, 32) == found.read(path)[:32]


def test_what_this_user_may_not_read_is_named(
    city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = zipped(city, tmp_path / "zips")

    def refused(file: Path, *given: object) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(zipfile, "ZipFile", refused)
    complaint(
        lambda: source(out),
        "leftImg8bit_trainvaltest.zip cannot be read (Permission denied): make it readable",
    )
    monkeypatch.setattr(Path, "is_dir", refused)
    complaint(
        lambda: source(city),
        "cannot be read (Permission denied): make it readable",
        "another folder",
    )


def test_a_missing_city_is_named(city: Path, tmp_path: Path) -> None:
    out = zipped(city, tmp_path / "zips")
    with zipfile.ZipFile(out / "gtFine_trainvaltest.zip", "w") as archive:
        for file in sorted((city / "gtFine").rglob("*aachen*.png")):
            archive.write(file, file.relative_to(city))
    complaint(lambda: source(out), "bochum", "has no label", "must have the same names")


def test_a_pack_of_other_images_than_asked_for_is_refused(city: Path, tmp_path: Path) -> None:
    out = packed(city, tmp_path / "packs", "--splits", "train")
    complaint(
        lambda: Cityscapes(out, training="coarse").open("train"),
        "was packed with data.training=fine and not coarse",
    )


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--data", "streets", "data.train=1", "data.val=1", "--out", "x"], "nothing to pack"),
        (["--data", "cityscapes"], "what, and where to?"),
        (["--data", "cityscape", "--out", "x"], "did you mean cityscapes"),
        (["--verify", "nowhere"], "holds no .pack file"),
    ],
)
def test_what_cannot_be_packed_is_refused_in_a_sentence(
    words: list[str],
    answer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pack.main(words) == 2
    assert answer in capsys.readouterr().err


# --- what reading leaves behind


def test_packs_are_opened_by_whoever_reads_and_closed_again(city: Path, tmp_path: Path) -> None:
    folder = packed(city, tmp_path / "packs", "--splits", "train")
    found = format.Pack(folder / "cityscapes-train.pack", CITYSCAPES)
    assert "mapped" not in vars(pickle.loads(pickle.dumps(found)).reader)
    found.window(0)
    assert "mapped" in vars(found.reader)
    assert "mapped" not in vars(pickle.loads(pickle.dumps(found)).reader)
    if Path("/proc/self/fd").exists():
        open_now = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            format.Pack(folder / "cityscapes-train.pack", CITYSCAPES).window(1)
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= open_now + 1
