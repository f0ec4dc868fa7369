"""Look at a data set before training on it: every file is read once, and whatever is wrong is said
in a sentence of its own.

  python experiments/check_data.py --data camvid data.root=DIR
  python experiments/check_data.py --data folder data.root=DIR --out check.json --page check.html
  python experiments/check_data.py --data cityscapes data.root=DIR --splits val --limit 50
      a quick look

It reads folders, zips, packs and the built-in streets. The exit code is 0 where nothing is wrong, 1
where problems were found, and 2 where the check could not begin.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.files import check_out, write_json, write_text
from experiments.command_line.names import known_name
from experiments.command_line.overrides import data_options
from experiments.command_line.parser import Parser, count, positive
from experiments.data_check.page import page
from experiments.data_check.report import findings_of, print_findings, print_report, summary_line

if TYPE_CHECKING:
    from datamodules.module import SegmentationData
    from experiments.data_check.findings import Split

EPILOG = """\
problems                                    worth a look (they do not change the exit code)
  unreadable, truncated, 16-bit, RGBA         a number of images that is not the official one
  an image or a label alone, other sizes      all or unusually much or little ignored
  ids or colors that no class has             a class without a pixel
  train ids in place of ids, renumbered       the same image twice in a split
  palettes, 255 in place of a class
  the same image in two splits
"""


def make_parser() -> Parser:
    parser = Parser(prog="check_data.py", description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    add("--data", metavar="NAME", required=True, help="the data set, as in run.py")
    add(
        "--splits",
        metavar="NAME,...",
        help="default: train, val and test, where their labels are public",
    )
    add("--limit", metavar="N", type=positive, help="only N images of each split, spread over it")
    add(
        "--workers",
        metavar="N",
        type=count,
        default=0,
        help="threads that read (default: one per core)",
    )
    add("--out", metavar="FILE", type=Path, help="also write everything as JSON")
    add(
        "--page",
        metavar="FILE",
        type=Path,
        help="also write a page of pictures (HTML, one file), suspicious ones first",
    )
    add(
        "overrides",
        nargs="*",
        metavar="data.name=value",
        help="options of the data set, such as data.root=DIR",
    )
    return parser


@command(stopped="stopped; nothing was written")
def main(arguments: Sequence[str] | None = None) -> int:
    args = make_parser().parse_intermixed_args(arguments)
    for flag, file in (("--out", args.out), ("--page", args.page)):
        if file:
            check_out(file, flag)
    name = known_name("data set", args.data, list(catalogue()["data"]))
    options = data_options(name, args.overrides)
    from experiments.data_check.findings import content

    data, splits = inspect_splits(args, name, options)
    findings = findings_of(splits)
    print_report(data, splits, args.limit)
    print_findings(findings)
    if args.out:
        head = {"schema": 1, "data": name, "options": options, "limit": args.limit}
        write_json(args.out, head | content(splits))
    if args.page:
        write_text(args.page, page(data, splits), errors="replace")
    print(summary_line(splits))
    return int(any(finding.problem for finding in findings))


def inspect_splits(
    args: argparse.Namespace, name: str, options: dict[str, Any]
) -> "tuple[SegmentationData, list[Split]]":
    import datamodules
    from datamodules.thread_pools import cores
    from experiments.data_check.findings import SPLITS, compare_splits
    from experiments.data_check.inspection import inspect_split, open_splits

    data = datamodules.dataset(name)(**options)
    if data.layout:
        _ = data.root  # refuses here what is no folder
    names = args.splits.split(",") if args.splits else [*SPLITS]
    for name in names:
        if name not in SPLITS:
            raise UserError(f"--splits {name}: there are {', '.join(SPLITS)}")
        if name in data.hidden and args.splits:
            raise UserError(f"{data.name}'s {name} labels are not public: {data.hidden[name]}")
    public = [name for name in names if name not in data.hidden]
    splits = open_splits(data, public, optional=() if args.splits else ["test"])
    for split in splits:
        inspect_split(split, args.limit, args.workers or cores())
    compare_splits(splits)
    return data, splits


if __name__ == "__main__":
    sys.exit(run_main(main))
