"""Tests of every semi-supervised method around networks that are difficult for it.

These are sums of paths, valid convolutions with weight maps, pooling indices, two strides, and
bases without gradient.
"""

import signal
from pathlib import Path

import numpy as np
import pytest

from experiments import run
from experiments.training import checkpoints
from segmodels.semisup import names
from tests.support.children import after, brought_up, die, status
from tests.support.runs import CPU, assert_same_state, content, only, rows

NETWORKS = {
    "bisenet": ["bisenet/xception39"],
    # Scenes that fill the 36x36 pixels of which a crop has logits
    "unet": [
        "unet/valid",
        "model.width=8",
        "recipe.crop=220x220",
        "data.height=128",
        "data.width=256",
    ],
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
    "data.height=64", "data.width=128", "data.train=8", "data.val=1", "data.labeled=1/2", "data.unlabeled=2",
    "recipe.batch=2", "recipe.warmup=1", "recipe.precision=32-true", "trainer.pictures=1",
]  # fmt: skip
# A few steps around small networks in CI; more around all of them where somebody waits for it
SHORT, LONG = 8, 20
SMALL = ("bisenet", "unet")
CASES = [
    pytest.param(f"{method}-{network}-{steps}", marks=mark)
    for steps, mark, networks in (
        (SHORT, pytest.mark.catalogue, SMALL),
        (LONG, pytest.mark.long, tuple(NETWORKS)),
    )
    for method in OPTIONS
    for network in networks
]


def train(folder: Path, case: str) -> int:
    method, network, steps = case.split("-")
    row, *others = NETWORKS[network]
    words = ["--model", row, "--data", "streets", "recipe.crop=64x128", *CPU, *WORDS, *others]
    words += [f"recipe.iterations={steps}", f"trainer.validate_every={steps}"]
    words += [f"trainer.checkpoint_every={int(steps) // 2}"]
    return run.main([*words, "--semi", method, *OPTIONS[method], "--runs", str(folder)])


def die_after_a_checkpoint(folder: Path, case: str) -> int:
    """Two steps behind the one in the middle."""
    last = int(case.split("-")[2]) // 2 + 2
    after(checkpoints.Checkpoints, "on_step", lambda self: die() if self.step == last else None)
    return train(folder, case)


DYING = {
    case.values[0]: lambda folder, case=case.values[0]: die_after_a_checkpoint(folder, case)
    for case in CASES
}


def test_every_method_stands_in_the_grid() -> None:
    assert sorted(OPTIONS) == sorted(OWN_TERM) == names()


@pytest.mark.parametrize("case", CASES)
def test_steps_are_finite_and_go_on_bit_for_bit_after_a_kill(case: str, tmp_path: Path) -> None:
    method, _, count = case.split("-")
    assert train(tmp_path / "whole", case) == 0
    whole = only(tmp_path / "whole")
    steps = [each for each in rows(whole) if each["train/loss"]]
    assert [each["step"] for each in steps] == [str(step + 1) for step in range(int(count))]
    values = [float(value) for each in rows(whole) for value in each.values() if value]
    assert np.isfinite(values).all()
    own = [float(each[OWN_TERM[method]] or 0) for each in steps]
    assert sum(value > 0 for value in own) >= int(count) - 3
    assert (whole / "pictures" / "semi.png").is_file()
    killed = tmp_path / "killed"
    killed.mkdir()
    child = (
        brought_up("tests.segmodels.semisup.test_methods_around_networks.DYING", killed, case)
        / case
    )
    assert status(child) == -signal.SIGKILL
    stopped = only(child / "runs")
    assert content(stopped / "checkpoints" / "last.ckpt")["global_step"] == int(count) // 2
    assert run.main(["--resume", str(stopped)]) == 0
    last = "checkpoints/last.ckpt"
    assert_same_state(stopped / last, whole / last)
