"""Write and read metrics.csv: a row for each time that something is logged, a column a metric."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from experiments.command_line.errors import UserError
from experiments.command_line.files import whole
from experiments.records.run_folder import read_text


class Metrics:
    """Write metrics.csv, a row for each step that something is logged at.

    A new metric becomes a new column.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        # A last line that was cut off is none.
        lines = file.read_text().rpartition("\n")[0] if file.exists() else ""
        reader = csv.DictReader(lines.splitlines())
        self.columns = list(reader.fieldnames or ["step"])
        self.rows = list(reader)

    def drop_after(self, step: int) -> None:
        self.rows = [row for row in self.rows if int(row["step"]) <= step]
        self._rewrite()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        row = {"step": step, **{name: f"{value:.6g}" for name, value in values.items()}}
        new = [name for name in row if name not in self.columns]
        self.rows.append(row)
        if new or not self.file.exists():
            self.columns += new
            return self._rewrite()
        with self.file.open("a", newline="") as lines:
            csv.DictWriter(lines, self.columns).writerow(row)

    def _rewrite(self) -> None:
        with whole(self.file) as partial, partial.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)


def read_metrics(run: str | Path) -> dict[str, list]:
    """Return metrics.csv by columns, all of one length.

    An empty cell is None, and a last line that is still being written is left out.
    """
    file = Path(run) / "metrics.csv"
    reader = csv.DictReader(io.StringIO(read_text(file)))
    rows = list(reader)
    names = reader.fieldnames or []
    if "step" not in names:
        raise UserError(
            f"{file} has no column step; it must be the metrics.csv that experiments/run.py wrote"
        )
    if rows and None in rows[-1].values():
        rows.pop()
    if any(None in (*row, *row.values()) for row in rows):
        raise UserError(
            f"{file} has rows that do not fit its header of {len(names)} columns; "
            "copy it anew from the run"
        )
    columns: dict[str, list] = {name: [] for name in names}
    for row in rows:
        for name, cell in row.items():
            columns[name].append(number(cell, name, file))
    return columns


def number(cell: str, name: str, file: Path) -> float | int | None:
    if not cell.strip():
        return None
    try:
        return int(float(cell)) if name == "step" else float(cell)
    except (ValueError, OverflowError):
        raise UserError(
            f"{file}: {name} holds {cell!r}, which is no number; correct the cell or leave it empty"
        ) from None


def curve(metrics: Mapping[str, list], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric where it was logged; both empty where it never was."""
    steps = []
    values = []
    for step, value in zip(metrics["step"], metrics.get(name, ())):
        if None not in (step, value):
            steps.append(step)
            values.append(value)
    return steps, values


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and up to `window - 1` before it."""
    return [fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
