"""Segment images with a trained checkpoint: label maps in colors, overlays, and the plain labels.

    python experiments/predict.py runs/bisenet-... street.jpg --out predictions
    python experiments/predict.py CHECKPOINT folder_of_images other.png --out predictions --inference flip

Under --out: color/ (label in the data set's colors), overlay/ (colors over the image), label/ (train ids), legend.png.
"""

import sys
from pathlib import Path

from experiments import command_line as words
from experiments.command_line import Parser, Refused
from experiments.evaluate import checked_mode, checkpoint_of

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def parser() -> Parser:
    made = Parser(prog="predict.py", description=__doc__, allow_abbrev=False, formatter_class=words.argparse.RawDescriptionHelpFormatter)
    made.add_argument("checkpoint", type=Path, help="a checkpoint, or a run folder (its last checkpoint)")
    made.add_argument("images", type=Path, nargs="+", help=f"images or folders of images ({', '.join(IMAGES)})")
    made.add_argument("--out", type=Path, required=True, help="a folder; files that are there already are not overwritten")
    made.add_argument("--inference", metavar="MODE", help="default: the recipe's (see evaluate.py --help)")
    made.add_argument("--strength", type=float, default=0.55, help="of the colors in the overlay, 0 to 1 (default 0.55)")
    return made


def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_args(arguments)
    try:
        checkpoint, images = checkpoint_of(asked.checkpoint), found(asked.images)
        targets = named_outputs(images, asked.out)
        if asked.inference:
            checked_mode(asked.inference)
        from experiments.predicting import predict

        return predict(checkpoint, targets, asked.out, asked.inference, asked.strength)
    except Refused as problem:
        return words.refuse(problem)


def found(paths: list[Path]) -> list[tuple[Path, Path]]:
    """(file, its name relative to what was given), folders searched through."""
    files = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in IMAGES)
            if not inside:
                raise Refused(f"{path} holds no image; images end in {', '.join(IMAGES)}")
            files += [(each, each.relative_to(path)) for each in inside]
        elif path.is_file():
            files.append((path, Path(path.name)))
        else:
            raise Refused(f"there is no image or folder {path}")
    return files


def named_outputs(images: list[tuple[Path, Path]], out: Path) -> list[tuple[Path, Path]]:
    """(file, output name); two inputs of one name, or an output that exists, are refused before anything is computed."""
    targets = [(file, name.with_suffix(".png")) for file, name in images]
    seen: dict[Path, Path] = {}
    for file, name in targets:
        if name in seen:
            raise Refused(f"{seen[name]} and {file} would both become {name}; predict them into different folders")
        seen[name] = file
        if (out / "color" / name).exists():
            raise Refused(f"{out / 'color' / name} exists and is not overwritten; give another --out")
    return targets


if __name__ == "__main__":
    sys.exit(main())
