"""The table paper / ours as text for a terminal, as markdown and as csv."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.reports.formats import (
    Column,
    markdown_heads,
    markdown_line,
    mean_and_spread,
    millions,
    plain,
    signed,
)
from experiments.reports.protocols import protocol_name
from experiments.reports.published import model_words
from experiments.reports.table_rows import Row

WIDTH = 120
CAPTION = (
    "mIoU in percent; a published figure stands beside ours only on the same data, split, "
    "protocol and options."
)
BRACKETS = (
    "In brackets: the 95 % interval of a bootstrap over images; it says nothing about other seeds."
)
RELEASED = "(released): weights that we did not train, judged here."
NOT_AVERAGED = "Not averaged:"

# --- columns


def protocol(row: Row) -> str:
    return protocol_name(row.protocol, row.data) or "-"


def iterations(row: Row) -> str:
    return "-" if row.iterations is None else f"{row.iterations}"


def published(row: Row) -> str:
    if row.published_miou is None:
        return "-"
    return f"{row.published_miou:g} ({row.published_source})"


def ours(row: Row) -> str:
    if row.our_miou is None:
        return "not measured"
    figure = mean_and_spread(row.our_miou, row.our_spread)
    if row.our_spread is not None:
        return f"{figure} ({len(row.seeds)} seeds)"
    if row.our_interval:
        low, high = row.our_interval
        figure += f" [{low:.1f}, {high:.1f}]"
    return f"{figure} ({'released' if row.released else '1 seed'})"


COLUMNS = (
    Column("experiment", lambda row: row.name),
    Column("protocol", protocol),
    Column("iterations", iterations, right=True),
    Column("published", published),
    Column("ours", ours),
    Column("difference", lambda row: signed(row.difference), right=True),
    Column("parameters", lambda row: millions(row.parameters, space=" "), right=True),
    Column("departures", lambda row: f"{len(row.departures)}" if row.departures else "-"),
)
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
    "hardware",
    "precision",
    "date",
    "commit",
)
ONLY_MEASURED = ("our_miou", "our_interval", "difference", "our_pixel_accuracy")


def words_of(row: Row) -> dict[str, str]:
    """The row as a reader sees it, by the heads of the columns."""
    return {column.head: column.cell(row) for column in COLUMNS}


def caption(rows: Sequence[Row]) -> str:
    """What a reader must know of the figures that these rows show."""
    lines = [CAPTION]
    if any(row.our_interval and row.our_spread is None for row in rows):
        lines.append(BRACKETS)
    if any(row.released for row in rows):
        lines.append(RELEASED)
    return " ".join(lines)


def sections(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """A titled table for each data set and split: validation and test never share a column."""
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        parts.setdefault((row.data, row.split), []).append(row)

    def known_data_then_validation(place: tuple[str, str]) -> tuple[bool, str, bool, str]:
        data, split = place
        return not data, data, split != "val", split

    return [
        (" ".join(place).strip() or "neither published nor measured", parts[place])
        for place in sorted(parts, key=known_data_then_validation)
    ]


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
    file = io.StringIO()
    colors = "standard" if color else None
    out = Console(
        file=file, width=width, force_terminal=color, color_system=colors, highlight=False
    )
    legend: dict[tuple[str, ...], str] = {}
    for title, part in sections(rows):
        out.print(text_table(title, part, legend), "")
    below = [f"({letter}) {'; '.join(departures)}" for departures, letter in legend.items()]
    if rows:
        below.append(caption(rows))
    if others:
        below += [NOT_AVERAGED, *(f"  {line}" for line in others)]
    for line in unplotted:
        below += ["", line]
    out.print(*below, sep="\n", markup=False)
    return "\n".join(line.rstrip() for line in file.getvalue().strip("\n").splitlines()) + "\n"


def text_table(title: str, rows: Sequence[Row], legend: dict[tuple[str, ...], str]) -> Table:
    """Departures that are not in the legend yet are entered there."""
    grid = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    lines = [words_of(row) for row in rows]
    widths = column_widths(lines)
    for column in COLUMNS:
        width = widths[column.head]
        grid.add_column(column.head, justify=column.justify, overflow="fold", width=width)
    for row, words in zip(rows, lines):
        if row.departures:
            letter = legend.setdefault(tuple(row.departures), letters(len(legend)))
            words["departures"] += f" ({letter})"
        grid.add_row(*(Text(word, style=style(head, row)) for head, word in words.items()))
    return grid


def column_widths(lines: Sequence[dict[str, str]]) -> dict[str, int]:
    """What each column needs, by its head.

    While that is too much, the widest gives way: to its longest word first, and then to 12.
    """
    needed: dict[str, int] = {}
    longest_words: dict[str, int] = {}
    for column in COLUMNS:
        texts = [column.head]
        if column.head != "departures":
            texts += [line[column.head] for line in lines]
        needed[column.head] = max(map(len, texts))
        longest_words[column.head] = max(map(len, " ".join(texts).split()))
    free = WIDTH - 2 * len(COLUMNS)
    for least in (longest_words, dict.fromkeys(needed, 12)):
        while sum(needed.values()) > free:
            wide = [head for head in needed if needed[head] > least[head] and head != "ours"]
            if not wide:
                break
            needed[max(wide, key=needed.get)] -= 1
    return needed


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
    lines: list[str] = []
    for title, part in sections(rows):
        lines += [f"### {plain(title)}", "", *markdown_heads(COLUMNS)]
        lines += [markdown_row(row, notes) for row in part]
        lines.append("")
    if rows:
        lines += [caption(rows), ""]
    if notes:
        lines += [*notes, ""]
    if others:
        lines += [NOT_AVERAGED, "", *(f"- {plain(line)}" for line in others), ""]
    if unplotted:
        lines += [*(f"- {plain(line)}" for line in unplotted), ""]
    return "\n".join(lines)


def markdown_row(row: Row, notes: list[str]) -> str:
    words = [plain(word) for word in words_of(row).values()]
    if row.status == "measured":
        number = len(notes) + 1
        notes.append(f"[^{number}]: {plain(footnote(row))}")
        words[-1] += f"[^{number}]"  # the departures
    return markdown_line(words)


def footnote(row: Row) -> str:
    commits = f"commit {', '.join(row.commit)}"
    made = [made_by(row), commits, *row.hardware, *row.precision, f"{row.images} images"]
    options = f"evaluated with {model_words(row.model)}; " if row.model else ""
    departures = f"departures: {'; '.join(row.departures)}" if row.departures else "no departures"
    return f"{', '.join(made)}; {options}{departures}."


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
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        hidden = () if row.status == "measured" else ONLY_MEASURED
        writer.writerow(
            None if name in hidden else csv_cell(getattr(row, name)) for name in CSV_COLUMNS
        )
    return file.getvalue()


def csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        return "; ".join(str(csv_cell(each)) for each in value)
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return round(value, 6) if isinstance(value, float) else value
