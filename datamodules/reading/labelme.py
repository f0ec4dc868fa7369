"""LabelMe's files: a .json beside each image, with the shapes that a person drew on it.

Fields: labelme/_label_file.py of https://github.com/wkentaro/labelme. Shapes lie over each other in
the file's order, as its own conversion to label maps has it.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import BaseModel, FiniteFloat, PositiveInt

from datamodules.errors import DataError
from datamodules.reading.decoding import Size
from datamodules.reading.polygons import (
    Drawing,
    Drawn,
    Region,
    circle_spans,
    mask_spans,
    parsed,
    polygon_spans,
)

IGNORE = "__ignore__"  # LabelMe's own name for pixels that count nowhere
# the kinds of shapes, and how many points one has at least
POINTS = {"polygon": 3, "rectangle": 2, "oriented_rectangle": 4, "circle": 2, "mask": 2}


class Shape(BaseModel):
    label: str
    points: list[tuple[FiniteFloat, FiniteFloat]]
    shape_type: str | None = None  # early versions had polygons alone
    mask: str | None = None  # a PNG as text; the points are its corners


class Content(BaseModel):
    shapes: list[Shape]
    imageHeight: PositiveInt
    imageWidth: PositiveInt


class LabelMe(Drawn):
    """Images, each with a file of LabelMe."""

    def drawing(self, index: int) -> Drawing:
        path = self.pairs[index][1]
        remedy = "open the image in LabelMe and save again, or take both files out"
        content = parsed(Content, self.read(path), path, remedy)
        size = content.imageHeight, content.imageWidth
        return Drawing(size, regions(content.shapes, size, path))


def regions(shapes: Sequence[Shape], size: Size, where: str) -> Iterator[Region]:
    for number, shape in enumerate(shapes, 1):
        yield Region(shape.label, spans(shape, size, f"{where}: shape {number} ({shape.label})"))


def spans(shape: Shape, size: Size, where: str) -> np.ndarray:
    kind = shape.shape_type or "polygon"
    if kind not in POINTS:
        raise DataError(
            f"{where} is a {kind}, which covers no pixels: draw one of "
            f"{', '.join(POINTS)} in its place, or delete it"
        )
    points = np.array(shape.points, np.float64).reshape(-1, 2)
    if len(points) < POINTS[kind]:
        raise DataError(
            f"{where} is a {kind} of {len(points)} points, and needs {POINTS[kind]}: "
            "draw it again, or delete it"
        )
    if kind == "circle":
        return circle_spans(points[0], float(np.hypot(*(points[1] - points[0]))), size)
    if kind == "mask":
        return mask_spans(placed(decoded(shape.mask, where), points[0], size))
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return polygon_spans(points, size)


def decoded(text: str | None, where: str) -> np.ndarray:
    """The PNG of a mask, in pixels that are zero or not."""
    import cv2

    try:
        data = np.frombuffer(base64.b64decode(text or ""), np.uint8)
        mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
    except binascii.Error:
        mask = None
    if mask is None:
        raise DataError(f"{where} is a mask without a PNG: draw it again, or delete it")
    return mask > 0


def placed(mask: np.ndarray, corner: np.ndarray, size: Size) -> np.ndarray:
    """The mask in an image of that size; what lies outside is cut off."""
    left, top = np.rint(corner).astype(int)
    rows, columns = np.nonzero(mask)
    rows, columns = rows + top, columns + left
    seen = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    whole = np.zeros(size, bool)
    whole[rows[seen], columns[seen]] = True
    return whole
