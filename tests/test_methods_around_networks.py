"""Every semi-supervised method around networks that stress it: sums of paths, valid convolutions with
weight maps, pooling indices, two strides, bases outside the gradient."""

import signal
from pathlib import Path

import numpy as np
import pytest

from experiments import run, saving
from segmodels.semisup import names
from tests.test_run import (
    CPU,
    after,
    assert_same_state,
    brought_up,
    content,
    die,
    only,
    rows,
    status,
)

NETWORKS = {
    "bisenet": ["bisenet/xception39"],
    "unet": ["unet/valid", "model.width=8", "recipe.crop=220x220"],
    "segnet": ["segnet"],
    "deeplabv3plus": ["deeplabv3plus/resnet50"],
    "emanet": ["emanet/resnet50"],
}
# What makes each method's own terms count from the beginning, and what they are called
OPTIONS = {
    "mean_teacher": ["semi.threshold=0"],
    "cps": [],
    "unimatch": ["semi.threshold=0"],
    "advsemiseg": ["semi.start=2", "semi.threshold=0.1"],
}
OWN_TERM = {
    "mean_teacher": "train/consistency",
    "cps": "train/first_cps",
    "unimatch": "train/features",
    "advsemiseg": "train/discriminator_true",
}
WORDS = [
    "data.height=64", "data.width=128", "data.train=8", "data.val=1", "data.labelled=1/2", "data.unlabelled=2",
    "recipe.batch=2", "recipe.iterations=8", "recipe.warmup=1", "recipe.precision=32-true",
    "trainer.validate_every=8", "trainer.checkpoint_every=4", "trainer.pictures=1",
]  # fmt: skip
GRID = [f"{method}-{network}" for method in OPTIONS for network in NETWORKS]
QUICK = ("bisenet", "unet")
MARKED = [
    pytest.param(pair, marks=pytest.mark.catalogue if pair.endswith(QUICK) else pytest.mark.long)
    for pair in GRID
]


def train(folder: Path, pair: str) -> int:
    method, network = pair.split("-")
    row, *others = NETWORKS[network]
    words = ["--model", row, "--data", "streets", "recipe.crop=64x128", *CPU, *WORDS, *others]
    return run.main([*words, "--semi", method, *OPTIONS[method], "--runs", str(folder)])


def die_in_step_6(folder: Path, pair: str) -> int:
    after(saving.Checkpoints, "on_step", lambda self: die() if self.step == 6 else None)
    return train(folder, pair)


DYING = {pair: lambda folder, pair=pair: die_in_step_6(folder, pair) for pair in GRID}


def test_every_method_stands_in_the_grid() -> None:
    assert sorted(OPTIONS) == sorted(OWN_TERM) == names()


@pytest.mark.parametrize("pair", MARKED)
def test_eight_steps_are_finite_and_go_on_bit_for_bit_after_a_kill(
    pair: str, tmp_path: Path
) -> None:
    assert train(tmp_path / "whole", pair) == 0
    whole = only(tmp_path / "whole")
    steps = [each for each in rows(whole) if each["train/loss"]]
    assert [each["step"] for each in steps] == [str(step) for step in range(1, 9)]
    values = [float(value) for each in rows(whole) for value in each.values() if value]
    assert np.isfinite(values).all()
    own = [float(each[OWN_TERM[pair.split("-")[0]]] or 0) for each in steps]
    assert sum(value > 0 for value in own) >= 5
    assert (whole / "pictures" / "semi.png").is_file()
    killed = tmp_path / "killed"
    killed.mkdir()
    child = brought_up("tests.test_methods_around_networks.DYING", killed, pair) / pair
    assert status(child) == -signal.SIGKILL
    stopped = only(child / "runs")
    assert content(stopped / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert run.main(["--resume", str(stopped)]) == 0
    last = "checkpoints/last.ckpt"
    assert_same_state(stopped / last, whole / last)
