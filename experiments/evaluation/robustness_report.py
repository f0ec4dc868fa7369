"""The table, plot and sheet of pictures of an evaluation on corrupted images."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw
from rich.table import Table

from datamodules.corruptions import GROUPS, KINDS, Shifted
from datamodules.reading.sources import Source
from experiments.drawing.label_images import IGNORED, Palette, colored, sheet
from experiments.evaluation.robustness_result import (
    COLORS,
    Degradation,
    Shift,
    degradation,
    mean,
    share,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# --- the table


def shift_table(result: Shift, reference: Shift | None = None) -> Table:
    """mIoU in percent; a row per kind, and what is left of the clean score."""
    compared = degradation(result, reference) if reference else {}
    heads = [
        "",
        "",
        *map(str, result.severities),
        "mean",
        "left %",
        *(("CD %", "rCD %") if reference else ()),
    ]
    table = Table(
        *heads,
        title="mIoU % by severity",
        box=None,
        pad_edge=False,
        header_style="bold",
        title_justify="left",
    )
    for column in table.columns[2:]:
        column.justify = "right"
    blank = [""] * len(result.severities)
    table.add_row(
        "[bold]clean[/]",
        "",
        *blank,
        f"[bold]{percent(result.clean)}[/]",
        percent(1.0),
        end_section=True,
    )
    for group, kinds in GROUPS.items():
        for kind in (kind for kind in kinds if kind in result.kinds):
            scores = result.kinds[kind]
            cells = [percent(scores.get(severity)) for severity in result.severities]
            each = compared.get(kind, Degradation(None, None))
            more = (percent(each.cd), percent(each.rcd)) if reference else ()
            table.add_row(
                spaced(kind),
                f"[dim]{group}[/]",
                *cells,
                percent(mean(scores.values())),
                percent(result.relative(kind)),
                *more,
            )
    if result.kinds:
        means = [
            mean(found[severity] for found in result.kinds.values() if severity in found)
            for severity in result.severities
        ]
        every = percent(mean(mean(found.values()) for found in result.kinds.values()))
        more = (
            [
                percent(average(getattr(each, name) for each in compared.values()))
                for name in ("cd", "rcd")
            ]
            if reference
            else []
        )
        table.add_section()
        table.add_row(
            "[bold]mean[/]",
            "",
            *map(percent, means),
            every,
            f"[bold]{percent(result.left)}[/]",
            *more,
            end_section=True,
        )
    for name, miou in result.others.items():
        table.add_row(name, "", *blank, percent(miou), percent(share(miou, result.clean)))
    return table


def average(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def percent(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def spaced(kind: str) -> str:
    return "JPEG" if kind == "jpeg" else kind.replace("_", " ")


# --- pictures


def shift_plot(result: Shift, title: str = "") -> "Figure":
    """mIoU against severity, a panel per group of kinds; other data sets as bars beside them."""
    from matplotlib.figure import Figure

    groups = {
        group: [kind for kind in kinds if kind in result.kinds] for group, kinds in GROUPS.items()
    }
    groups = {group: kinds for group, kinds in groups.items() if kinds}
    count = len(groups) + bool(result.others)
    figure = Figure(figsize=(max(3.0 * count, 4), 3.6), dpi=150, layout="constrained")
    axes = list(figure.subplots(1, max(count, 1), sharey=True, squeeze=False)[0])
    highest = 100 * max(
        result.clean,
        *result.others.values(),
        *(miou for found in result.kinds.values() for miou in found.values()),
    )
    for axis, (group, kinds) in zip(axes, groups.items()):
        curves(axis, result, kinds)
        axis.set_title(group, fontsize=11, loc="left")
    if result.others:
        bars(axes[-1], result)
    for axis in axes:
        tidy(axis, highest)
    axes[0].set_ylabel("mIoU %")
    axes[0].annotate("clean", (1, 100 * result.clean), (1, 3), textcoords="offset points", xycoords=("axes fraction", "data"),
                     ha="right", fontsize=8, color="dimgray")  # fmt: skip
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def curves(axis: "Axes", result: Shift, kinds: Sequence[str]) -> None:
    """Severity 0 is the clean score; the names stand in a legend, as curves end close to each other."""
    for kind, color, marker in zip(kinds, COLORS, "osD^"):
        points = {0: result.clean, **result.kinds[kind]}
        axis.plot(
            list(points),
            [100 * miou for miou in points.values()],
            color=color,
            marker=marker,
            ms=4,
            lw=1.8,
            label=spaced(kind),
        )
    axis.set_xticks([0, *result.severities], ["0", *map(str, result.severities)])
    axis.set_xlabel("severity")
    axis.legend(frameon=False, fontsize=8, loc="best", handlelength=1.6)
    axis.axhline(100 * result.clean, color="gray", lw=0.8, ls=(0, (4, 3)), zorder=0)


def bars(axis: "Axes", result: Shift) -> None:
    axis.bar(
        range(len(result.others)),
        [100 * miou for miou in result.others.values()],
        width=0.7,
        color="#66727f",
    )
    for place, miou in enumerate(result.others.values()):
        axis.annotate(
            f"{100 * miou:.1f}",
            (place, 100 * miou),
            (0, -11),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="white",
        )
    axis.set_xlim(-0.75, max(len(result.others), 3) - 0.25)
    axis.set_xticks(range(len(result.others)), list(result.others), fontsize=8)
    axis.set_title("other data", fontsize=11, loc="left")
    axis.axhline(100 * result.clean, color="gray", lw=0.8, ls=(0, (4, 3)), zorder=0)


def tidy(axis: "Axes", highest: float) -> None:
    axis.set_ylim(0, 1.12 * highest or 1)
    axis.grid(axis="y", color="#e6e6e6", lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def shift_sheet(
    source: Source,
    index: int,
    predict: Callable[[np.ndarray], np.ndarray],
    palette: Palette,
    kinds: Sequence[str] = KINDS,
    severities: Sequence[int] = (1, 3, 5),
    *,
    seed: int = 0,
    width: int = 256,
) -> Image.Image:
    """One image under kinds and severities, as `shift` judged it, each with its prediction beneath; two kinds a row."""
    image, label = source.window(index)

    def judged(words: str, image: np.ndarray) -> np.ndarray:
        return cell(
            image,
            colored(np.where(label == IGNORED, IGNORED, predict(image)).astype(np.uint8), palette),
            words,
            width,
        )

    first = [judged("clean", image), cell(image, colored(label, palette), "truth", width)]
    blocks = [first + [np.full_like(first[0], 255)] * (len(severities) - 2)]
    for kind in kinds:
        blocks.append(
            [
                judged(f"{spaced(kind)} {each}", Shifted(source, kind, each, seed).window(index)[0])
                for each in severities
            ]
        )
    rows = [
        [each for block in blocks[place : place + 2] for each in block]
        for place in range(0, len(blocks), 2)
    ]
    title = f"{source.names[index]}: kinds of shift by severity, each with the prediction beneath"
    return sheet(rows, [""] * max(map(len, rows)), title, width, smooth=())


def cell(image: np.ndarray, label: np.ndarray, words: str, width: int) -> np.ndarray:
    """A picture above a map of classes, both at their final width, with words in the corner."""
    size = width, round(image.shape[0] * width / image.shape[1])
    made = Image.new("RGB", (width, 2 * size[1]))
    made.paste(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), (0, 0))
    made.paste(Image.fromarray(label).resize(size, Image.Resampling.NEAREST), (0, size[1]))
    draw = ImageDraw.Draw(made)
    box = draw.textbbox((6, 4), words, font_size=13)
    draw.rectangle((0, 0, box[2] + 6, box[3] + 4), fill="black")
    draw.text((6, 4), words, fill="white", font_size=13)
    return np.asarray(made)
