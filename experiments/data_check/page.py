"""The page of pictures that a data check writes."""

import html
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from experiments.data_check.report import class_table, findings_of, summary_line
from experiments.drawing.html_page import colored_name, document, embedded, row, swatch, table
from experiments.reports.paper_table import grouped

if TYPE_CHECKING:
    import numpy as np

    from datamodules.labels import LabelSet
    from datamodules.module import SegmentationData
    from experiments.data_check.findings import Finding, Split
    from experiments.data_check.inspection import Sample

SENTENCES = 200
MARKED = 24  # pictures of findings on the page
SAMPLES = 8  # pictures of others, of each split
UNKNOWN = (255, 255, 255)  # no data set paints a class white
STYLE = """
figure { margin: 0 0 1.2rem; max-width: 100% }
figure img { max-width: 32%; height: auto; vertical-align: top }
th[scope=row] { font-weight: 400 } td.bar-cell { text-align: left }
"""


def page(data: "SegmentationData", splits: "Sequence[Split]") -> str:
    """Sentences, classes, and pictures, suspicious ones first."""
    findings = sorted(findings_of(splits), key=lambda finding: not finding.problem)
    parts = [
        f"<p>{html.escape(summary_line(splits))}</p><ul>",
        *(sentence("li", finding) for finding in findings[:SENTENCES]),
        "</ul>",
    ]
    if len(findings) > SENTENCES:
        parts.append(f"<p>and {len(findings) - SENTENCES} more</p>")
    parts += classes(data.labels, splits)
    parts += pictures(data.labels, splits, findings)
    return document(f"{data.name}: check of the data", parts, STYLE)


def sentence(tag: str, finding: "Finding") -> str:
    return f"<{tag}{' class=wrong' * finding.problem}>{html.escape(finding.sentence)}</{tag}>"


def classes(labels: "LabelSet", splits: "Sequence[Split]") -> Iterator[str]:
    """Legend and frequencies in one table."""
    heads, classes = class_table(labels, splits)
    rows = []
    for train_id, (name, *texts) in enumerate(classes):
        cells = [f"<td>{text}</td>" for text in texts]
        cells += [bar_cell(split.shares()[train_id]) for split in splits]
        rows.append(row(colored_name(name, labels.palette[train_id]), cells))
    yield "<h2>Classes</h2>"
    yield table([*heads, *(split.name for split in splits)], rows, "how often every class occurs")
    ignored = f"{swatch((0, 0, 0))}ignored (the overlay shows the image there)"
    yield f"<p>{ignored} &nbsp; {swatch(UNKNOWN)}an unknown id</p>"


def bar_cell(share: float) -> str:
    bar = f'<span class="bar" style="width:{150 * share:.1f}px"></span>'
    return f'<td class="bar-cell">{bar}</td>'


def pictures(
    labels: "LabelSet", splits: "Sequence[Split]", findings: "Sequence[Finding]"
) -> Iterator[str]:
    """Findings that have a picture; then samples of every split."""
    from experiments.data_check.findings import spread

    by_name = {split.name: split for split in splits}
    with_picture = [finding for finding in findings if finding.index is not None]
    marked = grouped(with_picture, attrgetter("split", "index"))
    if marked:
        yield f"<h2>Suspicious ({min(len(marked), MARKED)} of {len(marked)})</h2>"
    for name, index in [*marked][:MARKED]:
        yield figure(labels, by_name[name], index, marked[name, index])
    for split in splits:
        others = [index for index in split.ignored if (split.name, index) not in marked]
        if others:
            yield f"<h2>{split.name}</h2>"
        for place in spread(len(others), SAMPLES):
            yield figure(labels, split, others[place], [])


def figure(labels: "LabelSet", split: "Split", index: int, findings: "Sequence[Finding]") -> str:
    """Image, overlay and label side by side, as far as they can be read."""
    from experiments.data_check.findings import place
    from experiments.data_check.inspection import read_sample
    from experiments.drawing.label_images import overlay

    sample = read_sample(split.source, labels, index)
    image = sample.image
    label = sample.label
    shown = {}
    if image is not None:
        shown["image"] = embedded(image, smooth=True)
        if label is not None and image.shape[:2] == label.shape:
            shown["overlay"] = embedded(overlay(image, label, labels.palette), smooth=True)
    colors = label_colors(labels, sample)
    if colors is not None:
        shown["label"] = embedded(colors, smooth=False)
    images = "\n".join(f'<img src="{source}" alt="{name}">' for name, source in shown.items())
    caption = html.escape(f"{split.name}: {place(split.source, index)}")
    if index in split.ignored:
        caption += f", {split.ignored[index]:.0%} ignored"
    for finding in findings:
        caption += f"<br>{sentence('span', finding)}"
    return f"<figure>{images}<figcaption>{caption}</figcaption></figure>"


def label_colors(labels: "LabelSet", sample: "Sample") -> "np.ndarray | None":
    """The label in the classes' colors; what a file of unknown colors holds is shown as it is."""
    import numpy as np

    from experiments.drawing.label_images import colored

    if sample.label is None:
        return sample.numbers
    colors = colored(sample.label, labels.palette)
    if sample.numbers is not None and sample.numbers.ndim == 2:
        colors[~np.isin(sample.numbers, [*labels.known])] = UNKNOWN
    return colors
