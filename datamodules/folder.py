"""Anyone's images and masks, described by a classes.yaml:

    root/classes.yaml                a list of classes: {name: road}, with id: 7 and color: [128,
    64, 128] where they are not the default
    root/train/images/*.jpg          root/train/masks/*.png     same names; 8-bit ids, or the classes' colors
    root/val/images/ ...             likewise, or val_share=0.1 to keep a tenth of train for
    validation

Ids default to 0, 1, 2, ... in the order of the list, and 255 is ignored. More ids (or colors) are
ignored by writing the file as {classes: [...], ignore: [254, [0, 0, 0]]}.
"""

import colorsys
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from datamodules.errors import DataError
from datamodules.file_trees import IMAGES, LABELS, files_in, paired
from datamodules.labels import IGNORED, RGB, LabelSet
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files

FIELDS = ("name", "id", "color")


class Folder(SegmentationData):
    name = "folder"
    layout = "classes.yaml, train/images/*, train/masks/*.png and the same below val/"
    origin = "classes.yaml lists the classes, for example '- {name: road}' line by line"
    budget: ClassVar[
        dict[str, Any]
    ] = {  # a fine-tuning of moderate length; crops that most photographs can give
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
        return Classes(self.root / "classes.yaml", self.remedy)

    @property
    def labels(self) -> LabelSet:
        return self.classes.labels

    def source(self, split: str) -> Files:
        held_out = self.val_share > 0 and split != "test"
        pairs = self.pairs("train" if held_out else split)
        if held_out:
            chosen = self.held_out(pairs)
            pairs = [pair for pair in pairs if (pair in chosen) == (split == "val")]
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
        return paired(
            images, masks, f"{folder / 'images'} and {folder / 'masks'} must hold the same names"
        )

    def held_out(self, pairs: list[tuple[Path, Path]]) -> set[tuple[Path, Path]]:
        """Chosen by a checksum of the name: an image that is added later does not reshuffle the
        others.
        """
        count = round(len(pairs) * self.val_share)
        if not 0 < count < len(pairs) or (self.root / "val").is_dir():
            why = (
                "there is a val folder already"
                if (self.root / "val").is_dir()
                else f"that is {count} of {len(pairs)} images"
            )
            raise DataError(
                f"data.val_share={self.val_share} cannot split {self.root / 'train'}: {why}; "
                f"{'drop data.val_share' if 'already' in why else 'take a share that leaves both sides an image'}"
            )
        return set(
            sorted(pairs, key=lambda pair: (zlib.crc32(pair[0].stem.encode()), pair[0].stem))[
                :count
            ]
        )


class Classes:
    """What classes.yaml says: the label set, and whether every class was given a color that masks
    may be painted in.
    """

    def __init__(self, file: Path, remedy: str) -> None:
        self.file = file
        entries, ignore = self.parts(self.parsed(remedy))
        classes = [self.entry(entry) for entry in entries]
        self.colored = all("color" in entry for entry in classes)
        ids = tuple(entry.get("id", place) for place, entry in enumerate(classes))
        void_palette = tuple(self.rgb(item) for item in ignore if not isinstance(item, int))
        void = tuple(dict.fromkeys(item for item in ignore if isinstance(item, int)))
        if IGNORED not in ids + void:
            void += (IGNORED,)
        colors = tuple(
            self.rgb(entry["color"]) if "color" in entry else spread(place)
            for place, entry in enumerate(classes)
        )
        self.labels = self.checked(
            tuple(entry["name"] for entry in classes), colors, ids, void, void_palette
        )

    def parsed(self, remedy: str) -> Any:
        import yaml

        if not self.file.is_file():
            raise DataError(f"there is no {self.file}: {remedy}")
        try:
            return yaml.safe_load(self.file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise self.wrong(" ".join(str(error).split())) from None

    def parts(self, content: Any) -> tuple[list, list]:
        """(classes, ignored) of either form: a list, or {classes: [...], ignore: [...]}."""
        content = {"classes": content} if isinstance(content, list) else content
        if (
            not isinstance(content, dict)
            or set(content) - {"classes", "ignore"}
            or not isinstance(content.get("classes"), list)
        ):
            raise self.wrong("it is neither a list of classes nor {classes: [...], ignore: [...]}")
        ignore = content.get("ignore") or []
        if not isinstance(ignore, list) or any(
            isinstance(item, int) and not 0 <= item <= 255 for item in ignore
        ):
            raise self.wrong(f"ignore: {ignore} is not a list of ids from 0 to 255 or colors")
        return content["classes"], ignore

    def entry(self, entry: Any) -> dict[str, Any]:
        entry = {"name": entry} if isinstance(entry, str) else entry
        if (
            not isinstance(entry, dict)
            or set(entry) - set(FIELDS)
            or not isinstance(entry.get("name"), str)
        ):
            raise self.wrong(
                f"{entry!r} is not a class: its fields are {', '.join(FIELDS)}, and name is a text"
            )
        if not isinstance(entry.get("id", 0), int) or not 0 <= entry.get("id", 0) <= 255:
            raise self.wrong(
                f"the id {entry['id']!r} of {entry['name']} is not a whole number from 0 to 255"
            )
        return entry

    def rgb(self, color: Any) -> RGB:
        if (
            not isinstance(color, list)
            or len(color) != 3
            or not all(isinstance(part, int) and 0 <= part <= 255 for part in color)
        ):
            raise self.wrong(f"{color!r} is not a color: write [red, green, blue] from 0 to 255")
        return tuple(color)

    def checked(
        self,
        names: tuple[str, ...],
        colors: tuple[RGB, ...],
        ids: tuple[int, ...],
        void: tuple[int, ...],
        void_palette: tuple[RGB, ...],
    ) -> LabelSet:
        if self.colored and len(set(colors + void_palette)) < len(colors + void_palette):
            raise self.wrong("two classes share a color, and masks could not be told apart")
        try:
            return LabelSet(names, colors, ids, void, void_palette=void_palette)
        except DataError as error:
            raise self.wrong(str(error)) from None

    def wrong(self, what: str) -> DataError:
        return DataError(
            f"{self.file}: {what}; write one class per line, such as '- {{name: road, id: 7, "
            f"color: [128, 64, 128]}}'"
        )


def spread(place: int) -> RGB:
    """A color for a class that has none: the golden angle keeps neighbors in the list apart."""
    red, green, blue = colorsys.hsv_to_rgb(
        place * 0.618034 % 1, 0.55 + 0.35 * (place % 2), 0.95 - 0.15 * (place % 3)
    )
    return round(255 * red), round(255 * green), round(255 * blue)
