"""`Drawn`: the interface of built-in data sets, whose pictures are drawn instead of read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from datamodules.errors import DataError, whole_number
from datamodules.module import SegmentationData
from datamodules.reading.decoding import Size

SPLITS = ("train", "val", "test")


class Drawn(SegmentationData):
    """Picture k of a split is a function of (seed, split, k)."""

    files_instead: ClassVar[str] = ""  # what takes files of this kind, for messages
    least_size: ClassVar[Size] = (32, 32)

    def __init__(
        self,
        root: str | Path | None,
        *,
        size: Size,
        counts: Mapping[str, int],
        pictures_seed: tuple[str, int],
        **settings: Any,
    ) -> None:
        """`counts` are those of the splits; `pictures_seed` comes after the name of its option."""
        super().__init__(root, **settings)
        if root is not None:
            raise DataError(
                f"{self.name} are made, not read: drop data.root={root}, "
                f"or take {self.files_instead}"
            )
        for field, side, least in zip(("height", "width"), size, self.least_size):
            whole_number(field, side, least)
        whole_number(*pictures_seed, 0)
        for split in SPLITS:
            whole_number(split, counts[split], 1)
        self.size = size
        self.picture_counts = counts
        self.pictures_seed = pictures_seed[1]

    def split_seed(self, split: str) -> int:
        """Each split of each seed has a seed of its own."""
        return len(SPLITS) * self.pictures_seed + SPLITS.index(split)
