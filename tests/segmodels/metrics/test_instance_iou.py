"""Tests of iIoU against the official Cityscapes script on files and numbers worked out by hand.

They also check the files that it needs.
"""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.camvid import CamVid
from datamodules.cityscapes import Cityscapes
from datamodules.labels import CITYSCAPES, LabelSet
from experiments.evaluation.submission import official_script
from segmodels.metrics import confusion_of, scores
from segmodels.metrics.instance_iou import instance_counts, instance_scores
from tests.support import trees
from tests.support.data import complaint
from tests.support.official import Maps, official_scores

SIZES, CATEGORIES = CITYSCAPES.instance_sizes, CITYSCAPES.categories
FILE_IDS = sorted(value for value in CITYSCAPES.ids + CITYSCAPES.void if value >= 0)
SIZE = (60, 100)
CAR, BUS, PERSON, ROAD = (CITYSCAPES.names.index(name) for name in ("car", "bus", "person", "road"))


def box(rng: np.random.Generator) -> tuple[slice, slice]:
    top, left = (int(rng.integers(0, side - 8)) for side in SIZE)
    return slice(top, top + int(rng.integers(4, 30))), slice(left, left + int(rng.integers(4, 40)))


def truth(rng: np.random.Generator, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Label ids and instance ids of boxes over each other, of every kind; a human or vehicle in four is a group."""
    label = np.full(SIZE, 7)
    instances = label.copy()
    for number in range(40):
        place, each = box(rng), int(rng.choice(ids))
        label[place], instances[place] = each, each
        if each >= 24 and rng.random() < 0.75:
            instances[place] = each * 1000 + number
    return label, instances


def guess(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    """The truth as a network sees it: something everywhere, shifted a little, some parts taken for others."""
    guessed = CITYSCAPES.table[label]
    guessed[guessed == 255] = rng.integers(19)
    guessed = np.roll(guessed, 1, (0, 1))
    for _ in range(15):
        guessed[box(rng)] = rng.integers(19)
    return guessed


def summed(predicted: Maps, ids: Maps, instances: Maps) -> tuple[torch.Tensor, torch.Tensor]:
    """Instance counts and confusion of a data set."""
    counts, confusion = 0, 0
    for each, label, instance in zip(predicted, ids, instances, strict=True):
        one, other = torch.from_numpy(each), torch.from_numpy(CITYSCAPES.encode(label))
        told = torch.from_numpy(CITYSCAPES.encode_instances(instance))
        counts = counts + instance_counts(one, other, told, 19, SIZES, CATEGORIES)
        confusion = confusion + confusion_of(one, other, 19)
    return counts, confusion


def assert_official(predicted: Maps, ids: Maps, instances: Maps, folder: Path) -> dict:
    official = official_scores(predicted, ids, folder, instances=instances)
    counts, confusion = summed(predicted, ids, instances)
    plain, found = scores(confusion, CATEGORIES), instance_scores(counts, SIZES, CATEGORIES)
    for ours, theirs in (
        (dict(zip(CITYSCAPES.names, plain["iou"])), official["classScores"]),
        (plain["categories"], official["categoryScores"]),
        (dict(zip(CITYSCAPES.names, found["iiou"])), official["classInstScores"]),
        (found["iiou_categories"], official["categoryInstScores"]),
    ):
        for name, score in ours.items():
            assert (
                score == pytest.approx(theirs[name], abs=1e-6)
                if score is not None
                else np.isnan(theirs[name])
            ), name
    for ours, theirs in (
        (plain["miou"], "averageScoreClasses"),
        (plain["category_miou"], "averageScoreCategories"),
        (found["miiou"], "averageScoreInstClasses"),
        (found["category_miiou"], "averageScoreInstCategories"),
    ):
        assert ours == pytest.approx(official[theirs], abs=1e-6, nan_ok=True)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("random", [True, False])
def test_every_score_is_the_official_scripts(seed: int, random: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    ids, instances = zip(*(truth(rng, FILE_IDS) for _ in range(4)))
    predicted = [
        rng.integers(19, size=SIZE).astype(np.uint8) if random else guess(rng, each) for each in ids
    ]
    found = assert_official(predicted, ids, instances, tmp_path)
    assert found["miiou"] > 0.03 and found["category_miiou"] > 0.1


def test_classes_that_occur_nowhere_are_left_out_as_officially(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    ids, instances = zip(
        *(truth(rng, [0, 7, 8, 26, 29]) for _ in range(2))
    )  # no human, and of the vehicles cars and caravans
    predicted = [np.where(each == 26, CAR, ROAD).astype(np.uint8) for each in ids]
    found = assert_official(predicted, ids, instances, tmp_path)
    assert found["iiou"][PERSON] is None
    assert found["iiou_categories"]["human"] is None
    assert found["iiou"][CAR] == 1


def test_a_label_that_is_all_ignored_gives_no_score(tmp_path: Path) -> None:
    ids = np.zeros(SIZE, int)
    found = assert_official([np.full(SIZE, CAR, np.uint8)], [ids], [ids], tmp_path)
    assert found["iiou"] == [None] * 19
    assert np.isnan(found["miiou"])
    assert np.isnan(found["category_miiou"])


def test_a_group_is_no_instance_but_a_car_predicted_on_it_is_right(tmp_path: Path) -> None:
    ids = np.full(SIZE, 7)
    ids[:, :50] = 26
    instances = ids.copy()
    instances[:20, :50] = 26001
    predicted = np.where(ids == 26, CAR, ROAD).astype(np.uint8)
    predicted[30:, :50] = ROAD  # misses half of the group
    assert assert_official([predicted], [ids], [instances], tmp_path)["iiou"][CAR] == 1


def test_an_instance_under_ignored_pixels_counts_as_officially(tmp_path: Path) -> None:
    ids = np.full(SIZE, 7)
    ids[:30, :40] = 26
    instances = np.where(ids == 26, 26003, ids)
    ids[:30, :20] = 1  # the ego vehicle, over half of the instance
    predicted = np.full(SIZE, ROAD, np.uint8)
    predicted[:30, :10], predicted[:30, 30:40] = CAR, CAR
    assert assert_official([predicted], [ids], [instances], tmp_path)["iiou"][CAR] == 0.5


def test_a_small_instance_weighs_as_much_as_a_large_one() -> None:
    instances = torch.full((1, 20), -1, dtype=torch.int32)
    instances[0, :8], instances[0, 8:10], instances[0, 10:12] = 1000, 1001, 2000
    label = torch.zeros(1, 20, dtype=torch.uint8)
    label[0, :10], label[0, 10:12], label[0, 19] = 1, 2, 255
    predicted = torch.zeros_like(label)
    predicted[0, :8], predicted[0, 10:12], predicted[0, 17:] = (
        1,
        1,
        1,
    )  # the large one, one of the other class, three more, one of them ignored
    sizes, categories = {1: 4.0, 2: 10.0}, ("ground", "thing", "thing")
    counts = instance_counts(predicted, label, instances, 3, sizes, categories)
    assert counts.tolist() == [[0, 0, 2], [4, 4, 4], [0, 10, 0], [0, 0, 2], [14, 4, 2]]
    found = instance_scores(counts, sizes, categories)
    assert found["iiou"] == [None, pytest.approx(4 / 12), 0]
    assert found["iiou_categories"] == {
        "ground": None,
        "thing": pytest.approx(14 / 20),
    }
    assert found["miiou"] == pytest.approx(1 / 6)
    assert found["category_miiou"] == pytest.approx(14 / 20)
    assert instance_scores(instance_counts(predicted, label, instances, 3, sizes), sizes) == {
        "miiou": found["miiou"],
        "iiou": found["iiou"],
    }


def test_a_category_with_a_class_without_instances_has_no_iiou() -> None:
    found = instance_scores(
        torch.ones(5, 3, dtype=torch.float64), {0: 5.0, 2: 5.0}, ("a", "a", "b")
    )
    assert found["iiou"] == [pytest.approx(1 / 3), None, pytest.approx(1 / 3)]
    assert found["iiou_categories"] == {"a": None, "b": pytest.approx(1 / 3)}


def test_maps_of_different_shapes_and_file_ids_are_refused() -> None:
    flat, told = torch.zeros(4, 6, dtype=torch.uint8), torch.full((4, 6), -1, dtype=torch.int32)
    with pytest.raises(
        ValueError, match=r"\(4, 6\), \(4, 6\), \(2, 6\): give the three maps of one image"
    ):
        instance_counts(flat, flat, told[:2], 19, SIZES)
    with pytest.raises(ValueError, match="the instance 26001 is of none of 19 classes"):
        instance_counts(flat, flat, told.masked_fill(told < 0, 26001), 19, SIZES)


def test_the_instances_of_cityscapes_are_the_scripts() -> None:
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    counted = [each.name for each in labels if each.hasInstances and not each.ignoreInEval]
    assert {CITYSCAPES.names[each]: pixels for each, pixels in SIZES.items()} == {
        name: official_script().args.avgClassSize[name] for name in counted
    }


def test_a_plain_id_is_no_instance_even_of_the_class_that_has_the_id_0() -> None:
    labels = LabelSet(
        ("cat", "dog"), ((1, 1, 1), (2, 2, 2)), (0, 3), instance_sizes={0: 5.0, 1: 5.0}
    )
    assert labels.encode_instances(np.uint16([[0, 3, 999, 3000, 3999, 4001]])).tolist() == [
        [-1, -1, -1, 1000, 1999, -1]
    ]


# --- the files


def test_instances_are_read_in_train_ids_from_folders_and_zips(tmp_path: Path) -> None:
    written = trees.cityscapes(tmp_path / "folder", {"val": 3})
    (tmp_path / "zips").mkdir()
    for kind in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(tmp_path / "zips" / f"{kind}_trainvaltest.zip", "w") as archive:
            for file in sorted((tmp_path / "folder" / kind).rglob("*.png")):
                archive.write(file, file.relative_to(tmp_path / "folder"))
    for data in (Cityscapes(tmp_path / "folder"), Cityscapes(tmp_path / "zips")):
        for index, name in enumerate(data.open("val").names):
            ids = written[f"val/{name}"][1]
            found = data.instances("val", index)
            label = CITYSCAPES.encode(ids)
            expected = trees.instance_ids(ids)
            assert found.dtype == np.int32 and found.shape == label.shape
            told = np.isin(label, list(SIZES)) & (
                expected >= 1000
            )  # a caravan is an instance, of no judged class
            assert np.array_equal(found >= 0, told) and 0 < told.mean() < (expected >= 1000).mean()
            assert np.array_equal(found[told] // 1000, label[told])
            assert np.array_equal(found[told] % 1000, expected[told] % 1000)


def test_who_has_no_file_of_instances_has_none(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path / "city", {"val": 2})
    data = Cityscapes(tmp_path / "city")
    (tmp_path / "city/gtFine/val/bochum/bochum_000001_000019_gtFine_instanceIds.png").unlink()
    assert data.instances("val", 0) is not None and data.instances("val", 1) is None
    trees.camvid(tmp_path / "camvid", {"val": 1})
    assert CamVid(tmp_path / "camvid").instances("val", 0) is None


def test_a_pack_has_no_instances(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    from experiments import pack

    trees.cityscapes(tmp_path / "city", {"train": 1, "val": 1})
    words = [
        "--data",
        "cityscapes",
        f"data.root={tmp_path / 'city'}",
        "--out",
        str(tmp_path / "packs"),
        "--workers",
        "1",
    ]
    assert pack.main(words) == 0
    assert Cityscapes(tmp_path / "packs").instances("val", 0) is None


def test_a_file_that_holds_no_instances_of_the_image_is_refused(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path, {"val": 1})
    folder = tmp_path / "gtFine/val/aachen"
    file = folder / "aachen_000000_000019_gtFine_instanceIds.png"
    shutil.copy(folder / "aachen_000000_000019_gtFine_labelIds.png", file)
    complaint(
        lambda: Cityscapes(tmp_path).instances("val", 0),
        f"{file} is a 48x96 picture of 8 bits",
        "16-bit channel",
    )
    trees.save(file, np.zeros((10, 12), np.uint16))
    complaint(lambda: Cityscapes(tmp_path).instances("val", 0), "10x12", "48x96")
    file.write_bytes(file.read_bytes()[:30])
    complaint(lambda: Cityscapes(tmp_path).instances("val", 0), f"{file} is cut short")
