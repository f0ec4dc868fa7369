"""The one table of a sweep: rows as means over seeds, and every run that is missing."""

import json
import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table
from rich.text import Text

from experiments.command_line.errors import UserError
from experiments.records.results import curve, read_metrics, read_results
from experiments.reports.table_formats import markdown_line, plain
from experiments.reports.terminal import console, millions
from experiments.sweep.plan import FINISHED, Run, differs, main_of, rows_of


@dataclass
class Row:
    """One row of the table: means over the seeds that are finished, in percent."""

    row: str
    main: bool
    differs: list[str]
    protocol: str
    iterations: int
    parameters: int
    inference_parameters: int | None
    asked_seeds: list[int]
    seeds: list[int] = field(default_factory=list)
    miou: float | None = None
    spread: float | None = None
    best: float | None = None
    best_spread: float | None = None
    difference: float | None = None
    pixel_accuracy: float | None = None
    seconds: float | None = None
    commit: list[str] = field(default_factory=list)
    hardware: list[str] = field(default_factory=list)
    precision: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)


def table(planned: Sequence[Run], asked: Namespace) -> list[Row]:
    rows = [row_of(each, asked) for each in rows_of(planned).values()]
    mains = {row.row.partition("/")[0]: row.miou for row in rows if row.main}
    for row in rows:
        main = mains.get(row.row.partition("/")[0])
        row.difference = None if row.main or None in (row.miou, main) else row.miou - main
    return rows


def row_of(made: Sequence[Run], asked: Namespace) -> Row:
    resolved, entry = made[0].resolved, made[0].resolved.entry
    row = Row(
        resolved.experiment, resolved.experiment == main_of(made[0]), differs(made[0], asked), resolved.recipe["inference"],
        resolved.recipe["iterations"], entry["parameters"], entry["inference_parameters"], [run.seed for run in made],
    )  # fmt: skip
    results = [(run, measured(run)) for run in made]
    row.runs = [
        {
            "seed": run.seed,
            "folder": run.folder and run.folder.name,
            "state": run.state,
            "reason": run.reason,
        }
        | (found or {})
        for run, found in results
    ]
    found = [each for _, each in results if each]
    if not found:
        return row
    row.seeds = [run.seed for run, each in results if each]
    row.miou, row.spread = mean_and_spread(found, "miou")
    row.best, row.best_spread = mean_and_spread(found, "best")
    row.pixel_accuracy, _ = mean_and_spread(found, "pixel_accuracy")
    row.seconds, _ = mean_and_spread(found, "seconds")
    row.parameters, row.inference_parameters = (
        found[-1]["parameters"],
        found[-1]["inference_parameters"],
    )
    row.commit, row.hardware, row.precision = (
        sorted({str(each[name]) for each in found}) for name in ("commit", "hardware", "precision")
    )
    return row


def measured(run: Run) -> dict[str, Any] | None:
    """The figures of a finished run, shares in percent; best is the highest of the validations during training."""
    if run.state != FINISHED:
        return None
    try:
        (result,) = read_results(
            [run.folder / "result.json"]
        )  # beside it may lie what evaluate.py said later
        _, validations = curve(read_metrics(run.folder), "val/mIoU")
    except UserError as problem:
        run.reason = f"unreadable: {problem}"
        return None
    percent = {
        name: None if result[name] is None else 100 * result[name]
        for name in ("miou", "pixel_accuracy")
    }
    same = {
        name: result[name]
        for name in (
            "parameters",
            "inference_parameters",
            "seconds",
            "commit",
            "hardware",
            "precision",
        )
    }
    return percent | {"best": 100 * max(validations) if validations else None} | same


def mean_and_spread(
    found: Sequence[Mapping[str, Any]], name: str
) -> tuple[float | None, float | None]:
    """Over seeds, with the sample standard deviation; one seed has none."""
    values = [each[name] for each in found if each[name] is not None]
    return fmean(values) if values else None, stdev(values) if len(values) > 1 else None


COLUMNS: dict[str, Callable[[Row], str]] = {
    "row": lambda row: row.row + (" (main)" if row.main else ""),
    "differs from the main row": lambda row: (
        "; ".join(row.differs) or ("-" if row.main else "in nothing")
    ),
    "mIoU": lambda row: figure(row.miou, row.spread),
    "best": lambda row: figure(row.best, row.best_spread),
    "to main": lambda row: "-" if row.difference is None else f"{row.difference:+.2f}",
    "pixel accuracy": lambda row: figure(row.pixel_accuracy, None),
    "parameters": lambda row: millions(row.parameters),
    "inference": lambda row: (
        "-" if row.inference_parameters is None else millions(row.inference_parameters)
    ),
    "seconds": lambda row: "-" if row.seconds is None else f"{row.seconds:.0f}",
}
RIGHT = ("mIoU", "best", "to main", "pixel accuracy", "parameters", "inference", "seconds")


def figure(value: float | None, spread: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" + ("" if spread is None else f" ± {spread:.2f}")


def notes(rows: Sequence[Row], planned: Sequence[Run], asked: Namespace) -> list[str]:
    """What the figures are of, and every run that is missing."""
    data, smoke = planned[0].resolved.data_name, any(run.wanted["smoke"] for run in planned)
    protocols, steps = (
        ", ".join(dict.fromkeys(f"{getattr(row, name)}" for row in rows))
        for name in ("protocol", "iterations")
    )
    asked_seeds = list(dict.fromkeys(run.seed for run in planned))
    seeds = f"seed{'s' * (len(asked_seeds) > 1)} {', '.join(map(str, asked_seeds))}"
    lines = [
        f"mIoU in percent of the last weights on {data} val ({protocols}) after {steps} iterations, {seeds}",
        "to main: the difference to the paper's main row, in points; inference: the parameters that remain",
        "best: the highest validation during training, chosen on these same images"
        + ("; ± over seeds" if several_seeds(rows) else ""),
    ]
    made = {
        name: sorted({word for row in rows for word in getattr(row, name)})
        for name in ("commit", "hardware", "precision")
    }
    lines += (
        ["; ".join(f"{name} {', '.join(found)}" for name, found in made.items())]
        if any(row.seeds for row in rows)
        else []
    )
    given = [
        f"--{name} {value}"
        for name, value in (("semi", asked.semi), ("init", asked.init))
        if value not in (None, "none")
    ]
    given += [
        word
        for word in asked.overrides
        if not word.startswith(("data.root=", "trainer.")) or word.startswith("trainer.accumulate=")
    ]
    lines += [f"on every row: {' '.join(given)}"] if given else []
    lines += ["--smoke: a few tiny steps, whose figures mean nothing"] if smoke else []
    return lines + [
        f"{run.name}: {run.reason or run.state}"
        for run in planned
        if run.state != FINISHED or run.reason
    ]


def several_seeds(rows: Sequence[Row]) -> bool:
    return any(len(row.seeds) > 1 for row in rows)


def conclude(planned: Sequence[Run], folder: Path, asked: Namespace) -> None:
    rows = write_table(planned, folder, asked)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for head in COLUMNS:
        grid.add_column(
            head,
            justify="right" if head in RIGHT else "left",
            overflow="fold",
            no_wrap=head == "row",
        )
    for row in rows:
        grid.add_row(
            *(Text(cell(row)) for cell in COLUMNS.values()), style="" if row.seeds else "dim"
        )
    out = console()
    print()
    out.print(grid)
    out.print()
    for line in (*notes(rows, planned, asked), f"table        {folder / 'table.md'}"):
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    out.print(
        f"paper / ours python experiments/report.py {folder}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def write_table(planned: Sequence[Run], folder: Path, asked: Namespace) -> list[Row]:
    """table.md to read and table.json for programs; `py` finds the runs by the latter."""
    rows = table(planned, asked)
    heads = [
        markdown_line(COLUMNS),
        markdown_line("--:" if head in RIGHT else "---" for head in COLUMNS),
    ]
    lines = [markdown_line(plain(cell(row)) for cell in COLUMNS.values()) for row in rows]
    title = f"# {plain(asked.model)} on {planned[0].resolved.data_name}"
    text = "\n".join(
        [
            title,
            "",
            *heads,
            *lines,
            "",
            *(f"- {plain(note)}" for note in notes(rows, planned, asked)),
            "",
        ]
    )
    content = {
        "model": asked.model,
        "overrides": asked.overrides,
        "rows": [vars(row) for row in rows],
    }
    for name, words_in_it in (
        ("table.md", text),
        ("table.json", json.dumps(content, indent=1) + "\n"),
    ):
        partial = folder / f".{name}.{os.getpid()}.partial"  # two sweeps may share the work
        partial.write_text(words_in_it, encoding="utf-8")
        partial.replace(folder / name)
    return rows


def show(planned: Sequence[Run], asked: Namespace) -> int:
    """Which rows would run, and what differs; trains nothing."""
    grid = Table(
        "row",
        "differs from the main row",
        "iterations",
        "parameters",
        "runs",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for address, made in rows_of(planned).items():
        main, resolved = address == main_of(made[0]), made[0].resolved
        there = ", ".join(
            f"seed {run.seed} {run.state}" + (f" ({run.folder})" if run.folder else "")
            for run in made
        )
        told = "; ".join(differs(made[0], asked)) or ("-" if main else "in nothing")
        name, size = address + (" (main)" if main else ""), millions(resolved.entry["parameters"])
        grid.add_row(*map(Text, (name, told, f"{resolved.recipe['iterations']}", size, there)))
    console().print(grid)
    print(
        f"\n{len(planned)} runs on {planned[0].resolved.data_name}; --model PAPER/ROW --show prints every value of one"
    )
    return 0
