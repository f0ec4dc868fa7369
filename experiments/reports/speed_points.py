"""Points of the plot of accuracy against speed: one network's mIoU and speed at one input size."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.command_line.errors import UserError
from experiments.command_line.parser import by
from experiments.records.run_folder import read_json
from experiments.reports.protocols import input_size, on, protocol_name, settings
from experiments.reports.published import model_words
from experiments.reports.table_rows import Row

Size = tuple[int, int]  # height, width
Speeds = Mapping[str, Sequence[Mapping[str, Any]]]  # "paper/row" -> published speeds

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
    """What is in the plot; and what is not, by the reason for that."""

    points: list[Point] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)

    def add(self, points: Sequence[Point]) -> None:
        """A row that was trained twice has its published figure once."""
        self.points += [each for each in dict.fromkeys(points) if each not in self.points]

    def leave_out(self, reason: str, name: str) -> None:
        names = self.missing.setdefault(reason, [])
        if name not in names:
            names.append(name)

    def missing_lines(self) -> list[str]:
        return [f"{reason}: {', '.join(names)}" for reason, names in self.missing.items()]


def pair(rows: Sequence[Row], timings: Sequence[Mapping], speeds: Speeds) -> Points:
    """Published figures with published speeds, measured rows with measured ones."""
    pairs = Points()
    timed = list(timed_networks(timings))
    measured = [row for row in rows if row.status == "measured"]
    for row in rows:
        if row.figures:
            add_published(pairs, row, speeds.get(row.experiment, ()))
    for row in measured:
        add_ours(pairs, row, timed)
    for network, _ in timed:
        if network["problem"]:
            pairs.leave_out("not timed", f"{network['name']} ({network['problem']})")
        elif not any(has_speed(row, network) for row in measured):
            reason = "timed, and in no row of this table at that size"
            pairs.leave_out(reason, f"{network['name']} at {by(network['size'])}")
    return pairs


def add_published(pairs: Points, row: Row, speeds: Sequence[Mapping[str, Any]]) -> None:
    """The first published mIoU beside every published speed at its size."""
    size = input_size(row.protocol, row.data)
    speeds = () if row.model else speeds  # they are of the row's own network
    same = [speed for speed in speeds if tuple(speed["size"]) == size]
    if not same:
        name = " ".join(filter(None, (row.experiment, model_words(row.model))))
        reason = f"published mIoU, {why_no_speed(size, speeds, 'published')}"
        pairs.leave_out(reason, with_place(row, name))
    machines = [on(speed).replace("Titan XP", "Titan Xp") for speed in same]  # papers write both
    pairs.add(
        [
            point(row, row.experiment, speed["fps"], row.published_miou, machine)
            for speed, machine in zip(same, machines)
        ]
    )


def add_ours(pairs: Points, row: Row, timed: Sequence[tuple[Mapping, str]]) -> None:
    """A measured mIoU beside every measured speed of its network at its protocol's size."""
    own = [
        (network, machine)
        for network, machine in timed
        if not network["problem"] and same_network(row, network)
    ]
    same = [(network, machine) for network, machine in own if has_speed(row, network)]
    if not same:
        reason = why_no_speed(size_of(row), [network for network, _ in own], "measured")
        pairs.leave_out(f"our mIoU, {reason}", with_place(row, row.name))
    hardware = f"{' and '.join(row.hardware)} in {' and '.join(row.precision)}"
    pairs.add(
        [
            point(
                row,
                row.name,
                network["fps"],
                row.our_miou,
                machine,
                ours=True,
                hardware=hardware,
                whisker=whisker(row),
            )
            for network, machine in same
        ]
    )


def with_place(row: Row, name: str) -> str:
    protocol = protocol_name(row.protocol, row.data, row.paper)
    return f"{name} on {row.data} {row.split} ({protocol})"


def why_no_speed(size: Size | None, speeds: Sequence[Mapping[str, Any]], how: str) -> str:
    if not speeds:
        return f"without a {how} speed"
    if not size:
        return PASSES
    return f"its speed is {how} at {', '.join(sorted({by(speed['size']) for speed in speeds}))}"


def size_of(row: Row) -> Size | None:
    return input_size(row.protocol, row.data, row.overrides)


def has_speed(row: Row, network: Mapping[str, Any]) -> bool:
    return same_network(row, network) and size_of(row) == tuple(network["size"])


def same_network(row: Row, network: Mapping[str, Any]) -> bool:
    """Weights do not matter to a speed; a port is no network of the paper."""
    if row.port or network["port"]:
        return row.released is not None and row.released == network["released"]
    model = {
        name.removeprefix("model."): value
        for name, value in row.overrides.items()
        if name.startswith("model.")
    }
    return (row.experiment, model) == (network["experiment"], network["model"])


def point(row: Row, name: str, fps: float, miou: float, machine: str, **ours: Any) -> Point:
    """`name` loses the paper where the row's own name says it."""
    paper, _, short = name.partition("/")
    short = short if short.startswith(paper) else f"{paper} {short}"
    whose = f" ({row.released})" if row.port else " (released)"
    short = short.replace(f" (released {row.released})", whose)
    protocol = protocol_name(row.protocol, row.data, row.paper)
    return Point(
        paper=row.paper,
        label=short if protocol == "whole" else f"{short} {protocol}",
        place=f"{row.data} {row.split}",
        fps=fps,
        miou=miou,
        machine=machine,
        **{"ours": False} | ours,
    )


def whisker(row: Row) -> tuple[float, float] | None:
    if row.our_spread is not None:
        return row.our_miou - row.our_spread, row.our_miou + row.our_spread
    return tuple(row.our_interval) or None


# --- reading


def read_timing(file: Path) -> dict[str, Any]:
    """Read what `benchmark.py infer --out` wrote."""
    timing = read_json(file)
    conditions = timing.get("conditions") if isinstance(timing, dict) else None
    networks = timing.get("networks") if isinstance(timing, dict) else None
    if not (isinstance(conditions, dict) and isinstance(networks, list)):
        raise UserError(f"{file} holds no speeds; name a file that benchmark.py infer --out wrote")
    lacking = [name for name in CONDITIONS if name not in conditions]
    lacking += [name for network in networks for name in NETWORK if name not in network]
    if lacking:
        raise UserError(
            f"{file} does not say {', '.join(dict.fromkeys(lacking))}; "
            "measure it again with benchmark.py infer"
        )
    return timing


def timed_networks(timings: Sequence[Mapping]) -> Iterator[tuple[Mapping, str]]:
    """Each network that was timed, with the machine."""
    for timing in timings:
        machine = machine_of(timing["conditions"])
        yield from ((network, machine) for network in timing["networks"])


def machine_of(conditions: Mapping[str, Any]) -> str:
    return f"{settings(conditions)}, {conditions['what']}"


def published_speeds(papers: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Those of the catalogue's papers, by "paper/row"."""
    return {
        f"{paper}/{row}": claims.get("published_speed", [])
        for paper, entry in papers.items()
        for row, claims in entry["rows"].items()
    }


def how_measured(points: Sequence[Point], timings: Sequence[Mapping]) -> list[str]:
    """A sentence or two below the picture; none where no point is ours."""
    ours = [each for each in points if each.ours]
    if not ours:
        return []
    machines = {each.machine for each in ours}
    conditions = [timing["conditions"] for timing in timings]
    timed = dict.fromkeys(
        f"{each['what']} ({each['timed']})" for each in conditions if machine_of(each) in machines
    )
    hardware = ", ".join(dict.fromkeys(each.hardware for each in ours))
    sentence = f"Filled: ours, timed up to {'; '.join(timed)}; mIoU computed on {hardware}."
    if any(each.whisker for each in ours):
        sentence += " Bars: the standard deviation over seeds, or a 95 % interval over images."
    return [sentence]
