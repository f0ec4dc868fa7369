"""Make the page that answers "where does my model fail?".

It is one HTML file without scripts that asks nothing of a network: numbers, classes, confusions,
boundaries, confidence, and the images to look at. Every section says how it is read.
"""

import html
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from experiments.drawing import svg_charts
from experiments.drawing.html_page import (
    document,
    row,
    section,
    short_count,
    table,
    table_of,
)
from experiments.evaluation import failure_analysis, failure_images
from experiments.evaluation.failure_analysis import Confused, ratio
from experiments.evaluation.failure_images import Shown, class_name, confusion_name, percent
from experiments.records.image_records import RADII, Examined
from experiments.reports.number_formats import between
from segmodels.metrics.bootstrap import class_intervals, interval
from segmodels.metrics.confusion import scores

PAIRS = 10  # of classes, each with an image
MATRIX = 24  # classes of a matrix that can be read
NEAR = 2  # of RADII: the distance of the summary
CHARTS = 24  # classes whose confidence is drawn
# The name in the scores, the title and the meaning of every number that there could be.
NUMBERS = (
    ("miou", "mIoU", "the mean IoU of the classes"),
    ("pixel_accuracy", "pixel accuracy", "pixels that are right"),
    ("mean_accuracy", "mean accuracy", "of the classes: their pixels that were found"),
    (
        "frequency_weighted_iou",
        "frequency-weighted IoU",
        "the classes weighed by their pixels",
    ),
    (
        "category_miou",
        "category mIoU",
        "a class taken for another of its category is right",
    ),
    ("boundary_f1", "boundary F1", "outlines within a tolerance of each other"),
    ("boundary_miou", "boundary IoU", "IoU of the strips along outlines"),
    ("ece", "calibration error", "ECE: confidence from accuracy; less is better"),
    ("miiou", "iIoU", "small instances weigh as much as large ones"),
)
OPTIONAL = {
    "f1": "boundary F1",
    "boundary_iou": "boundary IoU",
    "class_ece": "calibration error",
    "iiou": "iIoU",
}


STYLE = """
section { margin-top: 2.2rem } nav a { margin-right: .9rem } a { color: rgb(var(--good)) }
td .class, th .class { font-weight: inherit }
.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(48%, 14rem), 1fr)); \
gap: .6rem; margin: .6rem 0 }
.numbers div, .small figure, .case { background: var(--panel); border: 1px solid var(--line); \
border-radius: 8px; padding: .6rem .8rem }
.numbers dt { color: var(--soft) } .numbers dd { margin: 0; font-size: 1.45rem } .numbers dd.soft \
{ font-size: 1.1rem; padding: .2rem 0 }
.numbers small { white-space: nowrap; font-size: .9rem; color: var(--soft) }
.numbers dd.means { font-size: .85rem; color: var(--soft); line-height: 1.3 }
thead th { vertical-align: bottom; border-bottom: 1px solid var(--line) } tbody tr:hover { \
background: var(--panel) }
th[scope=row] { text-align: left; font-weight: 400; position: sticky; left: 0; background: \
var(--paper) }
td, th[scope=row] { white-space: nowrap } td:last-child { padding-right: 0 }
.classes tr > :last-child, .pairs tr > :last-child, .pairs tr > :nth-child(2) { text-align: left }
.classes td, .classes th { padding-right: .55rem }
.value { display: inline-block; min-width: 4.2rem }
.track { display: inline-block; width: 5rem; height: .7em; background: var(--line) } .track .bar \
{ display: block; height: 100% }
.matrix { font-size: .8rem; border-collapse: separate; border-spacing: 1px } .matrix th { border: \
0 }
.matrix td { min-width: 2.1rem; height: 1.9rem; padding: 0; text-align: center }
.matrix td { background: rgba(var(--error), calc(var(--v, 0) * var(--depth))) }
.matrix td.right { background: rgba(var(--good), calc(var(--v, 0) * var(--depth))) }
.matrix td.right { outline: 2px solid rgb(var(--good)); outline-offset: -2px }
.matrix thead th { padding: 0 0 .3rem; text-align: center }
.down { writing-mode: vertical-rl; transform: rotate(180deg); display: inline-block } .down \
i.color { vertical-align: middle }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); \
gap: 1rem; margin-bottom: .8rem }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.6rem, 1fr)); gap: .5rem }
.small figure { margin: 0; font-size: .85rem } .small .class { white-space: normal }
@media print { nav { display: none } td, th { padding-right: .5rem } .track { width: 4rem } \
.matrix td { padding: 0 } }
"""


def failure_page(examined: Examined, pictures: Callable[[int], Shown], worst: int = 8) -> str:
    """The page of the `worst` images by IoU, as many by loss, and the best view of each pair.

    `pictures` is called once for each image shown.
    """
    pairs = failure_analysis.most_confused(examined.confusions, PAIRS)
    chosen = failure_analysis.worst_images(examined, pairs, worst)
    further = failure_analysis.further_scores(examined)
    sections = {
        "numbers": numbers(examined, further),
        "classes": classes(examined, further),
        "pairs": confused_pairs(examined, pairs),
        "matrix": matrix(examined),
        "boundaries": boundaries(examined),
        "confidence": confidence(examined, further),
        "images": failure_images.worst_images(examined, pictures, chosen, worst),
    }
    links = "".join(f'<a href="#{name}">{name}</a> ' for name in sections)
    parts = [*summary(examined, pairs), f'<nav aria-label="sections">{links}</nav>']
    for name, lines in sections.items():
        parts.append(f'<section id="{name}">{"".join(lines)}</section>')
    style = svg_charts.STYLE + STYLE + failure_images.STYLE
    return document(f"Where it fails: {examined.title}", parts, style)


# --- first of all


def summary(examined: Examined, pairs: Sequence[Confused]) -> Iterator[str]:
    """The few sentences that a colleague would say first."""
    iou = failure_analysis.rated(examined.confusion)["iou"]
    lowest = [
        f"{class_name(examined, index)} {percent(iou[index])}"
        for index in failure_analysis.ranked(iou)[:3]
    ]
    weakest = f"lowest IoU of a class: {', '.join(lowest)}"
    yield f"<ul><li>{weakest if lowest else 'no pixel of this split is labeled'}</li>"
    if pairs:
        names = confusion_name(examined, pairs[0].truth, pairs[0].predicted)
        cost = f"{100 * pairs[0].cost:.2f} points of mIoU"
        yield f"<li>the costliest confusion: {names}, {cost}</li>"
    if examined.bands is not None:
        _, shares = failure_analysis.bands(examined)
        errors, pixels = shares.values()
        if errors[NEAR] > 0:
            yield (
                f"<li>{percent(errors[NEAR], digits=0)} of the wrong pixels are within {RADII[NEAR]} "
                f"pixels of a boundary, where {percent(pixels[NEAR], digits=0)} of the pixels lie</li>"
            )
    if examined.calibration is not None:
        over = failure_analysis.excess(examined.calibration.sum(0))
        if np.isfinite(over):
            sure = too_sure(over)
            yield f"<li>the network is {sure}, its mean confidence against its accuracy</li>"
    yield "</ul>"


def too_sure(over: float) -> str:
    return f"too {'sure' if over > 0 else 'unsure'} by {100 * abs(over):.1f} points"


# --- numbers and classes


def numbers(examined: Examined, further: dict[str, Any]) -> Iterator[str]:
    images = len(examined.names)
    yield section(
        "Numbers",
        f"Of {images} image{'s' * (images != 1)}, {short_count(examined.confusion.sum())} labeled "
        f"pixels, {len(examined.classes)} classes; more is better but for the calibration error, "
        "and brackets hold a 95 % interval over images.",
    )
    known = scores(torch.from_numpy(examined.confusion), examined.categories) | further
    around = ""
    if images > 1 and examined.confusion.any():
        around = f" <small>{between(interval(examined.confusions), 1)}</small>"
    yield '<dl class="numbers">'
    for name, title, meaning in NUMBERS:
        kind, text = ("", percent(known[name])) if name in known else ("soft", "not measured")
        text += around if name == "miou" else ""
        yield (
            f'<div><dt>{title}</dt><dd class="{kind}">{text}</dd>'
            f'<dd class="means">{meaning}</dd></div>'
        )
    yield "</dl>"


def classes(examined: Examined, further: dict[str, Any]) -> Iterator[str]:
    yield section(
        "Classes",
        "Lowest IoU first: accuracy is the share of a class's pixels that were found, precision "
        "the share of the pixels given to it that are its own, and the last column says what its "
        "missed pixels were most often taken for.",
    )
    confusion = examined.confusion
    true = confusion.sum(1)
    missed = failure_analysis.off_diagonal(confusion)
    rates = failure_analysis.rated(confusion)
    precision = ratio(np.diagonal(confusion), confusion.sum(0))
    images = (examined.confusions.sum(2) > 0).sum(0)  # that hold a class
    around = class_intervals(examined.confusions)
    records = []
    for index in [*failure_analysis.ranked(rates["iou"]), *np.flatnonzero(np.isnan(rates["iou"]))]:
        record = {
            "class": class_name(examined, index),
            "IoU": bar(rates["iou"][index]),
            "95 % interval": between(around[index], 1, none="–"),
            "accuracy": percent(rates["accuracy"][index]),
            "precision": percent(precision[index]),
            "of the pixels": percent(true[index] / max(true.sum(), 1), digits=2),
            "images": str(images[index]),
        }
        for name, title in OPTIONAL.items():
            if name in further:
                record[title] = percent(further[name][index])
        other = class_name(examined, missed[index].argmax())
        most = (
            f"{other} {percent(missed[index].max() / true[index])}" if missed[index].any() else "–"
        )
        records.append(record | {"most taken for": most})
    yield table_of(records, "scores of every class", "classes")
    if missing := [title for name, title in OPTIONAL.items() if name not in further]:
        yield f'<p class="soft">not measured: {", ".join(missing)}</p>'


def bar(value: float) -> str:
    if not np.isfinite(value):
        return '<span class="soft">in no image</span>'
    width = f"width:{100 * value:.1f}%"
    return (
        f'<span class="track"><span class="bar" style="{width}"></span></span>'
        f'<span class="value">{percent(value)}</span>'
    )


# --- confusions


def confused_pairs(examined: Examined, pairs: Sequence[Confused]) -> Iterator[str]:
    yield section(
        "Most confused pairs",
        "How many points of mIoU each confusion costs (the costs of all pairs add up to what is "
        "missing to 100), how much of the true class is lost to it, and the image that shows most "
        "of it.",
    )
    records = []
    for pair in pairs:
        name = html.escape(examined.names[pair.image])
        records.append(
            {
                "true class": class_name(examined, pair.truth),
                "taken for": class_name(examined, pair.predicted),
                "points of mIoU": f"{100 * pair.cost:.2f}",
                "of the true class": percent(pair.share),
                "pixels": short_count(pair.pixels),
                "seen best in": f'<a href="#image-{pair.image}">{name}</a>',
            }
        )
    if records:
        yield table_of(records, "most confused pairs of classes", "pairs")
    else:
        yield "<p>no pixel is wrong</p>"


def matrix(examined: Examined) -> Iterator[str]:
    confusion = examined.confusion
    part = failure_analysis.matrix_part(confusion, MATRIX)
    names = [class_name(examined, index) for index in part]
    few = ""
    if len(part) < len(confusion):
        names.append("all others")
        few = (
            f" Of {len(confusion)} classes these are the {len(part)} that are confused at the "
            "highest cost."
        )
    yield section(
        "Confusion matrix",
        "A row is a true class, a column what its pixels were taken for, in percent of the row: "
        "framed on the diagonal what is right, every filled cell beside it an error; less than "
        f"half a percent is left empty.{few}",
    )
    shares = ratio(confusion, confusion.sum(1, keepdims=True))
    rows = []
    for name, true in zip(names, part):
        cells = []
        for predicted in part:
            title = (
                f"{examined.classes[true]} taken for {examined.classes[predicted]}: "
                f"{short_count(confusion[true, predicted])} pixels"
            )
            kind = "right" if true == predicted else ""
            cells.append(matrix_cell(shares[true, predicted], kind, title))
        if few:
            rest = 1 - shares[true, part].sum()
            cells.append(matrix_cell(rest, "", "any class that is not shown"))
        rows.append(row(name, cells))
    heads = ["true ↓ taken for →", *(f'<span class="down">{name}</span>' for name in names)]
    yield table(heads, rows, "confusion matrix, rows are true classes", "matrix")


def matrix_cell(share: float, kind: str, title: str) -> str:
    if not np.isfinite(share):
        return f'<td class="{kind}" title="no pixel of this class">–</td>'
    strength = max(float(share), 0) ** 0.5  # the root makes small errors visible
    text = f"{100 * share:.0f}" if share >= 0.005 else ""
    return f'<td class="{kind}" style="--v:{strength:.2f}" title="{html.escape(title)}">{text}</td>'


# --- boundaries and confidence


def boundaries(examined: Examined) -> Iterator[str]:
    if examined.bands is None:
        yield section("Boundaries")
        return
    yield section(
        "Boundaries",
        "First, how good the prediction is within so many pixels of a true boundary; then, how "
        "many of all wrong pixels lie there. Curves that rise steeply mean that the outlines are "
        "what fails, flat ones that whole regions do.",
    )
    scores, shares = failure_analysis.bands(examined)
    ticks = [*map(str, RADII), "all"]
    charts = ""
    for series, spoken in (
        (scores, "accuracy and mIoU against the distance from a boundary"),
        (shares, "share of the errors and of the pixels near a boundary"),
    ):
        below = "pixels from a boundary, at most"
        charts += svg_charts.lines(series, ticks, below, f"{spoken}; the table has the numbers")
    yield f'<div class="side">{charts}</div>'
    columns = scores | shares
    records = []
    for tick, *values in zip(ticks, *columns.values()):
        record = {"distance": "everywhere" if tick == "all" else f"within {tick} px"}
        records.append(record | dict(zip(columns, map(percent, values))))
    yield table_of(records, "scores near boundaries")


def confidence(examined: Examined, further: dict[str, Any]) -> Iterator[str]:
    bins = examined.calibration
    if bins is None:
        yield section("Confidence")
        return
    yield section(
        "Confidence",
        "Of the pixels that the network is so sure of, a column says how many are right; the "
        "stroke from its top leads to the mean confidence, so an honest network's columns end on "
        "the dotted line, and lower ones are too sure.",
    )
    spoken = f"reliability diagram; calibration error {percent(further['ece'])}"
    yield f'<div class="side">{svg_charts.reliability(bins.sum(0), spoken)}<div>'
    errors = np.array(further["class_ece"], np.float64)
    costly = failure_analysis.ranked(-errors * bins[..., 0].sum(1))
    many = f", the {CHARTS} of {len(costly)} with most to mend" if len(costly) > CHARTS else ""
    yield (
        f'<h3>Class by class{many}</h3><p class="soft">By predicted class: dots under the dotted '
        'line are too sure, a large dot stands for many pixels.</p><div class="small">'
    )
    for index in sorted(costly[:CHARTS]):
        sure = too_sure(failure_analysis.excess(bins[index]))
        spoken = f"reliability of {examined.classes[index]}: {sure}"
        chart = svg_charts.small_reliability(bins[index], spoken)
        name = class_name(examined, index)
        text = f"{name}<br>error {percent(errors[index])}<br><small>{sure}</small>"
        yield f"<figure>{chart}<figcaption>{text}</figcaption></figure>"
    yield "</div></div></div>"
