"""Class-uniform sampling of NVIDIA/semantic-segmentation: an epoch shows every class equally often.

The places of all classes in all labels are found once.

A spot is the centroid of one class in one tile of an image. As in that code it need not lie on the
class, and a class that has few spots shows them again and again. Unlike there, what whole tiles
leave of an image is a tile too; and where the number of classes does not divide the share of an
epoch, what is left goes to classes drawn anew for each epoch, not to images at random: a small set
keeps its share.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from datamodules.errors import DataError
from datamodules.progress import with_progress
from datamodules.reading.sources import Source
from datamodules.sampling.crops import Spot

TILE = 1024


@dataclass(frozen=True)
class Spots:
    """Numbered behind the images: what is drawn is an image below `images`, a spot from there
    on."""

    images: int
    share: float  # of an epoch
    places: np.ndarray  # (spots, 3): image, row, column
    classes: list[np.ndarray]  # the spots of each class that occurs

    def of(self, drawn: int) -> tuple[int, Spot | None]:
        """Index of the image, and the spot that the crop is about."""
        if drawn < self.images:
            return drawn, None
        index, row, column = self.places[drawn - self.images].tolist()
        return index, (row, column)

    def epoch(self, rng: np.random.Generator) -> np.ndarray:
        """As many draws as there are images: spots of all classes alike, and different images."""
        count = int(self.images * self.share)
        each, more = divmod(count, len(self.classes))
        larger = rng.permutation(len(self.classes)) < more
        spots = [
            np.resize(rng.permutation(own), each + extra)
            for own, extra in zip(self.classes, larger.tolist())
        ]
        images = rng.permutation(self.images)[: self.images - count]
        return rng.permutation(np.concatenate([images, self.images + np.concatenate(spots)]))


def located(source: Source, classes: int, share: float, threads: int) -> Spots:
    """Reads every label; about 20 ms of one core for one of 1024 x 2048, a minute for
    Cityscapes."""
    with ThreadPoolExecutor(threads) as pool:
        tables = pool.map(lambda index: centroids(source.label(index), classes), range(len(source)))
        tables = with_progress(tables, "finding every class", len(source))
        tables = [np.insert(table, 1, index, axis=1) for index, table in enumerate(tables)]
    table = np.concatenate(tables)  # (spots, 4): class, image, row, column
    if not len(table):
        raise DataError(
            f"class_uniform={share} asks for classes, and no training label shows one: take "
            "class_uniform=0"
        )
    occurring = np.unique(table[:, 0])
    return Spots(
        len(source),
        share,
        table[:, 1:].copy(),
        [np.flatnonzero(table[:, 0] == each) for each in occurring],
    )


def centroids(label: np.ndarray, classes: int) -> np.ndarray:
    """(spots, 3): class, row, column of each class in each tile."""
    height, width = label.shape
    corners = [(top, left) for top in range(0, height, TILE) for left in range(0, width, TILE)]
    return np.int32(
        [
            spot
            for top, left in corners
            for spot in of_tile(label[top : top + TILE, left : left + TILE], top, left, classes)
        ]
    ).reshape(-1, 3)


def of_tile(tile: np.ndarray, top: int, left: int, classes: int) -> list[tuple[int, int, int]]:
    import cv2

    found = []
    for number in np.flatnonzero(counted(tile)[:classes]).tolist():
        here = (tile == number).view(np.uint8)
        across, down = (
            cv2.reduce(here, side, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64)
            for side in (0, 1)
        )
        row, column = (int(sums @ np.arange(len(sums)) / sums.sum()) for sums in (down, across))
        found.append((number, top + row, left + column))
    return found


def counted(label: np.ndarray) -> np.ndarray:
    """The number of pixels of each of the 256 values (256,)."""
    import cv2

    return cv2.calcHist([label], [0], None, [256], [0, 256]).ravel().astype(np.int64)
