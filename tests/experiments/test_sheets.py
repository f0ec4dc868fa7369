"""Tests of the sheets of pictures: image, prediction and truth, and a legend of their classes."""

import numpy as np

from experiments.drawing.label_images import (
    colored_prediction,
    contact_sheet,
    legend,
    occurring,
    preview_sheet,
)

NAMES = ("road", "car", "sky", "tree")
PALETTE = ((128, 64, 128), (0, 0, 142), (70, 130, 180), (107, 142, 35))


def test_a_prediction_is_striped_where_the_truth_is_ignored_and_whole_elsewhere() -> None:
    predicted = np.full((60, 96), 2, np.uint8)
    label = predicted.copy()
    label[:, 48:] = 255
    drawn = colored_prediction(predicted, label, PALETTE)
    assert (drawn[:, :48] == PALETTE[2]).all()
    ignored = drawn[:, 48:]
    black = (ignored == 0).all(-1)
    assert (ignored[~black] == PALETTE[2]).all()
    assert 0.2 < black.mean() < 0.6


def test_stripes_are_seen_in_a_cell_however_large_the_image() -> None:
    """A sheet shows every fourth pixel of a row of 2048; a row of 64 it shows eightfold."""
    for width in (64, 512, 2048, 8192):
        label = np.full((8, width), 255, np.uint8)
        drawn = colored_prediction(np.zeros_like(label), label, PALETTE)
        places = np.arange(512) * width // 512
        black = (drawn[0, places] == 0).all(-1)
        assert 8 <= np.count_nonzero(np.diff(black.astype(int)) == 1) <= 64, width


def test_a_legend_holds_the_classes_that_occur_in_the_data_sets_order() -> None:
    prediction = np.array([[3, 3], [0, 0]], np.uint8)
    truth = np.array([[255, 0], [0, 1]], np.uint8)
    names, palette = occurring([prediction, truth], NAMES, PALETTE)
    assert names == ["road", "car", "tree"]
    assert palette == [PALETTE[0], PALETTE[1], PALETTE[3]]
    assert occurring([], NAMES, PALETTE) == ([], [])


def test_a_contact_sheet_ends_with_its_legend() -> None:
    prediction = np.full((16, 32), 3, np.uint8)
    truth = np.full((16, 32), 1, np.uint8)
    image = np.zeros((16, 32, 3), np.uint8)
    drawn = contact_sheet([(image, prediction, truth)], NAMES, PALETTE, "title")
    key = legend(["car", "tree"], [PALETTE[1], PALETTE[3]], drawn.width)
    below = np.asarray(drawn)[-key.height :]
    assert np.array_equal(below[:, : key.width], np.asarray(key))
    assert (below[:, key.width :] == 255).all()


def test_a_wide_legend_takes_as_many_columns_as_fit() -> None:
    names = [f"class {index}" for index in range(10)]
    palette = [(index, 0, 0) for index in range(10)]
    column = legend(names, palette).width
    three = legend(names, palette, 3 * column + 5)
    assert three.width == 3 * column and three.height == 4 * 22 + 8
    assert legend(names, palette, 1).size == legend(names, palette).size


def test_a_preview_without_classes_has_no_legend() -> None:
    masks = {"mask": np.ones((1, 20, 30), bool)}
    assert preview_sheet(masks, NAMES, PALETTE, "title", width=30).size == (30, 52 + 26)
