"""Tests of the built-in street scenes: repeatable, and the same at every size.

They show Cityscapes' classes in about Cityscapes' shares.
"""

import hashlib
import math
import subprocess
import sys

import cv2
import numpy as np
import pytest

from datamodules.scenes import scene, textures
from datamodules.scenes.materials import smooth_noise
from datamodules.scenes.painter import Camera, Cutout, Painter, Weather
from tests.support.paths import ROOT

# % of Cityscapes' pixels, from the class weights 1 / ln(1.1 + share) that ERFNet was trained with
SHARES = {
    7: 32.7, 8: 5.4, 11: 20.2, 12: 0.58, 13: 0.78, 17: 1.09, 19: 0.18, 20: 0.49, 21: 14.1, 22: 1.03, 23: 3.6, 24: 1.08, 25: 0.12,
    26: 6.2, 27: 0.24, 28: 0.21, 31: 0.21, 32: 0.09, 33: 0.37,
}  # fmt: skip
VOID = {1, 3, 4, 9, 10}  # ego vehicle, out of roi, static, parking, rail track


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.stack([scene(11, index, 128, 256)[1] for index in range(200)])


def digests(indices: list[int]) -> dict[int, str]:
    return {
        index: hashlib.sha256(
            b"".join(array.tobytes() for array in scene(3, index, 65, 130))
        ).hexdigest()
        for index in indices
    }


def painter(height: int = 48, width: int = 96) -> Painter:
    camera = Camera(
        focal=1.1 * width, center=width / 2 - 0.5, horizon=0.4 * height - 0.5, eye=1.3, bend=0.0
    )
    weather = Weather(sky=(0, 0, 0), haze=(0, 0, 0), sight=math.inf, sun=1, sunny=False)
    blank = Painter(camera, weather, height, width)
    blank.image[:], blank.label[:] = 0, 0
    return blank


def test_a_scene_is_the_same_in_another_process_and_another_order() -> None:
    words = "from tests.datamodules.test_scenes import digests; print(digests([4, 0, 2]))"
    other = subprocess.run(
        [sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == str(
        {index: digests([0, 1, 2, 3, 4])[index] for index in (4, 0, 2)}
    )


def test_another_seed_or_index_gives_another_scene() -> None:
    image, label = scene(1, 2, 64, 128)
    for seed, index in ((1, 3), (2, 2), (2, 1), (12, 0)):
        other_image, other_label = scene(seed, index, 64, 128)
        assert (image != other_image).mean() > 0.5
        assert (label != other_label).mean() > 0.05


@pytest.mark.parametrize("index", range(12))
def test_a_scene_is_the_same_at_half_the_size(index: int) -> None:
    _, large = scene(5, index, 256, 512)
    _, small = scene(5, index, 128, 256)
    assert (large[::2, ::2] == small).mean() > 0.93


def test_a_scene_keeps_its_colors_at_half_the_size() -> None:
    large, _ = scene(5, 1, 256, 512)
    small, _ = scene(5, 1, 128, 256)
    coarse = [
        cv2.resize(image, (16, 8), interpolation=cv2.INTER_AREA).astype(float)
        for image in (large, small)
    ]
    assert np.abs(coarse[0] - coarse[1]).mean() < 4


def test_only_classes_and_the_known_void_ids_occur(labels: np.ndarray) -> None:
    assert set(np.unique(labels).tolist()) == set(SHARES) | VOID


def test_every_class_has_a_third_to_three_times_its_share_of_cityscapes(labels: np.ndarray) -> None:
    counts = np.bincount(labels.ravel(), minlength=34)
    measured = {label: 100 * counts[label] / labels.size / share for label, share in SHARES.items()}
    assert {label: ratio for label, ratio in measured.items() if not 1 / 3 < ratio < 3} == {}


def test_most_scenes_hold_the_common_classes_and_few_the_rare_ones(labels: np.ndarray) -> None:
    holding = {label: np.mean([(one == label).any() for one in labels]) for label in SHARES}
    assert all(holding[label] > 0.9 for label in (7, 8, 11, 17, 21, 23, 26))
    assert all(0.01 < holding[label] < 0.3 for label in (27, 28, 31, 32))


def test_labels_hold_hardly_any_specks(labels: np.ndarray) -> None:
    specks = 0
    for label in labels[:40]:
        for present in np.unique(label):
            _, _, statistics, _ = cv2.connectedComponentsWithStats(
                (label == present).astype(np.uint8), connectivity=8
            )
            areas = statistics[1:, cv2.CC_STAT_AREA]
            specks += areas[areas <= 2].sum()
    assert specks / labels[:40].size < 0.001


@pytest.mark.parametrize(
    "size", [(32, 64), (33, 65), (64, 32), (100, 300), (257, 511), (400, 100), (530, 1040)]
)
def test_any_size_is_filled_to_the_last_pixel(size: tuple[int, int]) -> None:
    first, second = scene(2, 1, *size), scene(2, 1, *size)
    for one, other, shape in zip(first, second, ((*size, 3), size), strict=True):
        assert one.shape == shape and one.dtype == np.uint8 and one.flags.c_contiguous
        assert np.array_equal(one, other)  # what was not drawn would be whatever the memory held
    assert set(np.unique(first[1]).tolist()) <= set(SHARES) | VOID


def test_too_small_a_scene_is_refused_with_the_smallest_size() -> None:
    with pytest.raises(ValueError, match="at least 32 rows and columns, not 16x64"):
        scene(0, 0, 16, 64)


def test_the_number_of_opencv_threads_is_left_alone() -> None:
    words = "import cv2; before = cv2.getNumThreads(); from datamodules.scenes import scene; scene(0, 0, 32, 64); "
    subprocess.run(
        [sys.executable, "-c", words + "assert cv2.getNumThreads() == before"], cwd=ROOT, check=True
    )


def test_things_shrink_with_their_distance_and_stand_on_the_ground() -> None:
    camera = painter().camera
    near = [camera.point(2, y, 5) for y in (0, 1.7)]
    far = [camera.point(2, y, 10) for y in (0, 1.7)]
    assert near[0][1] - near[1][1] == pytest.approx(2 * (far[0][1] - far[1][1]))
    assert near[0][0] - camera.center == pytest.approx(2 * (far[0][0] - camera.center))
    assert camera.depth(far[0][1]) == pytest.approx(10)


def test_a_polygon_is_labeled_where_its_image_is() -> None:
    brush, corners = painter(), [(10.3, 5.2), (70.7, 12.6), (60.1, 40.4), (20.9, 33.8)]
    brush.polygon(corners, (255, 255, 255), 7)
    for row in range(brush.height):
        for column in range(brush.width):
            sides = list(zip(corners, corners[1:] + corners[:1], strict=True))
            # distance inside of each side; positive inside all of them
            depth = min(
                ((x1 - x0) * (row - y0) - (y1 - y0) * (column - x0)) / math.hypot(x1 - x0, y1 - y0)
                for (x0, y0), (x1, y1) in sides
            )
            if abs(depth) > 1:
                assert brush.label[row, column] == (7 if depth > 0 else 0), (row, column)
            if abs(depth) > 2:  # the image's edge is smooth
                assert brush.image[row, column, 0] == (255 if depth > 0 else 0), (row, column)


def test_a_texture_changes_no_pixel_outside_its_label() -> None:
    crown, wall = textures().crowns[0], textures().walls[0]
    for draw in (
        lambda brush: brush.sprite(crown, (0.4, 2.0, 9.0), 1.5, 1.0, False, 21),
        lambda brush: brush.sprite(crown, (-4.0, 2.0, 9.0), 2.5, 1.0, True, 21),
        lambda brush: brush.surface(
            [(-3, 3, 3), (-3, 3, 30), (-3, 0, 30), (-3, 0, 3)], wall, 3.0, 1.0, 12
        ),
    ):
        brush = painter()
        draw(brush)
        assert np.array_equal(brush.image.any(axis=-1), brush.label > 0)
        assert (brush.label > 0).sum() > 50


def test_a_cutout_is_as_tall_as_the_camera_says() -> None:
    brush = painter(200, 400)
    Cutout(brush, 1.0, 12.0).box(-0.5, 0.0, 0.5, 2.0, (200, 10, 10), 24)
    rows, columns = np.nonzero(brush.label == 24)
    scale = brush.camera.focal / 12
    assert rows.max() - rows.min() + 1 == pytest.approx(2 * scale, abs=2)
    assert columns.max() - columns.min() + 1 == pytest.approx(scale, abs=2)


def test_a_crown_is_one_piece_without_holes() -> None:
    for crown in textures().crowns + textures().bushes:
        for shape in (crown[0][..., 3] > 127, crown[0][..., 3] <= 127):
            pieces, _ = cv2.connectedComponents(
                np.pad(shape, 1, mode="edge").astype(np.uint8), connectivity=4
            )
            assert pieces == 2  # OpenCV counts what is not the shape as one


def test_noise_continues_over_its_border() -> None:
    noise = smooth_noise(np.random.default_rng(0), size=128, cells=8)
    inside, across = (
        np.abs(np.diff(noise, axis=1)).mean(),
        np.abs(noise[:, 0] - noise[:, -1]).mean(),
    )
    assert across < 1.5 * inside
    assert abs(noise.mean()) < 1e-4 and noise.std() == pytest.approx(1, abs=1e-3)
