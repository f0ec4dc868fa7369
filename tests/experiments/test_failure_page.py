"""Tests of the failure page: its numbers, counted by hand, and one valid HTML file in any case."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from experiments.drawing import svg_charts
from experiments.drawing.html_page import short_count
from experiments.evaluation import failure_analysis
from experiments.evaluation.failure_images import (
    HESITANT,
    UNJUDGED,
    WRONG,
    Shown,
    error_map,
    percent,
)
from experiments.evaluation.failure_page import failure_page
from experiments.records.image_records import BINS, RADII, Examined

VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """Balanced tags, or an assertion; what it holds, to be asked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for each, attributes in self.tags if each == tag]

    def row(self, head: str) -> list[str]:
        """The first row of any table that begins so."""
        return next(cells for cells in self.cells if cells and cells[0] == head)


def made(images: int = 5, classes: int = 4, seed: int = 0, **changes: object) -> Examined:
    """Random counts in which the last class occurs nowhere."""
    chance = np.random.default_rng(seed)
    confusions = chance.integers(0, 60, (images, classes, classes)) + 300 * np.eye(
        classes, dtype=np.int64
    )
    confusions[:, -1], confusions[:, :, -1] = 0, 0
    pixels = chance.integers(0, 50, (classes, BINS)).astype(np.float64)
    middles = (np.arange(BINS) + 0.5) / BINS
    calibration = np.stack([pixels, pixels * middles, np.floor(pixels * middles**2)], -1)
    true = chance.integers(1, 20, (images, classes, 4))
    true[..., 1], true[..., 3] = (
        np.minimum(true[..., 0], true[..., 1]),
        np.minimum(true[..., 2], true[..., 3]),
    )
    whole = confusions.sum(0)
    examined = Examined(
        title="a network on 5 images",
        classes=[f"class {index}" for index in range(classes)],
        palette=[(index, 255 - index, 90) for index in range(classes)],
        categories=["odd" if index % 2 else "even" for index in range(classes)],
        names=[f"image {index}" for index in range(images)],
        confusions=confusions,
        losses=chance.random(images),
        boundaries=true,
        boundary_overlaps=np.stack(
            [np.full((images, classes), 3), np.full((images, classes), 7)], -1
        ),
        bands=np.stack([whole * (place + 1) // (2 * len(RADII)) for place in range(len(RADII))]),
        calibration=calibration,
        instances=chance.random((classes + 2, 3)),
        instance_sizes=np.full(classes, 100.0),
    )
    return replace(examined, **changes)


def shown(index: int, classes: int = 4) -> Shown:
    chance = np.random.default_rng(index)
    label = chance.integers(0, classes - 1, (24, 32)).astype(np.uint8)
    label[:3] = 255
    predicted = np.where(chance.random((24, 32)) < 0.5, label, 0).astype(np.uint8)
    return Shown(
        chance.integers(0, 256, (24, 32, 3)).astype(np.uint8),
        label,
        predicted,
        chance.random((24, 32)).astype(np.float32),
    )


def read(examined: Examined, **options: int) -> tuple[str, Page]:
    text = failure_page(examined, lambda index: shown(index, len(examined.classes)), **options)
    return text, Page(text)


# --- the numbers


def test_what_every_pair_costs_adds_up_to_what_mean_iou_lacks() -> None:
    confusion = made(classes=6).confusion
    assert failure_analysis.costs(confusion).sum() == pytest.approx(
        1 - float(failure_analysis.rated(confusion)["miou"]), abs=1e-12
    )


def test_the_most_confused_pairs_are_those_of_a_count_by_hand() -> None:
    confusions = np.zeros((2, 3, 3), np.int64)
    confusions[0] = [[80, 0, 0], [5, 4, 0], [0, 0, 0]]
    confusions[1] = [[10, 10, 0], [1, 0, 0], [0, 0, 0]]
    # Unions: 90 + 10 + 6 and 4 + 10 + 6; two classes occur.
    first, second = failure_analysis.most_confused(confusions, 5)
    assert (first.truth, first.predicted, first.pixels, first.share, first.image) == (
        0,
        1,
        10,
        0.1,
        1,
    )
    assert (second.truth, second.predicted, second.pixels, second.share, second.image) == (
        1,
        0,
        6,
        0.6,
        0,
    )
    assert first.cost == pytest.approx(
        10 * (1 / 106 + 1 / 20) / 2
    ) and second.cost == pytest.approx(6 * (1 / 106 + 1 / 20) / 2)
    assert len(failure_analysis.most_confused(confusions, 1)) == 1


def test_a_rare_class_that_is_lost_costs_more_than_as_many_pixels_of_a_frequent_one() -> None:
    confusion = np.diag([1000, 1000, 20])
    confusion[0, 1], confusion[2, 1] = 30, 25
    assert [
        (pair.truth, pair.predicted) for pair in failure_analysis.most_confused(confusion[None], 2)
    ] == [
        (2, 1),
        (0, 1),
    ]


def test_in_one_image_the_largest_confusion_comes_first_not_a_stray_pixel_of_a_class_that_it_lacks() -> (
    None
):
    confusion = np.array([[80, 20, 1], [0, 90, 0], [0, 0, 0]])
    assert [
        (pair.truth, pair.predicted, pair.pixels)
        for pair in failure_analysis.most_confused(
            confusion[None], 2, failure_analysis.off_diagonal
        )
    ] == [(0, 1, 20), (0, 2, 1)]
    assert failure_analysis.most_confused(confusion[None], 1)[0].predicted == 2


def test_the_worst_images_stand_in_order_without_repeats_and_with_their_reasons() -> None:
    confusions = np.zeros((5, 2, 2), np.int64)
    for index, right in enumerate((50, 10, 90, 30, 0)):
        confusions[index] = (
            [[right, 100 - right], [0, 100]] if index < 4 else 0
        )  # the last has no labeled pixel
    examined = made(5, 2, confusions=confusions, losses=np.array([0.1, 0.2, 0.9, 0.8, np.nan]))
    chosen = failure_analysis.worst_images(
        examined, failure_analysis.most_confused(confusions, 1), 2
    )
    assert list(chosen) == [1, 3, 2]
    assert chosen[1] == ["lowest IoU", "most class 0 taken for class 1"]
    assert chosen[3] == ["2nd lowest IoU", "2nd highest loss"] and chosen[2] == ["highest loss"]
    assert list(failure_analysis.worst_images(replace(examined, losses=None), [], 9)) == [
        1,
        3,
        0,
        2,
    ]


def test_bands_are_shares_of_all_errors_and_end_with_everything() -> None:
    confusion = np.array([[[60, 20], [20, 100]]])
    bands = np.stack([np.array([[2, 4], [4, 0]]) * (place + 1) for place in range(len(RADII))])
    scores, shares = failure_analysis.bands(made(1, 2, confusions=confusion, bands=bands))
    assert all(len(values) == len(RADII) + 1 for values in (scores | shares).values())
    assert shares["of the wrong pixels"][1] == 16 / 40 and shares["of all pixels"][1] == 20 / 200
    assert shares["of the wrong pixels"][-1] == shares["of all pixels"][-1] == 1
    assert scores["pixel accuracy"][1] == 0.2 and scores["pixel accuracy"][-1] == 0.8
    assert scores["mIoU"][-1] == pytest.approx((60 / 100 + 100 / 140) / 2)


def test_a_readable_matrix_holds_the_costliest_pairs() -> None:
    confusion = 100 * np.eye(9, dtype=np.int64)
    confusion[7, 2], confusion[4, 5] = 50, 30
    assert failure_analysis.matrix_part(confusion, 9) == list(range(9))
    assert failure_analysis.matrix_part(confusion, 4) == [
        2,
        4,
        5,
        7,
    ] and failure_analysis.matrix_part(confusion, 3) == [2, 7]


def test_short_counts_and_shares_are_written_as_in_english() -> None:
    assert [short_count(number) for number in (0, 999, 1234, 3_400_000, 12e9)] == [
        "0",
        "999",
        "1.23 k",
        "3.4 M",
        "12 G",
    ]
    assert percent(None) == percent(float("nan")) == "–" and percent(0.1234) == "12.3\u00a0%"


def test_the_error_map_tells_sure_from_unsure_and_fades_what_is_right() -> None:
    label, predicted = np.array([[0, 0, 0, 255]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8)
    image = np.full((1, 4, 3), 30, np.uint8)
    made = error_map(Shown(image, label, predicted, np.array([[0.9, 0.9, 0.5, 0.9]], np.float32)))
    assert (
        made[0, 0].tolist() == [180] * 3
        and tuple(made[0, 1]) == WRONG
        and tuple(made[0, 2]) == HESITANT
        and tuple(made[0, 3]) == UNJUDGED
    )


# --- the page


SPARSE = {
    name: None
    for name in ("losses", "boundaries", "boundary_overlaps", "bands", "calibration", "instances")
}
CASES = {
    "everything": made(),
    "nothing but counts": made(categories=[], **SPARSE),
    "one image": made(1),
    "one class that occurs": made(3, 2),
    "nineteen classes": made(4, 19),
    "150 classes": made(3, 150),
    "nothing labeled": made(
        2, confusions=np.zeros((2, 4, 4), int), losses=np.full(2, np.nan), bands=np.zeros((len(RADII), 4, 4), int)
    ),
    "nothing wrong": made(
        2,
        confusions=np.stack([np.diag([5, 6, 7, 0])] * 2),
        bands=np.stack([np.diag([1, 2, 3, 0])] * len(RADII)),
    ),
    "no pixel in a bin": made(calibration=np.zeros((4, BINS, 3))),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_one_sound_file_that_asks_nothing_of_a_network(case: str) -> None:
    text, page = read(CASES[case])
    assert (
        "<script" not in text
        and "http://" not in text
        and "https://" not in text
        and "default-src 'none'" in text
    )
    assert "url(" not in text and not re.search(
        r"\bnan\b|\binf\b|None|np\.", "".join(page.words) + str(page.tags)
    )
    assert not {"script", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    assert all(each["src"].startswith("data:image/") and each["alt"] for each in page.all("img"))
    assert all(each["href"] == "data:," for each in page.all("link"))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names)) and {each["href"] for each in page.all("a")} <= {
        f"#{name}" for name in names
    }
    assert all("scope" in each for each in page.all("th")) and all(
        each["aria-label"] for each in page.all("svg")
    )
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_every_name_is_text_and_no_markup() -> None:
    odd = "<b>&\"'"
    names = [f"{odd}{index}" for index in range(5)]
    text, page = read(
        replace(
            made(),
            title=odd,
            classes=[odd, "x", "y", "z"],
            names=names,
            categories=[odd, "a", "a", "a"],
        )
    )
    assert "<b>" not in text and odd not in text and "&lt;b&gt;&amp;" in text
    assert "b" not in {tag for tag, _ in page.tags} and f"image of {odd}0" in [
        each["alt"] for each in page.all("img")
    ]


def test_what_was_not_measured_is_said_and_what_was_is_shown() -> None:
    _, page = read(made(categories=[], **SPARSE))
    said = "".join(page.words)
    assert (
        said.count("not measured") == 5 + 1 + 2
    )  # category, boundary F1 and IoU, calibration, iIoU; of classes; two sections
    assert "calibration error" not in page.row("class")
    full = "".join(read(made())[1].words)
    assert "not measured" not in full
    assert (
        page.row("class")[-1] == "most taken for"
        and len(page.row("class")) == 8
        and len(read(made())[1].row("class")) == 12
    )


def test_the_tables_say_what_a_count_by_hand_says() -> None:
    confusions = np.zeros((2, 3, 3), np.int64)
    confusions[0], confusions[1] = (
        [[80, 0, 0], [5, 4, 0], [0, 0, 0]],
        [[10, 10, 0], [1, 0, 0], [0, 0, 0]],
    )
    _, page = read(made(2, 3, confusions=confusions, **SPARSE))
    rows = [cells for cells in page.cells if cells[0].startswith("class ")]
    assert [cells[0] for cells in rows[:3]] == [
        "class 1",
        "class 0",
        "class 2",
    ]  # lowest IoU first, what occurs nowhere last
    worst, best, absent = ([cell.replace("\u00a0", " ") for cell in cells] for cells in rows[:3])
    assert [worst[place] for place in (1, 3, 4, 5, 6, 7)] == [
        "20.0 %",
        "40.0 %",
        "28.6 %",
        "9.09 %",
        "2",
        "class 0 60.0 %",
    ]
    assert (
        best[1] == "84.9 %"
        and absent[1] == "in no image"
        and absent[3:] == ["–", "–", "0.00 %", "0", "–"]
    )
    pairs = rows[3:5]
    assert pairs[0] == ["class 0", "class 1", "29.72", "10.0\u00a0%", "10", "image 1"]
    assert [cells[1:] for cells in rows[5:]] == [
        ["90", "10", ""],
        ["60", "40", ""],
        ["–", "–", "–"],
    ]  # the matrix, in percent of the row


def test_each_image_is_computed_once_and_stands_where_its_links_lead() -> None:
    asked: list[int] = []
    examined = made(30)
    text = failure_page(examined, lambda index: asked.append(index) or shown(index), worst=3)
    page = Page(text)
    assert len(asked) == len(set(asked)) == len(page.all("article")) and len(
        page.all("img")
    ) == 5 * len(asked)
    iou = failure_analysis.image_iou(examined.confusions)
    assert [each["id"] for each in page.all("article")] == [
        f"image-{index}" for index in sorted(asked, key=lambda index: iou[index])
    ]
    assert {*np.argsort(iou)[:3], *np.argsort(-examined.losses)[:3]} <= set(asked)


def test_many_classes_are_shown_in_part_and_the_page_says_so() -> None:
    _, page = read(made(3, 150))
    said = "".join(page.words)
    assert (
        "Of 150 classes these are the 24 that are confused at the highest cost" in said
        and "the 24 of 1" in said
    )
    matrix = [cells for cells in page.cells if "all others" in cells]
    assert len(matrix) == 1 and len(matrix[0]) == 1 + 24 + 1
    assert (
        len([cells for cells in page.cells if cells[0].startswith("class ") and len(cells) == 12])
        == 150
    )
    confusion = made(3, 150).confusion
    part = failure_analysis.matrix_part(confusion, 24)
    outside = 1 - confusion[part[0], part].sum() / confusion[part[0]].sum()
    row = next(cells for cells in page.cells if cells[0] == f"class {part[0]}" and len(cells) == 26)
    assert 0.6 < outside < 1 and row[-1] == f"{100 * outside:.0f}"


def test_a_chart_leaves_a_gap_where_there_is_no_value() -> None:
    drawn = svg_charts.lines(
        {"a & b": [0.0, float("nan"), 1.0]},
        ["1", "2", "all"],
        "below",
        'told "so"',
    )
    page = Page(drawn)
    assert (
        len(page.all("circle")) == 2 + 1
        and "a & b" in page.words
        and page.all("svg")[0]["aria-label"] == 'told "so"'
    )
    first, last = page.all("circle")[:2]
    assert float(first["cx"]) < float(last["cx"]) and float(first["cy"]) > float(
        last["cy"]
    )  # up is more


def test_a_reliability_diagram_has_a_column_for_each_bin_with_pixels() -> None:
    bins = np.zeros((BINS, 3))
    bins[3], bins[14] = (10, 2.3, 5), (30, 29, 15)
    page = Page(svg_charts.reliability(bins, "told"))
    assert len(page.all("rect")) == 2 + 2  # and as many for their shares
    assert (
        page.words[0].startswith("0 %")
        or "0.20 to 0.27: 50.0% right, mean confidence 23.0%" in page.words
    )
    assert failure_analysis.excess(bins) == pytest.approx((2.3 + 29 - 20) / 40)
