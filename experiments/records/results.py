"""Read and write result.json: one score of one network on one split, and how it came about."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, NewType, get_args, get_origin, get_type_hints

from experiments.command_line.errors import UserError
from experiments.records.run_folder import SCHEMA, is_run, read_config, read_json
from segmodels.network_identity import with_current_names

RESULTS = Path(__file__).resolve().parents[1] / "results"
NO_RESULTS = (  # what else lies there
    "fidelity.json",
    "data_speed.json",
    "structures.json",
    "operators.json",
    "heads.json",
)

Fraction = NewType("Fraction", float)  # from 0 to 1, as all that we measure
Score = Fraction | None
Scores = dict[str, Fraction | None]  # by class; null where the split has no such class
Interval = list[Fraction] | None  # from, to
NOT_IN_EVERY_FILE = ("category_miou", "categories", "best", "interval", "full", "records")


@dataclass(frozen=True)
class PublishedFigure:
    """An mIoU in percent that a paper reports, and how it was measured."""

    miou: float
    data: str
    split: str
    protocol: str
    source: str
    model: dict = field(default_factory=dict)  # options that are not the row's own
    options: dict = field(default_factory=dict)  # of the data set, if not its defaults


@dataclass(frozen=True)
class BestWeights:
    """The highest validation of a training, on the images that it was chosen on."""

    miou: Fraction
    step: int
    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """The fields of result.json, in the order in which they are written."""

    experiment: str  # "paper/row"
    paper: str
    row: str
    title: str
    data: str
    split: str
    protocol: str  # the inference mode, as in PublishedFigure
    miou: Score
    pixel_accuracy: Score
    mean_accuracy: Score = None
    frequency_weighted_iou: Score = None
    iou: Scores
    accuracy: Scores = field(default_factory=dict)
    category_miou: Score = None
    categories: Scores | None = None
    images: int
    official_images: int | None = None  # of the split, by the data set's authors
    pixels: int | None = None
    semi: dict | None = None  # the method around the network, with its options
    network: str | None = None  # which of a method's networks was evaluated
    others: dict[str, dict] = field(default_factory=dict)  # scores of its other networks
    labeled: dict | None = None  # images, of, fingerprint: what kept its labels
    seed: int
    iterations: int
    parameters: int  # while training
    inference_parameters: int | None
    hardware: str
    precision: str
    runtime: str = "torch"  # that computed the score: torch or onnxruntime
    commit: str | None
    versions: dict[str, str]
    date: str  # YYYY-MM-DD
    departures: list[str]
    overrides: dict  # "model.arm" -> value, as given on the command line
    model: dict = field(default_factory=dict)  # options of the evaluation alone
    published: list[PublishedFigure]
    released: str | None = None  # the layout of an authors' checkpoint; our own training has none
    port: bool | None = False  # another code line than the authors' released it
    checkpoint: str | None
    best: BestWeights | None = None  # of a training, whose other scores are of its last weights
    seconds: float | None
    cpu_seconds: float | None
    smoke: bool = False
    finished: bool
    interval: Interval = None  # of miou
    full: dict | None = None  # further measures
    records: str | None = None  # the file beside it that holds what each image gave

    @classmethod
    def from_dict(cls, content: Any, file: Path) -> "Result":
        """Refuse what cannot be read truly: another schema, a missing field, a wrong type or unit.

        Fields that only a newer version knows are ignored.
        """
        if not isinstance(content, dict) or "schema" not in content:
            raise UserError(
                f"{file} is not a result: it has no field schema; "
                "name the result.json that experiments/run.py wrote"
            )
        if content["schema"] != SCHEMA:
            raise UserError(
                f"{file} has schema {content['schema']}, and this report reads schema {SCHEMA}; "
                "read it with the checkout that wrote it, or run the experiment again"
            )
        result = filled(cls, with_current_names(content), file)
        for figure in result.published:
            if not 1 < figure.miou <= 100:
                raise UserError(
                    f"{file}: a published miou is {figure.miou}, but must be in percent; "
                    "correct it in the paper's file"
                )
        ends = result.interval
        if ends is not None and (len(ends) != 2 or ends[0] > ends[1]):
            raise UserError(
                f"{file}: interval is {ends!r}, but must be two fractions, the lower first; "
                "correct it or evaluate the checkpoint again"
            )
        overrides = with_current_names(result.overrides)
        departures = [each.replace("data.labelled", "data.labeled") for each in result.departures]
        # Results of the first released checkpoints named the layout among the overrides alone.
        released = result.released or overrides.get("released")
        return replace(result, overrides=overrides, departures=departures, released=released)

    def as_dict(self) -> dict[str, Any]:
        """The content of result.json; what only some evaluations measure leaves no key behind."""
        content = {
            name: value
            for name, value in asdict(self).items()
            if value is not None or name not in NOT_IN_EVERY_FILE
        }
        return {"schema": SCHEMA} | content

    @property
    def status(self) -> str:
        """ "measured", or why its mIoU is not averaged with others."""
        if self.smoke or any(each.endswith("(--smoke)") for each in self.departures):
            return "smoke"
        if not self.finished:
            return "unfinished"
        return "without mIoU" if self.miou is None else "measured"

    @property
    def partial(self) -> bool:
        """A part of the split was evaluated: no figure of the whole can stand beside that."""
        return bool(self.official_images) and self.images != self.official_images


# --- checks by the annotations

KINDS = {Fraction: float, PublishedFigure: dict, BestWeights: dict}  # how JSON has them


def filled(kind: type, content: Mapping[str, Any], file: Path, place: str = "") -> Any:
    """A dataclass of this content, each value of the type that its field has. Unlike pydantic this
    costs no time at start: `run.py --list` reads results too."""
    values = {}
    missing = []
    hints = get_type_hints(kind)
    for each in fields(kind):
        if each.name in content:
            name = f"{place} {each.name}".strip()
            values[each.name] = checked(content[each.name], hints[each.name], file, name)
        elif each.default is each.default_factory is MISSING:
            missing.append(each.name)
    if missing:
        raise UserError(
            f"{file} lacks {', '.join(missing)}; "
            "run the experiment again, or copy its result.json anew"
        )
    return kind(**values)


def checked(value: Any, hint: Any, file: Path, name: str) -> Any:
    """The value, or an error where it is not of the type, or a share in percent."""
    if NoneType in get_args(hint):
        return None if value is None else checked(value, get_args(hint)[0], file, name)
    kind = KINDS.get(hint) or get_origin(hint) or hint
    if type(value) not in (kind, int if kind is float else kind):
        raise UserError(
            f"{file}: {name} is {value!r}, but must be {kind.__name__}; "
            "correct it or run the experiment again"
        )
    if hint is Fraction and not 0 <= value <= 1:
        raise UserError(
            f"{file}: {name} is {value!r}, but what we measure is a fraction from 0 to 1; "
            "write it as one"
        )
    if is_dataclass(hint):
        return filled(hint, value, file, name)
    *_, inside = get_args(hint) or [None]
    if kind is list:
        return [checked(each, inside, file, f"{name} {n}") for n, each in enumerate(value)]
    if kind is dict and inside:
        return {key: checked(each, inside, file, f"{name} {key}") for key, each in value.items()}
    return value


# --- reading


def read_result(file: Path) -> Result:
    return Result.from_dict(read_json(file), file)


def read_results(paths: Iterable[str | Path]) -> list[Result]:
    """The results in run folders, in folders of runs or of result files, and in files.

    A copy of a result counts once.
    """
    results: dict[str, Result] = {}
    for path in paths:
        for file in result_files(Path(path)):
            result = read_result(file)
            content = result.as_dict() | {"checkpoint": None}
            results.setdefault(json.dumps(content, sort_keys=True), result)
    return list(results.values())


def finished_result(run: Path) -> Result | None:
    """The result of a run that has made all its steps."""
    file = run / "result.json"
    if not file.is_file():
        return None
    result = read_result(file)
    return result if result.iterations >= read_config(run)["recipe"]["iterations"] else None


def result_files(path: Path) -> list[Path]:
    """Where a path holds its results; a path that holds none is an error."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(
            f"{path} does not exist; "
            "name a run folder, a folder of runs or a result file, as in: report.py runs"
        )
    if (path / "result.json").is_file():
        return [path / "result.json", *evaluations(path)]
    if is_run(path):
        raise UserError(
            f"{path} has no result.json: its run is still going or was stopped; "
            "wait for it, or leave it out"
        )
    if (path / "table.json").is_file():
        return sweep_files(path)
    files = sorted(path.glob("*/result.json"))
    for run in [file.parent for file in files]:
        files += evaluations(run)
    files += sorted(kept_files(path))
    if not files and not stopped_runs([path]):
        raise UserError(
            f"{path} holds no results; "
            "name a run folder, a folder of runs or a folder of result files"
        )
    return files


def evaluations(run: Path) -> list[Path]:
    """Later evaluations of the run's last weights, in the run's own precision."""
    files = sorted((run / "checkpoints").glob("evaluation-last-*.json"))
    precision = read_json(run / "result.json").get("precision") if files else None
    return [file for file in files if read_json(file).get("precision") == precision]


def sweep_files(path: Path) -> list[Path]:
    """The results of a sweep's runs, which lie beside its folder."""
    table = path / "table.json"
    try:
        runs = [run for row in read_json(table)["rows"] for run in row["runs"]]
        folders = [path.parent / run["folder"] for run in runs if run["folder"]]
    except (KeyError, TypeError):
        raise UserError(
            f"{table} is no table of a sweep; make it anew with the command that began the sweep"
        ) from None
    files = [folder / "result.json" for folder in folders]
    return [file for file in files if file.is_file()]


def kept_files(folder: Path) -> list[Path]:
    """Single result files, such as those of experiments/results."""
    return [file for file in folder.glob("*.json") if file.name not in NO_RESULTS]


def stopped_runs(folders: Iterable[str | Path]) -> list[Path]:
    """The runs in these folders that have left no result."""
    runs = [run for folder in folders for run in sorted(Path(folder).glob("*")) if is_run(run)]
    return [run for run in runs if not (run / "result.json").is_file()]
