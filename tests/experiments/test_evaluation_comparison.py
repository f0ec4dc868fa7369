"""Tests of `report.py --compare`: two evaluations, image by image, from their records."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.records.image_records import Examined
from experiments.report import main
from experiments.reports.evaluation_comparison import holm
from tests.support.results import result

CLASSES = ("road", "car", "train")  # no image shows a train


def maps(right: float, images: int = 40, seed: int = 0) -> np.ndarray:
    """(N, 3, 3) counts of two classes, of which about the share `right` is right.

    The truth is one for every share.
    """
    truth = np.random.default_rng(7).integers(50, 200, (images, 2))
    found = np.zeros((images, 3, 3), np.int64)
    hits = np.random.default_rng(seed).binomial(truth, right)
    found[:, [0, 1], [0, 1]] = hits
    found[:, [0, 1], [1, 0]] = truth - hits
    return found


def evaluation(
    folder: Path,
    name: str,
    confusions: np.ndarray,
    classes: tuple = CLASSES,
    names: list | None = None,
    **changes,
) -> str:
    """EVALUATION.json with its records beside it."""
    names = names or [f"image {number}" for number in range(len(confusions))]
    Examined("title", classes, [(0, 0, 0)] * 3, [], names, confusions).save(folder / f"{name}.npz")
    iou = dict.fromkeys(classes, None)
    (folder / f"{name}.json").write_text(json.dumps(result(iou=iou, **changes)))
    return str(folder / f"{name}.json")


def told(capsys: pytest.CaptureFixture, *files: str) -> str:
    assert main(["--compare", *files]) == 0
    return capsys.readouterr().out


def iou(confusion: np.ndarray, index: int) -> float:
    hit = confusion[index, index]
    return 100 * hit / (confusion[index].sum() + confusion[:, index].sum() - hit)


def test_the_difference_stands_with_both_scores_its_interval_and_its_chance(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    good, bad = maps(0.95), maps(0.8, seed=1)
    text = told(capsys, evaluation(tmp_path, "a", good), evaluation(tmp_path, "b", bad, seed=3))
    ours, theirs = ([iou(each.sum(0), index) for index in (0, 1)] for each in (good, bad))
    line = next(line for line in text.splitlines() if line.startswith("mIoU"))
    numbers = [float(each) for each in re.findall(r"-?\d+\.\d+", line)]
    assert numbers[:3] == pytest.approx(
        [np.mean(ours), np.mean(theirs), np.mean(ours) - np.mean(theirs)], abs=0.0051
    )
    assert numbers[3] < numbers[2] < numbers[4]
    assert numbers[5] == pytest.approx(1 / 10_001, abs=5e-5)
    assert "A        bisenet/resnet18, seed 0" in text
    assert "B        bisenet/resnet18, seed 3" in text
    road = next(line for line in text.splitlines() if line.startswith("road"))
    assert (
        f"{ours[0]:.2f}" in road
        and f"{theirs[0]:.2f}" in road
        and f"{ours[0] - theirs[0]:+.2f}" in road
    )
    train = next(line for line in text.splitlines() if line.startswith("train"))
    assert train.split() == ["train", "-", "-", "-", "-", "-"]
    assert "corrected by Holm for 2 classes" in text


def test_images_are_counted_and_those_that_differ_most_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first = maps(0.9, images=8)
    second = first.copy()
    for image, moved in ((2, 9), (5, 30), (6, -5)):  # worse by A's measure, then better
        second[image, 0, 0] -= moved
        second[image, 0, 1] += moved
    text = told(capsys, evaluation(tmp_path, "a", first), evaluation(tmp_path, "b", second))
    assert "A is better on 2, B on 1, alike on 5" in text
    named = [
        line.partition("  ")[0]
        for line in text.split("images that differ most")[1].splitlines()[1:6]
    ]
    assert named[:3] == ["image 5", "image 2", "image 6"]


def test_a_network_beside_itself_is_told_to_be_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text = told(capsys, evaluation(tmp_path, "a", maps(0.9)), evaluation(tmp_path, "b", maps(0.9)))
    assert "A - B +0.00 [+0.00, +0.00], p 1.0000" in text
    assert "A is better on 0, B on 0, alike on 40" in text


def test_other_protocols_are_compared_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    place = {"data": "cityscapes", "published": []}
    files = [
        evaluation(tmp_path, name, maps(0.9), protocol=name, **place)
        for name in ("whole", "resized:0.5")
    ]
    assert "careful: the protocols differ (A whole, B Seg50 (512x1024))" in told(capsys, *files)
    assert "careful" not in told(capsys, files[0], files[0])


def test_other_options_are_compared_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first = evaluation(tmp_path, "a", maps(0.9))
    second = evaluation(tmp_path, "b", maps(0.9), model={"output_stride": 8})
    said = told(capsys, first, second)
    assert "careful: the options differ (A as trained, B model.output_stride=8)" in said
    assert "careful" not in told(capsys, second, second)


def test_the_records_may_have_a_name_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = evaluation(tmp_path, "a", maps(0.9), records="kept.npz")
    (tmp_path / "a.npz").rename(tmp_path / "kept.npz")
    assert "alike on 40" in told(capsys, file, file)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "camvid"}, "different data streets and camvid"),
        ({"split": "test"}, "different split val and test"),
        ({"classes": ("road", "car", "bus")}, "different classes"),
        (
            {"names": [f"image {number}" for number in range(1, 41)]},
            "different images (40 and 40, 39 in common)",
        ),
        ({"confusions": maps(0.9) + 1}, "not judged on the same images"),
        ({"records": "nowhere.npz"}, "no nowhere.npz beside it"),
    ],
    ids=["data", "split", "classes", "names", "labels", "records"],
)
def test_what_is_not_of_the_same_images_is_refused(
    tmp_path: Path, changes: dict, words: str, capsys: pytest.CaptureFixture
) -> None:
    first = evaluation(tmp_path, "a", maps(0.9))
    second = evaluation(tmp_path, "b", **{"confusions": maps(0.8), **changes})
    assert main(["--compare", first, second]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_records_that_are_damaged_are_refused_with_their_file(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = evaluation(tmp_path, "a", maps(0.9))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    assert main(["--compare", file, file]) == 2
    assert "a.npz cannot be read" in capsys.readouterr().err


def test_a_comparison_goes_with_no_word_of_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = evaluation(tmp_path, "a", maps(0.9))
    assert main(["--compare", file, file, "--all", "--format", "csv"]) == 2
    assert "leave out --all, --format csv" in capsys.readouterr().err
    assert main(["--compare", file, file, "--out", str(tmp_path / "text")]) == 0
    assert "alike on 40" in (tmp_path / "text").read_text()


def test_holm_multiplies_the_smallest_most_and_never_reverses_an_order() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [
        pytest.approx(0.03),
        None,
        pytest.approx(0.06),
        pytest.approx(0.06),
    ]
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    ps = np.random.default_rng(0).uniform(size=6)
    slow = [
        max(min(1, (6 - sum(q < other for q in ps)) * other) for other in ps if other <= p)
        for p in ps
    ]
    assert holm(list(ps)) == pytest.approx(slow)
