"""Points of the plot of accuracy against speed: one network's mIoU and speed at one input size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.command_line.errors import UserError
from experiments.command_line.parser import by
from experiments.records.run_folder import read_json
from experiments.reports.paper_table import Row
from experiments.reports.protocol_names import input_size, on, protocol_name, settings
from experiments.reports.published_figures import model_words, options_of

Size = tuple[int, int]  # height, width
Claim = Mapping[str, Any]  # "fps" at a "size", and where or of which network
Timing = Mapping[str, Any]  # the content of a file by benchmark.py infer

NETWORK = ("name", "size", "problem", "experiment", "model", "released", "port")
CONDITIONS = (
    "device",
    "device_kind",
    "threads",
    "versions",
    "precision",
    "batch",
    "folded",
    "channels_last",
    "compile",
    "what",
    "timed",
)
PASSES = (
    "evaluated in several passes, on images of many sizes or in a way that no inference mode "
    "computes, so that no one speed belongs to it"
)


@dataclass(frozen=True)
class Point:
    """A marker of the plot."""

    paper: str
    label: str
    place: str  # data set and split: only there may mIoU be compared
    fps: float
    miou: float
    machine: str  # what the speed was measured on, as a line of the legend
    ours: bool
    hardware: str = ""  # that computed our mIoU
    whisker: tuple[float, float] | None = None  # mIoU from, to


@dataclass
class Points:
    """The points of the plot, and what is not in it by the reason for that."""

    points: list[Point] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        names = self.missing.setdefault(reason, [])
        if name not in names:
            names.append(name)


def pair(
    rows: Sequence[Row], timings: Sequence[Timing], published: Mapping[str, Sequence[Claim]]
) -> Points:
    """Pair published figures with published speeds, by "paper/row", and ours with ours."""
    pairs = Points()
    for row in rows:
        if row.figures:
            # published speeds are of the row's own network
            claims = () if row.model else published.get(row.experiment, ())
            speeds = [(on(claim).replace("Titan XP", "Titan Xp"), claim) for claim in claims]
            name = f"{row.experiment} {model_words(row.model)}".rstrip()
            add(pairs, row, name, speeds, ours=False)
    timed = [
        (machine_of(timing["conditions"]), network)
        for timing in timings
        for network in timing["networks"]
    ]
    measured = [row for row in rows if row.status == "measured"]
    for row in measured:
        speeds = [
            (machine, network)
            for machine, network in timed
            if not network["problem"] and same_network(row, network)
        ]
        add(pairs, row, row.name, speeds, ours=True)
    for _, network in timed:
        size = tuple(network["size"])
        if network["problem"]:
            pairs.leave_out("not timed", f"{network['name']} ({network['problem']})")
        elif not any(same_network(row, network) and size_of(row) == size for row in measured):
            reason = "timed, and in no row of this table at that size"
            pairs.leave_out(reason, f"{network['name']} at {by(size)}")
    return pairs


def add(
    pairs: Points, row: Row, name: str, speeds: Sequence[tuple[str, Claim]], *, ours: bool
) -> None:
    """Add the row's mIoU beside every speed of its network at its protocol's size.

    A speed comes with the machine that it was measured on.
    """
    size = size_of(row)
    protocol = protocol_name(row.protocol, row.data, row.paper)
    place = f"{row.data} {row.split}"
    same = [(machine, speed) for machine, speed in speeds if tuple(speed["size"]) == size]
    if not same:
        whose, how = ("our", "measured") if ours else ("published", "published")
        lacking = f"without a {how} speed"
        if speeds:
            sizes = ", ".join(sorted({by(speed["size"]) for _, speed in speeds}))
            lacking = f"its speed is {how} at {sizes}" if size else PASSES
        pairs.leave_out(f"{whose} mIoU, {lacking}", f"{name} on {place} ({protocol})")
    label = label_of(row, name) + ("" if protocol == "whole" else f" {protocol}")
    for machine, speed in same:
        point = Point(row.paper, label, place, speed["fps"], row.published_miou, machine, ours)
        if ours:
            hardware = [" and ".join(row.each(name)) for name in ("hardware", "precision")]
            point = replace(
                point, miou=row.our_miou, hardware=" in ".join(hardware), whisker=whisker(row)
            )
        if point not in pairs.points:  # a row trained twice has its published figure once
            pairs.points.append(point)


def size_of(row: Row) -> Size | None:
    return input_size(row.protocol, row.data, row.overrides)


def same_network(row: Row, network: Mapping[str, Any]) -> bool:
    """Weights do not matter to a speed; a port is no network of the paper."""
    if row.port or network["port"]:
        return row.released is not None and row.released == network["released"]
    model = options_of(row.overrides, "model")
    return (row.experiment, model) == (network["experiment"], network["model"])


def label_of(row: Row, name: str) -> str:
    """`name` without the paper where the row's own name says it."""
    paper, _, short = name.partition("/")
    short = short if short.startswith(paper) else f"{paper} {short}"
    whose = f" ({row.released})" if row.port else " (released)"
    return short.replace(f" (released {row.released})", whose)


def whisker(row: Row) -> tuple[float, float] | None:
    if row.our_spread is not None:
        return row.our_miou - row.our_spread, row.our_miou + row.our_spread
    return tuple(row.our_interval) or None


# --- reading


def read_timing(file: Path) -> dict[str, Any]:
    """Read what `benchmark.py infer --out` wrote."""
    timing = read_json(file)
    if not isinstance(timing, dict) or not {"conditions", "networks"} <= timing.keys():
        raise UserError(f"{file} holds no speeds; name a file that benchmark.py infer --out wrote")
    lacking = [name for name in CONDITIONS if name not in timing["conditions"]]
    lacking += [name for network in timing["networks"] for name in NETWORK if name not in network]
    if lacking:
        raise UserError(
            f"{file} does not say {', '.join(dict.fromkeys(lacking))}; "
            "measure it again with benchmark.py infer"
        )
    return timing


def machine_of(conditions: Mapping[str, Any]) -> str:
    return f"{settings(conditions)}, {conditions['what']}"


def published_speeds(papers: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Those of the catalogue's papers, by "paper/row"."""
    return {
        f"{paper}/{row}": claims.get("published_speed", [])
        for paper, entry in papers.items()
        for row, claims in entry["rows"].items()
    }


def how_measured(points: Sequence[Point], timings: Sequence[Timing]) -> list[str]:
    """A sentence or two below the picture; none where no point is ours."""
    ours = [each for each in points if each.ours]
    if not ours:
        return []
    machines = {each.machine for each in ours}
    timed = {}  # each once, in order
    for conditions in (timing["conditions"] for timing in timings):
        if machine_of(conditions) in machines:
            timed[f"{conditions['what']} ({conditions['timed']})"] = None
    hardware = ", ".join(dict.fromkeys(each.hardware for each in ours))
    sentence = f"Filled: ours, timed up to {'; '.join(timed)}; mIoU computed on {hardware}."
    if any(each.whisker for each in ours):
        sentence += " Bars: the standard deviation over seeds, or a 95 % interval over images."
    return [sentence]
