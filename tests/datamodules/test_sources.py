"""Tests that hold for every source of images.

It gives the same samples as the official folders, and a run resumes exactly where it stopped.
"""

import gc
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules import Cityscapes
from datamodules.packs.format import Pack
from datamodules.sampling.crops import Crop
from datamodules.sampling.loader import Loader
from datamodules.sampling.samples import Crops
from experiments import run
from segmodels.module import SegmentationModule
from tests.support import trees
from tests.support.data import as_rank
from tests.support.packs import packed, zipped
from tests.support.paths import ROOT
from tests.support.patience import until
from tests.support.runs import assert_same_state, comparable, only, without_speed
from tests.support.two_ranks import SETTINGS, STOP, waiting

pytest.importorskip("zstandard")
SIZE = (150, 300)
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
PACKED = ("tiles", "raw")
KINDS = ("folder", "zips", *PACKED, "in memory")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("sources")
    trees.cityscapes(place / "folder", {"train": 7, "val": 3}, SIZE)
    zipped(place / "folder", place / "zips")
    for form in ("tiles", "raw"):
        packed(place / "folder", place / form, "--form", form)
    return {kind: place / kind if kind in ("zips", *PACKED) else place / "folder" for kind in KINDS}


def data(
    kind: str, roots: dict[str, Path], rank: int = 0, world: int = 1, **more: object
) -> Cityscapes:
    resident = "memory" if kind == "in memory" else "no"
    return as_rank(Cityscapes(roots[kind], resident=resident, **SETTINGS | more), rank, world)


def batches(source: Cityscapes) -> list[tuple[Tensor, Tensor]]:
    return list(source.train_dataloader())


def assert_same(found: list, wanted: list) -> None:
    assert len(found) == len(wanted)
    for (image, label), (theirs, numbers) in zip(found, wanted, strict=True):
        assert torch.equal(label, numbers) and torch.equal(image, theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_run_goes_on_with_exactly_the_batches_that_are_left(
    kind: str, workers: int, roots: dict[str, Path]
) -> None:
    wanted = batches(data("folder", roots, workers=0))
    later = data(kind, roots, workers=workers)
    later.load_state_dict({"consumed": 8})
    assert_same(batches(later), wanted[2:])
    assert_same(batches(data(kind, roots, workers=workers)), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_share_what_one_would_see(kind: str, roots: dict[str, Path]) -> None:
    alone = batches(data(kind, roots, workers=0))
    assert_shared(*(batches(data(kind, roots, rank, 2, workers=1)) for rank in range(2)), alone)


def assert_shared(first: list, second: list, alone: list) -> None:
    """Draw by draw in turns: the union of two ranks, in the order in which one process would see it."""
    assert len(first) == len(second) == len(alone) > 0
    for together, one, other in zip(alone, first, second, strict=True):
        for whole, left, right in zip(together, one, other, strict=True):
            assert torch.equal(whole, torch.stack([left, right], 1).flatten(0, 1))


# --- two processes


def two_ranks(*words: object) -> list[str]:
    return [sys.executable, "-m", "tests.support.two_ranks", *map(str, words)]


@pytest.fixture(scope="module")
def pairs(roots: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what each of two processes was given, from each kind of packs, before it was killed and after."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork a process")
    out, places = (
        tmp_path_factory.mktemp("pairs"),
        [roots[kind] for kind in PACKED if roots[kind].exists()],
    )
    done = subprocess.run(
        two_ranks("pairs", out, *places),
        cwd=ROOT,
        env=ONE_THREAD,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr
    assert (out / "straight" / "status").read_text() == "0 0", done.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kind", PACKED)
def test_two_processes_are_given_what_one_would_see_also_after_both_were_killed(
    kind: str, roots: dict[str, Path], pairs: Path
) -> None:
    alone, killed, later = (
        batches(data("folder", roots, workers=0)),
        pairs / f"{kind} killed",
        pairs / f"{kind} resumed",
    )
    assert [(each / "status").read_text() for each in (killed, later)] == ["-9 -9", "0 0"]
    assert_shared(*(given(killed, rank, range(STOP + 1)) for rank in range(2)), alone[: STOP + 1])
    assert_shared(*(given(later, rank, range(2, 6)) for rank in range(2)), alone[2:])
    assert_same_state(later / "step=6.ckpt", pairs / "straight" / "step=6.ckpt", "Cityscapes")


def given(folder: Path, rank: int, steps: range) -> list[tuple[Tensor, Tensor]]:
    assert sorted(file.name for file in folder.glob(f"{rank}-*.pt")) == [
        f"{rank}-{step}.pt" for step in steps
    ]
    return [torch.load(folder / f"{rank}-{step}.pt") for step in steps]


WORDS = ["--model", "bisenet/xception39", "--data", "cityscapes", "--init", "scratch", "recipe.iterations=4", "recipe.batch=4",
         "recipe.crop=64x128", "trainer.devices=2", "trainer.validate_every=4", "trainer.checkpoint_every=2", "trainer.log_every=1",
         "trainer.wandb=disabled", "trainer.pictures=0", "trainer.accelerator=cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def run_by_two(roots: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of two processes, from files, that nothing interrupts."""
    runs = tmp_path_factory.mktemp("runs")
    started(["-m", "experiments.run", *WORDS, f"data.root={roots['folder']}", "--runs", runs])
    return only(runs)


def started(words: list[object]) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=ONE_THREAD,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.catalogue
@pytest.mark.parametrize("kind", PACKED)
def test_a_run_of_two_processes_from_packs_goes_on_as_if_it_had_not_been_killed(
    kind: str, roots: dict[str, Path], run_by_two: Path, tmp_path: Path
) -> None:
    words = [*WORDS, f"data.root={roots[kind]}", "--runs", tmp_path / "runs"]
    with subprocess.Popen(
        two_ranks("run", tmp_path, *words), cwd=ROOT, env=ONE_THREAD, start_new_session=True
    ) as child:
        stopped = until(lambda: waiting(tmp_path))
        os.killpg(child.pid, signal.SIGKILL)
    assert stopped and child.returncode == -signal.SIGKILL
    folder = only(tmp_path / "runs")
    started(["-m", "experiments.run", "--resume", folder])
    for name in ("last.ckpt", "best.ckpt"):
        assert_same_state(
            folder / "checkpoints" / name, run_by_two / "checkpoints" / name, "Cityscapes"
        )
    assert without_speed(folder) == without_speed(run_by_two) and comparable(folder) == comparable(
        run_by_two
    )


# --- one process


def test_whole_runs_from_files_and_from_packs_are_the_same(
    roots: dict[str, Path], tmp_path: Path
) -> None:
    words = ["--model", "bisenet/xception39", "--data", "cityscapes", "--init", "scratch", "recipe.iterations=3", "recipe.batch=2",
             "recipe.crop=64x128", "trainer.wandb=disabled", "trainer.pictures=0", "trainer.accelerator=cpu"]  # fmt: skip
    ends = {}
    for kind in ("folder", "tiles"):
        assert run.main([*words, f"data.root={roots[kind]}", "--runs", str(tmp_path / kind)]) == 0
        ends[kind] = only(tmp_path / kind) / "checkpoints" / "last.ckpt"
    assert_same_state(ends["folder"], ends["tiles"], "Cityscapes")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's own figures")
@pytest.mark.parametrize("form", ["tiles", "raw"])
def test_reading_on_and_on_takes_no_more_memory_and_no_more_files(
    form: str, roots: dict[str, Path]
) -> None:
    gc.collect()  # nobody else's files are closed meanwhile
    crops = Crops(
        Pack(roots[form] / "cityscapes-train.pack", Cityscapes.labels),
        Crop((64, 96), (0.5, 1.5), continuous=True),
        0,
    )

    def read(first: int, last: int) -> tuple[int, int]:
        for number in range(first, last):
            crops[number, number % len(crops)]
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(
            list(Path("/proc/self/fd").iterdir())
        )

    (memory, files), (later, still) = read(0, 500), read(500, 2500)
    assert still <= files
    assert later - memory < 8192, "kilobytes"


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.9, ""), (3, "training waits for its data 75% of the time")]
)
def test_a_run_that_mostly_waits_for_its_data_says_what_helps(
    seconds: float,
    told: str,
    roots: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """By a clock that goes on by so many seconds with each batch and by one with each step."""
    words = ["--model", "bisenet/xception39", "--data", "cityscapes", f"data.root={roots['folder']}", "data.workers=0", "--init", "scratch",
             "recipe.iterations=4", "recipe.batch=2", "recipe.crop=64x128", "trainer.wandb=disabled", "trainer.pictures=0",
             "trainer.accelerator=cpu", "trainer.log_every=1", "trainer.validate_every=4"]  # fmt: skip
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    for kind, method, lasts in (
        (Loader, "make", seconds),
        (SegmentationModule, "training_step", 1),
    ):
        monkeypatch.setattr(kind, method, lengthened(getattr(kind, method), clock, lasts))
    assert run.main([*words, "--runs", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert told in said and ("waits for its data" in said) == (
        "experiments/pack.py" in said
    ) == bool(told)


def lengthened(act: Callable, clock: list[float], seconds: float) -> Callable:
    def longer(*given: object) -> object:
        clock[0] += seconds
        return act(*given)

    return longer
