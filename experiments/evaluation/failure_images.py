"""Show the images in which a network fails worst: prediction, truth, errors, confidence, numbers."""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.drawing import svg_charts
from experiments.drawing.html_page import embedded, named, percent, section, swatch
from experiments.drawing.label_images import IGNORED, colored, overlay
from experiments.evaluation import failure_analysis
from experiments.records.image_records import Examined

SURE = 0.8  # a wrong pixel of at least this confidence is wrong and sure
WRONG, HESITANT, UNJUDGED = (176, 0, 40), (238, 125, 22), (72, 76, 82)  # apart in lightness too
RAMP = (
    (0, 34, 78),
    (124, 123, 120),
    (254, 232, 56),
)  # of the confidence, from 0 to 1; read in gray as well
LEGEND = 40  # classes; of more, those that the images hold are named
STYLE = """
.spread { margin: .6rem 0 } .legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .9rem; margin: .4rem 0 }
.ramp { display: inline-block; width: 6rem; height: .8em; border: 1px solid #888 }
.case { margin: 1rem 0 } .case h3 { margin: 0; font-size: 1.05rem } .case ul { margin: .2rem 0; padding-left: 1.1rem }
.views { display: grid; grid-template-columns: repeat(3, 1fr); gap: .6rem; margin-top: .4rem } .views figure { margin: 0; min-width: 0 }
.views img { width: 100%; height: auto; display: block } .views figcaption, .facts { font-size: .85rem } .facts p { margin: 0 0 .3rem }
.why span { border: 1px solid var(--line); border-radius: 1rem; padding: .05rem .6rem; margin: 0 .4rem .2rem 0; font-size: .85rem }
.why { margin: .2rem 0; display: flex; flex-wrap: wrap } .case:target { border-color: rgb(var(--error)); border-width: 2px }
@media (max-width: 640px) { .views { grid-template-columns: repeat(2, 1fr) } }
@media print { .case { break-inside: avoid } .spread svg { max-width: 30rem } }
"""


class Shown(NamedTuple):
    """One image, computed again."""

    image: np.ndarray  # uint8 (H, W, 3)
    label: np.ndarray  # uint8 (H, W), 255 ignored
    predicted: np.ndarray  # uint8 (H, W)
    confidence: np.ndarray  # float (H, W), of the predicted class


def tagged(examined: Examined, index: int) -> str:
    return named(examined.classes[index], examined.palette[index])


def worst_images(
    examined: Examined,
    pictures: Callable[[int], Shown],
    chosen: Mapping[int, Sequence[str]],
    worst: int,
) -> Iterator[str]:
    """`chosen` says why an image is shown; its pictures are made one image at a time."""
    by = "IoU and by loss" if examined.losses is not None else "IoU"
    yield section(
        "Images",
        f"Lowest IoU first: the {worst} worst by {by}, and for every confused pair above the image that shows most of it; wrong pixels are "
        f"dark red where the network was sure ({percent(SURE, 0)} or more) and orange where it was not, right ones are faded.",
    )
    yield spread(examined)
    yield legend(examined, chosen)
    for index, reasons in chosen.items():
        yield case(examined, index, reasons, pictures(index))


def spread(examined: Examined) -> str:
    """Whether a few images fail or many do a little."""
    iou = failure_analysis.image_iou(examined.confusions)
    judged = iou[np.isfinite(iou)]
    counts, _ = np.histogram(judged, bins=20, range=(0, 1))
    middle = f", median {percent(float(np.median(judged)))}" if len(judged) else ""
    unjudged = f"; {len(iou) - len(judged)} have no labeled pixel" * (len(judged) < len(iou))
    drawn = svg_charts.histogram(
        counts.tolist(),
        ("0 %", "100 %"),
        "IoU of an image, over its classes",
        f"the images by IoU{middle}",
    )
    return f'<figure class="spread">{drawn}<figcaption class="soft">{len(judged)} images{middle}{unjudged}</figcaption></figure>'


def legend(examined: Examined, chosen: Mapping[int, Sequence[str]]) -> str:
    classes = range(len(examined.classes))
    if len(classes) > LEGEND:
        counts = examined.confusions[list(chosen)].sum(0)
        classes = np.flatnonzero(counts.sum(0) + counts.sum(1)).tolist()
    names = "".join(tagged(examined, index) for index in classes)
    marks = (
        (WRONG, "wrong and sure"),
        (HESITANT, "wrong and unsure"),
        (UNJUDGED, "not judged (black in the truth)"),
    )
    errors = "".join(f'<span class="class">{swatch(color)}{text}</span>' for color, text in marks)
    colors = ", ".join(f"rgb{color}" for color in RAMP)
    ramp = f'<span class="class">confidence 0 <i class="ramp" style="background:linear-gradient(90deg, {colors})"></i> 1</span>'
    return f'<div class="legend">{names}</div><div class="legend">{errors}{ramp}</div>'


def case(examined: Examined, index: int, reasons: Sequence[str], shown: Shown) -> str:
    name = html.escape(examined.names[index])
    views = (
        ("image", shown.image, True),
        ("prediction", overlay(shown.image, shown.predicted, examined.palette), True),
        ("truth", colored(shown.label, examined.palette), False),
        ("errors", error_map(shown), True),
        ("confidence", ramp(shown.confidence), True),
    )
    figures = "".join(
        f'<figure><img src="{embedded(picture, smooth)}" alt="{what} of {name}"><figcaption>{what}</figcaption></figure>'
        for what, picture, smooth in views
    )
    why = "".join(f"<span>{html.escape(reason)}</span>" for reason in reasons)
    facts = f'<div class="facts">{"".join(told(examined, index, shown))}</div>'
    head = f'<h3>{name}</h3><p class="why">{why}</p>'
    return f'<article class="case" id="image-{index}">{head}<div class="views">{figures}{facts}</div></article>'


def told(examined: Examined, index: int, shown: Shown) -> Iterator[str]:
    """The numbers beside the pictures."""
    counts = examined.confusions[index : index + 1]
    found = failure_analysis.rated(counts[0])
    over = f"over {(counts[0].sum(1) > 0).sum()} classes"
    loss = "" if examined.losses is None else f" · loss {examined.losses[index]:.2f}"
    yield f"<p><strong>IoU {percent(failure_analysis.image_iou(counts)[0])}</strong> {over}{loss}</p>"
    yield f"<p>{percent(found['pixel_accuracy'])} of the pixels right; {sure_of(shown)}</p>"
    iou = np.where(counts[0].sum(1) > 0, found["iou"], np.nan)
    worst = "".join(
        f"<li>{tagged(examined, each)} {percent(iou[each])}</li>"
        for each in failure_analysis.ranked(iou)[:4]
    )
    yield f"<p>lowest classes</p><ul>{worst}</ul>"
    pairs = [
        f"<li>{tagged(examined, each.truth)} taken for {tagged(examined, each.predicted)} {percent(each.share)}</li>"
        for each in failure_analysis.largest_confused(counts[0], 3)
    ]
    yield f"<p>largest confusions</p><ul>{''.join(pairs)}</ul>" if pairs else ""


def sure_of(shown: Shown) -> str:
    wrong = mistaken(shown)
    return (
        f"{percent((shown.confidence[wrong] >= SURE).mean())} of the wrong ones sure"
        if wrong.any()
        else "none is wrong"
    )


def mistaken(shown: Shown) -> np.ndarray:
    return (shown.predicted != shown.label) & (shown.label != IGNORED)


def error_map(shown: Shown) -> np.ndarray:
    """RGB (H, W, 3): a faded gray image under the wrong pixels."""
    gray = shown.image.astype(np.float32).mean(-1, keepdims=True)
    made = np.repeat((170 + gray / 3).astype(np.uint8), 3, 2)
    wrong, sure = mistaken(shown), shown.confidence >= SURE
    made[wrong & sure], made[wrong & ~sure], made[shown.label == IGNORED] = (
        WRONG,
        HESITANT,
        UNJUDGED,
    )
    return made


def ramp(confidence: np.ndarray) -> np.ndarray:
    """0 to 1 (H, W) -> RGB (H, W, 3), from dark blue to yellow."""
    places = np.linspace(0, 1, len(RAMP))
    return (
        np.stack([np.interp(confidence, places, channel) for channel in zip(*RAMP)], -1)
        .round()
        .astype(np.uint8)
    )
