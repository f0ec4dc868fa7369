"""Table, plot and sheet of pictures of an evaluation on corrupted images."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich.table import Table

from datamodules.corruptions import GROUPS, Corrupted
from datamodules.reading.sources import Source
from experiments.drawing.label_images import (
    STRIPED,
    Palette,
    colored,
    colored_prediction,
    occurring,
    sheet,
)
from experiments.evaluation.robustness_result import (
    Degradation,
    Robustness,
    degradation,
    mean,
)
from experiments.reports.number_formats import bare_table, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#2a78d6", "#d9622b", "#1f9e77", "#8e5bb5")


def robustness_table(result: Robustness, reference: Robustness | None = None) -> Table:
    """mIoU in percent, a row per kind, and the share of the clean mIoU that is left."""
    severities = result.severities
    heads = [*map(str, severities), "mean", "left %"]
    compared = {}
    if reference:
        heads += ["CD %", "rCD %"]
        compared = degradation(result, reference)
    table = bare_table("", "")
    table.title = "mIoU % by severity"
    table.title_justify = "left"
    for head in heads:
        table.add_column(head, justify="right")
    blank = [""] * len(severities)
    table.add_row("clean", "", *blank, *shown(result.clean, 1), style="bold", end_section=True)
    rows = []
    for group, kinds in present(result).items():
        for kind in kinds:
            scores = result.kinds[kind]
            row = [*map(scores.get, severities), mean(scores.values()), result.relative(kind)]
            if reference:
                row += compared.get(kind, Degradation())
            rows.append(row)
            table.add_row(kind.replace("_", " "), f"[dim]{group}[/]", *shown(*row))
    if rows:
        table.add_section()
        table.add_row("mean", "", *shown(*map(mean, zip(*rows))), style="bold", end_section=True)
    for name, miou in result.others.items():
        table.add_row(name, "", *blank, *shown(miou, result.share(miou)))
    return table


def shown(*shares: float | None) -> list[str]:
    return [percent(share, 1, none="") for share in shares]


def present(result: Robustness) -> dict[str, list[str]]:
    """The kinds that were evaluated, by group."""
    groups = {}
    for group, kinds in GROUPS.items():
        if known := [kind for kind in kinds if kind in result.kinds]:
            groups[group] = known
    return groups


# --- pictures


def robustness_plot(result: Robustness, title: str) -> "Figure":
    """mIoU against severity, a panel per group of kinds; other data sets are bars beside them."""
    from matplotlib.figure import Figure

    groups = present(result)
    panels = max(len(groups) + bool(result.others), 1)
    figure = Figure(figsize=(max(3.0 * panels, 4), 3.6), dpi=150, layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axis, (group, kinds) in zip(axes, groups.items()):
        axis.set_title(group, fontsize=11, loc="left")
        draw_curves(axis, result, kinds)
    if result.others:
        draw_bars(axes[-1], result.others)
    for axis in axes:
        axis.axhline(100 * result.clean, color="gray", lw=0.8, ls=(0, (4, 3)), zorder=0)
        axis.grid(axis="y", color="#e6e6e6", lw=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    scores = [result.clean, *result.others.values()]
    for each in result.kinds.values():
        scores += each.values()
    axes[0].set_ylim(0, 112 * max(scores) or 1)  # shared by all panels
    axes[0].set_ylabel("mIoU %")
    axes[0].annotate(
        "clean",
        (1, 100 * result.clean),
        (1, 3),
        textcoords="offset points",
        xycoords=("axes fraction", "data"),
        ha="right",
        fontsize=8,
        color="dimgray",
    )
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def draw_curves(axis: "Axes", result: Robustness, kinds: Sequence[str]) -> None:
    """Severity 0 is the clean score. Names stand in a legend: curves end close to each other."""
    for kind, color, marker in zip(kinds, COLORS, "osD^"):
        points = {0: result.clean, **result.kinds[kind]}
        mious = [100 * miou for miou in points.values()]
        name = kind.replace("_", " ")
        axis.plot(list(points), mious, color=color, marker=marker, ms=4, lw=1.8, label=name)
    axis.set_xticks([0, *result.severities])
    axis.set_xlabel("severity")
    axis.legend(frameon=False, fontsize=8, loc="best", handlelength=1.6)


def draw_bars(axis: "Axes", others: dict[str, float]) -> None:
    bars = axis.bar(list(others), [100 * miou for miou in others.values()], color="#66727f")
    axis.bar_label(bars, fmt="%.1f", padding=-12, fontsize=8, color="white")
    axis.set_xlim(-0.75, max(len(others), 3) - 0.25)
    axis.tick_params("x", labelsize=8)
    axis.set_title("other data", fontsize=11, loc="left")


def robustness_sheet(
    source: Source,
    predict: Callable[[np.ndarray], np.ndarray],
    names: Sequence[str],
    palette: Palette,
    kinds: Sequence[str],
    severities: Sequence[int],
    width: int = 256,
) -> Image.Image:
    """The middle image under every kind and some severities, each beside its prediction."""
    index = len(source) // 2
    image, label = source.window(index)
    labels = [label]

    def beside_prediction(image: np.ndarray) -> list[np.ndarray]:
        labels.append(predict(image))
        return [image, colored_prediction(labels[-1], label, palette)]

    rows = [[image, colored(label, palette)], beside_prediction(image)]
    captions = ["clean, and the truth", "clean"]
    for kind in kinds:
        row = []
        for severity in severities:
            row += beside_prediction(Corrupted(source, kind, severity).window(index)[0])
        rows.append(row)
        captions.append(kind.replace("_", " "))
    heads = []
    for severity in severities:
        heads += [f"severity {severity}", "classes"]
    images = range(0, len(heads), 2)
    title = f"{source.names[index]} ({STRIPED})"
    return sheet(rows, heads, title, width, images, captions, key=occurring(labels, names, palette))
