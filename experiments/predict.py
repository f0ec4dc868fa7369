"""Segment images with a trained checkpoint.

  python experiments/predict.py runs/bisenet-... street.jpg --out predictions
  python experiments/predict.py CHECKPOINT folder other.png --out predictions

Below --out, under the image's name as PNG:
  label/      the class of each pixel: train ids, 8-bit gray
  color/      the same in the data set's colors
  overlay/    the colors over the image
  legend.png  which color is which class
"""

import sys
from pathlib import Path

from experiments import command_line as words
from experiments.command_line import Parser, Refused
from experiments.evaluate import checked_mode
from experiments.networks import NETWORK_HELP, nearest, source_of

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
KINDS = ("label", "color", "overlay")


def parser() -> Parser:
    made = Parser(prog="predict.py", description=__doc__, allow_abbrev=False, formatter_class=words.argparse.RawDescriptionHelpFormatter)
    made.add_argument("network", help=NETWORK_HELP)
    made.add_argument("images", type=Path, nargs="+", help=f"images, or folders that are searched for {', '.join(IMAGES)}")
    made.add_argument("--out", metavar="DIR", type=Path, required=True, help="a folder; files that are there already are not overwritten")
    made.add_argument("--inference", metavar="MODE", help="default: the recipe's (see evaluate.py --help)")
    made.add_argument("--strength", metavar="SHARE", type=float, default=0.55, help="of the colors in the overlay, 0 to 1 (default 0.55)")
    return made


def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_intermixed_args(arguments)
    try:
        source, images = source_of(asked.network), found(asked.images)
        targets = named_outputs(images, asked.out)
        if asked.inference:
            checked_mode(asked.inference)
        if not 0 <= asked.strength <= 1:
            raise Refused(f"--strength {asked.strength:g}: it is the colors' share of the overlay, from 0 to 1")
        from experiments.predicting import predict

        return predict(source, targets, asked.out, asked.inference, asked.strength)
    except Refused as problem:
        return words.refuse(problem)


def found(paths: list[Path]) -> list[tuple[Path, Path]]:
    """(file, its name relative to what was given), folders searched through."""
    files = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in IMAGES and each.name[0] != "." and each.is_file())
            if not inside:
                raise Refused(f"{path} holds no image; images end in {', '.join(IMAGES)}")
            files += [(each, each.relative_to(path)) for each in inside]
        elif path.is_file():
            files.append((path, Path(path.name)))
        else:
            raise Refused(f"there is no image or folder {path}{nearest(path)}; give images or folders of images")
    return files


def named_outputs(images: list[tuple[Path, Path]], out: Path) -> list[tuple[Path, Path]]:
    """(file, output name); two inputs of one name, or an output that exists, are refused before anything is computed."""
    if out.exists() and not out.is_dir():
        raise Refused(f"{out} is a file; --out takes a folder, which need not exist yet")
    targets = [(file, name.with_suffix(".png")) for file, name in images]
    seen: dict[Path, Path] = {}
    for file, name in targets:
        if name in seen:
            raise Refused(f"{seen[name]} and {file} would both become {name}; rename one, or predict them into different folders")
        seen[name] = file
        if there := next((out / kind / name for kind in KINDS if (out / kind / name).exists()), None):
            raise Refused(f"{there} exists and is not overwritten; give another --out")
    return targets


if __name__ == "__main__":
    sys.exit(main())
