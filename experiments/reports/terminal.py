"""What `--list`, `--show` and the end of a run print."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.command_line.catalogue import catalogue
from experiments.command_line.overrides import as_text
from experiments.command_line.parser import by
from experiments.command_line.values import Resolved
from experiments.records.results import RESULTS, kept, partial
from experiments.reports.table_rows import (
    agree,
    comparable,
    evaluated_with,
    evaluation_options,
    measured_as,
    model_words,
    overrides_of,
)


def console() -> Console:
    made = Console()
    return made if made.is_terminal else Console(width=160)


def print_table(
    columns: Mapping[str, str], rows: Iterable[Sequence[str]], failed: Collection[str] = ()
) -> None:
    """Print a table. `columns` are its heads and "left" or "right"; rows named in `failed` are red."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, side in columns.items():
        table.add_column(head, justify=side)
    for row in rows:
        table.add_row(*map(Text, row), style="red" if row[0] in failed else None)
    console().print(table)


def print_markdown(columns: Mapping[str, str], rows: Iterable[Sequence[str]]) -> None:
    rulers = ["--:" if side == "right" else "---" for side in columns.values()]
    for row in (columns, rulers, *rows):
        print("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |")


def catalogue_table() -> int:
    """The papers and rows; a published figure is the first on the row's own data."""
    known = catalogue()
    heads = ("row", "parameters", "inference", "MACs", "data", "published", "ours", "protocol")
    table = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for paper, entry in known["papers"].items():
        table.add_row(
            f"[bold]{entry['title'].split(':')[0]}[/]"
            + (f" (arXiv:{entry['arxiv']})" if entry["arxiv"] else "")
        )
        for row, each in entry["rows"].items():
            first = next(
                (figure for figure in each["published"] if figure["data"] == each["data"]), None
            )
            name = f"  {paper}/{row}" + (" (main)" if row == entry["main"] else "")
            protocol = measured_as(first, overrides_of(first)) if first else ""
            ours = best_of_ours(f"{paper}/{row}", each["data"])
            table.add_row(
                name, millions(each["parameters"]), millions(each["inference_parameters"]), macs_shown(each),
                each["data"], f"{first['miou']:.1f} ({first['split']})" if first else "",
                ours_shown(ours, first), protocol,
            )  # fmt: skip
    console().print(table)
    print("\ndata sets: " + ", ".join(known["data"]))
    print(
        "mIoU in percent; parameters while training and at inference; MACs of one image's way to the logits, as height x width"
    )
    return 0


def millions(count: int) -> str:
    return f"{count / 1e6:.2f}M"


def macs_shown(entry: dict[str, Any]) -> str:
    """ "58.3G @ 768x1536": convolutions and matrix products, at what the network sees of one image."""
    return (
        f"{entry['macs'] / 1e9:.1f}G @ {by(entry['macs_size'])}" if entry["macs"] else "not counted"
    )


def best_of_ours(experiment: str, data: str) -> dict[str, Any] | None:
    """The result of the best finished run on the row's own data."""
    found = [json.loads(file.read_text()) for file in kept(RESULTS)]
    ours = [each for each in found if is_ours(each, experiment, data)]
    return max(ours, key=lambda each: each["miou"], default=None)


def ours_shown(result: dict[str, Any] | None, figure: dict[str, Any] | None) -> str:
    """Our mIoU, with its protocol where the published figure beside it was measured in another way."""
    if result is None:
        return "not measured"
    score = f"{100 * result['miou']:.1f}"
    same = figure is None or agree(figure, result)
    return score if same else f"{score} ({result['split']}, {result['protocol']})"


def is_ours(result: dict[str, Any], experiment: str, data: str) -> bool:
    return (
        result["experiment"] == experiment
        and result["data"] == data
        and bool(result.get("finished"))
        and not result.get("released")
        and not evaluated_with(result)
    )


def resolved_table(resolved: Resolved) -> int:
    table = Table(
        "name",
        "value",
        "from",
        title=f"{resolved.experiment} on {resolved.data_name}",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for group, values in resolved.groups().items():
        for name, value in values.items():
            origin = resolved.origins[f"{group}.{name}"]
            table.add_row(f"{group}.{name}", Text(as_text(value)), origin)
    console().print(table)
    return 0


def class_table(result: dict[str, Any]) -> None:
    """IoU per class; a class that occurs neither in truth nor in prediction is "n/a", never 0."""
    table = Table("class", "IoU %", box=None, pad_edge=False, header_style="bold")
    for name, iou in result["iou"].items():
        table.add_row(Text(name), "n/a" if iou is None else f"{100 * iou:.1f}")
    table.add_section()
    table.add_row("mIoU", f"[bold]{100 * result['miou']:.1f}[/]")
    for name, word in (("pixel_accuracy", "pixel accuracy"), ("mean_accuracy", "mean accuracy"),
                       ("frequency_weighted_iou", "frequency-weighted IoU"), ("category_miou", "mIoU of the categories")):  # fmt: skip
        if result.get(name) is not None:
            table.add_row(word, f"{100 * result[name]:.1f}")
    console().print(table)
    if result.get("interval"):
        low, high = (100 * each for each in result["interval"])
        print(
            f"mIoU lies between {low:.1f} and {high:.1f} in 95 % of the sets of images drawn out of these {result['images']} (bootstrap)"
        )
    for line in further_lines(result.get("full") or {}):
        print(line)
    for name, other in result["others"].items():
        score = (
            f"mIoU {100 * other['miou']:.1f}, pixel accuracy {100 * other['pixel_accuracy']:.1f}"
        )
        print(f"this is the {result['network']}; the {name}: {score}")


def further_lines(found: dict[str, Any]) -> list[str]:
    """What --full found, in words with their units."""
    shares = {
        "boundary_f1": "boundary F1", "boundary_miou": "boundary IoU", "miiou": "iIoU (instances weigh alike)",
        "category_miiou": "iIoU of the categories", "ece": "calibration error (ECE)",
    }  # fmt: skip
    lines = [
        f"{word:32} {100 * found[name]:.1f} %"
        for name, word in shares.items()
        if found.get(name) is not None
    ]
    if found.get("loss") is not None:
        lines.append(f"{'cross-entropy per image':32} {found['loss']:.3f} nats")
    for radius, band in (found.get("trimap") or {}).items():
        if band.get("miou") is not None:
            lines.append(
                f"{f'mIoU within {radius} px of a boundary':32} {100 * band['miou']:.1f} %"
            )
    return lines


def protocol_table(results: list[dict[str, Any]]) -> None:
    """The same weights under each protocol and its options, beside what is published of each."""
    with_options = any(evaluated_with(each) != evaluated_with(results[0]) for each in results)
    table = Table("protocol", box=None, pad_edge=False, header_style="bold")
    if with_options:
        table.add_column("options")
    for head in ("mIoU", "pixel accuracy", "published", "difference", "source"):
        table.add_column(head, justify="left" if head == "source" else "right")
    for each in results:
        figures = (f"{100 * each['miou']:.1f}", f"{100 * each['pixel_accuracy']:.1f}")
        words = (model_words(each) or "as trained",) if with_options else ()
        ours = (each["protocol"], *words, *figures)
        same = comparable(each)
        for figure in same:
            table.add_row(
                *ours,
                f"{figure['miou']:.1f}",
                f"{100 * each['miou'] - figure['miou']:+.1f}",
                Text(figure["source"]),
            )
            ours = ("",) * len(ours)
        if not same:
            table.add_row(*ours, "-", "-", "")
    print()
    console().print(table)
    for line in published_lines(results[0]) if partial(results[0]) else ():
        print(line)


def published_lines(result: dict[str, Any]) -> list[str]:
    """The paper's figures on the same data and split; else why none is set beside ours.

    A figure that was measured in another way than ours is told with that way.
    """
    if result["published"] and partial(result):
        return [
            f"{result['images']} of {result['official_images']} images were judged: no published figure can be set against that"
        ]
    there = [
        each
        for each in result["published"]
        if (each["data"], each["split"]) == (result["data"], result["split"])
    ]
    lines = []
    for each in there:
        theirs = measured_as(each, overrides_of(each))
        ours = measured_as(result, evaluation_options(result))
        note = "" if agree(each, result) else f" (protocol {theirs}: not comparable with {ours})"
        lines.append(
            f"published: {each['miou']:.1f} on {each['data']} {each['split']}, {each['source']}{note}"
        )
    if not there and result["published"]:
        others = sorted({f"{each['data']} {each['split']}" for each in result["published"]})
        lines.append(
            f"the paper reports on {', '.join(others)}; nothing on {result['data']} {result['split']} can be set against that"
        )
    return lines
