r"""Train a paper's network by its recipe, evaluate it, and leave everything in one run folder.

the built-in streets: nothing to download
  python experiments/run.py --model bisenet
Cityscapes, another row, other values
  python experiments/run.py --model bisenet --data cityscapes data.root=DIR
  python experiments/run.py --model bisenet/no_arm recipe.lr=0.01 --seed 1
with an eighth of the labels, and its baseline with --semi none
  python experiments/run.py --model bisenet --semi mean_teacher data.labeled=1/8
go on with a run that was stopped
  python experiments/run.py --resume runs/bisenet-resnet18-streets-s0-...
every row of a paper, three seeds each, in one table
  python experiments/run.py --model "stdc/*" --seeds 0,1,2
"""

import os
import sys
from argparse import Namespace
from pathlib import Path

from experiments.command_line.citations import citation
from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.files import check_makeable
from experiments.command_line.networks import parse_network
from experiments.command_line.parser import Parser, count
from experiments.command_line.resolved_values import GROUPS, STARTS, Resolved, resolve
from experiments.command_line.row_patterns import matching_rows
from experiments.records import run_folder
from experiments.reports.terminal_tables import catalogue_table, resolved_table
from experiments.sweep import plan, sweep
from segmodels import semisup

EPILOG = r"""overrides   group.name=value, for example recipe.lr=0.01 recipe.crop=512x1024
            model.arm=false data.root=DIR trainer.devices=2
  recipe    how the paper trains: crop, scales, batch, iterations, optimizer, ...
  model     the network's own options, as its paper varies them
  data      the data set's: root, workers, labeled (the part of the training
            images that keeps its labels: 1/8, 100, FILE), ...
  semi      the semi-supervised method's: weight, and what else its paper varies
  trainer   the machine's: accelerator, devices, accumulate, compile,
            validate_every, max_minutes, wandb, ...
--model X --show prints every name, its value and where the value came from

fine-tuning on your own images
  python experiments/run.py --model bisenet --data folder data.root=DIR \
    --init runs/... --recipe finetune
  DIR holds train/images, train/masks, val/images, val/masks and classes.yaml;
  see docs/GUIDE.md
"""


def make_parser() -> Parser:
    parser = Parser(prog="run.py", groups=GROUPS, description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    add(
        "--model",
        metavar="PAPER[/ROW]",
        help="what to train; a paper alone is its main row (see --list); 'stdc/*' or rows with "
        "commas between them: one after another",
    )
    add(
        "--data",
        metavar="NAME",
        help="streets (built in), cityscapes, camvid, folder; default: cityscapes if "
        "CITYSCAPES_DATASET is set, else streets",
    )
    add(
        "--semi",
        metavar="METHOD",
        default="none",
        help=f"learn from unlabeled images too, by {' or '.join(semisup.names())}; none (default) "
        "is the baseline for it",
    )
    add("--seed", type=count, default=0, help="of weights, data and dropout (default 0)")
    add(
        "--seeds",
        metavar="N,N,...",
        help="several seeds, one after another; the table at the end has their mean and spread",
    )
    add(
        "--init",
        metavar="FROM",
        help="scratch, imagenet, FILE (a checkpoint, whose heads of another class count start "
        "anew, or a backbone's ImageNet weights) or released:NAME=FILE (the authors')",
    )
    add(
        "--recipe",
        choices=("finetune",),
        help="finetune: a short training from --init's weights with a tenth of the learning rate, "
        "its steps and crops by the number and size of the images; default: the paper's recipe",
    )
    add(
        "--resume",
        metavar="RUN",
        type=Path,
        help="go on with an unfinished run folder, exactly where it stopped",
    )
    add(
        "--smoke",
        action="store_true",
        help="a few tiny steps, to see that everything works (seconds)",
    )
    add(
        "--runs",
        metavar="DIR",
        type=Path,
        default=Path("runs"),
        help="where run folders go (default: runs)",
    )
    add(
        "--list",
        action="store_true",
        help="what there is: papers, rows, parameters, published and our best mIoU",
    )
    add(
        "--show",
        action="store_true",
        help="every resolved value of this run, where it came from, and what is not the paper's; "
        "trains nothing",
    )
    add("--cite", action="store_true", help="the paper's BibTeX; trains nothing")
    add("overrides", nargs="*", metavar="group.name=value", help="any value of the run; see below")
    return parser


@command(stopped="stopped before training began; nothing was written")
def main(arguments: list[str] | None = None) -> int:
    args = make_parser().parse_intermixed_args(arguments)
    if args.list:
        return catalogue_table()
    if args.resume:
        return resume(args)
    if not args.model:
        raise UserError(
            "which model? give --model paper[/row], for example --model bisenet "
            "(--list prints them all)"
        )
    if args.cite:
        papers = dict.fromkeys(row.partition("/")[0] for row in matching_rows(args.model))
        print("\n\n".join(map(citation, papers)))
        return 0
    if not args.show:
        check_makeable(args.runs, "--runs")
        if args.init not in (None, *STARTS):
            parse_network(args.init)  # refuses a missing file before data are made
    if plan.several(args):
        return sweep.sweep(args)
    given = (args.overrides, args.smoke, args.semi, args.init, args.recipe)
    resolved = resolve(args.model, args.data, *given)
    plan.check_encoder(resolved)
    if args.show:
        return show(resolved)
    return start(plan.settled(resolved), args.seed, args.runs)


def show(resolved: Resolved) -> int:
    """Print every value; what --recipe derives from the images only where these are there."""
    try:
        plan.settled(resolved)
    except UserError as problem:
        print(f"without what --recipe {resolved.preset} derives from the images: {problem}")
    resolved_table(resolved)
    print_departures(resolved)
    return 0


def resume(args: Namespace) -> int:
    """Go on with a run folder, whose config.json says everything."""
    given = [flag for flag in ("model", "data", "recipe", "init", "seeds") if getattr(args, flag)]
    given += args.overrides
    given += ["semi"] if args.semi != "none" else []
    given += ["--smoke"] if args.smoke else []
    if given:
        raise UserError(
            "--resume goes on exactly as the run began, so it stands alone; "
            f"leave out {', '.join(given)}"
        )
    config = run_folder.read_config(args.resume)
    if not (args.resume / "checkpoints" / "last.ckpt").is_file():
        raise UserError(
            f"{args.resume} has no checkpoints/last.ckpt: it stopped before its first checkpoint; "
            "start it again"
        )
    return start(run_folder.resolved_from(config), config["seed"], args.resume.parent, args.resume)


def start(resolved: Resolved, seed: int, runs: Path, resumed: Path | None = None) -> int:
    # another device's process is started with SEGMODELS_RUN, and all of it was said before
    if run_folder.leads() and not os.environ.get("SEGMODELS_RUN"):
        introduce(resolved)
    from experiments.training.train import train  # takes torch

    return train(resolved, seed=seed, folders=runs, resumed=resumed)


def introduce(resolved: Resolved) -> None:
    """Print what is trained on what, how to use Cityscapes, and what is not the paper's."""
    note = (
        " (built-in street scenes; for Cityscapes: --data cityscapes data.root=DIR, "
        "or set CITYSCAPES_DATASET=DIR)"
    )
    print(resolved.title + (note if resolved.data_name == "streets" else ""))
    print_departures(resolved)


def print_departures(resolved: Resolved) -> None:
    if resolved.departures:
        print(f"not as in the paper ({len(resolved.departures)}):")
        print("\n".join(f"  {departure}" for departure in resolved.departures), flush=True)


if __name__ == "__main__":
    sys.exit(run_main(main))
