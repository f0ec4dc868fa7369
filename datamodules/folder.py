"""Anyone's images and masks, described by a classes.yaml:

    root/classes.yaml          a list of classes: {name: road}, with id: 7 and
                               color: [128, 64, 128] where they are not the default
    root/train/images/*.jpg    root/train/masks/*.png of the same names: 8-bit ids, or the
                               classes' colors
    root/val/images/ ...       likewise, or val_share=0.1 to keep a tenth of train for validation

Ids default to 0, 1, 2, ... in the order of the list, and 255 is ignored. More ids (or colors) are
ignored by writing the file as {classes: [...], ignore: [254, [0, 0, 0]]}.
"""

import colorsys
import zlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError, model_validator

from datamodules.errors import DataError
from datamodules.file_trees import IMAGES, LABELS, files_in, paired
from datamodules.labels import IGNORED, RGB, LabelSet
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files


class Folder(SegmentationData):
    name = "folder"
    layout = "classes.yaml, train/images/*, train/masks/*.png and the same below val/"
    origin = "classes.yaml lists the classes, for example '- {name: road}' line by line"
    # a fine-tuning of moderate length; crops that most photographs can give
    budget = {
        "crop": (512, 512),
        "scales": (0.5, 2.0),
        "continuous": True,
        "jitter": 0.3,
        "batch": 8,
        "iterations": 4000,
        "precision": "auto",
        "inference": "whole",
    }

    def __init__(
        self, root: str | Path | None = None, *, val_share: float = 0.0, **settings: Any
    ) -> None:
        super().__init__(root, **settings)
        if not 0 <= val_share < 1:
            raise DataError(
                f"data.val_share={val_share} is not a share of the training images from 0 to "
                "below 1: try 0.1"
            )
        self.val_share = val_share

    @cached_property
    def classes(self) -> "Classes":
        return read_classes(self.root / "classes.yaml", self.remedy)

    @property
    def labels(self) -> LabelSet:
        return self.classes.labels

    def source(self, split: str) -> Files:
        if self.val_share and split != "test":
            pairs = self.pairs("train")
            held_out = self.held_out(pairs)
            pairs = [pair for pair in pairs if (pair in held_out) == (split == "val")]
        else:
            pairs = self.pairs(split)
        return Files(pairs, self.labels, colored=self.classes.colored)

    def pairs(self, split: str) -> list[tuple[Path, Path]]:
        folder = self.root / split
        remedy = self.remedy
        if split == "val" and not folder.is_dir():
            remedy = (
                "make one as train is made, or keep a share of the training images with "
                "data.val_share=0.1"
            )
        images = files_in(folder / "images", IMAGES, remedy)
        masks = files_in(folder / "masks", LABELS, remedy)
        return paired(images, masks, f"images and masks in {folder} must hold the same names")

    def held_out(self, pairs: list[tuple[Path, Path]]) -> set[tuple[Path, Path]]:
        """The training pairs that are kept for validation."""
        count = round(len(pairs) * self.val_share)
        problem = ""
        if (self.root / "val").is_dir():
            problem = "there is a val folder already; drop data.val_share"
        elif not 0 < count < len(pairs):
            share = f"that is {count} of {len(pairs)} images"
            problem = f"{share}; take a share that leaves both sides an image"
        if problem:
            raise DataError(
                f"data.val_share={self.val_share} cannot split {self.root / 'train'}: {problem}"
            )
        return set(sorted(pairs, key=drawn_order)[:count])


def drawn_order(pair: tuple[Path, Path]) -> tuple[int, str]:
    """By a checksum of the name: an image that is added later does not reshuffle the others."""
    name = pair[0].stem
    return zlib.crc32(name.encode()), name


# --- classes.yaml

Byte = Annotated[int, Field(strict=True, ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]


class Entry(BaseModel, extra="forbid"):
    """A class, or its name alone."""

    name: str
    id: Byte | None = None
    color: Color | None = None

    @model_validator(mode="before")
    @classmethod
    def named(cls, entry: Any) -> Any:
        return {"name": entry} if isinstance(entry, str) else entry


class Description(BaseModel, extra="forbid"):
    """The whole file."""

    classes: list[Entry]
    ignore: list[Byte | Color] | None = None


class Classes(NamedTuple):
    labels: LabelSet
    colored: bool  # every class was given a color, which masks may be painted in


def read_classes(file: Path, remedy: str) -> Classes:
    import yaml

    if not file.is_file():
        raise DataError(f"there is no {file}: {remedy}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        content = {"classes": content} if isinstance(content, list) else content
        return classes_of(Description.model_validate(content))
    except ValidationError as error:
        wrong = mistake(error.errors()[0]["loc"], content)
    except (DataError, yaml.YAMLError, UnicodeDecodeError) as error:
        wrong = " ".join(str(error).split())
    raise DataError(
        f"{file}: {wrong}; write one class per line, such as '- {{name: road, id: 7, "
        "color: [128, 64, 128]}'"
    )


def mistake(place: tuple[str | int, ...], content: Any) -> str:
    """A sentence on what is wrong at a place in the file, such as ("classes", 3, "id")."""
    if place[:1] == ("ignore",):
        return f"ignore: {content['ignore']} is not a list of ids from 0 to 255 or colors"
    if len(place) < 2:
        return "it is neither a list of classes nor {classes: [...], ignore: [...]}"
    entry = content["classes"][place[1]]
    if "id" in place:
        return f"the id {entry['id']!r} of {entry['name']} is not a whole number from 0 to 255"
    if "color" in place:
        return f"{entry['color']!r} is not a color: write [red, green, blue] from 0 to 255"
    return f"{entry!r} is not a class: its fields are name, id, color, and name is a text"


def classes_of(description: Description) -> Classes:
    classes = description.classes
    ignore = description.ignore or []
    ids = tuple(place if each.id is None else each.id for place, each in enumerate(classes))
    void = tuple(item for item in ignore if isinstance(item, int))
    if IGNORED not in ids + void:
        void += (IGNORED,)
    void_palette = tuple(item for item in ignore if isinstance(item, tuple))
    names = tuple(each.name for each in classes)
    palette = tuple(each.color or spread(place) for place, each in enumerate(classes))
    colored = all(each.color for each in classes)
    if colored and len({*palette, *void_palette}) < len(palette + void_palette):
        raise DataError("two classes share a color, and masks could not be told apart")
    return Classes(LabelSet(names, palette, ids, void, void_palette=void_palette), colored)


def spread(place: int) -> RGB:
    """A color for a class that has none: the golden angle keeps neighbors in the list apart."""
    red, green, blue = colorsys.hsv_to_rgb(
        place * 0.618034 % 1, 0.55 + 0.35 * (place % 2), 0.95 - 0.15 * (place % 3)
    )
    return round(255 * red), round(255 * green), round(255 * blue)
