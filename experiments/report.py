"""The table paper / ours, made from the results of finished runs and from nothing else."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
NO_RESULTS = ("catalogue.json", "fidelity.json", "feeding.json")  # what else lies there
SCHEMA = 1
WIDTH = 120

EXAMPLES = """\
examples:
  python experiments/report.py                  what is kept in experiments/results
  python experiments/report.py runs             every run in the folder runs
  python experiments/report.py runs/bisenet-*   some of them
  python experiments/report.py runs/sweep-...   those of one sweep (run.py --model "stdc/*")
  python experiments/report.py --all            also the rows of the papers that nobody has measured
  python experiments/report.py --data cityscapes --format markdown --out table.md

how to read it:
  mIoU is in percent. "ours" is the mean over seeds, +- their sample standard deviation; a single run has no spread.
  A published figure stands beside ours only on the same data, split and protocol, and only for the published network.
  Only runs alike in overrides, iterations and departures are averaged; unfinished and smoke runs stand apart.
"""


class ReportError(ValueError):
    """One sentence for the person at the command line: which file, what is wrong, what to do."""


# --- what a result.json holds

TEXT, WHOLE, NUMBER, NOTHING = (str,), (int,), (int, float), type(None)
FIELDS: dict[str, tuple[type, ...]] = {
    "schema": WHOLE,
    "experiment": TEXT,  # "paper/row"
    "paper": TEXT,
    "row": TEXT,
    "title": TEXT,
    "data": TEXT,
    "split": TEXT,
    "protocol": TEXT,  # the inference mode, as in Published
    "miou": (*NUMBER, NOTHING),  # a fraction, as all that we measure
    "pixel_accuracy": (*NUMBER, NOTHING),
    "iou": (dict,),  # class name -> fraction, or null where the split has no such class
    "images": WHOLE,
    "seed": WHOLE,
    "iterations": WHOLE,
    "parameters": WHOLE,  # while training
    "inference_parameters": (*WHOLE, NOTHING),
    "hardware": TEXT,
    "precision": TEXT,
    "commit": (*TEXT, NOTHING),
    "versions": (dict,),
    "seconds": (*NUMBER, NOTHING),
    "cpu_seconds": (*NUMBER, NOTHING),
    "date": TEXT,  # YYYY-MM-DD
    "departures": (list,),  # sentences
    "overrides": (dict,),  # "model.arm" -> value, as given on the command line
    "published": (list,),  # {"miou" in percent, "data", "split", "protocol", "source"}
    "finished": (bool,),
    "checkpoint": (*TEXT, NOTHING),
}
OPTIONAL: dict[str, tuple[type, ...]] = {
    "smoke": (bool,),
    "semi": (dict, NOTHING),  # the method around the network, with its options
    "network": (*TEXT, NOTHING),  # which of a method's networks was judged
    "others": (dict,),  # its other networks' miou, pixel_accuracy and iou
    "labelled": (dict, NOTHING),  # images, of, fingerprint: the part of the training images that kept its labels
}
PUBLISHED: dict[str, tuple[type, ...]] = {"miou": NUMBER, "data": TEXT, "split": TEXT, "protocol": TEXT, "source": TEXT}


def check_result(result: Any, file: Path) -> None:
    """Refuses what this report cannot read truly: another schema, a missing field, a percent where a fraction belongs."""
    if not isinstance(result, dict) or "schema" not in result:
        raise ReportError(f"{file} is not a result: it has no field schema; name the result.json that experiments/run.py wrote")
    if result["schema"] != SCHEMA:
        newer = f"schema {result['schema']}, and this report reads schema {SCHEMA}"
        raise ReportError(f"{file} has {newer}; read it with the checkout that wrote it, or run the experiment again")
    check_fields(result, FIELDS, OPTIONAL, file)
    measured = {"miou": result["miou"], "pixel_accuracy": result["pixel_accuracy"]}
    for name, value in {**measured, **{f"iou {name}": value for name, value in result["iou"].items()}}.items():
        if value is not None and not (is_a(value, NUMBER) and 0 <= value <= 1):
            raise ReportError(f"{file}: {name} is {value!r}, but what we measure is a fraction from 0 to 1; write it as one")
    for published in result["published"]:
        check_published(published, file)


def check_published(published: Any, file: Path) -> None:
    """A published figure is in percent; one that is not above 1 was written as a fraction."""
    if not isinstance(published, dict):
        raise ReportError(f"{file}: a published figure is {published!r}, but must be a dict with {', '.join(PUBLISHED)}; correct it")
    check_fields(published, PUBLISHED, {}, file)
    if not 1 < published["miou"] <= 100:
        raise ReportError(f"{file}: a published miou is {published['miou']}, but must be in percent; correct it in the paper's file")


def check_fields(record: dict, required: Mapping, optional: Mapping, file: Path) -> None:
    """Refuses a record whose fields are missing or of another type."""
    if missing := [name for name in required if name not in record]:
        raise ReportError(f"{file} lacks {', '.join(missing)}; run the experiment again, or copy its result.json anew")
    for name, types in {**required, **optional}.items():
        if name in record and not is_a(record[name], types):
            allowed = " or ".join("null" if each is NOTHING else each.__name__ for each in types)
            raise ReportError(f"{file}: {name} is {record[name]!r}, but must be {allowed}; correct it or run the experiment again")


def is_a(value: Any, types: tuple[type, ...]) -> bool:
    """isinstance, but true and false are no numbers."""
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


# --- reading


def read_results(paths: Iterable[str | Path]) -> list[dict]:
    """The checked results of run folders, of folders of either runs or result files, and of files; a copy of a result counts once."""
    found: dict[str, dict] = {}
    for file in [file for path in paths for file in result_files(Path(path))]:
        result = read_json(file)
        check_result(result, file)
        content = json.dumps({name: value for name, value in result.items() if name != "checkpoint"}, sort_keys=True)
        found.setdefault(content, {**result, "file": str(file)})
    return list(found.values())


def result_files(path: Path) -> list[Path]:
    """Where a path holds its results; a path that holds none is an error."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ReportError(f"{path} does not exist; name a run folder, a folder of runs or a result file, as in: report.py runs")
    if (path / "result.json").is_file():
        return [path / "result.json"]
    if is_run(path):
        raise ReportError(f"{path} has no result.json: its run is still going or was stopped; wait for it, or leave it out")
    if (path / "table.json").is_file():
        return sweep_files(path)
    files = [*sorted(path.glob("*/result.json")), *sorted(kept(path))]
    if not files and not stopped_runs([path]):
        raise ReportError(f"{path} holds no results; name a run folder, a folder of runs or a folder of result files")
    return files


def sweep_files(path: Path) -> list[Path]:
    """The results of a sweep's runs, which lie beside its folder."""
    try:
        names = [run["folder"] for row in read_json(path / "table.json")["rows"] for run in row["runs"] if run["folder"]]
    except (KeyError, TypeError):
        raise ReportError(f"{path / 'table.json'} is no table of a sweep; make it anew with the command that began the sweep") from None
    return [file for name in names if (file := path.parent / name / "result.json").is_file()]


def stopped_runs(paths: Iterable[str | Path]) -> list[Path]:
    """The runs in these folders that have left no result."""
    return [run for path in paths for run in sorted(Path(path).glob("*")) if is_run(run) and not (run / "result.json").is_file()]


def is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReportError(f"{file} does not exist; is {file.parent} a run folder of experiments/run.py?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{file} cannot be read ({error}); check its rights, or copy it anew") from None


def read_json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise ReportError(f"{file} is broken JSON ({where}); copy it anew from its run folder, or remove it") from None


def read_metrics(run: str | Path) -> dict[str, list]:
    """metrics.csv by columns, all of one length; an empty cell is None, and a last line still being written is left out."""
    file = Path(run) / "metrics.csv"
    lines = [line for line in csv.reader(io.StringIO(read_text(file))) if line]
    if not lines or "step" not in lines[0]:
        raise ReportError(f"{file} has no column step; it must be the metrics.csv that experiments/run.py wrote")
    names, *rows = lines
    if rows and len(rows[-1]) < len(names):
        rows.pop()
    if any(len(row) != len(names) for row in rows):
        raise ReportError(f"{file} has rows that do not fit its header of {len(names)} columns; copy it anew from the run")
    return {name: [number(row[column], name, file) for row in rows] for column, name in enumerate(names)}


def number(cell: str, name: str, file: Path) -> float | int | None:
    try:
        return None if not cell.strip() else int(float(cell)) if name == "step" else float(cell)
    except (ValueError, OverflowError):
        raise ReportError(f"{file}: {name} holds {cell!r}, which is no number; correct the cell or leave it empty") from None


def curve(metrics: Mapping[str, list], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric where it was logged; both empty where it never was."""
    points = [(step, value) for step, value in zip(metrics["step"], metrics.get(name, ()), strict=False) if None not in (step, value)]
    return [step for step, _ in points], [value for _, value in points]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and up to `window - 1` before it."""
    return [fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


# --- the table


def table(results: Iterable[dict]) -> list[dict]:
    """One row for runs that differ in the seed alone, in percent; unfinished and smoke runs are left to `apart`."""
    groups: dict[str, list[dict]] = {}
    for result in results:
        if standing(result) == "measured":
            groups.setdefault(likeness(result), []).append(result)
    return in_order(as_row(group) for group in groups.values())


def apart(results: Iterable[dict]) -> list[dict]:
    """One row for each run that may not be averaged, with the mIoU it had reached."""
    return in_order(as_row([result]) for result in results if standing(result) != "measured")


def standing(result: dict) -> str:
    if result.get("smoke") or any(departure.endswith("(--smoke)") for departure in result["departures"]):
        return "smoke"
    if not result["finished"]:
        return "unfinished"
    return "measured" if result["miou"] is not None else "without mIoU"


def likeness(result: dict) -> str:
    """What runs must share before their figures may be averaged."""
    same = ("experiment", "overrides", "data", "split", "protocol", "iterations")
    return json.dumps([*(result[name] for name in same), sorted(result["departures"])], sort_keys=True)


def as_row(runs: Sequence[dict]) -> dict:
    """Runs alike as one row; what they may differ in beside the seed is told by the newest, or listed."""
    newest = max(runs, key=lambda run: run["date"])
    ours = over_seeds(runs, lambda run: run["miou"])
    published = comparable(newest)
    same = ("experiment", "paper", "row", "title", "overrides", "data", "split", "protocol", "iterations")
    return {
        "status": standing(newest),
        "name": name_of(newest),
        **{name: newest[name] for name in same},
        **published_cells(published),
        "ours": mean(ours),
        "spread": stdev(ours) if len(ours) > 1 else None,
        "seeds": sorted({run["seed"] for run in runs}),
        "difference": mean(ours) - published[0]["miou"] if ours and published else None,
        "pixel_accuracy": mean(over_seeds(runs, lambda run: run["pixel_accuracy"])),
        "iou": {name: mean(over_seeds(runs, lambda run, name=name: run["iou"].get(name))) for name in newest["iou"]},
        **{name: newest[name] for name in ("parameters", "inference_parameters", "images", "departures")},
        **{name: sorted({str(run[name]) for run in runs}) for name in ("hardware", "precision", "date")},
        "commit": sorted({run["commit"] or "none" for run in runs}),
        "runs": [run.get("file", "") for run in runs],
    }


def over_seeds(runs: Sequence[dict], value: Callable[[dict], float | None]) -> list[float]:
    """One figure in percent for each seed: a seed that was run twice must not weigh twice."""
    seeds: dict[int, list[float]] = {}
    for run in runs:
        if value(run) is not None:
            seeds.setdefault(run["seed"], []).append(100 * value(run))
    return [fmean(figures) for _, figures in sorted(seeds.items())]


def mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def comparable(result: dict) -> list[dict]:
    """The published figures on the result's own data, split and protocol; none for another network, or for one trained on other labels."""
    if any(name.split(".")[0] in ("model", "semi") or name == "data.labelled" for name in result["overrides"]):
        return []
    return [each for each in result["published"] if all(each[name] == result[name] for name in ("data", "split", "protocol"))]


def published_cells(published: Sequence[dict]) -> dict:
    """The first figure is the one we are held against; further ones go with its source."""
    first = published[0] if published else {"miou": None, "source": ""}
    others = [f"also {each['miou']:g} in {each['source']}" for each in published[1:]]
    return {"published": first["miou"], "source": "; ".join([first["source"], *others])}


def name_of(result: dict) -> str:
    """The address with its overrides, as they are written on the command line."""
    words = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in sorted(result["overrides"].items())]
    return " ".join([result["experiment"], *words])


def in_order(rows: Iterable[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: [str(row[name]) for name in ("paper", "name", "data", "split", "protocol")] + [row["seeds"]])


def like_with_like(rows: Iterable[dict]) -> dict[tuple[str, str, str], list[dict]]:
    """The rows by (data, split, protocol): only within one of these may figures be compared."""
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["split"], row["protocol"]), []).append(row)
    return groups


# --- rows that nobody has measured


def read_catalogue(folder: Path) -> dict[str, dict]:
    """The papers of catalogue.json by name."""
    file = folder / "catalogue.json"
    if not file.is_file():
        raise ReportError(f"{file} does not exist, and --all needs it; make it with: python -m experiments.catalogue")
    papers = document.get("papers") if isinstance(document := read_json(file), dict) else None
    books = papers.values() if isinstance(papers, dict) else [None]
    if not all(isinstance(book, dict) and isinstance(book.get("rows"), dict) for book in books):
        raise ReportError(f"{file} has no papers with rows; make it anew with: python -m experiments.catalogue")
    for row in [row for book in books for row in book["rows"].values()]:
        for published in row.get("published", ()) if isinstance(row, dict) else (row,):
            check_published(published, file)
    return papers


def not_measured(papers: Mapping[str, dict], rows: Iterable[dict]) -> list[dict]:
    """A row for each published figure that none of `rows` is set beside, and for each experiment with neither figure nor run."""
    rows = list(rows)
    held = {(row["experiment"], row["data"], row["split"], row["protocol"]) for row in rows if row["published"] is not None}
    run = {row["experiment"] for row in rows}
    missing = []
    for paper, row, claims in [(paper, row, claims) for paper, book in papers.items() for row, claims in book["rows"].items()]:
        blank = blank_row(paper, row, papers[paper].get("title", ""), claims.get("parameters"))
        figures = like_with_like(claims.get("published", ()))
        missing += [
            {**blank, "data": place[0], "split": place[1], "protocol": place[2], **published_cells(figures[place])}
            for place in figures
            if (blank["experiment"], *place) not in held
        ]
        if not figures and blank["experiment"] not in run:
            missing.append(blank)
    return in_order(missing)


def blank_row(paper: str, row: str, title: str, parameters: int | None) -> dict:
    """A row of the table before anything is known of it."""
    experiment = f"{paper}/{row}"
    named = {"status": "not measured", "name": experiment, "experiment": experiment, "paper": paper, "row": row, "title": title}
    numbers = dict.fromkeys(("iterations", "ours", "spread", "difference", "pixel_accuracy", "inference_parameters", "images"))
    lists = {name: [] for name in ("seeds", "departures", "hardware", "precision", "date", "commit", "runs")}
    place = {"data": "", "split": "", "protocol": ""}
    return {**named, **place, "overrides": {}, "iou": {}, "parameters": parameters, **numbers, **lists, **published_cells(())}


# --- words for a row

HEADS = ("experiment", "protocol", "iterations", "published", "ours", "difference", "parameters", "departures")
RIGHT = ("iterations", "difference", "parameters")
CAPTION = "mIoU in percent; a published figure stands beside ours only on the same data, split and protocol."


def cells(row: dict) -> dict[str, str]:
    """The row as a reader sees it, without the departures, which each format notes in its own way."""
    return {
        "experiment": row["name"],
        "protocol": row["protocol"] or "-",
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
        return f"{row['ours']:.2f} (1 seed)"
    return f"{row['ours']:.2f} ± {row['spread']:.2f} ({len(row['seeds'])} seeds)"


def sections(rows: Iterable[dict]) -> list[tuple[str, list[dict]]]:
    """A titled table for each data set and split, as validation and test figures never share a column."""
    parts: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        parts.setdefault((row["data"], row["split"]), []).append(row)
    places = sorted(parts, key=lambda place: (not place[0], place[0], place[1] != "val", place[1]))
    return [(" ".join(place).strip() or "neither published nor measured", parts[place]) for place in places]


def apart_line(row: dict) -> str:
    """A run that is not averaged, in one line."""
    reached = "no mIoU" if row["ours"] is None else f"{row['ours']:.2f} % mIoU"
    place = f"{row['data']} {row['split']}, {row['protocol']}"
    return f"{row['status']}: {row['name']}, seed {row['seeds'][0]}, {place}, {row['iterations']} iterations, {reached}"


APART = "Not averaged:"


# --- formats


def as_text(rows: Sequence[dict], others: Sequence[str], width: int = WIDTH, color: bool = False) -> str:
    """Tables of at most `width` columns with a legend of the departures."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=color, color_system="standard" if color else None, highlight=False)
    legend: dict[tuple[str, ...], str] = {}
    for title, part in sections(rows):
        console.print(text_table(title, part, legend), "")
    for departures, letter in legend.items():
        console.print(f"({letter}) {'; '.join(departures)}", markup=False)
    console.print(*([CAPTION] if rows else []), *([APART, *(f"  {line}" for line in others)] if others else []), sep="\n", markup=False)
    return "\n".join(line.rstrip() for line in file.getvalue().strip("\n").splitlines()) + "\n"


def text_table(title: str, rows: Sequence[dict], legend: dict[tuple[str, ...], str]) -> Any:
    """A rich table; departures that are not in the legend yet are entered there."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for head, width in widths(rows).items():
        grid.add_column(head, justify="right" if head in RIGHT else "left", overflow="fold", width=width)
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
    words = {head: max(len(word) for text in column for word in text.split() or [""]) for head, column in texts.items()}
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


def as_markdown(rows: Sequence[dict], others: Sequence[str]) -> str:
    """Tables with a footnote for each measured row: seeds, commit, hardware, and every departure in full."""
    notes: list[str] = []
    lines = []
    for title, part in sections(rows):
        lines += [f"### {plain(title)}", "", markdown_line(HEADS), markdown_line("--:" if head in RIGHT else "---" for head in HEADS)]
        lines += [markdown_row(row, notes) for row in part] + [""]
    lines += [CAPTION, ""] if rows else []
    lines += [*notes, ""] if notes else []
    lines += [APART, "", *(f"- {plain(line)}" for line in others), ""] if others else []
    return "\n".join(lines)


def markdown_row(row: dict, notes: list[str]) -> str:
    words = {head: plain(word) for head, word in cells(row).items()}
    words["departures"] = f"{len(row['departures'])}" if row["departures"] else "-"
    if row["status"] == "measured":
        notes.append(f"[^{len(notes) + 1}]: {plain(footnote(row))}")
        words["departures"] += f"[^{len(notes)}]"
    return markdown_line(words[head] for head in HEADS)


def footnote(row: dict) -> str:
    seeds = f"seed{'s' * (len(row['seeds']) > 1)} {', '.join(map(str, row['seeds']))}"
    made = [f"commit {', '.join(row['commit'])}", *row["hardware"], *row["precision"], f"{row['images']} images"]
    departures = f"departures: {'; '.join(row['departures'])}" if row["departures"] else "no departures"
    return f"{', '.join([seeds, *made])}; {departures}."


def markdown_line(words: Iterable[str]) -> str:
    return f"| {' | '.join(words)} |"


def plain(word: str) -> str:
    """A word that cannot end its cell or its line."""
    return " ".join(word.split()).replace("|", "\\|")


COLUMNS = {  # of the csv -> of a row
    **{name: name for name in ("status", "experiment", "paper", "row", "title", "overrides", "data", "split", "protocol", "iterations")},
    "published_miou": "published",
    "published_source": "source",
    "our_miou": "ours",
    "our_spread": "spread",
    "seeds": "seeds",
    "difference": "difference",
    "our_pixel_accuracy": "pixel_accuracy",
    **{name: name for name in ("parameters", "inference_parameters", "images", "departures", "hardware", "precision", "date", "commit")},
}


def as_csv(rows: Sequence[dict]) -> str:
    """Everything in full; a row whose status is not "measured" carries no figure of ours, so that nobody averages it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        counted = row if row["status"] == "measured" else {**row, "ours": None, "difference": None, "pixel_accuracy": None}
        writer.writerow(csv_cell(counted[name]) for name in COLUMNS.values())
    return file.getvalue()


def csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        return "; ".join(map(str, value))
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return round(value, 6) if isinstance(value, float) else value


# --- command line


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        prog="report.py",
        description="Print the table paper / ours from the results of runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument("runs", nargs="*", type=Path, metavar="RUN_OR_FOLDER", help="runs, folders of runs or files (none: --results)")
    words.add_argument("--results", type=Path, metavar="DIR", help="where kept results and the catalogue are (experiments/results)")
    words.add_argument("--format", choices=("text", "markdown", "csv"), default="text", help="text for a terminal (default), or for a file")
    words.add_argument("--data", metavar="NAME", help="only this data set, as cityscapes or streets")
    words.add_argument("--paper", metavar="NAME", help="only this paper, as bisenet")
    words.add_argument("--all", action="store_true", help="also the rows of the catalogue that nobody has measured")
    words.add_argument("--out", type=Path, metavar="FILE", help="write to this file instead of the screen")
    return words


def main(words: Sequence[str] | None = None) -> int:
    """0, or 2 after one sentence about what was wrong."""
    try:
        print_or_write(*report(options := parser().parse_args(words)), options)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def report(options: argparse.Namespace) -> tuple[list[dict], list[dict], list[Path]]:
    """The rows of the table, the rows that stand apart, and the runs without a result."""
    folder = options.results or RESULTS
    if not folder.is_dir() and options.results:
        raise ReportError(f"{folder} does not exist; name the folder of kept results, as in: report.py --results experiments/results")
    paths = options.runs or ([folder] if kept(folder) else [])
    results = read_results(paths)
    rows, others = table(results), apart(results)
    rows = in_order(rows + not_measured(read_catalogue(folder), rows)) if options.all else rows
    for name, wanted in (("paper", options.paper), ("data", options.data)):
        if wanted is not None:
            check_known(name, wanted, rows + others)
            rows, others = ([row for row in part if row[name] == wanted] for part in (rows, others))
    return rows, others, [] if options.paper or options.data else stopped_runs(paths)


def kept(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*.json") if file.name not in NO_RESULTS]


def check_known(name: str, wanted: str, rows: list[dict]) -> None:
    """Refuses a paper or a data set that no row has, with the nearest that one has."""
    known = sorted({row[name] for row in rows if row[name]})
    if wanted in known:
        return
    near = get_close_matches(wanted, known, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]}? " if near else ""
    have = f"there are {', '.join(known)}" if known else "there is no result at all"
    raise ReportError(f"no result has the {name} {wanted}; {guess}{have}; run it, or see with --all what is not measured")


def print_or_write(rows: list[dict], others: list[dict], stopped: list[Path], options: argparse.Namespace) -> None:
    screen = options.out is None and sys.stdout.isatty()
    text = in_format(rows, others, stopped, options.format, screen)
    if options.out is None:
        sys.stdout.reconfigure(errors="replace")
        sys.stdout.write(text)
        return
    try:
        options.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{options.out} cannot be written ({error.strerror}); name a file in a folder that exists") from None


def in_format(rows: list[dict], others: list[dict], stopped: list[Path], form: str, screen: bool) -> str:
    if form == "csv":
        return as_csv(rows + others)
    lines = [*map(apart_line, others), *(f"without result.json: {run}" for run in stopped)]
    if not rows and not lines:
        return "Nothing is measured yet. Make a first result with: python experiments/run.py --model bisenet/resnet18 --data streets\n"
    if form == "markdown":
        return as_markdown(rows, lines)
    return as_text(rows, lines, width=screen_width() if screen else WIDTH, color=screen)


def screen_width() -> int:
    from shutil import get_terminal_size

    return min(WIDTH, get_terminal_size((WIDTH, 24)).columns)


if __name__ == "__main__":
    sys.exit(main())
