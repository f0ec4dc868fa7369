"""What predictions are called: their kinds, and where below --out each is written. Imports no torch."""

import re
from pathlib import Path

from experiments.command_line.errors import UserError
from experiments.command_line.names import known_name
from experiments.prediction.inputs import Inputs

KINDS = ("label", "ids", "color", "overlay", "probability", "entropy")
ONE_CLASS = "probability:"
IN_COLOR = {"color", "overlay"}  # the kinds that a legend explains
LEGEND = "legend.png"


def kinds_of(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for kind in kinds:
        if not kind.startswith(ONE_CLASS):
            known_name("kind", kind, (*KINDS, f"{ONE_CLASS}CLASS"))
    return kinds


def folder_of(kind: str) -> str:
    """Below --out; a class may have any name."""
    return re.sub(r"[/\\:]", "-", kind)


def place_of(out: Path, kind: str, name: Path) -> Path:
    """The picture's file; of a video, the overlay's file or the folder of the kind's frames."""
    if name.suffix == ".png":
        return out / folder_of(kind) / name
    return out / name if kind == "overlay" else out / folder_of(kind) / name.with_suffix("")


def apart(inputs: Inputs, out: Path) -> None:
    """Pictures of an earlier call are no images to predict, where --out lies in the folder that is searched."""
    if inputs.kind != "images":
        return
    there, single = out.resolve(), folder_of(ONE_CLASS)
    for each, _ in inputs.found:
        place = each.resolve()
        first = place.parts[len(there.parts)] if there in place.parents else ""
        if first in (*KINDS, LEGEND) or first.startswith(single):
            raise UserError(
                f"{each} lies where --out {out} holds predictions; give images and an --out apart from each other"
            )


def named_outputs(
    inputs: Inputs, out: Path, kinds: tuple[str, ...], ending: str, skip_existing: bool = False
) -> list[tuple[Path | str, Path]]:
    """(input, output name); two inputs of one name, or an output that exists, are refused before anything is computed.

    Or what is there is left out: of an image, if all its kinds are.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out takes a folder, which need not exist yet")
    outputs = [
        (each, name.parent / f"{name.name if inputs.kind == 'camera' else name.stem}{ending}")
        for each, name in inputs.found
    ]
    seen: dict[Path, Path | str] = {}
    missing = []
    for each, name in outputs:
        if name in seen:
            raise UserError(
                f"{seen[name]} and {each} would both become {name}; rename one, or predict them into different folders"
            )
        seen[name] = each
        places = [place_of(out, kind, name) for kind in kinds]
        there = [place for place in places if place.exists()]
        if there and not skip_existing:
            more = (
                ", or --skip-existing to go on with the other images"
                if inputs.kind == "images"
                else ""
            )
            raise UserError(f"{there[0]} exists and is not overwritten; give another --out{more}")
        if len(there) < len(places):
            missing.append((each, name))
    return missing
