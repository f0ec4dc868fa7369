"""Draw small charts as SVG inside a page: no script, no library, the page's own colors."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

STYLE = """
svg { display: block; width: 100%; height: auto; max-width: 520px; font: 13px system-ui, \
sans-serif }
svg text { fill: var(--ink) } svg .soft { fill: var(--soft) } svg .grid { stroke: var(--line) } \
svg .axis { stroke: var(--soft) }
svg .column { fill: rgb(var(--good)); fill-opacity: .75 } svg .ideal { stroke: var(--ink); \
stroke-dasharray: 3 4 }
svg .one { stroke: rgb(var(--error)); fill: rgb(var(--error)) } svg .two { stroke: \
rgb(var(--good)); fill: rgb(var(--good)) }
svg .hollow { fill: var(--panel); stroke-width: 2 } svg .short { stroke: rgb(var(--error)); \
stroke-width: 2.5 }
svg polyline { stroke-width: 2.2; fill: none !important } svg .two.line { stroke-dasharray: 6 4 }
"""
STEPS = (0, 0.25, 0.5, 0.75, 1)  # of an axis
Point = tuple[float, float]


@dataclass
class Frame:
    """A plane from 0 to 1 each way, inside margins for text; `parts` is what was drawn."""

    width: int
    height: int
    left: int = 52
    top: int = 14
    right: int = 24
    bottom: int = 44
    parts: list[str] = field(default_factory=list)

    def x(self, part: float) -> float:
        return round(self.left + part * (self.width - self.left - self.right), 1)

    def y(self, part: float) -> float:
        return round(self.top + (1 - part) * (self.height - self.top - self.bottom), 1)

    def text(
        self, x: float, y: float, text: str, anchor: str = "middle", kind: str = "soft"
    ) -> None:
        self.parts.append(
            f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{kind}">'
            f"{html.escape(text)}</text>"
        )

    def tick(self, place: float, text: str, anchor: str = "middle") -> None:
        """A word below the plane."""
        self.text(self.x(place), self.y(0) + 17, text, anchor)

    def line(self, start: Point, end: Point, kind: str) -> None:
        """A line between points of the plane."""
        self.parts.append(
            f'<line x1="{self.x(start[0])}" y1="{self.y(start[1])}" '
            f'x2="{self.x(end[0])}" y2="{self.y(end[1])}" class="{kind}"/>'
        )

    def column(self, index: int, count: int, height: float, title: str = "") -> None:
        """One of so many columns; the title appears under a pointer."""
        left = self.x((index + 0.06) / count)
        top = self.y(height)
        title = f"<title>{html.escape(title)}</title>" if title else ""
        self.parts.append(
            f'<rect x="{left}" y="{top}" width="{self.x((index + 0.94) / count) - left:.1f}" '
            f'height="{self.y(0) - top:.1f}" class="column">{title}</rect>'
        )

    def polyline(self, points: Sequence[Point], look: str) -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" {look}/>')

    def dot(self, point: Point, radius: str, kind: str) -> None:
        self.parts.append(f'<circle cx="{point[0]}" cy="{point[1]}" r="{radius}" class="{kind}"/>')

    def percents(self) -> None:
        """Draw lines across, with their percents."""
        for step in STEPS:
            self.line((0, step), (1, step), "grid")
        for step in STEPS:
            self.text(self.left - 7, self.y(step) + 4, f"{100 * step:.0f} %", "end")

    def picture(self, spoken: str, below: str = "") -> str:
        """The chart over a line of text; `spoken` is for those who do not see it."""
        if below:
            self.text(self.x(0.5), self.height - 6, below)
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{html.escape(spoken)}">{"".join(self.parts)}</svg>'
        )


def lines(
    series: Mapping[str, Sequence[float]], ticks: Sequence[str], below: str, spoken: str
) -> str:
    """A chart of two lines by their names: the first is full with dots, the second dashed with
    rings.

    Their values, from 0 to 1, stand above ticks evenly apart; nan leaves a gap.
    """
    frame = Frame(440, 290, top=40)
    frame.percents()
    places = [(index + 0.5) / len(ticks) for index in range(len(ticks))]
    for place, tick in zip(places, ticks):
        frame.tick(place, tick)
    left = frame.left  # of the names above the plane
    for kind, dots, (name, values) in zip(("one", "two"), ("one", "two hollow"), series.items()):
        points = [
            (frame.x(place), frame.y(value))
            for place, value in zip(places, values)
            if np.isfinite(value)
        ]
        frame.polyline(points, f'class="{kind} line"')
        frame.polyline([(left, 14), (left + 30, 14)], f'class="{kind} line"')
        frame.text(left + 37, 18, name, "start", "")
        for point in [*points, (left + 15, 14)]:
            frame.dot(point, "4", dots)
        left += 190
    return frame.picture(spoken, below)


def histogram(counts: Sequence[int], ends: tuple[str, str], below: str, spoken: str) -> str:
    """A chart of even bins, the count over each column."""
    frame = Frame(440, 190, left=14)
    frame.line((0, 0), (1, 0), "axis")
    for index, count in enumerate(counts):
        if count:
            height = 0.88 * count / max(counts)
            frame.column(index, len(counts), height)
            frame.text(frame.x((index + 0.5) / len(counts)), frame.y(height) - 4, str(count))
    frame.tick(0, ends[0], "start")
    frame.tick(1, ends[1], "end")
    return frame.picture(spoken, below)


def reliability(bins: np.ndarray, spoken: str) -> str:
    """A reliability diagram of (BINS, 3) pixels, sums of confidence, hits.

    Accuracy is a column, its distance to the mean confidence a stroke; below stand the shares of
    the pixels.
    """
    frame = Frame(440, 400, bottom=130)
    frame.percents()
    size = len(bins)
    for index, (pixels, confidence, hits) in enumerate(bins):
        if pixels:
            accuracy = hits / pixels
            mean = confidence / pixels
            middle = (index + 0.5) / size
            title = (
                f"{index / size:.2f} to {(index + 1) / size:.2f}: "
                f"{accuracy:.1%} right, mean confidence {mean:.1%}"
            )
            frame.column(index, size, accuracy, title)
            frame.line((middle, accuracy), (middle, mean), "short")
    frame.line((0, 0), (1, 1), "ideal")
    for step in STEPS:
        frame.tick(step, f"{100 * step:.0f} %")
    frame.text(frame.x(0.5), frame.y(0) + 36, "confidence")
    below = Frame(440, 400, top=322, bottom=22, parts=frame.parts)
    pixels = bins[:, 0]
    shares = pixels / max(pixels.sum(), 1)
    for index, share in enumerate(shares):
        if share:
            below.column(index, size, share / shares.max(), f"{share:.1%} of the pixels")
    below.line((0, 0), (1, 0), "axis")
    return below.picture(spoken, "share of the pixels")


def small_reliability(bins: np.ndarray, spoken: str) -> str:
    """The diagram of one class as a line of dots; a dot's area is the share of the pixels."""
    frame = Frame(120, 120, left=6, top=6, right=6, bottom=6)
    pixels, confidence, hits = bins[bins[:, 0] > 0].T
    points = [
        (frame.x(mean), frame.y(accuracy))
        for mean, accuracy in zip(confidence / pixels, hits / pixels)
    ]
    frame.line((0, 0), (1, 0), "axis")
    frame.line((0, 0), (0, 1), "axis")
    frame.line((0, 0), (1, 1), "ideal")
    frame.polyline(points, 'style="stroke: rgb(var(--good))"')
    for point, share in zip(points, pixels / pixels.sum()):
        frame.dot(point, f"{1.5 + 5 * share**0.5:.1f}", "column")
    return frame.picture(spoken)
