"""Draw accuracy against speed: a panel a data set, a color a paper, a marker shape a machine."""

import textwrap
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line.files import whole
from experiments.reports.paper_table import grouped, validation_first
from experiments.reports.speed_points import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

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
ALONE, BESIDE, TALL = 7.2, 5.6, 4.4  # inches: a panel's width, alone or beside another; its height
LINE = 0.16  # inches of a line below the panels
LETTERS = 16  # of the caption in an inch
SMALL = 7.5  # points, of what is written beside markers and below panels
LABEL_PLACES = (  # from the marker in points, with the alignment that belongs to it
    (7, 0, "left", "center"),
    (-7, 0, "right", "center"),
    (0, 6, "center", "bottom"),
    (0, -7, "center", "top"),
    (5, 5, "left", "bottom"),
    (-5, 5, "right", "bottom"),
    (5, -5, "left", "top"),
    (-5, -5, "right", "top"),
)
READING = (
    "Hollow: published mIoU and published speed, each speed on its authors' hardware and with "
    "their runtime, so hollow points are not comparable in x with filled ones, nor with each other "
    "where shapes differ."
)
SHARES = (
    "Seg50 and Seg75: Cityscapes seen at 512x1024 and 768x1536 (0.5 and 0.75 of its size), logits "
    "brought back; no size: the whole image."
)


def draw(points: Sequence[Point], file: Path, notes: Sequence[str] = ()) -> None:
    """Every point must be of one table; `notes` say below the panels how ours were measured."""
    from matplotlib.figure import Figure

    in_order = sorted(points, key=lambda point: validation_first(*point.place.split()))
    panels = grouped(in_order, attrgetter("place"))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    width = ALONE if columns == 1 else columns * BESIDE
    below = textwrap.wrap(caption(points, notes), int(width * LETTERS))
    height = rows * TALL + LINE * (len(below) + len(shapes(points)))
    figure = Figure(figsize=(width, height), layout="constrained")
    for number, (title, here) in enumerate(panels.items(), 1):
        panel(figure.add_subplot(rows, columns, number), title, here, points)
    legend(figure, points, "\n".join(below))
    figure.draw_without_rendering()  # labels are placed where the layout has put the markers
    for axes, here in zip(figure.axes, panels.values()):
        write_labels(axes, here, colors(points))
    save(figure, file)


def caption(points: Sequence[Point], notes: Sequence[str]) -> str:
    sentences = list(notes)
    if any("Seg" in point.label for point in points):
        sentences.insert(0, SHARES)
    if not all(point.ours for point in points):
        sentences.insert(0, READING)
    return " ".join(sentences)


def legend(figure: "Figure", points: Sequence[Point], below: str) -> None:
    """A mark a machine, under the caption; colors need none, for labels begin with the paper."""
    from matplotlib.lines import Line2D

    marks = []
    for (ours, machine), shape in shapes(points).items():
        face, whose = ("black", "ours") if ours else ("white", "published")
        mark = Line2D([], [], color="black", marker=shape, markerfacecolor=face, linestyle="none")
        mark.set_label(f"{whose}: {machine}")
        marks.append(mark)
    longest = max(len(mark.get_label()) for mark in marks)
    figure.legend(
        handles=marks,
        title=below,
        title_fontsize=SMALL,
        alignment="left",
        loc="outside lower left",
        ncols=2 if longest < 45 else 1,
        fontsize=SMALL,
        frameon=False,
    )


def colors(points: Iterable[Point]) -> dict[str, str]:
    papers = sorted({point.paper for point in points})
    return {paper: COLORS[index % len(COLORS)] for index, paper in enumerate(papers)}


def shapes(points: Iterable[Point]) -> dict[tuple[bool, str], str]:
    """By (ours, machine), ours first."""
    machines = sorted({(not point.ours, point.machine) for point in points})
    return {
        (not theirs, machine): SHAPES[index % len(SHAPES)]
        for index, (theirs, machine) in enumerate(machines)
    }


def panel(axes: "Axes", title: str, here: Sequence[Point], everything: Sequence[Point]) -> None:
    by_paper, by_machine = colors(everything), shapes(everything)
    for point in here:
        color = by_paper[point.paper]
        if point.whisker:
            axes.vlines(point.fps, *point.whisker, color=color, linewidth=1, zorder=2)
        axes.plot(
            point.fps,
            point.miou,
            marker=by_machine[point.ours, point.machine],
            color=color,
            markerfacecolor=color if point.ours else "white",
            markeredgewidth=1.3,
            linestyle="none",
            zorder=3 + point.ours,
        )
    scale(axes, [point.fps for point in here])
    axes.tick_params(labelsize=SMALL, which="both")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("frames per second (logarithmic)", fontsize=9)
    axes.set_ylabel("mIoU in percent", fontsize=9)


def scale(axes: "Axes", speeds: Sequence[float]) -> None:
    """A logarithmic axis with round numbers, and space for labels around the markers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    space = max((max(speeds) / min(speeds)) ** 0.1, 1.15)
    axes.set_xlim(min(speeds) / space, max(speeds) * space)
    axes.margins(y=0.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def write_labels(axes: "Axes", here: Sequence[Point], by_paper: dict[str, str]) -> None:
    """Each label takes the place around its marker at which it covers least."""
    from matplotlib.transforms import Bbox

    spots = axes.transData.transform([(point.fps, point.miou) for point in here])
    taken = [Bbox.from_extents(x - 8, y - 8, x + 8, y + 8) for x, y in spots]
    for point in here:
        label = axes.annotate(
            point.label,
            (point.fps, point.miou),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=SMALL,
            fontweight="bold" if point.ours else "normal",
            color=by_paper[point.paper],
            in_layout=False,
            zorder=5,
        )
        taken.append(place(label, taken, axes.get_window_extent()))


def place(label: "Annotation", taken: Sequence["Bbox"], inside: "Bbox") -> "Bbox":
    """Move the label to the first of the places that cover fewest of the boxes `taken`."""

    def move(x: float, y: float, side: str, height: str) -> "Bbox":
        label.set(position=(x, y), ha=side, va=height)
        return label.get_window_extent()

    def cost(where: tuple[float, float, str, str]) -> int:
        box = move(*where)
        outside = not (inside.contains(*box.min) and inside.contains(*box.max))
        return box.count_overlaps(taken) + len(taken) * outside

    return move(*min(LABEL_PLACES, key=cost))


def save(figure: "Figure", file: Path) -> None:
    """The same content gives the same bytes."""
    import matplotlib

    kind = file.suffix.lower().removeprefix(".")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    settings = {"svg.hashsalt": "segmodels", "pdf.fonttype": 42}
    with matplotlib.rc_context(settings), whole(file) as partial:
        figure.savefig(partial, format=kind, dpi=200, metadata=undated.get(kind))
