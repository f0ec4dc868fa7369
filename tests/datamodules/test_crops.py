import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from colorsys import rgb_to_hsv

import cv2
import numpy as np
import pytest
import torch

from datamodules import DataError
from datamodules.labels import LabelSet
from datamodules.module import SegmentationData
from datamodules.reading.sources import Memory
from datamodules.sampling.crops import Crop, blurred, choose, draw, recolor
from datamodules.sampling.samples import Crops, Draw, DrawSampler, cut
from tests.support import trees
from tests.support.paths import ROOT

SETTINGS = {"crop": (24, 40), "scales": (0.5, 2.0), "continuous": True, "jitter": 0.5}


class Noise(SegmentationData):
    """Seven images of noise in memory: what every test of the machinery needs."""

    name = "noise"
    labels = LabelSet(("a", "b", "c"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), (0, 1, 2))

    def source(self, split: str) -> Memory:
        count = {"train": 7, "val": 5, "test": 3}[split]
        return Memory([trees.noise((30, 50), (0, 1, 2), seed=k) for k in range(count)])


def batches(data: SegmentationData) -> list[tuple[torch.Tensor, torch.Tensor]]:
    data.setup("fit")
    return list(data.train_dataloader())


def flat(batches: Iterable[list[Draw]]) -> list[Draw]:
    return [item for batch in batches for item in batch]


def resized_then_cropped(
    image: np.ndarray, label: np.ndarray, crop: Crop, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The slow way: scale everything, then cut."""
    window = choose(crop, label.shape, rng)
    whole = cv2.resize(image, window.scaled[::-1], interpolation=cv2.INTER_LINEAR)
    ids = cv2.resize(label, window.scaled[::-1], interpolation=cv2.INTER_NEAREST)
    place = (
        slice(window.top, window.top + window.height),
        slice(window.left, window.left + window.width),
    )
    image, label = whole[place], ids[place]
    return (image[:, ::-1], label[:, ::-1]) if window.flip else (image, label)


@pytest.mark.parametrize(
    "scales, continuous, size",
    [
        ((0.5, 2.0), True, (100, 140)),
        ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), False, (64, 64)),
        ((0.05, 0.5), True, (31, 57)),
        ((2.0, 7.0), True, (90, 33)),
    ],
)
def test_a_window_read_before_scaling_equals_the_crop_of_the_scaled_image(
    scales: tuple[float, ...], continuous: bool, size: tuple[int, int]
) -> None:
    crop = Crop(size, scales, continuous)
    for number in range(200):
        height, width = draw(5, number, stream=9).integers(60, 400, 2).tolist()
        image, label = trees.noise((height, width), tuple(range(19)), seed=number, block=1)
        ours, ours_label = cut(
            Memory([(image, label)]), 0, choose(crop, label.shape, draw(0, number))
        )
        theirs, their_label = resized_then_cropped(image, label, crop, draw(0, number))
        assert np.array_equal(ours_label, their_label), f"labels differ in draw {number}"
        assert np.abs(ours.astype(int) - theirs).max() <= 1, (
            f"more than a gray level in draw {number}"
        )


def test_a_window_of_a_large_image_reads_only_what_it_shows() -> None:
    window = choose(Crop((64, 64), (2.0,)), (1024, 2048), draw(0, 0))
    top, left, bottom, right = window.box
    assert bottom - top <= 32 + 4 and right - left <= 32 + 4


def test_all_windows_places_and_flips_are_drawn() -> None:
    windows = [choose(Crop((8, 20), (1.0,)), (10, 16), draw(3, number)) for number in range(600)]
    assert {w.top for w in windows} == {0, 1, 2} and {w.left for w in windows} == {0}
    assert {w.right for w in windows} == {0, 1, 2, 3, 4} and {w.down for w in windows} == {0}
    assert 240 < sum(w.flip for w in windows) < 360


def test_every_scale_of_a_set_is_drawn_equally_often() -> None:
    scales = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    crop = Crop((8, 20), scales)
    drawn = [choose(crop, (100, 200), draw(3, number)).scaled for number in range(1200)]
    times = [drawn.count((round(100 * scale), round(200 * scale))) for scale in scales]
    assert sum(times) == 1200 and min(times) > 150 and max(times) < 250


def test_a_range_of_scales_is_drawn_evenly() -> None:
    crop = Crop((8, 20), (0.5, 1.0, 2.0), continuous=True)
    drawn = [choose(crop, (1000, 1000), draw(3, number)).scaled[0] for number in range(1200)]
    times, _ = np.histogram(drawn, bins=6, range=(500, 2000))
    assert times.sum() == 1200 and times.min() > 150 and times.max() < 250


@pytest.mark.parametrize(("padding", "color"), [("mean", (124, 116, 104)), ("black", (0, 0, 0))])
def test_an_image_smaller_than_the_crop_stands_on_one_color_and_ignored_label(
    padding: str, color: tuple[int, int, int]
) -> None:
    image, label = trees.noise((10, 12), (0, 1))
    crop = Crop((16, 20), flip=0.0, padding=padding)
    pixels, ids = Crops(Memory([(image, label)]), crop, seed=0).sample(0, 0)
    assert pixels.shape == (16, 20, 3) and (ids != 255).sum() == 120
    assert (pixels[ids == 255] == color).all()
    assert np.array_equal(pixels[ids != 255], image.reshape(-1, 3)) and np.array_equal(
        ids[ids != 255], label.ravel()
    )


def test_an_image_smaller_than_the_crop_is_mirrored_where_the_recipe_says_so() -> None:
    """As numpy mirrors; the label beyond the image stays ignored."""
    image, label = trees.noise((10, 5), (0, 1))
    for number in range(5):
        crop = Crop((16, 20), flip=0.0, padding="mirror")
        pixels, ids = Crops(Memory([(image, label)]), crop, seed=0).sample(number, 0)
        down, right = (np.argwhere(ids != 255).min(0)[axis] for axis in (0, 1))
        around = ((down, 6 - down), (right, 15 - right), (0, 0))
        assert np.array_equal(pixels, np.pad(image, around, mode="reflect"))
        assert np.array_equal(ids[down : down + 10, right : right + 5], label)
        assert (ids != 255).sum() == 50


def test_jitter_changes_the_picture_and_never_the_padding_or_the_label() -> None:
    source = Memory([trees.noise((10, 12), (0, 1))])
    plain, label = Crops(source, Crop((16, 20)), seed=0).sample(0, 0)
    jittered, same = Crops(source, Crop((16, 20), jitter=0.5), seed=0).sample(0, 0)
    assert np.array_equal(label, same) and np.array_equal(
        plain[label == 255], jittered[label == 255]
    )
    assert not np.array_equal(plain[label != 255], jittered[label != 255])


def test_jitter_draws_brightness_contrast_and_saturation_each_on_its_own() -> None:
    """Each of the three multiplies something by its factor, in whatever order they come: brightness
    the mean tone, brightness and contrast the step between two grays, all of them a color's chroma."""
    image = np.repeat(np.uint8([[[80] * 3, [150] * 3, [80, 115, 150], [150, 115, 80]]]), 8, 0)
    weights = np.array([0.299, 0.587, 0.114])  # of red, green and blue in a tone

    def measured(pixels: np.ndarray) -> np.ndarray:
        values = pixels.astype(float).mean(0)  # (4, 3): two grays, two colors
        chroma = np.ptp(values[2:], axis=1).mean()
        return np.array([(values @ weights).mean(), values[1, 0] - values[0, 0], chroma])

    plain = measured(image)
    shares = np.array([measured(recolor(image, 0.3, 0, number)) for number in range(400)]) / plain
    tone, step, chroma = shares.T
    factors = np.array([tone, step / tone, chroma / step])
    assert (abs(factors.min(1) - 0.7) < 0.05).all() and (abs(factors.max(1) - 1.3) < 0.05).all()
    assert (abs(factors.mean(1) - 1.0) < 0.04).all()
    assert (abs(np.corrcoef(factors) - np.eye(3)) < 0.15).all()


def test_hue_turns_every_color_by_one_share_of_the_circle_and_nothing_else() -> None:
    colors = np.uint8([[[250, 10, 10], [10, 250, 10], [40, 200, 220], [90, 90, 90]]])
    turns = []
    for number in range(200):
        found = recolor(colors, 0.0, 0, number, hue=0.25)
        before, after = (
            np.array([rgb_to_hsv(*color) for color in each[0] / 255]) for each in (colors, found)
        )
        assert np.abs(after[:, 1:] - before[:, 1:]).max() < 0.02  # saturation and value
        turn = (after[:3, 0] - before[:3, 0] + 0.5) % 1 - 0.5
        assert np.ptp(turn) < 0.02  # OpenCV's hue has 180 steps
        turns.append(turn.mean())
    assert min(turns) == pytest.approx(-0.25, abs=0.02)
    assert max(turns) == pytest.approx(0.25, abs=0.02) and abs(np.mean(turns)) < 0.03


def test_hue_leaves_the_other_factors_as_they_were_drawn() -> None:
    gray = np.repeat(np.arange(60, 180, dtype=np.uint8)[None, :, None], 3, 2)
    for number in range(20):
        plain = recolor(gray, 0.3, 0, number)
        assert np.array_equal(recolor(gray, 0.3, 0, number, hue=0.25), plain)


def test_jitter_is_a_function_of_seed_and_draw() -> None:
    image, _ = trees.noise((16, 16), (0,))
    first = [recolor(image, 0.4, seed, number).tobytes() for seed in (0, 1) for number in (0, 1, 2)]
    again = [recolor(image, 0.4, seed, number).tobytes() for seed in (0, 1) for number in (0, 1, 2)]
    assert first == again and len(set(first)) == 6


# --- blur


def blurs(image: np.ndarray, crop: Crop, count: int) -> list[np.ndarray]:
    return [blurred(image, crop, seed=0, number=number) for number in range(count)]


def test_a_kernel_of_five_is_the_binomial_one() -> None:
    image, _ = trees.noise((20, 30), (0,))
    (found,) = blurs(image, Crop((20, 30), blur="kernel:5"), 1)
    weights = np.array([1, 4, 6, 4, 1]) / 16
    around = np.pad(image.astype(float), ((2, 2), (2, 2), (0, 0)), "edge")
    down = sum(weight * around[row : row + 20] for row, weight in enumerate(weights))
    slow = sum(weight * down[:, column : column + 30] for column, weight in enumerate(weights))
    assert np.abs(found - slow).max() <= 0.51


def test_a_width_is_drawn_from_its_range_and_makes_a_gaussian() -> None:
    """A white pixel becomes the kernel, whose spread tells the width."""
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    at = np.arange(41) - 20
    widths = []
    for found in blurs(image, Crop((41, 41), blur="sigma:2,3"), 200):
        across = found[20, :, 0].astype(float)
        widths.append(np.sqrt((across * at**2).sum() / across.sum()))
    assert 1.7 < min(widths) < 2.1 and 2.6 < max(widths) < 3.1
    line = np.zeros((41, 41, 3), np.uint8)
    line[:, 20] = 255
    (found,) = blurs(line, Crop((41, 41), blur="sigma:2,2"), 1)
    kernel = np.exp(-(at**2) / 8) * (np.abs(at) <= 8)
    wanted = 255 * kernel / kernel.sum()
    assert np.abs(found[20, :, 0] - wanted).max() < 1.5  # OpenCV's weights are in steps of 1/256


def test_a_blur_comes_as_often_as_its_chance_and_by_seed_and_draw_alone() -> None:
    image, _ = trees.noise((12, 12), (0,))
    found = blurs(image, Crop((12, 12), blur="sigma:0.5,2", blur_chance=0.5), 400)
    changed = sum(not np.array_equal(each, image) for each in found)
    assert 160 < changed < 240
    again = blurs(image, Crop((12, 12), blur="sigma:0.5,2", blur_chance=0.5), 400)
    assert all(np.array_equal(one, two) for one, two in zip(found, again, strict=True))
    plain = blurs(image, Crop((12, 12)), 3)
    assert all(np.array_equal(each, image) for each in plain)


def test_a_blur_follows_the_color_and_never_reaches_padding_or_label() -> None:
    source = Memory([trees.noise((10, 12), (0, 1))])
    plain, label = Crops(source, Crop((16, 20), jitter=0.5), seed=0).sample(0, 0)
    crop = Crop((16, 20), jitter=0.5, blur="kernel:3")
    found, same = Crops(source, crop, seed=0).sample(0, 0)
    inside = label != 255
    assert np.array_equal(label, same) and np.array_equal(plain[~inside], found[~inside])
    picture = plain[inside].reshape(10, 12, 3)
    slow = cv2.GaussianBlur(picture, (3, 3), 0, borderType=cv2.BORDER_REPLICATE)
    assert np.array_equal(found[inside].reshape(10, 12, 3), slow)


# --- batches

MOVED = {"rotation": 20.0, "shift": 5.0, "elastic": 3.0, "blur": "sigma:0.15,1.3"}


@pytest.mark.parametrize("moved", [{}, MOVED])
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(workers: int, moved: dict) -> None:
    alone = batches(Noise(**SETTINGS, **moved, batch=4, iterations=5, workers=0))
    helped = batches(Noise(**SETTINGS, **moved, batch=4, iterations=5, workers=workers))
    assert len(alone) == len(helped) == 5
    assert all(
        torch.equal(a, b)
        for pair, other in zip(alone, helped, strict=True)
        for a, b in zip(pair, other, strict=True)
    )


@pytest.mark.parametrize("moved", [{}, MOVED])
def test_a_crop_has_the_same_bits_for_any_number_of_opencvs_threads(
    moved: dict, opencv_threads: Callable[[int], None]
) -> None:
    """Large ones: OpenCV shares out only what is worth it."""
    crop = Crop((600, 800), (0.5, 2.0), continuous=True, jitter=0.5, hue=0.1, **moved)
    source = Memory([trees.noise((700, 900), (0, 1, 2), seed=1)])
    found = []
    for threads in (0, 2):
        opencv_threads(threads)
        found.append([Crops(source, crop, seed=0)[number, 0] for number in range(3)])
    assert all(torch.equal(a, b) for one, other in zip(*found) for a, b in zip(one, other))


def test_batches_are_uint8_images_and_train_ids() -> None:
    image, label = batches(Noise(**SETTINGS, batch=4, iterations=1))[0]
    assert image.shape == (4, 3, 24, 40) and label.shape == (4, 24, 40)
    assert image.dtype == label.dtype == torch.uint8 and set(label.unique().tolist()) <= {
        0,
        1,
        2,
        255,
    }


def test_another_seed_draws_other_batches() -> None:
    first, other = (
        batches(Noise(**SETTINGS, batch=4, iterations=1, seed=seed))[0] for seed in (0, 1)
    )
    assert not torch.equal(first[0], other[0])


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    draws = flat(DrawSampler(7, 0, batch=3, batches=14))
    assert [number for number, _ in draws] == list(range(42))
    epochs = [[index for _, index in draws[start : start + 7]] for start in range(0, 42, 7)]
    assert (
        all(sorted(epoch) == list(range(7)) for epoch in epochs)
        and len({tuple(epoch) for epoch in epochs}) > 3
    )


def test_ranks_share_out_each_global_batch_and_draw_what_one_rank_draws() -> None:
    one = list(DrawSampler(7, 3, batch=6, batches=9))
    ranks = [list(DrawSampler(7, 3, batch=2, batches=9, rank=rank, world=3)) for rank in range(3)]
    assert all(sorted(flat(parts)) == whole for whole, *parts in zip(one, *ranks, strict=True))


def test_accumulation_takes_the_same_draws_in_smaller_batches() -> None:
    assert flat(DrawSampler(7, 3, batch=6, batches=4)) == flat(
        DrawSampler(7, 3, batch=2, batches=12)
    )


def test_a_resumed_sampler_yields_only_what_is_left_and_counts_all() -> None:
    run = DrawSampler(5, 1, batch=2, batches=10, rank=1, world=2)
    rest = DrawSampler(5, 1, batch=2, batches=10, rank=1, world=2, taken=lambda: 6)
    assert list(rest) == list(run)[6:] and len(rest) == len(run) == 10


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"crop": (0, 5)}, "two whole numbers"),
        ({"crop": (5,)}, "height, width"),
        ({"scales": ()}, "rising order"),
        ({"scales": (2.0, 1.0)}, "rising order"),
        ({"flip": 1.5}, "probability"),
        ({"jitter": -1}, "strength"),
        ({"hue": 0.6}, "a share of the color circle from 0 to 0.5"),
        ({"rotation": 181}, "degrees from 0 to 180"),
        ({"rotation_chance": 2}, "rotation_chance=2 is not a probability"),
        ({"shift": -1}, "a number of pixels from 0 up"),
        ({"elastic": -1}, "a number of pixels from 0 up"),
        ({"blur": "kernel:4"}, "none, kernel:5 .* and sigma:0.15,1.3"),
        ({"blur": "kernel:1"}, "blur=kernel:1 is none of"),
        ({"blur": "sigma:2,1"}, "blur=sigma:2,1 is none of"),
        ({"blur": "sigma:0,1"}, "blur=sigma:0,1 is none of"),
        ({"blur": "box"}, "blur=box is none of"),
        ({"blur_chance": -0.5}, "blur_chance=-0.5 is not a probability"),
        ({"padding": "white"}, "padding=white is not mean, black or mirror"),
        ({"batch": 0}, "nearest is 1"),
        ({"workers": -2}, "nearest is 0"),
        ({"seed": -1}, "nearest is 0"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(wrong: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Noise(**wrong)


def test_the_package_imports_and_crops_without_albumentations() -> None:
    code = (
        "import sys; sys.modules['albumentations'] = None; from datamodules.sampling.crops import Crop\n"
        "from datamodules.sampling.samples import Crops; from tests.support import trees\n"
        "from datamodules.reading.sources import Memory; source = Memory([trees.noise((9, 9), (0, 1))])\n"
        "print(Crops(source, Crop((4, 4)), 0)[0, 0][0].shape); Crops(source, Crop((4, 4), jitter=0.1), 0)[0, 0]"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "torch.Size([3, 4, 4])" in done.stdout and done.returncode == 1
    assert "DataError: jitter=0.1 needs albumentations" in done.stderr
    assert "pip install albumentations" in done.stderr
