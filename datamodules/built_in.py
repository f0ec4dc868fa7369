"""`BuiltIn`: the interface of built-in data sets, whose pictures are drawn, not read."""

from collections.abc import Mapping
from typing import ClassVar

from datamodules.errors import DataError, whole_number
from datamodules.module import SegmentationData
from datamodules.reading.decoding import Size

SPLITS = ("train", "val", "test")


class BuiltIn(SegmentationData):
    """Picture k of a split is a function of (seed, split, k)."""

    files_instead: ClassVar[str] = ""  # what takes files of this kind, for messages
    least_size: ClassVar[Size] = (32, 32)

    def settle(self, size: Size, counts: Mapping[str, int], pictures_seed: tuple[str, int]) -> None:
        """Take the pictures' size, those of each split, and the seed behind its option's name."""
        if self.given_root is not None:
            raise DataError(
                f"{self.name} are made, not read: drop data.root={self.given_root}, "
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
