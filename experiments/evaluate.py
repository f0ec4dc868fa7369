"""Score a trained checkpoint on a data set, in any inference mode.

python experiments/evaluate.py runs/bisenet-...                                    its own data, validation split
python experiments/evaluate.py runs/bisenet-.../checkpoints/best.ckpt --inference flip
python experiments/evaluate.py CHECKPOINT --data camvid data.root=DIR --split test
"""

import sys
from pathlib import Path
from typing import Any

from experiments import command_line as words
from experiments.command_line import Parser, Refused

EPILOG = """\
inference modes (joined by +, outermost first)
  whole                        the image as it is
  resized:0.5                  at half size, logits brought back (STDC's Seg50)
  slide:769x769                windows, two thirds of a window apart; slide:769x769/513x513 gives the stride
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
    made.add_argument("--data", metavar="NAME", help="default: the data set that the checkpoint was trained on")
    made.add_argument("--split", choices=("val", "test"), default="val", help="default: val")
    made.add_argument("--inference", metavar="MODE", help="default: the recipe's")
    made.add_argument("--precision", choices=("32-true", "16-mixed", "bf16-mixed"), help="default: what the run was trained in")
    made.add_argument("--out", metavar="FILE", type=Path, help="where the result goes (default: beside the checkpoint, under a new name)")
    made.add_argument("overrides", nargs="*", metavar="data.name=value", help="options of the data set, such as data.root=DIR")
    return made


def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_intermixed_args(arguments)
    try:
        checkpoint = checkpoint_of(asked.checkpoint)
        if asked.out and asked.out.exists():
            raise Refused(f"{asked.out} exists and is not overwritten; give another --out")
        if asked.inference:
            checked_mode(asked.inference)
        from experiments.judging import judge

        return judge(checkpoint, asked)
    except Refused as problem:
        return words.refuse(problem)


def checkpoint_of(path: Path) -> Path:
    """The file itself, or a run folder's last checkpoint."""
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise Refused(f"there is no checkpoint at {path}; give a .ckpt file or the folder of a run")
    return path


def checked_mode(text: str) -> str:
    from segmodels.recipe import inference_steps

    try:
        inference_steps(text)
    except ValueError as problem:
        raise Refused(str(problem)) from None
    return text


def data_options(name: str, overrides: list[str]) -> dict[str, Any]:
    """The data set's options out of data.name=value words; no other group makes sense here."""
    kinds = {"data": words.catalogue()["data"][name]["options"]}
    return {option: value for _, option, value in (words.override(word, kinds) for word in overrides)}


if __name__ == "__main__":
    sys.exit(main())
