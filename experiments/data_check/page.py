"""The page of pictures that a check of a data set writes."""

import html
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.data_check.report import ending, percent, share
from experiments.drawing.html_page import document, embedded, swatch

MARKED, SAMPLES = 24, 8  # pictures on the page: of findings in all, of others a split
UNKNOWN = (255, 255, 255)  # no data set paints a class white


# --- the page of pictures


STYLE = """
figure { margin: 0 0 1.2rem; max-width: 100% } figure img { max-width: 32%; height: auto; vertical-align: top }
"""


def page(data: Any, splits: Sequence[Any]) -> str:
    """Sentences, classes, and pictures, suspicious ones first."""
    return document(
        f"{data.name}: check of the data",
        [*sentences(splits), *classes(data, splits), *pictures(data, splits)],
        STYLE,
    )


def sentences(splits: Sequence[Any]) -> Iterator[str]:
    findings = sorted(
        (finding for split in splits for finding in split.findings),
        key=lambda finding: not finding.problem,
    )
    problems = sum(finding.problem for finding in findings)
    yield f"<p>{html.escape(ending(splits, problems, len(findings) - problems))}</p><ul>"
    for finding in findings[:200]:
        yield f"<li{' class=wrong' * finding.problem}>{html.escape(finding.sentence)}</li>"
    yield "</ul>" + (f"<p>and {len(findings) - 200} more</p>" if len(findings) > 200 else "")


def classes(data: Any, splits: Sequence[Any]) -> Iterator[str]:
    """Legend and frequencies in one table."""
    heads = "".join(f"<th>{split.name} %</th><th></th><th>images</th>" for split in splits)
    yield f'<h2>Classes</h2><div class="scroll"><table><tr><th>class</th><th>id</th>{heads}</tr>'
    for train_id, name in enumerate(data.labels.names):
        cells = ""
        for split in splits:
            part = share(split, train_id)
            bar = f'<span class="bar" style="width:{150 * part:.1f}px"></span>'
            cells += f'<td>{percent(part)}</td><td style="text-align:left">{bar}</td><td>{split.frequencies.images[train_id]}</td>'
        yield f"<tr><td>{swatch(data.labels.palette[train_id])}{html.escape(name)}</td><td>{data.labels.ids[train_id]}</td>{cells}</tr>"
    yield "</table></div>"
    yield f"<p>{swatch((0, 0, 0))}ignored (the overlay shows the image there) &nbsp; {swatch(UNKNOWN)}an unknown id</p>"


def pictures(data: Any, splits: Sequence[Any]) -> Iterator[str]:
    """Findings that have a picture, problems first; then samples of every split."""
    marked: dict[tuple[str, int], list[Any]] = {}
    found = [
        (split, finding)
        for split in splits
        for finding in split.findings
        if finding.index is not None
    ]
    for split, finding in sorted(found, key=lambda each: not each[1].problem):
        marked.setdefault((split.name, finding.index), []).append(finding)
    by_name = {split.name: split for split in splits}
    if marked:
        yield f"<h2>Suspicious ({min(len(marked), MARKED)} of {len(marked)})</h2>"
    for (name, index), findings in [*marked.items()][:MARKED]:
        yield figure(data, by_name[name], index, findings)
    for split in splits:
        others = [index for index in split.ignored if (split.name, index) not in marked]
        if others:
            yield f"<h2>{split.name}</h2>"
        for number in range(min(SAMPLES, len(others))):
            yield figure(data, split, others[number * len(others) // min(SAMPLES, len(others))], [])


def figure(data: Any, split: Any, index: int, findings: Sequence[Any]) -> str:
    """Image, overlay and label side by side, as far as they can be read."""
    from experiments.data_check.findings import place
    from experiments.data_check.inspection import read
    from experiments.drawing.label_images import overlay

    sample = read(split.source, data.labels, index)
    shown = []
    if sample.image is not None:
        shown.append(("image", embedded(sample.image, smooth=True)))
    colors = label_colors(data, sample)
    if (
        sample.image is not None
        and sample.label is not None
        and sample.image.shape[:2] == sample.label.shape
    ):
        shown.append(
            (
                "overlay",
                embedded(overlay(sample.image, sample.label, data.labels.palette), smooth=True),
            )
        )
    if colors is not None:
        shown.append(("label", embedded(colors, smooth=False)))
    where = html.escape(f"{split.name}: {place(split.source, index)}")
    ignored = f", {split.ignored[index]:.0%} ignored" if index in split.ignored else ""
    said = "".join(
        f'<br><span class="{"wrong" if each.problem else ""}">{html.escape(each.sentence)}</span>'
        for each in findings
    )
    images = "\n".join(f'<img src="{address}" alt="{what}">' for what, address in shown)
    return f"<figure>{images}<figcaption>{where}{ignored}{said}</figcaption></figure>"


def label_colors(data: Any, sample: Any) -> Any:
    """The label in the classes' colors; what a file of unknown colors holds is shown as it is."""
    import numpy as np

    if sample.label is None:
        return sample.numbers
    colors = data.labels.color(sample.label)
    if sample.numbers is not None and sample.numbers.ndim == 2:
        unknown = np.array([value not in data.labels.known for value in range(256)])
        colors[unknown[sample.numbers]] = UNKNOWN
    return colors
