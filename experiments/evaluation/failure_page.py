"""Make the page that answers "where does my model fail?".

It is one HTML file without scripts that asks nothing of a network: numbers, classes, confusions,
boundaries, confidence, and the images to look at. Every section says how it is read.
"""

import html
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from experiments.drawing import svg_charts
from experiments.drawing.html_page import counted, document, framed, percent, section, table
from experiments.evaluation import failure_analysis
from experiments.evaluation.failure_analysis import Confused
from experiments.evaluation.failure_images import STYLE as IMAGES
from experiments.evaluation.failure_images import Shown, tagged, worst_images
from experiments.records.image_records import Examined
from segmodels.metrics.calibration import calibration_scores
from segmodels.metrics.comparison import class_intervals, interval
from segmodels.metrics.confusion import scores

PAIRS = 10  # of classes, each with an image
MATRIX = 24  # classes of a matrix that can be read
CHARTS = 24  # classes whose confidence is drawn
OPTIONAL = {
    "f1": "boundary F1",
    "boundary_iou": "boundary IoU",
    "class_ece": "calibration error",
    "iiou": "iIoU",
}


STYLE = """
section { margin-top: 2.2rem } nav a { margin-right: .9rem } a { color: rgb(var(--good)) }
.class { white-space: nowrap } td .class, th .class { font-weight: inherit }
.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(48%, 14rem), 1fr)); gap: .6rem; margin: .6rem 0 }
.numbers div, .small figure, .case { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem }
.numbers dt { color: var(--soft) } .numbers dd { margin: 0; font-size: 1.45rem } .numbers dd.soft { font-size: 1.1rem; padding: .2rem 0 }
.numbers small { white-space: nowrap; font-size: .9rem; color: var(--soft) }
.numbers dd.means { font-size: .85rem; color: var(--soft); line-height: 1.3 }
thead th { vertical-align: bottom; border-bottom: 1px solid var(--line) } tbody tr:hover { background: var(--panel) }
th[scope=row] { text-align: left; font-weight: 400; position: sticky; left: 0; background: var(--paper) }
td, th[scope=row] { white-space: nowrap } td:last-child { padding-right: 0 }
.classes tr > :last-child, .pairs tr > :last-child, .pairs tr > :nth-child(2) { text-align: left }
.value { display: inline-block; min-width: 4.2rem }
.track { display: inline-block; width: 7rem; height: .7em; background: var(--line) } .track .bar { display: block; height: 100% }
.matrix { font-size: .8rem; border-collapse: separate; border-spacing: 1px } .matrix th { border: 0 }
.matrix td { min-width: 2.1rem; height: 1.9rem; padding: 0; text-align: center }
.matrix td { background: rgba(var(--error), calc(var(--v, 0) * var(--depth))) }
.matrix td.right { background: rgba(var(--good), calc(var(--v, 0) * var(--depth))) }
.matrix td.right { outline: 2px solid rgb(var(--good)); outline-offset: -2px }
.matrix thead th { padding: 0 0 .3rem; text-align: center }
.down { writing-mode: vertical-rl; transform: rotate(180deg); display: inline-block } .down i.color { vertical-align: middle }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; margin-bottom: .8rem }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.6rem, 1fr)); gap: .5rem }
.small figure { margin: 0; font-size: .85rem } .small .class { white-space: normal }
@media print { nav { display: none } td, th { padding-right: .5rem } .track { width: 4rem } .matrix td { padding: 0 } }
"""


class Measure(NamedTuple):
    name: str
    value: float | None
    means: str
    interval: tuple[float, float] | None = None


def failure_page(examined: Examined, pictures: Callable[[int], Shown], worst: int = 8) -> str:
    """`pictures` is called once for each image shown.

    These are the `worst` by IoU, as many by loss, and the best view of each confused pair.
    """
    pairs = failure_analysis.most_confused(examined.confusions, PAIRS)
    chosen = failure_analysis.worst_images(examined, pairs, worst)
    sections = {
        "numbers": numbers(examined),
        "classes": classes(examined),
        "pairs": confused_pairs(examined, pairs),
        "matrix": matrix(examined),
        "boundaries": boundaries(examined),
        "confidence": confidence(examined),
        "images": worst_images(examined, pictures, chosen, worst),
    }
    links = "".join(f'<a href="#{name}">{name}</a> ' for name in sections)
    head = [*in_short(examined, pairs), f'<nav aria-label="sections">{links}</nav>']
    parts = [f'<section id="{name}">{"".join(found)}</section>' for name, found in sections.items()]
    return document(
        f"Where it fails: {examined.title}", [*head, *parts], svg_charts.STYLE + STYLE + IMAGES
    )


# --- first of all


def in_short(examined: Examined, pairs: Sequence[Confused]) -> Iterator[str]:
    """What a colleague would say first."""
    iou = failure_analysis.rated(examined.confusion)["iou"]
    weakest = ", ".join(
        f"{tagged(examined, index)} {percent(iou[index])}"
        for index in failure_analysis.ranked(iou)[:3]
    )
    yield "<ul>" + (
        f"<li>lowest IoU of a class: {weakest}</li>"
        if weakest
        else "<li>no pixel of this split is labeled</li>"
    )
    if pairs:
        pair = pairs[0]
        names = f"{tagged(examined, pair.truth)} taken for {tagged(examined, pair.predicted)}"
        yield f"<li>the costliest confusion: {names}, {100 * pair.cost:.2f} points of mIoU</li>"
    if examined.bands is not None and (close := failure_analysis.bands(examined)[2]).errors > 0:
        where = f"within {close.radius} pixels of a boundary, where {percent(close.pixels, 0)} of the pixels lie"
        yield f"<li>{percent(close.errors, 0)} of the wrong pixels are {where}</li>"
    if examined.calibration is not None and np.isfinite(
        over := failure_analysis.excess(examined.calibration.sum(0))
    ):
        yield f"<li>the network is {too_sure(over)}, its mean confidence against its accuracy</li>"
    yield "</ul>"


def too_sure(over: float) -> str:
    return f"too {'sure' if over > 0 else 'unsure'} by {100 * abs(over):.1f} points"


# --- numbers and classes


def measures(examined: Examined) -> list[Measure]:
    """Every number that there could be; the value is None where it was not measured."""
    counts = torch.from_numpy(examined.confusion)
    found = scores(counts, examined.categories) | failure_analysis.further_scores(examined)
    around = (
        interval(torch.from_numpy(examined.confusions))
        if len(examined.names) > 1 and examined.confusion.any()
        else None
    )
    return [
        Measure("mIoU", found["miou"], "the mean IoU of the classes", around),
        Measure("pixel accuracy", found["pixel_accuracy"], "pixels that are right"),
        Measure(
            "mean accuracy", found["mean_accuracy"], "of the classes: their pixels that were found"
        ),
        Measure(
            "frequency-weighted IoU",
            found["frequency_weighted_iou"],
            "the classes weighed by their pixels",
        ),
        Measure(
            "category mIoU",
            found.get("category_miou"),
            "a class taken for another of its category is right",
        ),
        Measure(
            "boundary F1", found.get("boundary_f1"), "outlines within a tolerance of each other"
        ),
        Measure("boundary IoU", found.get("boundary_miou"), "IoU of the strips along outlines"),
        Measure(
            "calibration error", found.get("ece"), "ECE: confidence from accuracy; less is better"
        ),
        Measure("iIoU", found.get("miiou"), "small instances weigh as much as large ones"),
    ]


def numbers(examined: Examined) -> Iterator[str]:
    pixels = counted(examined.confusion.sum())
    count = f"{len(examined.names)} image{'s' * (len(examined.names) != 1)}, {pixels} labeled pixels, {len(examined.classes)} classes"
    yield section(
        "Numbers",
        f"Of {count}; more is better but for the calibration error, and brackets hold a 95 % interval over images.",
    )
    yield '<dl class="numbers">'
    for each in measures(examined):
        value = "not measured" if each.value is None else percent(each.value)
        around = f" <small>{bracketed(each.interval)}</small>" if each.interval else ""
        kind = "soft" if each.value is None else ""
        yield f'<div><dt>{each.name}</dt><dd class="{kind}">{value}{around}</dd><dd class="means">{each.means}</dd></div>'
    yield "</dl>"


def classes(examined: Examined) -> Iterator[str]:
    yield section(
        "Classes",
        "Lowest IoU first: accuracy is the share of a class's pixels that were found, precision the share of the pixels given to it that "
        "are its own, and the last column says what its missed pixels were most often taken for.",
    )
    confusion, found = examined.confusion, failure_analysis.further_scores(examined)
    hits, true, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    rates, precision = failure_analysis.rated(confusion), failure_analysis.ratio(hits, predicted)
    holding = (examined.confusions.sum(2) > 0).sum(0)  # images, by class
    around = class_intervals(torch.from_numpy(examined.confusions))
    rows = []
    for index in [*failure_analysis.ranked(rates["iou"]), *np.flatnonzero(np.isnan(rates["iou"]))]:
        other = failure_analysis.taken_for(confusion, index)
        rows.append([
            tagged(examined, index),
            bar(rates["iou"][index]),
            bracketed(around[index]),
            percent(rates["accuracy"][index]),
            percent(precision[index]),
            percent(true[index] / max(true.sum(), 1), 2),
            str(holding[index]),
            *(percent(found[name][index]) for name in OPTIONAL if name in found),
            f"{tagged(examined, other[0])} {percent(other[1])}" if other else "–",
        ])  # fmt: skip
    optional = [head for name, head in OPTIONAL.items() if name in found]
    heads = (
        "class",
        "IoU",
        "95 % interval",
        "accuracy",
        "precision",
        "of the pixels",
        "images",
        *optional,
        "most taken for",
    )
    yield table(heads, rows, "scores of every class", "classes")
    missing = [head for name, head in OPTIONAL.items() if name not in found]
    yield f'<p class="soft">not measured: {", ".join(missing)}</p>' if missing else ""


def bracketed(interval: tuple[float, float] | None) -> str:
    return f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "–"


def bar(value: float) -> str:
    if not np.isfinite(value):
        return '<span class="soft">in no image</span>'
    return f'<span class="track"><span class="bar" style="width:{100 * value:.1f}%"></span></span><span class="value">{percent(value)}</span>'


# --- confusions


def confused_pairs(examined: Examined, pairs: Sequence[Confused]) -> Iterator[str]:
    yield section(
        "Most confused pairs",
        "How many points of mIoU each confusion costs (the costs of all pairs add up to what is missing to 100), how much of the true "
        "class is lost to it, and the image that shows most of it.",
    )
    rows = [
        [
            tagged(examined, pair.truth),
            tagged(examined, pair.predicted),
            f"{100 * pair.cost:.2f}",
            percent(pair.share),
            counted(pair.pixels),
            f'<a href="#image-{pair.image}">{html.escape(examined.names[pair.image])}</a>',
        ]
        for pair in pairs
    ]
    heads = (
        "true class",
        "taken for",
        "points of mIoU",
        "of the true class",
        "pixels",
        "seen best in",
    )
    yield (
        table(heads, rows, "most confused pairs of classes", "pairs")
        if rows
        else "<p>no pixel is wrong</p>"
    )


def matrix(examined: Examined) -> Iterator[str]:
    part, count = failure_analysis.matrix_part(examined.confusion, MATRIX), len(examined.classes)
    few = (
        f" Of {count} classes these are the {len(part)} that are confused at the highest cost."
        if len(part) < count
        else ""
    )
    yield section(
        "Confusion matrix",
        "A row is a true class, a column what its pixels were taken for, in percent of the row: framed on the diagonal what is right, "
        f"every filled cell beside it an error; less than half a percent is left empty.{few}",
    )
    confusion = examined.confusion
    shares = failure_analysis.ratio(confusion, confusion.sum(1, keepdims=True))
    heads = [f'<span class="down">{tagged(examined, index)}</span>' for index in part]
    rest = ['<span class="down">all others</span>'] if few else []
    lines = ""
    for index in part:
        cells = [
            cell(examined, confusion[index, other], shares[index, other], index, other)
            for other in part
        ]
        if few:
            cells.append(filled(1 - shares[index, part].sum(), "", "any class that is not shown"))
        lines += f'<tr><th scope="row">{tagged(examined, index)}</th>{"".join(cells)}</tr>'
    top = "".join(f'<th scope="col">{head}</th>' for head in [*heads, *rest])
    body = f'<table class="matrix"><thead><tr><th scope="col">true ↓ taken for →</th>{top}</tr></thead><tbody>{lines}</tbody></table>'
    yield framed(body, "confusion matrix, rows are true classes")


def cell(examined: Examined, pixels: int, share: float, true: int, predicted: int) -> str:
    told = f"{examined.classes[true]} taken for {examined.classes[predicted]}: {counted(pixels)} pixels"
    return filled(share, "right" if true == predicted else "", told)


def filled(share: float, kind: str, told: str) -> str:
    """The root makes small errors visible."""
    if not np.isfinite(share):
        return f'<td class="{kind}" title="no pixel of this class">–</td>'
    strength = max(float(share), 0) ** 0.5
    text = f"{100 * share:.0f}" if share >= 0.005 else ""
    return f'<td class="{kind}" style="--v:{strength:.2f}" title="{html.escape(told)}">{text}</td>'


# --- boundaries and confidence


def boundaries(examined: Examined) -> Iterator[str]:
    if examined.bands is None:
        yield section("Boundaries", "not measured")
        return
    yield section(
        "Boundaries",
        "First, how good the prediction is within so many pixels of a true boundary; then, how many of all wrong pixels lie there. Curves "
        "that rise steeply mean that the outlines are what fails, flat ones that whole regions do.",
    )
    found = failure_analysis.bands(examined)
    ticks = [str(each.radius or "all") for each in found]
    below = "pixels from a boundary, at most"
    quality = [
        svg_charts.Series("pixel accuracy", [each.accuracy for each in found]),
        svg_charts.Series("mIoU", [each.miou for each in found]),
    ]
    place = [svg_charts.Series("of the wrong pixels", [each.errors for each in found])]
    place.append(svg_charts.Series("of all pixels", [each.pixels for each in found]))
    drawn = svg_charts.lines(
        quality,
        ticks,
        below,
        "accuracy and mIoU against the distance from a boundary; the table has the numbers",
    )
    drawn += svg_charts.lines(
        place,
        ticks,
        below,
        "share of the errors and of the pixels near a boundary; the table has the numbers",
    )
    yield f'<div class="side">{drawn}</div>'
    rows = [
        [
            f"within {each.radius} px" if each.radius else "everywhere",
            *map(percent, (each.accuracy, each.miou, each.errors, each.pixels)),
        ]
        for each in found
    ]
    yield table(
        ("distance", "pixel accuracy", "mIoU", "of the wrong pixels", "of all pixels"),
        rows,
        "scores near boundaries",
    )


def confidence(examined: Examined) -> Iterator[str]:
    if examined.calibration is None:
        yield section("Confidence", "not measured")
        return
    yield section(
        "Confidence",
        "Of the pixels that the network is so sure of, a column says how many are right; the stroke from its top leads to the mean "
        "confidence, so an honest network's columns end on the dotted line, and lower ones are too sure.",
    )
    found = calibration_scores(torch.from_numpy(examined.calibration))
    drawn = svg_charts.reliability(
        examined.calibration.sum(0),
        f"reliability diagram; calibration error {percent(found['ece'])}",
    )
    yield f'<div class="side">{drawn}<div>{"".join(reliabilities(examined, found["class_ece"]))}</div></div>'


def reliabilities(examined: Examined, errors: Sequence[float | None]) -> Iterator[str]:
    """A small diagram of each class; of many classes, those with most to mend."""
    known = np.array(errors, np.float64)
    costly = failure_analysis.ranked(-known * examined.calibration[..., 0].sum(1))
    few = f", the {CHARTS} of {len(costly)} with most to mend" if len(costly) > CHARTS else ""
    yield f"<h3>Class by class{few}</h3>"
    yield '<p class="soft">By predicted class: dots under the dotted line are too sure, a large dot stands for many pixels.</p>'
    yield '<div class="small">'
    for index in sorted(costly[:CHARTS]):
        words = too_sure(float(failure_analysis.excess(examined.calibration[index])))
        drawn = svg_charts.small_reliability(
            examined.calibration[index], f"reliability of {examined.classes[index]}: {words}"
        )
        said = (
            f"{tagged(examined, index)}<br>error {percent(errors[index])}<br><small>{words}</small>"
        )
        yield f"<figure>{drawn}<figcaption>{said}</figcaption></figure>"
    yield "</div>"
