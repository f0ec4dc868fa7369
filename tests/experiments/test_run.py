"""Tests of whole runs through `experiments.run.main`.

They check the files of a run, how it is killed and resumed, and refusals.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import segmodels
from datamodules import DataError
from datamodules.labels import CITYSCAPES
from experiments import evaluate, run
from experiments.command_line.resolved_values import resolve
from experiments.records.metrics import read_metrics
from experiments.records.results import read_results
from experiments.training import build, checkpoints, train, wandb_mirror
from experiments.training import pictures as pictures_module
from segmodels.architectures.bisenet import BiSeNet
from segmodels.module import SegmentationModule
from segmodels.own_checkpoints import from_checkpoint
from segmodels.parts import precision
from tests.support import trees
from tests.support.checkpoints import state
from tests.support.children import after, brought_up, die, status
from tests.support.paths import ROOT
from tests.support.patience import SECONDS
from tests.support.runs import (
    CPU,
    ROWS,
    SCENES,
    STEPS,
    TINY,
    assert_one_sentence,
    assert_same_state,
    comparable,
    content,
    only,
    rows,
    run_tiny,
    without_speed,
)

# --- runs that die, each in a process of its own

KINDS = {
    "plain": [],
    "two workers": ["data.workers=2"],
    "accumulation": ["trainer.accumulate=2"],
    "dropout": [],
    "running average": ["recipe.ema=0.9"],
}
DEATHS = {  # when a plain run is killed -> the step of the checkpoint that it goes on from
    "between checkpoints": 4,
    "in a validation": 2,
    "after a validation": 3,
    "after the last step": 6,
}


def die_at(death: str) -> None:
    if death == "between checkpoints":
        after(checkpoints.Checkpoints, "on_step", lambda self: die() if self.step == 5 else None)
    elif death == "in a validation":
        after(
            SegmentationModule,
            "validation_step",
            lambda self: die() if self.global_step == 3 else None,
        )
    else:
        step = 3 if death == "after a validation" else 6
        after(
            checkpoints.Checkpoints,
            "on_validation_end",
            lambda self: die() if self.step == step else None,
        )


def drop_pixels() -> None:
    """Dropout in front of the network: its random numbers decide what is learned."""
    original = BiSeNet.outputs
    BiSeNet.outputs = lambda self, image: original(self, F.dropout(image, 0.3, self.training))


@contextlib.contextmanager
def dropping(kind: str) -> Iterator[None]:
    original = BiSeNet.outputs
    drop_pixels() if kind == "dropout" else None
    try:
        yield
    finally:
        BiSeNet.outputs = original


def die_of_kind(folder: Path, kind: str) -> int:
    die_at("between checkpoints")
    with dropping(kind):
        return run_tiny(folder, *KINDS[kind])


def die_plainly(folder: Path, death: str) -> int:
    die_at(death)
    return run_tiny(folder, *(["trainer.checkpoint_every=1"] if death == "in a validation" else []))


def interrupt_the_terminal(folder: Path) -> int:
    """Ctrl-C reaches every process of the terminal's group: the run and its workers."""
    os.setsid()
    after(
        SegmentationModule,
        "training_step",
        lambda self: os.killpg(0, signal.SIGINT) if self.global_step == 2 else None,
    )
    return run_tiny(folder, "data.workers=2")


def interrupt_twice(folder: Path) -> int:
    def twice(module: SegmentationModule) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    after(SegmentationModule, "training_step", twice)
    return run_tiny(folder)


def mirror_nowhere(folder: Path) -> int:
    """Little patience for what will not come, and much for what will."""
    import wandb

    os.environ |= {"WANDB_API_KEY": 40 * "a", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    os.environ["WANDB_DATA_DIR"] = str(folder.parent / "staging")
    start = wandb.init

    def init(mode: str, settings: wandb.Settings, **how: Any) -> wandb.Run:
        settings.init_timeout, settings.finish_timeout = (
            (1, 1) if mode == "online" else (SECONDS, SECONDS)
        )
        return start(mode=mode, settings=settings, **how)

    wandb.init = init
    return run_tiny(folder, "trainer.wandb=online")


CHILDREN: dict[str, Callable[[Path], int]] = {
    **{kind: lambda folder, kind=kind: die_of_kind(folder, kind) for kind in KINDS},
    **{
        death: lambda folder, death=death: die_plainly(folder, death)
        for death in DEATHS
        if death != "between checkpoints"
    },
    "interrupted terminal": interrupt_the_terminal,
    "interrupted twice": interrupt_twice,
    "mirrored nowhere": mirror_nowhere,
}


@pytest.fixture(scope="module")
def children(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brought_up("tests.experiments.test_run.CHILDREN", tmp_path_factory.mktemp("children"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The uninterrupted run of a kind, made once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            runs = tmp_path_factory.mktemp("whole")
            with dropping(kind):
                assert run_tiny(runs, *KINDS[kind]) == 0
            made[kind] = only(runs)
        return made[kind]

    return folder


def resumed(folder: Path) -> int:
    return run.main(["--resume", str(folder)])


# --- what a run leaves


def test_a_run_leaves_its_values_curves_result_checkpoints_and_pictures(
    whole: Callable[[str], Path],
) -> None:
    folder = whole("plain")
    config = json.loads((folder / "config.json").read_text())
    assert (config["experiment"], config["recipe"]["iterations"], config["data"]["val"]) == (
        "bisenet/xception39",
        6,
        3,
    )
    assert (
        config["origins"]["recipe.iterations"] == "command line"
        and config["origins"]["recipe.lr"] == "budget of streets"
    )
    assert {file.name for file in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    pictures = {file.name for file in (folder / "pictures").iterdir()}
    assert pictures == {
        "contact_sheet.png",
        "val_streets_000000_000019_000003.png",
        "val_streets_000000_000019_000006.png",
    }
    assert cv2.imread(str(folder / "pictures" / "val_streets_000000_000019_000006.png")).shape == (
        64,
        128,
        3,
    )
    assert not list(folder.rglob("*.partial"))


def test_curves_hold_the_losses_by_the_papers_names_at_the_number_of_steps_done(
    whole: Callable[[str], Path],
) -> None:
    found = rows(whole("plain"))
    assert [(int(row["step"]), "val" if row["val/mIoU"] else "train") for row in found] == ROWS
    trained = [row for row in found if row["train/loss"]]
    for row in trained:
        terms = [float(row[f"train/{name}"]) for name in ("main", "auxiliary1", "auxiliary2")]
        assert sum(terms) == pytest.approx(float(row["train/loss"]), rel=1e-4)
        assert float(row["images_per_second"]) > 0 and 0 <= float(row["data_wait"]) <= 1
    lr = 0.002  # cosine over 5 steps after 1 of warm-up
    rates = [0, *(lr * (1 + np.cos(np.pi * step / 5)) / 2 for step in range(5))]
    assert [float(row["lr"]) for row in trained] == pytest.approx(rates, rel=1e-5)


def test_the_report_accepts_a_runs_result(whole: Callable[[str], Path]) -> None:
    (result,) = read_results([whole("plain")])
    assert (result.experiment, result.data, result.split, result.images) == (
        "bisenet/xception39",
        "streets",
        "val",
        3,
    )
    assert result.finished and result.iterations == 6 and result.seconds > 0
    assert (
        result.overrides["recipe.iterations"] == 6 and "trainer.log_every" not in result.overrides
    )
    assert read_metrics(whole("plain"))["step"] == [step for step, _ in ROWS]


def test_the_printed_end_names_what_was_left_and_warns_of_streets(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_tiny(tmp_path, "recipe.iterations=1") == 0
    printed, folder = capsys.readouterr(), only(tmp_path)
    for name in ("result.json", "metrics.csv", "pictures/contact_sheet.png"):
        assert f"{folder / name}\n" in printed.out
    miou = 100 * json.loads((folder / "result.json").read_text())["miou"]
    for name in ("last", "best"):
        file = folder / "checkpoints" / f"{name}.ckpt"
        assert f"{name:13}{file}: mIoU {miou:.1f} % after step 1" in printed.out
    assert "a score on them ranks nothing" in printed.out
    assert "nothing on streets val can be set against" in printed.out
    assert printed.err == ""
    assert max(len(line) for line in printed.out.splitlines() if str(tmp_path) not in line) <= 140


def test_the_result_is_the_evaluation_of_the_last_checkpoint_and_best_that_of_its_own(
    whole: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for kind in ("plain", "running average"):
        folder = whole(kind)
        found = {
            name: evaluated(
                folder / "checkpoints" / f"{name}.ckpt", tmp_path / f"{kind} {name}.json"
            )
            for name in ("last", "best")
        }
        result = json.loads((folder / "result.json").read_text())
        assert {key: found["last"][key] for key in ("miou", "iou", "pixels")} == {
            key: result[key] for key in ("miou", "iou", "pixels")
        }
        scores = [float(row["val/mIoU"]) for row in rows(folder) if row["val/mIoU"]]
        assert found["best"]["miou"] == pytest.approx(max(scores), rel=1e-5)
        stored = content(folder / "checkpoints" / "last.ckpt")["callbacks"]["Checkpoints"]
        assert result["best"] == {
            "miou": found["best"]["miou"],
            "step": found["best"]["iterations"],
            "checkpoint": "checkpoints/best.ckpt",
        }
        assert (stored["best"], stored["best_step"]) == tuple(result["best"].values())[:2]
    assert "mIoU" in capsys.readouterr().out


def evaluated(checkpoint: Path, out: Path) -> dict[str, Any]:
    assert evaluate.main([str(checkpoint), "--out", str(out), *SCENES]) == 0
    return json.loads(out.read_text())


def test_the_last_step_is_validated_though_the_rhythm_does_not_meet_it(tmp_path: Path) -> None:
    assert run_tiny(tmp_path, "recipe.iterations=3", "trainer.validate_every=2") == 0
    assert [int(row["step"]) for row in rows(only(tmp_path)) if row["val/mIoU"]] == [2, 3]
    assert content(only(tmp_path) / "checkpoints" / "last.ckpt")["global_step"] == 3


def test_validation_pictures_show_the_running_average_by_the_recipes_decay_that_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, Tensor] = {}

    def predict(trainer: Any, module: SegmentationModule, image: np.ndarray) -> np.ndarray:
        seen[trainer.global_step] = next(module.parameters()).detach().clone()
        return np.zeros(image.shape[:2], np.uint8)

    monkeypatch.setattr(pictures_module, "predict", predict)
    stepped: list[Tensor] = []

    def after_step(module: BiSeNet) -> None:
        stepped.append(next(module.parameters()).detach().clone())

    monkeypatch.setattr(BiSeNet, "after_step", after_step)
    assert run_tiny(tmp_path, "recipe.ema=0.9", "recipe.iterations=3") == 0
    average, *later = stepped
    for weights in later:
        average = 0.9 * average + 0.1 * weights
    torch.testing.assert_close(seen[3], average)
    found = content(only(tmp_path) / "checkpoints" / "last.ckpt")
    name = next(
        iter(dict(from_checkpoint(only(tmp_path) / "checkpoints" / "last.ckpt").named_parameters()))
    )
    assert torch.equal(seen[3], found["state_dict"][name])
    assert not torch.equal(seen[3], found["current_model_state"][name])


@pytest.mark.slow
def test_a_run_ends_after_the_minutes_it_was_given_and_can_go_on(
    tmp_path: Path,
    whole: Callable[[str], Path],
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run_tiny(tmp_path, "trainer.max_minutes=1e-6") == 0
    folder = only(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert (result["iterations"], result["finished"]) == (1, False)
    assert (
        f"ended it after step 1 of 6; go on with: python experiments/run.py --resume {folder}"
        in capsys.readouterr().out
    )
    while not json.loads((folder / "result.json").read_text())["finished"]:
        assert resumed(folder) == 0
    assert_same_state(
        folder / "checkpoints" / "last.ckpt", whole("plain") / "checkpoints" / "last.ckpt"
    )


# --- runs that were killed


def test_the_best_step_of_a_run_of_before_is_that_of_its_best_checkpoint(
    whole: Callable[[str], Path],
) -> None:
    folder = whole("plain") / "checkpoints"
    stored = content(folder / "last.ckpt")["callbacks"]["Checkpoints"]
    found = []
    for without in ((), ("best_step",)):
        kept = {name: value for name, value in stored.items() if name not in without}
        callback = checkpoints.Checkpoints(folder, SimpleNamespace())
        callback.load_state_dict(kept)
        found.append((callback.best, callback.best_step))
    assert found[0] == found[1] == (stored["best"], stored["best_step"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    kind: str, children: Path, whole: Callable[[str], Path], capsys: pytest.CaptureFixture
) -> None:
    assert status(children / kind) == -signal.SIGKILL
    folder = only(children / kind / "runs")
    assert (
        content(folder / "checkpoints" / "last.ckpt")["global_step"]
        == DEATHS["between checkpoints"]
    )
    with dropping(kind):
        assert resumed(folder) == 0
    assert "resuming after step 4\n" in capsys.readouterr().out
    for name in ("last.ckpt", "best.ckpt"):
        assert_same_state(folder / "checkpoints" / name, whole(kind) / "checkpoints" / name)
    assert without_speed(folder) == without_speed(whole(kind))
    assert comparable(folder) == comparable(whole(kind))


@pytest.mark.slow
@pytest.mark.parametrize("death", [death for death in DEATHS if death != "between checkpoints"])
def test_it_does_not_matter_when_a_run_is_killed(
    death: str, children: Path, whole: Callable[[str], Path], capsys: pytest.CaptureFixture
) -> None:
    assert status(children / death) == -signal.SIGKILL
    folder = only(children / death / "runs")
    assert content(folder / "checkpoints" / "last.ckpt")["global_step"] == DEATHS[death]
    assert not (folder / "result.json").exists()
    assert resumed(folder) == 0
    for name in ("last.ckpt", "best.ckpt"):
        assert_same_state(folder / "checkpoints" / name, whole("plain") / "checkpoints" / name)
    assert without_speed(folder) == without_speed(whole("plain"))
    assert comparable(folder) == comparable(whole("plain"))


def test_dropout_and_the_running_average_matter_to_these_tests(
    whole: Callable[[str], Path],
) -> None:
    weights = {
        kind: content(whole(kind) / "checkpoints" / "last.ckpt")
        for kind in ("plain", "dropout", "running average")
    }
    name = next(name for name in weights["plain"]["state_dict"] if name.endswith("weight"))
    assert not torch.equal(
        weights["plain"]["state_dict"][name], weights["dropout"]["state_dict"][name]
    )
    assert not torch.equal(
        weights["running average"]["state_dict"][name],
        weights["running average"]["current_model_state"][name],
    )
    assert torch.equal(
        weights["plain"]["state_dict"][name],
        weights["running average"]["current_model_state"][name],
    )


def test_a_line_that_was_cut_off_by_a_kill_is_no_row(tmp_path: Path) -> None:
    from experiments.records.metrics import Metrics

    (tmp_path / "metrics.csv").write_text("step,lr\n1,0.5\n12,0.25\n1")
    metrics = Metrics(tmp_path / "metrics.csv")
    metrics.drop_after(12)
    metrics.add(13, {"lr": 0.125})
    assert (tmp_path / "metrics.csv").read_text().split() == [
        "step,lr",
        "1,0.5",
        "12,0.25",
        "13,0.125",
    ]


# --- runs that were interrupted


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 2), (signal.SIGTERM, 4)])
def test_an_interrupted_run_saves_says_how_to_go_on_and_goes_on(
    number: int,
    step: int,
    tmp_path: Path,
    whole: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    before, original = signal.getsignal(number), SegmentationModule.training_step

    def interrupted(module: SegmentationModule, *arguments: Any) -> Tensor:
        if module.global_step == step:
            os.kill(os.getpid(), number)
        return original(module, *arguments)

    monkeypatch.setattr(SegmentationModule, "training_step", interrupted)
    assert run_tiny(tmp_path, "trainer.checkpoint_every=100") == 128 + number
    monkeypatch.undo()
    printed, folder = capsys.readouterr(), only(tmp_path)
    reached = 3 if step == 2 else 5  # step 3 is validated before the run ends
    told = [
        line
        for line in printed.err.splitlines()
        if not line.startswith("training waits for its data")
    ]  # as a busy machine may
    assert told == [
        "",
        "stopping as soon as a checkpoint is written (another Ctrl-C stops at once)",
    ]
    assert (
        f"stopped after step {reached}; go on with: python experiments/run.py --resume {folder}\n"
        in printed.out
    )
    assert signal.getsignal(number) is before
    assert resumed(folder) == 0
    assert_same_state(
        folder / "checkpoints" / "last.ckpt", whole("plain") / "checkpoints" / "last.ckpt"
    )
    assert without_speed(folder) == without_speed(whole("plain"))


@pytest.mark.slow
def test_a_terminals_interrupt_reaches_workers_too_and_does_no_harm(
    children: Path, whole: Callable[[str], Path]
) -> None:
    child = children / "interrupted terminal"
    output = (child / "output.txt").read_text()
    assert status(child) == 130, output
    assert (
        output.count("stopping as soon as") == 1
        and "Traceback" not in output
        and "Warning" not in output
    )
    assert resumed(only(child / "runs")) == 0
    assert_same_state(
        only(child / "runs") / "checkpoints" / "last.ckpt",
        whole("two workers") / "checkpoints" / "last.ckpt",
    )


@pytest.mark.slow
def test_a_run_that_is_interrupted_twice_ends_at_once(children: Path) -> None:
    assert status(children / "interrupted twice") == -signal.SIGINT
    assert not list((only(children / "interrupted twice" / "runs") / "checkpoints").iterdir())
    assert "Traceback" not in (children / "interrupted twice" / "output.txt").read_text()


def test_an_interrupt_before_training_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(*unused: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "open_data", interrupt)
    assert run_tiny(tmp_path / "runs") == 130
    assert capsys.readouterr().err == "\nstopped before training began; nothing was written\n"
    assert not (tmp_path / "runs").exists()


# --- what cannot be resumed


def test_a_finished_run_says_so_and_is_left_alone(
    whole: Callable[[str], Path], capsys: pytest.CaptureFixture
) -> None:
    before = {file: file.stat().st_mtime_ns for file in whole("plain").rglob("*")}
    assert resumed(whole("plain")) == 0
    assert re.search(
        r"is finished: mIoU \d+\.\d % after 6 steps; there is nothing to go on with\n",
        capsys.readouterr().out,
    )
    assert {file: file.stat().st_mtime_ns for file in whole("plain").rglob("*")} == before


@pytest.mark.parametrize(
    ("files", "words", "answer"),
    [
        ({}, [], "is not a run folder: it has no config.json"),
        ({"config.json": "{"}, [], "config.json is broken JSON"),
        ({"config.json": '{"schema": 0}'}, [], "was not written by this version of run.py"),
        (
            {"config.json": None},
            [],
            "has no checkpoints/last.ckpt: it stopped before its first checkpoint",
        ),
        ({"config.json": None, "checkpoints/last.ckpt": "no"}, [], "last.ckpt is not a checkpoint"),
        (
            {"config.json": None},
            ["--model", "bisenet", "recipe.lr=1"],
            "it stands alone; leave out model, recipe.lr=1",
        ),
        ({"config.json": None}, ["--smoke"], "it stands alone; leave out --smoke"),
    ],
)
def test_what_cannot_be_resumed_is_refused_in_a_sentence(
    files: dict[str, str | None],
    words: list[str],
    answer: str,
    tmp_path: Path,
    whole: Callable[[str], Path],
    capsys: pytest.CaptureFixture,
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((whole("plain") / name).read_text() if text is None else text)
    before = listing(tmp_path)
    assert run.main(["--resume", str(tmp_path), *words]) == 2
    assert_one_sentence(capsys.readouterr().err, answer)
    assert listing(tmp_path) == before


def listing(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


# --- two processes


@pytest.mark.slow
def test_two_processes_judge_the_same_pixels_as_one(tmp_path: Path) -> None:
    """Three images for two ranks, and batch statistics of each rank's own images."""
    words = [
        *TINY,
        "--runs",
        str(tmp_path / "runs"),
        "trainer.devices=2",
        "recipe.iterations=2",
        "trainer.validate_every=1",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / "run.py", *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    folder = only(tmp_path / "runs")
    assert done.stderr == ""
    assert done.stdout.count("run folder") == done.stdout.count("class   ") == 1
    result, alone = (
        json.loads((folder / "result.json").read_text()),
        evaluated(folder / "checkpoints" / "last.ckpt", tmp_path / "alone.json"),
    )
    assert result["pixels"] == alone["pixels"] > 2 * 64 * 128
    assert (result["miou"], result["iou"]) == (alone["miou"], alone["iou"])
    assert [(int(row["step"]), bool(row["val/mIoU"])) for row in rows(folder)] == [
        (1, False),
        (1, True),
        (2, False),
        (2, True),
    ]


# --- what weights start from


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[SegmentationModule]:
    """Modules as they are when training would begin; none is trained."""
    found: list[SegmentationModule] = []
    monkeypatch.setattr(
        train, "fit", lambda trainer, module, *unused, **also: found.append(module) or 0
    )
    return found


def three_classes(root: Path) -> list[str]:
    trees.folder(root, {"train": 4, "val": 2}, ["road", "car", "sky"], size=(64, 128))
    return ["--model", "bisenet/xception39", "--data", "folder", f"data.root={root}", *STEPS, *CPU]


def test_a_checkpoint_of_another_class_count_gives_all_and_of_its_heads_the_same_classes(
    tmp_path: Path,
    whole: Callable[[str], Path],
    built: list[SegmentationModule],
    capsys: pytest.CaptureFixture,
) -> None:
    checkpoint = whole("plain") / "checkpoints" / "best.ckpt"
    assert (
        run.main(
            [
                *three_classes(tmp_path / "data"),
                "--runs",
                str(tmp_path / "runs"),
                "--init",
                str(checkpoint),
            ]
        )
        == 0
    )
    source, (module,) = content(checkpoint)["state_dict"], built
    heads = {
        name for name, tensor in module.state_dict().items() if source[name].shape != tensor.shape
    }
    rows = [CITYSCAPES.names.index(name) for name in ("road", "car", "sky")]
    assert heads and all(
        torch.equal(module.state_dict()[name], source[name][rows]) for name in heads
    )
    kept = {
        name for name in source if name not in heads and not name.endswith("num_batches_tracked")
    }
    assert all(torch.equal(module.state_dict()[name], source[name]) for name in kept)
    printed = capsys.readouterr().out
    said = re.search(
        r"starts from (\d+) of (\d+) tensors from .*; "
        r"by their names the classes road, car, sky of (.*)\n",
        printed,
    )
    assert int(said[1]) == len(kept) and int(said[2]) - int(said[1]) == len(heads)
    assert set(said[3].split(", ")) == {name.rpartition(".")[0] for name in heads}
    config = json.loads((only(tmp_path / "runs") / "config.json").read_text())
    assert config["init"] == str(checkpoint)
    departure = "start ImageNet -> best.ckpt (command line)"
    assert f"not as in the paper: {departure}\n" in printed
    assert departure in config["departures"] and departure in module.identity.departures


def test_a_released_checkpoint_is_a_start(
    tmp_path: Path, built: list[SegmentationModule], capsys: pytest.CaptureFixture
) -> None:
    weights = state("bisenet_x39_torchseg")
    torch.save(weights, tmp_path / "authors.pth")
    assert (
        run_tiny(
            tmp_path / "runs", "--init", f"released:bisenet_x39_torchseg={tmp_path / 'authors.pth'}"
        )
        == 0
    )
    expected, (module,) = (
        segmodels.from_released("bisenet_x39_torchseg", weights).state_dict(),
        built,
    )
    learned = [name for name in expected if not name.endswith("num_batches_tracked")]
    assert all(torch.equal(module.state_dict()[name], expected[name]) for name in learned)
    assert f"starts from {len(learned)} of" in capsys.readouterr().out


def test_a_released_checkpoint_gives_the_classes_of_its_data_set_by_name(
    tmp_path: Path, built: list[SegmentationModule], capsys: pytest.CaptureFixture
) -> None:
    torch.save(state("bisenet_x39_torchseg"), tmp_path / "authors.pth")
    start = f"released:bisenet_x39_torchseg={tmp_path / 'authors.pth'}"
    command = [*three_classes(tmp_path / "data"), "--runs", str(tmp_path / "runs")]
    assert run.main([*command, "--init", start]) == 0
    theirs = segmodels.from_released("bisenet_x39_torchseg", state("bisenet_x39_torchseg"))
    (module,) = built
    rows = [CITYSCAPES.names.index(name) for name in ("road", "car", "sky")]
    assert torch.equal(module.classifier[1].weight, theirs.classifier[1].weight[rows])
    assert "by their names the classes road, car, sky of" in capsys.readouterr().out


def other_model(folder: Path) -> str:
    module = segmodels.experiment("bisenet/resnet18").build()
    torch.save(
        {"state_dict": module.state_dict(), "segmodels": {"experiment": "bisenet/resnet18"}},
        folder / "other.ckpt",
    )
    return str(folder / "other.ckpt")


def no_checkpoint(folder: Path) -> str:
    (folder / "notes.ckpt").write_text("not weights")
    return str(folder / "notes.ckpt")


@pytest.mark.parametrize(
    ("init", "answer"),
    [
        (other_model, "holds another network"),
        (no_checkpoint, "notes.ckpt is not a checkpoint"),
        (lambda folder: str(folder / "missing.ckpt"), "missing.ckpt; give a .ckpt file"),
        (lambda folder: "imagnet", "there is no imagnet; give"),
        (lambda folder: "imagenet", "starts from scratch: no ImageNet weights are named for it"),
        (lambda folder: "released:bisenet_x39_torchseg", "write released:NAME=FILE"),
        (
            lambda folder: f"released:bisenet_x38={no_checkpoint(folder)}",
            "did you mean bisenet_x39",
        ),
        (
            lambda folder: f"released:bisenet_x39_torchseg={other_model(folder)}",
            "is not a bisenet_x39_torchseg checkpoint",
        ),
    ],
)
def test_a_start_that_cannot_be_is_refused_in_a_sentence(
    init: Callable[[Path], str], answer: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_tiny(tmp_path / "runs", "--init", init(tmp_path)) == 2
    assert_one_sentence(capsys.readouterr().err, answer)
    assert not (tmp_path / "runs").exists()


def test_imagenet_without_a_network_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert run_tiny(tmp_path / "runs", "--model", "bisenet/resnet18", "--init", "imagenet") == 2
    assert_one_sentence(
        capsys.readouterr().err, "ImageNet weights", "--init FILE", "--init scratch"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("model", "accelerator", "compiled", "computed"),
    [
        ("bisenet", "cpu", False, "bf16-mixed"),
        ("bisenet", "cpu", True, "32-true"),
        ("bisenet", "auto", True, "32-true"),
        ("bisenet", "gpu", True, "bf16-mixed"),
        ("fastscnn", "cpu", False, "32-true"),
        ("fastscnn", "auto", False, "32-true"),
        ("fastscnn", "gpu", False, "bf16-mixed"),
    ],
)
def test_auto_precision_is_bfloat16_but_for_what_a_cpu_computes_wrong(
    model: str,
    accelerator: str,
    compiled: bool,
    computed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda _: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: accelerator == "gpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    words = [f"trainer.accelerator={accelerator}", f"trainer.compile={compiled}"]
    resolved = resolve(model, "streets", words)
    build.settle_precision(resolved)
    assert resolved.recipe["precision"] == computed
    told = [each for each in resolved.departures if each.startswith("recipe.precision")]
    assert len(told) == (computed != "32-true")


@pytest.mark.parametrize("data", ["cityscapes", "voc"])
def test_imagenet_weights_are_loaded_on_every_data_set_of_the_paper(data: str) -> None:
    module = SimpleNamespace(load_pretrained=lambda source: f"weights of {source}")
    resolved = resolve("emanet/resnet101", data, [])
    assert build.initialize(module, resolved) == (
        "weights of resnet101s.gluon_in1k",
        "ImageNet",
    )


# --- what a run refuses


def no_folder(root: Path) -> None:
    root.rename(root.with_name("datta"))


def empty_folder(root: Path) -> None:
    for file in (root / "train" / "images").iterdir():
        file.unlink()


def no_label(root: Path) -> None:
    (root / "train" / "masks" / "photo1.png").unlink()


def truncated(root: Path) -> None:
    file = root / "train" / "images" / "photo0.png"
    file.write_bytes(file.read_bytes()[:400])


def wrong_value(root: Path) -> None:
    trees.save(root / "train" / "masks" / "photo0.png", np.full((64, 128), 7, np.uint8))


def wrong_size(root: Path) -> None:
    trees.save(root / "val" / "masks" / "photo1.png", np.zeros((64, 120), np.uint8))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (no_folder, ("there is no folder", "did you mean", "datta", "data.root=DIR")),
        (empty_folder, ("images", "train")),
        (no_label, ("photo1",)),
        (truncated, ("photo0.png",)),
        (wrong_value, ("photo0.png", "7")),
        (wrong_size, ("photo1", "64", "120", "128")),
    ],
)
def test_wrong_files_are_refused_in_a_sentence_that_names_them(
    harm: Callable[[Path], None],
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    command = three_classes(tmp_path / "data")
    harm(tmp_path / "data")
    assert run.main([*command, "--runs", str(tmp_path / "runs")]) == 2
    assert_one_sentence(capsys.readouterr().err, *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_that_only_training_meets_leaves_no_half_made_run(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = three_classes(tmp_path / "data")
    file = tmp_path / "data" / "train" / "images" / "photo1.png"  # neither first, middle nor last
    file.write_bytes(file.read_bytes()[:400])
    assert run.main([*command, "--runs", str(tmp_path / "runs"), f"data.workers={workers}"]) == 2
    assert_one_sentence(capsys.readouterr().err, "photo1.png")
    assert not list((tmp_path / "runs").iterdir())


def test_a_run_that_cannot_go_on_after_a_checkpoint_says_how_it_can(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    whole: Callable[[str], Path],
) -> None:
    fail_at(4, DataError("photo7.png is damaged"), monkeypatch)
    assert run_tiny(tmp_path) == 2
    assert_one_sentence(
        capsys.readouterr().err,
        "photo7.png is damaged; then go on with: python experiments/run.py --resume",
    )
    monkeypatch.undo()
    assert resumed(only(tmp_path)) == 0
    assert_same_state(
        only(tmp_path) / "checkpoints" / "last.ckpt", whole("plain") / "checkpoints" / "last.ckpt"
    )


def test_a_device_that_is_too_small_is_answered_with_accumulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    fail_at(
        0, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), monkeypatch
    )
    assert run_tiny(tmp_path) == 2
    assert_one_sentence(capsys.readouterr().err, "trainer.accumulate=2")
    assert not listing(tmp_path)


def fail_at(step: int, problem: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    original = SegmentationModule.training_step

    def failing(module: SegmentationModule, *arguments: Any) -> Tensor:
        if module.global_step == step:
            raise problem
        return original(module, *arguments)

    monkeypatch.setattr(SegmentationModule, "training_step", failing)


def test_fewer_images_to_judge_than_processes_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_tiny(tmp_path / "runs", "data.val=1", "trainer.devices=2") == 2
    assert_one_sentence(
        capsys.readouterr().err,
        "1 validation images cannot be shared by 2 processes",
        "trainer.devices=1",
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("trainer.accumulate=3", "batch=4 cannot be shared by 1 ranks x 3 accumulation steps"),
        ("recipe.batch=1", "needs at least 2 images per device and step"),
        ("recipe.class_weights=1,2", "2 numbers for 19 classes"),
        ("data.workers=-1", "data.workers is -1; it must be a number from 0 up"),
        ("trainer.devices=0", "trainer.devices"),
    ],
)
def test_values_that_do_not_fit_together_are_refused_in_a_sentence(
    word: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_tiny(tmp_path / "runs", word) == 2
    assert_one_sentence(capsys.readouterr().err, answer)
    assert not (tmp_path / "runs").exists() or not listing(tmp_path / "runs")


# --- Weights & Biases


@pytest.mark.slow
def test_a_mirror_that_cannot_be_reached_is_kept_on_disk(children: Path) -> None:
    child = children / "mirrored nowhere"
    output = (child / "output.txt").read_text()
    assert status(child) == 0, output
    assert output.count("W&B is not to be had") == 1 and "logged offline" in output
    assert output.count("wandb sync") == 1
    assert "wandb:" not in output
    (mirror,) = (only(child / "runs") / "wandb").glob("offline-run-*")
    assert mirror.name.endswith(
        json.loads((only(child / "runs") / "config.json").read_text())["id"]
    )
    assert len(list(mirror.glob("files/media/images/val/pictures_*.png"))) == 2


def test_auto_is_online_only_where_a_key_is_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mirror.wandb_mode() == "disabled"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_mirror.wandb_mode() == "offline"
    (tmp_path / "netrc").write_text("machine github.com login someone password secret\n")
    assert wandb_mirror.wandb_mode() == "offline"
    host = wandb.Settings().base_url.removeprefix("https://")
    (tmp_path / "netrc").write_text(f"machine {host} login user password {40 * 'a'}\n")
    assert wandb_mirror.wandb_mode() == "online"
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    assert wandb_mirror.wandb_mode() == "online"


def test_a_run_waits_for_its_mirror_no_longer_than_twenty_seconds() -> None:
    assert wandb_mirror.PATIENCE <= 20


# --- other ways to compute


def test_channels_last_changes_the_memory_and_not_the_numbers(
    tmp_path: Path, whole: Callable[[str], Path]
) -> None:
    """The first two steps are taken with the same weights: warm-up starts at a rate of 0."""
    assert run_tiny(tmp_path, "trainer.channels_last=false", "recipe.iterations=2") == 0
    here, there = (
        [float(row["train/loss"]) for row in rows(folder)[:2]]
        for folder in (only(tmp_path), whole("plain"))
    )
    assert here == pytest.approx(there, rel=1e-4)


@pytest.mark.parametrize("asked", [True, False])
def test_channels_last_is_how_weights_lie_in_memory(
    asked: bool, tmp_path: Path, built: list[SegmentationModule]
) -> None:
    assert run_tiny(tmp_path, f"trainer.channels_last={asked}") == 0
    trainer = SimpleNamespace(datamodule=None, precision="32-true")
    built[0].trainer = trainer
    built[0].setup("fit")
    kernels = [
        parameter
        for parameter in built[0].parameters()
        if parameter.ndim == 4 and min(parameter.shape[1:]) > 1
    ]
    assert all(
        kernel.is_contiguous(memory_format=torch.channels_last) == asked for kernel in kernels
    )


def test_a_loss_that_is_no_number_is_told_once_with_what_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    original = SegmentationModule.losses

    def diverging(module: SegmentationModule, batch: Any) -> dict[str, Tensor]:
        factor = float("nan") if module.global_step >= 2 else 1.0
        return {name: factor * each for name, each in original(module, batch).items()}

    monkeypatch.setattr(SegmentationModule, "losses", diverging)
    assert run_tiny(tmp_path) == 0
    told = capsys.readouterr().err.splitlines()
    (sentence,) = [line for line in told if line.startswith("the loss of step")]
    assert sentence.startswith("the loss of step 3 is nan: ") and "recipe.lr" in sentence


def test_clipped_gradients_are_no_longer_than_they_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[float] = []

    def measure(module: SegmentationModule, optimizer: torch.optim.Optimizer) -> None:
        gradients = [
            parameter.grad.flatten()
            for parameter in module.parameters()
            if parameter.grad is not None
        ]
        lengths.append(torch.cat(gradients).norm().item())

    original = SegmentationModule.configure_gradient_clipping

    def clip(
        module: SegmentationModule,
        optimizer: torch.optim.Optimizer,
        *arguments: Any,
        **options: Any,
    ) -> None:
        measure(module, optimizer)
        original(module, optimizer, *arguments, **options)
        measure(module, optimizer)

    monkeypatch.setattr(SegmentationModule, "configure_gradient_clipping", clip)
    assert run_tiny(tmp_path, "recipe.clip=0.5", "recipe.iterations=2") == 0
    assert min(lengths[::2]) > 0.5
    assert lengths[1::2] == pytest.approx([0.5, 0.5], rel=1e-3)


def test_bfloat16_learns_about_the_same_and_says_so(
    tmp_path: Path, whole: Callable[[str], Path]
) -> None:
    assert run_tiny(tmp_path, "recipe.precision=bf16-mixed", "recipe.iterations=1") == 0
    here, there = (
        float(rows(folder)[0]["train/loss"]) for folder in (only(tmp_path), whole("plain"))
    )
    assert here != there and here == pytest.approx(there, rel=0.02)
    assert json.loads((only(tmp_path) / "result.json").read_text())["precision"] == "bf16-mixed"


def test_a_smoke_run_is_small_and_marked(smoke_run: Path) -> None:
    (result,) = read_results([smoke_run])
    assert result.smoke and not result.finished and result.iterations == 4
    config = json.loads((smoke_run / "config.json").read_text())
    assert np.prod(config["recipe"]["crop"]) * config["recipe"]["batch"] <= 2**15
