"""COCO's instances files: one .json for a split, with the polygons and run lengths of all images.

Fields: "Object detection" of https://cocodataset.org/#format-data; run lengths: common/maskApi.c of
https://github.com/cocodataset/cocoapi. The format has no depth, so smaller regions lie over larger
ones (by `area`, and of equal areas the later one), and all over crowds, which are outlined roughly.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, PositiveInt

from datamodules.errors import DataError
from datamodules.labels import LabelSet
from datamodules.reading.decoding import Size, from_disk
from datamodules.reading.polygons import (
    Drawing,
    Drawn,
    Region,
    mask_spans,
    parsed,
    polygon_spans,
)

REMEDY = "export it again as COCO instances (images, annotations, categories)"
Id = int | str


class RunLengths(BaseModel):
    counts: list[int] | str  # of zeros, ones, zeros, ..., column by column; as numbers or packed
    size: tuple[int, int]


class Picture(BaseModel):
    id: Id
    file_name: str
    height: PositiveInt
    width: PositiveInt

    @property
    def name(self) -> str:
        """The file's name without folder and suffix."""
        return PurePosixPath(self.file_name.replace("\\", "/")).stem


class Annotation(BaseModel):
    id: Id = "without id"
    image_id: Id
    category_id: Id
    segmentation: list[list[FiniteFloat]] | RunLengths | None = None
    area: FiniteFloat | None = None
    iscrowd: bool = False


class Category(BaseModel):
    id: Id
    name: str


class Content(BaseModel):
    images: list[Picture] = Field(min_length=1)
    annotations: list[Annotation]
    categories: list[Category] = Field(min_length=1)


def read_coco(file: Path) -> Content:
    content = parsed(Content, from_disk(str(file)), str(file), REMEDY)
    if wrong := contradiction(content):
        raise DataError(f"{file}: {wrong}")
    return content


def contradiction(content: Content) -> str:
    """What the lists say of each other that cannot be; "" where all is well."""
    name, count = Counter(each.name for each in content.images).most_common(1)[0]
    if count > 1:
        return f"two images are named {name}: give each a name of its own"
    images = {each.id for each in content.images}
    categories = {each.id for each in content.categories}
    for each in content.annotations:
        if each.image_id not in images:
            return (
                f"annotation {each.id} is of image {each.image_id}, which is not listed: {REMEDY}"
            )
        if each.category_id not in categories:
            number = each.category_id
            return f"annotation {each.id} is of category {number}, which is not listed: {REMEDY}"
    return ""


class Coco(Drawn):
    """Images, and one COCO file of all."""

    def __init__(
        self,
        pairs: Sequence[tuple[Path | str, Path | str]],
        labels: LabelSet,
        ids: Mapping[str, int],
        outside: int,
        content: Content,
    ) -> None:
        super().__init__(pairs, labels, ids, outside)
        self.pictures = {each.name: each for each in content.images}
        self.categories = {each.id: each.name for each in content.categories}
        self.annotations: dict[Id, list[Annotation]] = defaultdict(list)
        for each in sorted(content.annotations, key=depth):
            self.annotations[each.image_id].append(each)

    def drawing(self, index: int) -> Drawing:
        picture = self.pictures[self.names[index]]
        size = picture.height, picture.width
        return Drawing(size, self.regions(picture.id, size, self.pairs[index][1]))

    def regions(self, picture: Id, size: Size, where: str) -> Iterator[Region]:
        for each in self.annotations.get(picture, ()):
            for spans in spans_of(each, size, f"{where}: annotation {each.id}"):
                yield Region(self.categories[each.category_id], spans)


def depth(annotation: Annotation) -> tuple[bool, float]:
    """Sorts what lies below before what lies above."""
    return not annotation.iscrowd, -(annotation.area or 0)


def spans_of(annotation: Annotation, size: Size, where: str) -> Iterator[np.ndarray]:
    """Of each part of an annotation."""
    segmentation = annotation.segmentation
    if not segmentation:
        raise DataError(f"{where} has a box and no segmentation: outline it, or take it out")
    if isinstance(segmentation, RunLengths):
        yield mask_spans(mask_of(segmentation, size, where))
        return
    for numbers in segmentation:
        if len(numbers) < 6 or len(numbers) % 2:
            raise DataError(
                f"{where} has a polygon of {len(numbers)} numbers, and needs x and y of 3 or more "
                "points: outline it again, or take it out"
            )
        yield polygon_spans(np.array(numbers).reshape(-1, 2), size)  # (2 * N) -> (N, 2)


# --- run lengths


def mask_of(runs: RunLengths, size: Size, where: str) -> np.ndarray:
    counts = unpacked(runs.counts) if isinstance(runs.counts, str) else runs.counts
    if runs.size != size or min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise DataError(
            f"{where} has run lengths of {sum(counts)} pixels for size {runs.size}, and its image "
            f"is {size[0]}x{size[1]} (height x width): {REMEDY}"
        )
    values = np.arange(len(counts)) % 2
    return np.repeat(values, counts).reshape(size[::-1]).T  # (W * H) -> (W, H) -> (H, W)


def unpacked(text: str) -> list[int]:
    """Run lengths out of COCO's text: characters from "0" on are 6 bits, 5 of a number from its
    low end up and one that says whether it goes on. From the fourth number on it is the difference
    from the last but one.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            number -= 1 << shift
        if len(counts) > 2:
            number += counts[-2]
        counts.append(number)
        number = shift = 0
    return counts
