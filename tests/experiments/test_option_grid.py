"""Tests of `report.py --grid`: scores by two options of a network."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.report import main
from experiments.reports.option_grid import as_lines, axes_of, grids
from experiments.reports.paper_table import table
from tests.support.results import as_read, result

GRID = ("train_iterations", "eval_iterations")
ENTRIES = {
    f"emanet/t{steps}": {
        "options": {
            "train_iterations": {"default": 3},
            "eval_iterations": {"default": 3},
            "bases": {"default": 64},
        },
        "model": {"train_iterations": steps, "eval_iterations": steps},
        "recipe": {"iterations": 30_000},
    }
    for steps in (1, 2)
}


def run(row: str, miou: float, **changes: Any) -> dict:
    return result(f"emanet/{row}", miou=miou, **{"published": [], "departures": [], **changes})


def evaluated(row: str, steps: int, miou: float) -> dict:
    return run(row, miou, model={"eval_iterations": steps})


def found_of(contents: list[dict]) -> list:
    return grids(table(map(as_read, contents)), GRID, ENTRIES)


def test_a_cell_is_the_score_of_a_training_or_of_its_evaluation_with_another_option() -> None:
    contents = [run("t1", 0.30), evaluated("t1", 2, 0.31), run("t2", 0.40)]
    (grid,) = found_of(contents)
    assert grid.cells == pytest.approx({(1, 1): 30.0, (1, 2): 31.0, (2, 2): 40.0})
    assert axes_of(grid) == ([1, 2], [1, 2])


def test_seeds_are_averaged_and_named() -> None:
    contents = [run("t1", 0.30), run("t1", 0.34, seed=1), run("t2", 0.40), run("t2", 0.42, seed=1)]
    (grid,) = found_of(contents)
    assert grid.cells == pytest.approx({(1, 1): 32.0, (2, 2): 41.0})
    assert "seed 0, 1" in grid.caption


def test_a_short_training_is_said_to_rank_nothing() -> None:
    (short,) = found_of([run("t1", 0.3), run("t2", 0.4)])
    assert short.caption == "250 steps, seed 0; the paper trains 30000: this ranks nothing"
    full = [run(row, 0.3, iterations=30_000) for row in ("t1", "t2")]
    (grid,) = found_of(full)
    assert "ranks nothing" not in grid.caption and "one training" in grid.caption
    others = [run(row, 0.3, iterations=30_000, seed=1) for row in ("t1", "t2")]
    (grid,) = found_of(full + others)
    assert grid.caption == "30000 steps, seed 0, 1"


def test_the_order_of_overrides_does_not_matter() -> None:
    one = {"recipe.lr": 0.1, "recipe.batch": 4}
    other = dict(reversed(one.items()))
    (grid,) = found_of([run("t1", 0.3, overrides=one), run("t2", 0.4, overrides=other)])
    assert grid.cells == pytest.approx({(1, 1): 30.0, (2, 2): 40.0})


def test_two_scores_make_a_table_with_a_column_for_each_value() -> None:
    (grid,) = found_of([run("t1", 0.3), evaluated("t1", 2, 0.31)])
    assert as_lines(grid)[2:5] == [
        r"| train_iterations \ eval_iterations | 1 | 2 |",
        "| --: | --: | --: |",
        "| 1 | 30.00 | 31.00 |",
    ]


@pytest.mark.parametrize(
    "other",
    [{"split": "train"}, {"iterations": 40}, {"overrides": {"model.bases": 32}}, {"data": "cells"}],
)
def test_what_differs_in_more_than_both_options_is_in_no_grid_of_them(other: dict) -> None:
    contents = [run("t1", 0.3), run("t2", 0.4), run("t2", 0.5, **other)]
    (grid,) = found_of(contents)
    assert grid.cells == pytest.approx({(1, 1): 30.0, (2, 2): 40.0})


def test_the_notes_table_of_emanet_is_printed_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plot = tmp_path / "grid.png"
    words = ["--results", str(tmp_path), "--all", "--paper", "emanet", "--plot", str(plot)]
    assert main([*words, "--grid", ",".join(GRID)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split("|") for line in lines if line.startswith("| 3 ")]
    assert [cell.strip() for cell in rows[0]] == [
        *("3", "", "", "78.52", "78.80", "78.86", "78.88", "78.89", "78.88")
    ]
    assert len([line for line in lines if line.startswith("| ") and line[2].isdigit()]) == 8
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_runs_on_disk_are_read_with_their_evaluations(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for row, miou in (("t1", 0.3), ("t2", 0.4)):
        folder = tmp_path / row / "checkpoints"
        folder.mkdir(parents=True)
        (tmp_path / row / "result.json").write_text(json.dumps(run(row, miou)))
        later = evaluated(row, 3, miou + 0.05)
        (folder / "evaluation-last-whole.json").write_text(json.dumps(later))
    assert main([str(tmp_path), "--grid", "train_iterations, model.eval_iterations"]) == 0
    out = capsys.readouterr().out
    assert "| 1 | 30.00 |  | 35.00 |" in out
    assert "| 2 |  | 40.00 | 45.00 |" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train_iterations", "it takes two options"),
        ("train_iterations,eval_iteration", "did you mean eval_iterations"),
        ("kernel,normalization", "no two of these scores differ"),
    ],
)
def test_what_makes_no_grid_is_refused_in_a_sentence(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for row in ("t1", "t2"):
        (tmp_path / f"{row}.json").write_text(json.dumps(run(row, 0.3)))
    assert main([str(tmp_path), "--grid", words]) == 2
    assert said in capsys.readouterr().err


def test_a_grid_is_drawn_as_a_picture_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for row in ("t1", "t2"):
        (tmp_path / f"{row}.json").write_text(json.dumps(run(row, 0.3)))
    assert main([str(tmp_path), "--grid", ",".join(GRID), "--plot", "grid.txt"]) == 2
    assert "no kind of picture" in capsys.readouterr().err
