"""evaluate.py --shift and --across: scores of corrupted images and of other data sets, and what is refused."""

import json
from pathlib import Path

import pytest
from PIL import Image

from datamodules.shifts import Shifted
from experiments import evaluate
from experiments.judging import open_data
from experiments.networks import trained
from segmodels.metrics import JaccardIndex, scores
from tests import trees
from tests.checkpoints import written


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    trees.cityscapes(tmp_path / "Cityscapes", {"train": 1, "val": 3}, size=(64, 96))
    written(tmp_path / "last.ckpt", data="cityscapes")
    return tmp_path / "Cityscapes"


def shifted(tmp_path: Path, root: Path, *words: str) -> dict:
    assert evaluate.main([str(tmp_path / "last.ckpt"), *words, f"data.root={root}", "data.workers=0"]) == 0
    newest = max(tmp_path.glob("shift-*.json"), key=lambda file: file.stat().st_mtime_ns)
    return json.loads(newest.read_text())


def test_each_cell_is_the_score_of_the_corrupted_images(streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = shifted(tmp_path, streets, "--shift", "fog,jpeg", "--severities", "1,5")["shift"]
    assert {kind: sorted(cells) for kind, cells in found["kinds"].items()} == {"fog": ["1", "5"], "jpeg": ["1", "5"]}
    module = trained(tmp_path / "last.ckpt")
    source = open_data("cityscapes", {"root": streets}, "val", tmp_path / "last.ckpt", module).open("val")
    for each, score in ((source, found["clean"]), (Shifted(source, "fog", 5, 0), found["kinds"]["fog"]["5"])):
        judge = JaccardIndex(19)
        for index in range(len(each)):
            image, label = each.window(index)
            from experiments.seeing import label_of

            judge.update(as_tensor(label_of(module, image)), as_tensor(label))
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


def test_another_data_set_of_the_classes_stands_in_the_same_table(streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trees.bdd100k(tmp_path / "bdd")
    found = shifted(tmp_path, streets, "--across", f"bdd100k={tmp_path / 'bdd'}")["shift"]
    assert set(found["others"]) == {"bdd100k"} and found["kinds"] == {}
    assert "bdd100k" in capsys.readouterr().out


def test_a_second_network_is_measured_against_the_first(streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ("--shift", "night", "--severities", "3", "--shift-images", "2")
    shifted(tmp_path, streets, *words)
    first = next(tmp_path.glob("shift-*.json"))
    capsys.readouterr()
    again = shifted(tmp_path, streets, *words, "--reference", str(first))
    assert again["shift"]["setting"]["images"] == 2 and "CD" in capsys.readouterr().out
    assert (
        evaluate.main(
            [str(tmp_path / "last.ckpt"), "--shift", "fog", "--severities", "3", "--reference", str(first), f"data.root={streets}"]
        )
        == 2
    )
    assert capsys.readouterr().err.count("\n") >= 1


def test_an_option_of_the_data_may_follow_the_flag(streets: Path, tmp_path: Path) -> None:
    words = [str(tmp_path / "last.ckpt"), "--severities", "1", "--shift-images", "1", "data.workers=0", "--shift", f"data.root={streets}"]
    assert evaluate.main(words) == 0
    assert len(json.loads(next(tmp_path.glob("shift-*.json")).read_text())["shift"]["kinds"]) == 11


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shift", "fogg"], "did you mean fog?"),
        (["--shift", "--severities", "0,6"], "numbers from 1 to 5"),
        (["--shift", "--full"], "leave out --full"),
        (["--reference", "nowhere.json"], "add --shift"),
        (["--shift", "--reference", "nowhere.json"], "nowhere.json cannot be read"),
        (["--across", "acdc"], "write NAME=DIR"),
        (["--across", "acdcc=."], "did you mean acdc?"),
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
