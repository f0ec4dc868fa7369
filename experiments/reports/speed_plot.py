"""Draw accuracy against speed: a panel a data set, a color a paper, a marker shape a machine."""

import itertools
import textwrap
from collections.abc import Sequence
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
# A panel in inches: its width, alone or beside another, and its height.
ALONE = 7.2
BESIDE = 5.6
TALL = 4.4
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
    papers = sorted({point.paper for point in points})
    colors = dict(zip(papers, itertools.cycle(COLORS)))
    machines = sorted({(not point.ours, point.machine) for point in points})  # ours first
    shapes = dict(zip(machines, itertools.cycle(SHAPES)))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    width = ALONE if columns == 1 else columns * BESIDE
    below = textwrap.wrap(caption(points, notes), int(width * LETTERS))
    height = rows * TALL + LINE * (len(below) + len(shapes))
    figure = Figure(figsize=(width, height), layout="constrained")
    for number, (title, here) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.set_title(title, fontsize=10, loc="left")
        for point in here:
            draw_point(axes, point, colors[point.paper], shapes[not point.ours, point.machine])
        scale(axes, [point.fps for point in here])
    legend(figure, shapes, "\n".join(below))
    figure.draw_without_rendering()  # labels are placed where the layout has put the markers
    for axes, here in zip(figure.axes, panels.values()):
        write_labels(axes, here, colors)
    save(figure, file)


def caption(points: Sequence[Point], notes: Sequence[str]) -> str:
    sentences = list(notes)
    if any("Seg" in point.label for point in points):
        sentences.insert(0, SHARES)
    if not all(point.ours for point in points):
        sentences.insert(0, READING)
    return " ".join(sentences)


def legend(figure: "Figure", shapes: dict[tuple[bool, str], str], below: str) -> None:
    """A mark a machine, under the caption; colors need none, for labels begin with the paper."""
    from matplotlib.lines import Line2D

    marks = []
    for (published, machine), shape in shapes.items():
        label = f"{'published' if published else 'ours'}: {machine}"
        face = "white" if published else "black"
        look = {"color": "black", "markerfacecolor": face, "linestyle": "none"}
        marks.append(Line2D([], [], marker=shape, label=label, **look))
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


def draw_point(axes: "Axes", point: Point, color: str, shape: str) -> None:
    if point.whisker:
        axes.vlines(point.fps, *point.whisker, color=color, linewidth=1, zorder=2)
    axes.plot(
        point.fps,
        point.miou,
        marker=shape,
        color=color,
        markerfacecolor=color if point.ours else "white",
        markeredgewidth=1.3,
        linestyle="none",
        zorder=3 + point.ours,
    )


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
    axes.tick_params(labelsize=SMALL, which="both")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("frames per second (logarithmic)", fontsize=9)
    axes.set_ylabel("mIoU in percent", fontsize=9)


def write_labels(axes: "Axes", here: Sequence[Point], colors: dict[str, str]) -> None:
    """Each label takes the place around its marker at which it covers least."""
    from matplotlib.transforms import Bbox

    inside = axes.get_window_extent()
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
            color=colors[point.paper],
            in_layout=False,
            zorder=5,
        )
        boxes = [box_at(label, *place) for place in LABEL_PLACES]
        covered = []
        for box in boxes:
            outside = not (inside.contains(*box.min) and inside.contains(*box.max))
            covered.append(box.count_overlaps(taken) + len(taken) * outside)
        best = covered.index(min(covered))
        taken.append(box_at(label, *LABEL_PLACES[best]))


def box_at(label: "Annotation", x: float, y: float, side: str, height: str) -> "Bbox":
    """Move the label; return what it covers there."""
    label.set(position=(x, y), ha=side, va=height)
    return label.get_window_extent()


def save(figure: "Figure", file: Path) -> None:
    """The same content gives the same bytes."""
    import matplotlib

    kind = file.suffix.lower().removeprefix(".")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    settings = {"svg.hashsalt": "segmodels", "pdf.fonttype": 42}
    with matplotlib.rc_context(settings), whole(file) as partial:
        figure.savefig(partial, format=kind, dpi=200, metadata=undated.get(kind))
