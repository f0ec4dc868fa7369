"""Inference modes as the papers call them, and at what size a network sees an image in each."""

from collections.abc import Mapping
from typing import Any

from experiments.command_line.catalogue import IMAGES, catalogue
from experiments.command_line.parser import by
from experiments.reports.number_formats import plural

SEG = {"resized:0.5": "Seg50", "resized:0.75": "Seg75"}  # on Cityscapes, since STDC


def protocol_name(protocol: str, data: str, paper: str = "") -> str:
    """Return "Seg75 (768x1536)" for "resized:0.75" on Cityscapes.

    Where a paper is named, only the half that it says itself is returned. A mode without another
    name, and one on images of many sizes, is called as it is stored.
    """
    size = IMAGES.get(data) and input_size(protocol, data)
    if not (size and protocol.startswith("resized:")):
        return protocol
    share = SEG.get(protocol) if data == "cityscapes" else None
    if paper:
        return share if share and paper == "stdc" else by(size)
    return f"{share} ({by(size)})" if share else by(size)


def input_size(
    protocol: str, data: str, overrides: Mapping[str, Any] | None = None
) -> tuple[int, int] | None:
    """Return the size at which the network sees an image.

    It is None where several passes are made, and on images of many sizes.
    """
    mode, _, scale = protocol.partition(":")
    size = image_size(data, overrides or {})
    if size is None or "+" in protocol or mode not in ("whole", "resized"):
        return None
    try:
        return tuple(round(side * float(scale or 1)) for side in size)
    except ValueError:
        return None


def image_size(data: str, overrides: Mapping[str, Any]) -> tuple[int, int] | None:
    """Of all images of a data set: a fact of the files, or its options height and width."""
    if data in IMAGES:
        return IMAGES[data]
    known = catalogue()["data"].get(data, {}).get("options", {})
    sides = [
        overrides.get(f"data.{side}", known.get(side, {}).get("default"))
        for side in ("height", "width")
    ]
    return tuple(sides) if all(sides) else None


def settings(conditions: dict[str, Any]) -> str:
    """The conditions that must stand beside every speed."""
    forms = [name for name in ("folded", "channels_last", "compile") if conditions[name]]
    how = f"{conditions['precision']}, batch {conditions['batch']}, {' '.join(forms) or 'plain'}"
    where = conditions["device"]
    if conditions["device_kind"] != "cuda":
        where += f", {plural(conditions['threads'], 'thread')}"
    return f"{where}; torch {conditions['versions']['torch']}; {how}"


def on(figure: dict[str, Any]) -> str:
    return ", ".join(filter(None, (figure["device"], figure["runtime"])))
