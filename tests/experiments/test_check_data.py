"""Tests of check_data.py: every kind of damage is named, and none ends the check.

Sound data has no problem.
"""

import json
import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from experiments import check_data
from experiments.data_check import report
from experiments.data_check.findings import SPLITS
from tests.support import trees

NAMED = [{"name": "road"}, {"name": "sky"}, {"name": "tree"}]
PAINTED = [
    {"name": "road", "color": [128, 64, 128]},
    {"name": "sky", "color": [70, 130, 180]},
    {"name": "tree", "color": [0, 99, 0]},
]


def checked(tmp_path: Path, code: int, *words: str) -> dict:
    """What the check wrote; its exit code must be this one."""
    out = tmp_path / "check.json"
    out.unlink(missing_ok=True)
    assert check_data.main([*words, "--out", str(out), "--workers", "2"]) == code
    return json.loads(out.read_text()) if out.exists() else {}


def folder(tmp_path: Path, code: int, *words: str) -> dict:
    return checked(
        tmp_path,
        code,
        "--data",
        "folder",
        f"data.root={tmp_path / 'own'}",
        "--splits",
        "train,val",
        *words,
    )


def camvid(tmp_path: Path, code: int, *words: str) -> dict:
    return checked(tmp_path, code, "--data", "camvid", f"data.root={tmp_path / 'camvid'}", *words)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    trees.folder(tmp_path / "own", {"train": 4, "val": 3}, NAMED)
    return tmp_path / "own"


def sentences(found: dict, kind: str, level: str = "problems") -> list[str]:
    return [each["sentence"] for each in found[level] if each["kind"] == kind]


# --- sound data


def test_sound_data_has_no_problem(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = folder(tmp_path, 0)
    assert found["problems"] == [] and found["look"] == []
    assert "4 train + 3 val images read: no problem" in capsys.readouterr().out


def test_the_sums_are_those_of_a_slow_count(tmp_path: Path) -> None:
    written = trees.camvid(tmp_path / "camvid", {"train": 5, "val": 1})
    found = camvid(tmp_path, 0, "--splits", "train,val")
    train = [pair for name, pair in written.items() if name.startswith("train/")]
    images, ids = np.stack([image for image, _ in train]) / 255, np.stack([ids for _, ids in train])
    counted = found["splits"]["train"]
    assert counted["ids"] == {str(value): int((ids == value).sum()) for value in range(12)}
    assert counted["ignored"] == pytest.approx((ids == 11).mean())
    assert [each["share"] for each in counted["classes"]] == pytest.approx(
        [(ids == c).sum() / (ids < 11).sum() for c in range(11)]
    )
    assert counted["mean"] == pytest.approx(images.mean((0, 1, 2)), abs=1e-9)
    assert counted["std"] == pytest.approx(images.std((0, 1, 2)), abs=1e-9)
    assert (
        counted["sizes"] == [[36, 48, 5]]
        and counted["official"] == 367
        and counted["images"] == counted["checked"] == 5
    )


def test_weights_follow_their_formulas(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    labels = [np.zeros((40, 60), np.uint8) for _ in range(4)]
    labels[0][:20], labels[1][:, :15], labels[1][:4, 15:], labels[3][:] = 1, 2, 255, 255
    for number, label in enumerate(labels):
        trees.save(own / "train" / "masks" / f"photo{number}.png", label)
    weights = folder(tmp_path, 0)["weights"]
    frequencies = []
    for train_id in range(3):
        beside = [label for label in labels if (label == train_id).any()]
        frequencies.append(
            sum((label == train_id).sum() for label in beside) / sum(label.size for label in beside)
        )
    assert weights["median_frequency"] == pytest.approx(
        [np.median(frequencies) / each for each in frequencies]
    )
    known = np.concatenate([label[label < 255] for label in labels])
    assert weights["inverse_log"] == pytest.approx(
        [1 / np.log(1.1 + (known == train_id).mean()) for train_id in range(3)]
    )
    assert f"recipe.class_weights={weights['median_frequency'][0]:.4g}," in capsys.readouterr().out


def test_the_line_of_weights_is_one_that_a_run_takes() -> None:
    from experiments.command_line.catalogue import options
    from experiments.command_line.overrides import parse_override
    from segmodels.recipe import Recipe

    line = report.override([0.026849, 1.5, 0.0, 12345.6])
    assert parse_override(line, {"recipe": options(Recipe)})[1:] == (
        "class_weights",
        [0.02685, 1.5, 0.0, 12350.0],
    )


def test_the_streets_are_checked_too(tmp_path: Path) -> None:
    small = ("data.height=64", "data.width=128", "data.train=3", "data.val=2", "data.test=1")
    found = checked(tmp_path, 0, "--data", "streets", *small)
    assert [found["splits"][split]["checked"] for split in SPLITS] == [3, 2, 1]


@pytest.mark.parametrize("kind", ["zip", "tiles", "raw"])
def test_zips_and_packs_give_what_the_files_give(kind: str, tmp_path: Path) -> None:
    from experiments import pack

    root, other = tmp_path / "city", tmp_path / "other"
    trees.cityscapes(root, {"train": 3, "val": 2}, (150, 300))
    files = checked(tmp_path, 0, "--data", "cityscapes", f"data.root={root}")
    if kind == "zip":
        other.mkdir()
        for part in ("leftImg8bit", "gtFine"):
            with zipfile.ZipFile(other / f"{part}_trainvaltest.zip", "w") as archive:
                for file in (root / part).rglob("*.png"):
                    archive.write(file, file.relative_to(root))
    else:
        pytest.importorskip("zstandard")
        assert (
            pack.main(
                [
                    "--data",
                    "cityscapes",
                    f"data.root={root}",
                    "--out",
                    str(other),
                    "--form",
                    kind,
                    "--workers",
                    "1",
                ]
            )
            == 0
        )
    found = checked(tmp_path, 0, "--data", "cityscapes", f"data.root={other}")
    assert found["splits"] == files["splits"] and found["weights"] == files["weights"]


# --- problems


def test_every_unreadable_file_is_named_and_the_others_are_counted(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train = own / "train"
    cut = train / "images" / "photo0.png"  # the first sample, at which a training would stop
    cut.write_bytes(cut.read_bytes()[:-200])
    (train / "masks" / "photo1.png").write_bytes(b"")
    flipped = bytearray((train / "images" / "photo2.png").read_bytes())
    flipped[2000] ^= 1
    (train / "images" / "photo2.png").write_bytes(flipped)
    (own / "val" / "masks" / "photo1.png").write_bytes(b"not a picture")
    found = folder(tmp_path, 1)
    said = " ".join(sentences(found, "file"))
    for name in (
        "train/images/photo0.png",
        "train/masks/photo1.png",
        "train/images/photo2.png",
        "val/masks/photo1.png",
    ):
        assert said.count(str(own / name)) == 1
    assert len(sentences(found, "file")) == len(found["problems"]) == 4
    assert (
        found["splits"]["train"]["checked"] == 4
        and sum(each[2] for each in found["splits"]["train"]["sizes"]) == 4
    )
    assert sum(found["splits"]["train"]["ids"].values()) == 3 * 40 * 60
    assert capsys.readouterr().out.count("problem: ") == 4


def test_formats_that_would_lose_something_are_named(own: Path, tmp_path: Path) -> None:
    images, masks = own / "train" / "images", own / "train" / "masks"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 60, 4), np.uint8), "RGBA").save(images / "photo0.png")
    cv2.imwrite(str(images / "photo1.png"), rng.integers(0, 60000, (40, 60, 3)).astype(np.uint16))
    (images / "photo2.png").unlink()
    cv2.imwrite(str(images / "photo2.tif"), rng.integers(0, 60000, (40, 60, 3)).astype(np.uint16))
    trees.save(masks / "photo3.png", rng.integers(0, 255, (40, 60, 3), np.uint8))
    said = "\n".join(sentences(folder(tmp_path, 1), "file"))
    for words in (
        "photo0.png is an RGBA picture",
        "photo1.png is an RGB picture of 16 bits",
        "photo2.tif has 16 bits",
    ):
        assert words in said
    assert "photo3.png is an RGB picture of 8 bits; a label is one 8-bit channel of ids" in said


def test_another_size_of_the_label_is_named(own: Path, tmp_path: Path) -> None:
    trees.save(own / "val" / "masks" / "photo2.png", np.zeros((20, 60), np.uint8))
    (said,) = sentences(folder(tmp_path, 1), "size")
    assert "val/images/photo2.png is 40x60" in said and "is 20x60" in said


def test_unknown_ids_are_named_and_counted(own: Path, tmp_path: Path) -> None:
    label = np.zeros((40, 60), np.uint8)
    label[:2], label[2:3] = 7, 200
    trees.save(own / "train" / "masks" / "photo3.png", label)
    found = folder(tmp_path, 1)
    (said,) = sentences(found, "ids")
    assert "photo3.png" in said and "7, 200" in said
    assert found["splits"]["train"]["unknown_ids"] == {"7": 120, "200": 60}


def test_colors_that_no_class_has_are_named(tmp_path: Path) -> None:
    own = tmp_path / "own"
    trees.folder(own, {"train": 3, "val": 2}, PAINTED)
    colors = np.array([each["color"] for each in PAINTED] + [[1, 2, 3]], np.uint8)
    trees.save(own / "train" / "masks" / "photo1.png", colors[np.arange(2400).reshape(40, 60) % 4])
    trees.save(own / "train" / "masks" / "photo2.png", colors[np.arange(2400).reshape(40, 60) % 3])
    found = folder(tmp_path, 1, "--page", str(tmp_path / "page.html"))
    (said,) = sentences(found, "ids")
    assert "photo1.png" in said and "(1, 2, 3)" in said and len(found["problems"]) == 1


def test_train_ids_in_place_of_ids_are_seen(tmp_path: Path) -> None:
    """All of them are ids that Cityscapes allows, so reading refuses none."""
    root = tmp_path / "city"
    trees.cityscapes(root, {"train": 3, "val": 1})
    for number, file in enumerate(sorted((root / "gtFine" / "train").rglob("*_labelIds.png"))):
        trees.save(file, trees.noise((48, 96), trees.STREET, number)[1])
    (said,) = sentences(
        checked(tmp_path, 1, "--data", "cityscapes", f"data.root={root}"), "meaning"
    )
    assert said.startswith("train: ") and "0-18" in said and "train ids" in said


def test_a_mask_of_0_and_255_is_seen(own: Path, tmp_path: Path) -> None:
    for number, file in enumerate(sorted((own / "train" / "masks").iterdir())):
        trees.save(file, trees.noise((40, 60), (0, 255), number)[1])
    (said,) = sentences(folder(tmp_path, 1), "meaning")
    assert "the only class is road" in said and "255" in said


@pytest.mark.parametrize("renumbered", [True, False])
def test_a_palette_that_a_program_renumbered_is_seen(renumbered: bool, tmp_path: Path) -> None:
    own = tmp_path / "own"
    written = trees.folder(own, {"train": 3, "val": 2}, PAINTED)
    colors = [each["color"] for each in PAINTED]
    picture = Image.fromarray(written["train/photo1"][1], mode="P")
    picture.putpalette(
        [part for color in (colors[1:] + colors[:1] if renumbered else colors) for part in color]
    )
    picture.save(own / "train" / "masks" / "photo1.png")
    found = folder(tmp_path, int(renumbered))
    said = sentences(found, "palette")
    assert len(said) == renumbered and all(
        "photo1.png" in each and "number 0 has the color of sky and means road" in each
        for each in said
    )


def test_every_lone_file_is_named_and_other_splits_are_read(own: Path, tmp_path: Path) -> None:
    for lone in ("masks/photo0.png", "masks/photo2.png", "images/photo1.png"):
        (own / "train" / lone).unlink()
    found = folder(tmp_path, 1)
    assert [
        Path(each["file"]).relative_to(own / "train").as_posix() for each in found["problems"]
    ] == [
        "images/photo0.png",
        "images/photo2.png",
        "masks/photo1.png",
    ]
    assert found["splits"]["train"]["checked"] == 0 and found["splits"]["val"]["checked"] == 3


def test_a_split_that_is_not_there_is_a_problem_beside_one_that_is(
    own: Path, tmp_path: Path
) -> None:
    shutil.rmtree(own / "val")
    found = folder(tmp_path, 1)
    (said,) = sentences(found, "listing")
    assert "data.val_share=0.1" in said and found["splits"]["train"]["checked"] == 4


def test_a_name_that_is_no_utf8_is_told_all_the_same(own: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    for kind in ("images", "masks"):
        (own / "train" / kind / "photo0.png").rename(own / "train" / kind / odd)
    (own / "train" / "masks" / odd).write_bytes(b"")
    (said,) = sentences(folder(tmp_path, 1, "--page", str(tmp_path / "page.html")), "file")
    assert "caf\\udce9.png is empty" in said


def test_the_same_image_in_two_splits_is_a_problem_however_it_was_saved(
    own: Path, tmp_path: Path
) -> None:
    pixels = cv2.imread(str(own / "train" / "images" / "photo2.png"))
    (own / "val" / "images" / "photo1.png").unlink()
    cv2.imwrite(str(own / "val" / "images" / "photo1.bmp"), pixels)
    cv2.imwrite(
        str(own / "val" / "images" / "photo0.png"),
        cv2.imread(str(own / "val" / "images" / "photo2.png")),
    )
    found = folder(tmp_path, 1)
    (said,) = sentences(found, "leak")
    assert (
        str(own / "val/images/photo1.bmp") in said and str(own / "train/images/photo2.png") in said
    )
    (said,) = sentences(found, "twice", "look")
    assert "val/images/photo0.png" in said and "val/images/photo2.png" in said


def test_a_damaged_pack_names_its_images(tmp_path: Path) -> None:
    """A raw pack would give wrong pixels without a word: only its checksums tell."""
    from datamodules.packs.format import Pack
    from experiments import pack

    trees.cityscapes(tmp_path / "city", {"train": 3})
    words = (
        "--data",
        "cityscapes",
        f"data.root={tmp_path / 'city'}",
        "--splits",
        "train",
        "--form",
        "raw",
    )
    assert pack.main([*words, "--out", str(tmp_path / "packs"), "--workers", "1"]) == 0
    file = tmp_path / "packs" / "cityscapes-train.pack"
    data = bytearray(file.read_bytes())
    data[int(Pack(file).places[1].bounds[0]) + 5] ^= 1
    file.write_bytes(data)
    found = checked(
        tmp_path, 1, "--data", "cityscapes", f"data.root={tmp_path / 'packs'}", "--splits", "train"
    )
    (said,) = sentences(found, "file")
    assert "aachen_000002_000019" in said and found["splits"]["train"]["checked"] == 3


# --- worth a look


def test_unusual_shares_of_ignored_pixels_are_for_a_person_to_look_at(tmp_path: Path) -> None:
    trees.camvid(tmp_path / "camvid", {"train": 10})
    masks = sorted((tmp_path / "camvid" / "trainannot").iterdir())
    mostly = trees.noise((36, 48), tuple(range(11)))[1]
    mostly[:27] = 11
    trees.save(masks[4], mostly)
    trees.save(masks[7], np.full((36, 48), 11, np.uint8))
    found = camvid(tmp_path, 0, "--splits", "train")
    every, far = sentences(found, "ignored", "look")
    assert (
        masks[7].name in every and "every pixel" in every and masks[4].name in far and "75%" in far
    )
    assert sentences(found, "count", "look") == ["train has 10 images, the official data set 367"]


def test_a_class_without_a_pixel_is_mentioned(own: Path, tmp_path: Path) -> None:
    for file in (own / "val" / "masks").iterdir():
        trees.save(file, trees.noise((40, 60), (0, 1))[1])
    assert sentences(folder(tmp_path, 0), "classes", "look") == [
        "val: no pixel that was read is tree"
    ]


def test_a_limit_is_spread_over_the_split(tmp_path: Path) -> None:
    trees.camvid(tmp_path / "camvid", {"train": 10})
    trees.save(
        tmp_path / "camvid" / "trainannot" / "0001TP_006840.png", np.full((36, 48), 99, np.uint8)
    )  # the sixth
    assert (
        camvid(tmp_path, 1, "--splits", "train", "--limit", "2")["splits"]["train"]["checked"] == 2
    )
    (tmp_path / "camvid" / "trainannot" / "0001TP_006840.png").replace(
        tmp_path / "camvid" / "trainannot" / "0001TP_006870.png"
    )
    trees.save(
        tmp_path / "camvid" / "trainannot" / "0001TP_006840.png", np.zeros((36, 48), np.uint8)
    )
    assert camvid(tmp_path, 0, "--splits", "train", "--limit", "2")["limit"] == 2


# --- the page, and refusals


def test_the_page_shows_findings_first_and_asks_nothing_of_a_network(
    own: Path, tmp_path: Path
) -> None:
    (own / "train" / "images" / "photo1.png").rename(own / "train" / "images" / "<b>&.png")
    (own / "train" / "masks" / "photo1.png").rename(own / "train" / "masks" / "<b>&.png")
    trees.save(own / "train" / "masks" / "<b>&.png", np.full((40, 60), 9, np.uint8))
    (own / "train" / "images" / "photo0.png").write_bytes(b"")
    page = tmp_path / "page.html"
    folder(tmp_path, 1, "--page", str(page))
    text = page.read_text()
    assert (
        text.index("<h2>Suspicious (2 of 2)")
        < text.index("<h2>train</h2>")
        < text.index("<h2>val</h2>")
    )
    assert (
        text.count("<figure>") == 2 + 2 + 3 and text.count("data:image/") == 3 * 7 - 2
    )  # of photo0 only the label can be shown
    assert "&lt;b&gt;&amp;.png" in text and "<b>&" not in text
    assert (
        "<script" not in text
        and "http://" not in text
        and "https://" not in text
        and "default-src 'none'" in text
    )
    assert all(each.startswith("data:image/") for each in text.split('src="')[1:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "camvit"), "did you mean camvid"),
        (("--data", "camvid", "data.root=/nowhere"), "there is no folder /nowhere"),
        (("--data", "camvid", "data.root=EMPTY"), "there is no folder"),
        (("--data", "cityscapes", "data.root=EMPTY", "--splits", "test"), "labels are not public"),
        (("--data", "camvid", "data.root=EMPTY", "--splits", "vall"), "there are train, val, test"),
        (("--data", "camvid", "data.root=EMPTY", "--limit", "0"), "--limit 0"),
        (("--data", "camvid", "data.root=EMPTY", "--out", "EMPTY"), "is not overwritten"),
    ],
)
def test_what_cannot_begin_is_refused_in_a_sentence(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert check_data.main([word.replace("EMPTY", str(tmp_path)) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
