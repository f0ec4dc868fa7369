"""The one table of a sweep: rows as means over seeds, and every run that is missing."""

import json
import os
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from experiments.command_line.errors import UserError
from experiments.records.metrics import curve, read_metrics
from experiments.records.results import read_result
from experiments.reports.number_formats import (
    bare_table,
    console,
    markdown_lines,
    mean_and_spread,
    millions,
    plain,
    print_table,
    signed,
)
from experiments.reports.paper_table import Row, mean, row_of, spread
from experiments.sweep.plan import FINISHED, Run, differences_to_main, is_main, runs_by_row

OF_A_RUN = ("parameters", "inference_parameters", "seconds", "commit", "hardware", "precision")
COLUMNS = {
    "row": "left",
    "differs from the main row": "left",
    "mIoU": "right",
    "best": "right",
    "to main": "right",
    "pixel accuracy": "right",
    "parameters": "right",
    "inference": "right",
    "seconds": "right",
}


@dataclass
class SweepRow:
    """A row of a paper with all its seeds, as table.json holds it; scores are in percent."""

    row: str
    main: bool
    differs: list[str]  # from the paper's main row
    protocol: str
    iterations: int
    parameters: int
    inference_parameters: int
    asked_seeds: list[int]
    seeds: list[int]  # those that are measured
    miou: float | None
    spread: float | None
    best: float | None  # the highest validation during training
    best_spread: float | None
    difference: float | None  # to the main row's mIoU
    pixel_accuracy: float | None
    seconds: float | None
    commit: list[str]
    hardware: list[str]
    precision: list[str]
    runs: list[dict[str, Any]]

    def cells(self) -> list[str]:
        return [
            with_main(self.row, self.main),
            differences_shown(self.differs, self.main),
            mean_and_spread(self.miou, self.spread),
            mean_and_spread(self.best, self.best_spread),
            signed(self.difference),
            mean_and_spread(self.pixel_accuracy, None),
            millions(self.parameters),
            millions(self.inference_parameters),
            "-" if self.seconds is None else f"{self.seconds:.0f}",
        ]


def with_main(address: str, main: bool) -> str:
    return address + (" (main)" if main else "")


def differences_shown(differences: Sequence[str], main: bool) -> str:
    return "; ".join(differences) or ("-" if main else "in nothing")


def table(planned: Sequence[Run], args: Namespace) -> list[SweepRow]:
    """The rows, main rows before their paper's others."""
    rows = []
    main_miou: dict[str, float | None] = {}  # by paper
    for runs in runs_by_row(planned).values():
        row = sweep_row(runs, args)
        paper = runs[0].resolved.paper
        if row.main:
            main_miou[paper] = row.miou
        elif None not in (row.miou, main_miou.get(paper)):
            row.difference = row.miou - main_miou[paper]
        rows.append(row)
    return rows


def sweep_row(runs: Sequence[Run], args: Namespace) -> SweepRow:
    resolved = runs[0].resolved
    for run in runs:
        measure(run)
    measured = [run for run in runs if run.result]
    row = Row(resolved.experiment, "", resolved.entry["parameters"])
    inference_parameters = resolved.entry["inference_parameters"]
    if measured:
        row = row_of([run.result for run in measured])
        inference_parameters = row.newest.inference_parameters
    bests = [run.best for run in measured if run.best is not None]
    seconds = [run.result.seconds for run in measured if run.result.seconds is not None]
    return SweepRow(
        row=resolved.experiment,
        main=is_main(runs[0]),
        differs=differences_to_main(runs[0], args),
        protocol=resolved.recipe["inference"],
        iterations=resolved.recipe["iterations"],
        parameters=row.parameters,
        inference_parameters=inference_parameters,
        asked_seeds=[run.seed for run in runs],
        seeds=[run.seed for run in measured],
        miou=row.our_miou,
        spread=row.our_spread,
        best=mean(bests),
        best_spread=spread(bests),
        difference=None,
        pixel_accuracy=row.our_pixel_accuracy,
        seconds=mean(seconds),
        commit=row.each("commit"),
        hardware=row.each("hardware"),
        precision=row.each("precision"),
        runs=[run_content(run) for run in runs],
    )


def measure(run: Run) -> None:
    """Read what a finished run has left; a run that cannot be read gets a reason."""
    run.result = run.best = None
    if run.state != FINISHED:
        return
    try:
        result = read_result(run.folder / "result.json")
        _, validations = curve(read_metrics(run.folder), "val/mIoU")
    except UserError as problem:
        run.reason = f"unreadable: {problem}"
        return
    run.result = result
    run.best = 100 * max(validations) if validations else None


def run_content(run: Run) -> dict[str, Any]:
    content = {
        "seed": run.seed,
        "folder": run.folder and run.folder.name,
        "state": run.state,
        "reason": run.reason,
    }
    if not run.result:
        return content
    row = row_of([run.result])
    scores = {"miou": row.our_miou, "pixel_accuracy": row.our_pixel_accuracy, "best": run.best}
    return content | scores | {name: getattr(run.result, name) for name in OF_A_RUN}


# --- below the table


def notes(rows: Sequence[SweepRow], planned: Sequence[Run], args: Namespace) -> list[str]:
    """What the figures are of, and every run that is missing."""
    protocols = in_turn(row.protocol for row in rows)
    iterations = in_turn(row.iterations for row in rows)
    seeds = in_turn(run.seed for run in planned)
    several = any(len(row.seeds) > 1 for row in rows)
    lines = [
        f"mIoU in percent of the last weights on {planned[0].resolved.data_name} val ({protocols}) "
        f"after {iterations} iterations, seed{'s' * (', ' in seeds)} {seeds}",
        "to main: the difference to the paper's main row, in points; "
        "inference: the parameters that remain",
        "best: the highest validation during training, chosen on these same images"
        + ("; ± over seeds" if several else ""),
    ]
    if any(row.seeds for row in rows):
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


def in_turn(values: Iterable[str | int]) -> str:
    """Each value once, in the order in which they come."""
    return ", ".join(dict.fromkeys(map(str, values)))


def made_with(rows: Sequence[SweepRow]) -> list[str]:
    lines = []
    for field in ("commit", "hardware", "precision"):
        values = {value for row in rows for value in getattr(row, field)}
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
    grid = bare_table()
    for head, side in COLUMNS.items():
        grid.add_column(head, justify=side, overflow="fold", no_wrap=head == "row")
    for row in rows:
        grid.add_row(*map(Text, row.cells()), style="" if row.seeds else "dim")
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
    lines += markdown_lines(COLUMNS, [row.cells() for row in rows])
    lines += ["", *(f"- {plain(note)}" for note in notes(rows, planned, args)), ""]
    content = {
        "model": args.model,
        "overrides": args.overrides,
        "rows": [asdict(row) for row in rows],
    }
    texts = {"table.md": "\n".join(lines), "table.json": json.dumps(content, indent=1) + "\n"}
    for file, text in texts.items():
        partial = folder / f".{file}.{os.getpid()}.partial"  # two sweeps may share the work
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / file)
    return rows


def show(planned: Sequence[Run], args: Namespace) -> int:
    """Print which rows would run, and what differs; nothing is trained."""
    rows = []
    for runs in runs_by_row(planned).values():
        resolved, main = runs[0].resolved, is_main(runs[0])
        places = [f" ({run.folder})" if run.folder else "" for run in runs]
        states = [f"seed {run.seed} {run.state}{place}" for run, place in zip(runs, places)]
        rows.append(
            (
                with_main(resolved.experiment, main),
                differences_shown(differences_to_main(runs[0], args), main),
                f"{resolved.recipe['iterations']}",
                millions(resolved.entry["parameters"]),
                ", ".join(states),
            )
        )
    heads = ("row", "differs from the main row", "iterations", "parameters", "runs")
    print_table(dict.fromkeys(heads, "left"), rows)
    data = planned[0].resolved.data_name
    print(f"\n{len(planned)} runs on {data}; --model PAPER/ROW --show prints every value of one")
    return 0
