"""Measure frames per second of networks: the options and the table.

Nothing here imports torch before there is work.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError
from experiments.command_line.files import check_out, write_json
from experiments.command_line.networks import (
    NETWORK_HELP,
    RELEASED,
    ReleasedCheckpoint,
    parse_network,
)
from experiments.command_line.parser import Subjects, by, duration, height_by_width, positive
from experiments.command_line.row_patterns import matching_rows
from experiments.reports.number_formats import print_table
from experiments.reports.protocol_names import on, settings

if TYPE_CHECKING:
    from experiments.benchmarks.network_timing import Network

INFER = """\
Frames per second of networks, without their training heads, on this machine. They run in turns
(A B C, C B A, ...), so that a machine that slows down slows all alike; the input lies on the device
already. fps is the batch over the median time of a pass.

  python experiments/benchmark.py infer bisenet stdc/stdc1 ddrnet/23_slim
      each at the size its paper evaluates it at
  python experiments/benchmark.py infer "bisenet/*" --size 1024x2048
      every row of a paper, one size for all
  python experiments/benchmark.py infer runs/bisenet-... released:stdc1_seg=stdc1.pth
  python experiments/benchmark.py infer bisenet bisenet
      one network twice: how far noise reaches

What is timed (--what): "logits", the network's own output at its own resolution, is the default.
Papers differ and often do not say; PIDNet's authors, whose script can be read, time just that, with
batch norm taken out (--folded). "full" adds the upsampling to the image's size, "label" the argmax
as well: what a program needs that uses the network.

A fast form (--folded, --channels-last, --compile) is compared with the plain network first, in
float32: one that differs by more than 1e-4 of the largest logit, or 20 times the plain network's
own rounding, is not timed. A network that fails, or whose logits are not numbers, is named and the
others go on; the exit code is then 1. A paper's own figure is printed with its hardware, and never
divided by ours.
"""
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true")
SMALLEST = 32  # pixels: the deepest maps of most networks are 1/32 of the image


def add_infer(subjects: Subjects) -> None:
    parser = subjects.add_parser("infer", help="frames per second of networks", description=INFER)
    add = parser.add_argument
    add(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help=f"PAPER, PAPER/ROW, a pattern of rows, {NETWORK_HELP}",
    )
    add(
        "--size",
        type=height_by_width,
        metavar="HxW",
        help="of the image (default: where each paper evaluates, as run.py --list shows)",
    )
    add("--batch", type=positive, default=1, metavar="N", help="images in a pass (default: 1)")
    add(
        "--precision",
        choices=PRECISIONS,
        metavar="KIND",
        default="32-true",
        help=f"{', '.join(PRECISIONS)}; mixed: autocast; true: all weights and maps "
        "(default: 32-true)",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto, the default: CUDA where there is one",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--what",
        choices=("logits", "full", "label"),
        default="logits",
        help="what is timed, see above (default: logits)",
    )
    for flag, meant in (("--argmax", "label"), ("--no-argmax", "full")):
        what.add_argument(
            flag,
            dest="what",
            action="store_const",
            const=meant,
            default=argparse.SUPPRESS,
            help=f"short for --what {meant}",
        )
    add(
        "--rounds",
        type=positive,
        default=10,
        metavar="N",
        help="turns of each network (default: 10)",
    )
    add(
        "--seconds",
        type=duration,
        default=3.0,
        metavar="S",
        help="about how long all turns of one network take together (default: 3)",
    )
    add(
        "--folded",
        action="store_true",
        help="batch norm inside the convolutions, as export.py writes it",
    )
    add(
        "--channels-last",
        action="store_true",
        help="weights and maps with their channels last in memory",
    )
    add(
        "--compile",
        action="store_true",
        help="torch.compile, in one graph; it may take minutes for each network",
    )
    add(
        "--threads",
        type=positive,
        metavar="N",
        help="torch's threads (default: torch's own choice)",
    )
    add("--out", type=Path, metavar="FILE", help="a new JSON file with every figure and condition")
    parser.set_defaults(run=infer, parser=parser)


def infer(args: argparse.Namespace) -> int:
    """Returns 1 where a network could not be timed."""
    args.sources = [source for word in args.networks for source in sources(word)]
    if args.size and min(args.size) < SMALLEST:
        raise UserError(
            f"--size {by(args.size)}: the networks need {SMALLEST}x{SMALLEST} pixels or more"
        )
    if args.out:
        check_out(args.out)
    from experiments.benchmarks.network_timing import measure

    results, conditions = measure(args)
    print(settings(conditions))
    print(f"timed: {conditions['timed']}; input: {conditions['input']}\n")
    failed = [each.name for each in results if each.problem]
    print_table(COLUMNS, map(cells, results), failed)
    for line in notes(results):
        print(line)
    if args.out:
        networks = [each.as_dict() for each in results]
        write_json(args.out, {"conditions": conditions, "networks": networks})
        print(f"result       {args.out}")
    return int(bool(failed))


def sources(word: str) -> Sequence[str | Path | ReleasedCheckpoint]:
    """The checkpoint that the word names, or the rows, as "paper/row"."""
    is_file = word.startswith(RELEASED) or Path(word).exists() or Path(word).suffix
    if is_file and word.partition("/")[0] not in catalogue()["papers"]:
        return [parse_network(word)]
    return matching_rows(word)


# --- the table

COLUMNS = {
    "network": "left",
    "size": "right",
    "fps": "right",
    "median ms": "right",
    "p95 ms": "right",
    "times as fast": "right",
    "peak MiB": "right",
    "difference": "right",
}


def cells(network: "Network") -> list[str]:
    """A network's cells, in the order of COLUMNS."""
    size = by(network.size)
    difference = "" if network.difference is None else f"{network.difference:.0e}"
    figures = network.figures
    if not figures:
        return [network.name, size, *["-"] * 5, difference, "not timed"]
    peak = figures["peak_mib"]
    return [
        network.name,
        size,
        f"{figures['fps']:.1f}",
        f"{figures['median_ms']:.2f}",
        f"{figures['p95_ms']:.2f}",
        f"{figures['ratio']:.2f}",
        f"{sum(peak.values()):.0f}" if peak else "not measured",
        difference,
    ]


def notes(results: Sequence["Network"]) -> list[str]:
    """Lines below the table: problems, sizes that differ, published figures with their sources."""
    lines = [f"{each.name}: {each.problem}" for each in results if each.problem]
    if len({each.size for each in results}) > 1:
        lines.append(
            "sizes differ, so these networks do different work; "
            "--size HEIGHTxWIDTH gives all the same"
        )
    figures = {each.name: each.published for each in results if each.published}
    for name, published in figures.items():
        for each in published:
            figure = f"{each['fps']:g} fps at {by(each['size'])}, {on(each)} ({each['source']})"
            lines.append(f"published for {name}: {figure}")
    if figures:
        lines.append("published figures come from other hardware: they are not divided by ours")
    return lines
