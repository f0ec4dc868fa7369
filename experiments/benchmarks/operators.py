"""Measure how operators of attention grow with the image: the options, the table and the plot.

Nothing here imports torch before there is work.
"""

import argparse
import json
from collections.abc import Mapping
from itertools import chain, cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.structures import where
from experiments.benchmarks.table_options import add_table_options
from experiments.command_line.errors import UserError
from experiments.command_line.files import check_out, write_json
from experiments.command_line.parser import Subjects, by, height_by_width, positive
from experiments.command_line.row_patterns import matching_rows
from experiments.reports.number_formats import millions, print_markdown, print_table
from experiments.reports.speed_plot import COLORS, KINDS, SHAPES, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.benchmarks.operator_costs import Cost

HELP = """\
What an operator of attention costs by itself, and how that grows with the map it works on: the
operators of the rows "common", each on maps of 512 channels at --sizes. A map has an eighth of the
image's sides, so 64x128 is that of a crop of 512x1024.

  python experiments/benchmark.py operators
      all of them at three sizes; on a CPU some minutes
  python experiments/benchmark.py operators nonlocalnet/common ccnet/common --sizes 16x32,32x64
  python experiments/benchmark.py operators nonlocalnet/common nonlocalnet/local nonlocalnet/dilated
      all pairs, and those of two masks
  python experiments/benchmark.py operators --plot operators.png

Memory is the peak of what torch hands out beside the operator's weights and its map. Seconds are
the median of the rounds, in which all operators and sizes take turns. Growth is the power of the
number of pixels that a figure grows with, from the first size to the last: 1 is linear, 2
quadratic.
"""
STORED = Path(__file__).parents[1] / "results" / "operators.json"
WITHOUT = "fcn/common"  # the network without an operator


def sizes(text: str) -> list[tuple[int, int]]:
    return [height_by_width(word) for word in text.split(",")]


def add_operators(subjects: Subjects) -> None:
    parser = subjects.add_parser(
        "operators",
        help="operators of attention alone: memory and time on maps of several sizes",
        description=HELP,
    )
    add = parser.add_argument
    add(
        "networks",
        nargs="*",
        metavar="ROW",
        help='rows "common" and others with an operator in their place, such as nonlocalnet/local, '
        'or patterns of them (default: "*/common")',
    )
    add(
        "--sizes",
        type=sizes,
        metavar="HxW,...",
        default="32x64,64x128,96x192",
        help="of the maps, two or more (default: 32x64,64x128,96x192)",
    )
    add("--rounds", type=positive, default=3, metavar="N", help="turns of each (default: 3)")
    add("--plot", type=Path, metavar="FILE", help="draw memory and time against pixels")
    add_table_options(add)
    parser.set_defaults(run=operators, parser=parser)


def operators(args: argparse.Namespace) -> int:
    if args.plot and args.plot.suffix.lower() not in KINDS:
        raise UserError(f"--plot {args.plot}: a plot is a file {', '.join(KINDS)}")
    if args.out:
        check_out(args.out)
    if args.stored:
        costs, conditions = stored()
        args.format = "markdown"
    else:
        args.rows = chosen(args.networks)
        if len(args.sizes) < 2:
            raise UserError("--sizes: growth is between two sizes or more, as in 32x64,64x128")
        from experiments.benchmarks.operator_costs import measure

        costs, conditions = measure(args)
    show(costs, conditions, args.format)
    if args.plot:
        draw(costs, conditions, args.plot)
        print(f"plot         {args.plot}")
    if args.out:
        found = [cost.as_dict() for cost in costs.values()]
        write_json(args.out, {"conditions": conditions, "operators": found})
        print(f"result       {args.out}")
    return 0


def chosen(words: list[str]) -> list[str]:
    rows = [row for word in words or ["*/common"] for row in matching_rows(word)]
    rows = [row for row in rows if row != WITHOUT]
    if not rows:
        raise UserError(
            f"{WITHOUT} has no operator; name rows that have one, as nonlocalnet/common"
        )
    return rows


def stored() -> tuple[dict[str, "Cost"], dict[str, Any]]:
    from experiments.benchmarks.operator_costs import Cost

    result = json.loads(STORED.read_text())
    return {each["name"]: Cost(**each) for each in result["operators"]}, result["conditions"]


# --- the table and the plot


def show(costs: Mapping[str, "Cost"], conditions: Mapping[str, Any], form: str) -> None:
    heads = {"operator": "left", "parameters": "right"}
    for size in conditions["sizes"]:
        at = f"@ {by(size)}"
        heads |= dict.fromkeys((f"MACs {at}", f"MiB {at}", f"seconds {at}"), "right")
    heads |= dict.fromkeys(("growth of memory", "of time"), "right")
    rows = [cells(cost, conditions) for cost in costs.values()]
    if form == "markdown":
        print_markdown(heads, rows)
        print(f"\n{where(conditions)}; {conditions['date']}")
    else:
        print(f"{where(conditions)}\n")
        print_table(heads, rows)


def cells(cost: "Cost", conditions: Mapping[str, Any]) -> list[str]:
    """Return an operator's cells, in the order of the columns."""
    from experiments.benchmarks.operator_costs import growth_of_both

    found = [cost.name.removesuffix("/common"), millions(cost.parameters)]
    for macs, mib, times in zip(cost.macs, cost.mib, cost.seconds, strict=True):
        found += [f"{macs / 1e9:.1f}G", f"{mib:.0f}", f"{median(times):.3f}"]
    powers = growth_of_both(cost, conditions["sizes"]).values()
    return found + [f"{power:.2f}" for power in powers]


def draw(costs: Mapping[str, "Cost"], conditions: Mapping[str, Any], file: Path) -> None:
    """Draw memory and time against the number of pixels, with lines of growth 1 and 2."""
    from matplotlib.figure import Figure

    pixels = [height * width for height, width in conditions["sizes"]]
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = {
        "peak memory in MiB": {name: cost.mib for name, cost in costs.items()},
        "seconds": {name: list(map(median, cost.seconds)) for name, cost in costs.items()},
    }
    for number, (title, lines) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, 2, number)
        for (name, values), color, shape in zip(lines.items(), cycle(COLORS), cycle(SHAPES)):
            label = name.removesuffix("/common")
            axes.plot(pixels, values, color=color, marker=shape, label=label, linewidth=1.3)
        draw_slopes(axes, pixels, min(filter(None, chain(*lines.values()))))
        axes.set(xscale="log", yscale="log", xlabel="pixels of the map", title=title)
        axes.set_xticks(pixels, [by(size) for size in conditions["sizes"]])
        axes.minorticks_off()
        axes.grid(color="#dddddd", linewidth=0.6)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    save(figure, file)


def draw_slopes(axes: "Axes", pixels: list[int], lowest: float) -> None:
    for power, style in ((1, ":"), (2, "--")):
        line = [lowest * (count / pixels[0]) ** power for count in pixels]
        name = {1: "linear", 2: "quadratic"}[power]
        axes.plot(pixels, line, style, color="#999999", label=name, linewidth=1)
