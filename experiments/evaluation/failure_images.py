"""Show the images in which a network fails worst, with its errors, its confidence and numbers."""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from experiments.drawing import svg_charts
from experiments.drawing.html_page import colored_name, embedded, section
from experiments.drawing.label_images import IGNORED, colored, overlay
from experiments.evaluation.failure_analysis import (
    image_iou,
    most_confused,
    off_diagonal,
    ranked,
    rated,
)
from experiments.records.image_records import Examined
from experiments.reports import number_formats

percent = partial(number_formats.percent, digits=1, none="–", unit="\N{NO-BREAK SPACE}%")
SURE = 0.8  # a wrong pixel of at least this confidence is wrong and sure
# They differ in lightness too.
WRONG = (176, 0, 40)
HESITANT = (238, 125, 22)
UNJUDGED = (72, 76, 82)
MARKS = {
    WRONG: "wrong and sure",
    HESITANT: "wrong and unsure",
    UNJUDGED: "not judged (black in the truth)",
}
# The colors of the confidence, from 0 to 1, can be read in gray as well.
RAMP = ((0, 34, 78), (124, 123, 120), (254, 232, 56))
LEGEND = 40  # classes; of more, those that the images hold are named
STYLE = """
.spread { margin: .6rem 0 } .legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: \
.9rem; margin: .4rem 0 }
.ramp { display: inline-block; width: 6rem; height: .8em; border: 1px solid #888 }
.case { margin: 1rem 0 } .case h3 { margin: 0; font-size: 1.05rem } .case ul { margin: .2rem 0; \
padding-left: 1.1rem }
.views { display: grid; grid-template-columns: repeat(3, 1fr); gap: .6rem; margin-top: .4rem } \
.views figure { margin: 0; min-width: 0 }
.views img { width: 100%; height: auto; display: block } .views figcaption, .facts { font-size: \
.85rem } .facts p { margin: 0 0 .3rem }
.why span { border: 1px solid var(--line); border-radius: 1rem; padding: .05rem .6rem; margin: 0 \
.4rem .2rem 0; font-size: .85rem }
.why { margin: .2rem 0; display: flex; flex-wrap: wrap } .case:target { border-color: \
rgb(var(--error)); border-width: 2px }
@media (max-width: 640px) { .views { grid-template-columns: repeat(2, 1fr) } }
@media print { .case { break-inside: avoid } .spread svg { max-width: 30rem } }
"""


class Shown(NamedTuple):
    """One image, computed again."""

    image: np.ndarray  # uint8 (H, W, 3)
    label: np.ndarray  # uint8 (H, W), 255 ignored
    predicted: np.ndarray  # uint8 (H, W)
    confidence: np.ndarray  # float (H, W), of the predicted class

    @property
    def wrong(self) -> np.ndarray:
        return (self.predicted != self.label) & (self.label != IGNORED)


def class_name(examined: Examined, index: int) -> str:
    """A class as HTML, never without its color."""
    return colored_name(examined.classes[index], examined.palette[index])


def worst_images(
    examined: Examined,
    pictures: Callable[[int], Shown],
    chosen: Mapping[int, Sequence[str]],
    worst: int,
) -> Iterator[str]:
    """`chosen` says why an image is shown; its pictures are made one image at a time."""
    by = "IoU" if examined.losses is None else "IoU and by loss"
    yield section(
        "Images",
        f"Lowest IoU first: the {worst} worst by {by}, and for every confused pair above the image "
        "that shows most of it; wrong pixels are dark red where the network was sure "
        f"({percent(SURE, digits=0)} or more) and orange where it was not, right ones are faded.",
    )
    yield iou_histogram(image_iou(examined.confusions))
    yield legend(examined, chosen)
    for index, reasons in chosen.items():
        yield article(examined, index, reasons, pictures(index))


def iou_histogram(iou: np.ndarray) -> str:
    """Show whether a few images fail or many do a little."""
    known = iou[np.isfinite(iou)]
    counts, _ = np.histogram(known, bins=20, range=(0, 1))
    median = f", median {percent(float(np.median(known)))}" if len(known) else ""
    lacking = len(iou) - len(known)
    rest = f"; {lacking} have no labeled pixel" if lacking else ""
    chart = svg_charts.histogram(
        counts.tolist(),
        ("0 %", "100 %"),
        "IoU of an image, over its classes",
        f"the images by IoU{median}",
    )
    return (
        f'<figure class="spread">{chart}'
        f'<figcaption class="soft">{len(known)} images{median}{rest}</figcaption></figure>'
    )


def legend(examined: Examined, chosen: Mapping[int, Sequence[str]]) -> str:
    classes = range(len(examined.classes))
    if len(classes) > LEGEND:
        counts = examined.confusions[list(chosen)].sum(0)
        classes = np.flatnonzero(counts.sum(0) + counts.sum(1)).tolist()
    names = "".join(class_name(examined, index) for index in classes)
    marks = "".join(colored_name(text, color) for color, text in MARKS.items())
    colors = ", ".join(f"rgb{color}" for color in RAMP)
    return (
        f'<div class="legend">{names}</div><div class="legend">{marks}'
        f'<span class="class">confidence 0 <i class="ramp" '
        f'style="background:linear-gradient(90deg, {colors})"></i> 1</span></div>'
    )


def article(examined: Examined, index: int, reasons: Sequence[str], shown: Shown) -> str:
    """The part of the page about one image."""
    name = html.escape(examined.names[index])
    views = {
        "image": shown.image,
        "prediction": overlay(shown.image, shown.predicted, examined.palette),
        "truth": colored(shown.label, examined.palette),
        "errors": error_map(shown),
        "confidence": confidence_map(shown.confidence),
    }
    figures = ""
    for view, picture in views.items():
        source = embedded(picture, smooth=view != "truth")
        figures += (
            f'<figure><img src="{source}" alt="{view} of {name}">'
            f"<figcaption>{view}</figcaption></figure>"
        )
    why = "".join(f"<span>{html.escape(reason)}</span>" for reason in reasons)
    return (
        f'<article class="case" id="image-{index}"><h3>{name}</h3><p class="why">{why}</p>'
        f'<div class="views">{figures}<div class="facts">'
        f"{''.join(numbers(examined, index, shown))}</div></div></article>"
    )


def numbers(examined: Examined, index: int, shown: Shown) -> Iterator[str]:
    """The numbers beside the pictures."""
    counts = examined.confusions[index]
    scores = rated(counts)
    true = counts.sum(1) > 0
    loss = "" if examined.losses is None else f" · loss {examined.losses[index]:.2f}"
    iou = percent(image_iou(counts[None])[0])
    yield f"<p><strong>IoU {iou}</strong> over {true.sum()} classes{loss}</p>"
    wrong = "none is wrong"
    if shown.wrong.any():
        wrong = f"{percent((shown.confidence[shown.wrong] >= SURE).mean())} of the wrong ones sure"
    yield f"<p>{percent(scores['pixel_accuracy'])} of the pixels right; {wrong}</p>"
    lowest = ranked(np.where(true, scores["iou"], np.nan))[:4]
    yield "<p>lowest classes</p><ul>"
    for each in lowest:
        yield f"<li>{class_name(examined, each)} {percent(scores['iou'][each])}</li>"
    yield "</ul>"
    if pairs := most_confused(counts[None], 3, off_diagonal):
        yield "<p>largest confusions</p><ul>"
        for pair in pairs:
            names = confusion_name(examined, pair.truth, pair.predicted)
            yield f"<li>{names} {percent(pair.share)}</li>"
        yield "</ul>"


def confusion_name(examined: Examined, truth: int, predicted: int) -> str:
    return f"{class_name(examined, truth)} taken for {class_name(examined, predicted)}"


def error_map(shown: Shown) -> np.ndarray:
    """RGB (H, W, 3): a faded gray image under the wrong pixels."""
    gray = shown.image.astype(np.float32).mean(-1, keepdims=True)
    errors = np.repeat((170 + gray / 3).astype(np.uint8), 3, 2)  # (H, W, 1) -> (H, W, 3)
    errors[shown.wrong] = HESITANT
    errors[shown.wrong & (shown.confidence >= SURE)] = WRONG
    errors[shown.label == IGNORED] = UNJUDGED
    return errors


def confidence_map(confidence: np.ndarray) -> np.ndarray:
    """0 to 1 (H, W) -> RGB (H, W, 3), from dark blue to yellow."""
    places = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(confidence, places, values) for values in zip(*RAMP)]
    return np.stack(channels, -1).round().astype(np.uint8)
