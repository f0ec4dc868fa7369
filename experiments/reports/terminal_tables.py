"""Tables that `--list`, `--show`, a training and an evaluation print."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from rich.text import Text

from experiments.command_line.catalogue import catalogue
from experiments.command_line.overrides import as_text
from experiments.command_line.parser import by
from experiments.command_line.resolved_values import Resolved
from experiments.records.results import (
    RESULTS,
    PublishedFigure,
    Result,
    kept_files,
    read_results,
)
from experiments.reports.number_formats import bare_table, console, millions, percent
from experiments.reports.published_figures import agree, comparable, measured_as, model_words

TOTALS = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "category_miou": "mIoU of the categories",
}
FURTHER_SHARES = {
    "boundary_f1": "boundary F1",
    "boundary_miou": "boundary IoU",
    "miiou": "iIoU (instances weigh alike)",
    "category_miiou": "iIoU of the categories",
    "ece": "calibration error (ECE)",
}


# --- what there is to run


def catalogue_table() -> int:
    """The papers and rows; a published figure is the first on the row's own data."""
    known = catalogue()
    results = read_results(kept_files(RESULTS))
    table = bare_table(
        "row", "parameters", "inference", "MACs", "data", "published", "ours", "protocol"
    )
    for paper, entry in known["papers"].items():
        title = f"[bold]{entry['title'].split(':')[0]}[/]"
        table.add_row(title + (f" (arXiv:{entry['arxiv']})" if entry["arxiv"] else ""))
        for row, each in entry["rows"].items():
            figures = [figure for figure in each["published"] if figure["data"] == each["data"]]
            first = PublishedFigure(**figures[0]) if figures else None
            ours = best_of_ours(results, f"{paper}/{row}", each["data"])
            table.add_row(
                f"  {paper}/{row}" + (" (main)" if row == entry["main"] else ""),
                millions(each["parameters"]),
                millions(each["inference_parameters"]),
                macs_shown(each),
                each["data"],
                f"{first.miou:.1f} ({first.split})" if first else "",
                ours_shown(ours, first),
                measured_as(first) if first else "",
            )
    console().print(table)
    print("\ndata sets: " + ", ".join(known["data"]))
    print(
        "mIoU in percent; parameters while training and at inference; "
        "MACs of one image's way to the logits, as height x width"
    )
    return 0


def macs_shown(entry: Mapping[str, Any]) -> str:
    """ "58.3G @ 768x1536": convolutions and matrix products for what the network sees."""
    if not entry["macs"]:
        return "not counted"
    return f"{entry['macs'] / 1e9:.1f}G @ {by(entry['macs_size'])}"


def best_of_ours(results: Sequence[Result], experiment: str, data: str) -> Result | None:
    """The best finished training on the row's own data, evaluated as it was trained."""
    ours = [
        result
        for result in results
        if (result.experiment, result.data, result.status) == (experiment, data, "measured")
        and not (result.released or result.model)
    ]
    return max(ours, key=attrgetter("miou"), default=None)


def ours_shown(result: Result | None, figure: PublishedFigure | None) -> str:
    """Our mIoU, with its protocol where the published figure was measured in another way."""
    if result is None:
        return "not measured"
    score = percent(result.miou, 1)
    if figure is None or agree(figure, result):
        return score
    return f"{score} ({result.split}, {result.protocol})"


def resolved_table(resolved: Resolved) -> None:
    table = bare_table("name", "value", "from")
    table.title = resolved.title
    for group, values in resolved.groups().items():
        for name, value in values.items():
            origin = resolved.origins[f"{group}.{name}"]
            table.add_row(f"{group}.{name}", Text(as_text(value)), origin)
    console().print(table)


# --- a result


def class_table(result: Result) -> None:
    """IoU per class; a class in neither truth nor prediction is "n/a", never 0."""
    table = bare_table("class", "IoU %")
    for name, iou in result.iou.items():
        table.add_row(Text(name), percent(iou, 1, none="n/a"))
    table.add_section()
    table.add_row("mIoU", f"[bold]{percent(result.miou, 1)}[/]")
    for name, words in TOTALS.items():
        if (total := getattr(result, name)) is not None:
            table.add_row(words, percent(total, 1))
    console().print(table)
    if result.interval:
        low, high = (percent(end, 1) for end in result.interval)
        print(
            f"mIoU lies between {low} and {high} in 95 % of the sets of images drawn "
            f"out of these {result.images} (bootstrap)"
        )
    for line in further_lines(result.full or {}):
        print(line)
    for name, other in result.others.items():
        score = f"mIoU {percent(other['miou'], 1)}"
        accuracy = f"pixel accuracy {percent(other['pixel_accuracy'], 1)}"
        print(f"this is the {result.network}; the {name}: {score}, {accuracy}")


def further_lines(full: Mapping[str, Any]) -> list[str]:
    """The measures of --full, in words with their units."""
    lines = [
        f"{words:32} {percent(full[name], 1)} %"
        for name, words in FURTHER_SHARES.items()
        if full.get(name) is not None
    ]
    if full.get("loss") is not None:
        lines.append(f"{'cross-entropy per image':32} {full['loss']:.3f} nats")
    for radius, band in full.get("trimap", {}).items():
        if band["miou"] is not None:
            words = f"mIoU within {radius} px of a boundary"
            lines.append(f"{words:32} {percent(band['miou'], 1)} %")
    return lines


def protocol_table(results: Sequence[Result]) -> None:
    """The same weights under each protocol and its options, beside what is published of each."""
    with_options = any(result.model != results[0].model for result in results)
    table = bare_table("protocol", *(["options"] if with_options else []))
    for head in ("mIoU", "pixel accuracy", "published", "difference"):
        table.add_column(head, justify="right")
    table.add_column("source")
    for result in results:
        ours = [result.protocol]
        if with_options:
            ours.append(model_words(result.model) or "as trained")
        ours += [percent(result.miou, 1), percent(result.pixel_accuracy, 1)]
        figures = comparable(result)
        for figure in figures:
            difference = f"{100 * result.miou - figure.miou:+.1f}"
            table.add_row(*ours, f"{figure.miou:.1f}", difference, Text(figure.source))
            ours = [""] * len(ours)
        if not figures:
            table.add_row(*ours, "-", "-", "")
    print()
    console().print(table)
    if results[0].partial:
        for line in published_lines(results[0]):
            print(line)


def published_lines(result: Result) -> list[str]:
    """The paper's figures on the same data and split; else why none is set beside ours.

    A figure that was measured in another way than ours is printed with that way.
    """
    if not result.published:
        return []
    if result.partial:
        return [
            f"{result.images} of {result.official_images} images were evaluated: "
            "no published figure can be set against that"
        ]
    place = f"{result.data} {result.split}"
    lines = []
    others = set()
    for figure in result.published:
        theirs = f"{figure.data} {figure.split}"
        others.add(theirs)
        if theirs != place:
            continue
        line = f"published: {figure.miou:.1f} on {theirs}, {figure.source}"
        if not agree(figure, result):
            line += f" (protocol {measured_as(figure)}: not comparable with {measured_as(result)})"
        lines.append(line)
    return lines or [
        f"the paper reports on {', '.join(sorted(others))}; "
        f"nothing on {place} can be set against that"
    ]
