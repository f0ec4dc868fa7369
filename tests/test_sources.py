"""What holds for every source: the same samples as from the official folders, whoever makes them, and exactly where a run stopped."""

import resource
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules import Cityscapes
from datamodules.crops import Crop, Crops
from datamodules.packs import Pack
from experiments import run
from tests import trees
from tests.test_data_module import as_rank
from tests.test_packs import packed, zipped
from tests.test_run import assert_same_state, only

pytest.importorskip("zstandard")
SIZE = (150, 300)
KINDS = ("folder", "zips", "tiles", "raw", "in memory", "on the device")
SETTINGS = {"crop": (64, 96), "scales": (0.5, 1.5), "continuous": True, "batch": 4, "iterations": 6}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("sources")
    trees.cityscapes(place / "folder", {"train": 7, "val": 3}, SIZE)
    zipped(place / "folder", place / "zips")
    for form in ("tiles", "raw"):
        packed(place / "folder", place / form, "--form", form)
    return {kind: place / kind if (place / kind).exists() else place / "folder" for kind in KINDS}


def data(kind: str, roots: dict[str, Path], rank: int = 0, world: int = 1, **more: object) -> Cityscapes:
    resident = {"in memory": "memory", "on the device": "device"}.get(kind, "no")
    return as_rank(Cityscapes(roots[kind], resident=resident, **SETTINGS | more), rank, world)


def batches(source: Cityscapes) -> list[tuple[Tensor, Tensor]]:
    return [source.on_after_batch_transfer(batch, 0) for batch in source.train_dataloader()]


def assert_same(found: list, wanted: list, levels: int) -> None:
    assert len(found) == len(wanted)
    for (image, label), (theirs, numbers) in zip(found, wanted, strict=True):
        assert torch.equal(label, numbers) and (image.int() - theirs.int()).abs().max() <= levels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_run_goes_on_with_exactly_the_batches_that_are_left(kind: str, workers: int, roots: dict[str, Path]) -> None:
    wanted = batches(data("folder", roots, workers=0))
    later = data(kind, roots, workers=workers)
    later.load_state_dict({"consumed": 8})
    levels = 1 if kind == "on the device" else 0
    assert_same(batches(later), wanted[2:], levels)
    assert_same(batches(data(kind, roots, workers=workers)), wanted, levels)


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_share_what_one_would_see(kind: str, roots: dict[str, Path]) -> None:
    alone = batches(data(kind, roots, workers=0))
    first, second = (batches(data(kind, roots, rank, 2, workers=1)) for rank in range(2))
    for together, one, other in zip(alone, first, second, strict=True):
        for whole, left, right in zip(together, one, other, strict=True):
            assert torch.equal(whole, torch.stack([left, right], 1).flatten(0, 1))


def test_whole_runs_from_files_and_from_packs_are_the_same(roots: dict[str, Path], tmp_path: Path) -> None:
    words = ["--model", "bisenet/xception39", "--data", "cityscapes", "--init", "scratch", "recipe.iterations=3", "recipe.batch=2",
             "recipe.crop=64x128", "trainer.wandb=disabled", "trainer.pictures=0", "trainer.accelerator=cpu"]  # fmt: skip
    ends = {}
    for kind in ("folder", "tiles"):
        assert run.main([*words, f"data.root={roots[kind]}", "--runs", str(tmp_path / kind)]) == 0
        ends[kind] = only(tmp_path / kind) / "checkpoints" / "last.ckpt"
    assert_same_state(ends["folder"], ends["tiles"], "Cityscapes")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's own figures")
@pytest.mark.parametrize("form", ["tiles", "raw"])
def test_reading_on_and_on_takes_no_more_memory_and_no_more_files(form: str, roots: dict[str, Path]) -> None:
    crops = Crops(Pack(roots[form] / "cityscapes-train.pack", Cityscapes.labels), Crop((64, 96), (0.5, 1.5), continuous=True), 0)

    def read(first: int, last: int) -> tuple[int, int]:
        for number in range(first, last):
            crops[number, number % len(crops)]
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(list(Path("/proc/self/fd").iterdir()))

    (memory, files), (later, still) = read(0, 500), read(500, 2500)
    assert still == files
    assert later - memory < 8192, "kilobytes"
