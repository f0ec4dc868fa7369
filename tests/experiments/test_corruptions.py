"""Corruptions: the published suite's constants and formulas, and what a network loses by them.

How the corruptions were compared: once, beside imagecorruptions 1.1.2 (Michaelis et al.; four names
of libraries brought up to date, nothing else), on streets of 1024x2048 and 360x480 and noise of
181x357, in all severities, the package drawing its random numbers from our generator. Every pixel
is equal in Gaussian, shot and impulse noise, defocus, fog, contrast, pixelate and JPEG. In motion
blur, snow and brightness at most 4 of 1000 values differ, by one gray level: the suite rounds down,
and sums of real numbers end on either side of a whole number. The tests here need no such package:
they hold the constants against the published table, and the pixels against slow loops.
"""

import colorsys
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from datamodules import DataError, Streets, corruptions
from datamodules.corruptions import (
    GROUPS,
    KINDS,
    SEVERITIES,
    STRENGTHS,
    Corrupted,
    corrupt,
    kinds_of,
)
from datamodules.labels import CITYSCAPES
from datamodules.reading.sources import Memory
from datamodules.sampling.loader import Loader
from datamodules.sampling.samples import Whole
from datamodules.scenes import scene
from experiments.command_line.errors import UserError
from experiments.drawing.label_images import legend, occurring
from experiments.evaluation import robustness_result
from experiments.evaluation.robustness import folders
from experiments.evaluation.robustness_report import (
    robustness_plot,
    robustness_sheet,
    robustness_table,
)
from experiments.evaluation.robustness_result import Robustness, degradation, measure

PALETTE = CITYSCAPES.palette
WITHOUT_CHANCE = ("defocus_blur", "brightness", "contrast", "pixelate", "jpeg_compression")


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    return scene(0, 3, 180, 360)[0]


@pytest.fixture(scope="module")
def source() -> Memory:
    return Streets(height=96, width=192, train=1, val=5, test=1).open("val")


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def rounded_down(values: np.ndarray) -> np.ndarray:
    """Of an image from 0 to 1."""
    return (255 * np.clip(values, 0, 1)).astype(np.uint8)


# --- the published suite


def test_the_constants_are_the_published_ones() -> None:
    """make_imagenet_c.py of hendrycks/robustness, as imagecorruptions 1.1.2 repeats it."""
    assert STRENGTHS == {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": (60, 25, 12, 5, 3),
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "fog": ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": (25, 18, 15, 10, 7),
    }
    assert set(STRENGTHS) == set(KINDS) == set(corruptions.CORRUPTIONS)
    assert tuple(GROUPS) == ("noise", "blur", "weather", "digital")


def test_noises_have_the_law_that_they_are_named_after() -> None:
    gray = np.full((256, 256, 3), 128, np.uint8)
    for deviation in STRENGTHS["gaussian_noise"]:
        noisy = corruptions.gaussian_noise(gray, np.random.default_rng(0), deviation) / 255
        assert noisy.std() == pytest.approx(deviation, rel=0.01)
        assert noisy.mean() == pytest.approx(128 / 255, abs=0.003)
    for photons in STRENGTHS["shot_noise"]:
        noisy = corruptions.shot_noise(gray, np.random.default_rng(0), photons) / 255
        assert noisy.var() == pytest.approx(128 / 255 / photons, rel=0.02)
        assert np.allclose(noisy * photons, np.round(noisy * photons))
    for severity, share in enumerate(STRENGTHS["impulse_noise"], 1):
        noisy = corrupt(gray, "impulse_noise", severity)
        assert set(np.unique(noisy)) == {0, 128, 255}
        for value in (0, 255):
            assert (noisy == value).mean() == pytest.approx(share / 2, rel=0.03)


def test_defocus_spreads_a_point_over_a_disk() -> None:
    point = np.zeros((65, 65, 3), np.uint8)
    point[32, 32] = 255
    y, x = np.mgrid[-32:33, -32:33]
    for severity, (radius, _) in enumerate(STRENGTHS["defocus_blur"], 1):
        away = np.hypot(y, x)
        spread = corruptions.defocus_blur(point, None, *STRENGTHS["defocus_blur"][severity - 1])
        inside = spread[away < radius - 2.5]
        assert np.allclose(inside, 255 / (x**2 + y**2 <= radius**2).sum(), rtol=1e-3)
        assert np.abs(spread[away > radius + 3]).max() < 1e-6
        # The suite blurs the kernel's rim with itself reflected, where the disk fills its square.
        assert spread.sum() == pytest.approx(3 * 255, rel=0.015)


@pytest.mark.parametrize("degrees", [-45, -12.5, 0, 30, -100])
def test_motion_is_a_half_gaussian_of_shifted_images(degrees: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.float64)
    radius, sigma = 10, 3
    weights = [np.exp(-(step**2) / (2 * sigma**2)) for step in range(2 * radius + 1)]
    slow = np.zeros_like(image)
    rows, columns = np.mgrid[:40, :60]
    for step, weight in enumerate(weights):
        down = int(np.ceil(step * np.sin(np.deg2rad(degrees)) - 0.5))
        right = int(np.ceil(step * np.cos(np.deg2rad(degrees)) - 0.5))
        from_row, from_column = (rows + down).clip(0, 39), (columns + right).clip(0, 59)
        slow += weight / sum(weights) * image[from_row, from_column]
    assert np.allclose(corruptions.motion(image, radius, sigma, degrees), slow, atol=1e-6)


def test_clouds_are_those_of_the_diamond_square_algorithm() -> None:
    size, decay = 16, 1.7
    chance = np.random.default_rng(3)
    slow, step, jitter = np.zeros((size, size)), size, 100.0
    while step >= 2:
        half = step // 2
        for down, right in ((half, half), (0, half), (half, 0)):
            count = size // step
            draws = chance.uniform(-jitter, jitter, (count, count))
            for row in range(count):
                for column in range(count):
                    y, x = row * step + down, column * step + right
                    ways = ((-1, -1), (-1, 1), (1, -1), (1, 1))
                    if (down, right) != (half, half):
                        ways = ((-1, 0), (1, 0), (0, -1), (0, 1))
                    around = [slow[(y + i * half) % size, (x + j * half) % size] for i, j in ways]
                    slow[y, x] = sum(around) / 4 + jitter * draws[row, column]
        step, jitter = half, jitter / decay
    wanted = (slow - slow.min()) / (slow.max() - slow.min())
    assert np.allclose(corruptions.plasma(size, decay, np.random.default_rng(3)), wanted)


def test_fog_adds_clouds_and_keeps_the_brightest_value(street: np.ndarray) -> None:
    part = street[:37, :53]
    for thickness, decay in STRENGTHS["fog"]:
        foggy = corruptions.fog(part, np.random.default_rng(0), thickness, decay)
        clouds = corruptions.plasma(64, decay, np.random.default_rng(0))[:37, :53, None]
        most = part.max() / 255
        wanted = (part / 255 + thickness * clouds) * most / (most + thickness)
        assert np.allclose(foggy, 255 * wanted)


def test_snow_whitens_the_image_and_falls_the_same_way_when_turned() -> None:
    gray = np.full((96, 130, 3), 100, np.uint8)
    for severity, numbers in enumerate(STRENGTHS["snow"], 1):
        snowy = corrupt(gray, "snow", severity, 4)
        clear = numbers[-1]
        assert snowy.min() == int(clear * 100 + (1 - clear) * (1.5 * 100 + 127.5))
        assert snowy.max() > snowy.min() and np.array_equal(snowy, np.rot90(snowy, 2))


def test_an_enlarged_grid_goes_linearly_from_corner_to_corner() -> None:
    grid = np.add.outer(np.arange(4.0), 10 * np.arange(3.0))
    wide = corruptions.enlarged(grid, 2.5)
    assert wide.shape == (10, 8)
    assert np.allclose(wide, np.add.outer(np.linspace(0, 3, 10), 10 * np.linspace(0, 2, 8)))


def test_brightness_and_contrast_are_those_of_a_slow_loop() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 17, 3)).astype(np.uint8)
    image[0, :4] = [[0, 0, 0], [255, 255, 255], [9, 9, 9], [0, 255, 0]]
    for severity in SEVERITIES:
        slow = np.zeros(image.shape)
        for place in np.ndindex(12, 17):
            hue, saturation, value = colorsys.rgb_to_hsv(*(image[place] / 255))
            value = min(value + STRENGTHS["brightness"][severity - 1], 1)
            slow[place] = colorsys.hsv_to_rgb(hue, saturation, value)
        bright = corrupt(image, "brightness", severity)
        assert np.abs(bright - 255 * slow).max() <= 1.0001
        assert np.abs(bright.astype(int) - rounded_down(slow)).mean() < 0.01
        left = STRENGTHS["contrast"][severity - 1]
        mean = image.reshape(-1, 3).mean(0)  # (H, W, 3) -> (H*W, 3)
        pale = corrupt(image, "contrast", severity)
        assert np.abs(pale - (mean + left * (image - mean))).max() <= 1.0001


def test_pixels_and_blocks_grow(street: np.ndarray) -> None:
    coarse = corrupt(street, "pixelate", 5)  # a quarter of 180x360
    blocks = street.reshape(45, 4, 90, 4, 3).mean((1, 3))  # (H, W, 3) -> (h, 4, w, 4, 3)
    assert np.abs(coarse[::4, ::4] - blocks).max() <= 1  # Pillow rounds by rows, then by columns
    assert np.array_equal(coarse, coarse[::4, ::4].repeat(4, 0).repeat(4, 1))
    for severity, quality in enumerate(STRENGTHS["jpeg_compression"], 1):
        import cv2

        data = cv2.imencode(".jpg", street[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        other = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
        assert difference(corrupt(street, "jpeg_compression", severity), other) < 1


# --- what every kind promises


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_keeps_its_shape_and_is_not_painted_into(kind: str, street: np.ndarray) -> None:
    before = street.copy()
    for image in (street, street[:37, :53], street.transpose(1, 0, 2)):
        for severity in (1, 5):
            found = corrupt(image, kind, severity)
            assert found.shape == image.shape and found.dtype == np.uint8
            assert difference(found, image) > 0.5
    assert np.array_equal(street, before)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"snow", "fog"}))  # theirs change in kind too
@pytest.mark.parametrize("size", [(180, 360), (360, 480)])
def test_a_higher_severity_is_farther_from_the_clean_image(
    kind: str, size: tuple[int, int]
) -> None:
    for index in (1, 2):
        image = scene(0, index, *size)[0]
        away = [difference(corrupt(image, kind, severity, index), image) for severity in SEVERITIES]
        assert away[0] > 0.5 and all(np.diff(away) > 0), away


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_random_differs_by_image(kind: str, street: np.ndarray) -> None:
    first = corrupt(street, kind, 3, 4)
    assert np.array_equal(first, corrupt(street, kind, 3, 4))
    assert np.array_equal(first, corrupt(street, kind, 3, 5)) == (kind in WITHOUT_CHANCE)


def test_blurs_keep_a_flat_image() -> None:
    flat = np.full((120, 150, 3), 77, np.uint8)
    for kind in GROUPS["blur"]:
        for severity in SEVERITIES:
            assert np.abs(corrupt(flat, kind, severity) - 77.0).max() <= 1


def test_the_severities_of_an_image_share_their_random_numbers() -> None:
    gray = np.full((64, 64, 3), 128, np.uint8)
    light = corrupt(gray, "gaussian_noise", 1).astype(float) - 128
    strong = corrupt(gray, "gaussian_noise", 2).astype(float) - 128
    assert np.corrcoef(light.ravel(), strong.ravel())[0, 1] > 0.99


# --- the source


def test_a_corrupted_source_has_the_labels_and_windows_of_its_image(source: Memory) -> None:
    corrupted, box = Corrupted(source, "snow", 4), (10, 20, 60, 100)
    image, label = corrupted.window(3)
    clean, truth = source.window(3)
    assert len(corrupted) == 5 and corrupted.names == source.names
    assert corrupted.size(3) == (96, 192)
    assert np.array_equal(label, truth) and np.array_equal(corrupted.label(3), truth)
    assert np.array_equal(image, corrupt(clean, "snow", 4, 3))
    part, ids = corrupted.window(3, box)
    assert np.array_equal(part, image[10:60, 20:100]) and np.array_equal(ids, label[10:60, 20:100])
    assert np.array_equal(corrupted.label(3, box), ids)


@pytest.mark.parametrize("kind", ["gaussian_noise", "motion_blur", "fog", "snow"])
def test_any_number_of_workers_gives_the_same_images(kind: str, source: Memory) -> None:
    images = Whole(Corrupted(source, kind, 3))
    orders = ((0, range(5)), (1, range(5)), (4, range(5)), (3, range(4, -1, -1)))
    runs = []
    for workers, order in orders:
        loader = Loader(images, [[index] for index in order], workers)
        runs.append([image for image, _ in loader])
    for found in (*runs[1:3], runs[3][::-1]):
        assert all(bool((one == other).all()) for one, other in zip(runs[0], found, strict=True))


def test_wrong_names_and_severities_are_refused_with_the_nearest(source: Memory) -> None:
    with pytest.raises(
        DataError,
        match=r"^there is no corruption fogg; did you mean fog\? there are gaussian_noise, shot_",
    ):
        Corrupted(source, "fogg", 1)
    for severity in (0, 6, 2.5):
        with pytest.raises(
            DataError, match=f"^there is no severity {severity}: give a whole number from 1 to 5$"
        ):
            Corrupted(source, "fog", severity)
    with pytest.raises(DataError, match=r"did you mean weather\?"):
        kinds_of("blur,wether")
    with pytest.raises(
        DataError, match="there is no corruption without a name; there are all, noise"
    ):
        kinds_of("")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("defocus", "defocus_blur"),
        ("motion", "motion_blur"),
        ("jpeg", "jpeg_compression"),
    ],
)
def test_the_beginning_of_a_kind_is_answered_with_the_whole(old: str, new: str) -> None:
    with pytest.raises(DataError, match=rf"no corruption {old}; did you mean {new}\?"):
        kinds_of(f"fog,{old}")


def test_kinds_are_chosen_by_name_and_by_group_and_never_twice() -> None:
    assert kinds_of("all") == KINDS
    assert kinds_of("fog, blur,fog") == ("fog", "defocus_blur", "motion_blur")
    assert kinds_of("weather,snow") == ("snow", "fog", "brightness")


# --- what is lost


def made_up(clean: float, **kinds: tuple[float, ...]) -> Robustness:
    return Robustness(
        clean,
        {kind: dict(enumerate(scores, 1)) for kind, scores in kinds.items()},
        setting={"data": "camvid"},
    )


OURS = made_up(0.8, fog=(0.6, 0.4), contrast=(0.8, 0.6))
THEIRS = made_up(0.7, fog=(0.5, 0.5), contrast=(0.7, 0.7))


def test_every_cell_is_evaluated_once_on_its_own_source(source: Memory) -> None:
    seen, other = [], Memory([source.window(0)])

    def miou_of(images: object) -> float:
        seen.append((getattr(images, "kind", None), getattr(images, "severity", None)))
        return len(seen) / 10

    setting = {"data": "streets", "images": 5}
    found = measure(source, miou_of, ("fog", "contrast"), (1, 5), {"acdc": other}, setting)
    cells = [("fog", 1), ("fog", 5), ("contrast", 1), ("contrast", 5)]
    assert seen == [(None, None), (None, None), *cells]
    kinds = {"fog": {1: 0.3, 5: 0.4}, "contrast": {1: 0.5, 5: 0.6}}
    assert found == Robustness(0.1, kinds, {"acdc": 0.2}, setting)


def test_what_is_left_is_the_mean_over_severities_then_over_kinds() -> None:
    assert OURS.relative("fog") == pytest.approx(0.5 / 0.8)
    assert OURS.relative("contrast") == pytest.approx(0.7 / 0.8)
    assert OURS.content()["mean_relative"] == pytest.approx(0.6 / 0.8) and OURS.severities == [1, 2]
    uneven = Robustness(0.8, {"fog": {1: 0.4}, "contrast": {1: 0.8, 2: 0.8, 3: 0.8}})
    assert uneven.content()["mean_relative"] == pytest.approx(0.75)
    assert uneven.severities == [
        1,
        2,
        3,
    ]


def test_degradation_is_the_papers() -> None:
    found = degradation(OURS, THEIRS)
    assert found["fog"].cd == pytest.approx((0.4 + 0.6) / (0.5 + 0.5))
    assert found["fog"].rcd == pytest.approx((0.2 + 0.4) / (0.2 + 0.2))
    assert (
        found["contrast"].cd == pytest.approx((0.2 + 0.4) / (0.3 + 0.3))
        and found["contrast"].rcd is None
    )  # the reference loses nothing
    assert all(each.cd == each.rcd == 1 for each in degradation(OURS, OURS).values())


def test_of_noise_only_the_first_three_severities_count_against_a_reference() -> None:
    ours = made_up(0.9, shot_noise=(0.8, 0.7, 0.6, 0.1, 0.0))
    theirs = made_up(0.9, shot_noise=(0.7, 0.6, 0.5, 0.5, 0.5))
    assert degradation(ours, theirs)["shot_noise"].cd == pytest.approx(0.9 / 1.2)
    assert degradation(ours, theirs)["shot_noise"].rcd == pytest.approx(0.6 / 0.9)
    assert (
        degradation(
            Robustness(0.9, {"shot_noise": {5: 0.1}}), Robustness(0.9, {"shot_noise": {5: 0.2}})
        )
        == {}
    )


def test_a_reference_of_other_images_or_kinds_is_refused() -> None:
    sentence = "the reference's data is cityscapes and not camvid"
    with pytest.raises(UserError, match=rf"^{sentence}: evaluate both networks in the same way$"):
        degradation(OURS, Robustness(0.7, THEIRS.kinds, setting={"data": "cityscapes"}))
    with pytest.raises(UserError, match=r"^the reference lacks contrast in some severity"):
        degradation(OURS, made_up(0.7, fog=(0.5, 0.5), contrast=(0.7,)))


def test_the_table_says_what_was_found() -> None:
    result = Robustness(0.8, OURS.kinds, {"acdc": 0.2}, OURS.setting)
    console = Console(width=120, record=True, file=StringIO())
    console.print(robustness_table(result, THEIRS))
    rows = {
        words[0]: words[1:]
        for line in console.export_text().splitlines()
        if (words := line.split())
    }
    assert rows["clean"] == ["80.0", "100.0"]
    assert rows["fog"] == ["weather", "60.0", "40.0", "50.0", "62.5", "100.0", "150.0"]
    assert rows["contrast"] == ["digital", "80.0", "60.0", "70.0", "87.5", "100.0"]
    assert rows["mean"] == ["70.0", "50.0", "60.0", "75.0", "100.0", "150.0"]
    assert rows["acdc"] == ["20.0", "25.0"]


def test_a_result_is_read_back_from_its_file(tmp_path: Path) -> None:
    result = Robustness(0.8, OURS.kinds, {"acdc": 0.2}, OURS.setting)
    content = result.content()
    assert content["suite"] == "imagenet-c"
    assert content["mean_relative"] == pytest.approx(0.75)
    assert content["others_relative"] == {"acdc": pytest.approx(0.25)}
    (tmp_path / "shift.json").write_text(json.dumps({"experiment": "a/b", "shift": content}))
    assert robustness_result.read(tmp_path / "shift.json") == result
    (tmp_path / "other.json").write_text('{"miou": 0.8}')
    for name, words in (("other.json", "holds no --shift result"), ("none.json", "cannot be read")):
        with pytest.raises(UserError, match=f"{words}.*; give a file that --shift wrote$"):
            robustness_result.read(tmp_path / name)
    assert "NaN" not in json.dumps(made_up(0.0, fog=(0.0,)).content())


@pytest.mark.parametrize("suite", [None, "other-c"])
def test_a_result_of_another_suite_is_not_compared(suite: str | None, tmp_path: Path) -> None:
    """A file without the suite's name is older than the suite."""
    content = OURS.content() | {"suite": suite}
    if suite is None:
        del content["suite"]
    (tmp_path / "shift.json").write_text(json.dumps({"shift": content}))
    with pytest.raises(UserError, match=r"shift\.json was made with another suite of corruptions"):
        robustness_result.read(tmp_path / "shift.json")


def test_other_data_sets_are_named_with_their_folders(tmp_path: Path) -> None:
    assert folders(f"acdc={tmp_path}, bdd100k={tmp_path}") == {
        "acdc": tmp_path,
        "bdd100k": tmp_path,
    }
    for text, words in (
        ("acdc", "acdc is not understood; write NAME=DIR"),
        (f"acdcc={tmp_path}", r"did you mean acdc\?"),
    ):
        with pytest.raises(UserError, match=words):
            folders(text)


# --- pictures


def test_the_plot_draws_the_scores() -> None:
    figure = robustness_plot(Robustness(0.8, OURS.kinds, {"acdc": 0.2}), "a network")
    weather, digital, other = figure.axes
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "weather",
        "digital",
        "other data",
    ]
    assert weather.lines[0].get_xydata().tolist() == [[0, 80], [1, 60], [2, 40]]
    assert len(digital.lines) == 2
    assert [bar.get_height() for bar in other.patches] == [20]
    figure.canvas.draw()


def test_the_sheet_shows_what_was_evaluated(source: Memory) -> None:
    seen = []

    def predict(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        return np.full(image.shape[:2], 3, np.uint8)

    kinds = ("snow", "contrast")
    classes = (CITYSCAPES.names, PALETTE)
    drawn = robustness_sheet(source, predict, *classes, kinds, (1, 5), width=192)
    made = np.asarray(drawn)
    wanted = [source.window(2)[0]]
    for kind in kinds:
        wanted += [Corrupted(source, kind, severity).window(2)[0] for severity in (1, 5)]
    assert len(seen) == 5 and all(np.array_equal(one, other) for one, other in zip(seen, wanted))
    row = 26 + 96 + 6  # a caption, pictures at their own size, a gap
    key = legend(*occurring([source.label(2), np.uint8([3])], *classes), 4 * 198 - 6)
    assert made.shape == (52 + 4 * row + key.height, 4 * 198 - 6, 3)
    top, left = 52 + 2 * row + 26, 2 * 198  # snow of severity 5
    assert np.array_equal(made[top : top + 96, left : left + 192], wanted[2])
    label = source.label(2)
    prediction = made[top : top + 96, left + 198 : left + 198 + 192]
    striped = prediction[label == 255]
    assert (prediction[label != 255] == PALETTE[3]).all()
    assert ((striped == 0).all(-1) | (striped == PALETTE[3]).all(-1)).all()
    truth = made[52 + 26 : 52 + 26 + 96, 198 : 198 + 192]
    assert (truth == np.uint8([*PALETTE, *[(0, 0, 0)] * 237])[label]).all()
