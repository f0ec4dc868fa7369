"""The one table of a sweep: rows as means over seeds, and every run that is missing."""

import itertools
import json
import os
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.command_line.invocation import as_started
from experiments.reports.number_formats import (
    markdown_lines,
    mean_and_spread,
    millions,
    plain,
    print_table,
    signed,
)
from experiments.reports.paper_table import Row, mean, row_of, spread
from experiments.sweep.plan import FINISHED, Run, differences_to_main, is_main, runs_by_row

MADE_WITH = ("commit", "hardware", "precision")
OF_A_RUN = ("parameters", "inference_parameters", "seconds", *MADE_WITH)
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


# A row of a paper with all its seeds, as table.json holds it; scores are in percent.
SweepRow = dict[str, Any]


def cells(row: SweepRow) -> list[str]:
    """In the order of COLUMNS."""
    return [
        with_main(row["row"], row["main"]),
        differences_shown(row["differs"], row["main"]),
        mean_and_spread(row["miou"], row["spread"]),
        mean_and_spread(row["best"], row["best_spread"]),
        signed(row["difference"]),
        mean_and_spread(row["pixel_accuracy"], None),
        millions(row["parameters"]),
        millions(row["inference_parameters"]),
        mean_and_spread(row["seconds"], None, digits=0),
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
        if row["main"]:
            main_miou[paper] = row["miou"]
        elif None not in (row["miou"], main_miou.get(paper)):
            row["difference"] = row["miou"] - main_miou[paper]
        rows.append(row)
    return rows


def sweep_row(runs: Sequence[Run], args: Namespace) -> SweepRow:
    resolved = runs[0].resolved
    measured = [run for run in runs if run.result]
    row = Row(resolved.experiment, "", resolved.entry["parameters"])
    inference_parameters = resolved.entry["inference_parameters"]
    if measured:
        row = row_of([run.result for run in measured])
        inference_parameters = row.newest.inference_parameters
    bests = [run.best for run in measured if run.best is not None]
    seconds = [run.result.seconds for run in measured if run.result.seconds is not None]
    return {
        "row": resolved.experiment,
        "main": is_main(runs[0]),
        "differs": differences_to_main(runs[0], args),  # from the paper's main row
        "protocol": resolved.recipe["inference"],
        "iterations": resolved.recipe["iterations"],
        "parameters": row.parameters,
        "inference_parameters": inference_parameters,
        "asked_seeds": [run.seed for run in runs],
        "seeds": [run.seed for run in measured],
        "miou": row.our_miou,
        "spread": row.our_spread,
        "best": mean(bests),  # the highest validation during training
        "best_spread": spread(bests),
        "difference": None,  # to the main row's mIoU
        "pixel_accuracy": row.our_pixel_accuracy,
        "seconds": mean(seconds),
        **{name: row.each(name) for name in MADE_WITH},
        "runs": [run_content(run) for run in runs],
    }


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
    protocols = in_turn(row["protocol"] for row in rows)
    iterations = in_turn(row["iterations"] for row in rows)
    seeds = in_turn(run.seed for run in planned)
    several = any(len(row["seeds"]) > 1 for row in rows)
    lines = [
        f"mIoU in percent of the last weights on {planned[0].resolved.data_name} val ({protocols}) "
        f"after {iterations} iterations, seed{'s' * (', ' in seeds)} {seeds}",
        "to main: the difference to the paper's main row, in points; "
        "inference: the parameters that remain",
        "best: the highest validation during training, chosen on these same images"
        + "; ± over seeds" * several,
    ]
    if any(row["seeds"] for row in rows):
        made_with = []
        for name in MADE_WITH:
            values = itertools.chain.from_iterable(row[name] for row in rows)
            made_with.append(f"{name} {in_turn(values)}")
        lines.append("; ".join(made_with))
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


def on_every_row(args: Namespace) -> list[str]:
    """The options of the command that decide a score."""
    options = {"--recipe": args.recipe, "--semi": args.semi, "--init": args.init}
    given = [f"{flag} {word}" for flag, word in options.items() if word not in (None, "none")]
    for word in args.overrides:
        of_this_machine = word.startswith(("data.root=", "trainer."))
        if not of_this_machine or word.startswith("trainer.accumulate="):
            given.append(word)
    return given


# --- on the screen and on disk


def conclude(planned: Sequence[Run], folder: Path, args: Namespace) -> None:
    rows = write_table(planned, folder, args)
    unmeasured = [cells(row)[0] for row in rows if not row["seeds"]]
    print()
    print_table(COLUMNS, map(cells, rows), failed=unmeasured)
    print()
    print(*notes(rows, planned, args), sep="\n")
    print(f"table        {folder / 'table.md'}")
    print(f"paper / ours {as_started('python experiments/report.py')} {folder}")


def write_table(planned: Sequence[Run], folder: Path, args: Namespace) -> list[SweepRow]:
    """Write table.md to read, and table.json by which report.py finds the runs."""
    rows = table(planned, args)
    lines = [f"# {plain(args.model)} on {planned[0].resolved.data_name}", ""]
    lines += markdown_lines(COLUMNS, map(cells, rows))
    lines += ["", *(f"- {plain(note)}" for note in notes(rows, planned, args)), ""]
    content = {"model": args.model, "overrides": args.overrides, "rows": rows}
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
        resolved = runs[0].resolved
        main = is_main(runs[0])
        states = []
        for run in runs:
            place = f" ({run.folder})" if run.folder else ""
            states.append(f"seed {run.seed} {run.state}{place}")
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
