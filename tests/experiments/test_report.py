"""Tests of the table paper / ours, and of the notebook that reads the same results."""

import ast
import csv
import io
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segmodels
from experiments import report
from experiments.command_line.errors import UserError
from experiments.records.metrics import curve, read_metrics, running_mean
from experiments.records.results import RESULTS, kept_files, read_results, result_files
from experiments.report import main
from experiments.reports import paper_table
from experiments.reports.paper_table import Row, by_place, not_measured
from experiments.reports.paper_table_formats import as_csv, as_markdown, as_text, letters
from tests.support.paths import ROOT
from tests.support.results import LR, as_read, published, result

NOTEBOOK = ROOT / "notebooks" / "ablations.ipynb"
METRICS = "step,train/main,lr,val/mIoU\n0,3.0,0.1,\n1,2.0,0.1,\n1,,,0.25\n2,1.0,0.05,\n2,,,0.5\n"


def leave_run(folder: Path, record: dict | None, metrics: str = METRICS) -> Path:
    """A run folder; without a record it looks as after a crash."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "metrics.csv").write_text(metrics)
    if record is not None:
        (folder / "result.json").write_text(json.dumps(record))
    return folder


def table(results: list[dict]) -> list[Row]:
    return paper_table.table(map(as_read, results))


def not_averaged(results: list[dict]) -> list[Row]:
    return paper_table.not_averaged(map(as_read, results))


def only_row(*results: dict) -> Row:
    (row,) = table(results)
    return row


# --- averaging and grouping


def test_several_seeds_give_their_mean_and_sample_standard_deviation() -> None:
    figures = [0.379, 0.391, 0.3875]
    row = only_row(*(result(seed=seed, miou=miou) for seed, miou in enumerate(figures)))
    assert row.our_miou == pytest.approx(100 * np.mean(figures), rel=1e-12)
    assert row.our_spread == pytest.approx(100 * np.std(figures, ddof=1), rel=1e-12)
    assert row.seeds == [0, 1, 2]


def test_one_seed_has_no_spread() -> None:
    row = only_row(result())
    assert row.our_miou == pytest.approx(37.9)
    assert row.our_spread is None
    assert "37.90 (1 seed)" in as_text([row], [])


def test_a_seed_that_was_run_twice_weighs_as_one_seed() -> None:
    row = only_row(result(seed=0, miou=0.2), result(seed=0, miou=0.4), result(seed=1, miou=0.5))
    assert row.our_miou == pytest.approx((30 + 50) / 2)
    assert row.our_spread == pytest.approx(math.sqrt(((30 - 40) ** 2 + (50 - 40) ** 2) / 1))
    assert row.seeds == [0, 1]


def test_class_figures_are_averaged_and_an_absent_class_stays_absent() -> None:
    row = only_row(
        result(iou={"road": 0.9, "train": None}), result(seed=1, iou={"road": 0.8, "train": None})
    )
    assert row.iou == {"road": pytest.approx(85), "train": None}


@pytest.mark.parametrize(
    "change",
    [
        {"experiment": "bisenet/no_spatial_path"},
        {"overrides": {"model.arm": False}},
        {"data": "camvid"},
        {"split": "test"},
        {"protocol": "multiscale"},
        {"iterations": 500},
        {"departures": []},
    ],
    ids=lambda change: next(iter(change)),
)
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(change: dict) -> None:
    rows = table(
        [result(), result(**{"experiment": "bisenet/resnet18", "seed": 1, "miou": 0.5, **change})]
    )
    assert sorted(row.our_miou for row in rows) == [pytest.approx(37.9), pytest.approx(50)]
    assert all(row.our_spread is None for row in rows)


def test_the_order_of_departures_and_overrides_does_not_split_a_group() -> None:
    first = result(departures=["a", "b"], overrides={"model.x": 1, "recipe.y": 2})
    second = result(seed=1, departures=["b", "a"], overrides={"recipe.y": 2, "model.x": 1})
    assert only_row(first, second).seeds == [0, 1]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"finished": False}, "unfinished"),
        ({"smoke": True}, "smoke"),
        ({"departures": ["recipe.iterations 80000 -> 4 (--smoke)"]}, "smoke"),
        ({"miou": None}, "without mIoU"),
    ],
)
def test_what_is_not_a_finished_measurement_stands_apart_and_is_not_averaged(
    change: dict, status: str
) -> None:
    results = [result(), result(seed=1, **{"miou": 0.1, **change})]
    assert only_row(*results).our_miou == pytest.approx(37.9)
    (other,) = not_averaged(results)
    assert other.status == status
    assert other.seeds == [1]


def test_rows_come_in_one_order_whatever_the_order_of_the_runs() -> None:
    results = [
        result("stdc/stdc1"),
        result(seed=1),
        result(overrides={"model.arm": False}),
        result(),
        result("bisenet/a"),
    ]
    names = [row.name for row in table(results)]
    assert names == [
        "bisenet/a",
        "bisenet/resnet18",
        "bisenet/resnet18 model.arm=false",
        "stdc/stdc1",
    ]
    reversed_order = [replace(row, runs=row.runs[::-1]) for row in table(results[::-1])]
    assert reversed_order == table(results)


# --- ours beside the published figure


def test_a_published_figure_on_the_same_data_split_and_protocol_is_compared() -> None:
    row = only_row(result(data="cityscapes", miou=0.744))
    assert (row.published_miou, row.published_source) == (74.8, "Table 6")
    assert row.difference == pytest.approx(74.4 - 74.8)


@pytest.mark.parametrize(
    "change",
    [{"data": "streets"}, {"split": "test"}, {"protocol": "whole 768x1536"}],
    ids=lambda change: next(iter(change)),
)
def test_a_published_figure_from_elsewhere_is_never_set_beside_ours(change: dict) -> None:
    row = only_row(result(**{"data": "cityscapes", **change}))
    assert (row.published_miou, row.published_source, row.difference) == (None, "", None)
    for text in (as_text([row], []), as_markdown([row], []), as_csv([row])):
        assert "74.8" not in text


def test_each_protocol_is_held_against_its_own_published_figure() -> None:
    claims = [published(72.2, protocol="half"), published(74.5, protocol="resized 0.75")]
    rows = table(
        [
            result(data="cityscapes", published=claims, protocol=protocol)
            for protocol in ("half", "resized 0.75")
        ]
    )
    assert {row.protocol: row.published_miou for row in rows} == {
        "half": 72.2,
        "resized 0.75": 74.5,
    }


def test_a_network_changed_on_the_command_line_is_not_the_published_one() -> None:
    assert (
        only_row(result(data="cityscapes", overrides={"model.arm": False})).published_miou is None
    )
    assert only_row(result(data="cityscapes", overrides={"recipe.batch": 8})).published_miou == 74.8


STRIDE_8 = {"model": {"output_stride": 8}}


def evaluated_at_8(**changes: Any) -> dict:
    """As evaluate.py RUN model.output_stride=8 writes it."""
    overrides = {"model.output_stride": 8}
    return result(**{"data": "cityscapes", "overrides": overrides, **STRIDE_8, **changes})


def test_a_figure_stands_beside_what_was_evaluated_with_its_options_alone() -> None:
    claims = [published(77.0), published(78.9, **STRIDE_8)]
    own = only_row(result(data="cityscapes", departures=[], published=claims))
    other = only_row(evaluated_at_8(departures=[], published=claims))
    assert (own.published_miou, other.published_miou) == (77.0, 78.9)
    assert other.name == "bisenet/resnet18 model.output_stride=8"
    assert only_row(evaluated_at_8(published=claims[:1])).published_miou is None
    assert only_row(result(data="cityscapes", published=claims[1:])).published_miou is None
    sixteen = {"model": {"output_stride": 16}, "overrides": {"model.output_stride": 16}}
    assert only_row(evaluated_at_8(**sixteen, published=claims)).published_miou is None


@pytest.mark.parametrize(
    "training",
    [
        {"overrides": {"model.output_stride": 8}, "model": {}},
        {"overrides": {"model.output_stride": 8, "model.arm": False}},
        {"departures": ["model.output_stride 16 -> 4 (command line)"]},
        {"overrides": {"model.output_stride": 8, "semi": "mean_teacher"}},
    ],
    ids=["trained with it", "another option", "trained with a third", "a method"],
)
def test_a_network_that_was_trained_otherwise_has_no_figure_under_its_options(
    training: dict,
) -> None:
    claims = [published(77.0), published(78.9, **STRIDE_8)]
    assert only_row(evaluated_at_8(**{"published": claims, **training})).published_miou is None


def test_what_was_trained_and_what_was_evaluated_with_an_option_is_never_averaged() -> None:
    trained = result(
        data="cityscapes", overrides={"model.output_stride": 8}, miou=0.5, seed=1, departures=[]
    )
    rows = table([trained, evaluated_at_8(miou=0.6, departures=[])])
    assert sorted(row.our_miou for row in rows) == [pytest.approx(50), pytest.approx(60)]
    assert "evaluated with model.output_stride=8; no departures" in as_markdown(rows, [])


def test_a_figure_of_other_labels_stands_beside_a_run_on_the_same_labels_alone() -> None:
    row = segmodels.experiment("pidnet/s")
    claims = [figure.as_dict() for figure in row.published]
    alone = {"data": "camvid32", "split": "test", "published": claims}
    found = only_row(result("pidnet/s", **alone, overrides={"data.grouped": False}))
    assert (found.published_miou, found.difference) == (80.1, pytest.approx(37.9 - 80.1))
    for overrides in ({}, {"data.grouped": True}, {"data.grouped": False, "data.labeled": "1/8"}):
        assert only_row(result("pidnet/s", **alone, overrides=overrides)).published_miou is None


@pytest.mark.parametrize(
    ("overrides", "compared"),
    [
        ({"data.training": "fine"}, True),  # the default
        ({"data.training": "fine+coarse"}, False),
        ({"data.resident": "memory"}, True),
        ({"data.labeled": "1/8"}, False),
    ],
)
def test_options_of_the_data_count_where_a_score_depends_on_them(
    overrides: dict, compared: bool
) -> None:
    row = only_row(result(data="cityscapes", overrides=overrides))
    assert (row.published_miou == 74.8) is compared


def test_a_second_published_figure_is_named_but_the_first_is_the_one_compared() -> None:
    row = only_row(
        result(
            data="cityscapes",
            miou=0.75,
            published=[published(), published(75.3, source="authors' code")],
        )
    )
    assert row.difference == pytest.approx(75 - 74.8)
    assert row.published_source == "Table 6; also 75.3 in authors' code"


def test_rows_are_gathered_only_with_rows_of_the_same_data_split_and_protocol() -> None:
    rows = table([result(), result(split="test"), result("stdc/stdc1")])
    groups = {place: [row.experiment for row in part] for place, part in by_place(rows).items()}
    assert groups == {
        ("streets", "val", "whole"): ["bisenet/resnet18", "stdc/stdc1"],
        ("streets", "test", "whole"): ["bisenet/resnet18"],
    }


def test_validation_and_test_figures_stand_in_different_tables() -> None:
    rows = table([result(miou=0.1111), result(split="test", miou=0.2222)])
    validation, test = as_markdown(rows, []).split("### streets test")
    assert "11.11" in validation
    assert "22.22" not in validation
    assert "22.22" in test


# --- checkpoints that others released


def released(layout: str = "resnet18_seg", port: bool = False, **changes: Any) -> dict:
    """As evaluate.py writes what an authors' checkpoint, or a port's, scores."""
    overrides = {"released": layout}
    return result(
        **{
            "data": "cityscapes",
            "released": layout,
            "port": port,
            "overrides": overrides,
            "iterations": 0,
            "departures": [],
        }
        | changes
    )


def test_a_released_checkpoint_is_held_against_the_figures_that_come_with_it() -> None:
    row = only_row(released(miou=0.745))
    assert row.name == "bisenet/resnet18 (released resnet18_seg)"
    assert row.difference == pytest.approx(74.5 - 74.8)
    theirs = released()["published"][0] | {"miou": 75.1, "source": "another code line"}
    assert only_row(released(port=True, published=[theirs])).published_miou == 75.1
    assert only_row(released(port=True, published=[])).published_miou is None
    assert (
        only_row(
            released(overrides={"released": "resnet18_seg", "model.arm": False})
        ).published_miou
        is None
    )


def test_a_released_checkpoint_is_never_averaged_with_what_was_trained() -> None:
    ours = {"data": "cityscapes", "departures": []}
    rows = table(
        [
            result(miou=0.7, iterations=0, **ours),
            released(miou=0.8),
            released("other", miou=0.9),
            released(miou=0.6, overrides={}),
        ]
    )
    assert [(row.released, row.our_miou) for row in rows] == [
        (None, pytest.approx(70)),
        ("other", pytest.approx(90)),
        ("resnet18_seg", pytest.approx(80)),
        ("resnet18_seg", pytest.approx(60)),
    ]


def test_a_released_checkpoint_stands_beside_our_own_of_the_same_protocol() -> None:
    protocols = ("resized:0.5", "resized:0.75")
    ours = [result(data="cityscapes", protocol=protocol) for protocol in protocols]
    rows = table(
        [
            *(released(protocol=protocol) for protocol in protocols),
            *ours,
            result("bisenet/resnet18_speed", data="cityscapes"),
        ]
    )
    assert [(row.row, row.protocol, row.released is None) for row in rows] == [
        ("resnet18", "resized:0.5", True),
        ("resnet18", "resized:0.5", False),
        ("resnet18", "resized:0.75", True),
        ("resnet18", "resized:0.75", False),
        ("resnet18_speed", "whole", True),
    ]


def test_a_released_checkpoint_says_so_in_every_format_and_has_no_iterations() -> None:
    rows = table([released(miou=0.745)])
    text, markdown = as_text(rows, []), as_markdown(rows, [])
    assert "74.50 (released)" in text
    assert "1 seed" not in text + markdown
    assert (
        "| bisenet/resnet18 (released resnet18_seg) | whole | - | 74.8 (Table 6) "
        "| 74.50 (released) | -0.30 |" in markdown
    )
    assert "checkpoint resnet18_seg, released by the authors, commit" in markdown
    assert "another code line" in as_markdown(table([released(port=True)]), [])
    (row,) = csv.DictReader(io.StringIO(as_csv(rows)))
    assert (row["released"], row["iterations"], row["our_miou"]) == ("resnet18_seg", "", "74.5")
    assert "weights that we did not train" not in as_text(table([result()]), [])


def test_a_released_checkpoint_stands_for_its_published_figure_and_a_port_does_not() -> None:
    def missing(row: dict) -> set:
        return {(each.experiment, each.split) for each in not_measured(papers(), table([row]))}

    assert ("bisenet/resnet18", "val") not in missing(released())
    assert ("bisenet/resnet18", "val") in missing(released(port=True))


# --- intervals


def test_a_single_run_shows_its_interval_and_several_seeds_their_spread() -> None:
    one = table([result(miou=0.7231, interval=[0.71, 0.7341])])
    assert "72.31 [71.0, 73.4] (1 seed)" in as_text(one, [])
    assert "bootstrap over images" in as_text(one, [])
    assert float(
        next(csv.DictReader(io.StringIO(as_csv(one))))["our_interval"].split("; ")[1]
    ) == pytest.approx(73.41)
    two = as_text(table([result(interval=[0.3, 0.4]), result(seed=1, interval=[0.3, 0.4])]), [])
    assert "±" in two and "[" not in two


def test_further_measures_of_an_evaluation_are_read(tmp_path: Path) -> None:
    shares = {
        "mean_accuracy": 0.5,
        "frequency_weighted_iou": 0.6,
        "category_miou": None,
        "categories": {"flat": 0.9, "sky": None},
    }
    record = result(
        **shares,
        interval=None,
        full={"boundary_f1": 0.4},
        records="evaluation.npz",
        released=None,
        port=None,
    )
    (found,) = read_results([leave_run(tmp_path / "run", record)])
    stored = {name: getattr(found, name) for name in record.keys() - {"schema", "published"}}
    assert stored.items() <= record.items()


def test_a_result_is_written_as_it_was_read_and_what_was_not_measured_leaves_no_key() -> None:
    content = result(full={"boundary_f1": 0.4}, interval=[0.3, 0.4], published=[])
    written = as_read(content).as_dict()
    assert written.items() >= content.items()
    assert written.keys().isdisjoint({"records", "categories", "category_miou"})
    assert as_read(written) == as_read(content)


def test_what_only_a_newer_version_writes_is_ignored() -> None:
    assert as_read(result(a_later_measure=0.5)) == as_read(result())


def test_a_result_of_before_that_spelled_labeled_with_two_ls_is_the_same_row() -> None:
    labels = {"images": 3, "of": 8, "fingerprint": "abc"}
    now = result(labeled=labels, overrides={"data.labeled": "3"})
    now["departures"] = ["data.labeled all -> 3 (command line)"]
    before = json.loads(json.dumps(now).replace("labeled", "labelled"))
    assert before != now and as_read(before) == as_read(now)


def test_the_results_of_this_repository_are_read() -> None:
    for file in kept_files(RESULTS):
        content = json.loads(file.read_text())
        assert as_read(content).as_dict().keys() >= content.keys()


# --- reading


def test_runs_are_found_by_run_by_folder_of_runs_by_folder_of_results_and_by_file(
    tmp_path: Path,
) -> None:
    run = leave_run(tmp_path / "runs" / "a", result())
    kept = tmp_path / "results" / "kept.json"
    kept.parent.mkdir()
    kept.write_text(json.dumps(result()))
    for other in ("fidelity.json", "data_speed.json", "structures.json"):
        (kept.parent / other).write_text("{}")
    for path in (run, run.parent, kept.parent, kept):
        (file,) = result_files(path)
        assert file.is_relative_to(path)
        assert read_results([path]) == [as_read(result())]


def test_evaluations_of_the_last_weights_stand_beside_the_run_in_its_own_precision(
    tmp_path: Path,
) -> None:
    run = leave_run(tmp_path / "runs" / "a", result(precision="32-true"))
    (run / "checkpoints").mkdir(exist_ok=True)
    for name, protocol, precision in (
        ("last-a", "flip", "32-true"),
        ("last-b", "flip", "bf16-mixed"),
        ("best-a", "resized:0.5", "32-true"),
    ):
        (run / "checkpoints" / f"evaluation-{name}.json").write_text(
            json.dumps(result(protocol=protocol, precision=precision))
        )
    for path in (run, run.parent):
        assert sorted(found.protocol for found in read_results([path])) == sorted(
            [result()["protocol"], "flip"]
        )


def test_a_result_and_its_copy_count_once(tmp_path: Path) -> None:
    leave_run(tmp_path / "runs" / "a", result())
    leave_run(tmp_path / "runs" / "b", result(seed=1))
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps(dict(reversed(result(checkpoint=None).items()))))
    assert [
        found.seed for found in read_results([tmp_path / "runs", copy, tmp_path / "runs" / "a"])
    ] == [0, 1]


def test_metrics_come_by_columns_with_none_for_an_empty_cell(tmp_path: Path) -> None:
    metrics = read_metrics(leave_run(tmp_path / "run", None))
    assert metrics["step"] == [0, 1, 1, 2, 2]
    assert metrics["val/mIoU"] == [None, None, 0.25, None, 0.5]
    assert curve(metrics, "val/mIoU") == ([1, 2], [0.25, 0.5])
    assert curve(metrics, "train/main") == ([0, 1, 2], [3.0, 2.0, 1.0])
    assert curve(metrics, "train/aux16") == ([], [])


def test_a_last_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    assert read_metrics(leave_run(tmp_path / "run", None, "step,loss,lr\n0,1.5,0.1\n1,1"))[
        "loss"
    ] == [1.5]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ("loss\n1\n", "no column step"),
        ("", "no column step"),
        ("step,a\n0\n1,2\n", "2 columns"),
        ("step,a\n0,b\n", "'b'"),
    ],
)
def test_metrics_that_cannot_be_read_are_refused_with_their_file(
    tmp_path: Path, metrics: str, words: str
) -> None:
    with pytest.raises(UserError, match=words) as error:
        read_metrics(leave_run(tmp_path / "run", None, metrics))
    assert str(tmp_path / "run" / "metrics.csv") in str(error.value)


def test_a_running_mean_is_the_mean_of_the_last_values() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    expected = [np.mean(values[max(0, index - 2) : index + 1]) for index in range(5)]
    assert running_mean(values, 3) == pytest.approx(expected)
    assert running_mean(values, 1) == values


# --- formats


def test_text_fits_120_columns_and_is_plain_when_it_does_not_go_to_a_screen() -> None:
    rows = table(
        [
            result(
                "a_paper_with_a_rather_long_name/and_a_row_with_a_longer_one",
                overrides={"model.width": 96},
                departures=["x" * 300],
            )
        ]
    )
    text = as_text(rows, [])
    assert max(map(len, text.splitlines())) <= 120
    assert "\x1b" not in text
    assert "\x1b[" in as_text(rows, [], color=True)


def test_text_breaks_long_words_instead_of_cutting_them_off() -> None:
    protocol = (
        "slide 769x769, six scales and their mirror images, "
        "each at a stride of two thirds of the tile"
    )
    claim = published(
        protocol=protocol, source="the second row of Table 11 of the supplementary material"
    )
    text = as_text(
        table(
            [result("a_paper/" + "z" * 70, data="cityscapes", protocol=protocol, published=[claim])]
        ),
        [],
    )
    assert text.count("z") == 70
    assert all(word in text for word in [*protocol.split(), *claim["source"].split()])
    assert "…" not in text


def test_text_counts_departures_and_spells_them_out_once_below() -> None:
    text = as_text(
        table(
            [
                result(departures=[LR, "[b] two"]),
                result("stdc/stdc1", departures=[LR, "[b] two"]),
                result("stdc/x"),
            ]
        ),
        [],
    )
    assert text.count("2 (a)") == 2
    assert text.count("1 (b)") == 1
    assert text.count(f"(a) {LR}; [b] two") == 1


def test_markdown_has_a_footnote_for_each_row_with_seeds_commit_hardware_and_departures() -> None:
    text = as_markdown(
        table([result(), result(seed=1, commit=None), result("stdc/a|b", departures=[])]),
        ["smoke: x"],
    )
    assert (
        "| bisenet/resnet18 | whole | 250 | - | 37.90 ± 0.00 (2 seeds) | - | 13.28 M | 1[^1] |"
        in text
    )
    assert (
        "[^1]: seeds 0, 1, commit abc1234, none, 2 cores CPU, bf16-mixed, 100 images; "
        f"departures: {LR}." in text
    )
    assert "| stdc/a\\|b |" in text
    assert "no departures." in text
    assert "Not averaged:\n\n- smoke: x\n" in text


def test_every_line_of_a_markdown_table_has_as_many_cells_as_its_head() -> None:
    lines = [
        line
        for line in as_markdown(table([result(), result("stdc/x", split="test")]), []).splitlines()
        if line.startswith("|")
    ]
    assert len(lines) == 6
    assert {line.count(" | ") for line in lines} == {7}


def test_csv_reads_back_in_full_precision_and_holds_no_figure_of_an_unfinished_run() -> None:
    results = [
        result(seed=seed, miou=miou, data="cityscapes")
        for seed, miou in ((0, 0.74123456), (1, 0.75))
    ]
    unfinished = not_averaged([result(finished=False)])
    first, second = csv.DictReader(io.StringIO(as_csv(table(results) + unfinished)))
    assert float(first["our_miou"]) == pytest.approx(100 * np.mean([0.74123456, 0.75]), abs=1e-6)
    assert float(first["difference"]) == pytest.approx(float(first["our_miou"]) - 74.8, abs=1e-6)
    assert (first["seeds"], first["departures"], first["published_source"]) == (
        "0; 1",
        LR,
        "Table 6",
    )
    assert (second["status"], second["our_miou"], second["difference"]) == ("unfinished", "", "")


def test_letters_go_on_after_z() -> None:
    assert [letters(index) for index in (0, 25, 26, 51, 52)] == ["a", "z", "aa", "az", "ba"]


# --- what nobody has measured


def papers() -> dict:
    """Two papers: a row published on two splits, an ablation without a figure; another."""
    claims = [published(), published(74.7, split="test")]
    bisenet = {
        "resnet18": {"published": claims, "parameters": 13275539},
        "no_arm": {"published": [], "parameters": 12000000},
    }
    stdc = {"stdc1": {"published": [published(71.9, split="test")], "parameters": 14000000}}
    return {"bisenet": {"title": "B", "rows": bisenet}, "stdc": {"title": "STDC", "rows": stdc}}


def paper_with(claims: list[dict]) -> dict:
    return {"bisenet": {"title": "B", "rows": {"resnet18": {"published": claims}}}}


def test_a_published_figure_without_a_comparable_run_of_ours_is_not_measured() -> None:
    rows = table([result(data="cityscapes"), result("bisenet/no_arm"), result("stdc/stdc1")])
    missing = not_measured(papers(), rows)
    assert [(row.experiment, row.split, row.published_miou) for row in missing] == [
        ("bisenet/resnet18", "test", 74.7),
        ("stdc/stdc1", "test", 71.9),
    ]
    assert as_text(missing, []).count("not measured") == 2


def test_a_figure_that_no_mode_computes_is_listed_and_never_compared() -> None:
    claims = [published(74.83, protocol="768x1536, labels at 1/8")]
    row = only_row(result(data="cityscapes", protocol="resized:0.75", published=claims))
    assert (row.published_miou, row.difference) == (None, None)
    (missing,) = not_measured(paper_with(claims), [row])
    assert (missing.published_miou, missing.protocol) == (74.83, "768x1536, labels at 1/8")
    assert "74.83" in as_text([row, missing], [])


def test_figures_under_different_options_are_different_rows() -> None:
    claims = [
        published(77.0),
        published(78.9, **STRIDE_8),
        published(80.1, options={"fine": False}),
    ]
    known, rows = paper_with(claims), table([evaluated_at_8(published=claims)])
    assert [(row.name, row.published_miou) for row in not_measured(known, rows)] == [
        ("bisenet/resnet18", 77.0),
        ("bisenet/resnet18 data.fine=false", 80.1),
    ]
    missing = not_measured(known, [])
    assert [row.published_miou for row in missing] == [77.0, 80.1, 78.9]
    assert "| bisenet/resnet18 model.output_stride=8 | whole |" in as_markdown(missing, [])


def test_a_row_that_is_neither_published_nor_measured_is_listed_once() -> None:
    missing = not_measured(papers(), [])
    assert [row.experiment for row in missing if row.published_miou is None] == ["bisenet/no_arm"]
    assert "neither published nor measured" in as_text(missing, [])


@pytest.mark.parametrize(
    "override", [{"model.arm": False}, {"data.labeled": "1/8"}, {"semi": "mean_teacher"}]
)
def test_another_network_or_fewer_labels_do_not_stand_for_the_published_row(
    override: dict,
) -> None:
    rows = table([result(data="cityscapes", overrides=override)])
    missing = not_measured(papers(), rows)
    assert ("bisenet/resnet18", "val") in {(row.experiment, row.split) for row in missing}


# --- command line


def test_the_report_lists_unfinished_smoke_and_stopped_runs_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    leave_run(tmp_path / "good", result())
    leave_run(tmp_path / "half", result(finished=False, miou=0.1234))
    leave_run(tmp_path / "tiny", result(smoke=True, miou=None))
    leave_run(tmp_path / "stopped", None)
    assert main([str(tmp_path)]) == 0
    counted, others = capsys.readouterr().out.split("Not averaged:")
    assert "37.90 (1 seed)" in counted
    assert "12.34" not in counted
    for words in (
        "unfinished: bisenet/resnet18, seed 0",
        "12.34 % mIoU",
        "smoke: ",
        "no mIoU",
        f"without result.json: {tmp_path / 'stopped'}",
    ):
        assert words in others


def test_data_and_paper_choose_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number, record in enumerate(
        [result(), result(data="camvid"), result("stdc/stdc1", data="camvid")]
    ):
        leave_run(tmp_path / str(number), record)
    assert main([str(tmp_path), "--data", "camvid", "--paper", "bisenet", "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["experiment"], row["data"]) == ("bisenet/resnet18", "camvid")


@pytest.mark.parametrize(
    ("data", "methods"),
    [
        (
            "context",
            {
                "MSCI (ResNet-152)": 50.3,
                "SGR (ResNet-101)": 50.8,
                "CCL (ResNet-101)": 51.6,
                "SGR+ (ResNet-101)": 52.5,
            },
        ),
        (
            "cocostuff",
            {"CCL (ResNet-101)": 35.7, "DSSPN (ResNet-101)": 37.3, "SGR (ResNet-101)": 39.1},
        ),
    ],
)
def test_all_shows_methods_without_a_network_here_beside_those_of_their_table(
    data: str, methods: dict[str, float], tmp_path: Path
) -> None:
    """Tables 3 and 4 of EMANet's paper, as the notes print them."""
    out = tmp_path / "table.csv"
    words = ("--all", "--data", data, "--split", "test", "--format", "csv", "--out", str(out))
    assert main(["--results", str(tmp_path), *words]) == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    cited = {row["experiment"]: row for row in rows if row["status"] == "cited"}
    assert {name: float(row["published_miou"]) for name, row in cited.items()} == methods
    beside = {row["experiment"] for row in rows} - cited.keys()
    assert {"emanet/resnet50", "emanet/resnet101"} <= beside
    for row in cited.values():
        own = next(each for each in rows if each["experiment"] == "emanet/resnet101")
        assert row["overrides"] == own["overrides"]
        assert not row["our_miou"]


def test_all_adds_the_rows_of_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(report, "catalogue", lambda: {"papers": papers()})
    assert main(["--results", str(tmp_path), "--all", "--paper", "stdc"]) == 0
    assert "71.9 (Table 6)" in capsys.readouterr().out
    assert main(["--results", str(tmp_path)]) == 0
    assert "Nothing is measured yet" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["text", "markdown", "csv"])
def test_out_writes_what_the_screen_would_have_shown(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture
) -> None:
    run = str(leave_run(tmp_path / "run", result()))
    main([run, "--format", form])
    shown = capsys.readouterr().out
    assert main([run, "--format", form, "--out", str(tmp_path / "table")]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "table").read_text(encoding="utf-8") == shown != ""


BAD_RESULTS = {
    "broken JSON": ('{"schema": 1,', "line 1"),
    "no result": ("[1, 2]", "no field schema"),
    "other schema": (json.dumps(result(schema=2)), "schema 2"),
    "missing field": (
        json.dumps({name: value for name, value in result().items() if name != "miou"}),
        "lacks miou",
    ),
    "wrong type": (json.dumps(result(seed="0")), "seed is '0', but must be int"),
    "true is no number": (json.dumps(result(seed=True)), "seed is True"),
    "percent": (json.dumps(result(miou=37.9)), "fraction from 0 to 1"),
    "nan": (json.dumps(result(miou=float("nan"))), "fraction from 0 to 1"),
    "class in percent": (json.dumps(result(iou={"road": 92.0})), "iou road"),
    "category in percent": (json.dumps(result(categories={"flat": 90.0})), "categories flat"),
    "mean accuracy in percent": (json.dumps(result(mean_accuracy=50)), "mean_accuracy is 50"),
    "interval in percent": (json.dumps(result(interval=[71.0, 73.4])), "fraction from 0 to 1"),
    "interval reversed": (
        json.dumps(result(interval=[0.8, 0.7])),
        "two fractions, the lower first",
    ),
    "interval of one": (json.dumps(result(interval=[0.8])), "two fractions, the lower first"),
    "published fraction": (json.dumps(result(published=[published(0.748)])), "must be in percent"),
    "published without source": (
        json.dumps(result(published=[{"miou": 74.8}])),
        "lacks data, split, protocol, source",
    ),
    "options without names": (json.dumps(result(model=["output_stride"])), "must be dict"),
    "published options without names": (
        json.dumps(result(published=[published(options=[["grouped", False]])])),
        "options is [['grouped', False]], but must be dict",
    ),
}


@pytest.mark.parametrize(("content", "words"), BAD_RESULTS.values(), ids=BAD_RESULTS)
def test_a_bad_result_is_one_sentence_with_its_file_and_a_remedy(
    tmp_path: Path, content: str, words: str, capsys: pytest.CaptureFixture
) -> None:
    file = leave_run(tmp_path / "run", None) / "result.json"
    file.write_text(content)
    assert main([str(tmp_path / "run")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert str(file) in printed.err
    assert words in printed.err
    assert any(
        remedy in printed.err
        for remedy in (
            "copy",
            "run the experiment again",
            "checkout",
            "correct",
            "write it",
            "name the",
        )
    )


def test_a_path_that_holds_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stopped = leave_run(tmp_path / "stopped", None)
    (tmp_path / "empty").mkdir()
    runs, missing, empty = [str(stopped)], [str(tmp_path / "missing")], [str(tmp_path / "empty")]
    table_elsewhere = [
        str(leave_run(tmp_path / "good", result())),
        "--out",
        str(tmp_path / "no" / "table.md"),
    ]
    cases = [
        (runs, "no result.json"),
        (missing, "does not exist"),
        (empty, "holds no results"),
        (["--results", missing[0]], "does not exist"),
        (table_elsewhere, "cannot be written"),
    ]
    for words, reason in cases:
        assert main(words) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "word", "near"),
    [("--data", "street", "streets"), ("--paper", "bisenett", "bisenet")],
)
def test_a_misspelled_name_is_answered_with_the_nearest_right_one(
    tmp_path: Path, option: str, word: str, near: str, capsys: pytest.CaptureFixture
) -> None:
    assert main([str(leave_run(tmp_path / "run", result())), option, word]) == 2
    assert f"did you mean {near}?" in capsys.readouterr().err


def test_as_a_program_it_answers_without_torch_and_without_a_traceback(tmp_path: Path) -> None:
    run = leave_run(tmp_path / "run", result())
    spied = "import runpy, sys; sys.argv = sys.argv[1:]\n"
    spied += "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    spied += "finally: assert 'torch' not in sys.modules"
    program = [sys.executable, "-c", spied, str(ROOT / "experiments" / "report.py")]
    env = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)}
    good = subprocess.run(
        [*program, str(run)],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        check=False,
        env=env,
    )
    assert (good.returncode, good.stderr) == (0, "")
    assert "37.90 (1 seed)" in good.stdout
    bad = subprocess.run(
        [*program, "nowhere"],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        check=False,
        env=env,
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: nowhere does not exist")
    assert "Traceback" not in bad.stderr


def test_help_shows_examples(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0
    assert "python experiments/report.py runs" in capsys.readouterr().out


# --- the notebook


def test_the_notebook_is_valid_holds_no_outputs_and_its_code_parses() -> None:
    nbformat = pytest.importorskip("nbformat", reason="the notebook needs the extra with nbformat")
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code
    for cell in code:
        ast.parse(cell.source)
        assert (cell.outputs, cell.execution_count) == ([], None)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1


def execute(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, parameters: str | None = None
) -> list[dict]:
    """The outputs of the notebook, run in a folder and perhaps with other parameters."""
    nbformat = pytest.importorskip("nbformat", reason="running the notebook needs nbformat")
    client = pytest.importorskip("nbclient", reason="running the notebook needs nbclient")
    pytest.importorskip("ipykernel", reason="running the notebook needs ipykernel")
    monkeypatch.setenv("IPYTHONDIR", str(cwd / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    book = nbformat.read(NOTEBOOK, as_version=4)
    if parameters is not None:
        next(
            cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])
        ).source = parameters
    pytest.importorskip(
        "matplotlib.font_manager"
    )  # a kernel that had to look for all fonts first would say so
    client.NotebookClient(
        book, timeout=600, startup_timeout=600, resources={"metadata": {"path": str(cwd)}}
    ).execute()
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def house(folder: Path) -> Path:
    """Copy the programs alone, without any real run; return the folder of notebooks."""
    without = shutil.ignore_patterns("results", "__pycache__")
    shutil.copytree(ROOT / "experiments", folder / "experiments", ignore=without)
    (folder / "notebooks").mkdir()
    return folder / "notebooks"


def pictures(outputs: list[dict]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_notebook_draws_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plt = pytest.importorskip("matplotlib.image", reason="the notebook draws with matplotlib")
    first = leave_run(tmp_path / "runs" / "a", result(data="cityscapes"))
    second = leave_run(
        tmp_path / "runs" / "b",
        result("bisenet/no_spatial_path", data="cityscapes", miou=0.3, smoke=True),
    )
    (first / "pictures").mkdir()
    plt.imsave(first / "pictures" / "contact_sheet.png", np.zeros((16, 32, 3), np.uint8))
    outputs = execute(house(tmp_path), monkeypatch, f"RUNS = {[str(first), str(second)]!r}")
    assert pictures(outputs) == 4
    assert not [output for output in outputs if output.get("name") == "stderr"]


FAKE_RUN = """
import json, sys
from pathlib import Path
address = sys.argv[sys.argv.index("--model") + 1]
assert "--smoke" in sys.argv
record = json.loads({record!r})
paper, row = address.split("/")
run = Path("runs") / (paper + "-" + row)
run.mkdir(parents=True)
(run / "metrics.csv").write_text({metrics!r})
record |= {{"experiment": address, "paper": paper, "row": row}}
(run / "result.json").write_text(json.dumps(record))
"""


def test_without_runs_the_notebook_makes_two_smoke_runs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebooks = house(tmp_path)
    script = FAKE_RUN.format(record=json.dumps(result(smoke=True)), metrics=METRICS)
    (tmp_path / "experiments" / "run.py").write_text(script)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    outputs = execute(notebooks, monkeypatch)
    assert pictures(outputs) == 4
    said = "".join(output.get("text", "") for output in outputs)
    assert "bisenet/resnet18, seed 0" in said
    assert "bisenet/no_spatial_path, seed 0" in said
