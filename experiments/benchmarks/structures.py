"""Measure what the structures of segmentation networks cost: the options and the tables.

Nothing here imports torch before there is work.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.alternation import median_ratio
from experiments.benchmarks.table_options import add_table_options
from experiments.command_line.files import check_out, write_json
from experiments.command_line.parser import Subjects, by, height_by_width, positive
from experiments.command_line.row_patterns import matching_rows
from experiments.reports.number_formats import millions, plural, print_markdown, print_table

if TYPE_CHECKING:
    from experiments.benchmarks.structure_costs import Cost

HELP = """\
What a structure costs in training and in inference: networks that keep the backbone's resolution by
dilation, encoders with a decoder, feature pyramids, two paths, parallel branches. Each is measured
with one image (--size) to its logits at its own resolution, and with a batch of crops (--crop,
--batch) forward, to its losses, and back.

  python experiments/benchmark.py structures
      a few networks of each structure; on a CPU some minutes
  python experiments/benchmark.py structures --size 512x1024 --crop 256x512 --rounds 1
  python experiments/benchmark.py structures "hrnet/*" ddrnet/39
      rows of your choice

Memory is the peak of what torch hands out beside the network's own weights, which take 4 bytes for
each parameter; in training it includes the gradients, which take as much, but no optimizer. Seconds
are the median of the rounds, in which all networks take turns; a ratio is the median of the rounds'
own ratios.
"""
STORED = Path(__file__).parents[1] / "results" / "structures.json"
STRUCTURES = {
    "dilated": ("fcn/resnet50", "pspnet/resnet50"),
    "encoder-decoder": ("bisenet/u_shape_4", "unet/padded"),
    "feature pyramid": ("upernet/fpn", "sfnet/resnet50"),
    "two paths": ("bisenet/resnet18", "ddrnet/39"),
    "parallel branches": ("hrnet/w18", "hrnet/w48"),
}


@dataclass(frozen=True)
class Sentence:
    """A sentence about cost, and two rows that it can be held against."""

    text: str
    dearer: str
    cheaper: str


SENTENCES = (
    Sentence(
        "dilated convolutions keep the resolution, and cost much computation and memory; an "
        "encoder with a decoder needs less of both (study notes on SFNet and DDRNet)",
        "fcn/resnet50",
        "upernet/fpn",
    ),
    Sentence(
        "a complete U-shape is too slow for real time (study notes on BiSeNet)",
        "bisenet/u_shape_4",
        "bisenet/resnet18",
    ),
    Sentence(
        "two branches take much less memory than HRNet's parallel ones (study notes on DDRNet)",
        "hrnet/w48",
        "ddrnet/39",
    ),
)


def add_structures(subjects: Subjects) -> None:
    parser = subjects.add_parser(
        "structures",
        help="parameters, operations, memory and time by structure",
        description=HELP,
    )
    add = parser.add_argument
    add("networks", nargs="*", metavar="NETWORK", help="PAPER, PAPER/ROW or a pattern of rows")
    add(
        "--size",
        type=height_by_width,
        metavar="HxW",
        default="1024x2048",
        help="of the image in inference (default: 1024x2048)",
    )
    add(
        "--crop",
        type=height_by_width,
        metavar="HxW",
        default="512x1024",
        help="of a crop in training (default: 512x1024)",
    )
    add("--batch", type=positive, default=2, metavar="N", help="crops in training (default: 2)")
    add("--rounds", type=positive, default=3, metavar="N", help="turns of each (default: 3)")
    add_table_options(add)
    parser.set_defaults(run=structures, parser=parser)


def structures(args: argparse.Namespace) -> int:
    from experiments.benchmarks.structure_costs import Cost, measure

    if args.stored:
        result = json.loads(STORED.read_text())
        costs = {each["name"]: Cost(**each) for each in result["networks"]}
        show(costs, result["conditions"], "markdown")
        return 0
    if args.out:
        check_out(args.out)
    args.rows = chosen(args.networks)
    costs, conditions = measure(args)
    show(costs, conditions, args.format)
    if args.out:
        networks = [cost.as_dict() for cost in costs.values()]
        write_json(args.out, {"conditions": conditions, "networks": networks})
        print(f"result       {args.out}")
    return 0


def show(costs: Mapping[str, "Cost"], conditions: Mapping[str, Any], form: str) -> None:
    heads = columns(conditions)
    rows = [cells(cost) for cost in costs.values()]
    if form == "markdown":
        print_markdown(heads, rows)
        print(f"\n{where(conditions)}; {conditions['date']}")
    else:
        print(f"{where(conditions)}\n")
        print_table(heads, rows)
    print()
    for line in sentences(costs):
        print(f"- {line}")


def chosen(words: list[str]) -> dict[str, str]:
    """The structure of every row by its address; empty for one that is in no list."""
    known = {row: structure for structure, rows in STRUCTURES.items() for row in rows}
    if not words:
        return known
    return {row: known.get(row, "") for word in words for row in matching_rows(word)}


# --- the tables


def where(conditions: Mapping[str, Any]) -> str:
    device = conditions["device"]
    if conditions["device_kind"] != "cuda":
        device += f", {plural(conditions['threads'], 'thread')}"
    return f"{device}; torch {conditions['versions']['torch']}; float32"


def columns(conditions: Mapping[str, Any]) -> dict[str, str]:
    size = by(conditions["size"])
    crops = f"{conditions['batch']} x {by(conditions['crop'])}"
    names = ("structure", "network")
    figures = (
        "parameters",
        f"MACs @ {size}",
        f"MiB @ {size}",
        "seconds",
        f"training MiB @ {crops}",
        "seconds in training",
    )
    return dict.fromkeys(names, "left") | dict.fromkeys(figures, "right")


def cells(cost: "Cost") -> list[str]:
    """A network's cells, in the order of the columns."""
    return [
        cost.structure,
        cost.name,
        millions(cost.parameters),
        "-" if cost.macs is None else f"{cost.macs / 1e9:.1f}G",
        f"{cost.inference_mib:.0f}",
        f"{median(cost.inference_seconds):.3f}",
        f"{cost.training_mib:.0f}",
        f"{median(cost.training_seconds):.3f}",
    ]


def sentences(costs: Mapping[str, "Cost"]) -> list[str]:
    """Each sentence of the notes with the figures that it is about, where both rows were measured."""
    lines = []
    for each in SENTENCES:
        if each.dearer in costs and each.cheaper in costs:
            ratios = ratios_of(costs[each.dearer], costs[each.cheaper])
            figures = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
            lines.append(f'"{each.text}": {each.dearer} to {each.cheaper}: {figures}')
    return lines


def ratios_of(cost: "Cost", other: "Cost") -> dict[str, float]:
    found = {"parameters": cost.parameters / other.parameters}
    if cost.macs and other.macs:
        found["MACs"] = cost.macs / other.macs
    return found | {
        "memory in inference": cost.inference_mib / other.inference_mib,
        "time in inference": median_ratio(cost.inference_seconds, other.inference_seconds),
        "memory in training": cost.training_mib / other.training_mib,
        "time in training": median_ratio(cost.training_seconds, other.training_seconds),
    }
