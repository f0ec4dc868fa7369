"""The one table of a sweep: rows as means over seeds, and every run that is missing."""

import json
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from experiments.command_line.errors import UserError
from experiments.records.metrics import curve, read_metrics
from experiments.records.results import Result, read_result
from experiments.reports.formats import (
    Column,
    console,
    markdown_heads,
    markdown_line,
    mean_and_spread,
    millions,
    plain,
    signed,
)
from experiments.reports.table_rows import Row, mean, row_of, spread
from experiments.sweep.plan import FINISHED, Run, differences_to_main, is_main, runs_by_row


@dataclass(frozen=True)
class Measured:
    """A finished run: its result, and the highest validation during training in percent."""

    result: Result
    best: float | None

    def as_dict(self) -> dict[str, Any]:
        shares = {name: getattr(self.result, name) for name in ("miou", "pixel_accuracy")}
        percents = {name: None if share is None else 100 * share for name, share in shares.items()}
        return percents | {
            "best": self.best,
            "parameters": self.result.parameters,
            "inference_parameters": self.result.inference_parameters,
            "seconds": self.result.seconds,
            "commit": self.result.commit,
            "hardware": self.result.hardware,
            "precision": self.result.precision,
        }


@dataclass
class SweepRow:
    """A row of a paper with all its seeds, and what differs from the paper's main row."""

    runs: Sequence[Run]
    differs: Sequence[str]
    measured: dict[int, Measured]  # by seed
    main_miou: float | None = None  # of the paper's main row

    @property
    def address(self) -> str:
        return self.runs[0].resolved.experiment

    @property
    def main(self) -> bool:
        return is_main(self.runs[0])

    @property
    def over_seeds(self) -> Row:
        results = [each.result for each in self.measured.values()]
        if results:
            return row_of(results)
        return Row(self.address, "", self.runs[0].resolved.entry["parameters"])

    @property
    def inference_parameters(self) -> int | None:
        if self.measured:
            return self.over_seeds.inference_parameters
        return self.runs[0].resolved.entry["inference_parameters"]

    @property
    def bests(self) -> list[float]:
        return [each.best for each in self.measured.values() if each.best is not None]

    @property
    def seconds(self) -> float | None:
        known = [each.result.seconds for each in self.measured.values()]
        return mean([seconds for seconds in known if seconds is not None])

    @property
    def difference(self) -> float | None:
        miou = self.over_seeds.our_miou
        if self.main or None in (miou, self.main_miou):
            return None
        return miou - self.main_miou

    def as_dict(self) -> dict[str, Any]:
        recipe, row = self.runs[0].resolved.recipe, self.over_seeds
        return {
            "row": self.address,
            "main": self.main,
            "differs": self.differs,
            "protocol": recipe["inference"],
            "iterations": recipe["iterations"],
            "parameters": row.parameters,
            "inference_parameters": self.inference_parameters,
            "asked_seeds": [run.seed for run in self.runs],
            "seeds": list(self.measured),
            "miou": row.our_miou,
            "spread": row.our_spread,
            "best": mean(self.bests),
            "best_spread": spread(self.bests),
            "difference": self.difference,
            "pixel_accuracy": row.our_pixel_accuracy,
            "seconds": self.seconds,
            "commit": row.commit,
            "hardware": row.hardware,
            "precision": row.precision,
            "runs": [self.run_as_dict(run) for run in self.runs],
        }

    def run_as_dict(self, run: Run) -> dict[str, Any]:
        measured = self.measured.get(run.seed)
        return {
            "seed": run.seed,
            "folder": run.folder and run.folder.name,
            "state": run.state,
            "reason": run.reason,
            **(measured.as_dict() if measured else {}),
        }


def table(planned: Sequence[Run], args: Namespace) -> list[SweepRow]:
    rows = []
    for runs in runs_by_row(planned).values():
        measured = {run.seed: each for run in runs if (each := measure(run))}
        rows.append(SweepRow(runs, differences_to_main(runs[0], args), measured))
    papers = {row.over_seeds.paper: row.over_seeds.our_miou for row in rows if row.main}
    for row in rows:
        row.main_miou = papers.get(row.over_seeds.paper)
    return rows


def measure(run: Run) -> Measured | None:
    """Read what a finished run has left; a run that cannot be read gets a reason."""
    if run.state != FINISHED:
        return None
    try:
        result = read_result(run.folder / "result.json")
        _, validations = curve(read_metrics(run.folder), "val/mIoU")
    except UserError as problem:
        run.reason = f"unreadable: {problem}"
        return None
    return Measured(result, 100 * max(validations) if validations else None)


# --- in words


def name(row: SweepRow) -> str:
    return row.address + (" (main)" if row.main else "")


def differs(row: SweepRow) -> str:
    return difference_words(row.differs, row.main)


def difference_words(differences: Sequence[str], main: bool) -> str:
    return "; ".join(differences) or ("-" if main else "in nothing")


def miou(row: SweepRow) -> str:
    return mean_and_spread(row.over_seeds.our_miou, row.over_seeds.our_spread)


def best(row: SweepRow) -> str:
    return mean_and_spread(mean(row.bests), spread(row.bests))


def seconds(row: SweepRow) -> str:
    return "-" if row.seconds is None else f"{row.seconds:.0f}"


COLUMNS = (
    Column("row", name),
    Column("differs from the main row", differs),
    Column("mIoU", miou, right=True),
    Column("best", best, right=True),
    Column("to main", lambda row: signed(row.difference), right=True),
    Column(
        "pixel accuracy",
        lambda row: mean_and_spread(row.over_seeds.our_pixel_accuracy, None),
        right=True,
    ),
    Column("parameters", lambda row: millions(row.over_seeds.parameters), right=True),
    Column("inference", lambda row: millions(row.inference_parameters), right=True),
    Column("seconds", seconds, right=True),
)


def notes(rows: Sequence[SweepRow], planned: Sequence[Run], args: Namespace) -> list[str]:
    """What the figures are of, and every run that is missing."""
    recipes = [row.runs[0].resolved.recipe for row in rows]
    protocols = in_turn(recipe["inference"] for recipe in recipes)
    iterations = in_turn(recipe["iterations"] for recipe in recipes)
    seeds = in_turn(run.seed for run in planned)
    several = any(len(row.measured) > 1 for row in rows)
    lines = [
        f"mIoU in percent of the last weights on {planned[0].resolved.data_name} val ({protocols}) "
        f"after {iterations} iterations, seed{'s' * (', ' in seeds)} {seeds}",
        "to main: the difference to the paper's main row, in points; "
        "inference: the parameters that remain",
        "best: the highest validation during training, chosen on these same images"
        + ("; ± over seeds" if several else ""),
    ]
    if any(row.measured for row in rows):
        lines.append("; ".join(made_with(rows)))
    if given := on_every_row(args):
        lines.append(f"on every row: {' '.join(given)}")
    if any(run.wanted["smoke"] for run in planned):
        lines.append("--smoke: a few tiny steps, whose figures mean nothing")
    return lines + [
        f"{run.name}: {run.reason or run.state}"
        for run in planned
        if run.state != FINISHED or run.reason
    ]


def in_turn(values: Any) -> str:
    """Each value once, in the order in which they come."""
    return ", ".join(dict.fromkeys(map(str, values)))


def made_with(rows: Sequence[SweepRow]) -> list[str]:
    lines = []
    for field in ("commit", "hardware", "precision"):
        values = {value for row in rows for value in getattr(row.over_seeds, field)}
        lines.append(f"{field} {', '.join(sorted(values))}")
    return lines


def on_every_row(args: Namespace) -> list[str]:
    """The options of the command that decide a score."""
    options = {"--semi": args.semi, "--init": args.init}
    given = [f"{flag} {word}" for flag, word in options.items() if word not in (None, "none")]
    for word in args.overrides:
        of_this_machine = word.startswith(("data.root=", "trainer."))
        if not of_this_machine or word.startswith("trainer.accumulate="):
            given.append(word)
    return given


# --- on the screen and on disk


def conclude(planned: Sequence[Run], folder: Path, args: Namespace) -> None:
    rows = write_table(planned, folder, args)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        whole = column.head == "row"
        grid.add_column(column.head, justify=column.justify, overflow="fold", no_wrap=whole)
    for row in rows:
        cells = [Text(column.cell(row)) for column in COLUMNS]
        grid.add_row(*cells, style="" if row.measured else "dim")
    out = console()
    print()
    out.print(grid)
    out.print()
    for line in (
        *notes(rows, planned, args),
        f"table        {folder / 'table.md'}",
        f"paper / ours python experiments/report.py {folder}",
    ):
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def write_table(planned: Sequence[Run], folder: Path, args: Namespace) -> list[SweepRow]:
    """Write table.md to read, and table.json by which report.py finds the runs."""
    rows = table(planned, args)
    lines = [f"# {plain(args.model)} on {planned[0].resolved.data_name}", ""]
    lines += markdown_heads(COLUMNS)
    lines += [markdown_line(plain(column.cell(row)) for column in COLUMNS) for row in rows]
    lines += ["", *(f"- {plain(note)}" for note in notes(rows, planned, args)), ""]
    content = {
        "model": args.model,
        "overrides": args.overrides,
        "rows": [row.as_dict() for row in rows],
    }
    texts = {"table.md": "\n".join(lines), "table.json": json.dumps(content, indent=1) + "\n"}
    for file, text in texts.items():
        partial = folder / f".{file}.{os.getpid()}.partial"  # two sweeps may share the work
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / file)
    return rows


def show(planned: Sequence[Run], args: Namespace) -> int:
    """Which rows would run, and what differs; trains nothing."""
    heads = ("row", "differs from the main row", "iterations", "parameters", "runs")
    grid = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for runs in runs_by_row(planned).values():
        resolved, main = runs[0].resolved, is_main(runs[0])
        states = [
            f"seed {run.seed} {run.state}" + (f" ({run.folder})" if run.folder else "")
            for run in runs
        ]
        cells = (
            resolved.experiment + (" (main)" if main else ""),
            difference_words(differences_to_main(runs[0], args), main),
            f"{resolved.recipe['iterations']}",
            millions(resolved.entry["parameters"]),
            ", ".join(states),
        )
        grid.add_row(*map(Text, cells))
    console().print(grid)
    data = planned[0].resolved.data_name
    print(f"\n{len(planned)} runs on {data}; --model PAPER/ROW --show prints every value of one")
    return 0
