"""The table paper / ours as text for a terminal, as markdown and as csv."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.reports.number_formats import (
    markdown_lines,
    mean_and_spread,
    millions,
    plain,
    printed_text,
    signed,
)
from experiments.reports.paper_table import Row, grouped, validation_first
from experiments.reports.protocol_names import protocol_name
from experiments.reports.published_figures import model_words

WIDTH = 120
CAPTION = (
    "mIoU in percent; a published figure stands beside ours only on the same data, split, "
    "protocol and options."
)
BRACKETS = (
    "In brackets: the 95 % interval of a bootstrap over images; it says nothing about other seeds."
)
RELEASED = "(released): weights that we did not train, evaluated here."
NOT_AVERAGED = "Not averaged:"

# --- columns

COLUMNS = {
    "experiment": "left",
    "protocol": "left",
    "iterations": "right",
    "published": "left",
    "ours": "left",
    "difference": "right",
    "parameters": "right",
    "departures": "left",
}
WHOLE = ("ours", "iterations", "difference", "parameters")  # columns that are never folded
CSV_COLUMNS = (  # attributes of a row
    "status",
    "experiment",
    "paper",
    "row",
    "title",
    "overrides",
    "model",
    "data",
    "split",
    "protocol",
    "iterations",
    "published_miou",
    "published_source",
    "our_miou",
    "our_spread",
    "our_interval",
    "released",
    "seeds",
    "difference",
    "our_pixel_accuracy",
    "parameters",
    "inference_parameters",
    "images",
    "departures",
)
OF_EACH_RUN = ("hardware", "precision", "date", "commit")  # the last columns of the csv
ONLY_MEASURED = ("our_miou", "our_interval", "difference", "our_pixel_accuracy")


def cells(row: Row, mark: str = "") -> list[str]:
    """The row under the heads of COLUMNS; `mark` leads to its departures."""
    return [
        row.name,
        protocol_name(row.protocol, row.data) or "-",
        "-" if row.iterations is None else f"{row.iterations}",
        f"{row.published_miou:g} ({row.published_source})" if row.figures else "-",
        ours(row),
        signed(row.difference),
        millions(row.parameters, space=" "),
        f"{len(row.departures) or '-'}{mark}",
    ]


def ours(row: Row) -> str:
    if row.our_miou is None:
        return "no network here" if row.status == "cited" else "not measured"
    figure = mean_and_spread(row.our_miou, row.our_spread)
    if row.our_spread is not None:
        return f"{figure} ({len(row.seeds)} seeds)"
    if row.our_interval:
        low, high = row.our_interval
        figure += f" [{low:.1f}, {high:.1f}]"
    return f"{figure} ({'released' if row.released else '1 seed'})"


def caption(rows: Sequence[Row]) -> str:
    """What a reader must know of the figures that these rows show."""
    lines = [CAPTION]
    if any(row.our_interval and row.our_spread is None for row in rows):
        lines.append(BRACKETS)
    if any(row.released for row in rows):
        lines.append(RELEASED)
    return " ".join(lines)


def sections(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """A titled table for each data set and split: validation and test never share a column."""
    in_order = sorted(rows, key=lambda row: (not row.data, *validation_first(row.data, row.split)))
    return grouped(in_order, title)


def title(row: Row) -> str:
    return f"{row.data} {row.split}".strip() or "neither published nor measured"


def not_averaged_line(row: Row) -> str:
    """A run that is not averaged, in one line."""
    reached = "no mIoU" if row.our_miou is None else f"{row.our_miou:.2f} % mIoU"
    place = f"{row.data} {row.split}, {protocol_name(row.protocol, row.data)}"
    if row.released:
        return f"{row.status}: {row.name}, {place}, {reached}"
    trained = f"seed {row.seeds[0]}, {place}, {row.iterations} iterations"
    return f"{row.status}: {row.name}, {trained}, {reached}"


# --- text


def as_text(
    rows: Sequence[Row],
    others: Sequence[str],
    unplotted: Sequence[str] = (),
    *,
    width: int = WIDTH,
    color: bool = False,
) -> str:
    """Tables of at most `width` columns with a legend of the departures."""
    colors = "standard" if color else None
    out = Console(
        file=io.StringIO(), width=width, force_terminal=color, color_system=colors, highlight=False
    )
    legend: dict[str, str] = {}
    for title, part in sections(rows).items():
        out.print(text_table(title, part, legend), "")
    below = [f"({letter}) {departures}" for departures, letter in legend.items()]
    if rows:
        below.append(caption(rows))
    if others:
        below += [NOT_AVERAGED, *(f"  {line}" for line in others)]
    if unplotted:
        below += ["", *unplotted]
    out.print(*below, sep="\n", markup=False)
    return printed_text(out)


def text_table(title: str, rows: Sequence[Row], legend: dict[str, str]) -> Table:
    """Departures that are not in the legend yet are entered there."""
    grid = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for head, side in COLUMNS.items():
        grid.add_column(head, justify=side, overflow="fold", no_wrap=head in WHOLE)
    for row in rows:
        mark = ""
        if row.departures:
            letter = legend.setdefault("; ".join(row.departures), letters(len(legend)))
            mark = f" ({letter})"
        texts = zip(COLUMNS, cells(row, mark))
        grid.add_row(*(Text(text, style=style(head, row)) for head, text in texts))
    return grid


def style(head: str, row: Row) -> str:
    if head == "difference" and row.difference is not None:
        return "green" if row.difference >= 0 else "yellow"
    if row.status == "not measured":
        return "dim"
    return "bold" if head == "ours" else ""


def letters(index: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    return (letters(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


# --- markdown


def as_markdown(rows: Sequence[Row], others: Sequence[str], unplotted: Sequence[str] = ()) -> str:
    """Tables with a footnote for each measured row: seeds, commit, hardware, every departure."""
    notes: list[str] = []
    blocks = []
    for title, part in sections(rows).items():
        texts = [cells(row, footnote_mark(row, notes)) for row in part]
        blocks.append([f"### {plain(title)}", "", *markdown_lines(COLUMNS, texts)])
    if rows:
        blocks.append([caption(rows)])
    blocks.append(notes)
    if others:
        blocks.append([NOT_AVERAGED, "", *(f"- {plain(line)}" for line in others)])
    blocks.append([f"- {plain(line)}" for line in unplotted])
    return "\n".join("\n".join([*block, ""]) for block in blocks if block)


def footnote_mark(row: Row, notes: list[str]) -> str:
    """Add the note of a measured row to `notes`; return what leads to it."""
    if row.status != "measured":
        return ""
    mark = f"[^{len(notes) + 1}]"
    made = [made_by(row), f"commit {', '.join(row.each('commit'))}", *row.each("hardware")]
    made += [*row.each("precision"), f"{row.newest.images} images"]
    options = f"evaluated with {model_words(row.model)}; " if row.model else ""
    departures = f"departures: {'; '.join(row.departures)}" if row.departures else "no departures"
    notes.append(plain(f"{mark}: {', '.join(made)}; {options}{departures}."))
    return mark


def made_by(row: Row) -> str:
    if row.released:
        whom = "another code line than the authors" if row.port else "the authors"
        return f"checkpoint {row.released}, released by {whom}"
    return f"seed{'s' * (len(row.seeds) > 1)} {', '.join(map(str, row.seeds))}"


# --- csv


def as_csv(rows: Sequence[Row]) -> str:
    """Everything in full; what is not measured carries no figure of ours that could be averaged."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS + OF_EACH_RUN)
    for row in rows:
        hidden = () if row.status == "measured" else ONLY_MEASURED
        # A few columns are of the newest run alone, such as its number of images.
        values = [
            None if name in hidden else getattr(row, name, getattr(row.newest, name, None))
            for name in CSV_COLUMNS
        ]
        writer.writerow(map(csv_cell, values + [row.each(name) for name in OF_EACH_RUN]))
    return file.getvalue()


def csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        return "; ".join(str(csv_cell(each)) for each in value)
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return round(value, 6) if isinstance(value, float) else value
