"""Name the files of predictions: their kinds, and their places below --out. Imports no torch."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line.errors import UserError
from experiments.command_line.files import check_makeable
from experiments.command_line.names import known_name
from experiments.prediction.inputs import Target

KINDS = ("label", "ids", "color", "overlay", "probability", "entropy")
ONE_CLASS = "probability:"
IN_COLOR = {"color", "overlay"}  # the kinds that a legend explains
LEGEND = "legend.png"


def parse_kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for kind in kinds:
        if not kind.startswith(ONE_CLASS):
            known_name("kind", kind, (*KINDS, f"{ONE_CLASS}CLASS"))
    return kinds


def folder_name(kind: str) -> str:
    """The kind's folder below --out; a class may have any name."""
    return re.sub(r"[/\\:]", "-", kind)


def output_path(out: Path, kind: str, name: Path) -> Path:
    """An image's file; of a video, the overlay's file or the folder of the kind's frames."""
    if name.suffix == ".png":
        return out / folder_name(kind) / name
    return out / name if kind == "overlay" else out / folder_name(kind) / name.with_suffix("")


def check_no_predictions(images: Sequence[Target], out: Path) -> None:
    """Refuse to predict an earlier call's pictures, where --out lies in the folder searched."""
    folder = out.resolve()
    for file, _ in images:
        path = file.resolve()
        if folder not in path.parents:
            continue
        first = path.relative_to(folder).parts[0]
        if first in (*KINDS, LEGEND) or first.startswith(folder_name(ONE_CLASS)):
            raise UserError(
                f"{file} lies where --out {out} holds predictions; "
                "give images and an --out apart from each other"
            )


def name_outputs(
    kind: str, targets: Sequence[Target], args: argparse.Namespace, suffix: str
) -> list[Target]:
    """The targets to predict, under their output names.

    Two inputs of one name are refused, and so is an output that exists. With --skip-existing
    images are left out of which all kinds exist.
    """
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out} is a file; --out takes a folder, which need not exist yet")
    check_makeable(args.out, "--out")
    remedy = ", or --skip-existing to go on with the other images"
    seen: dict[Path, Path | str] = {}
    named = []
    for source, name in targets:
        stem = name.name if kind == "camera" else name.stem
        name = name.with_name(f"{stem}{suffix}")
        if name in seen:
            raise UserError(
                f"{seen[name]} and {source} would both become {name}; "
                "rename one, or predict them into different folders"
            )
        seen[name] = source
        paths = [output_path(args.out, each, name) for each in args.kinds]
        existing = [path for path in paths if path.exists()]
        if existing and not args.skip_existing:
            raise UserError(
                f"{existing[0]} exists and is not overwritten; give another --out"
                f"{remedy * (kind == 'images')}"
            )
        if len(existing) < len(paths):
            named.append((source, name))
    return named
