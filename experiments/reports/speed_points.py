"""What the plot of accuracy against speed shows: an mIoU and a speed of one network at one input size. Without both there is no point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.command_line.errors import UserError
from experiments.command_line.parser import by
from experiments.records.results import RESULTS, read_catalogue, read_json
from experiments.reports.protocols import input_size, on, protocol_name, settings
from experiments.reports.table_rows import model_words

Left = dict[str, list[str]]  # why something is no point -> what it is
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
    "judged in several passes, on images of many sizes or in a way that no inference mode computes, "
    "so that no one speed belongs to it"
)


@dataclass(frozen=True)
class Point:
    """A marker of the plot; `machine` is what the speed was measured on, as one line of the legend says it."""

    paper: str
    label: str
    place: str  # data set and split: only there may mIoU be compared
    fps: float
    miou: float
    machine: str
    ours: bool
    judged: str = ""  # where our mIoU was computed
    whisker: tuple[float, float] | None = None  # mIoU from, to


def points(
    rows: Sequence[dict], timings: Sequence[dict], speeds: Mapping[str, Sequence[dict]]
) -> tuple[list[Point], Left]:
    """Published figures with published speeds, measured rows with measured ones; and in words what has no other half."""
    found: dict[Point, None] = {}  # a row that was trained twice has its published figure once
    left: Left = {}
    timed = [
        (network, machine_of(timing["conditions"]))
        for timing in timings
        for network in timing["networks"]
    ]
    measured = [row for row in rows if row["status"] == "measured"]
    for row in (row for row in rows if row["published"] is not None):
        found |= dict.fromkeys(published_points(row, speeds.get(row["experiment"], ()), left))
    for row in measured:
        found |= dict.fromkeys(our_points(row, timed, left))
    for network, _ in timed:
        if network["problem"]:
            note(left, "not timed", f"{network['name']} ({network['problem']})")
        elif not any(
            same_network(row, network) and size_of(row) == tuple(network["size"])
            for row in measured
        ):
            note(
                left,
                "timed, and in no row of this table at that size",
                f"{network['name']} at {by(network['size'])}",
            )
    return list(found), left


def note(left: Left, why: str, what: str) -> None:
    if what not in left.setdefault(why, []):
        left[why].append(what)


def called(row: dict, name: str | None = None) -> str:
    return f"{name or row['name']} on {row['data']} {row['split']} ({protocol_name(row['protocol'], row['data'], row['paper'])})"


def published_points(row: dict, speeds: Sequence[dict], left: Left) -> list[Point]:
    """The first published mIoU beside every published speed at its size."""
    size = input_size(row["protocol"], row["data"])
    speeds = () if row["model"] else speeds  # they are of the row's own network
    same = [each for each in speeds if tuple(each["size"]) == size]
    if not same:
        note(
            left,
            f"published mIoU, {without_speed(size, speeds, 'published')}",
            called(row, " ".join(filter(None, (row["experiment"], model_words(row))))),
        )
    return [
        point(row, each["fps"], row["published"], on(each).replace("Titan XP", "Titan Xp"))
        for each in same
    ]  # papers write both


def our_points(row: dict, timed: Sequence[tuple[dict, str]], left: Left) -> list[Point]:
    """A measured mIoU beside every measured speed of its network at the size that its protocol gives it."""
    networks = [
        (network, machine)
        for network, machine in timed
        if not network["problem"] and same_network(row, network)
    ]
    found = [
        point(row, network["fps"], row["ours"], machine, ours=True)
        for network, machine in networks
        if tuple(network["size"]) == size_of(row)
    ]
    if not found:
        note(
            left,
            f"our mIoU, {without_speed(size_of(row), [network for network, _ in networks], 'measured')}",
            called(row),
        )
    return found


def size_of(row: dict) -> tuple[int, int] | None:
    return input_size(row["protocol"], row["data"], row["overrides"])


def without_speed(size: tuple[int, int] | None, speeds: Sequence[dict], how: str) -> str:
    if not speeds:
        return f"without a {how} speed"
    return (
        f"its speed is {how} at {', '.join(sorted({by(each['size']) for each in speeds}))}"
        if size
        else PASSES
    )


def machine_of(conditions: dict) -> str:
    return f"{settings(conditions)}, {conditions['what']}"


def same_network(row: dict, network: dict) -> bool:
    """Whether a row's network is the one that was timed; weights do not matter, and a port is no network of the paper."""
    if row["port"] or network["port"]:
        return row["released"] is not None and row["released"] == network["released"]
    model = {
        name.removeprefix("model."): value
        for name, value in row["overrides"].items()
        if name.startswith("model.")
    }
    return (row["experiment"], model) == (network["experiment"], network["model"])


def point(row: dict, fps: float, miou: float, machine: str, ours: bool = False) -> Point:
    protocol = protocol_name(row["protocol"], row["data"], row["paper"])
    paper, _, name = (row["name"] if ours else row["experiment"]).partition("/")
    name = name if name.startswith(paper) else f"{paper} {name}"
    name = name.replace(
        f" (released {row['released']})", f" ({row['released']})" if row["port"] else " (released)"
    )
    return Point(
        paper=row["paper"],
        label=name if protocol == "whole" else f"{name} {protocol}",
        place=f"{row['data']} {row['split']}",
        fps=fps,
        miou=miou,
        machine=machine,
        ours=ours,
        judged=f"{' and '.join(row['hardware'])} in {' and '.join(row['precision'])}"
        if ours
        else "",
        whisker=whisker(row) if ours else None,
    )


def whisker(row: dict) -> tuple[float, float] | None:
    if row["spread"] is not None:
        return row["ours"] - row["spread"], row["ours"] + row["spread"]
    return tuple(row["interval"]) or None


# --- reading


def read_timing(file: Path) -> dict:
    """What `benchmark.py infer --out` wrote."""
    found = read_json(file)
    if not (
        isinstance(found, dict)
        and isinstance(found.get("conditions"), dict)
        and isinstance(found.get("networks"), list)
    ):
        raise UserError(f"{file} holds no speeds; name a file that benchmark.py infer --out wrote")
    lacking = [name for name in CONDITIONS if name not in found["conditions"]]
    lacking += [name for network in found["networks"] for name in NETWORK if name not in network]
    if lacking:
        raise UserError(
            f"{file} does not say {', '.join(dict.fromkeys(lacking))}; measure it again with benchmark.py infer"
        )
    return found


def published_speeds(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """By "paper/row", out of the folder's catalogue or else the project's."""
    papers = read_catalogue(folder if (folder / "catalogue").is_dir() else RESULTS)
    return {
        f"{paper}/{row}": claims["published_speed"]
        for paper, book in papers.items()
        for row, claims in book["rows"].items()
    }


# --- in words


def how_measured(found: Sequence[Point], timings: Sequence[dict]) -> list[str]:
    """A sentence or two below the picture; none where no point is ours."""
    ours = [each for each in found if each.ours]
    machines = {each.machine for each in ours}
    conditions = [
        each["conditions"] for each in timings if machine_of(each["conditions"]) in machines
    ]
    timed = dict.fromkeys(f"{each['what']} ({each['timed']})" for each in conditions)
    judged = dict.fromkeys(each.judged for each in ours)
    bars = (
        " Bars: the standard deviation over seeds, or a 95 % interval over images."
        if any(each.whisker for each in ours)
        else ""
    )
    return (
        [
            f"Filled: ours, timed up to {'; '.join(timed)}; mIoU computed on {', '.join(judged)}.{bars}"
        ]
        if ours
        else []
    )


def in_words(left: Left) -> list[str]:
    """One for each reason why something is not in the plot."""
    return [f"{why}: {', '.join(what)}" for why, what in left.items()]
