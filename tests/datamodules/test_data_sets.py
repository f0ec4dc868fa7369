"""Tests of every data set on a tiny tree in its official layout, and of errors for wrong trees."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import datamodules
from datamodules import (
    ACDC,
    ADE20K,
    BDD100K,
    GTA5,
    VOC,
    CamVid32,
    Cityscapes,
    COCOStuff,
    Context,
    DarkZurich,
    Folder,
    Mapillary,
    Streets,
    cocostuff,
)
from datamodules.camvid32 import GROUPS
from datamodules.labels import CAMVID, CITYSCAPES, LabelSet, devkit_color
from datamodules.module import SegmentationData
from tests.support import trees
from tests.support.data import complaint
from tests.support.paths import REFERENCE

STREETS = CITYSCAPES.names


class Case(NamedTuple):
    """`splits`: which of what `write` wrote are in a split, in order; `labels`: where a label file
    of the train (or val) split lies."""

    data: Callable[..., SegmentationData]
    write: Callable[[Path], list[trees.Arrays]]
    splits: dict[str, tuple[int, ...]]
    labels: str
    lists: tuple[str, ...] = ()
    settings: dict = {}

    def open(self, root: Path) -> SegmentationData:
        return self.data(root, **self.settings)


CASES = {
    "context": Case(
        Context,
        trees.context,
        {"train": (0, 1), "val": (2,)},
        "SegmentationClassContext/2008_000002.png",
        ("ImageSets/SegmentationContext/train.txt",),
        {"background": True},
    ),
    "cocostuff": Case(
        COCOStuff,
        trees.cocostuff_164k,
        {"train": (0, 1), "val": (2,)},
        "annotations/train2017/000000000000.png",
    ),
    "ade20k": Case(
        ADE20K,
        trees.ade20k,
        {"train": (0, 1), "val": (2,)},
        "annotations/training/ADE_train_00000000.png",
    ),
    "bdd100k": Case(
        BDD100K,
        trees.bdd100k,
        {"train": (0, 1), "val": (2,)},
        "labels/sem_seg/masks/train/0004a4c0-d4dff0ad.png",
    ),
    "mapillary": Case(
        Mapillary,
        trees.mapillary,
        {"train": (0, 1), "val": (2,)},
        "training/labels/0035fkbjWljhaftpVM37-g.png",
    ),
    "acdc": Case(
        ACDC,
        trees.acdc,
        {"train": (0, 1, 3, 4, 6, 7, 9, 10), "val": (2, 5, 8, 11)},
        "gt/fog/train/GOPR0075/GOPR0075_frame_000247_gt_labelTrainIds.png",
    ),
    "darkzurich": Case(
        DarkZurich,
        trees.darkzurich,
        {"val": (0, 1)},
        "gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png",
    ),
    "gta5": Case(
        GTA5,
        trees.gta5,
        {"train": (0, 2), "val": (1,), "test": (3,)},
        "labels/00001.png",
        ("split.mat",),
    ),
}
both = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def expected(labels: LabelSet, ids: np.ndarray) -> np.ndarray:
    """Train ids by name and number, one value at a time: what `encode` does with tables."""
    of = {value: place for place, value in enumerate(labels.ids)} | dict(labels.merged)
    return np.vectorize(lambda value: of.get(value, 255), otypes=[np.uint8])(ids)


# --- official trees


@both
def test_an_official_tree_is_read_split_by_split(tmp_path: Path, case: Case) -> None:
    written = case.write(tmp_path)
    data = case.open(tmp_path)
    for split, members in case.splits.items():
        source = data.open(split)
        assert len(source) == len(members) == len(set(source.names))
        for index, number in enumerate(members):
            image, ids = written[number]
            window, label = source.window(index)
            assert np.array_equal(label, expected(data.labels, ids)) and window.shape == image.shape
            assert not source.pairs[index][0].endswith(".png") or np.array_equal(window, image)
            assert source.size(index) == ids.shape


@both
def test_every_class_and_no_other_value_is_a_train_id(case: Case) -> None:
    labels = case.open(Path(".")).labels
    table = labels.table
    assert set(table[list(labels.ids)]) == set(range(len(labels.names)))
    assert (table[list(labels.void)] == 255).all()
    assert len(labels.names) == len(labels.palette) == len(set(labels.names))
    assert not {value for value, _ in labels.merged} & {*labels.ids, *labels.void}


@both
def test_a_tree_of_another_size_than_the_official_one_is_told(
    tmp_path: Path, case: Case, capsys: pytest.CaptureFixture
) -> None:
    case.write(tmp_path)
    case.open(tmp_path).open("val")
    (line,) = [each for each in capsys.readouterr().err.splitlines() if str(tmp_path) in each]
    assert f"val has {len(case.splits['val'])} images, the official" in line


@both
def test_labels_that_nobody_has_are_not_scored(tmp_path: Path, case: Case) -> None:
    data = case.open(tmp_path)
    for split in (
        {"train", "val", "test"} - set(case.splits) - ({"test"} if case.data is Context else set())
    ):
        complaint(
            lambda split=split: data.open(split), f"{data.name}'s {split} labels are not public"
        )


# --- wrong trees: one sentence that names the file and says what to do


@both
def test_a_missing_tree_says_what_it_looks_like(tmp_path: Path, case: Case) -> None:
    data = case.open(tmp_path)
    split = next(iter(case.splits))
    complaint(lambda: data.open(split), str(tmp_path), data.layout, data.origin)
    complaint(lambda: case.data(**case.settings).open(split), "needs a folder", data.origin)


@both
def test_a_missing_label_folder_is_named(tmp_path: Path, case: Case) -> None:
    case.write(tmp_path)
    first = case.labels.split("/")[0]
    folder = Path(case.labels).parent if first == "training" else Path(first)
    shutil.rmtree(tmp_path / folder)
    complaint(
        lambda: case.open(tmp_path).open(next(iter(case.splits))),
        str(tmp_path),
        str(folder),
        case.open(tmp_path).origin,
    )


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.lists],
    ids=[name for name, case in CASES.items() if case.lists],
)
def test_a_missing_split_list_is_named(tmp_path: Path, case: Case) -> None:
    case.write(tmp_path)
    (tmp_path / case.lists[0]).unlink()
    complaint(
        lambda: case.open(tmp_path).open("train"),
        f"there is no split list {tmp_path / case.lists[0]}",
        case.open(tmp_path).origin,
    )


@both
def test_a_label_that_is_a_picture_is_named(tmp_path: Path, case: Case) -> None:
    case.write(tmp_path)
    size = case.open(tmp_path).open(next(iter(case.splits))).size(0)
    trees.save(tmp_path / case.labels, trees.noise(size, (0,))[0])
    complaint(
        lambda: case.open(tmp_path).open(next(iter(case.splits))),
        str(tmp_path / case.labels),
        "is an RGB picture",
        "save ids",
    )


@both
def test_an_unknown_id_is_named(tmp_path: Path, case: Case) -> None:
    case.write(tmp_path)
    size = case.open(tmp_path).open(next(iter(case.splits))).size(0)
    trees.save(tmp_path / case.labels, np.full(size, 200, np.uint8))
    sentence = complaint(
        lambda: case.open(tmp_path).open(next(iter(case.splits))),
        str(tmp_path / case.labels),
        "label value 200",
    )
    assert "allowed are" in sentence and "declare the value as ignored" in sentence


@both
def test_a_label_without_image_or_an_image_without_label_is_named(
    tmp_path: Path, case: Case
) -> None:
    case.write(tmp_path)
    (tmp_path / case.labels).unlink()
    words = ("of which", "holds no file") if case.lists else ("has no label of the same name",)
    complaint(lambda: case.open(tmp_path).open(next(iter(case.splits))), *words)


# --- PASCAL VOC


def test_trainaug_reads_official_labels_where_there_are_some(tmp_path: Path) -> None:
    written = trees.voc(tmp_path)
    data = VOC(tmp_path)
    for source, names in (
        (data.open("train"), ["2007_000003", "2007_000001"]),
        (data.open("val"), ["2007_000002"]),
    ):
        assert list(source.names) == names
        for index, name in enumerate(names):
            assert np.array_equal(
                source.label(index), np.where(written[name][1] == 255, 255, written[name][1])
            )
    assert VOC(tmp_path, training="train").open("train").names == ("2007_000001",)


def test_voc_without_sbd_says_how_to_go_on(tmp_path: Path) -> None:
    trees.voc(tmp_path)
    shutil.rmtree(tmp_path / "SegmentationClassAug")
    complaint(
        lambda: VOC(tmp_path).open("train"),
        str(tmp_path / "SegmentationClassAug"),
        "data.training=train",
    )
    assert len(VOC(tmp_path, training="train").open("train")) == 1
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").unlink()
    complaint(
        lambda: VOC(tmp_path).open("train"),
        "there is no split list",
        "trainaug.txt",
        "data.training=train",
    )
    complaint(lambda: VOC(tmp_path, training="aug"), "data.training=aug is none of trainaug, train")


def test_a_list_of_paths_is_read_as_a_list_of_names(tmp_path: Path) -> None:
    trees.voc(tmp_path)
    file = tmp_path / "ImageSets/Segmentation/val.txt"
    file.write_text("/JPEGImages/2007_000002.jpg /SegmentationClass/2007_000002.png\n\n")
    assert VOC(tmp_path).open("val").names == ("2007_000002",)
    file.write_text("2007_000002\n2007_000009\n2007_000008\n")
    complaint(
        lambda: VOC(tmp_path).open("val"),
        f"{file} names 2007_000009 (and 1 more)",
        str(tmp_path / "JPEGImages"),
    )
    file.write_text("2007_000002\n2007_000002\n")
    complaint(lambda: VOC(tmp_path).open("val"), f"{file} names 2007_000002 twice")
    file.write_text("\n")
    complaint(lambda: VOC(tmp_path).open("val"), f"{file} names no image")


def test_the_development_kits_colors() -> None:
    """The colors that VOC's own pages print beside its classes."""
    printed = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        7: (128, 128, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
    }
    assert {number: devkit_color(number) for number in printed} == printed
    assert devkit_color(255) == (224, 224, 192)


# --- classes


def test_context_counts_background_only_where_it_is_asked_for(tmp_path: Path) -> None:
    ids = trees.context(tmp_path)[0][1]
    without, with_it = Context(tmp_path), Context(tmp_path, background=True)
    assert len(without.class_names) == 59
    assert with_it.class_names == (
        "background",
        *without.class_names,
    )
    assert with_it.palette[1:] == without.palette
    assert np.array_equal(with_it.open("train").label(0), ids)
    assert np.array_equal(without.open("train").label(0), np.where(ids == 0, 255, ids - 1))


NUMBERED = {  # places that the data sets' own lists print, beside those in the middle
    ADE20K: (150, {0: "wall", 12: "person", 20: "car", 89: "television", 149: "flag"}),
    COCOStuff: (171, {0: "person", 11: "stop sign", 79: "toothbrush", 80: "banner", 170: "wood"}),
    VOC: (21, {0: "background", 1: "aeroplane", 15: "person", 20: "tvmonitor"}),
    Context: (59, {0: "aeroplane", 36: "person", 58: "wood"}),
}


@pytest.mark.parametrize("kind", NUMBERED, ids=[kind.__name__ for kind in NUMBERED])
def test_classes_stand_where_the_official_list_has_them(kind: type) -> None:
    count, some = NUMBERED[kind]
    names = kind().class_names
    assert len(names) == count and {place: names[place] for place in some} == some


# the user's own ids; Cityscapes', which are listed there; drawn ones
UNOFFICIAL = {"folder", "streets", "cells"}
OFFICIAL_IDS = json.loads((REFERENCE / "label_ids.json").read_text())


@pytest.mark.parametrize("case", OFFICIAL_IDS)
def test_an_id_in_a_file_is_the_class_that_the_official_list_says(case: str) -> None:
    """Each case names the list; CamVid's files of 720x960 hold colors instead of ids."""
    official = OFFICIAL_IDS[case]
    kind = datamodules.dataset(case.split()[0])
    labels = kind(**official.get("options", {})).labels
    written = [value for value, _ in official["pairs"]] + official["ignored"]
    if isinstance(written[0], list):
        found = labels.encode_colors(np.uint8([written]))[0]
    else:
        found = labels.encode(np.array(written).astype(np.uint8)[None])[0]
    wanted = [name for _, name in official["pairs"]] + [None] * len(official["ignored"])
    assert [None if each == 255 else labels.names[each] for each in found] == wanted
    assert {labels.names[0], labels.names[-1]} <= set(wanted) and len(official["pairs"]) >= 6


def test_every_table_of_ids_is_held_against_its_official_list() -> None:
    assert {case.split()[0] for case in OFFICIAL_IDS} == {*datamodules.names()} - UNOFFICIAL


def test_ade20ks_colors_are_those_of_its_development_kit() -> None:
    found = dict(zip(ADE20K().class_names, ADE20K().palette))
    printed = {
        "wall": (120, 120, 120),
        "sky": (6, 230, 230),
        "person": (150, 5, 61),
        "flag": (92, 0, 255),
    }
    assert {name: found[name] for name in printed} == printed


@pytest.mark.parametrize("kind", [ACDC, BDD100K, DarkZurich, GTA5, Mapillary])
def test_street_sets_have_cityscapes_classes_so_that_one_network_is_judged_on_all(
    kind: type,
) -> None:
    assert kind().class_names == STREETS and kind().palette == CITYSCAPES.palette


def test_mapillary_is_mapped_by_its_classes_names(tmp_path: Path) -> None:
    official = {
        13: "road",
        24: "road",
        41: "road",
        2: "sidewalk",
        15: "sidewalk",
        47: "pole",
        20: "rider",
        22: "rider",
        58: "train",
    }
    table = Mapillary.labels.table
    assert {number: STREETS[table[number]] for number in official} == official
    assert all(table[number] == 255 for number in (0, 8, 14, 23, 49, 60, 65))
    assert 66 not in Mapillary.labels.known
    written = trees.mapillary(tmp_path, "v1.2/labels")
    assert np.array_equal(Mapillary(tmp_path).open("train").label(0), table[written[0][1]])
    predicted = np.uint8([[0, 12]])
    assert Mapillary.labels.decode(predicted).tolist() == [[13, 20]]


def test_ids_that_are_merged_and_classes_at_once_are_refused() -> None:
    two = {"names": ("a", "b"), "palette": ((0, 0, 1), (0, 0, 2)), "ids": (1, 2)}
    assert LabelSet(**two, merged=((3, 0),)).encode(np.uint8([[3, 1, 2]])).tolist() == [[0, 0, 1]]
    for merged in (((2, 0),), ((255, 1),)):
        complaint(lambda merged=merged: LabelSet(**two, merged=merged), "at once")


# --- CamVid at its own size


def test_camvids_colors_become_segnets_eleven_classes(tmp_path: Path) -> None:
    written = trees.camvid32(tmp_path)
    grouped, alone = CamVid32(tmp_path), CamVid32(tmp_path, grouped=False)
    of = {
        number: name
        for number, name in enumerate(name for name, group in GROUPS.items() for _ in group)
    }
    firsts = {number for number in of if number == 0 or of[number] != of[number - 1]}
    splits = {"train": (0, 1, 2, 3), "val": (4, 5), "test": (6, 7)}
    for split, members in splits.items():
        assert len(grouped.open(split)) == len(members)
        for index, name in enumerate(grouped.open(split).names):
            number = next(
                number
                for number in members
                if written[number][0].tobytes() == grouped.open(split).window(index)[0].tobytes()
            )
            ids = written[number][1]
            classes = np.vectorize(
                lambda value: CAMVID.names.index(of[value]) if value in of else 255,
                otypes=[np.uint8],
            )(ids)
            assert np.array_equal(grouped.open(split).label(index), classes), name
            assert np.array_equal(
                alone.open(split).label(index), np.where(np.isin(ids, list(firsts)), classes, 255)
            )
    assert set(grouped.open("val").names) == {"0016E5_07959", "0016E5_08159"}
    assert len(of) == 31 and grouped.class_names == CAMVID.names


def test_camvids_colors_are_of_its_kind() -> None:
    """label_colors.txt takes its 32 colors, void's black among them, from four values a channel."""
    colors = {color for group in GROUPS.values() for color in group.values()} | {(0, 0, 0)}
    assert len(colors) == 32 and {value for color in colors for value in color} == {0, 64, 128, 192}
    assert CamVid32().palette == tuple(
        (0, 0, 192) if name == "pavement" else color
        for name, color in zip(CAMVID.names, CAMVID.palette)
    )


def test_a_wrong_camvid_is_named(tmp_path: Path) -> None:
    trees.camvid32(tmp_path)
    label = tmp_path / "LabeledApproved_full/0001TP_008520_L.png"
    trees.save(label, np.full((72, 96, 3), 9, np.uint8))
    complaint(
        lambda: CamVid32(tmp_path).open("train"),
        str(label),
        "the color (9, 9, 9), which no class has",
    )
    label.unlink()
    complaint(lambda: CamVid32(tmp_path).open("train"), "0001TP_008520.png has no label")
    shutil.rmtree(tmp_path / "LabeledApproved_full")
    complaint(
        lambda: CamVid32(tmp_path).open("train"),
        f"{tmp_path} holds no LabeledApproved_full/*_L.png",
        "LabeledApproved_full.zip",
    )


# --- coarse Cityscapes


def test_coarse_labels_are_read_beside_or_instead_of_fine_ones(tmp_path: Path) -> None:
    fine = trees.cityscapes(tmp_path, {"train": 2, "val": 1})
    coarse = trees.cityscapes_coarse(tmp_path)
    fine_names = tuple(name.removeprefix("train/") for name in fine if name.startswith("train/"))
    alone = Cityscapes(tmp_path, training="coarse").open("train")
    assert alone.names == ("augsburg_000000_000042", "bayreuth_000001_000019"), (
        "the black image is still there"
    )
    for index in range(2):
        assert np.array_equal(alone.label(index), CITYSCAPES.table[coarse[index][1]])
        assert np.array_equal(alone.window(index)[0], coarse[index][0])
    assert Cityscapes(tmp_path).open("train").names == fine_names
    assert (
        Cityscapes(tmp_path, training="fine+coarse").open("train").names == fine_names + alone.names
    )
    assert len(Cityscapes(tmp_path, training="coarse").open("val")) == 1


def test_coarse_labels_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path, {"train": 1, "val": 1})
    data = Cityscapes(tmp_path, training="fine+coarse")
    complaint(
        lambda: data.open("train"),
        "holds no leftImg8bit/train_extra",
        "gtCoarse.zip",
        "data.training=fine",
    )
    complaint(
        lambda: Cityscapes(tmp_path, training="both"),
        "data.training=both is none of fine, fine+coarse, coarse",
    )


# --- COCO-Stuff 10k


def test_coco_stuff_10k_is_read_once_its_matlab_files_are_pngs(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written = trees.cocostuff_10k(tmp_path)
    data = COCOStuff(tmp_path, release="10k")
    complaint(
        lambda: data.open("train"),
        f"{tmp_path / 'annotations'} holds Matlab files",
        f"python -m datamodules.cocostuff {tmp_path}",
    )
    assert cocostuff.main([str(tmp_path)]) == 0 and "3 labels are PNGs" in capsys.readouterr().out
    empty = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
    ids = [number for number in range(1, 183) if number not in empty]
    wanted = np.vectorize(lambda value: ids.index(value) if value else 255, otypes=[np.uint8])
    for split, members in (("train", (0, 1)), ("val", (2,))):
        for index, number in enumerate(members):
            assert np.array_equal(data.open(split).label(index), wanted(written[number][1]))


def test_coco_stuff_10k_refuses_what_is_not_its_label(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cocostuff.main([str(tmp_path)]) == 2
    assert "holds no annotations/*.mat" in capsys.readouterr().err
    file = trees.matlab(tmp_path / "annotations/one.mat", S=np.full((4, 4), 183))
    assert cocostuff.main([str(tmp_path)]) == 2
    assert f"{file} holds labels outside 0 .. 182" in capsys.readouterr().err
    trees.matlab(file, T=np.zeros((4, 4)))
    assert cocostuff.main([str(tmp_path)]) == 2 and f"{file} holds no S" in capsys.readouterr().err
    file.write_bytes(b"not a Matlab file" * 20)
    assert cocostuff.main([str(tmp_path)]) == 2
    assert f"{file} cannot be read" in capsys.readouterr().err
    assert not list((tmp_path / "annotations").glob("*.png"))


def test_an_empty_label_of_coco_is_refused(tmp_path: Path) -> None:
    """91 things are numbered, and 11 have no pixel: one of these means that the files are wrong."""
    trees.cocostuff_164k(tmp_path)
    file = tmp_path / "annotations/train2017/000000000000.png"
    trees.save(file, np.full((40, 60), 11, np.uint8))
    complaint(lambda: COCOStuff(tmp_path).open("train"), str(file), "label value 11")


# --- options


def test_a_condition_of_acdc_is_taken_alone(tmp_path: Path) -> None:
    written = trees.acdc(tmp_path)
    night = ACDC(tmp_path, condition="night")
    assert len(night.open("val")) == 1
    assert np.array_equal(night.open("val").window(0)[0], written[5][0])
    assert (
        sum(len(ACDC(tmp_path, condition=each).open("val")) for each in ("fog", "rain", "snow"))
        == 3
    )
    complaint(
        lambda: ACDC(tmp_path, condition="dust"),
        "data.condition=dust is none of all, fog, night, rain, snow",
    )


def test_gta5_trains_on_every_image_where_it_is_told_to(tmp_path: Path) -> None:
    trees.gta5(tmp_path)
    trees.save(
        tmp_path / "labels/00001_labelTrainIds.png", np.zeros((48, 96), np.uint8)
    )  # as other repositories leave beside
    assert GTA5(tmp_path, training="all").open("train").names == (
        "00001",
        "00002",
        "00003",
        "00004",
    )
    assert GTA5(tmp_path).open("train").names == ("00001", "00003")
    trees.matlab(tmp_path / "split.mat", trainIds=np.array([[1], [9]]))
    complaint(lambda: GTA5(tmp_path).open("train"), f"{tmp_path / 'split.mat'} names 00009")
    complaint(lambda: GTA5(tmp_path).open("val"), "holds no valIds", "download it again")


@pytest.mark.parametrize(("training", "left"), [("split", ("00001",)), ("all", ("00001", "00002"))])
def test_gta5_leaves_out_images_whose_label_has_another_size(
    tmp_path: Path, training: str, left: tuple[str, ...]
) -> None:
    shapes = {
        "00001": (48, 96),
        "00002": (48, 96),
        "15188": (40, 80),
        "20801": (48, 95),
        "20860": (47, 96),
    }
    for name, (height, width) in shapes.items():
        trees.save(tmp_path / f"images/{name}.png", np.zeros((height, width, 3), np.uint8))
        trees.save(tmp_path / f"labels/{name}.png", np.zeros((48, 96), np.uint8))
    trees.matlab(
        tmp_path / "split.mat",
        trainIds=np.array([[1], [15188]]),
        valIds=np.array([[20801], [2], [20860]]),
    )
    data = GTA5(tmp_path, training=training)
    assert data.open("train").names == left and data.open("val").names == ("00002",)
    for source in (data.open("train"), data.open("val")):
        assert all(source.window(index)[0].shape == (48, 96, 3) for index in range(len(source)))


def test_dark_zurich_has_nothing_to_train_on(tmp_path: Path) -> None:
    trees.darkzurich(tmp_path)
    complaint(lambda: DarkZurich(tmp_path).setup("fit"), "evaluate.py RUN --data darkzurich")


def test_every_data_set_has_a_tree_here() -> None:
    covered = {*CASES, "voc", "camvid32", "cityscapes", "camvid", "folder", "streets", "cells"}
    assert set(datamodules.names()) == covered


@pytest.mark.parametrize(
    ("data", "options", "counts"),
    [
        (Cityscapes, {}, (2975, 500)),
        (Cityscapes, {"training": "coarse"}, (19997, 500)),
        (Cityscapes, {"training": "fine+coarse"}, (22972, 500)),
        (VOC, {}, (10582, 1449)),
        (VOC, {"training": "train"}, (1464, 1449)),
        (Context, {"background": True}, (4998, 5105)),
        (CamVid32, {"grouped": False}, (367, 101)),
        (GTA5, {}, (12402, 6347)),
        (GTA5, {"training": "all"}, (24904, 6347)),
        (ACDC, {}, (1600, 406)),
        (ACDC, {"condition": "night"}, (400, 106)),
        (ACDC, {"condition": "fog"}, (400, 100)),
        (COCOStuff, {}, (118287, 5000)),
        (COCOStuff, {"release": "10k"}, (9000, 1000)),
        (Folder, {"root": "anywhere"}, (None, None)),
        (Streets, {}, (None, None)),
    ],
)
def test_official_counts_follow_the_options_that_choose_other_images(
    data: type, options: dict, counts: tuple
) -> None:
    made = data(**options)
    assert (made.counts.get("train"), made.counts.get("val")) == counts
