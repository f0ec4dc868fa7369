"""What runs left on disk: results, metrics and the catalogue, read and checked before anything is said about them."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.command_line.catalogue import in_full
from experiments.command_line.errors import UserError

RESULTS = Path(__file__).resolve().parents[1] / "results"
NO_RESULTS = ("fidelity.json", "data_speed.json")  # what else lies there
SCHEMA = 1


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
    "published": (
        list,
    ),  # {"miou" in percent, "data", "split", "protocol", "source", "model", "options"}
    "finished": (bool,),
    "checkpoint": (*TEXT, NOTHING),
}
OPTIONAL: dict[str, tuple[type, ...]] = {
    "smoke": (bool,),
    "semi": (dict, NOTHING),  # the method around the network, with its options
    "model": (dict,),  # options that it was evaluated with and not trained with
    "network": (*TEXT, NOTHING),  # which of a method's networks was judged
    "others": (dict,),  # its other networks' miou, pixel_accuracy and iou
    "labelled": (
        dict,
        NOTHING,
    ),  # images, of, fingerprint: the part of the training images that kept its labels
    "released": (*TEXT, NOTHING),  # the layout of an authors' checkpoint; our own training has none
    "official_images": (*WHOLE, NOTHING),  # of the split, by the data set's authors
    "port": (bool, NOTHING),  # another code line than the authors' released it
    "mean_accuracy": (*NUMBER, NOTHING),
    "frequency_weighted_iou": (*NUMBER, NOTHING),
    "category_miou": (*NUMBER, NOTHING),
    "categories": (dict, NOTHING),  # name -> fraction or null
    "interval": (list, NOTHING),  # of miou: from, to
    "full": (dict, NOTHING),  # further measures
    "records": (*TEXT, NOTHING),  # the file beside it that holds what each image gave
}
FRACTIONS = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "category_miou")
PUBLISHED: dict[str, tuple[type, ...]] = {
    "miou": NUMBER,
    "data": TEXT,
    "split": TEXT,
    "protocol": TEXT,
    "source": TEXT,
}
MEASURED_WITH: dict[str, tuple[type, ...]] = {
    "model": (dict,),  # options of the network, where they are not the row's own
    "options": (dict,),  # of the data set, where they are not its defaults
}


def partial(result: dict) -> bool:
    """Whether a part of the split's images was judged: no figure of the whole can be set against that."""
    return bool(result.get("official_images")) and result["images"] != result["official_images"]


def check_result(result: Any, file: Path) -> None:
    """Refuses what this report cannot read truly: another schema, a missing field, a percent where a fraction belongs."""
    if not isinstance(result, dict) or "schema" not in result:
        raise UserError(
            f"{file} is not a result: it has no field schema; name the result.json that experiments/run.py wrote"
        )
    if result["schema"] != SCHEMA:
        newer = f"schema {result['schema']}, and this report reads schema {SCHEMA}"
        raise UserError(
            f"{file} has {newer}; read it with the checkout that wrote it, or run the experiment again"
        )
    check_fields(result, FIELDS, OPTIONAL, file)
    measured = {name: result.get(name) for name in FRACTIONS}
    for group in ("iou", "categories"):
        measured |= {f"{group} {name}": value for name, value in (result.get(group) or {}).items()}
    measured |= {
        f"interval {end}": value
        for end, value in enumerate(check_interval(result.get("interval"), file))
    }
    for name, value in measured.items():
        if value is not None and not (is_a(value, NUMBER) and 0 <= value <= 1):
            raise UserError(
                f"{file}: {name} is {value!r}, but what we measure is a fraction from 0 to 1; write it as one"
            )
    for published in result["published"]:
        check_published(published, file)


def check_interval(interval: list | None, file: Path) -> list:
    """Its two ends; none where there is no interval."""
    ends = interval or []
    if interval is not None and (
        len(ends) != 2 or not all(is_a(end, NUMBER) for end in ends) or ends[0] > ends[1]
    ):
        wanted = "two fractions, the lower first; correct it or judge the checkpoint again"
        raise UserError(f"{file}: interval is {interval!r}, but must be {wanted}")
    return ends


def check_published(published: Any, file: Path) -> None:
    """A published figure is in percent; one that is not above 1 was written as a fraction."""
    if not isinstance(published, dict):
        raise UserError(
            f"{file}: a published figure is {published!r}, but must be a dict with {', '.join(PUBLISHED)}; correct it"
        )
    check_fields(published, PUBLISHED, MEASURED_WITH, file)
    if not 1 < published["miou"] <= 100:
        raise UserError(
            f"{file}: a published miou is {published['miou']}, but must be in percent; correct it in the paper's file"
        )


def check_fields(record: dict, required: Mapping, optional: Mapping, file: Path) -> None:
    """Refuses a record whose fields are missing or of another type."""
    if missing := [name for name in required if name not in record]:
        raise UserError(
            f"{file} lacks {', '.join(missing)}; run the experiment again, or copy its result.json anew"
        )
    for name, types in {**required, **optional}.items():
        if name in record and not is_a(record[name], types):
            allowed = " or ".join("null" if each is NOTHING else each.__name__ for each in types)
            raise UserError(
                f"{file}: {name} is {record[name]!r}, but must be {allowed}; correct it or run the experiment again"
            )


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
        content = json.dumps(
            {name: value for name, value in result.items() if name != "checkpoint"}, sort_keys=True
        )
        found.setdefault(content, {**result, "file": str(file)})
    return list(found.values())


def result_files(path: Path) -> list[Path]:
    """Where a path holds its results; a path that holds none is an error."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(
            f"{path} does not exist; name a run folder, a folder of runs or a result file, as in: report.py runs"
        )
    if (path / "result.json").is_file():
        return [path / "result.json", *evaluations(path)]
    if is_run(path):
        raise UserError(
            f"{path} has no result.json: its run is still going or was stopped; wait for it, or leave it out"
        )
    if (path / "table.json").is_file():
        return sweep_files(path)
    results = sorted(path.glob("*/result.json"))
    files = [
        *results,
        *(file for each in results for file in evaluations(each.parent)),
        *sorted(kept(path)),
    ]
    if not files and not stopped_runs([path]):
        raise UserError(
            f"{path} holds no results; name a run folder, a folder of runs or a folder of result files"
        )
    return files


def evaluations(run: Path) -> list[Path]:
    """What evaluate.py said later of the run's last weights, under other protocols or on other data; in the run's own precision."""
    files = sorted((run / "checkpoints").glob("evaluation-last-*.json"))
    precision = read_json(run / "result.json").get("precision") if files else None
    return [file for file in files if read_json(file).get("precision") == precision]


def sweep_files(path: Path) -> list[Path]:
    """The results of a sweep's runs, which lie beside its folder."""
    try:
        names = [
            run["folder"]
            for row in read_json(path / "table.json")["rows"]
            for run in row["runs"]
            if run["folder"]
        ]
    except (KeyError, TypeError):
        raise UserError(
            f"{path / 'table.json'} is no table of a sweep; make it anew with the command that began the sweep"
        ) from None
    return [file for name in names if (file := path.parent / name / "result.json").is_file()]


def kept(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*.json") if file.name not in NO_RESULTS]


def stopped_runs(paths: Iterable[str | Path]) -> list[Path]:
    """The runs in these folders that have left no result."""
    return [
        run
        for path in paths
        for run in sorted(Path(path).glob("*"))
        if is_run(run) and not (run / "result.json").is_file()
    ]


def is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{file} does not exist; is {file.parent} a run folder of experiments/run.py?"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read ({error}); check its rights, or copy it anew"
        ) from None


def read_json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise UserError(
            f"{file} is broken JSON ({where}); copy it anew from its run folder, or remove it"
        ) from None


def read_metrics(run: str | Path) -> dict[str, list]:
    """metrics.csv by columns, all of one length; an empty cell is None, and a last line still being written is left out."""
    file = Path(run) / "metrics.csv"
    lines = [line for line in csv.reader(io.StringIO(read_text(file))) if line]
    if not lines or "step" not in lines[0]:
        raise UserError(
            f"{file} has no column step; it must be the metrics.csv that experiments/run.py wrote"
        )
    names, *rows = lines
    if rows and len(rows[-1]) < len(names):
        rows.pop()
    if any(len(row) != len(names) for row in rows):
        raise UserError(
            f"{file} has rows that do not fit its header of {len(names)} columns; copy it anew from the run"
        )
    return {
        name: [number(row[column], name, file) for row in rows] for column, name in enumerate(names)
    }


def number(cell: str, name: str, file: Path) -> float | int | None:
    try:
        return None if not cell.strip() else int(float(cell)) if name == "step" else float(cell)
    except (ValueError, OverflowError):
        raise UserError(
            f"{file}: {name} holds {cell!r}, which is no number; correct the cell or leave it empty"
        ) from None


def curve(metrics: Mapping[str, list], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric where it was logged; both empty where it never was."""
    points = [
        (step, value)
        for step, value in zip(metrics["step"], metrics.get(name, ()), strict=False)
        if None not in (step, value)
    ]
    return [step for step, _ in points], [value for _, value in points]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and up to `window - 1` before it."""
    return [fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


def read_catalogue(folder: Path) -> dict[str, dict]:
    """The papers by name, out of the catalogue in a folder of results."""
    place = folder / "catalogue"
    if not (files := sorted(place.glob("*.json"))):
        raise UserError(
            f"{place} holds no papers, and --all needs them; make it with: "
            "python -m experiments.command_line.catalogue"
        )
    papers = {}
    for file in files:
        paper = read_json(file)
        if not isinstance(paper, dict) or not isinstance(paper.get("rows"), dict):
            raise UserError(
                f"{file} has no rows; make it anew with: python -m experiments.command_line.catalogue"
            )
        papers[file.stem] = in_full(paper)
        for row in papers[file.stem]["rows"].values():
            for figure in row["published"]:
                check_published(figure, file)
    return papers
