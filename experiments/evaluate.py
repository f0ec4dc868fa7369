r"""Score a trained network on a data set, in any inference mode.

a run's best checkpoint, on the validation split of its own data
  python experiments/evaluate.py runs/bisenet-...
its last one, averaged with the mirrored image
  python experiments/evaluate.py runs/bisenet-... --checkpoint last \
    --inference flip
under every protocol of its paper, side by side with the paper's figures
  python experiments/evaluate.py runs/stdc-... --protocols
at several image sizes: scores beside operations and seconds
  python experiments/evaluate.py runs/stdc-... --sizes 0.25,0.5,0.75,1
the authors' released checkpoint, under its paper's protocols
  python experiments/evaluate.py --released stdc1_seg stdc1.pth --protocols \
    data.root=DIR
boundaries, calibration, instances, and a page that shows where it fails
  python experiments/evaluate.py runs/bisenet-... --full --page failures.html
another split, another copy of the data
  python experiments/evaluate.py CHECKPOINT --split test data.root=DIR
with another option of the network, which leaves its weights as they are
  python experiments/evaluate.py runs/emanet-... model.eval_iterations=5
ImageNet-C's corruptions (noise, blur, weather, JPEG), and other streets
  python experiments/evaluate.py runs/bisenet-... --shift
  python experiments/evaluate.py runs/bisenet-... --shift weather,contrast \
    --severities 1,3,5 --across acdc=DIR,bdd100k=DIR
the files that Cityscapes' test server takes
  python experiments/evaluate.py runs/bisenet-... --split test --submit NEW \
    data.root=DIR
"""

import argparse
import sys
from pathlib import Path

from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.files import check_makeable, check_out, check_writable
from experiments.command_line.networks import (
    NETWORK_HELP,
    RELEASED,
    ReleasedCheckpoint,
    add_checkpoint,
    parse_network,
    released_checkpoint,
)
from experiments.command_line.overrides import split_overrides
from experiments.command_line.parser import (
    Parser,
    add_computation,
    check_computation,
    count,
    positive,
)
from experiments.command_line.resolved_values import checked_mode
from experiments.records.trained_networks import check_words

EPILOG = """\
inference modes (joined by +, outermost first)
  whole                        the image as it is
  resized:0.5                  at half size, logits brought back (STDC's Seg50)
  slide:769x769                windows (height x width), 2/3 of a window apart
  slide:769x769/513x513        windows 513 apart
  stitch:8                     one pass for each of 8 x 8 shifts, their logits at 1/8 interlaced (FCN)
  flip                         the mean with the mirrored image
  multiscale:0.75,1,1.25+flip  the mean over scales, each with its mirror image
  crf:10+whole                 what follows, refined by 10 steps of a
                               fully-connected CRF
  crf:10,4,67,3,3,1+whole      with a weight of 4, 67 pixels and 3 color levels
                               for the kernel of position and color, a weight
                               of 3 and 1 pixel for that of position: the default

corruptions of --shift (ImageNet-C's)
  noise    gaussian_noise, shot_noise, impulse_noise
  blur     defocus_blur, motion_blur
  weather  snow, fog, brightness
  digital  contrast, pixelate, jpeg_compression

words of the form group.name=value
  data.root=DIR            any option of the data set
  model.eval_iterations=5  any option of the network that leaves its weights
                           as they are; without one, as it was trained, and
                           --protocols also takes those that the paper reports

what is written
  of a run: evaluation-....json beside the checkpoint, and .npz with each
  image's numbers (report.py --compare A.json B.json reads them)
  with --shift: shift-....json, a plot and a sheet of pictures there
  of the authors' checkpoint: a folder below runs/ with result.json, so that
  report.py runs shows it beside retrained ones
  with --submit: the folder, once all of it is there; where it was stopped,
  the same command goes on
"""
GROUPS = ("data.", "model.")


def make_parser() -> Parser:
    parser = Parser(prog="evaluate.py", description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    add("network", nargs="?", help=NETWORK_HELP)
    add(
        "overrides",
        nargs="*",
        metavar="group.name=value",
        help="options of the data set and of the network, see below",
    )
    add(
        "--released",
        nargs=2,
        metavar=("LAYOUT", "FILE"),
        help="the authors' checkpoint; short for released:NAME=FILE",
    )
    add_checkpoint(parser)
    add = parser.add_argument_group("on what").add_argument
    add(
        "--data",
        metavar="NAME",
        help="default: what the network was trained on, with the run's options",
    )
    add("--split", choices=("val", "test"), default="val", help="default: val")
    how = parser.add_argument_group("how")
    add = how.add_argument
    mode = how.add_mutually_exclusive_group().add_argument
    mode("--inference", metavar="MODE", type=checked_mode, help="default: the recipe's")
    mode(
        "--protocols", action="store_true", help="every protocol of the paper, one after the other"
    )
    mode(
        "--sizes",
        metavar="LIST",
        type=sizes,
        help="images scaled by each of these, such as 0.25,0.5,0.75,1: mIoU, also of small and of "
        "large classes, operations and seconds",
    )
    add(
        "--network",
        dest="which",
        metavar="NAME",
        help="of a semi-supervised run, which has several, such as student (default: the method's)",
    )
    add_computation(add)
    add = parser.add_argument_group("what else to find out").add_argument
    add(
        "--full",
        action="store_true",
        help="also boundary F1 and IoU, accuracy near boundaries, calibration, loss, iIoU",
    )
    add(
        "--page",
        metavar="FILE",
        type=Path,
        help="a new HTML page of where it fails (takes --full with it)",
    )
    add(
        "--beside",
        metavar="NETWORK",
        action="append",
        default=[],
        help="draw its predictions too; may be given again",
    )
    add(
        "--pictures",
        metavar="N",
        type=count,
        default=4,
        help="images on the sheet of --released and --beside (default: 4)",
    )
    add(
        "--submit",
        metavar="DIR",
        type=Path,
        help="write label files for Cityscapes' test server into a new folder",
    )
    add = parser.add_argument_group("generalization").add_argument
    add(
        "--shift",
        metavar="KINDS",
        nargs="?",
        const="all",
        help="corrupted images: all (default), groups or kinds, see below",
    )
    add(
        "--severities",
        metavar="LIST",
        type=severities,
        default="1,2,3,4,5",
        help="of --shift (default: 1,2,3,4,5)",
    )
    add(
        "--shift-images",
        metavar="N",
        type=positive,
        help="take N images spread over the split (default: all)",
    )
    add(
        "--across",
        metavar="NAME=DIR,...",
        help="other data sets of the same classes, such as acdc=DIR,darkzurich=DIR",
    )
    add(
        "--reference",
        metavar="FILE",
        type=Path,
        help="another network's --shift file: CD and rCD against it",
    )
    add = parser.add_argument_group("where to").add_argument
    add("--out", metavar="FILE", type=Path, help="a new file (default: see below)")
    add(
        "--runs",
        metavar="DIR",
        type=Path,
        default=Path("runs"),
        help="for released checkpoints (default: runs)",
    )
    return parser


def severities(text: str) -> list[int]:
    numbers = set(text.split(","))
    if not numbers <= set("12345"):
        raise argparse.ArgumentTypeError(
            f"{text}: it is numbers from 1 to 5 with commas between them, such as 1,3,5"
        )
    return sorted(map(int, numbers))


def sizes(text: str) -> list[float]:
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or len(set(found)) < len(found) or not all(0 < each <= 4 for each in found):
        raise argparse.ArgumentTypeError(
            f"{text}: it is factors up to 4 with commas between them, such as 0.25,0.5,0.75,1"
        )
    return found


@command(stopped="stopped; what is named above is written, and nothing else")
def main(arguments: list[str] | None = None) -> int:
    args = make_parser().parse_intermixed_args(arguments)
    source = network_of(args)
    check(args, source)
    if args.submit:
        from experiments.evaluation.submission import submit

        return submit(source, args)
    if args.shift or args.across:
        from experiments.evaluation.robustness import evaluate_robustness

        return evaluate_robustness(source, args)
    from experiments.evaluation.evaluator import evaluate

    return evaluate(source, args)


def network_of(args: argparse.Namespace) -> Path | ReleasedCheckpoint:
    """The network, named in one of two ways."""
    word = args.network
    if args.released:
        if word and ("=" not in word or word.startswith(RELEASED)):
            raise UserError(
                f"two networks are named, {word} and --released; give one "
                "(--beside draws a second one)"
            )
        if args.checkpoint:
            raise UserError("--checkpoint is of a run folder; leave it out beside --released")
        if word:
            args.overrides.insert(0, word)
        layout, file = args.released
        return released_checkpoint(layout, Path(file))
    if not word and args.shift and Path(args.shift).exists():
        raise UserError(f"--shift took {args.shift} for its kinds; name the network before --shift")
    if not word or word.startswith(GROUPS):
        raise UserError(
            "no network is named; give a run folder, a checkpoint, or --released LAYOUT FILE"
        )
    return parse_network(word, args.checkpoint)


def check(args: argparse.Namespace, source: Path | ReleasedCheckpoint) -> None:
    """Refuse before torch is imported what can be refused then."""
    args.beside = [parse_network(word) for word in args.beside]
    args.full |= bool(args.page)
    if args.shift and args.shift.startswith(GROUPS):  # the word after --shift was no kind
        args.overrides.insert(0, args.shift)
        args.shift = "all"
    args.overrides, args.model = split_overrides(args.overrides)
    check_words(source, args.data, args.overrides, args.model)
    check_computation(args)
    check_flags(args)
    for flag, file in (("--out", args.out), ("--page", args.page)):
        several = "--protocols" if args.protocols else "--sizes"
        if file and (args.protocols or args.sizes):
            raise UserError(
                f"{several} scores several times and {flag} names one file; "
                f"leave {flag} out, or give one --inference"
            )
        if file:
            check_out(file, flag)
    check_place(args, source)


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags of a plain evaluation beside --shift, --across and --submit."""
    flags = ("--protocols", "--sizes", "--page", "--full", "--beside", "--out")
    plain = [flag for flag in flags if getattr(args, flag.removeprefix("--"))]
    shift = args.shift or args.across
    if shift and (plain or args.submit):
        raise UserError(
            "--shift and --across write files of their own: "
            f"leave out {[*plain, '--submit'][0]}, or run twice"
        )
    if args.reference and not args.shift:
        raise UserError(
            "--reference is what a --shift is compared with; add --shift, or leave it out"
        )
    if not args.submit:
        return
    if plain:
        raise UserError(
            "--submit writes files for the test server and nothing else: "
            f"leave out {plain[0]}, or run twice"
        )
    if args.data not in (None, "cityscapes"):
        raise UserError(
            f"--submit writes files for Cityscapes' test server, and {args.data} has another; "
            "leave out --data"
        )
    if args.submit.exists():
        raise UserError(f"{args.submit} exists and is not overwritten; give another --submit")


def check_place(args: argparse.Namespace, source: Path | ReleasedCheckpoint) -> None:
    """Refuse a place where the result cannot be written."""
    if args.submit:
        check_makeable(args.submit, "--submit")
    elif args.out:
        check_beside(args.out)
    elif isinstance(source, Path):
        remedy = "give --out FILE in another folder"
        if (
            args.shift or args.across or args.protocols or args.sizes
        ):  # several files, which --out cannot name
            remedy = "copy the checkpoint to another folder"
        check_writable(source.parent, remedy)
    else:
        check_makeable(args.runs, "--runs")


def check_beside(out: Path) -> None:
    """The image records and the pictures take the result's name, with endings of their own."""
    if out.suffix != ".json":
        raise UserError(f"--out {out}: a result is a .json file; write --out {out}.json")
    for other in (out.with_suffix(".npz"), out.with_suffix(".png")):
        if other.exists():
            raise UserError(
                f"{other} exists and would be written beside {out.name}; give another --out"
            )


if __name__ == "__main__":
    sys.exit(run_main(main))
