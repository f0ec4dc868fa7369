"""Tests of the recipe that fine-tuning derives from a row's own."""

from dataclasses import replace

import pytest

import segmodels
from segmodels.paper import meta_network
from segmodels.recipe import Recipe

ROWS = [f"{name}/{row}" for name, paper in segmodels.papers().items() for row in paper.rows]
CROP = (96, 96)


@pytest.mark.parametrize(
    ("images", "batch", "steps"),
    [(1, 8, 200), (40, 8, 200), (41, 8, 205), (100, 16, 250), (799, 8, 3995), (10_000, 8, 4000)],
)
def test_a_fine_tuning_sees_each_image_forty_times_within_limits(
    images: int, batch: int, steps: int
) -> None:
    tuned = Recipe(batch=batch, iterations=4000, warmup=3).finetuned(images, CROP)
    assert (tuned.iterations, tuned.warmup, tuned.crop) == (steps, steps // 10, CROP)
    assert Recipe(iterations=90).finetuned(images, CROP).iterations == 90


def test_a_fine_tuning_has_a_tenth_of_the_rate_and_the_rest_is_the_recipes() -> None:
    recipe = Recipe(
        lr=0.03, min_lr=0.006, momentum=0.8, scales=(0.5, 2.0), loss="hrnet_ohem:0.9,1/48"
    )
    tuned = recipe.finetuned(10, CROP)
    assert (tuned.lr, tuned.min_lr) == pytest.approx((0.003, 0.0006))
    changed = ("crop", "iterations", "lr", "min_lr", "warmup")
    assert replace(tuned, **{name: getattr(recipe, name) for name in changed}) == recipe


def test_a_running_average_reaches_back_a_tenth_of_a_fine_tuning() -> None:
    assert Recipe().finetuned(10, CROP).ema == 0
    assert Recipe(ema=0.5).finetuned(10, CROP).ema == 0.5
    tuned = Recipe(ema=0.9999).finetuned(10, CROP)
    assert 1 / (1 - tuned.ema) == pytest.approx(tuned.iterations / 10)


def test_what_is_given_stays_and_the_rest_follows_it() -> None:
    given = {"lr": 0.5, "batch": 2, "crop": (64, 32)}
    tuned = Recipe(batch=16).finetuned(20, CROP, **given)
    assert (tuned.lr, tuned.batch, tuned.crop) == (0.5, 2, (64, 32))
    assert (tuned.iterations, tuned.warmup) == (400, 40)
    tuned = Recipe().finetuned(20, CROP, iterations=30)
    assert (tuned.iterations, tuned.warmup) == (30, 3)


@pytest.mark.parametrize("address", ["ddrnet", "unet/valid", "pspnet", "smp", "bisenet"])
def test_the_largest_side_that_a_network_takes_is_found_as_a_slow_search_finds_it(
    address: str,
) -> None:
    network = meta_network(segmodels.experiment(address))
    for side in (1, 2, 33, 185, 186, 300, 411):
        sides = [each for each in range(2 * network.margin + 1, side + 1)]
        valid = [each for each in sides if network.valid_side(each) == each]
        assert network.valid_side_within(side) == max(valid, default=network.valid_side(side))


@pytest.mark.parametrize(
    ("address", "size", "crop"),
    [
        ("ddrnet", (359, 481), (352, 480)),
        ("ddrnet", (3000, 481), (1024, 480)),
        ("ddrnet", (5, 481), (8, 480)),
        # It loses 92 pixels on every side, so images are mirrored by as many.
        ("unet/valid", (100, 2000), (284, 572)),
    ],
)
def test_crops_fit_the_images_the_row_and_the_network(
    address: str, size: tuple[int, int], crop: tuple[int, int]
) -> None:
    row = segmodels.experiment(address)
    tuned = row.finetuned(images=10, size=size)
    assert tuned.recipe == row.recipe.finetuned(10, crop)
    assert (tuned.name, tuned.published) == (row.name, row.published)


@pytest.mark.catalogue
@pytest.mark.parametrize("address", ROWS)
def test_every_row_can_be_fine_tuned(address: str) -> None:
    row = segmodels.experiment(address)
    network = meta_network(row)
    crop = row.finetuned(images=14, size=(241, 333)).recipe.crop
    for side, most in zip(crop, (241, 333)):
        assert network.valid_side(side) == side <= most + 2 * network.margin
