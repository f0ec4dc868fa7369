"""Score a trained checkpoint on a data set, in any inference mode.

a run's last checkpoint, on the validation split of its own data
  python experiments/evaluate.py runs/bisenet-...
its best checkpoint, averaged with the mirrored image
  python experiments/evaluate.py runs/.../checkpoints/best.ckpt --inference flip
any checkpoint, on another split or another copy of the data
  python experiments/evaluate.py CHECKPOINT --split test data.root=DIR
"""

import os
import sys
from pathlib import Path

from experiments import command_line as words
from experiments.command_line import Parser, Refused
from experiments.networks import checkpoint_of

EPILOG = """\
inference modes (joined by +, outermost first)
  whole                        the image as it is
  resized:0.5                  at half size, logits brought back (STDC's Seg50)
  slide:769x769                windows (height x width), 2/3 of a window apart
  slide:769x769/513x513        windows 513 apart
  flip                         the mean with the mirrored image
  multiscale:0.75,1,1.25+flip  the mean over scales, each with its mirror image
"""


def parser() -> Parser:
    made = Parser(
        prog="evaluate.py",
        description=__doc__,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=words.argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("checkpoint", type=Path, help="a checkpoint, or a run folder (its last checkpoint)")
    made.add_argument("--data", metavar="NAME", help="default: what the checkpoint was trained on, with the run's options")
    made.add_argument("--split", choices=("val", "test"), default="val", help="default: val")
    made.add_argument("--inference", metavar="MODE", help="default: the recipe's")
    made.add_argument("--network", metavar="NAME", help="of a semi-supervised run: teacher or student (default: the one its method judges)")
    made.add_argument("--precision", choices=("32-true", "16-mixed", "bf16-mixed"), help="default: what the run was trained in")
    made.add_argument("--out", metavar="FILE", type=Path, help="a new file (default: evaluation-....json beside the checkpoint)")
    made.add_argument("overrides", nargs="*", metavar="data.name=value", help="options of the data set, such as data.root=DIR")
    return made


def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_intermixed_args(arguments)
    try:
        checkpoint = checkpoint_of(asked.checkpoint)
        check_out(asked.out, checkpoint)
        if asked.inference:
            checked_mode(asked.inference)
        from experiments.judging import judge

        return judge(checkpoint, asked)
    except Refused as problem:
        return words.refuse(problem)


def check_out(out: Path | None, checkpoint: Path) -> None:
    """Before the work, that its result can be written."""
    folder = (out or checkpoint).parent
    if out and out.exists():
        raise Refused(f"{out} exists and is not overwritten; give another --out")
    if not folder.is_dir():
        raise Refused(f"there is no folder {folder} for {out.name}; make it, or give another --out")
    if not os.access(folder, os.W_OK):
        raise Refused(f"{folder} cannot be written to; give --out FILE in another folder")


def checked_mode(text: str) -> str:
    from segmodels.recipe import inference_steps

    try:
        inference_steps(text)
    except ValueError as problem:
        raise Refused(str(problem)) from None
    return text


if __name__ == "__main__":
    sys.exit(main())
