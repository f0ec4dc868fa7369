"""Corruptions: what they promise of every pixel, and the arithmetic of what a network loses under them."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from datamodules import DataError, Streets, corruptions
from datamodules.corruptions import KINDS, SEVERITIES, STRENGTHS, Shifted, chosen, corrupted
from datamodules.labels import CITYSCAPES
from datamodules.reading.sources import Memory
from datamodules.sampling.loader import Loader
from datamodules.sampling.samples import Whole
from datamodules.scenes import scene
from experiments.command_line.errors import UserError
from experiments.evaluation import robustness_result
from experiments.evaluation.robustness_report import shift_plot, shift_sheet, shift_table
from experiments.evaluation.robustness_result import Shift, degradation, shift

PALETTE = CITYSCAPES.palette


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    return scene(0, 3, 180, 360)[0]


@pytest.fixture(scope="module")
def source() -> Memory:
    return Streets(height=96, width=192, train=1, val=5, test=1).open("val")


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


# --- pixels


def test_every_kind_has_five_strengths_that_go_one_way() -> None:
    assert set(STRENGTHS) == set(KINDS) == set(corruptions.CORRUPTIONS)
    for strengths in STRENGTHS.values():
        for values in strengths.values():
            steps = np.diff(values)
            assert len(values) == len(SEVERITIES) and (np.all(steps > 0) or np.all(steps < 0))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_keeps_its_shape_and_is_not_painted_into(kind: str, street: np.ndarray) -> None:
    before = street.copy()
    for image in (street, street[:37, :53], street.transpose(1, 0, 2)):
        found = corrupted(image, kind, 5)
        assert found.shape == image.shape and found.dtype == np.uint8
    assert np.array_equal(street, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(180, 360), (360, 480)])
def test_a_higher_severity_is_farther_from_the_clean_image(
    kind: str, size: tuple[int, int]
) -> None:
    for index in (1, 2):
        image = scene(0, index, *size)[0]
        away = [
            difference(corrupted(image, kind, severity, (0, index)), image)
            for severity in SEVERITIES
        ]
        assert away[0] > 0.5 and all(np.diff(away) > 0), away


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_random_differs_by_seed_and_image(kind: str, street: np.ndarray) -> None:
    first = corrupted(street, kind, 3, (0, 4))
    assert np.array_equal(first, corrupted(street, kind, 3, (0, 4)))
    same = [
        np.array_equal(first, corrupted(street, kind, 3, seed)) for seed in ((1, 4), (0, 5), (4, 0))
    ]
    assert same == [kind in ("defocus", "brightness", "contrast", "jpeg")] * 3


@pytest.mark.parametrize(
    "kind", ["defocus", "motion", "fog", "rain", "snow", "brightness", "contrast"]
)
def test_a_severity_looks_alike_at_another_size(kind: str) -> None:
    """The large image corrupted and made small, and the small one corrupted: closer to each other than to the next severity."""
    import cv2

    large = scene(0, 3, 1024, 1024)[0]
    small = cv2.resize(large, (512, 512), interpolation=cv2.INTER_AREA)
    shrunk = cv2.resize(corrupted(large, kind, 3), (512, 512), interpolation=cv2.INTER_AREA)
    away = [difference(shrunk, corrupted(small, kind, severity)) for severity in (2, 3, 4)]
    assert away[1] < 0.6 * min(away[0], away[2]), away


def test_blurs_keep_a_flat_image_and_spread_a_point_as_far_as_they_say() -> None:
    flat, point = np.full((512, 512, 3), 77, np.uint8), np.zeros((512, 512, 3), np.float32)
    point[256, 256] = 1
    assert all(
        np.array_equal(corrupted(flat, kind, severity), flat)
        for kind in ("defocus", "motion")
        for severity in SEVERITIES
    )
    y, x = np.nonzero(corruptions.defocus(point, np.random.default_rng(0), radius=8)[..., 0] > 1e-9)
    assert np.hypot(y - 256, x - 256).max() < 8.6 and x.max() - x.min() == 16
    spread = corruptions.motion(point, np.random.default_rng(0), length=23)[..., 0]
    y, x = np.nonzero(spread > 1e-9)
    assert 21 <= np.hypot(
        y.max() - y.min(), x.max() - x.min()
    ) <= 27 and spread.sum() == pytest.approx(1, abs=1e-4)


def test_noises_have_the_variance_of_their_law() -> None:
    gray = np.full((256, 256, 3), 0.5, np.float32)
    for severity in SEVERITIES:
        spread, photons = (
            STRENGTHS["gaussian_noise"]["spread"][severity - 1],
            STRENGTHS["shot_noise"]["photons"][severity - 1],
        )
        dice = np.random.default_rng(0)
        assert corruptions.gaussian_noise(gray, dice, spread=spread).std() == pytest.approx(
            spread, rel=0.01
        )
        assert corruptions.shot_noise(gray, dice, photons=photons).var() == pytest.approx(
            0.5 / photons, rel=0.02
        )


def test_the_severities_of_an_image_share_their_random_numbers() -> None:
    gray = np.full((64, 64, 3), 128, np.uint8)
    light, strong = (
        corrupted(gray, "gaussian_noise", severity).astype(float) - 128 for severity in (1, 2)
    )
    assert np.corrcoef(light.ravel(), strong.ravel())[0, 1] > 0.99


def test_fog_hides_the_far_more_than_the_near() -> None:
    image = scene(0, 3, 256, 512)[0]
    left = corrupted(image, "fog", 3).std((1, 2)) / image.std((1, 2))
    assert left[100:120].mean() < 0.5 * left[-20:].mean()


def test_night_is_dark_and_its_sky_darkest() -> None:
    day = np.full((200, 400, 3), 200, np.uint8)
    found = corrupted(day, "night", 3).mean((1, 2))
    assert found[:30].mean() < 0.5 * found[130:150].mean() and found.mean() < 130


# --- the source


def test_a_shifted_source_has_the_labels_and_windows_of_its_image(source: Memory) -> None:
    shifted, box = Shifted(source, "rain", 4, seed=2), (10, 20, 60, 100)
    image, label = shifted.window(3)
    clean, truth = source.window(3)
    assert len(shifted) == 5 and shifted.names == source.names and shifted.size(3) == (96, 192)
    assert (
        np.array_equal(label, truth)
        and np.array_equal(shifted.label(3), truth)
        and np.array_equal(image, corrupted(clean, "rain", 4, (2, 3)))
    )
    part, ids = shifted.window(3, box)
    assert np.array_equal(part, image[10:60, 20:100]) and np.array_equal(ids, label[10:60, 20:100])
    assert np.array_equal(shifted.label(3, box), ids)


@pytest.mark.parametrize("kind", ["gaussian_noise", "night", "fog", "snow"])
def test_any_number_of_workers_gives_the_same_images(kind: str, source: Memory) -> None:
    runs = [
        [
            image
            for image, _ in Loader(
                Whole(Shifted(source, kind, 3)), [[index] for index in order], workers
            )
        ]
        for workers, order in ((0, range(5)), (1, range(5)), (4, range(5)), (3, range(4, -1, -1)))
    ]
    for found in (*runs[1:3], runs[3][::-1]):
        assert all(bool((one == other).all()) for one, other in zip(runs[0], found, strict=True))


def test_wrong_names_and_severities_are_refused_with_the_nearest(source: Memory) -> None:
    with pytest.raises(
        DataError, match=r"^there is no shift fogg; did you mean fog\? there are defocus, motion, "
    ):
        Shifted(source, "fogg", 1)
    for severity in (0, 6, 2.5):
        with pytest.raises(
            DataError, match=f"^there is no severity {severity}: give a whole number from 1 to 5$"
        ):
            Shifted(source, "fog", severity)
    with pytest.raises(DataError, match=r"did you mean weather\?"):
        chosen("blur,wether")
    with pytest.raises(DataError, match="there is no shift without a name; there are all, blur"):
        chosen("")
    with pytest.raises(DataError, match=r"did you mean jpeg\?"):
        chosen("jpg")


def test_kinds_are_chosen_by_name_and_by_group_and_never_twice() -> None:
    assert chosen("all") == KINDS
    assert chosen("fog, noise,fog") == ("fog", "gaussian_noise", "shot_noise")
    assert chosen("weather,rain") == ("fog", "rain", "snow", "night")


# --- what is lost


def made_up(clean: float, **kinds: tuple[float, ...]) -> Shift:
    return Shift(
        clean,
        {kind: dict(enumerate(scores, 1)) for kind, scores in kinds.items()},
        setting={"data": "camvid"},
    )


OURS = made_up(0.8, fog=(0.6, 0.4), jpeg=(0.8, 0.6))
THEIRS = made_up(0.7, fog=(0.5, 0.5), jpeg=(0.7, 0.7))


def test_every_cell_is_judged_once_on_its_own_source(source: Memory) -> None:
    seen, other = [], Memory.of([source.window(0)])

    def judge(judged: object) -> dict[str, float]:
        seen.append(
            (
                getattr(judged, "kind", None),
                getattr(judged, "severity", None),
                getattr(judged, "seed", None),
            )
        )
        return {"miou": len(seen) / 10}

    found = shift(
        source,
        judge,
        ("fog", "jpeg"),
        (1, 5),
        others={"acdc": other},
        setting={"data": "streets"},
        seed=7,
    )
    assert seen == [
        (None, None, None),
        (None, None, None),
        ("fog", 1, 7),
        ("fog", 5, 7),
        ("jpeg", 1, 7),
        ("jpeg", 5, 7),
    ]
    assert found == Shift(
        0.1,
        {"fog": {1: 0.3, 5: 0.4}, "jpeg": {1: 0.5, 5: 0.6}},
        {"acdc": 0.2},
        {"data": "streets", "images": 5, "shift_seed": 7},
    )


def test_what_is_left_is_the_mean_over_severities_then_over_kinds() -> None:
    assert OURS.relative("fog") == pytest.approx(0.5 / 0.8) and OURS.relative(
        "jpeg"
    ) == pytest.approx(0.7 / 0.8)
    assert OURS.left == pytest.approx(0.6 / 0.8) and OURS.severities == (1, 2)
    uneven = Shift(0.8, {"fog": {1: 0.4}, "jpeg": {1: 0.8, 2: 0.8, 3: 0.8}})
    assert uneven.left == pytest.approx(0.75) and uneven.severities == (1, 2, 3)


def test_degradation_is_the_papers() -> None:
    found = degradation(OURS, THEIRS)
    assert found["fog"].cd == pytest.approx((0.4 + 0.6) / (0.5 + 0.5)) and found[
        "fog"
    ].rcd == pytest.approx((0.2 + 0.4) / (0.2 + 0.2))
    assert (
        found["jpeg"].cd == pytest.approx((0.2 + 0.4) / (0.3 + 0.3)) and found["jpeg"].rcd is None
    )  # the reference loses nothing
    assert all(each.cd == each.rcd == 1 for each in degradation(OURS, OURS).values())


def test_of_noise_only_the_first_three_severities_count_against_a_reference() -> None:
    ours, theirs = (
        made_up(0.9, shot_noise=(0.8, 0.7, 0.6, 0.1, 0.0)),
        made_up(0.9, shot_noise=(0.7, 0.6, 0.5, 0.5, 0.5)),
    )
    assert degradation(ours, theirs)["shot_noise"].cd == pytest.approx(0.9 / 1.2)
    assert degradation(ours, theirs)["shot_noise"].rcd == pytest.approx(0.6 / 0.9)
    assert (
        degradation(Shift(0.9, {"shot_noise": {5: 0.1}}), Shift(0.9, {"shot_noise": {5: 0.2}}))
        == {}
    )


def test_a_reference_of_other_images_or_kinds_is_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"^the reference's data is cityscapes and not camvid: shift both networks in the same way$",
    ):
        degradation(OURS, Shift(0.7, THEIRS.kinds, setting={"data": "cityscapes"}))
    with pytest.raises(UserError, match=r"^the reference lacks jpeg in some severity"):
        degradation(OURS, made_up(0.7, fog=(0.5, 0.5), jpeg=(0.7,)))


def test_the_table_says_what_was_found() -> None:
    result = Shift(0.8, OURS.kinds, {"acdc": 0.2}, OURS.setting)
    console = Console(width=120, record=True, file=StringIO())
    console.print(shift_table(result, THEIRS))
    rows = {
        words[0]: words[1:]
        for line in console.export_text().splitlines()
        if (words := line.split())
    }
    assert rows["clean"] == ["80.0", "100.0"]
    assert rows["fog"] == ["weather", "60.0", "40.0", "50.0", "62.5", "100.0", "150.0"]
    assert rows["JPEG"] == ["digital", "80.0", "60.0", "70.0", "87.5", "100.0"]
    assert rows["mean"] == ["70.0", "50.0", "60.0", "75.0", "100.0", "150.0"]
    assert rows["acdc"] == ["20.0", "25.0"]


def test_a_result_is_read_back_from_its_file(tmp_path: Path) -> None:
    result = Shift(0.8, OURS.kinds, {"acdc": 0.2}, OURS.setting)
    content = result.content()
    assert content["mean_relative"] == pytest.approx(0.75) and content["others_relative"] == {
        "acdc": pytest.approx(0.25)
    }
    for name, written in (
        ("alone.json", content),
        ("within.json", {"miou": 0.8, "shift": content}),
    ):
        (tmp_path / name).write_text(json.dumps(written))
        assert robustness_result.read(tmp_path / name) == result
    (tmp_path / "other.json").write_text('{"miou": 0.8}')
    for name, words in (("other.json", "holds no shift"), ("none.json", "cannot be read")):
        with pytest.raises(UserError, match=f"{words}.*; give a file that --shift wrote$"):
            robustness_result.read(tmp_path / name)
    assert "NaN" not in json.dumps(made_up(0.0, fog=(0.0,)).content())


def test_other_data_sets_are_named_with_their_folders(tmp_path: Path) -> None:
    assert robustness_result.places(f"acdc={tmp_path}, bdd100k={tmp_path}") == {
        "acdc": tmp_path,
        "bdd100k": tmp_path,
    }
    for text, words in (
        ("acdc", "acdc is not understood; write NAME=DIR"),
        (f"acdcc={tmp_path}", r"did you mean acdc\?"),
        (f"acdc={tmp_path},acdc={tmp_path}", "acdc is named twice"),
        (f"acdc={tmp_path}/none", "there is no folder"),
    ):
        with pytest.raises(UserError, match=words):
            robustness_result.places(text)


# --- pictures


def test_the_plot_draws_the_scores() -> None:
    figure = shift_plot(Shift(0.8, OURS.kinds, {"acdc": 0.2}), "a network")
    weather, digital, other = figure.axes
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "weather",
        "digital",
        "other data",
    ]
    assert (
        weather.lines[0].get_xydata().tolist() == [[0, 80], [1, 60], [2, 40]]
        and len(digital.lines) == 2
    )
    assert [bar.get_height() for bar in other.patches] == [20]
    figure.canvas.draw()


def test_the_sheet_shows_what_was_judged(source: Memory) -> None:
    seen = []

    def predict(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        return np.full(image.shape[:2], 3, np.uint8)

    made = np.asarray(
        shift_sheet(source, 2, predict, PALETTE, ("snow", "jpeg"), (1, 5), seed=4, width=192)
    )
    wanted = [
        source.window(2)[0],
        *(
            Shifted(source, kind, severity, 4).window(2)[0]
            for kind in ("snow", "jpeg")
            for severity in (1, 5)
        ),
    ]
    assert len(seen) == 5 and all(np.array_equal(one, other) for one, other in zip(seen, wanted))
    assert made.shape == (52 + 2 * (192 + 6), 4 * 198 - 6, 3)
    top, left = 52, 2 * 198  # the third cell: snow of severity 1, at its own size
    assert np.array_equal(made[top + 30 : top + 96, left : left + 192], wanted[1][30:])
    label = source.label(2)
    prediction = made[top + 96 : top + 192, left : left + 192]
    assert (prediction[label != 255] == PALETTE[3]).all() and (prediction[label == 255] == 0).all()
