"""Print the table paper / ours from the results of runs, compare two evaluations, draw speeds."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size

from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.files import write_text
from experiments.command_line.invocation import as_started
from experiments.command_line.names import did_you_mean
from experiments.command_line.parser import Parser
from experiments.records.results import RESULTS, kept_files, read_results, stopped_runs
from experiments.reports.cited_figures import cited
from experiments.reports.number_formats import plural
from experiments.reports.paper_table import Row, in_order, not_averaged, not_measured, table
from experiments.reports.paper_table_formats import (
    WIDTH,
    as_csv,
    as_markdown,
    as_text,
    not_averaged_line,
)
from segmodels.nearest_names import nearest_name

EXAMPLES = """\
examples:
  python experiments/report.py                  what is kept in experiments/results
  python experiments/report.py runs             every run in the folder runs
  python experiments/report.py runs/bisenet-*   some of them
  python experiments/report.py runs/sweep-...   those of one sweep (run.py --model "stdc/*")
  python experiments/report.py --all            also the rows of the papers that nobody has measured
  python experiments/report.py --data cityscapes --format markdown --out table.md
  python experiments/report.py --all --plot speed.png
      published mIoU against published frames per second
  python experiments/report.py runs --plot speed.pdf --speed infer.json
      ours among them (benchmark.py infer ... --out infer.json)
  python experiments/report.py runs --grid train_iterations,eval_iterations --plot grid.png
      mIoU by two options of a network, one down and one across
  python experiments/report.py --compare A.json B.json
      two of evaluate.py's files, image by image

how to read it:
  mIoU is in percent. "ours" is the mean over seeds, +- their sample standard deviation;
  a single run has no spread. Only runs alike in overrides, iterations and departures are
  averaged; unfinished and smoke runs stand apart.
  A published figure stands beside ours only on the same data, split, protocol and options,
  and only for the published network.
  (released LAYOUT) marks weights that we did not train: the authors' are the published
  network, another code line's are not.
  A plot pairs an mIoU with a speed of the same network at the same input size;
  what has no pair is counted below the table, and named with --format markdown.
"""
NAMED = 3  # of the networks that a plot lacks for one reason
NOTHING_MEASURED = (
    "Nothing is measured yet. Make a first result with: "
    "python experiments/run.py --model bisenet/resnet18 --data streets\n"
)


def make_parser() -> Parser:
    parser = Parser(
        prog="report.py",
        description="Print the table paper / ours from the results of runs.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN_OR_FOLDER",
        help="runs, folders of runs or files (none: --results)",
    )
    add(
        "--results",
        type=Path,
        metavar="DIR",
        help="where kept results are (experiments/results)",
    )
    add(
        "--format",
        choices=("text", "markdown", "csv"),
        default="text",
        help="text for a terminal (default), or for a file",
    )
    add("--data", metavar="NAME", help="only this data set, as cityscapes or streets")
    add("--split", metavar="NAME", help="only this split, as val or test")
    add("--paper", metavar="NAME", help="only this paper, as bisenet")
    add(
        "--all",
        action="store_true",
        help="also the rows of the catalogue that nobody has measured, and methods that tables cite",
    )
    add("--out", type=Path, metavar="FILE", help="write to this file instead of the screen")
    add(
        "--compare",
        type=Path,
        nargs=2,
        metavar="EVALUATION",
        help="two evaluations of the same images, by evaluate.py",
    )
    add(
        "--plot",
        type=Path,
        metavar="FILE",
        help="also draw mIoU against frames per second: a .png, .svg or .pdf",
    )
    add(
        "--grid",
        metavar="OPTION,OPTION",
        help="instead of the table: scores by two options of a network, down and across, as in "
        "--grid train_iterations,eval_iterations; --plot draws it",
    )
    add(
        "--speed",
        type=Path,
        nargs="+",
        default=[],
        metavar="BENCH",
        help="our speeds, as benchmark.py infer --out wrote them",
    )
    return parser


@command(stopped="stopped; nothing was written")
def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 after one sentence about what was wrong."""
    args = make_parser().parse_args(arguments)
    for file in (args.out, args.plot):
        if file and (file.is_dir() or not file.parent.is_dir()):
            problem = "it is a folder" if file.is_dir() else f"there is no folder {file.parent}"
            raise UserError(
                f"{file} cannot be written ({problem}); name a file in a folder that exists"
            )
    text = comparison(args) if args.compare else table_text(args)
    if args.out:
        write_text(args.out, text)
    else:
        sys.stdout.reconfigure(errors="replace")
        sys.stdout.write(text)
    return 0


def table_text(args: argparse.Namespace) -> str:
    """The table in its format; beside a csv, what the plot lacks goes to stderr."""
    rows, others, stopped = report(args)
    if args.grid:
        return grid_text(rows, args)
    unplotted = plot(rows, args) if args.plot or args.speed else []
    if args.format == "csv":
        for line in unplotted:
            print(line, file=sys.stderr)
        return as_csv([*rows, *others])
    lines = [*map(not_averaged_line, others), *(f"without result.json: {run}" for run in stopped)]
    if not rows and not lines:
        return as_started(NOTHING_MEASURED)
    if args.format == "markdown":
        return as_markdown(rows, lines, unplotted)
    screen = args.out is None and sys.stdout.isatty()
    width = min(WIDTH, get_terminal_size((WIDTH, 24)).columns) if screen else WIDTH
    return as_text(rows, lines, unplotted, width=width, color=screen)


def grid_text(rows: Sequence[Row], args: argparse.Namespace) -> str:
    """Scores by two options; --plot draws them."""
    from experiments.reports import option_grid

    papers = catalogue()["papers"]
    entries = {
        f"{name}/{row}": entry
        for name, paper in papers.items()
        for row, entry in paper["rows"].items()
    }
    found = option_grid.grids(rows, option_grid.parse_options(args.grid), entries)
    if args.plot:
        check_picture(args.plot)
        option_grid.draw(found, args.plot)
    return "\n\n".join("\n".join(option_grid.as_lines(grid)) for grid in found) + "\n"


def check_picture(file: Path) -> None:
    from experiments.reports.speed_plot import KINDS

    if file.suffix.lower() not in KINDS:
        raise UserError(
            f"{file} is no kind of picture that is drawn here; "
            f"let its name end in {', '.join(KINDS)}"
        )


def report(args: argparse.Namespace) -> tuple[list[Row], list[Row], list[Path]]:
    """The rows of the table, those that are not averaged, and the runs without a result."""
    folder = args.results or RESULTS
    if not folder.is_dir() and args.results:
        raise UserError(
            f"{folder} does not exist; name the folder of kept results, "
            "as in: report.py --results experiments/results"
        )
    paths = args.runs or ([folder] if kept_files(folder) else [])
    results = read_results(paths)
    rows = table(results)
    others = not_averaged(results)
    if args.all:
        rows = in_order(rows + not_measured(catalogue()["papers"], rows) + cited())
    stopped = stopped_runs(paths)
    for name in ("paper", "data", "split"):
        word = getattr(args, name)
        if word is not None:
            check_known(name, word, rows + others)
            rows = [row for row in rows if getattr(row, name) == word]
            others = [row for row in others if getattr(row, name) == word]
            stopped = []
    return rows, others, stopped


def check_known(name: str, word: str, rows: Sequence[Row]) -> None:
    """Refuse a paper, data set or split that no row has, with the nearest that one has."""
    known = sorted({getattr(row, name) for row in rows} - {""})
    if word in known:
        return
    have = f"there are {', '.join(known)}" if known else "there is no result at all"
    raise UserError(
        f"no result has the {name} {word}; {did_you_mean(nearest_name(word, known))}{have}; "
        "run it, or see with --all what is not measured"
    )


def comparison(args: argparse.Namespace) -> str:
    """Two evaluations beside each other; no option of a table goes with that."""
    of_tables = ("all", "data", "grid", "paper", "plot", "speed", "split")
    given = [f"--{name}" for name in of_tables if getattr(args, name)]
    if args.runs:
        given.append("RUN_OR_FOLDER")
    if args.format != "text":
        given.append(f"--format {args.format}")
    if given:
        raise UserError(
            "--compare sets two evaluations beside each other and makes no table; "
            f"leave out {', '.join(given)}"
        )
    from experiments.reports.evaluation_comparison import compare

    return compare(*args.compare)


def plot(rows: Sequence[Row], args: argparse.Namespace) -> list[str]:
    """Draw the rows that have both an mIoU and a speed; say why others are not in the picture."""
    from experiments.reports.speed_plot import draw
    from experiments.reports.speed_points import how_measured, pair, published_speeds, read_timing

    if not args.plot:
        raise UserError(
            "--speed says how fast networks are, which a plot alone shows; "
            "give it one with --plot FILE.png"
        )
    check_picture(args.plot)
    timings = [read_timing(file) for file in args.speed]
    pairs = pair(rows, timings, published_speeds(catalogue()["papers"]))
    whole = args.format == "markdown"
    missing = [f"{reason}: {listed(names, whole)}" for reason, names in pairs.missing.items()]
    if not pairs.points:
        raise UserError(
            f"there is nothing to plot ({'; '.join(missing) or 'the table is empty'}); "
            "give --all for published points, or --speed for ours"
        )
    draw(pairs.points, args.plot, how_measured(pairs.points, timings))
    drawn = f"plot: {plural(len(pairs.points), 'point')} in {args.plot}"
    return [drawn, *(f"not in it, {line}" for line in missing)]


def listed(names: Sequence[str], whole: bool) -> str:
    """The names, or how many they are where so many would bury the line about the plot."""
    if whole or len(names) <= NAMED:
        return ", ".join(names)
    return f"{len(names)} of them (--format markdown names them)"


if __name__ == "__main__":
    sys.exit(run_main(main))
