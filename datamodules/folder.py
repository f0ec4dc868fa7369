"""Anyone's images and masks, described by a classes.yaml:

    root/classes.yaml          a list of classes: {name: road}, with id: 7 and
                               color: [128, 64, 128] where they are not the default
    root/train/images/*.jpg    root/train/masks/*.png of the same names: 8-bit ids, or the
                               classes' colors
    root/val/images/ ...       likewise, or val_share=0.1 to keep a tenth of train for validation

Ids default to 0, 1, 2, ... in the order of the list, and 255 is ignored. More ids (or colors) are
ignored by writing the file as {classes: [...], ignore: [254, [0, 0, 0]]}.

Without a folder masks, labels are drawn from polygons:

    root/train/images/*.json   LabelMe's files, beside the images and of the same names
    root/train/*.json          or one COCO file of any name, which lists the split's images

Names in these files are classes' names, or stand under `ignore` (as LabelMe's __ignore__ always
does). Where no polygon is, is the class that the file calls background: {classes: [...],
background: NAME}; by default the one named background or _background_, and else it is ignored. A
COCO file needs no classes.yaml: its categories are the classes, after background.
"""

import colorsys
import zlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError, model_validator

from datamodules.errors import DataError
from datamodules.file_trees import IMAGES, LABELS, Place, files_in, paired
from datamodules.labels import IGNORED, RGB, LabelSet
from datamodules.module import SegmentationData
from datamodules.reading.coco import Coco, Content, read_coco
from datamodules.reading.labelme import IGNORE, LabelMe
from datamodules.reading.sources import Files


class Folder(SegmentationData):
    name = "folder"
    layout = (
        "classes.yaml, train/images/*, train/masks/*.png (or polygons: LabelMe's .json files beside "
        "the images, or one COCO .json in train) and the same below val/"
    )
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
        self.coco: dict[Path, Content] = {}  # of each file that was read

    @cached_property
    def classes(self) -> "Classes":
        file = self.root / "classes.yaml"
        coco = coco_file(self.root / "train")
        if coco and not file.is_file():
            return classes_of(described(self.content(coco)))
        return read_classes(file, self.remedy)

    @property
    def labels(self) -> LabelSet:
        return self.classes.labels

    def source(self, split: str) -> Files:
        shared = self.val_share and split != "test"
        folder = self.root / ("train" if shared else split)
        pairs = self.pairs(folder)
        if shared:
            held_out = self.held_out(pairs)
            pairs = [pair for pair in pairs if (pair in held_out) == (split == "val")]
        if (folder / "masks").is_dir():
            return Files(pairs, self.labels, colored=self.classes.colored)
        ids, outside = region_ids(self.classes)
        if coco := coco_file(folder):
            return Coco(pairs, self.labels, ids, outside, self.content(coco))
        return LabelMe(pairs, self.labels, ids, outside)

    def pairs(self, folder: Path) -> list[tuple[Place, Place]]:
        remedy = self.remedy
        if folder.name == "val" and not folder.is_dir():
            remedy = (
                "make one as train is made, or keep a share of the training images with "
                "data.val_share=0.1"
            )
        images = files_in(folder / "images", IMAGES, remedy)
        if (folder / "masks").is_dir():
            labels = files_in(folder / "masks", LABELS, remedy)
            remedy = f"images and masks in {folder} must hold the same names"
        elif coco := coco_file(folder):
            listed = self.content(coco).images
            labels = {each.name: f"{coco} ({each.file_name})" for each in listed}
            remedy = f"{folder / 'images'} must hold the images that {coco.name} lists, no others"
        elif any((folder / "images").glob("*.json")):
            labels = files_in(folder / "images", (".json",), remedy)
            remedy = "save it in LabelMe (one without shapes too), or take it out"
        else:
            labels = files_in(folder / "masks", LABELS, remedy)  # says what is missing
        return paired(images, labels, remedy)

    def content(self, file: Path) -> Content:
        if file not in self.coco:
            self.coco[file] = read_coco(file)
        return self.coco[file]

    def classes_yaml(self) -> str:
        """The file, or one that says the same: a pack of drawn labels needs it too."""
        import yaml

        file = self.root / "classes.yaml"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        content = {"classes": list(self.labels.names), "background": self.classes.background}
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)

    def held_out(self, pairs: list[tuple[Place, Place]]) -> set[tuple[Place, Place]]:
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


def drawn_order(pair: tuple[Place, Place]) -> tuple[int, str]:
    """By a checksum of the name: an image that is added later does not reshuffle the others."""
    name = Path(pair[0]).stem
    return zlib.crc32(name.encode()), name


# --- classes.yaml

BACKGROUND = ("background", "_background_")  # the latter is LabelMe's name for it
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
    ignore: list[Byte | Color | str] | None = None
    background: str | None = None


class Classes(NamedTuple):
    labels: LabelSet
    colored: bool  # every class was given a color, which masks may be painted in
    ignored: tuple[str, ...] = ()  # names of polygons
    background: str | None = None  # the class of pixels that no polygon covers


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
        return f"ignore: {content['ignore']} is not a list of ids from 0 to 255, colors or names"
    if len(place) < 2:
        return (
            "it is neither a list of classes nor {classes: [...], ignore: [...], background: NAME}"
        )
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
    background = description.background
    if background is None:
        background = next((name for name in names if name in BACKGROUND), None)
    elif background not in names:
        raise DataError(f"background: {background} is none of the classes {', '.join(names)}")
    return Classes(
        LabelSet(names, palette, ids, void, void_palette=void_palette),
        colored,
        tuple(item for item in ignore if isinstance(item, str)),
        background,
    )


def described(content: Content) -> Description:
    """The classes of a COCO file: its categories in their order, after the background."""
    names = [each.name for each in content.categories]
    if not any(name in BACKGROUND for name in names):
        names.insert(0, BACKGROUND[0])
    return Description(classes=names)


def region_ids(classes: Classes) -> tuple[dict[str, int], int]:
    """The id of each name in polygon files, and that of pixels which no polygon covers."""
    labels = classes.labels
    if not labels.void:
        raise DataError(
            "classes.yaml makes a class of 255, and labels that are drawn need a number for what "
            "is ignored: give the class another id, or write ignore: [254]"
        )
    ignored = max(labels.void)
    ids = dict.fromkeys((IGNORE, *classes.ignored), ignored)
    ids |= dict(zip(labels.names, labels.ids, strict=True))
    return ids, ids.get(classes.background, ignored)


def coco_file(folder: Path) -> Path | None:
    files = sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))
    if len(files) > 1:
        raise DataError(f"{files[0]} and {files[1]} are both there: keep the one COCO file")
    return files[0] if files else None


def spread(place: int) -> RGB:
    """A color for a class that has none: the golden angle keeps neighbors in the list apart."""
    red, green, blue = colorsys.hsv_to_rgb(
        place * 0.618034 % 1, 0.55 + 0.35 * (place % 2), 0.95 - 0.15 * (place % 3)
    )
    return round(255 * red), round(255 * green), round(255 * blue)
