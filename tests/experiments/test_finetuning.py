"""Tests of --recipe finetune: what it derives from the images, and what goes before it."""

import json
from pathlib import Path

import pytest
import torch

import segmodels
from datamodules import Folder
from experiments import run
from experiments.command_line.resolved_values import Resolved, resolve
from experiments.records import run_folder
from experiments.sweep.plan import settled
from experiments.training import train
from tests.support import trees
from tests.support.checkpoints import ROW, written
from tests.support.runs import CPU, assert_one_sentence, only

ORIGIN = "--recipe finetune"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four training images of 70 x 130, but for one that is less wide."""
    root = tmp_path / "data"
    classes = {"classes": ["road", "dog"], "ids": (0, 1)}
    trees.folder(root, {"train": 4, "val": 2}, size=(70, 130), **classes)
    trees.folder(root, {"train": 1}, size=(70, 118), **classes)
    return root


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    written(tmp_path / "trained.ckpt")
    return tmp_path / "trained.ckpt"


def derived(root: Path, *words: str, **how: bool) -> Resolved:
    given = [f"data.root={root}", *words]
    return settled(resolve(ROW, "folder", given, init="any.ckpt", preset="finetune", **how))


def origins(resolved: Resolved) -> dict[str, str]:
    return {name: resolved.origins[f"recipe.{name}"] for name in resolved.recipe}


def test_the_images_decide_crop_and_steps_and_all_of_it_is_a_departure(images: Path) -> None:
    before, after = resolve(ROW, "folder", []), derived(images)
    changes = {
        "crop": [70, 118],
        "iterations": 200,
        "lr": before.recipe["lr"] / 10,
        "warmup": 20,
    }
    assert after.recipe == before.recipe | changes
    assert {name for name, origin in origins(after).items() if origin == ORIGIN} == set(changes)
    told = {line.split()[0] for line in after.departures if line.endswith(f"({ORIGIN})")}
    assert told == {f"recipe.{name}" for name in changes}


def test_smoke_and_the_command_line_go_before_it(images: Path) -> None:
    words = ["recipe.lr=0.5", "recipe.batch=1", "recipe.warmup=7"]
    after = derived(images, *words)
    assert (after.recipe["lr"], after.recipe["warmup"]) == (0.5, 7)
    assert (after.recipe["batch"], after.recipe["iterations"]) == (1, 200)
    assert derived(images, "recipe.iterations=30").recipe["warmup"] == 3
    small = derived(images, smoke=True)
    assert (small.recipe["iterations"], small.recipe["crop"]) == (4, [64, 128])
    assert small.origins["recipe.lr"] == ORIGIN


def test_without_weights_to_start_from_it_is_refused(capsys: pytest.CaptureFixture) -> None:
    for words in ([], ["--init", "scratch"]):
        command = ["--model", ROW, "--data", "folder", "--recipe", "finetune", "--show"]
        assert run.main([*command, *words]) == 2
        assert_one_sentence(capsys.readouterr().err, "give them with --init, a run folder")


def test_it_is_shown_with_the_images_and_without_them(
    images: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["--model", ROW, "--data", "folder", "--recipe", "finetune", "--init", "any.ckpt"]
    assert run.main([*command, f"data.root={images}", "--show"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["recipe.crop", "(70,", "118)", *ORIGIN.split()] in lines
    assert run.main([*command, "--show"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "without what --recipe finetune derives from the images: folder needs"
    )
    assert ORIGIN not in printed.partition("\n")[2]


def test_a_run_stores_what_was_derived_and_goes_on_with_it(
    images: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr(train, "fit", lambda trainer, *rest, **also: found.append(trainer) or 0)
    command = ["--model", ROW, "--data", "folder", "--recipe", "finetune", *CPU]
    command += [f"data.root={images}", "--init", str(checkpoint), "--runs", str(tmp_path / "runs")]
    assert run.main(command) == 0
    folder = only(tmp_path / "runs")
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"]["crop"] == [70, 118] and config["origins"]["recipe.crop"] == ORIGIN
    assert found[0].max_steps == 200
    images.rename(tmp_path / "elsewhere")  # nothing is derived again
    again = run_folder.resolved_from(config)
    assert settled(again).recipe == config["recipe"]


def test_python_makes_the_same_recipe_and_the_same_start(
    images: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr(train, "fit", lambda _, module, *rest, **also: found.append(module) or 0)
    command = ["--model", ROW, "--data", "folder", "--recipe", "finetune", *CPU]
    command += [f"data.root={images}", "--init", str(checkpoint), "--runs", str(tmp_path / "runs")]
    assert run.main([*command, "recipe.precision=32-true"]) == 0
    data = Folder(images)
    row = segmodels.experiment(ROW).on(data).finetuned(*data.extent(), precision="32-true")
    module = row.build(len(data.class_names), seed=0)
    said = segmodels.start_from(module, str(checkpoint), data.class_names)
    assert "by their names the classes road of" in said and "new classes: dog" in said
    assert module.recipe == found[0].recipe
    theirs = found[0].state_dict()
    assert all(torch.equal(each, theirs[name]) for name, each in module.state_dict().items())


def test_a_sweep_knows_its_fine_tunings_again(
    images: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(train, "fit", lambda *unused, **also: 0)
    command = ["--model", ROW, "--data", "folder", "--recipe", "finetune", *CPU]
    command += [f"data.root={images}", "--init", str(checkpoint), "--runs", str(tmp_path / "runs")]
    assert run.main(command) == 0
    (only(tmp_path / "runs") / "checkpoints" / "last.ckpt").touch()
    capsys.readouterr()
    assert run.main([*command, "--seeds", "0,1", "--show"]) == 0
    printed = capsys.readouterr().out
    assert "seed 0 unfinished" in printed and "seed 1 new" in printed and " 200 " in printed
