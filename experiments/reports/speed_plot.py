"""Accuracy against speed as a picture: a panel for each data set and split, a color for each paper, a shape for each machine."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import product
from math import cos, pi, sin
from pathlib import Path
from typing import Any

from experiments.command_line.errors import UserError
from experiments.command_line.files import whole
from experiments.reports.speed_points import Point

KINDS = (".png", ".svg", ".pdf")
COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#8c6d31",
    "#e69f00",
    "#56b4e9",
    "#7a3db8",
    "#555555",
    "#a50f15",
    "#1b7837",
    "#c2a5cf",
)
SHAPES = "osD^vPXph<>*8"
ALONE, BESIDE, TALL = (
    7.2,
    5.6,
    4.7,
)  # inches: a panel's width, alone or in two columns, and its height
SIDE, HEAD, FOOT = (0.62, 0.12), 0.34, 0.58  # inches of a panel that axes leave free
LINE, CAPTION_LINE = 0.165, 0.124  # inches
AWAY = (8, 11, 14, 18, 23, 30, 38, 48)  # points from a marker to its label
LEADER = 11  # points from which on a line leads from a marker to its label
MARK = {"linestyle": "none", "markersize": 6}
LETTERS = 18.5  # of the caption in an inch
SMALL = 7.5  # points, of what is written beside markers and below panels
READING = (
    "Hollow: published mIoU and published speed, each speed on its authors' hardware and with their runtime, so hollow points are not "
    "comparable in x with filled ones, nor with each other where shapes differ."
)
SHARES = "Seg50 and Seg75: Cityscapes seen at 512x1024 and 768x1536 (0.5 and 0.75 of its size), logits brought back; no size: the whole image."


def check_file(file: Path) -> Path:
    """Before the work, that the picture can be written."""
    if file.suffix.lower() not in KINDS:
        raise UserError(
            f"{file} is no kind of picture that is drawn here; let its name end in {', '.join(KINDS)}"
        )
    if not file.parent.is_dir():
        raise UserError(
            f"{file} cannot be written (there is no folder {file.parent}); name a file in a folder that exists"
        )
    return file


def draw(points: Sequence[Point], file: Path, notes: Sequence[str] = ()) -> None:
    """Every point must be of one table; `notes` say below the panels how ours were measured."""
    from matplotlib.figure import Figure

    places = sorted(
        {each.place for each in points},
        key=lambda place: (place.split()[0], not place.endswith(" val"), place),
    )
    columns, wide = (1, ALONE) if len(places) == 1 else (2, BESIDE)
    rows, width = -(-len(places) // columns), columns * wide
    legends = [
        (marks, max(1, int((width - SIDE[0]) / inches)))
        for marks, inches in legends_of(points)
        if marks
    ]
    heights = [LINE * -(-len(marks) // count) + 0.06 for marks, count in legends]
    below = textwrap.wrap(caption(points, notes), int((width - 0.8) * LETTERS))
    foot = sum(heights) + CAPTION_LINE * len(below) + 0.15
    height = rows * TALL + foot
    figure = Figure(figsize=(width, height))
    for number, place in enumerate(places):
        row, column = divmod(number, columns)
        left, bottom = column * wide + SIDE[0], foot + (rows - 1 - row) * TALL + FOOT
        box = (
            left / width,
            bottom / height,
            (wide - sum(SIDE)) / width,
            (TALL - HEAD - FOOT) / height,
        )
        panel(figure.add_axes(box), place, [each for each in points if each.place == place], points)
    top = foot
    for (marks, count), tall in zip(legends, heights):
        write_legend(figure, marks, count, (SIDE[0] / width, top / height))
        top -= tall
    figure.text(
        SIDE[0] / width,
        0.07 / height,
        "\n".join(below),
        fontsize=SMALL - 0.5,
        color="#444444",
        va="bottom",
        linespacing=1.25,
    )
    save(figure, file)


def write_legend(
    figure: Any, marks: Sequence[Any], columns: int, corner: tuple[float, float]
) -> None:
    figure.legend(
        handles=marks, loc="upper left", bbox_to_anchor=corner, borderaxespad=0, borderpad=0, ncols=columns, fontsize=SMALL,
        frameon=False, handlelength=1.5, handleheight=0.5, handletextpad=0.5, columnspacing=1.2, labelspacing=0.45,
    )  # fmt: skip


def save(figure: Any, file: Path) -> None:
    import matplotlib

    kind = file.suffix.lower().removeprefix(".")
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(
        kind
    )  # one content, one file
    try:
        with (
            matplotlib.rc_context({"svg.hashsalt": "segmodels", "pdf.fonttype": 42}),
            whole(file) as partial,
        ):
            figure.savefig(partial, format=kind, dpi=200, metadata=dated)
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error.strerror}); name a file in a folder that exists"
        ) from None


def caption(points: Sequence[Point], notes: Sequence[str]) -> str:
    shares = [SHARES] if any("Seg" in each.label for each in points) else []
    return " ".join(
        [*([READING] if not all(each.ours for each in points) else []), *shares, *notes]
    )


# --- colors and shapes


def colors(points: Iterable[Point]) -> dict[str, str]:
    return {
        paper: COLORS[index % len(COLORS)]
        for index, paper in enumerate(sorted({each.paper for each in points}))
    }


def shapes(points: Iterable[Point]) -> dict[tuple[bool, str], str]:
    """By (ours, machine), ours first."""
    machines = sorted({(not each.ours, each.machine) for each in points})
    return {
        (not theirs, machine): SHAPES[index % len(SHAPES)]
        for index, (theirs, machine) in enumerate(machines)
    }


def legends_of(points: Sequence[Point]) -> list[tuple[list[Any], float]]:
    """The marks of papers, of our machines and of the published ones, and how many inches a column of each takes."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    papers = [Patch(color=color, label=paper) for paper, color in colors(points).items()]
    legends = [(papers, 1.1)]
    for whose, face, of_ours in (("ours", "black", True), ("published", "white", False)):
        marks = [
            Line2D(
                [],
                [],
                color="black",
                marker=shape,
                markerfacecolor=face,
                label=f"{whose}: {machine}",
                **MARK,
            )
            for (ours, machine), shape in shapes(points).items()
            if ours is of_ours
        ]
        legends.append(
            (marks, 0.3 + 0.062 * max((len(mark.get_label()) for mark in marks), default=0))
        )
    return legends


# --- a panel


def panel(axes: Any, title: str, here: Sequence[Point], everything: Sequence[Point]) -> None:
    by_paper, by_machine = colors(everything), shapes(everything)
    frame(axes, title, here)
    for each in here:
        color = by_paper[each.paper]
        if each.whisker:
            axes.vlines(each.fps, *each.whisker, color=color, linewidth=1, zorder=2)
        axes.plot(each.fps, each.miou, marker=by_machine[each.ours, each.machine], color=color, markersize=6.5, zorder=3 + each.ours,
                  markerfacecolor=color if each.ours else "white", markeredgewidth=1.3, linestyle="none")  # fmt: skip
    write_labels(axes, here, by_paper)


def frame(axes: Any, title: str, here: Sequence[Point]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    slowest, fastest = min(each.fps for each in here), max(each.fps for each in here)
    room = max((fastest / slowest) ** 0.1, 1.15)
    axes.set_xlim(slowest / room, fastest * room)
    heights = [height for each in here for height in (each.miou, *(each.whisker or ()))]
    lift = max(0.1 * (max(heights) - min(heights)), 0.5)
    axes.set_ylim(min(heights) - lift, max(heights) + lift)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=SMALL + 0.5, which="both")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("frames per second (logarithmic)", fontsize=9)
    axes.set_ylabel("mIoU in percent", fontsize=9)


Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels
Spot = tuple[float, float]


def write_labels(axes: Any, here: Sequence[Point], by_paper: dict[str, str]) -> None:
    """Each where it covers least of what is drawn; a thin line leads to one that had to move away."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    spots = [tuple(axes.transData.transform((each.fps, each.miou))) for each in here]
    texts = [
        axes.annotate(each.label, (each.fps, each.miou), fontsize=SMALL, color=by_paper[each.paper], textcoords="offset points",
                      xytext=(0, 0), ha="center", va="center", zorder=5, fontweight="bold" if each.ours else "normal")
        for each in here
    ]  # fmt: skip
    sizes = [text.get_window_extent(renderer).size for text in texts]
    pixel = axes.figure.dpi / 72
    inside = tuple(axes.get_window_extent(renderer).extents)
    for each, text, size, (dx, dy) in zip(
        here, texts, sizes, arranged(spots, sizes, bars(axes, here, pixel), inside, pixel)
    ):
        text.set_position((dx / pixel, dy / pixel))
        if max(abs(dx) - size[0] / 2, abs(dy) - size[1] / 2) > LEADER * pixel:
            line = {
                "arrowstyle": "-",
                "color": by_paper[each.paper],
                "linewidth": 0.5,
                "alpha": 0.7,
                "shrinkA": 0,
                "shrinkB": 3,
            }
            axes.annotate(
                "",
                (each.fps, each.miou),
                xytext=(dx / pixel, dy / pixel),
                textcoords="offset points",
                zorder=2,
                arrowprops=line,
            )


def bars(axes: Any, here: Sequence[Point], pixel: float) -> list[Box]:
    """Where the whiskers stand."""
    ends = [
        [axes.transData.transform((each.fps, end)) for end in each.whisker]
        for each in here
        if each.whisker
    ]
    return [(x - pixel, low, x + pixel, high) for (x, low), (_, high) in ends]


def arranged(
    spots: Sequence[Spot], sizes: Sequence[Spot], drawn: Sequence[Box], inside: Box, pixel: float
) -> list[Spot]:
    """From each marker to the middle of its label; each label is placed again and again among the others, until all have settled."""
    markers = [around(spot, (10 * pixel, 10 * pixel)) for spot in spots]
    offsets: list[Spot | None] = [None] * len(spots)
    for _ in range(6):
        before = list(offsets)
        for index, (spot, size) in enumerate(zip(spots, sizes)):
            placed = [
                (at, wide, by)
                for number, (at, wide, by) in enumerate(zip(spots, sizes, offsets))
                if by and number != index
            ]
            labels = [around((x + dx, y + dy), wide) for (x, y), wide, (dx, dy) in placed]
            others = [*labels, *markers[:index], *markers[index + 1 :]]
            offsets[index] = best_offset(
                spot, size, [*others, *drawn, markers[index]], others, inside, pixel
            )
        if offsets == before:
            break
    return offsets


def best_offset(
    spot: Spot, size: Spot, taken: Sequence[Box], others: Sequence[Box], inside: Box, pixel: float
) -> Spot:
    """Of sixteen directions and some distances the one that covers least, and whose line crosses no others; near before far."""

    def offset(choice: tuple[int, float]) -> Spot:
        turn, away = choice
        return cos(turn * pi / 8) * (size[0] / 2 + away * pixel), sin(turn * pi / 8) * (
            size[1] / 2 + away * pixel
        )

    def cost(choice: tuple[int, float]) -> float:
        dx, dy = offset(choice)
        box = around((spot[0] + dx, spot[1] + dy), size)
        covered = sum(overlap(box, each) for each in taken) + 10 * (
            size[0] * size[1] - overlap(box, inside)
        )
        crossed = 0
        if choice[1] > LEADER:
            steps = [
                around((spot[0] + dx * share / 10, spot[1] + dy * share / 10), (1, 1))
                for share in range(1, 10)
            ]
            crossed = sum(overlap(step, each) > 0 for step in steps for each in others)
        return 3 * covered / pixel**2 + 30 * crossed + 1.5 * choice[1]

    return offset(min(product(range(16), AWAY), key=cost))


def around(middle: Spot, size: Spot) -> Box:
    return (
        middle[0] - size[0] / 2,
        middle[1] - size[1] / 2,
        middle[0] + size[0] / 2,
        middle[1] + size[1] / 2,
    )


def overlap(first: Box, second: Box) -> float:
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    return max(wide, 0.0) * max(high, 0.0)
