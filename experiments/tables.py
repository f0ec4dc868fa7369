"""What `--list`, `--show` and the end of a run print."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.command_line import Resolved, catalogue, shown

RESULTS = Path(__file__).parent / "results"


def console() -> Console:
    made = Console()
    return made if made.is_terminal else Console(width=140)


def catalogue_table() -> int:
    """The papers and rows; a published figure is the first on the row's own data."""
    known = catalogue()
    table = Table("row", "parameters", "data", "published", "ours", "protocol", box=None, pad_edge=False, header_style="bold")
    for paper, entry in known["papers"].items():
        table.add_row(f"[bold]{entry['title'].split(':')[0]}[/]" + (f" (arXiv:{entry['arxiv']})" if entry["arxiv"] else ""))
        for row, each in entry["rows"].items():
            first = next((figure for figure in each["published"] if figure["data"] == each["data"]), None)
            name = f"  {paper}/{row}" + (" (main)" if row == entry["main"] else "")
            ours = best_of_ours(f"{paper}/{row}", each["data"])
            table.add_row(
                name, f"{each['parameters'] / 1e6:.2f}M", each["data"], f"{first['miou']:.1f} ({first['split']})" if first else "",
                f"{ours:.1f}" if ours else "not measured", first["protocol"] if first else "",
            )  # fmt: skip
    console().print(table)
    print("\ndata sets: " + ", ".join(known["data"]) + "   (mIoU in percent)")
    return 0


def best_of_ours(experiment: str, data: str) -> float | None:
    """Of finished runs on the row's own data."""
    found = [json.loads(file.read_text()) for file in RESULTS.glob("*.json") if file.name != "catalogue.json"]
    scores = [100 * each["miou"] for each in found if each["experiment"] == experiment and each["data"] == data and each.get("finished")]
    return max(scores, default=None)


def resolved_table(resolved: Resolved) -> int:
    table = Table(
        "name", "value", "from", title=f"{resolved.experiment} on {resolved.data_name}", box=None, pad_edge=False, header_style="bold"
    )
    for group, values in resolved.groups().items():
        for name, value in values.items():
            table.add_row(f"{group}.{name}", shown(value), resolved.origins[f"{group}.{name}"])
    console().print(table)
    return 0


def class_table(result: dict[str, Any]) -> None:
    """IoU per class; a class that occurs neither in truth nor in prediction is "n/a", never 0."""
    table = Table("class", "IoU %", box=None, pad_edge=False, header_style="bold")
    for name, iou in result["iou"].items():
        table.add_row(name, "n/a" if iou is None else f"{100 * iou:.1f}")
    table.add_section()
    table.add_row("mIoU", f"[bold]{100 * result['miou']:.1f}[/]")
    table.add_row("pixel accuracy", f"{100 * result['pixel_accuracy']:.1f}")
    console().print(table)


def published_lines(result: dict[str, Any]) -> list[str]:
    """The paper's figures where they are of the same data, split and protocol; else why they are not set beside ours."""
    comparable = [each for each in result["published"] if (each["data"], each["split"]) == (result["data"], result["split"])]
    lines = []
    for each in comparable:
        note = "" if each["protocol"] == result["protocol"] else f" (protocol {each['protocol']}: not comparable with {result['protocol']})"
        lines.append(f"published: {each['miou']:.1f} on {each['data']} {each['split']}, {each['source']}{note}")
    if not comparable and result["published"]:
        others = sorted({f"{each['data']} {each['split']}" for each in result["published"]})
        lines.append(f"the paper reports on {', '.join(others)}; nothing on {result['data']} {result['split']} can be set against that")
    return lines
