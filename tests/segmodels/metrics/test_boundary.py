"""Tests of boundary scores against loops over pixels, OpenCV's erosion and scipy's distances.

Counts must be equal, not only near.
"""

from math import ceil, hypot

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from segmodels.metrics.boundary import (
    band_confusions,
    boundary_counts,
    boundary_iou_counts,
    boundary_iou_scores,
    boundary_scores,
)

Maps = tuple[torch.Tensor, torch.Tensor]


def maps(seed: int, classes: int = 4, ignored: bool = True) -> Maps:
    """Blobs of an odd size, the prediction moved and speckled, ignored areas and single ignored pixels."""
    draw = np.random.default_rng(seed)
    height, width = draw.integers(9, 34, 2)
    coarse = draw.integers(0, classes, (height // 4 + 2, width // 4 + 2))
    label = np.kron(coarse, np.ones((4, 4), int))[:height, :width]
    predicted = np.roll(label, draw.integers(-3, 4, 2), (0, 1))
    predicted = np.where(
        draw.random(label.shape) < 0.06, draw.integers(0, classes, label.shape), predicted
    )
    if ignored:
        top, left = draw.integers(0, height), draw.integers(0, width)
        label[top : top + 5, left : left + 7] = 255
        label[draw.random(label.shape) < 0.03] = 255
    return torch.from_numpy(predicted.astype(np.uint8)), torch.from_numpy(label.astype(np.uint8))


def everything(predicted: torch.Tensor, label: torch.Tensor, classes: int = 4) -> list[list]:
    return [
        each(predicted, label, classes).tolist()
        for each in (boundary_counts, boundary_iou_counts, band_confusions)
    ]


def contour(classes: list[list[int]], label: list[list[int]], which: int) -> list[tuple[int, int]]:
    found = []
    for y, row in enumerate(classes):
        for x, own in enumerate(row):
            around = [(y + dy, x + dx) for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
            around = [
                (v, u)
                for v, u in around
                if 0 <= v < len(classes) and 0 <= u < len(row) and label[v][u] != 255
            ]
            if own == which and label[y][x] != 255 and any(classes[v][u] != own for v, u in around):
                found.append((y, x))
    return found


def slow_counts(
    predicted: torch.Tensor, label: torch.Tensor, num_classes: int, pixels: int
) -> list[list[int]]:
    """Every boundary pixel of one map against every one of the other."""
    counts = []
    for which in range(num_classes):
        found, true = (
            contour(predicted.tolist(), label.tolist(), which),
            contour(label.tolist(), label.tolist(), which),
        )

        def near(one: tuple[int, int], others: list[tuple[int, int]]) -> bool:
            return any((one[0] - y) ** 2 + (one[1] - x) ** 2 <= pixels**2 for y, x in others)

        counts.append(
            [
                len(found),
                sum(near(each, true) for each in found),
                len(true),
                sum(near(each, found) for each in true),
            ]
        )
    return counts


@pytest.mark.parametrize("seed", range(30))
def test_boundary_pixels_match_as_in_a_comparison_of_all_pairs(seed: int) -> None:
    classes, tolerance = (4, 11)[seed % 2], (0.0075, 0.05, 0.1, 0.17, 0.3)[seed % 5]
    predicted, label = maps(seed, classes)
    pixels = ceil(tolerance * hypot(*label.shape))
    assert boundary_counts(predicted, label, classes, tolerance).tolist() == slow_counts(
        predicted, label, classes, pixels
    )


def test_more_classes_than_a_byte_has_bits_are_told_apart() -> None:
    """Each class crosses each of the others: a bit of another group of classes would match."""
    label = (torch.arange(40)[:, None] // 2 + torch.arange(40) // 2).remainder(20).to(torch.uint8)
    predicted = label.roll(3, 1)
    assert boundary_counts(predicted, label, 20, 0.03).tolist() == slow_counts(
        predicted, label, 20, 2
    )


def test_strips_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted, label = maps(3)
    whole = everything(predicted, label)
    for rows in (1, 4, 7):
        monkeypatch.setattr("segmodels.metrics.boundary.ROWS", rows)
        assert everything(predicted, label) == whole


def test_the_tolerance_is_a_share_of_the_diagonal_rounded_up_and_met_by_equality() -> None:
    columns = torch.arange(400).expand(300, 400)  # a diagonal of 500: 3.75 pixels make 4
    label = (columns >= 200).to(torch.uint8)
    assert (
        boundary_counts((columns >= 204).to(torch.uint8), label, 2).tolist()
        == [[300, 300, 300, 300]] * 2
    )
    assert (
        boundary_counts((columns >= 205).to(torch.uint8), label, 2).tolist()
        == [[300, 0, 300, 0]] * 2
    )
    assert boundary_counts(label[:3, 198:203], label[:3, 199:204], 2)[:, 1].tolist() == [
        3,
        3,
    ]  # a small image forgives one pixel


def per_image(counts: list[int]) -> float:
    found, hit, true, met = counts
    precision, recall = hit / found if found else 0.0, met / true if true else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_scores_are_means_over_the_images_in_which_a_class_has_a_boundary() -> None:
    counts = torch.tensor(
        [
            [[8, 4, 10, 5], [6, 3, 0, 0], [5, 0, 0, 0], [0, 0, 0, 0]],
            [[0, 0, 7, 0], [4, 4, 4, 2], [2, 0, 0, 0], [0, 0, 0, 0]],
            [[9, 9, 9, 9], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        ]
    )
    found = boundary_scores(counts)
    first = [per_image(each) for each in counts[:, 0].tolist()]
    assert first == [0.5, 0, 1]
    assert found["f1"] == [pytest.approx(0.5), pytest.approx(per_image([4, 4, 4, 2])), 0, None]
    assert found["precision"] == [
        pytest.approx((0.5 + 1) / 2),
        pytest.approx((0.5 + 1) / 2),
        0,
        None,
    ]
    assert found["recall"] == [pytest.approx((0.5 + 0 + 1) / 3), pytest.approx(0.5), None, None]
    assert found["boundary_f1"] == pytest.approx((0.5 + per_image([4, 4, 4, 2]) + 0) / 3)


def authors_area(mask: np.ndarray, pixels: int) -> np.ndarray:
    """What boundary-iou-api takes for the area along the boundary: a frame of zeros, then erosions by 3x3."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return mask & (cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=pixels)[1:-1, 1:-1] == 0)


def area_beside_labeled(mask: np.ndarray, labeled: np.ndarray, pixels: int) -> np.ndarray:
    """The same, where an ignored pixel takes nothing off: by growing what does, from a frame of ones."""
    outside = cv2.copyMakeBorder(
        (labeled & ~mask).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1
    )
    return (
        mask
        & labeled
        & (cv2.dilate(outside, np.ones((3, 3), np.uint8), iterations=pixels)[1:-1, 1:-1] == 1)
    )


def test_boundary_iou_takes_46_pixels_off_an_image_of_cityscapes() -> None:
    """0.02 of the diagonal, which is the default of the authors' boundary-iou-api."""
    label = (torch.arange(2048) >= 1024).to(torch.uint8).repeat(1024, 1)
    area = 1024 * 1024 - (1024 - 2 * 46) ** 2
    assert boundary_iou_counts(label, label, 2).tolist() == [[area, area]] * 2


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ignored", [False, True])
def test_boundary_iou_is_that_of_repeated_erosion(seed: int, ignored: bool) -> None:
    width = (0.02, 0.06, 0.12, 0.5)[seed % 4]
    predicted, label = maps(seed, ignored=ignored)
    pixels = max(round(width * hypot(*label.shape)), 1)
    expected = []
    for each in range(4):
        found, true, labeled = (
            (predicted == each).numpy(),
            (label == each).numpy(),
            (label != 255).numpy(),
        )
        if ignored:
            found, true = (
                area_beside_labeled(found, labeled, pixels),
                area_beside_labeled(true, labeled, pixels),
            )
        else:
            found, true = authors_area(found, pixels), authors_area(true, pixels)
        expected.append([(found & true).sum(), (found | true).sum()])
    counts = boundary_iou_counts(predicted, label, 4, width)
    assert counts.tolist() == np.array(expected).tolist()
    found = boundary_iou_scores(counts)
    ratios = [both / union for both, union in expected if union]
    assert [each for each in found["boundary_iou"] if each is not None] == pytest.approx(ratios)
    assert found["boundary_miou"] == pytest.approx(np.mean(ratios))


@pytest.mark.parametrize("seed", range(12))
def test_bands_are_those_of_the_euclidean_distance_to_the_true_boundary(seed: int) -> None:
    predicted, label = maps(seed)
    edge = np.zeros(label.shape, bool)
    for which in range(4):
        for spot in contour(label.tolist(), label.tolist(), which):
            edge[spot] = True
    distance, labeled = distance_transform_edt(~edge), (label != 255).numpy()
    radii = (1, 2, 4, 8, 16, 32)
    found = band_confusions(predicted, label, 4, radii)
    assert found.shape == (6, 4, 4)
    for matrix, radius in zip(found, radii):
        within = labeled & (distance < radius)
        expected = np.zeros((4, 4), int)
        np.add.at(expected, (label.numpy()[within], predicted.numpy()[within]), 1)
        assert matrix.tolist() == expected.tolist()


def test_a_band_is_as_many_pixels_wide_on_each_side_of_a_boundary_as_its_radius_says() -> None:
    label = torch.zeros(6, 80, dtype=torch.uint8)
    label[:, 40:] = 1
    for radius, matrix in zip((1, 2, 4, 8, 16, 32), band_confusions(label, label, 2)):
        assert matrix.tolist() == [[6 * radius, 0], [0, 6 * radius]]


def test_what_is_predicted_where_the_label_is_ignored_changes_nothing() -> None:
    predicted, label = maps(5)
    assert (label == 255).any()
    other = torch.where(label == 255, 3 - predicted, predicted)
    assert everything(predicted, label) == everything(other, label)


def test_an_edge_against_ignored_pixels_or_the_border_is_no_boundary() -> None:
    label = torch.zeros(9, 9, dtype=torch.uint8)
    label[3:6, 3:6] = 255
    label[0, 0] = 255
    edges, areas, bands = everything(label.masked_fill(label == 255, 1), label)
    assert not any(map(any, edges)) and not torch.tensor(bands).any()
    assert (
        areas[0] == [label.ne(255).sum() - (7 * 7 - 9)] * 2
    )  # one pixel along the border of the image, as the authors have it


def test_a_perfect_prediction_scores_one() -> None:
    _, label = maps(2)
    predicted = label.masked_fill(label == 255, 0)
    found = boundary_scores(boundary_counts(predicted, label, 5)[None])
    assert found["f1"] == found["precision"] == found["recall"] == [1, 1, 1, 1, None]
    assert boundary_iou_scores(boundary_iou_counts(predicted, label, 5))["boundary_iou"] == [
        1,
        1,
        1,
        1,
        None,
    ]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 6)])
@pytest.mark.parametrize("value", [0, 255])
def test_a_map_of_one_class_or_ignored_throughout_has_no_boundary(
    shape: tuple[int, int], value: int
) -> None:
    label = torch.full(shape, value, dtype=torch.uint8)
    counts = boundary_counts(label.new_zeros(shape), label, 2)
    assert not counts.any() and counts.shape == (2, 4) and counts.dtype == torch.int64
    assert boundary_scores(counts[None])["f1"] == [None, None]
    assert np.isnan(boundary_scores(counts[None])["boundary_f1"])
    assert not band_confusions(label.new_zeros(shape), label, 2).any()
    if value == 255:
        found = boundary_iou_counts(label.new_zeros(shape), label, 2)
        assert found.tolist() == [[0, 0]] * 2
        assert np.isnan(boundary_iou_scores(found)["boundary_miou"])


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 2), (4, 5)])
def test_a_tolerance_larger_than_the_image_matches_all_of_a_class(shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    label, predicted = (
        torch.randint(2, shape, generator=draw, dtype=torch.uint8) for _ in range(2)
    )
    label.view(-1)[:2] = predicted.view(-1)[-2:] = torch.tensor([0, 1], dtype=torch.uint8)
    counts = boundary_counts(predicted, label, 2, tolerance=2.0)
    assert counts.tolist() == slow_counts(predicted, label, 2, 1000)
    assert counts.all() and torch.equal(counts[:, ::2], counts[:, 1::2])
    areas = boundary_iou_counts(predicted, label, 2, width=2.0)
    assert areas[:, 1].tolist() == [
        ((predicted == each) | (label == each)).sum() for each in (0, 1)
    ]
    assert band_confusions(predicted, label, 2)[-1].sum() == label.numel()
