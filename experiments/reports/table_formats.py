"""The rows as tables to read: text for a terminal, markdown, csv."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.reports.protocols import protocol_name
from experiments.reports.table_rows import model_words

WIDTH = 120

# --- words for a row

HEADS = (
    "experiment",
    "protocol",
    "iterations",
    "published",
    "ours",
    "difference",
    "parameters",
    "departures",
)
RIGHT = ("iterations", "difference", "parameters")
CAPTION = "mIoU in percent; a published figure stands beside ours only on the same data, split, protocol and options."
BRACKETS = (
    "In brackets: the 95 % interval of a bootstrap over images; it says nothing about other seeds."
)
RELEASED = "(released): weights that we did not train, judged here."


def cells(row: dict) -> dict[str, str]:
    """The row as a reader sees it, without the departures, which each format notes in its own way."""
    return {
        "experiment": row["name"],
        "protocol": protocol_name(row["protocol"], row["data"]) or "-",
        "iterations": "-" if row["iterations"] is None else f"{row['iterations']}",
        "published": "-" if row["published"] is None else f"{row['published']:g} ({row['source']})",
        "ours": our_figure(row),
        "difference": "-" if row["difference"] is None else f"{row['difference']:+.2f}",
        "parameters": "-" if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f} M",
    }


def our_figure(row: dict) -> str:
    if row["ours"] is None:
        return "not measured"
    if row["spread"] is None:
        interval = (
            f" [{row['interval'][0]:.1f}, {row['interval'][1]:.1f}]" if row["interval"] else ""
        )
        return f"{row['ours']:.2f}{interval} ({'released' if row['released'] else '1 seed'})"
    return f"{row['ours']:.2f} ± {row['spread']:.2f} ({len(row['seeds'])} seeds)"


def caption(rows: Sequence[dict]) -> str:
    """What a reader must know of the figures that these rows show."""
    brackets = [BRACKETS] if any(row["interval"] and row["spread"] is None for row in rows) else []
    return " ".join(
        [CAPTION, *brackets, *([RELEASED] if any(row["released"] for row in rows) else [])]
    )


def sections(rows: Iterable[dict]) -> list[tuple[str, list[dict]]]:
    """A titled table for each data set and split, as validation and test figures never share a column."""
    parts: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        parts.setdefault((row["data"], row["split"]), []).append(row)
    places = sorted(parts, key=lambda place: (not place[0], place[0], place[1] != "val", place[1]))
    return [
        (" ".join(place).strip() or "neither published nor measured", parts[place])
        for place in places
    ]


def apart_line(row: dict) -> str:
    """A run that is not averaged, in one line."""
    reached = "no mIoU" if row["ours"] is None else f"{row['ours']:.2f} % mIoU"
    place = f"{row['data']} {row['split']}, {protocol_name(row['protocol'], row['data'])}"
    if row["released"]:
        return f"{row['status']}: {row['name']}, {place}, {reached}"
    return f"{row['status']}: {row['name']}, seed {row['seeds'][0]}, {place}, {row['iterations']} iterations, {reached}"


APART = "Not averaged:"


# --- formats


def as_text(
    rows: Sequence[dict],
    others: Sequence[str],
    unplotted: Sequence[str] = (),
    *,
    width: int = WIDTH,
    color: bool = False,
) -> str:
    """Tables of at most `width` columns with a legend of the departures."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
    )
    legend: dict[tuple[str, ...], str] = {}
    for title, part in sections(rows):
        console.print(text_table(title, part, legend), "")
    for departures, letter in legend.items():
        console.print(f"({letter}) {'; '.join(departures)}", markup=False)
    console.print(
        *([caption(rows)] if rows else []),
        *([APART, *(f"  {line}" for line in others)] if others else []),
        sep="\n",
        markup=False,
    )
    for line in unplotted:
        console.print("", line, sep="\n", markup=False)
    return "\n".join(line.rstrip() for line in file.getvalue().strip("\n").splitlines()) + "\n"


def text_table(title: str, rows: Sequence[dict], legend: dict[tuple[str, ...], str]) -> Any:
    """A rich table; departures that are not in the legend yet are entered there."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for head, width in widths(rows).items():
        grid.add_column(
            head, justify="right" if head in RIGHT else "left", overflow="fold", width=width
        )
    for row in rows:
        departures = tuple(row["departures"])
        letter = legend.setdefault(departures, letters(len(legend))) if departures else ""
        words = {**cells(row), "departures": f"{len(departures)} ({letter})" if departures else "-"}
        grid.add_row(*(Text(words[head], style=style(head, row)) for head in HEADS))
    return grid


def widths(rows: Sequence[dict]) -> dict[str, int]:
    """What each column needs; while that is too much, the widest gives way, to its longest word first and then to 12."""
    texts = {head: [head, *(cells(row).get(head, "") for row in rows)] for head in HEADS}
    room = WIDTH - 2 * len(HEADS)
    needed = {head: max(map(len, column)) for head, column in texts.items()}
    words = {
        head: max(len(word) for text in column for word in text.split() or [""])
        for head, column in texts.items()
    }
    for least in (words, dict.fromkeys(HEADS, 12)):
        while sum(needed.values()) > room:
            wide = [head for head in HEADS if needed[head] > least[head] and head != "ours"]
            if not wide:
                break
            needed[max(wide, key=needed.get)] -= 1
    return needed


def style(head: str, row: dict) -> str:
    if head == "difference" and row["difference"] is not None:
        return "green" if row["difference"] >= 0 else "yellow"
    if row["status"] == "not measured":
        return "dim"
    return "bold" if head == "ours" else ""


def letters(index: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    return (letters(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


def as_markdown(rows: Sequence[dict], others: Sequence[str], unplotted: Sequence[str] = ()) -> str:
    """Tables with a footnote for each measured row: seeds, commit, hardware, and every departure in full."""
    notes: list[str] = []
    lines = []
    for title, part in sections(rows):
        lines += [
            f"### {plain(title)}",
            "",
            markdown_line(HEADS),
            markdown_line("--:" if head in RIGHT else "---" for head in HEADS),
        ]
        lines += [markdown_row(row, notes) for row in part] + [""]
    lines += [caption(rows), ""] if rows else []
    lines += [*notes, ""] if notes else []
    lines += [APART, "", *(f"- {plain(line)}" for line in others), ""] if others else []
    lines += [*(f"- {plain(line)}" for line in unplotted), ""] if unplotted else []
    return "\n".join(lines)


def markdown_row(row: dict, notes: list[str]) -> str:
    words = {head: plain(word) for head, word in cells(row).items()}
    words["departures"] = f"{len(row['departures'])}" if row["departures"] else "-"
    if row["status"] == "measured":
        notes.append(f"[^{len(notes) + 1}]: {plain(footnote(row))}")
        words["departures"] += f"[^{len(notes)}]"
    return markdown_line(words[head] for head in HEADS)


def footnote(row: dict) -> str:
    made = [
        made_by(row),
        f"commit {', '.join(row['commit'])}",
        *row["hardware"],
        *row["precision"],
        f"{row['images']} images",
    ]
    departures = (
        f"departures: {'; '.join(row['departures'])}" if row["departures"] else "no departures"
    )
    options = f"evaluated with {model_words(row)}; " if row["model"] else ""
    return f"{', '.join(made)}; {options}{departures}."


def made_by(row: dict) -> str:
    if row["released"]:
        return f"checkpoint {row['released']}, released by {'another code line than the authors' if row['port'] else 'the authors'}"
    return f"seed{'s' * (len(row['seeds']) > 1)} {', '.join(map(str, row['seeds']))}"


def markdown_line(words: Iterable[str]) -> str:
    return f"| {' | '.join(words)} |"


def plain(word: str) -> str:
    """A word that cannot end its cell or its line."""
    return " ".join(word.split()).replace("|", "\\|")


COLUMNS = {  # of the csv -> of a row
    **{
        name: name
        for name in (
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
        )
    },
    "published_miou": "published",
    "published_source": "source",
    "our_miou": "ours",
    "our_spread": "spread",
    "our_interval": "interval",
    "released": "released",
    "seeds": "seeds",
    "difference": "difference",
    "our_pixel_accuracy": "pixel_accuracy",
    **{
        name: name
        for name in (
            "parameters",
            "inference_parameters",
            "images",
            "departures",
            "hardware",
            "precision",
            "date",
            "commit",
        )
    },
}


def as_csv(rows: Sequence[dict]) -> str:
    """Everything in full; a row whose status is not "measured" carries no figure of ours, so that nobody averages it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        counted = (
            row
            if row["status"] == "measured"
            else {**row, **dict.fromkeys(("ours", "interval", "difference", "pixel_accuracy"))}
        )
        writer.writerow(csv_cell(counted[name]) for name in COLUMNS.values())
    return file.getvalue()


def csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        return "; ".join(str(round(each, 6) if isinstance(each, float) else each) for each in value)
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return round(value, 6) if isinstance(value, float) else value
