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
from itertools import product

import numpy as np

from datamodules.errors import DataError
from datamodules.progress import with_progress
from datamodules.reading.sources import Source
from datamodules.sampling.crops import Spot

TILE = 1024


@dataclass(frozen=True)
class Spots:
    """Spots, numbered behind the images: a number below `images` draws an image, others a spot."""

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
    """Reads every label: about 20 ms of one core for each of Cityscapes, a minute for all."""
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
    by_class = [np.flatnonzero(table[:, 0] == each) for each in np.unique(table[:, 0])]
    return Spots(len(source), share, table[:, 1:].copy(), by_class)


def centroids(label: np.ndarray, classes: int) -> np.ndarray:
    """(spots, 3): class, row, column of each class in each tile."""
    spots = []
    for top, left in product(*(range(0, side, TILE) for side in label.shape)):
        tile = label[top : top + TILE, left : left + TILE]
        for number in np.flatnonzero(counted(tile)[:classes]).tolist():
            here = (tile == number).view(np.uint8)
            spots.append((number, top + mean_place(here, 1), left + mean_place(here, 0)))
    return np.int32(spots).reshape(-1, 3)


def mean_place(here: np.ndarray, axis: int) -> int:
    """The mean place along the other axis of the pixels that are 1, rounded down."""
    import cv2

    sums = cv2.reduce(here, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    return int(sums @ np.arange(len(sums)) / sums.sum())


def counted(label: np.ndarray) -> np.ndarray:
    """The number of pixels of each of the 256 values (256,)."""
    import cv2

    return cv2.calcHist([label], [0], None, [256], [0, 256]).ravel().astype(np.int64)
