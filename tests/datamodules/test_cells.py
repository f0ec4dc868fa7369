"""Tests of the built-in pictures of cells."""

import cv2
import numpy as np
import pytest

from datamodules import Cells, DataError
from datamodules.cells import grown, parted, picture

SMALL = {"height": 96, "width": 80, "train": 3, "val": 2, "test": 2}


def test_a_picture_is_a_function_of_its_seed_and_number() -> None:
    image, label = picture(3, 1, 96, 80)
    again = picture(3, 1, 96, 80)
    assert np.array_equal(image, again[0]) and np.array_equal(label, again[1])
    assert image.shape == (96, 80, 3) and image.dtype == label.dtype == np.uint8
    assert {*np.unique(label)} == {0, 1}
    for other in (picture(3, 2, 96, 80), picture(4, 1, 96, 80)):
        assert not np.array_equal(image, other[0]) and not np.array_equal(label, other[1])


def test_splits_and_seeds_never_share_a_picture() -> None:
    seen = [
        Cells(**SMALL, cell_seed=seed).open(split).window(index)[0].tobytes()
        for seed in (0, 1)
        for split in ("train", "val", "test")
        for index in range(2)
    ]
    assert len(set(seen)) == len(seen)


def test_every_cell_is_a_part_of_its_own_though_most_touch_another_one() -> None:
    """As many connected parts as cells, counted across corners; closing gaps of two pixels joins them."""
    random = np.random.default_rng(0)
    owner = parted(grown(random, 192, 192))
    cells = (owner > 0).astype(np.uint8)
    parts = cv2.connectedComponents(cells, connectivity=8)[0] - 1
    pieces = sum(
        cv2.connectedComponents((owner == number).astype(np.uint8), connectivity=8)[0] - 1
        for number in np.unique(owner)[1:]
    )
    assert parts == pieces > 15
    closed = cv2.morphologyEx(cells, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    assert cv2.connectedComponents(closed, connectivity=8)[0] - 1 < parts / 2


def test_a_pixel_beside_a_cell_of_a_lower_number_becomes_background() -> None:
    owner = np.zeros((6, 8), np.int32)
    owner[1:5, 1:4], owner[1:5, 4:7] = 2, 1
    expected = owner.copy()
    for y, x in zip(*np.nonzero(owner)):
        around = owner[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        if any(0 < other < owner[y, x] for other in around.flat):
            expected[y, x] = 0
    assert np.array_equal(parted(owner), expected)
    assert (expected == 2).sum() == 8 and (expected == 1).sum() == 12


def test_cells_are_brighter_than_the_background_between_them() -> None:
    image, label = picture(0, 0, 192, 192)
    inside = cv2.erode(label, np.ones((5, 5), np.uint8)) > 0
    assert image[inside].mean() > image[label == 0].mean() + 15
    assert (image[..., 0] == image[..., 2]).all()


def test_a_data_module_gives_crops_of_the_pictures() -> None:
    data = Cells(**SMALL, crop=(64, 64), batch=2, iterations=1)
    data.setup("fit")
    image, label = next(iter(data.train_dataloader()))
    assert image.shape == (2, 3, 64, 64) and label.shape == (2, 64, 64)
    assert data.class_names == ("background", "cell") and len(data.open("val")) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"root": "somewhere"}, "cells are made, not read"),
        ({"height": 31}, "height"),
        ({"val": 0}, "val"),
        ({"cell_seed": -1}, "cell_seed"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Cells(**settings)
