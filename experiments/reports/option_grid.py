"""Scores by two options of a network, one down and one across: a table, and a picture of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command_line.errors import UserError
from experiments.command_line.names import did_you_mean
from experiments.reports.number_formats import plural
from experiments.reports.paper_table import Row, grouped
from experiments.reports.protocol_names import protocol_name
from segmodels.nearest_names import nearest_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Entries = Mapping[str, Mapping[str, Any]]  # the catalogue's rows by address
Cells = Mapping[tuple[Any, Any], float]  # (value down, value across) -> mIoU in percent
SEED = "a difference between cells says nothing where each is of one training"


@dataclass(frozen=True)
class Grid:
    """Scores of networks that differ in two options alone."""

    title: str
    options: tuple[str, str]  # down, across
    cells: Cells
    caption: str


def parse_options(text: str) -> tuple[str, str]:
    """Read "train_iterations,eval_iterations"."""
    names = [name.strip().removeprefix("model.") for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise UserError(
            f"--grid {text}: it takes two options of a network, as in --grid depth,channels"
        )
    return names[0], names[1]


def grids(rows: Sequence[Row], options: tuple[str, str], entries: Entries) -> list[Grid]:
    """Return ours, and the published ones, of every group of two rows or more."""
    known = {row.experiment: entries.get(row.experiment, {}).get("options", {}) for row in rows}
    every = sorted({name for each in known.values() for name in each})
    for name in options:
        if name not in every:
            nearest = did_you_mean(nearest_name(name, every))
            raise UserError(
                f"--grid: none of these networks has an option {name}; {nearest}".strip("; ")
            )
    those = [
        row for row in rows if row.data and all(name in known[row.experiment] for name in options)
    ]
    found = []
    for group in grouped(those, lambda row: all_else(row, options, entries)).values():
        found += grids_of(group, options, entries)
    if not found:
        raise UserError(
            f"--grid: no two of these scores differ in {' or '.join(options)} alone; "
            "name runs that do, or give --all for published ones"
        )
    return found


def grids_of(group: Sequence[Row], options: tuple[str, str], entries: Entries) -> list[Grid]:
    ours: dict[tuple[Any, Any], float] = {}
    published: dict[tuple[Any, Any], float] = {}
    for row in group:
        place = value_of(row, options[0], entries), value_of(row, options[1], entries)
        if row.our_miou is not None:
            ours.setdefault(place, row.our_miou)
        if row.published_miou is not None:
            published.setdefault(place, row.published_miou)
    first = group[0]
    place = (
        f"{first.paper}, {first.data} {first.split}, {protocol_name(first.protocol, first.data)}"
    )
    sources = {row.figures[0].source for row in group if row.figures}
    grids = []
    if len(ours) > 1:
        grids.append(Grid(f"{place}: ours", options, ours, caption(group, entries)))
    if len(published) > 1:
        grids.append(Grid(f"{place}: published", options, published, "; ".join(sorted(sources))))
    return grids


def all_else(row: Row, options: Sequence[str], entries: Entries) -> str:
    """Return everything that rows of one grid share."""
    others = {
        name: value_of(row, name, entries)
        for name in entries[row.experiment]["options"]
        if name not in options
    }
    overrides = {
        name: value for name, value in row.overrides.items() if not name.startswith("model.")
    }
    place = [row.paper, row.data, row.split, row.protocol, row.iterations]
    return json.dumps([place, others, overrides], sort_keys=True)


def value_of(row: Row, option: str, entries: Entries) -> Any:
    """Return an option's value: the evaluation's, the training's, the row's or the network's."""
    entry = entries[row.experiment]
    own = entry["model"].get(option, entry["options"][option]["default"])
    return row.model.get(option, row.overrides.get(f"model.{option}", own))


def caption(group: Sequence[Row], entries: Entries) -> str:
    """Say how the networks were trained, and whether that is enough to rank them."""
    measured = [row for row in group if row.runs]
    steps = measured[0].iterations
    full = entries[measured[0].experiment]["recipe"]["iterations"]
    seeds = sorted({seed for row in measured for seed in row.seeds})
    said = f"{plural(steps, 'step')}, seed {', '.join(map(str, seeds))}"
    if steps < full:
        return f"{said}; the paper trains {full}: this ranks nothing"
    return said if len(seeds) > 1 else f"{said}; {SEED}"


# --- table and picture


def as_lines(grid: Grid) -> list[str]:
    """Return a markdown table with the values of one option down and of the other across."""
    down, across = axes_of(grid)
    lines = [f"### {grid.title}", ""]
    lines.append(f"| {grid.options[0]} \\ {grid.options[1]} | {' | '.join(map(str, across))} |")
    lines.append("| --: " * (len(across) + 1) + "|")
    for value in down:
        scores = [grid.cells.get((value, other)) for other in across]
        shown = ["" if score is None else f"{score:.2f}" for score in scores]
        lines.append(f"| {value} | {' | '.join(shown)} |")
    return [*lines, "", grid.caption]


def axes_of(grid: Grid) -> tuple[list[Any], list[Any]]:
    down = sorted({first for first, _ in grid.cells})
    across = sorted({second for _, second in grid.cells})
    return down, across


def draw(grids: Sequence[Grid], file: Path) -> None:
    """Draw every grid as colored cells with their numbers."""
    from matplotlib.figure import Figure

    from experiments.reports.speed_plot import save

    sizes = [tuple(map(len, axes_of(grid))) for grid in grids]
    width = 2.2 + 0.8 * max(columns for _, columns in sizes)
    height = sum(1.6 + 0.45 * rows for rows, _ in sizes)
    figure = Figure(figsize=(max(width, 6), height), layout="constrained")
    panels = figure.subplots(
        len(grids), 1, squeeze=False, height_ratios=[rows + 2 for rows, _ in sizes]
    )
    for axes, grid in zip(panels[:, 0], grids):
        draw_grid(axes, grid)
    save(figure, file)


def draw_grid(axes: "Axes", grid: Grid) -> None:
    import numpy as np

    down, across = axes_of(grid)
    scores = np.full((len(down), len(across)), np.nan)
    for (first, second), score in grid.cells.items():
        scores[down.index(first), across.index(second)] = score
    axes.imshow(scores, cmap="Blues", aspect="auto", alpha=0.7)
    for (row, column), score in np.ndenumerate(scores):
        if np.isfinite(score):
            axes.text(column, row, f"{score:.2f}", ha="center", va="center", fontsize=9)
    axes.set_xticks(range(len(across)), across)
    axes.set_yticks(range(len(down)), down)
    axes.set_xlabel(f"{grid.options[1]}\n{grid.caption}", fontsize=9)
    axes.set_ylabel(grid.options[0], fontsize=9)
    axes.set_title(f"mIoU in percent: {grid.title}", fontsize=10, loc="left")
