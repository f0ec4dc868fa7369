"""Tests of rotation, shift and elastic deformation against slow formulas.

Image and label move together, and nothing else changes.
"""

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules.labels import IGNORED
from datamodules.reading.sources import Memory
from datamodules.sampling.class_uniform import located
from datamodules.sampling.crops import MEAN, Crop, Window, choose, draw, pad
from datamodules.sampling.deformation import Motion, displacements, drawn, move, turned
from datamodules.sampling.samples import Crops, cut
from tests.support import trees
from tests.support.data import as_rank
from tests.support.data import noise as data_of_noise

CLASSES = tuple(range(19))
STILL = Motion(0.0, (0.0, 0.0), np.zeros((2, 3, 3)))
MOVING = {
    "rotation": {"rotation": 30.0},
    "shift": {"shift": 9.0},
    "elastic": {"elastic": 6.0},
    "all": {"rotation": 30.0, "shift": 9.0, "elastic": 6.0},
}


def noise(height: int = 61, width: int = 97, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return trees.noise((height, width), CLASSES, seed=seed)


def whole(label: np.ndarray) -> tuple[Crop, Window]:
    """A crop that is the whole image as it is."""
    crop = Crop(label.shape, flip=0.0)
    return crop, choose(crop, label.shape, draw(0, 0))


def cut_moved(
    source: Memory, index: int, crop: Crop, window: Window, motion: Motion
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label, and what is outside."""
    moved = move(crop, window, motion)
    return *cut(source, index, moved), moved.outside


# --- nothing moves


@pytest.mark.parametrize("size", [(40, 50), (90, 120), (61, 97), (30, 130)])
def test_a_motion_by_nothing_is_the_plain_crop(size: tuple[int, int]) -> None:
    image, label = noise()
    source, crop = Memory([(image, label)]), Crop(size, (0.5, 2.0), continuous=True)
    for number in range(40):
        window = choose(crop, label.shape, draw(1, number))
        found, numbers, outside = cut_moved(source, 0, crop, window, STILL)
        found[outside] = MEAN
        plain, plain_numbers = pad(*cut(source, 0, window), window, size)
        assert np.array_equal(numbers == IGNORED, outside)
        assert np.array_equal(numbers, plain_numbers), f"labels differ in draw {number}"
        assert np.abs(found.astype(int) - plain).max() <= 1


def test_a_chance_of_zero_draws_the_very_crops_of_a_recipe_without_the_fields() -> None:
    source = Memory([noise(seed=each) for each in range(3)])
    settings = {"size": (40, 50), "scales": (0.5, 2.0), "continuous": True, "jitter": 0.3}
    plain = Crops(source, Crop(**settings), seed=5)
    never = {"rotation": 10.0, "rotation_chance": 0.0, "blur": "kernel:5", "blur_chance": 0.0}
    other = Crops(source, Crop(**settings, **never), seed=5)
    for number in range(20):
        one, two = plain.sample(number, number % 3), other.sample(number, number % 3)
        assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])


@pytest.mark.parametrize("field", ["rotation", "shift", "elastic", "blur"])
def test_a_field_leaves_the_draws_of_the_others_alone(field: str) -> None:
    """What is drawn of one stream does not depend on whether the others are used."""
    everything = {"rotation": 30.0, "shift": 9.0, "elastic": 6.0}
    alone = {name: value for name, value in everything.items() if name == field}
    for number in range(20):
        both = drawn(Crop((8, 8), **everything, blur="kernel:3"), 7, number)
        one = drawn(
            Crop((8, 8), **alone, **({"blur": "kernel:3"} if field == "blur" else {})), 7, number
        )
        if field == "blur":
            assert one is None
        elif field == "elastic":
            assert np.array_equal(one.grid, both.grid)
        elif field == "shift":
            assert one.shift == both.shift and one.grid is None
        else:
            assert one.angle == both.angle and one.shift == (0.0, 0.0)


# --- each motion by its formula


@pytest.mark.parametrize("angle", [-170.0, -33.0, 7.5, 90.0, 180.0])
def test_a_turned_crop_is_the_image_that_opencv_turns(angle: float) -> None:
    image, label = noise()
    crop, window = whole(label)
    height, width = label.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
    theirs = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    ids = cv2.warpAffine(
        label, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=IGNORED
    )
    motion = Motion(angle, (0.0, 0.0), None)
    found, numbers, outside = cut_moved(Memory([(image, label)]), 0, crop, window, motion)
    assert np.abs(found.astype(int) - theirs)[~outside].max() <= 1
    assert (numbers != ids).mean() < 0.002  # ties of rounding
    assert np.array_equal(numbers == IGNORED, outside)


def test_a_quarter_turn_moves_every_pixel_to_its_place() -> None:
    image, label = noise(61, 61)
    crop, window = whole(label)
    motion = Motion(90.0, (0.0, 0.0), None)
    found, numbers, outside = cut_moved(Memory([(image, label)]), 0, crop, window, motion)
    assert np.array_equal(numbers, np.rot90(label)) and not outside.any()
    assert np.abs(found.astype(int) - np.rot90(image)).max() <= 1


def test_a_shift_by_whole_pixels_moves_the_image_down_and_right() -> None:
    image, label = noise()
    crop, window = whole(label)
    motion = Motion(0.0, (5.0, -7.0), None)
    found, numbers, outside = cut_moved(Memory([(image, label)]), 0, crop, window, motion)
    assert np.array_equal(numbers[5:, :-7], label[:-5, 7:])
    assert np.abs(found[5:, :-7].astype(int) - image[:-5, 7:]).max() <= 1
    assert outside[:5].all() and outside[:, -7:].all() and not outside[5:, :-7].any()
    assert (numbers[outside] == IGNORED).all()


def test_displacements_are_bicubic_between_the_vectors_of_the_grid() -> None:
    grid = np.random.default_rng(0).normal(0, 10, (2, 3, 3))
    for size in ((41, 57), (3, 5), (200, 64)):
        found = np.stack(displacements(grid, size))
        theirs = F.interpolate(
            torch.from_numpy(grid)[None], size=size, mode="bicubic", align_corners=True
        )
        assert np.allclose(found, theirs[0].numpy(), rtol=0, atol=1e-9)
        down, across = (keys_weights(side) for side in size)
        assert np.allclose(found, down @ grid @ across.T, rtol=0, atol=1e-9)
    rows, columns = displacements(grid, (41, 57))
    assert np.allclose(rows[::20, ::28], grid[0]) and np.allclose(columns[::20, ::28], grid[1])


def keys_weights(side: int) -> np.ndarray:
    """(side, 3): cubic convolution (Keys 1981) with -0.75, border vectors repeated, by the formula."""
    weights = np.zeros((side, 3))
    for pixel, at in enumerate(np.linspace(0, 2, side)):
        for node in range(-2, 5):
            x = abs(at - node)
            if x <= 1:
                weight = 1.25 * x**3 - 2.25 * x**2 + 1
            elif x < 2:
                weight = -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3
            else:
                weight = 0
            weights[pixel, min(max(node, 0), 2)] += weight
    return weights


def test_each_pixel_is_read_where_a_slow_loop_says() -> None:
    """Everything at once, at a scale, in a flipped window: pixel by pixel."""
    _, label = noise()
    crop = Crop((33, 47), (1.7,), flip=1.0, rotation=25.0, shift=6.0, elastic=4.0)
    window, motion = choose(crop, label.shape, draw(2, 0)), drawn(crop, 2, 0)
    found = move(crop, window, motion)
    down, right = displacements(motion.grid, crop.size)
    backwards = np.linalg.inv(
        cv2.getRotationMatrix2D((0, 0), motion.angle, 1)[:, :2]
    )  # of (column, row)
    center = (np.array(window.scaled[::-1]) - 1) / 2
    for row in range(0, 33, 4):
        for column in range(0, 47, 3):
            x = column + right[row, column] - window.right
            y = row + down[row, column] - window.down
            x = window.width - 1 - x if window.flip else x
            at = np.array([x + window.left, y + window.top]) - np.array(motion.shift[::-1])
            x, y = backwards @ (at - center) + center
            assert math.isclose(found.places[1][row, column], x, abs_tol=1e-9)
            assert math.isclose(found.places[0][row, column], y, abs_tol=1e-9)
            beyond = not (-0.5 <= x < window.scaled[1] - 0.5 and -0.5 <= y < window.scaled[0] - 0.5)
            assert found.outside[row, column] == beyond


# --- image and label together


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("scales", [(1.0,), (2.0,), (4.0,)])
def test_the_label_moves_with_the_image(name: str, scales: tuple[float, ...]) -> None:
    """Where the image's color is its class, so is the crop's, but for what blends at borders."""
    label = np.kron(np.random.default_rng(1).integers(0, 2, (8, 11)), np.ones((12, 12)))
    label = label.astype(np.uint8)
    image = np.repeat(200 * label[..., None], 3, 2)
    crops = Crops(Memory([(image, label)]), Crop((80, 100), scales, **MOVING[name]), seed=3)
    for number in range(10):
        found, numbers = crops.sample(number, 0)
        inside = numbers != IGNORED
        agree = (found[..., 0] > 100) == (numbers == 1)
        assert agree[inside].mean() > 0.97
        edge = cv2.dilate(cv2.Laplacian(numbers, cv2.CV_8U), np.ones((7, 7)))
        assert agree[inside & (edge == 0)].all()
        assert (found[~inside] == MEAN).all()


@pytest.mark.parametrize(("padding", "color"), [("mean", MEAN), ("black", (0, 0, 0))])
def test_what_leaves_the_image_is_ignored_and_padding_after_jitter_and_blur(
    padding: str, color: tuple[int, int, int]
) -> None:
    source = Memory([noise()])
    settings = {"rotation": 45.0, "shift": 20.0, "jitter": 0.5, "blur": "sigma:1,2"}
    crop = Crop((61, 97), **settings, padding=padding)
    found, numbers = Crops(source, crop, seed=0).sample(3, 0)
    assert 0.05 < (numbers == IGNORED).mean() < 0.9
    assert (found[numbers == IGNORED] == color).all()


def test_what_leaves_the_image_shows_it_mirrored_where_the_recipe_says_so() -> None:
    """A shift alone: the same pixels as of an image that was mirrored all around before."""
    image, label = noise()
    height, width = label.shape
    settings = {"shift": 20.0, "flip": 0.0}
    larger = np.pad(image, ((40, 40), (40, 40), (0, 0)), mode="reflect")
    crop = Crop((height, width), **settings, padding="mirror")
    for number in range(4):
        found, numbers = Crops(Memory([(image, label)]), crop, seed=0).sample(number, 0)
        down, right = drawn(crop, 0, number).shift
        assert (numbers == IGNORED).any()
        rows = np.arange(height) - down + 40
        columns = np.arange(width) - right + 40
        wanted = bilinear(larger, rows, columns)
        assert np.abs(found - wanted).max() <= 1


def bilinear(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    below, beside = (rows - top)[:, None, None], (columns - left)[None, :, None]
    image = image.astype(float)
    upper = (1 - beside) * image[top][:, left] + beside * image[top][:, left + 1]
    lower = (1 - beside) * image[top + 1][:, left] + beside * image[top + 1][:, left + 1]
    return (1 - below) * upper + below * lower


def test_a_crop_without_labels_still_says_where_it_shows_no_image() -> None:
    source = Memory([noise()])
    crop = Crop((61, 97), rotation=45.0, shift=20.0)
    _, numbers = Crops(source, crop, seed=0).sample(3, 0)
    _, padding = Crops(source, crop, seed=0, labeled=False).sample(3, 0)
    assert np.array_equal(padding == IGNORED, numbers == IGNORED)
    assert set(np.unique(padding)) == {0, IGNORED}


def test_a_crop_that_a_shift_carries_out_of_the_image_is_all_ignored() -> None:
    image, label = noise()
    crop, window = whole(label)
    for shift in ((500.0, 0.0), (-500.0, 0.0), (0.0, 500.0), (0.0, -500.0)):
        motion = Motion(0.0, shift, None)
        _, numbers, outside = cut_moved(Memory([(image, label)]), 0, crop, window, motion)
        assert outside.all() and (numbers == IGNORED).all()


def test_only_what_a_moved_crop_touches_is_read() -> None:
    image, label = noise(400, 700)
    asked = []

    class Watched(Memory):
        def window(self, index, box=None):
            asked.append(box)
            return super().window(index, box)

    source = Watched([(image, label)])
    asked.clear()
    crop = Crop((40, 60), rotation=10.0, shift=5.0, elastic=3.0)
    window, motion = choose(crop, label.shape, draw(0, 4)), drawn(crop, 0, 4)
    _, numbers, outside = cut_moved(source, 0, crop, window, motion)
    top, left, bottom, right = asked[0]
    assert bottom - top < 90 and right - left < 110
    at = move(crop, window, motion)
    rows, columns = np.rint(at.places).astype(int)
    assert not outside.any() and np.array_equal(numbers, label[rows, columns])


# --- draws


@pytest.mark.parametrize("name", MOVING)
def test_a_draw_depends_on_seed_and_number_alone(name: str) -> None:
    crop = Crop((40, 50), **MOVING[name])
    source = Memory([noise()])
    forth = [Crops(source, crop, seed=1).sample(number, 0)[0].tobytes() for number in range(6)]
    back = [Crops(source, crop, seed=1).sample(5 - number, 0)[0].tobytes() for number in range(6)]
    assert forth == back[::-1] and len(set(forth)) == 6
    assert forth != [Crops(source, crop, seed=2).sample(each, 0)[0].tobytes() for each in range(6)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_draws_the_motions_that_are_left(workers: int) -> None:
    settings = {**MOVING["all"], "blur": "sigma:0.15,1.3", "workers": workers}
    straight, resumed = (as_rank(data_of_noise(**settings), 0, 1) for _ in range(2))
    resumed.load_state_dict({"consumed": 24})
    wanted, found = list(straight.train_dataloader())[6:], list(resumed.train_dataloader())
    assert len(found) == len(wanted) == 4
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_unlabeled_crops_move_too_but_their_color_is_the_methods() -> None:
    settings = {**MOVING["all"], "blur": "kernel:5", "jitter": 0.5, "hue": 0.2}
    data = as_rank(data_of_noise(**settings, labeled="3/7", semi=True), 0, 1)
    crop, plain = data.crops(False).crop, data.crops(True).crop
    assert (crop.blur, crop.jitter, crop.hue) == ("none", 0.0, 0.0) and plain.blur == "kernel:5"
    assert (crop.rotation, crop.shift, crop.elastic) == (30.0, 9.0, 6.0)


def test_motions_are_drawn_as_the_recipe_says() -> None:
    crop = Crop((8, 8), rotation=10.0, rotation_chance=0.5, shift=4.0, elastic=10.0)
    motions = [drawn(crop, 0, number) for number in range(2000)]
    turns = np.array([each.angle for each in motions if each.angle])
    assert 900 < len(turns) < 1100
    assert np.abs(turns).max() <= 10 and abs(turns.mean()) < 0.5
    assert turns.std() == pytest.approx(10 / math.sqrt(3), rel=0.05)
    shifts = np.array([each.shift for each in motions])
    assert np.abs(shifts).max() <= 4
    assert shifts.std() == pytest.approx(4 / math.sqrt(3), rel=0.05)
    grids = np.array([each.grid for each in motions])
    assert grids.shape == (2000, 2, 3, 3)
    assert grids.std() == pytest.approx(10, rel=0.03) and abs(grids.mean()) < 0.2


# --- with what else chooses a window


def test_a_crop_about_a_class_shows_its_spot_though_the_image_is_turned() -> None:
    label = np.zeros((300, 500), np.uint8)
    label[145:155, 450:460] = 1
    image = np.repeat(label[..., None], 3, 2)
    source = Memory([(image, label)])
    spots = located(source, 2, 1.0, 1)
    crop = Crop((60, 60), rotation=15.0, class_uniform=1.0)
    crops = Crops(source, crop, seed=0, spots=spots)
    rare = 1 + int(np.flatnonzero(spots.places[:, 2] > 400)[0])
    shown = [(crops.sample(number, rare)[1] == 1).any() for number in range(100)]
    assert np.mean(shown) > 0.9
    motion = Motion(15.0, (0.0, 0.0), None)
    row, column = turned((150, 455), label.shape, motion)
    everything = Crop(label.shape, flip=0.0)
    _, numbers, _ = cut_moved(
        source, 0, everything, choose(everything, label.shape, draw(0, 0)), motion
    )
    assert numbers[row, column] == 1


def test_a_turned_window_that_one_class_dominates_is_drawn_again() -> None:
    """The other class stands far from the center: where it is in the turned image, it is not in the other."""
    label = np.zeros((200, 200), np.uint8)
    label[80:120, 20:60] = 1
    source = Memory([(np.repeat(label[..., None], 3, 2), label)])
    settings = {"size": (40, 40), "rotation": 180.0}

    def dominated(share: float) -> float:
        crops = Crops(source, Crop(**settings, cat_max_ratio=share), seed=0)
        labels = [crops.sample(number, 0)[1] for number in range(60)]
        return np.mean([(each == 0).sum() >= 0.9 * (each < 255).sum() for each in labels])

    assert dominated(1.0) > 0.6 and dominated(0.9) < 0.3
