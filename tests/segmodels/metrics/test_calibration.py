"""Tests of calibration against a plain loop over pixels."""

from math import ceil, isnan

import pytest
import torch

from segmodels.metrics.calibration import calibration_counts, calibration_scores


def judged(seed: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    confidence = torch.rand(20, 31, generator=draw)
    predicted, label = (
        torch.randint(classes, confidence.shape, generator=draw, dtype=torch.uint8)
        for _ in range(2)
    )
    confidence[0, :16] = torch.arange(16) / 15  # the edges of the bins
    label[torch.rand(label.shape, generator=draw) < 0.2] = 255
    label[0] = 1
    return confidence, predicted, label


def slow_counts(
    confidence: torch.Tensor, predicted: torch.Tensor, label: torch.Tensor, classes: int, bins: int
) -> list:
    counts = [[[0.0, 0.0, 0.0] for _ in range(bins)] for _ in range(classes)]
    for sure, found, true in zip(
        confidence.flatten().tolist(), predicted.flatten().tolist(), label.flatten().tolist()
    ):
        if true != 255:
            bin = counts[found][max(ceil(sure * bins) - 1, 0)]
            bin[0], bin[1], bin[2] = bin[0] + 1, bin[1] + sure, bin[2] + (found == true)
    return counts


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_counts_are_those_of_a_plain_loop(bins: int) -> None:
    confidence, predicted, label = judged(bins)
    assert calibration_counts(confidence, predicted, label, 3, bins).tolist() == slow_counts(
        confidence, predicted, label, 3, bins
    )


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    """Halves and quarters, which float32 holds exactly."""
    confidence, zeros = (
        torch.tensor([0.0, 0.25, 0.2500001, 0.5, 0.75, 1.0]),
        torch.zeros(6, dtype=torch.uint8),
    )
    assert calibration_counts(confidence, zeros, zeros, 1, bins=4)[0, :, 0].tolist() == [2, 2, 1, 1]


def test_counts_of_strips_add_up() -> None:
    maps = judged(4)
    parts = [
        calibration_counts(*(each[rows] for each in maps), 3)
        for rows in (slice(0, 7), slice(7, 20))
    ]
    torch.testing.assert_close(sum(parts), calibration_counts(*maps, 3), rtol=1e-14, atol=0)


def test_scores_are_those_of_their_definitions() -> None:
    confidence, predicted, label = judged(7)
    found = calibration_scores(calibration_counts(confidence, predicted, label, 4))

    def gaps(chosen: torch.Tensor) -> list[tuple[float, int]]:
        sure, right = confidence[chosen].double(), (predicted == label)[chosen].double()
        places = [
            (sure > b / 15) & (sure <= (b + 1) / 15) | (sure == 0) & (b == 0) for b in range(15)
        ]
        return [
            ((sure[at].mean() - right[at].mean()).abs().item(), int(at.sum()))
            for at in places
            if at.any()
        ]

    def expected(chosen: torch.Tensor) -> float:
        return sum(gap * pixels for gap, pixels in gaps(chosen)) / int(chosen.sum())

    labeled = label != 255
    classes = [expected(labeled & (predicted == each)) for each in range(3)]
    assert found["ece"] == pytest.approx(expected(labeled))
    assert found["mce"] == pytest.approx(max(gap for gap, _ in gaps(labeled)))
    assert found["class_ece"] == [*map(pytest.approx, classes), None]
    assert found["classwise_ece"] == pytest.approx(sum(classes) / 3)


def test_a_network_as_sure_as_it_is_right_has_no_error_and_a_boaster_its_boast() -> None:
    label = torch.tensor([0, 0, 0, 1], dtype=torch.uint8)
    predicted, sure = torch.zeros(4, dtype=torch.uint8), torch.ones(4)
    honest = calibration_scores(calibration_counts(0.75 * sure, predicted, label, 2))
    assert honest["ece"] == honest["mce"] == honest["classwise_ece"] == 0
    assert honest["class_ece"] == [0, None]
    assert [each for each in honest["reliability"] if each] == [(4, 0.75, 0.75)] and len(
        honest["reliability"]
    ) == 15
    assert calibration_scores(calibration_counts(sure, predicted, label, 2))["ece"] == 0.25


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (0, 5)])
def test_ignored_pixels_count_nowhere(shape: tuple[int, int]) -> None:
    label = torch.full(shape, 255, dtype=torch.uint8)
    counts = calibration_counts(torch.rand(shape), torch.zeros_like(label), label, 2)
    assert counts.shape == (2, 15, 3) and not counts.any()
    found = calibration_scores(counts)
    assert all(isnan(found[name]) for name in ("ece", "mce", "classwise_ece"))
    assert found["class_ece"] == [None, None] and found["reliability"] == [None] * 15
