"""Tests of evaluate.py --shift and --across: corrupted images, other data sets, refusals."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.corruptions import Corrupted
from experiments import evaluate
from experiments.evaluation import robustness
from experiments.evaluation.score import open_data
from experiments.records.trained_networks import trained
from segmodels.metrics import JaccardIndex, scores
from tests.support import trees
from tests.support.checkpoints import written


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    trees.cityscapes(tmp_path / "Cityscapes", {"train": 1, "val": 3}, size=(64, 96))
    written(tmp_path / "last.ckpt", data="cityscapes")
    return tmp_path / "Cityscapes"


def shifted(tmp_path: Path, root: Path, *words: str) -> dict:
    before = set(tmp_path.glob("shift-*.json"))
    assert (
        evaluate.main([str(tmp_path / "last.ckpt"), *words, f"data.root={root}", "data.workers=0"])
        == 0
    )
    (new,) = set(tmp_path.glob("shift-*.json")) - before
    return json.loads(new.read_text())


def test_each_cell_is_the_score_of_the_corrupted_images(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = shifted(tmp_path, streets, "--shift", "fog,contrast", "--severities", "1,5")["shift"]
    assert {kind: sorted(cells) for kind, cells in found["kinds"].items()} == {
        "fog": ["1", "5"],
        "contrast": ["1", "5"],
    }
    module = trained(tmp_path / "last.ckpt")
    source = open_data("cityscapes", {"root": streets}, "val", tmp_path / "last.ckpt", module).open(
        "val"
    )
    for each, score in (
        (source, found["clean"]),
        (Corrupted(source, "fog", 5), found["kinds"]["fog"]["5"]),
    ):
        judge = JaccardIndex(19)
        for index in range(len(each)):
            image, label = each.window(index)
            from segmodels.prediction import predict

            judge.update(as_tensor(predict(module, image)), as_tensor(label))
        assert scores(judge.confmat)["miou"] == pytest.approx(score, abs=1e-6)
    assert found["setting"]["images"] == 3 and "fog" in capsys.readouterr().out
    pictures = sorted(file.name for file in tmp_path.glob("shift-*.png"))
    assert len(pictures) == 2
    for name in pictures:
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 400


def as_tensor(array: object) -> object:
    import torch

    return torch.from_numpy(array)


def test_another_data_set_of_the_classes_stands_in_the_same_table(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trees.bdd100k(tmp_path / "bdd")
    found = shifted(tmp_path, streets, "--across", f"bdd100k={tmp_path / 'bdd'}")["shift"]
    assert set(found["others"]) == {"bdd100k"} and found["kinds"] == {}
    assert "bdd100k" in capsys.readouterr().out


def test_a_second_network_is_measured_against_the_first(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ("--shift", "snow", "--severities", "3", "--shift-images", "2")
    shifted(tmp_path, streets, *words)
    first = next(tmp_path.glob("shift-*.json"))
    capsys.readouterr()
    again = shifted(tmp_path, streets, *words, "--reference", str(first))
    assert again["shift"]["setting"]["images"] == 2 and "CD" in capsys.readouterr().out


def test_a_reference_of_another_kind_is_refused_before_the_work(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted(tmp_path, streets, "--shift", "snow", "--severities", "3", "--shift-images", "2")
    monkeypatch.setattr(
        robustness, "run_trainer", lambda *given: pytest.fail("a network was evaluated")
    )
    again = [
        str(tmp_path / "last.ckpt"),
        "--severities",
        "3",
        "--reference",
        str(next(tmp_path.glob("shift-*.json"))),
    ]
    for words, said in (
        (["--shift", "fog", "--shift-images", "2"], "the reference lacks fog in some severity"),
        (["--shift", "snow", "--shift-images", "3"], "the reference's images is 2 and not 3"),
    ):
        capsys.readouterr()
        assert evaluate.main([*again, *words, f"data.root={streets}", "data.workers=0"]) == 2
        assert said in capsys.readouterr().err


def test_images_without_a_label_are_refused(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    nothing = unlabeled(tmp_path / "nothing")
    for words, of in (
        (["--shift", "fog", f"data.root={nothing}"], "the images"),
        (["--across", f"bdd100k={bdd(tmp_path)}"], "bdd100k"),
    ):
        words = [*words, *([] if "--shift" in words else [f"data.root={streets}"])]
        assert evaluate.main([str(tmp_path / "last.ckpt"), *words, "data.workers=0"]) == 2
        assert f"no pixel of {of} has a label" in capsys.readouterr().err
    assert not list(tmp_path.glob("shift-*"))


def unlabeled(root: Path) -> Path:
    trees.cityscapes(root, {"train": 1, "val": 2}, size=(64, 96))
    return void(root, "gtFine/val/*/*_labelIds.png", 0)


def bdd(root: Path) -> Path:
    trees.bdd100k(root / "bdd")
    return void(root / "bdd", "**/*.png", 255)


def void(root: Path, labels: str, value: int) -> Path:
    for file in root.glob(labels):
        trees.save(file, np.full_like(np.asarray(Image.open(file)), value))
    return root


def test_a_folder_taken_for_kinds_of_shift_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert evaluate.main(["--shift", str(tmp_path)]) == 2
    assert (
        f"--shift took {tmp_path} for its kinds; name the network before --shift"
        in capsys.readouterr().err
    )


def test_an_option_of_the_data_may_follow_the_flag(streets: Path, tmp_path: Path) -> None:
    words = [
        str(tmp_path / "last.ckpt"),
        "--severities",
        "1",
        "--shift-images",
        "1",
        "data.workers=0",
        "--shift",
        f"data.root={streets}",
    ]
    assert evaluate.main(words) == 0
    assert len(json.loads(next(tmp_path.glob("shift-*.json")).read_text())["shift"]["kinds"]) == 11


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shift", "fogg"], "did you mean fog?"),
        (["--shift", "--severities", "0,6"], "numbers from 1 to 5"),
        (["--shift", "--full"], "leave out --full"),
        (["--shift", "--page", "new.html"], "leave out --page"),
        (["--across", "acdc=.", "--reference", "nowhere.json"], "add --shift"),
        (["--reference", "nowhere.json"], "add --shift"),
        (["--shift", "--reference", "nowhere.json"], "nowhere.json cannot be read"),
        (["--across", "acdc"], "write NAME=DIR"),
        (["--across", "acdcc=."], "did you mean acdc?"),
        (["--across", "acdc=nowhere"], "ACDC: there is no folder nowhere"),
        (["--shift", "--shift-images", "0"], "from 1 up"),
    ],
)
def test_a_wrong_word_is_refused_in_one_sentence(
    words: list[str], said: str, streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert evaluate.main([str(tmp_path / "last.ckpt"), *words, f"data.root={streets}"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert said in error[-1] and sum(line.startswith("error") for line in error) == 1
    assert not list(tmp_path.glob("shift-*"))


def test_a_place_that_cannot_be_written_to_is_told_before_the_shifts(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "access", lambda folder, how: folder != tmp_path
    )  # permissions do not stop root
    assert evaluate.main([str(tmp_path / "last.ckpt"), "--shift", f"data.root={streets}"]) == 2
    assert (
        f"{tmp_path} cannot be written to; copy the checkpoint to another folder"
        in capsys.readouterr().err
    )
