"""Measure what a paper's head adds to its backbone, beside the cost table of the EMANet paper.

Nothing here imports torch before there is work.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.structures import where
from experiments.benchmarks.table_options import add_table_options
from experiments.command_line.files import check_out, write_json
from experiments.command_line.parser import Subjects, by, height_by_width
from experiments.command_line.row_patterns import matching_rows
from experiments.reports.number_formats import millions, print_markdown, print_table

if TYPE_CHECKING:
    from experiments.benchmarks.head_costs import Cost

HELP = """\
What a head adds to its backbone, as a table of the EMANet paper has it: parameters, operations and
memory of everything behind a ResNet-101 at an eighth of the image's sides.

  python experiments/benchmark.py heads
      the networks of that table, and every row "common" with 101 layers
  python experiments/benchmark.py heads "emanet/bases_*" --size 769x769

Parameters are those that the logits depend on, with the classifier's. Memory is the peak of what
torch hands out from the backbone's maps to the logits, and, as tools that list layers count it, the
sum of all that layers put out there. The first line is the backbone itself.
"""
STORED = Path(__file__).parents[1] / "results" / "heads.json"
NOTES = "study notes on EMANet, cost table"


@dataclass(frozen=True)
class Quoted:
    """What the notes print of a network, at 513x513 over ResNet-101."""

    parameters: str
    macs: str
    memory: str


@dataclass(frozen=True)
class Head:
    """A row, its options at an eighth of the image's sides, and the notes' figures of it."""

    row: str
    model: Mapping[str, Any] = field(default_factory=dict)
    quoted: Quoted | None = None


BACKBONE = Quoted("42.6M", "190.6G", "2.603G")
TABLE = (
    Head("deeplabv3/resnet101", {"output_stride": 8}, Quoted("+15.5M", "+63.4G", "+66.0M")),
    Head("deeplabv3plus/resnet101", {"output_stride": 8}, Quoted("+16.3M", "+84.1G", "+99.3M")),
    Head("psanet/resnet101", {}, Quoted("+18.5M", "+56.3G", "+59.4M")),
    Head("emanet/resnet101_256", {}, Quoted("+4.87M", "+21.1G", "+12.3M")),
    Head("emanet/resnet101", {}, Quoted("+10.0M", "+43.1G", "+22.1M")),
)


def add_heads(subjects: Subjects) -> None:
    parser = subjects.add_parser(
        "heads",
        help="what heads add to a ResNet-101: parameters, operations, memory",
        description=HELP,
    )
    add = parser.add_argument
    add("networks", nargs="*", metavar="ROW", help="PAPER, PAPER/ROW or a pattern of rows")
    add(
        "--size",
        type=height_by_width,
        metavar="HxW",
        default="513x513",
        help="of the image (default: 513x513, as in the notes)",
    )
    add_table_options(add)
    parser.set_defaults(run=heads, parser=parser)


def heads(args: argparse.Namespace) -> int:
    from experiments.benchmarks.head_costs import Cost, measure

    if args.stored:
        result = json.loads(STORED.read_text())
        costs = [Cost(**each) for each in result["networks"]]
        show(costs, result["conditions"], "markdown")
        return 0
    if args.out:
        check_out(args.out)
    rows = {head.row: head.model for head in chosen(args.networks)}
    costs, conditions = measure(rows, args.size, args.device)
    show(costs, conditions, args.format)
    if args.out:
        networks = [cost.as_dict() for cost in costs]
        write_json(args.out, {"conditions": conditions, "networks": networks})
        print(f"result       {args.out}")
    return 0


def chosen(words: list[str]) -> list[Head]:
    if words:
        return [Head(row) for word in words for row in matching_rows(word)]
    return [*TABLE, *(Head(row, {"depth": 101}) for row in matching_rows("*/common"))]


# --- the table


def show(costs: Sequence["Cost"], conditions: Mapping[str, Any], form: str) -> None:
    at = f"@ {by(conditions['size'])}"
    figures = (
        "parameters",
        "in the notes",
        f"MACs {at}",
        "FLOPs in the notes",
        "peak MiB",
        "MiB of all layers",
        "memory in the notes",
    )
    columns = {"network": "left"} | dict.fromkeys(figures, "right")
    same_size = tuple(conditions["size"]) == (513, 513)
    quoted = {head.row: head.quoted for head in TABLE} if same_size else {}
    rows = [cells(costs[0], BACKBONE if same_size else None, "")]
    rows += [cells(cost, quoted.get(cost.name), "+") for cost in costs[1:]]
    if form == "markdown":
        print_markdown(columns, rows)
        print(f"\n{where(conditions)}; {conditions['date']}; notes: {NOTES}")
    else:
        print(f"{where(conditions)}; notes: {NOTES}\n")
        print_table(columns, rows)


def cells(cost: "Cost", quoted: Quoted | None, sign: str) -> list[str]:
    theirs = quoted or Quoted("-", "-", "-")
    return [
        cost.name,
        f"{sign}{millions(cost.parameters)}",
        theirs.parameters,
        f"{sign}{cost.macs / 1e9:.1f}G",
        theirs.macs,
        f"{sign}{cost.peak_mib:.1f}",
        f"{sign}{cost.layers_mib:.1f}",
        theirs.memory,
    ]
