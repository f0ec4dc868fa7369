"""The table paper / ours, made from the results of finished runs and from nothing else."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.files import write_text
from experiments.command_line.names import did_you_mean
from experiments.records.results import (
    FIELDS,
    RESULTS,
    curve,
    kept,
    read_catalogue,
    read_metrics,
    read_results,
    running_mean,
    stopped_runs,
)
from experiments.reports.table_formats import (
    WIDTH,
    apart_line,
    as_csv,
    as_markdown,
    as_text,
    letters,
    markdown_line,
    plain,
)
from experiments.reports.table_rows import (
    apart,
    in_order,
    like_with_like,
    name_of,
    not_measured,
    table,
)

__all__ = [  # what programs, tests and notebooks ask the report for
    "FIELDS", "UserError", "apart", "as_csv", "as_markdown", "as_text", "curve", "kept", "letters", "like_with_like", "main",
    "markdown_line", "name_of", "not_measured", "plain", "read_catalogue", "read_metrics", "read_results", "running_mean", "table",
]  # fmt: skip

EXAMPLES = """\
examples:
  python experiments/report.py                  what is kept in experiments/results
  python experiments/report.py runs             every run in the folder runs
  python experiments/report.py runs/bisenet-*   some of them
  python experiments/report.py runs/sweep-...   those of one sweep (run.py --model "stdc/*")
  python experiments/report.py --all            also the rows of the papers that nobody has measured
  python experiments/report.py --data cityscapes --format markdown --out table.md
  python experiments/report.py --all --plot speed.png                      published mIoU against published frames per second
  python experiments/report.py runs --plot speed.pdf --speed infer.json    ours among them (benchmark.py infer ... --out infer.json)
  python experiments/report.py --compare A.json B.json                     two of evaluate.py's files, image by image

how to read it:
  mIoU is in percent. "ours" is the mean over seeds, +- their sample standard deviation; a single run has no spread.
  A published figure stands beside ours only on the same data, split, protocol and options, and only for the published network.
  Only runs alike in overrides, iterations and departures are averaged; unfinished and smoke runs stand apart.
  (released LAYOUT) marks weights that we did not train: the authors' are the published network, another code line's are not.
  A plot pairs an mIoU with a speed of the same network at the same input size; what has no pair is told below the table.
"""


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        prog="report.py",
        description="Print the table paper / ours from the results of runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN_OR_FOLDER",
        help="runs, folders of runs or files (none: --results)",
    )
    words.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="where kept results and the catalogue are (experiments/results)",
    )
    words.add_argument(
        "--format",
        choices=("text", "markdown", "csv"),
        default="text",
        help="text for a terminal (default), or for a file",
    )
    words.add_argument(
        "--data", metavar="NAME", help="only this data set, as cityscapes or streets"
    )
    words.add_argument("--split", metavar="NAME", help="only this split, as val or test")
    words.add_argument("--paper", metavar="NAME", help="only this paper, as bisenet")
    words.add_argument(
        "--all", action="store_true", help="also the rows of the catalogue that nobody has measured"
    )
    words.add_argument(
        "--out", type=Path, metavar="FILE", help="write to this file instead of the screen"
    )
    words.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar="EVALUATION",
        help="two evaluations of the same images, by evaluate.py",
    )
    words.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="also draw mIoU against frames per second: a .png, .svg or .pdf",
    )
    words.add_argument(
        "--speed",
        type=Path,
        nargs="+",
        default=[],
        metavar="BENCH",
        help="our speeds, as benchmark.py infer --out wrote them",
    )
    return words


@command(stopped="stopped; nothing was written")
def main(words: Sequence[str] | None = None) -> int:
    """0, or 2 after one sentence about what was wrong."""
    options = parser().parse_args(words)
    if options.compare:
        print_or_write(compared(options), options)
        return 0
    rows, others, stopped = report(options)
    unplotted = plot(rows, options) if options.plot or options.speed else []
    print_or_write(in_format(rows, others, stopped, unplotted, options), options)
    if options.format == "csv" and unplotted:
        print(*unplotted, sep="\n", file=sys.stderr)
    return 0


def report(options: argparse.Namespace) -> tuple[list[dict], list[dict], list[Path]]:
    """The rows of the table, the rows that stand apart, and the runs without a result."""
    folder = options.results or RESULTS
    if not folder.is_dir() and options.results:
        raise UserError(
            f"{folder} does not exist; name the folder of kept results, as in: report.py --results experiments/results"
        )
    paths = options.runs or ([folder] if kept(folder) else [])
    results = read_results(paths)
    rows, others = table(results), apart(results)
    rows = in_order(rows + not_measured(read_catalogue(folder), rows)) if options.all else rows
    for name, wanted in (
        ("paper", options.paper),
        ("data", options.data),
        ("split", options.split),
    ):
        if wanted is not None:
            check_known(name, wanted, rows + others)
            rows, others = ([row for row in part if row[name] == wanted] for part in (rows, others))
    return (
        rows,
        others,
        [] if options.paper or options.data or options.split else stopped_runs(paths),
    )


def check_known(name: str, wanted: str, rows: list[dict]) -> None:
    """Refuses a paper or a data set that no row has, with the nearest that one has."""
    known = sorted({row[name] for row in rows if row[name]})
    if wanted in known:
        return
    have = f"there are {', '.join(known)}" if known else "there is no result at all"
    raise UserError(
        f"no result has the {name} {wanted}; {did_you_mean(wanted, known)}{have}; run it, or see with --all what is not measured"
    )


def compared(options: argparse.Namespace) -> str:
    """Two evaluations beside each other; no word of a table goes with that."""
    given = {"RUN_OR_FOLDER": options.runs, "--plot": options.plot, "--speed": options.speed, "--all": options.all, "--data": options.data,
             "--paper": options.paper, "--split": options.split, f"--format {options.format}": options.format != "text"}  # fmt: skip
    if beside := [name for name, value in given.items() if value]:
        raise UserError(
            f"--compare sets two evaluations beside each other and makes no table; leave out {', '.join(beside)}"
        )
    from experiments.reports.comparison import compare

    return compare(*options.compare)


def plot(rows: list[dict], options: argparse.Namespace) -> list[str]:
    """Draws the rows that have both an mIoU and a speed; a line for each reason why others are not in the picture."""
    from experiments.reports.speed_plot import check_file, draw
    from experiments.reports.speed_points import (
        how_measured,
        in_words,
        points,
        published_speeds,
        read_timing,
    )

    if not options.plot:
        raise UserError(
            "--speed says how fast networks are, which a plot alone shows; give it one with --plot FILE.png"
        )
    check_file(options.plot)
    timings = [read_timing(file) for file in options.speed]
    found, left = points(rows, timings, published_speeds(options.results or RESULTS))
    if not found:
        reasons = "; ".join(in_words(left)) or "the table is empty"
        raise UserError(
            f"there is nothing to plot ({reasons}); give --all for published points, or --speed for ours"
        )
    draw(found, options.plot, how_measured(found, timings))
    made = f"plot: {len(found)} point{'s' * (len(found) > 1)} in {options.plot}"
    return [made, *(f"not in it, {line}" for line in in_words(left))]


def print_or_write(text: str, options: argparse.Namespace) -> None:
    if options.out is None:
        sys.stdout.reconfigure(errors="replace")
        sys.stdout.write(text)
        return
    try:
        write_text(options.out, text)
    except OSError as error:
        raise UserError(
            f"{options.out} cannot be written ({error.strerror}); name a file in a folder that exists"
        ) from None


def in_format(
    rows: list[dict],
    others: list[dict],
    stopped: list[Path],
    unplotted: list[str],
    options: argparse.Namespace,
) -> str:
    if options.format == "csv":
        return as_csv(rows + others)
    lines = [*map(apart_line, others), *(f"without result.json: {run}" for run in stopped)]
    if not rows and not lines:
        return "Nothing is measured yet. Make a first result with: python experiments/run.py --model bisenet/resnet18 --data streets\n"
    if options.format == "markdown":
        return as_markdown(rows, lines, unplotted)
    screen = options.out is None and sys.stdout.isatty()
    return as_text(rows, lines, unplotted, width=screen_width() if screen else WIDTH, color=screen)


def screen_width() -> int:
    from shutil import get_terminal_size

    return min(WIDTH, get_terminal_size((WIDTH, 24)).columns)


if __name__ == "__main__":
    sys.exit(run_main(main))
