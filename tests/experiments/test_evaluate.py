"""Tests of evaluate.py: the score of a checkpoint is the run's own, and that of a slow loop.

Checkpoints that cannot be scored are refused in one sentence.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn

from datamodules import CamVid
from datamodules.labels import CAMVID, CITYSCAPES, LabelSet
from experiments import evaluate
from experiments.benchmarks.memory import peak_mebibytes
from experiments.evaluation import score
from experiments.evaluation.image_sizes import mean, small_classes
from experiments.records.image_records import Examined
from experiments.records.results import read_results
from experiments.reports.paper_table import table
from segmodels.inference_modes import mode
from segmodels.module import SegmentationModule
from segmodels.own_checkpoints import from_checkpoint
from segmodels.paper import macs
from segmodels.recipe import Recipe
from tests.support import trees
from tests.support.checkpoints import BAD, ROW, changed, written
from tests.support.extras import onnx
from tests.support.paths import ROOT
from tests.support.pictures import listing

SMALL = ["data.height=64", "data.width=128", "data.val=4", "data.test=4"]
THREE = LabelSet(("road", "tree", "sky"), ((1, 2, 3), (0, 200, 0), (0, 0, 250)), (0, 1, 2), (255,))


def result(*words: object, out: Path) -> dict:
    assert evaluate.main([*map(str, words), "--out", str(out)]) == 0
    return json.loads(out.read_text())


def counted(pairs: Iterator[tuple[np.ndarray, np.ndarray]], classes: int) -> list[float | None]:
    """IoU per class, pixel by pixel."""
    hit, seen = [0] * classes, [0] * classes
    for predicted, label in pairs:
        for guess, true in zip(predicted.flat, label.flat):
            if true == 255:
                continue
            hit[true] += int(guess == true)
            for each in {int(guess), int(true)}:
                seen[each] += 1
    return [hit[each] / seen[each] if seen[each] else None for each in range(classes)]


def predicted(
    module: SegmentationModule, image: np.ndarray, inference: str, half: bool = False
) -> np.ndarray:
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        return mode(inference)(module, pixels).full().argmax(1)[0].numpy()


# --- the score


@pytest.mark.parametrize(
    "words",
    [
        ["", "--checkpoint", "last"],
        ["checkpoints", "--checkpoint", "last"],
        ["checkpoints/last.ckpt"],
    ],
)
def test_a_run_gets_the_score_that_it_gave_itself(
    words: list[str], smoke_run: Path, tmp_path: Path
) -> None:
    place, *choice = words
    own, again = (
        json.loads((smoke_run / "result.json").read_text()),
        result(smoke_run / place, *choice, out=tmp_path / "again.json"),
    )
    elsewhere = (
        "best",
        "seconds",
        "cpu_seconds",
        "date",
        "commit",
        "interval",
        "records",
    )  # the last two come of each image
    assert {key: value for key, value in again.items() if key not in elsewhere} == {
        k: v for k, v in own.items() if k not in elsewhere
    }
    assert own["iou"]["road"] > 0


def test_without_a_word_a_runs_best_weights_are_scored_and_that_they_were_chosen_is_said(
    smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = json.loads((smoke_run / "result.json").read_text())["best"]
    found = result(smoke_run, out=tmp_path / "best.json")
    assert {"miou": found["miou"], "step": found["iterations"]} | {
        "checkpoint": found["checkpoint"]
    } == best
    sentence = "chosen by its score on these images; --checkpoint last evaluates the run's last one"
    assert sentence in capsys.readouterr().out
    result(smoke_run, "--split", "test", out=tmp_path / "test.json")
    result(smoke_run, "--checkpoint", "last", out=tmp_path / "last.json")
    assert "chosen" not in capsys.readouterr().out


def test_a_checkpoint_that_left_its_run_gets_the_same_score_on_the_same_data(
    smoke_run: Path, tmp_path: Path
) -> None:
    moved = shutil.copy(smoke_run / "checkpoints" / "last.ckpt", tmp_path / "moved.ckpt")
    own, again = (
        json.loads((smoke_run / "result.json").read_text()),
        result(moved, *SMALL, out=tmp_path / "again.json"),
    )
    assert again["iou"] == own["iou"]
    assert again["checkpoint"] == "moved.ckpt"
    assert again["overrides"] == {
        "data.height": 64,
        "data.width": 128,
        "data.val": 4,
        "data.test": 4,
    }


def odd_images(root: Path) -> dict[str, trees.Arrays]:
    """Two of one odd size and one of another."""
    pairs = trees.folder(root, {"train": 1, "val": 2}, list(THREE.names), size=(45, 61))
    image, label = trees.noise((37, 83), (0, 1, 2, 255), seed=9)
    trees.save(root / "val" / "images" / "wide.png", image)
    trees.save(root / "val" / "masks" / "wide.png", label)
    return {name: pair for name, pair in pairs.items() if name.startswith("val/")} | {
        "val/wide": (image, label)
    }


MODES = [
    "whole", "flip", "resized:0.5", "resized:1.25", "slide:33x47", "slide:100x40/60x13", "multiscale:0.5,1,1.5",
    "multiscale:0.75,1+flip", "multiscale:0.75,1.25+flip+slide:33x33/20x20", "crf:3+flip",
]  # fmt: skip


@pytest.mark.parametrize("inference", MODES)
def test_every_inference_mode_scores_images_of_odd_sizes_as_a_slow_loop_does(
    inference: str, tmp_path: Path
) -> None:
    module, images = (
        written(tmp_path / "three.ckpt", labels=THREE, data="folder"),
        odd_images(tmp_path / "images"),
    )
    words = (f"data.root={tmp_path / 'images'}", "data.workers=0", "--inference", inference)
    found = result(tmp_path / "three.ckpt", *words, out=tmp_path / "found.json")
    maps = [(predicted(module, image, inference), label) for image, label in images.values()]
    assert len(np.unique(maps[0][0])) > 1
    assert list(found["iou"].values()) == pytest.approx(counted(iter(maps), 3), abs=1e-12)
    assert (found["protocol"], found["images"], found["data"]) == (inference, 3, "folder")


@pytest.mark.parametrize(
    ("precision", "recorded"),
    [("32-true", "32-true"), ("bf16-mixed", "bf16-mixed"), ("16-mixed", "bf16-mixed")],
)
def test_precision_is_what_was_asked_for_and_the_result_says_which(
    precision: str, recorded: str, tmp_path: Path
) -> None:
    if precision == "16-mixed" and torch.accelerator.is_available():
        pytest.skip("float16 is computed here")
    module, images = (
        written(tmp_path / "three.ckpt", labels=THREE, data="folder").fast_form(),
        odd_images(tmp_path / "images"),
    )
    words = ("--precision", precision, f"data.root={tmp_path / 'images'}", "data.workers=0")
    found = result(tmp_path / "three.ckpt", *words, out=tmp_path / "found.json")
    scores = {
        half: counted(
            ((predicted(module, i, "whole", half), label) for i, label in images.values()), 3
        )
        for half in (False, True)
    }
    assert scores[False] != scores[True]
    assert list(found["iou"].values()) == pytest.approx(scores[recorded == "bf16-mixed"], abs=1e-12)
    assert found["precision"] == recorded


@onnx
@pytest.mark.slow
def test_onnxruntime_scores_what_torch_does_and_the_result_says_which(tmp_path: Path) -> None:
    written(tmp_path / "three.ckpt", labels=THREE, data="folder")
    odd_images(tmp_path / "images")
    words = (tmp_path / "three.ckpt", f"data.root={tmp_path / 'images'}", "data.workers=0")
    torch_own = result(*words, out=tmp_path / "torch.json")
    found = result(*words, "--runtime", "onnxruntime", out=tmp_path / "found.json")
    assert (torch_own["runtime"], found["runtime"]) == ("torch", "onnxruntime")
    assert found["miou"] == pytest.approx(torch_own["miou"], abs=1e-3)


@pytest.mark.parametrize(
    "more", [[], ["--beside", "three.ckpt"], ["--shift", "contrast", "--severities", "1"]]
)
def test_the_device_is_the_one_asked_for(
    more: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "three.ckpt", labels=THREE, data="folder")
    odd_images(tmp_path / "images")
    words = ["three.ckpt", "data.root=images", "data.workers=0", *more, "--device"]
    there = torch.backends.mps
    monkeypatch.setattr(there, "is_available", lambda: False)
    sentence = refused(capsys, tmp_path, [*words, "mps"])
    assert "--device mps: this torch sees no MPS device; give --device cpu" in sentence
    # a GPU that could compute nothing, were it asked to
    monkeypatch.setattr(there, "is_available", lambda: True)
    asked = []

    def trainer(**options: Any) -> Trainer:
        asked.append(options["accelerator"])
        return Trainer(**options)

    monkeypatch.setattr(score, "Trainer", trainer)
    assert evaluate.main([*words, "cpu"]) == 0
    assert set(asked) == {"cpu"}


def test_camvids_test_split_is_scored_in_its_official_layout(tmp_path: Path) -> None:
    module = written(tmp_path / "camvid.ckpt", labels=CAMVID, data="camvid")
    pairs = trees.camvid(tmp_path / "CamVid", {"train": 1, "val": 1, "test": 3})
    words = ("--split", "test", f"data.root={tmp_path / 'CamVid'}", "data.workers=0")
    found = result(tmp_path / "camvid.ckpt", *words, out=tmp_path / "found.json")
    tested = [
        (image, np.where(ids == 11, 255, ids))
        for name, (image, ids) in pairs.items()
        if name.startswith("test/")
    ]
    slow = counted(((predicted(module, image, "whole"), label) for image, label in tested), 11)
    assert list(found["iou"].values()) == pytest.approx(slow, abs=1e-12)
    assert (found["split"], found["images"], found["pixels"]) == (
        "test",
        3,
        sum((label != 255).sum() for _, label in tested),
    )


def test_a_checkpoint_of_cityscapes_classes_is_scored_on_another_data_set_of_them(
    tmp_path: Path,
) -> None:
    written(tmp_path / "streets.ckpt")
    trees.cityscapes(tmp_path / "Cityscapes", {"train": 1, "val": 2})
    words = ("--data", "cityscapes", f"data.root={tmp_path / 'Cityscapes'}", "data.workers=0")
    assert (
        result(tmp_path / "streets.ckpt", *words, out=tmp_path / "found.json")["data"]
        == "cityscapes"
    )


# --- options of the network


def as_if_trained_with(file: Path, other: Path, **options: Any) -> Path:
    """The same weights, in a checkpoint that says that they were trained with other options."""
    content = torch.load(file, weights_only=True)
    content["segmodels"]["model"] |= options
    torch.save(content, other)
    return other


def test_a_network_is_scored_with_another_option_and_the_result_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written(tmp_path / "last.ckpt", address="emanet/resnet50")
    five = as_if_trained_with(tmp_path / "last.ckpt", tmp_path / "five.ckpt", eval_iterations=5)
    plain = result(tmp_path / "last.ckpt", *SMALL, out=tmp_path / "plain.json")
    wanted = result(five, *SMALL, out=tmp_path / "wanted.json")
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "last.ckpt"), *SMALL, "model.eval_iterations=5"]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said.endswith("on 4 images of streets val (whole, model.eval_iterations=5, 32-true)")
    (file,) = tmp_path.glob("evaluation-*.json")
    assert file.name == "evaluation-last-streets-val-whole-eval_iterations_5.json"
    found = json.loads(file.read_text())
    assert found["iou"] == wanted["iou"] != plain["iou"]
    assert (found["model"], plain["model"]) == ({"eval_iterations": 5}, {})
    assert found["overrides"] == plain["overrides"] | {"model.eval_iterations": 5}
    read = read_results([tmp_path / "plain.json", file])
    rows = table(replace(each, finished=True) for each in read)
    words = "emanet/resnet50 data.height=64 data.test=4 data.val=4 data.width=128"
    assert [row.name for row in rows] == [words, f"{words} model.eval_iterations=5"]


def test_an_option_that_it_was_trained_with_changes_nothing(tmp_path: Path) -> None:
    written(tmp_path / "last.ckpt")
    plain = result(tmp_path / "last.ckpt", *SMALL, out=tmp_path / "plain.json")
    again = result(tmp_path / "last.ckpt", *SMALL, "model.arm=true", out=tmp_path / "again.json")
    assert (again["model"], again["overrides"]) == ({}, plain["overrides"])
    assert again["iou"] == plain["iou"]


def test_a_shift_takes_options_too(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    written(tmp_path / "last.ckpt", address="emanet/resnet50")
    words = ["model.eval_iterations=5", *SMALL, "--severities", "1"]
    assert evaluate.main([str(tmp_path / "last.ckpt"), "--shift", "fog", *words]) == 0
    (file,) = tmp_path.glob("shift-*.json")
    assert file.name == "shift-last-streets-val-whole-eval_iterations_5.json"
    assert json.loads(file.read_text())["model"] == {"eval_iterations": 5}


# --- the result


def test_the_report_reads_an_evaluation(smoke_run: Path, tmp_path: Path) -> None:
    result(smoke_run, "--inference", "flip", "--split", "test", out=tmp_path / "flip.json")
    (read,) = read_results([tmp_path / "flip.json"])
    assert (read.experiment, read.protocol, read.split, read.checkpoint) == (
        ROW,
        "flip",
        "test",
        "checkpoints/best.ckpt",
    )


def test_an_evaluation_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    written(tmp_path / "best.ckpt")
    command = [str(tmp_path / "best.ckpt"), *SMALL, "--inference", "resized:0.5"]
    names = [
        "evaluation-best-streets-val-resized_0.5.json",
        "evaluation-best-streets-val-resized_0.5-1.json",
    ]
    for count in (1, 2):
        assert evaluate.main(command) == 0
        assert sorted(file.name for file in tmp_path.glob("*.json")) == sorted(names[:count])
        (tmp_path / names[0]).write_text("mine")
    assert names[1] in capsys.readouterr().out
    assert evaluate.main([*command, "--out", str(tmp_path / names[0])]) == 2
    assert f"{names[0]} exists and is not overwritten" in capsys.readouterr().err
    assert (tmp_path / names[0]).read_text() == "mine"


def test_the_screen_says_what_was_scored_and_how(
    smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ("--checkpoint", "last", "--precision", "32-true")
    result(smoke_run, *words, out=tmp_path / "found.json")
    printed = capsys.readouterr()
    assert printed.out.startswith(
        f"{ROW} after 4 steps, on 4 images of streets val (whole, 32-true)\n"
    )
    assert "ranks nothing" in printed.out and printed.out.endswith(
        f"result       {tmp_path / 'found.json'}\n"
    )
    assert printed.err == ""


# --- several image sizes


def test_a_checkpoint_is_scored_at_several_sizes_side_by_side(
    smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(smoke_run, run)
    half = result(
        run, "--checkpoint", "last", "--inference", "resized:0.5", out=tmp_path / "a.json"
    )
    capsys.readouterr()
    assert evaluate.main([str(run), "--checkpoint", "last", "--sizes", "0.5,1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("size  image"))
    first, second = (line.split() for line in lines[start + 1 : start + 3])
    height, width = 64, 128
    assert first[:3] == ["0.5", f"{height // 2}x{width // 2}", f"{100 * half['miou']:.1f}"]
    assert second[:2] == ["1", f"{height}x{width}"]
    network = from_checkpoint(run / "checkpoints" / "last.ckpt")
    assert first[5] == f"{macs(network, (height // 2, width // 2)) / 1e9:.3g}G"
    stored = sorted(file.name for file in (run / "checkpoints").glob("evaluation-last-*.json"))
    assert [name.split("-")[-1] for name in stored] == ["resized_0.5.json", "whole.json"]


def test_small_classes_are_the_half_with_the_fewest_pixels_where_they_are_shown() -> None:
    pixels = [[90, 10, 0, 0], [95, 0, 5, 0]]  # by image and class; the last one is never shown
    confusions = np.stack([np.diag(each) for each in pixels])
    examined = Examined("", ["road", "car", "pole", "train"], [], [], ["a", "b"], confusions)
    assert small_classes(examined) == {"pole"}
    scores = {"road": 0.9, "car": 0.5, "pole": 0.1, "train": None}
    assert mean(scores, {"road", "car", "train"}) == pytest.approx(0.7)
    assert mean(scores, {"train"}) is None


# --- what is refused


def refused(capsys: pytest.CaptureFixture, folder: Path, words: list[object]) -> str:
    """The sentence; nothing may be written or changed on the way to it."""
    before = listing(folder)
    assert evaluate.main([str(word) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert listing(folder) == before
    return printed.err


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_checkpoint_is_refused_in_one_sentence(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write, words = BAD[kind]
    write(tmp_path / "bad.ckpt")
    sentence = refused(capsys, tmp_path, [tmp_path / "bad.ckpt", *SMALL])
    assert str(tmp_path / "bad.ckpt") in sentence and words in sentence


def test_a_place_without_a_checkpoint_is_answered_with_the_nearest_one(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "runs" / "first" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "empty").mkdir()
    assert "empty holds no checkpoints/last.ckpt; give" in refused(
        capsys, tmp_path, [tmp_path / "empty"]
    )
    assert f"(did you mean {tmp_path / 'runs' / 'first'}?)" in refused(
        capsys, tmp_path, [tmp_path / "runs"]
    )
    assert f"(did you mean {tmp_path / 'runs'}?)" in refused(capsys, tmp_path, [tmp_path / "rnus"])
    assert f"there is no {tmp_path / 'far' / 'away.ckpt'}; give" in refused(
        capsys, tmp_path, [tmp_path / "far" / "away.ckpt"]
    )


def test_a_checkpoint_of_another_class_count_than_the_data_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written(tmp_path / "streets.ckpt")
    trees.camvid(tmp_path / "CamVid", {"train": 1, "val": 1})
    words = [tmp_path / "streets.ckpt", "--data", "camvid", f"data.root={tmp_path / 'CamVid'}"]
    sentence = refused(capsys, tmp_path, words)
    assert (
        f"{tmp_path / 'streets.ckpt'} has 19 classes (road, sidewalk, building, ...) "
        "and camvid has 11" in sentence
    )
    assert "evaluate it on the data set it was trained on (streets)" in sentence


def test_a_checkpoint_that_names_no_data_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    changed(tmp_path / "bare.ckpt", {}, drops=("data", "palette"))
    assert f"{tmp_path / 'bare.ckpt'} does not say its data, palette; give" in refused(
        capsys, tmp_path, [tmp_path / "bare.ckpt"]
    )


WRONG = [
    (["--data", "cityscape"], "did you mean cityscapes"),
    (["--data", "cityscapes"], "Cityscapes needs a folder: give data.root=DIR"),
    (["--data", "cityscapes", "data.root=nowhere"], "there is no folder nowhere"),
    (
        ["--data", "cityscapes", "--split", "test", "data.root=tests"],
        "Cityscapes's test labels are not public",
    ),
    (["data.root=nowhere"], "streets are made, not read"),
    (["data.hieght=64"], "did you mean data.height"),
    (["recipe.lr=1"], "there is no group recipe"),
    (["recipe.lr=1"], "there are data, model"),
    (["height=64"], "height=64 is not understood; write group.name=value"),
    (["model.amr=1"], "there is no field model.amr; did you mean model.arm"),
    (["model.arm=maybe"], "model.arm=maybe: it takes true or false"),
    (["model.arm=false"], "model.arm=False makes another network than the one in"),
    (["--shift", "model.arm=maybe"], "model.arm=maybe: it takes true or false"),
    (["data.val=none"], "it takes a whole number"),
    (["--inference", "slid:3x3"], "no inference mode; there are whole"),
    (["--out", "no/such/folder/result.json"], "there is no folder no/such/folder for result.json"),
    (["--out", "tests/experiments/test_evaluate.py"], "exists and is not overwritten"),
    (["--out", "found.png"], "a result is a .json file; write --out found.png.json"),
    (["--sizes", "0.5,1", "--out", "found.json"], "--sizes scores several times and --out names"),
    (["--sizes", "0.5", "--shift"], "leave out --sizes"),
    (["--submit", "new", "--full"], "leave out --full"),
    (["--submit", "new", "--protocols"], "leave out --protocols"),
]


@pytest.mark.parametrize(("words", "answer"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_a_wrong_word_or_place_is_refused_with_the_remedy(
    words: list[str],
    answer: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    written(tmp_path / "streets.ckpt")
    assert answer in refused(capsys, tmp_path, [tmp_path / "streets.ckpt", *words])


def test_a_result_that_cannot_be_written_is_known_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "access", lambda folder, how: folder != tmp_path
    )  # permissions do not stop root
    written(tmp_path / "streets.ckpt")
    assert f"{tmp_path} cannot be written to; give --out FILE" in refused(
        capsys, tmp_path, [tmp_path / "streets.ckpt", *SMALL]
    )


def test_the_records_of_another_result_are_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written(tmp_path / "streets.ckpt")
    (tmp_path / "found.npz").write_text("mine")
    assert (
        evaluate.main(
            [str(tmp_path / "streets.ckpt"), *SMALL, "--out", str(tmp_path / "found.json")]
        )
        == 2
    )
    assert (
        f"{tmp_path / 'found.npz'} exists and would be written beside found.json"
        in capsys.readouterr().err
    )
    assert (tmp_path / "found.npz").read_text() == "mine"


def test_images_without_a_label_are_refused_and_give_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written(tmp_path / "last.ckpt", data="cityscapes")
    trees.cityscapes(tmp_path / "data", {"train": 1, "val": 2}, size=(64, 96))
    for file in (tmp_path / "data").glob("gtFine/val/*/*_labelIds.png"):
        trees.save(file, np.zeros((64, 96), np.uint8))
    assert (
        evaluate.main(
            [str(tmp_path / "last.ckpt"), f"data.root={tmp_path / 'data'}", "data.workers=0"]
        )
        == 2
    )
    assert "error: no pixel of cityscapes val has a label" in capsys.readouterr().err
    assert not list(tmp_path.glob("evaluation-*"))


def test_an_image_that_breaks_off_is_named_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(CamVid, "counts", {"train": 1, "val": 5})  # else it notes that some lack
    written(tmp_path / "camvid.ckpt", labels=CAMVID, data="camvid")
    trees.camvid(tmp_path / "CamVid", {"train": 1, "val": 5})
    broken = sorted((tmp_path / "CamVid" / "val").iterdir())[
        1
    ]  # not among those that are looked at first
    broken.write_bytes(broken.read_bytes()[:500])
    words = [tmp_path / "camvid.ckpt", f"data.root={tmp_path / 'CamVid'}", "data.workers=0"]
    assert f"{broken} is cut short or damaged" in refused(capsys, tmp_path, words)


ASK = """
import sys
from experiments import {program}
try:
    code = {program}.main(sys.argv[1:])
except SystemExit as end:
    code = end.code
assert "torch" not in sys.modules
sys.exit(code)
"""


@pytest.mark.parametrize("program", ["evaluate", "predict"])
def test_help_and_refusals_come_at_once_and_fit_80_columns(program: str) -> None:
    for words, expected in ((["--help"], 0), (["nowhere.ckpt", "a.png", "--out", "b"], 2)):
        command = [sys.executable, "-c", ASK.format(program=program), *words]
        ended = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"COLUMNS": "80"}, capture_output=True, text=True
        )
        assert ended.returncode == expected and "Traceback" not in ended.stderr
        assert all(len(line) <= 80 for line in ended.stdout.splitlines())


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("model.amr=true", "did you mean model.arm"),
        ("model.arm=maybe", "it takes true or false"),
        ("data.hieght=64", "did you mean data.height"),
        ("recipe.lr=1", "there is no group recipe"),
    ],
)
def test_a_runs_config_refuses_wrong_options_before_torch_is_imported(
    word: str, answer: str, smoke_run: Path
) -> None:
    command = [sys.executable, "-c", ASK.format(program="evaluate"), str(smoke_run), word]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert answer in ended.stderr


# --- memory


class Eighth(SegmentationModule):
    """19 classes at 1/8 of the size, and no activation beside them."""

    def __init__(self) -> None:
        super().__init__(num_classes=len(CITYSCAPES.names))
        self.classifier = nn.Conv2d(3, self.num_classes, 8, 8)

    def features(self, image: Tensor) -> Tensor:
        return image


@pytest.mark.slow
@torch.inference_mode()
def test_no_mode_holds_the_logits_of_a_whole_image() -> None:
    module, image = Eighth().eval(), torch.randint(256, (1, 3, 1024, 2048), dtype=torch.uint8)
    full = 4 * 19 * 1024 * 2048 / 2**20  # 152 MiB
    alone = peak_mebibytes(lambda: module.logits(module.normalized(image)))
    assert peak_mebibytes(lambda: module(image).argmax(1)) > full  # so that the measure is one
    for inference in ("whole", "flip", "resized:0.5", "slide:769x769", "multiscale:0.5,0.75+flip"):
        module.recipe = Recipe(inference=inference)
        beside = peak_mebibytes(lambda: module.label_map(image)) - alone
        assert beside < full / 2, f"{inference} holds {beside:.0f} MiB"
