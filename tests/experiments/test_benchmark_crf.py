"""Tests of `benchmark.py crf`: what is compared with what, and how many steps each computes.

No time is asserted.
"""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from experiments import benchmark
from experiments.benchmarks import mean_field
from segmodels.parts.crf import Settings, marginals

SMALL = ["crf", "--size", "40x48", "--classes", "3", "--steps", "2", "--rounds", "3"]


def test_both_are_compared_and_run_as_often_by_the_same_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []

    def partly_swapped(probabilities: Tensor, image: Tensor, settings: Settings) -> Tensor:
        """Ours, but with the last class in place of the first in the upper quarter."""
        refined = marginals(probabilities, image, settings)
        refined[:, :10] = refined[:, :10].roll(1, 0)
        found.append((settings, refined))
        return refined

    monkeypatch.setattr(mean_field, "find_spec", lambda name: name)
    monkeypatch.setattr(mean_field, "pydensecrf_marginals", partly_swapped)
    assert benchmark.main([*SMALL, "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert [settings for settings, _ in found] == 4 * [Settings(2)]  # compared once, timed thrice
    refined = found[0][1]
    assert refined.shape == (3, 40, 48)
    straight = torch.cat([refined[:, :10].roll(-1, 0), refined[:, 10:]], 1)
    apart = (straight - refined).abs()
    assert f"probability: mean {apart.mean():.1e}, greatest {apart.max():.1e}\n" in shown
    assert "40x48, 3 classes, 2 steps" in shown and "labels that are equal: 75.00 %\n" in shown
    assert shown.splitlines()[-1].startswith("ours takes ")


def test_without_pydensecrf_ours_is_timed_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mean_field, "find_spec", lambda name: None)
    assert benchmark.main(SMALL) == 0
    shown = capsys.readouterr().out
    assert 'not there to compare with: pip install "segmodels[crf]"\n' in shown
    assert [line.split()[0] for line in shown.splitlines()[-2:]] == ["CRF", "ours"]


@pytest.mark.skipif(find_spec("pydensecrf") is None, reason="pydensecrf2 is not installed")
def test_theirs_gets_every_setting() -> None:
    settings = Settings(3, 5, 30, 9, 2, 2)
    probabilities, image = mean_field.scores_and_scene((40, 48), 3)
    ours = marginals(probabilities, image, settings)
    theirs = mean_field.pydensecrf_marginals(probabilities, image, settings)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "20x40"], "a street scene has at least 32 rows and columns, not 20x40"),
        (["--steps", "0"], "--steps 0: it is a whole number from 1 up"),
    ],
)
def test_what_cannot_be_computed_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(["crf", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}") and error.count("\n") == 1
