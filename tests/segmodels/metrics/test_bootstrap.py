"""Tests of intervals and paired comparisons against slow loops and full enumeration.

They also check the error rates for models that do not differ.
"""

import itertools

import numpy as np
import pytest
import torch

from segmodels.metrics import scores
from segmodels.metrics.bootstrap import class_intervals, image_scores, interval, paired

Counts = np.ndarray  # (N, C, C)


def judged(
    count: int,
    classes: int = 4,
    right: float = 0.7,
    seed: int = 0,
    truth_seed: int | None = None,
    pixels: int = 60,
) -> Counts:
    """A model on `count` images: each has some of the classes, and a share of pixels around `right` is right."""
    images, rng = (
        np.random.default_rng(seed if truth_seed is None else truth_seed),
        np.random.default_rng(seed),
    )
    made = np.zeros((count, classes, classes), np.int64)
    for one in made:
        shares = images.dirichlet(np.full(classes, 0.5))
        for true, number in enumerate(images.multinomial(pixels, shares)):
            guess = np.full(classes, (1 - right) / (classes - 1))
            guess[true] = right
            one[true] = rng.multinomial(number, rng.dirichlet(8 * guess))
    return made


def miou(confusion: Counts) -> float:
    return scores(torch.from_numpy(confusion))["miou"]


def iou(confusion: Counts) -> list[float]:
    return [np.nan if each is None else each for each in scores(torch.from_numpy(confusion))["iou"]]


def drawn_images(count: int, draws: int, seed: int) -> list[list[int]]:
    """The images of each draw, as a generator of the same seed gives them."""
    generator, lists = torch.Generator().manual_seed(seed), []
    while len(lists) < draws:
        lists += torch.randint(
            count, (min(256, draws - len(lists)), count), generator=generator
        ).tolist()
    return lists


@pytest.mark.parametrize(
    "statistic", ["miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"]
)
def test_an_interval_is_that_of_a_slow_loop_over_the_same_draws(statistic: str) -> None:
    counts = judged(9)
    seen = [
        scores(torch.from_numpy(counts[images].sum(0)))[statistic]
        for images in drawn_images(9, 300, seed=4)
    ]
    assert interval(counts, statistic, 0.9, draws=300, seed=4) == pytest.approx(
        tuple(np.nanquantile(seen, [0.05, 0.95])), abs=1e-12
    )


def test_an_interval_is_that_of_other_random_numbers() -> None:
    counts, rng = judged(12), np.random.default_rng(1)
    seen = [miou(counts[rng.integers(12, size=12)].sum(0)) for _ in range(2000)]
    assert interval(counts, draws=4000) == pytest.approx(
        tuple(np.quantile(seen, [0.025, 0.975])), abs=0.01
    )
    assert interval(counts)[0] < miou(counts.sum(0)) < interval(counts)[1]


def test_intervals_of_classes_leave_out_draws_without_the_class() -> None:
    counts = judged(7, classes=5)
    counts[:, 4], counts[:, :, 4] = 0, 0  # never there
    counts[1:, 3], counts[1:, :, 3] = 0, 0  # in one image alone
    seen = np.array([iou(counts[images].sum(0)) for images in drawn_images(7, 200, seed=0)])
    assert np.isnan(seen[:, 3]).any()
    expected = np.nanquantile(seen[:, :4], [0.025, 0.975], axis=0).T
    found = class_intervals(counts, draws=200)
    assert found[4] is None and np.allclose(found[:4], expected, atol=1e-12)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    many = judged(4000, seed=100)
    truth, rng, held = miou(many.sum(0)), np.random.default_rng(0), 0
    for _ in range(200):
        low, high = interval(many[rng.integers(4000, size=50)], level=0.9, draws=200)
        held += low <= truth <= high
    assert 0.82 < held / 200 < 0.96


def test_a_seed_gives_the_same_draws_again_and_another_seed_others() -> None:
    a, b = judged(8, seed=1, truth_seed=9), judged(8, seed=2, truth_seed=9)
    assert interval(a, seed=3) == interval(a, seed=3) != interval(a, seed=4)
    assert paired(a, b, seed=3) == paired(a, b, seed=3)
    assert paired(a, b, seed=3).p != paired(a, b, seed=4).p
    assert interval(torch.from_numpy(a)) == interval(a)


def test_a_score_of_an_image_is_over_the_classes_of_its_truth() -> None:
    counts = judged(6, classes=5)
    counts[0, 2:], counts[0, 0, 4] = 0, 1  # predicted, and not true there
    counts[1] = 0
    found = image_scores(counts)
    for one, score in zip(counts, found):
        true = [each for each in range(5) if one[each].sum()]
        assert (
            score == pytest.approx(np.mean([iou(one)[each] for each in true]))
            if true
            else score is None
        )
    assert found[1] is None


def test_a_pair_is_that_of_slow_loops() -> None:
    a, b = judged(7, right=0.8, seed=1, truth_seed=9), judged(7, right=0.6, seed=2, truth_seed=9)
    a[:, 3], b[:, 3] = 0, 0  # never true
    found = paired(a, b, draws=300, seed=5)
    assert found.difference == pytest.approx(miou(a.sum(0)) - miou(b.sum(0)))
    classes = np.array(iou(a.sum(0))) - np.array(iou(b.sum(0)))
    assert np.allclose(found.class_differences[:3], classes[:3])
    assert found.class_differences[3] is found.class_intervals[3] is found.class_ps[3] is None
    drawn = [
        miou(a[images].sum(0)) - miou(b[images].sum(0)) for images in drawn_images(7, 300, seed=5)
    ]
    assert found.interval == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-12)
    drawn = [
        np.subtract(iou(a[images].sum(0)), iou(b[images].sum(0)))[:3]
        for images in drawn_images(7, 300, seed=5)
    ]
    assert np.allclose(
        found.class_intervals[:3], np.nanquantile(drawn, [0.025, 0.975], axis=0).T, atol=1e-12
    )
    images = np.subtract(image_scores(a), image_scores(b))
    assert np.allclose(found.image_differences, images)
    assert (found.wins, found.ties, found.losses) == (
        (images > 0).sum(),
        (images == 0).sum(),
        (images < 0).sum(),
    )


def test_p_values_are_those_of_every_way_to_swap() -> None:
    a, b = judged(8, seed=1, truth_seed=9), judged(8, right=0.68, seed=2, truth_seed=9)
    differences = []
    for swaps in itertools.product([False, True], repeat=8):
        swap = np.array(swaps)[:, None, None]
        one, other = np.where(swap, b, a).sum(0), np.where(swap, a, b).sum(0)
        differences.append([miou(one) - miou(other), *np.subtract(iou(one), iou(other))])
    exact = (np.abs(differences) >= np.abs(differences[0]) - 1e-12).mean(0)
    found = paired(a, b, draws=5000)
    assert [found.p, *found.class_ps] == pytest.approx(exact.tolist(), abs=0.025)
    assert 0.05 < exact[0] < 0.95  # or it would tell little


def test_models_that_do_not_differ_get_p_values_of_every_size_equally_often() -> None:
    found = []
    for seed in range(300):
        a, b = (
            judged(10, classes=3, seed=2 * seed + each, truth_seed=5000 + seed, pixels=40)
            for each in range(2)
        )
        compared = paired(a, b, draws=99, seed=seed)
        found.append([compared.p, *compared.class_ps])
    found = np.array(found)
    assert found.min() >= 0.01 and found.max() <= 1
    for share in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9):
        wide = 3.5 * (share * (1 - share) / 300) ** 0.5
        assert (np.abs((found <= share).mean(0) - share) < wide).all(), share


def test_a_clear_difference_is_told_and_whose_it_is() -> None:
    better, worse = (
        judged(30, right=0.9, seed=1, truth_seed=9),
        judged(30, right=0.5, seed=2, truth_seed=9),
    )
    found, other = paired(better, worse, draws=499), paired(worse, better, draws=499)
    assert found.p == other.p == 1 / 500  # the least that 499 draws can say
    assert found.difference == -other.difference > 0 and found.interval[0] > 0 > other.interval[1]
    assert found.wins == other.losses > 25 and max(found.class_ps) < 0.05


def test_a_model_is_no_better_than_itself() -> None:
    found = paired(judged(6), judged(6))
    assert (
        found.difference == 0
        and found.interval == (0, 0)
        and found.p == 1
        and (found.wins, found.ties, found.losses) == (0, 6, 0)
    )


def test_one_image_and_images_without_a_label_have_their_answers() -> None:
    counts = judged(1)
    assert interval(counts) == pytest.approx((miou(counts[0]),) * 2)
    assert (
        paired(counts, judged(1, right=0.2, seed=7, truth_seed=0)).p == 1
    )  # one swap changes the sign alone
    empty = np.zeros((3, 4, 4), np.int64)
    assert (
        np.isnan(interval(empty)).all()
        and class_intervals(empty) == [None] * 4
        and image_scores(empty) == [None] * 3
    )
    found = paired(empty, empty)
    assert (
        np.isnan(found.difference)
        and np.isnan(found.p)
        and (found.wins, found.ties, found.losses) == (0, 0, 0)
    )


def test_what_cannot_be_compared_is_refused() -> None:
    counts = judged(5)
    for wrong, words in (
        (lambda: paired(counts, counts[:4]), "not judged on the same images"),
        (lambda: paired(counts, counts[::-1].copy()), "not judged on the same images"),
        (lambda: interval(counts.sum(0)), "one matrix per image"),
        (lambda: interval(counts[:0]), "one matrix per image"),
        (lambda: interval(counts, "iou"), "none of miou, pixel_accuracy"),
        (lambda: interval(counts, level=95), "not between 0 and 1"),
        (lambda: interval(counts, draws=0), "take 1000"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()
