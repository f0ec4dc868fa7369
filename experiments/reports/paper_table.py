"""Rows of the table paper / ours: which runs are averaged, and which figures stand beside them."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from statistics import fmean, stdev
from typing import Any

from experiments.records.results import PublishedFigure, Result
from experiments.reports.published_figures import (
    agree,
    comparable,
    name_with,
    overrides_of,
)

# The fields of a row that its runs share.
OF_EVERY_RUN = ("experiment", "data", "split", "protocol", "overrides", "model")


@dataclass(frozen=True)
class Row:
    """Runs that differ in the seed alone, beside the figures that they may be held against.

    A row without runs is of figures, or of an experiment, that nobody has measured yet. Where runs
    differ in more, such as their hardware, the newest speaks for them or all are listed. Our
    figures are in percent, as published ones are.
    """

    experiment: str  # "paper/row"
    title: str
    parameters: int | None  # while training
    data: str = ""
    split: str = ""
    protocol: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)  # options of the evaluation alone
    figures: Sequence[PublishedFigure] = ()  # ours is held against the first
    runs: Sequence[Result] = ()

    # --- who and how

    @property
    def newest(self) -> Result | None:
        return max(self.runs, key=attrgetter("date"), default=None)

    @property
    def status(self) -> str:
        return self.newest.status if self.runs else "not measured"

    @property
    def paper(self) -> str:
        return self.experiment.partition("/")[0]

    @property
    def row(self) -> str:
        return self.experiment.partition("/")[2]

    @property
    def name(self) -> str:
        return name_with(self.experiment, self.overrides, self.released)

    @property
    def released(self) -> str | None:
        """The layout of a checkpoint that somebody else trained."""
        return self._newest("released")

    @property
    def port(self) -> bool:
        """Another code line than the authors' released it."""
        return bool(self._newest("port"))

    @property
    def iterations(self) -> int | None:
        """Nobody says how long the authors of a released checkpoint trained."""
        return None if self.released else self._newest("iterations")

    @property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs})

    @property
    def departures(self) -> list[str]:
        return self._newest("departures") or []

    def each(self, name: str) -> list[str]:
        """Return the different values that the runs have, such as their hardware."""
        return sorted({str(getattr(run, name) or "none") for run in self.runs})

    # --- figures

    @property
    def published_miou(self) -> float | None:
        return self.figures[0].miou if self.figures else None

    @property
    def published_source(self) -> str:
        """Where the first figure stands, and the further ones with where they stand."""
        sources = [f"also {each.miou:g} in {each.source}" for each in self.figures]
        return "; ".join([*(each.source for each in self.figures[:1]), *sources[1:]])

    @property
    def our_miou(self) -> float | None:
        return mean(self.over_seeds("miou"))

    @property
    def our_spread(self) -> float | None:
        """The sample standard deviation over seeds; one seed has none."""
        return spread(self.over_seeds("miou"))

    @property
    def our_interval(self) -> list[float]:
        """The interval of a single score over images.

        The same weights may have been evaluated twice, by their run and by evaluate.py.
        """
        known = [run.interval for run in self.runs if run.interval]
        single = len({(run.seed, run.miou) for run in self.runs}) == 1
        return [100 * end for end in known[0]] if known and single else []

    @property
    def our_pixel_accuracy(self) -> float | None:
        return mean(self.over_seeds("pixel_accuracy"))

    @property
    def difference(self) -> float | None:
        if None in (self.our_miou, self.published_miou):
            return None
        return self.our_miou - self.published_miou

    @property
    def iou(self) -> dict[str, float | None]:
        """By class; None where the split has no such class."""
        names = self._newest("iou") or {}
        return {name: mean(self.over_seeds("iou", name)) for name in names}

    def over_seeds(self, name: str, class_name: str | None = None) -> list[float]:
        """A score of each seed: one that was run twice must not weigh twice."""
        seeds: dict[int, list[float]] = {}
        for run in self.runs:
            score = getattr(run, name)
            if class_name is not None:
                score = score.get(class_name)
            if score is not None:
                seeds.setdefault(run.seed, []).append(100 * score)
        return [fmean(seeds[seed]) for seed in sorted(seeds)]

    def _newest(self, name: str) -> Any:
        return getattr(self.newest, name, None)


def mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


# --- rows that were measured


def table(results: Iterable[Result]) -> list[Row]:
    """One row for runs that differ in the seed alone; see also `not_averaged`."""
    measured = [result for result in results if result.status == "measured"]
    return in_order(map(row_of, grouped(measured, shared_by_seeds).values()))


def not_averaged(results: Iterable[Result]) -> list[Row]:
    """One row for each unfinished or smoke run, with the mIoU it had reached."""
    return in_order(row_of([result]) for result in results if result.status != "measured")


def shared_by_seeds(result: Result) -> str:
    """What runs must share before their figures may be averaged."""
    names = (*OF_EVERY_RUN, "iterations", "released")
    values = [getattr(result, name) for name in names]
    return json.dumps([*values, sorted(result.departures)], sort_keys=True)


def row_of(runs: Sequence[Result]) -> Row:
    newest = max(runs, key=attrgetter("date"))
    shared = {name: getattr(newest, name) for name in (*OF_EVERY_RUN, "title", "parameters")}
    return Row(**shared, figures=comparable(newest), runs=runs)


def in_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=sort_key)


def sort_key(row: Row) -> list[Any]:
    """A released checkpoint comes right after what we trained of the same network and protocol."""
    own_name = name_with(row.experiment, row.overrides)
    place = [row.data, row.split, row.protocol]
    return [row.paper, own_name, *place, row.released or "", row.seeds]


def by_place(rows: Iterable[Row | Result]) -> dict[tuple[str, str, str], list[Row | Result]]:
    """Only within one data set, split and protocol may figures be compared."""
    return grouped(rows, attrgetter("data", "split", "protocol"))


def grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """The items by their key, in the order in which they come."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def validation_first(data: str, split: str) -> tuple[str, bool, str]:
    return data, split != "val", split


# --- rows that nobody has measured


def not_measured(papers: Mapping[str, Any], rows: Iterable[Row]) -> list[Row]:
    """A row for each published figure of the catalogue that none of `rows` is set beside.

    An experiment that has neither a figure nor a run is a row too.
    """
    own = grouped((row for row in rows if not row.port), attrgetter("experiment"))
    missing = []
    for paper, entry in papers.items():
        for name, claims in entry["rows"].items():
            experiment = f"{paper}/{name}"
            blank = Row(experiment, entry.get("title", ""), claims.get("parameters"))
            ours = own.get(experiment, [])
            figures = [PublishedFigure(**claim) for claim in claims.get("published", ())]
            if not figures and not ours:
                missing.append(blank)
            missing += missing_of(blank, figures, ours)
    return in_order(missing)


def missing_of(blank: Row, figures: Iterable[PublishedFigure], ours: Sequence[Row]) -> list[Row]:
    """Of one experiment: a row for the figures that differ in value and source alone."""
    held = [row.newest for row in ours if row.figures]
    missing = []
    for same in grouped(figures, way_of_measuring).values():
        first = same[0]
        if not any(agree(first, run) for run in held):
            place = {name: getattr(first, name) for name in ("data", "split", "protocol", "model")}
            overrides = overrides_of(first.model, first.options)
            missing.append(replace(blank, **place, overrides=overrides, figures=same))
    return missing


def way_of_measuring(figure: PublishedFigure) -> str:
    return json.dumps(asdict(figure) | {"miou": None, "source": None}, sort_keys=True)
