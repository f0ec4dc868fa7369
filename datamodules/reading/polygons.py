"""Labels that are drawn: annotation programs save named regions, and a label is made of them when
it is read.

A pixel belongs to a region that contains its center; where an outline crosses itself, by the
even-odd rule. So a rectangle has the area that it states, and neighbors along one line share no
pixel. OpenCV's fillPoly would add every pixel that an outline touches.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from datamodules.errors import DataError
from datamodules.labels import LabelSet
from datamodules.reading.decoding import Box, Size, inside
from datamodules.reading.sources import Files

Content = TypeVar("Content", bound=BaseModel)


class Region(NamedTuple):
    name: str
    spans: np.ndarray  # (N, 2): start and end of each run of pixels, rows laid end to end


class Drawing(NamedTuple):
    size: Size
    regions: Iterable[Region]  # each lies over those before it


class UnknownName(DataError):
    """A region's name that is no class."""


class Drawn(Files):
    """Image files, and the regions that were drawn on each."""

    def __init__(
        self,
        pairs: Sequence[tuple[Path | str, Path | str]],
        labels: LabelSet,
        ids: Mapping[str, int],
        outside: int,
    ) -> None:
        """`ids` are those of the regions' names; `outside` is the id where no region is."""
        super().__init__(pairs, labels)
        self.ids = ids
        self.outside = outside

    def drawing(self, index: int) -> Drawing:
        raise NotImplementedError

    def size(self, index: int) -> Size:
        if index not in self.sizes:
            self.sizes[index] = self.drawing(index).size
        return self.sizes[index]

    def numbers(self, index: int, box: Box | None = None) -> np.ndarray:
        size, regions = self.drawing(index)
        label = np.full(size, self.outside, np.uint8)
        pixels = label.ravel()  # (H, W) -> (H * W), the same memory
        for region in regions:
            number = self.id_of(region.name, self.pairs[index][1])
            for start, end in region.spans.tolist():
                pixels[start:end] = number
        return inside(label, box)

    def id_of(self, name: str, where: str) -> int:
        if name in self.ids:
            return self.ids[name]
        match = get_close_matches(name, self.ids, n=1, cutoff=0.6)
        hint = f" (did you mean {match[0]}?)" if match else ""
        raise UnknownName(
            f"{where} has a region named {name}, which is no class{hint}: rename it, or add "
            f"{name} to the classes, or to the ignored names, in classes.yaml"
        )


def parsed(content: type[Content], data: bytes, path: str, remedy: str) -> Content:
    """The fields of a JSON file; one that is missing or wrong is named."""
    try:
        return content.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        wrong = f"{place}: {first['msg']}" if place else first["msg"]
        raise DataError(f"{path} cannot be used ({wrong}): {remedy}") from None


# --- spans of pixels


def polygon_spans(points: np.ndarray, size: Size) -> np.ndarray:
    """Of corners (N, 2), x and y, where a pixel of column c and row r is centered at c + 0.5 and
    r + 0.5.
    """
    start, end = points, np.roll(points, -1, axis=0)
    across, down = (end - start).T
    # the rows whose centers an edge crosses; its lower end belongs to the next edge
    first = first_center(np.minimum(start[:, 1], end[:, 1]), size[0])
    counts = first_center(np.maximum(start[:, 1], end[:, 1]), size[0]) - first
    edge = np.repeat(np.arange(len(points)), counts)
    rows = np.arange(len(edge)) - np.repeat(counts.cumsum() - counts - first, counts)
    share = (rows + 0.5 - start[edge, 1]) / down[edge]
    return spans_between(rows, start[edge, 0] + share * across[edge], size)


def circle_spans(center: np.ndarray, radius: float, size: Size) -> np.ndarray:
    x, y = center
    rows = np.arange(*first_center(np.array([y - radius, y + radius]), size[0]))
    half = np.sqrt(np.maximum(radius**2 - (rows + 0.5 - y) ** 2, 0))
    return spans_between(np.tile(rows, 2), np.concatenate([x - half, x + half]), size)


def first_center(places: np.ndarray, count: int) -> np.ndarray:
    """The first of `count` pixels whose center is not before a place, or `count`."""
    return np.ceil(places - 0.5).clip(0, count).astype(np.int64)


def spans_between(rows: np.ndarray, places: np.ndarray, size: Size) -> np.ndarray:
    """The pixels between the crossings of an outline with rows' centers, two by two."""
    crossings = rows * size[1] + first_center(places, size[1])
    return np.sort(crossings).reshape(-1, 2)  # each row has an even number of them


def mask_spans(mask: np.ndarray) -> np.ndarray:
    """Of a mask (H, W) of zeros and ones."""
    steps = np.diff(mask.ravel().astype(np.int8), prepend=0, append=0)
    return np.flatnonzero(steps).reshape(-1, 2)
