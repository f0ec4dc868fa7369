"""Small charts as SVG inside a page: no script, no library, the page's own colors in light and dark."""

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

STYLE = """
svg { display: block; width: 100%; height: auto; max-width: 520px; font: 13px system-ui, sans-serif }
svg text { fill: var(--ink) } svg .soft { fill: var(--soft) } svg .grid { stroke: var(--line) } svg .axis { stroke: var(--soft) }
svg .column { fill: rgb(var(--good)); fill-opacity: .75 } svg .ideal { stroke: var(--ink); stroke-dasharray: 3 4 }
svg .one { stroke: rgb(var(--error)); fill: rgb(var(--error)) } svg .two { stroke: rgb(var(--good)); fill: rgb(var(--good)) }
svg .hollow { fill: var(--panel); stroke-width: 2 } svg .short { stroke: rgb(var(--error)); stroke-width: 2.5 }
svg polyline { stroke-width: 2.2; fill: none !important } svg .two.line { stroke-dasharray: 6 4 }
"""


STEPS = (0, 0.25, 0.5, 0.75, 1)  # of an axis


class Series(NamedTuple):
    """Two of them at most are told apart: the first is a full line with dots, the second dashed with rings."""

    name: str
    values: Sequence[float]  # 0 to 1; nan leaves a gap


class Frame:
    """A plane from 0 to 1 each way, inside margins for words."""

    def __init__(
        self,
        width: int,
        height: int,
        left: int = 52,
        top: int = 14,
        right: int = 24,
        bottom: int = 44,
    ) -> None:
        self.width, self.height, self.left, self.top = width, height, left, top
        self.wide, self.high = width - left - right, height - top - bottom

    def x(self, part: float) -> float:
        return round(self.left + part * self.wide, 1)

    def y(self, part: float) -> float:
        return round(self.top + (1 - part) * self.high, 1)

    def words(
        self, x: float, y: float, text: str, anchor: str = "middle", kind: str = "soft"
    ) -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{kind}">{html.escape(text)}</text>'

    def line(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> str:
        """Between points of the plane."""
        return f'<line x1="{self.x(start[0])}" y1="{self.y(start[1])}" x2="{self.x(end[0])}" y2="{self.y(end[1])}" class="{kind}"/>'

    def column(self, start: float, end: float, height: float, told: str = "") -> str:
        title = f"<title>{html.escape(told)}</title>" if told else ""
        return (
            f'<rect x="{self.x(start)}" y="{self.y(height)}" width="{self.x(end) - self.x(start):.1f}" '
            f'height="{self.y(0) - self.y(height):.1f}" class="column">{title}</rect>'
        )

    def percents(self) -> list[str]:
        """Lines across, with their percents."""
        lines = [self.line((0, step), (1, step), "grid") for step in STEPS]
        return lines + [
            self.words(self.left - 7, self.y(step) + 4, f"{100 * step:.0f} %", "end")
            for step in STEPS
        ]

    def below(self, text: str) -> str:
        return self.words(self.x(0.5), self.height - 6, text)

    def picture(self, parts: Sequence[str], told: str) -> str:
        """`told` is what somebody hears who does not see it."""
        return f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{html.escape(told)}">{"".join(parts)}</svg>'


def lines(series: Sequence[Series], ticks: Sequence[str], below: str, told: str) -> str:
    """One point a tick, ticks evenly apart."""
    frame = Frame(440, 290, top=40)
    places = [(index + 0.5) / len(ticks) for index in range(len(ticks))]
    parts = frame.percents() + [
        frame.words(frame.x(place), frame.y(0) + 17, tick) for place, tick in zip(places, ticks)
    ]
    for number, (kind, each) in enumerate(zip(("one", "two"), series)):
        points = [(place, value) for place, value in zip(places, each.values) if np.isfinite(value)]
        path = " ".join(f"{frame.x(place)},{frame.y(value)}" for place, value in points)
        parts.append(f'<polyline points="{path}" class="{kind} line"/>')
        dots = [(frame.x(place), frame.y(value)) for place, value in points]
        start = frame.left + number * 190
        parts.append(f'<polyline points="{start},14 {start + 30},14" class="{kind} line"/>')
        parts.append(frame.words(start + 37, 18, each.name, "start", ""))
        for x, y in [*dots, (start + 15, 14)]:
            parts.append(
                f'<circle cx="{x}" cy="{y}" r="4" class="{kind}{" hollow" * (kind == "two")}"/>'
            )
    return frame.picture([*parts, frame.below(below)], told)


def histogram(counts: Sequence[int], ends: tuple[str, str], below: str, told: str) -> str:
    """Even bins, the count over each column."""
    frame = Frame(440, 190, left=14)
    size, most = len(counts), max(*counts, 1)
    parts = [frame.line((0, 0), (1, 0), "axis")]
    for index, count in enumerate(counts):
        if count:
            parts.append(
                frame.column((index + 0.06) / size, (index + 0.94) / size, 0.88 * count / most)
            )
            parts.append(
                frame.words(
                    frame.x((index + 0.5) / size), frame.y(0.88 * count / most) - 4, str(count)
                )
            )
    parts += [
        frame.words(frame.x(place), frame.y(0) + 17, end, side)
        for place, end, side in zip((0, 1), ends, ("start", "end"))
    ]
    return frame.picture([*parts, frame.below(below)], told)


def reliability(bins: np.ndarray, told: str) -> str:
    """(BINS, 3) pixels, sums of confidence, hits: accuracy as columns, its distance to the mean confidence as a stroke; pixels below."""
    frame, size = Frame(440, 400, bottom=130), len(bins)
    parts = frame.percents()
    for index, (pixels, confidence, hits) in enumerate(bins):
        if pixels:
            accuracy, sure, middle = hits / pixels, confidence / pixels, (index + 0.5) / size
            said = f"{index / size:.2f} to {(index + 1) / size:.2f}: {accuracy:.1%} right, mean confidence {sure:.1%}"
            parts.append(
                frame.column((index + 0.06) / size, (index + 0.94) / size, accuracy, told=said)
            )
            parts.append(frame.line((middle, accuracy), (middle, sure), "short"))
    parts.append(frame.line((0, 0), (1, 1), "ideal"))
    ticks = [frame.words(frame.x(step), frame.y(0) + 17, f"{100 * step:.0f} %") for step in STEPS]
    return frame.picture(
        [
            *parts,
            *ticks,
            frame.words(frame.x(0.5), frame.y(0) + 36, "confidence"),
            *masses(bins[:, 0]),
        ],
        told,
    )


def masses(pixels: np.ndarray) -> list[str]:
    """How the pixels are spread over the bins, under the diagram."""
    frame, size = Frame(440, 400, top=322, bottom=22), len(pixels)
    shares = pixels / max(pixels.sum(), 1)
    columns = [
        frame.column(
            (index + 0.06) / size,
            (index + 0.94) / size,
            share / max(shares.max(), 1e-12),
            told=f"{share:.1%} of the pixels",
        )
        for index, share in enumerate(shares)
        if share
    ]
    return [*columns, frame.line((0, 0), (1, 0), "axis"), frame.below("share of the pixels")]


def small_reliability(bins: np.ndarray, told: str) -> str:
    """The same of one class, as a line of dots; a dot's area is the share of the pixels."""
    frame = Frame(120, 120, left=6, top=6, right=6, bottom=6)
    filled = bins[bins[:, 0] > 0]
    points = [
        (confidence / pixels, hits / pixels, pixels / filled[:, 0].sum())
        for pixels, confidence, hits in filled
    ]
    edges = [frame.line(*ends, "axis") for ends in (((0, 0), (1, 0)), ((0, 0), (0, 1)))]
    path = " ".join(f"{frame.x(sure)},{frame.y(accuracy)}" for sure, accuracy, _ in points)
    dots = [
        f'<circle cx="{frame.x(sure)}" cy="{frame.y(accuracy)}" r="{1.5 + 5 * share**0.5:.1f}" class="column"/>'
        for sure, accuracy, share in points
    ]
    ideal = frame.line((0, 0), (1, 1), "ideal")
    return frame.picture(
        [*edges, ideal, f'<polyline points="{path}" style="stroke: rgb(var(--good))"/>', *dots],
        told,
    )
