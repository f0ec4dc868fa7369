"""Tests of the plot of accuracy against speed: its points, and labels that do not overlap."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import benchmark, report
from experiments.benchmarks import network_timing as timing_module
from experiments.command_line.catalogue import catalogue
from experiments.report import main
from experiments.reports import speed_plot
from experiments.reports.paper_table import table
from experiments.reports.protocol_names import input_size, protocol_name
from experiments.reports.speed_points import (
    Point,
    pair,
    published_speeds,
    read_timing,
)
from segmodels.paper import experiment
from segmodels.released_checkpoints import Released
from tests.support.checkpoints import changed, written
from tests.support.results import as_read, published, result

CONDITIONS = {
    "device": "Some GPU", "device_kind": "cuda", "threads": 2, "versions": {"torch": "2.11.0"},
    "precision": "16-mixed", "batch": 1, "folded": False, "channels_last": True, "compile": False,
    "what": "logits", "timed": "the network's own output",
}  # fmt: skip
HALF = {"data": "cityscapes", "protocol": "resized:0.5"}


class Port:
    """Where a port's network is defined is all that tells it from an authors' own."""

    __module__ = "segmodels.ports.invented"


def speed(
    fps: float = 250.4,
    size: tuple[int, int] = (512, 1024),
    device: str = "GTX 1080Ti",
    runtime: str = "",
) -> dict:
    return {
        "fps": fps,
        "size": list(size),
        "device": device,
        "source": "README",
        "runtime": runtime,
    }


def network(
    experiment: str = "stdc/stdc1",
    size: tuple[int, int] = (512, 1024),
    fps: float = 600.0,
    **changes: Any,
) -> dict:
    """As benchmark.py infer stores it."""
    said = {"name": experiment, "size": list(size), "problem": None, "fps": fps, "published": []}
    return said | {"experiment": experiment, "model": {}, "released": None, "port": False} | changes


def timing(*networks: dict, **changes: Any) -> dict:
    return {"conditions": CONDITIONS | changes, "networks": list(networks)}


def stdc(**changes: Any) -> dict:
    return result(
        "stdc/stdc1",
        **{
            **HALF,
            "published": [published(72.2, protocol="resized:0.5")],
            "miou": 0.713,
            **changes,
        },
    )


def released(layout: str = "stdc1_seg", port: bool = False, **changes: Any) -> dict:
    return stdc(released=layout, port=port, overrides={"released": layout}, iterations=0, **changes)


def found(
    results: Sequence[dict], *timings: dict, speeds: dict | None = None
) -> tuple[list[tuple], dict]:
    pairs = pair(table(map(as_read, results)), timings, speeds or {})
    return [(each.ours, each.fps, pytest.approx(each.miou)) for each in pairs.points], pairs.missing


# --- names and sizes


@pytest.mark.parametrize(
    ("protocol", "data", "paper", "name"),
    [
        ("resized:0.5", "cityscapes", "", "Seg50 (512x1024)"),
        ("resized:0.75", "cityscapes", "", "Seg75 (768x1536)"),
        ("resized:0.75", "cityscapes", "stdc", "Seg75"),
        ("resized:0.75", "cityscapes", "bisenet", "768x1536"),
        ("resized:0.25", "cityscapes", "stdc", "256x512"),
        ("resized:0.5", "camvid", "", "180x240"),
        ("resized:0.5", "voc", "stdc", "resized:0.5"),
        ("resized:0.5+flip", "cityscapes", "stdc", "resized:0.5+flip"),
        ("resized 0.75", "cityscapes", "stdc", "resized 0.75"),
        ("whole", "cityscapes", "stdc", "whole"),
        ("", "", "", ""),
    ],
)
def test_a_protocol_is_called_as_the_papers_call_it(
    protocol: str, data: str, paper: str, name: str
) -> None:
    assert protocol_name(protocol, data, paper) == name


def test_the_protocol_says_at_what_size_the_network_works() -> None:
    assert input_size("whole", "cityscapes") == (1024, 2048)
    assert input_size("resized:0.75", "cityscapes") == (768, 1536)
    assert input_size("whole", "streets") == (256, 512)
    assert input_size("whole", "streets", {"data.height": 128, "data.width": 192}) == (128, 192)
    for several in (
        "flip",
        "resized:0.5+flip",
        "slide:769x769",
        "multiscale:0.5,1",
        "several scales",
    ):
        assert input_size(several, "cityscapes") is None
    assert input_size("whole", "voc") is None


# --- pairs


def test_a_published_figure_is_paired_with_each_published_speed_at_its_own_size() -> None:
    speeds = {"stdc/stdc1": [speed(), speed(126.7, (768, 1536)), speed(156.2, device="V100")]}
    made, left = found([stdc()], speeds=speeds)
    assert made == [(False, 250.4, 72.2), (False, 156.2, 72.2)]
    assert left == {"our mIoU, without a measured speed": ["stdc/stdc1 on cityscapes val (Seg50)"]}


def test_a_published_speed_is_of_the_rows_own_options_alone() -> None:
    options = {"model": {"output_stride": 8}, "overrides": {"model.output_stride": 8}}
    claims = [published(75.0, protocol="resized:0.5", model={"output_stride": 8})]
    made, left = found([stdc(**options, published=claims)], speeds={"stdc/stdc1": [speed()]})
    assert made == []
    assert left["published mIoU, without a published speed"] == [
        "stdc/stdc1 model.output_stride=8 on cityscapes val (Seg50)"
    ]


def test_a_figure_that_no_mode_computes_has_no_speed() -> None:
    claims = [published(74.83, protocol="768x1536, labels at 1/8")]
    judged = stdc(protocol="768x1536, labels at 1/8", published=claims)
    made, left = found([judged], speeds={"stdc/stdc1": [speed(fps=126.7, size=(768, 1536))]})
    assert made == []
    (why,) = (each for each in left if each.startswith("published mIoU"))
    assert "in a way that no inference mode computes" in why


def test_a_published_figure_is_drawn_once_however_often_its_row_was_trained() -> None:
    made, _ = found([stdc(), stdc(overrides={"recipe.lr": 0.1})], speeds={"stdc/stdc1": [speed()]})
    assert made == [(False, 250.4, 72.2)]


def test_ours_is_paired_with_our_speed_of_the_same_network_at_the_same_size() -> None:
    elsewhere = [
        network(size=(768, 1536), fps=1),
        network("stdc/stdc2", fps=2),
        network(model={"booster": 1}, fps=3),
    ]
    made, left = found([stdc()], timing(network(), *elsewhere))
    assert made == [(True, 600.0, 71.3)]
    assert left["timed, and in no row of this table at that size"] == [
        "stdc/stdc1 at 768x1536", "stdc/stdc2 at 512x1024", "stdc/stdc1 at 512x1024",
    ]  # fmt: skip
    assert left["published mIoU, without a published speed"] == [
        "stdc/stdc1 on cityscapes val (Seg50)"
    ]


def test_a_network_changed_on_the_command_line_has_its_own_speed_alone() -> None:
    changed = stdc(overrides={"model.booster": 1, "recipe.lr": 0.1})
    assert found([changed], timing(network()))[0] == []
    assert found([changed], timing(network(model={"booster": 1}, fps=5.0)))[0] == [
        (True, 5.0, 71.3)
    ]


def test_an_authors_checkpoint_is_the_rows_network_and_a_port_is_only_itself() -> None:
    authors, port = (
        network(released="stdc1_seg", fps=1.0),
        network(released="stdc1_port", port=True, fps=2.0),
    )
    for each in (stdc(), released()):
        assert found([each], timing(authors, port))[0] == [(True, 1.0, 71.3)]
    assert found([released("stdc1_port", port=True)], timing(authors, port, network(fps=3.0)))[
        0
    ] == [(True, 2.0, 71.3)]


def test_several_passes_and_other_sizes_are_told_and_never_guessed() -> None:
    _, left = found(
        [stdc(protocol="flip"), stdc(data="voc", protocol="whole"), stdc(protocol="whole")],
        timing(network()),
    )
    assert left["our mIoU, its speed is measured at 512x1024"] == [
        "stdc/stdc1 on cityscapes val (whole)"
    ]
    several = next(
        what
        for why, what in left.items()
        if why.startswith("our mIoU, evaluated in several passes")
    )
    assert several == ["stdc/stdc1 on cityscapes val (flip)", "stdc/stdc1 on voc val (whole)"]
    claimed = stdc(protocol="whole", published=[published(77.0)])
    _, left = found([claimed], speeds={"stdc/stdc1": [speed()]})
    assert left["published mIoU, its speed is published at 512x1024"] == [
        "stdc/stdc1 on cityscapes val (whole)"
    ]


def test_a_network_that_could_not_be_timed_is_told_with_its_problem() -> None:
    made, left = found([stdc()], timing(network(problem="out of memory")))
    assert made == []
    assert left["not timed"] == ["stdc/stdc1 (out of memory)"]


def test_whiskers_are_the_spread_over_seeds_or_the_interval_of_a_single_run() -> None:
    results = [stdc(miou=0.70), stdc(seed=1, miou=0.72), released(interval=[0.7, 0.73])]
    made = pair(table(map(as_read, results)), [timing(network())], {}).points
    spread = 100 * np.std([0.70, 0.72], ddof=1)
    assert made[0].whisker == (pytest.approx(71 - spread), pytest.approx(71 + spread))
    assert made[1].whisker == (pytest.approx(70), pytest.approx(73))
    assert [each.label for each in made] == ["stdc1 Seg50", "stdc1 (released) Seg50"]


def test_published_speeds_come_out_of_the_catalogue() -> None:
    claims = {"published": [], "published_speed": [speed(1.0)]}
    assert published_speeds({"stdc": {"rows": {"stdc1": claims}}}) == {"stdc/stdc1": [speed(1.0)]}
    known = published_speeds(catalogue()["papers"])
    assert (250.4, [512, 1024]) in [(each["fps"], each["size"]) for each in known["stdc/stdc1"]]


def test_what_the_benchmark_stores_says_which_network_it_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(mine := tmp_path / "mine.ckpt")
    (theirs := tmp_path / "theirs.pth").touch()
    layouts = {
        "authors": Released("fastscnn/fastscnn", "", ()),
        "port": Released(Port, "", (), row="fastscnn/fastscnn"),
    }
    monkeypatch.setattr("segmodels.released_checkpoints.layouts", lambda: layouts)
    monkeypatch.setattr(
        "segmodels.released_checkpoints.from_released", lambda *of: experiment("fastscnn").build()
    )
    networks = ["fastscnn", str(mine), f"released:authors={theirs}", f"released:port={theirs}"]
    quick = [
        "--size",
        "64x128",
        "--rounds",
        "1",
        "--seconds",
        "0.01",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "bench.json"),
    ]
    assert benchmark.main(["infer", *networks, *quick]) == 0
    stored = read_timing(tmp_path / "bench.json")
    row, run, authors, port = (
        {name: each[name] for name in ("experiment", "model", "released", "port")}
        for each in stored["networks"]
    )
    assert row == {"experiment": "fastscnn/fastscnn", "model": {}, "released": None, "port": False}
    assert (run["released"], run["port"]) == (None, False) and "/" in run["experiment"]
    assert authors == row | {"released": "authors"}
    assert port == row | {"released": "port", "port": True}
    small = {"data": "streets", "overrides": {"data.height": 64, "data.width": 128}}
    made = pair(table([as_read(result("fastscnn/fastscnn", **small))]), [stored], {}).points
    assert [each.fps for each in made] == [
        each["fps"] for each in (stored["networks"][0], stored["networks"][2])
    ]


def test_a_run_that_changed_its_network_is_timed_as_another(tmp_path: Path) -> None:
    changed(file := tmp_path / "x.ckpt", {"overrides": {"model.arm": False, "recipe.lr": 0.1}})
    (network,) = timing_module.open_networks([file], (64, 128))
    assert network.model == {"arm": False}


# --- the picture


def crowd(count: int = 14) -> list[Point]:
    """Points near each other on two splits and several machines, three of them ours."""
    draw = np.random.default_rng(0)
    made = []
    for number in range(count):
        place = "cityscapes val" if number % 3 else "cityscapes test"
        fps, miou = 100 * 2 ** draw.normal(0, 0.5), 74 + draw.normal(0, 1.5)
        ours = number % 5 == 0
        paper, machine = f"paper{number % 4}", f"machine {number % 3}"
        bar = (miou - 1, miou + 1) if ours else None
        label = f"row{number} Seg50"
        made.append(Point(paper, label, place, fps, miou, machine, ours, "here", bar))
    return made


def test_hollow_is_published_filled_is_ours_and_the_legend_names_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(speed_plot, "save", lambda figure, file: kept.append(figure))
    everything = crowd()
    speed_plot.draw(everything, tmp_path / "x.png", ["Filled: ours."])
    (figure,) = kept
    assert [axes.get_title("left") for axes in figure.axes] == ["cityscapes val", "cityscapes test"]
    for axes in figure.axes:
        here = [each for each in everything if each.place == axes.get_title("left")]
        assert axes.get_xscale() == "log"
        marks = {(line.get_xdata()[0], line.get_ydata()[0]): line for line in axes.lines}
        assert len(marks) == len(here)
        for each in here:
            face = marks[each.fps, each.miou].get_markerfacecolor()
            assert (face != "white") == each.ours
        assert sorted(text.get_text() for text in axes.texts if text.get_text()) == sorted(
            each.label for each in here
        )
    legend = {text.get_text() for each in figure.legends for text in each.get_texts()}
    assert {
        f"{'ours' if each.ours else 'published'}: {each.machine}" for each in everything
    } <= legend
    below = " ".join(each.get_title().get_text() for each in figure.legends).replace("\n", " ")
    assert "authors' hardware" in below and "Seg50 and Seg75" in below and "Filled: ours." in below


def test_labels_stay_inside_and_cover_no_marker_and_no_label_where_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(speed_plot, "save", lambda figure, file: kept.append(figure))
    speed_plot.draw(crowd(8), tmp_path / "x.png")
    for axes in kept[0].axes:
        boxes, inside = [text.get_window_extent() for text in axes.texts], axes.get_window_extent()
        spots = [axes.transData.transform(line.get_xydata()[0]) for line in axes.lines]
        for number, box in enumerate(boxes):
            assert inside.contains(*box.min) and inside.contains(*box.max)
            assert not box.count_overlaps(boxes[:number])
            assert not any(box.contains(*spot) for spot in spots)


def test_a_picture_is_written_as_its_name_says_and_the_same_twice(tmp_path: Path) -> None:
    for kind, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        for name in ("a", "b"):
            speed_plot.draw(crowd(4), tmp_path / f"{name}{kind}")
        first, second = ((tmp_path / f"{name}{kind}").read_bytes() for name in ("a", "b"))
        assert first.startswith(start)
        assert first == second


def test_two_points_at_one_spot_and_a_single_one_can_be_drawn(tmp_path: Path) -> None:
    one = crowd(1)[0]
    speed_plot.draw([one], tmp_path / "one.png")
    speed_plot.draw([one, one], tmp_path / "two.png")
    assert (tmp_path / "two.png").stat().st_size > 5000


# --- the command line


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The speeds that stdc/stdc1 claims, in a catalogue that knows no other row."""
    speeds: list[dict] = []
    row = {
        "published": [published(72.2, protocol="resized:0.5")],
        "published_speed": speeds,
        "parameters": 1,
    }
    papers = {"stdc": {"title": "STDC", "rows": {"stdc1": row}}}
    monkeypatch.setattr(report, "catalogue", lambda: {"papers": papers})
    return speeds


def kept_results(folder: Path, *results: dict) -> Path:
    folder.mkdir()
    for number, each in enumerate(results):
        (folder / f"{number}.json").write_text(json.dumps(each))
    return folder


def test_published_points_alone_make_a_picture(
    tmp_path: Path, claims: list[dict], capsys: pytest.CaptureFixture
) -> None:
    claims.append(speed())
    kept = kept_results(tmp_path / "results")
    assert main(["--results", str(kept), "--all", "--plot", str(tmp_path / "x.svg")]) == 0
    assert f"plot: 1 point in {tmp_path / 'x.svg'}" in capsys.readouterr().out.replace(
        "\n", " "
    ).replace("  ", " ")
    assert (tmp_path / "x.svg").is_file()


@pytest.mark.parametrize("form", ["text", "markdown", "csv"])
def test_what_is_not_in_the_picture_is_told(
    tmp_path: Path, form: str, claims: list[dict], capsys: pytest.CaptureFixture
) -> None:
    claims.append(speed())
    kept = kept_results(tmp_path / "results", stdc())
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps(timing(network("pidnet/s"))))
    words = [
        "--results",
        str(kept),
        "--plot",
        str(tmp_path / "x.png"),
        "--speed",
        str(bench),
        "--format",
        form,
    ]
    assert main(words) == 0
    told = capsys.readouterr()
    said = (told.err if form == "csv" else told.out).replace("\n", " ")
    assert (
        "not in it, our mIoU, without a measured speed: stdc/stdc1 on cityscapes val (Seg50)"
        in said
    )
    assert (
        "not in it, timed, and in no row of this table at that size: pidnet/s at 512x1024" in said
    )
    assert form != "csv" or "plot" not in told.out


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_many_networks_that_are_not_in_the_picture_are_counted_on_the_screen(
    tmp_path: Path, form: str, claims: list[dict], capsys: pytest.CaptureFixture
) -> None:
    claims.append(speed())
    kept = kept_results(tmp_path / "results")
    sizes = [(512, 256 * factor) for factor in range(1, 6)]
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps(timing(*(network("pidnet/s", size=size) for size in sizes))))
    words = ["--results", str(kept), "--all", "--plot", str(tmp_path / "x.png")]
    assert main([*words, "--speed", str(bench), "--format", form]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert ("no row of this table at that size: 5 of them" in said) == (form == "text")
    assert all(f"pidnet/s at 512x{width}" in said for _, width in sizes) == (form == "markdown")


def test_what_cannot_be_plotted_is_one_sentence(
    tmp_path: Path, claims: list[dict], capsys: pytest.CaptureFixture
) -> None:
    kept = str(kept_results(tmp_path / "results", stdc()))
    old, other, good = (tmp_path / name for name in ("old.json", "other.json", "good.json"))
    old.write_text(
        json.dumps(
            {
                "conditions": CONDITIONS,
                "networks": [{"name": "stdc/stdc1", "size": [1, 1], "problem": None}],
            }
        )
    )
    other.write_text("[]")
    good.write_text(json.dumps(timing(network())))
    picture = str(tmp_path / "x.png")
    cases = [
        (["--speed", str(good)], "with --plot"),
        (["--plot", picture], "nothing to plot"),
        (["--plot", str(tmp_path / "x.jpeg2")], "end in .png, .svg, .pdf"),
        (["--plot", str(tmp_path / "no" / "x.png")], "no folder"),
        (["--plot", picture, "--speed", str(other)], "holds no speeds"),
        (
            ["--plot", picture, "--speed", str(old)],
            "does not say experiment, model, released, port",
        ),
        (["--plot", picture, "--speed", str(tmp_path / "missing.json")], "does not exist"),
    ]
    for words, reason in cases:
        assert main(["--results", kept, *words]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1
    assert not Path(picture).exists()


def test_only_a_split_is_shown_where_one_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    kept = kept_results(tmp_path / "results", stdc(miou=0.1111), stdc(split="test", miou=0.2222))
    assert main(["--results", str(kept), "--split", "test"]) == 0
    out = capsys.readouterr().out
    assert "22.22" in out and "11.11" not in out
