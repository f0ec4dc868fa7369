"""Cityscapes: 2975 / 500 / 1525 finely labeled street images of 1024 x 2048 from 50 cities, 19
judged classes.

The study notes on STDC print 1225 for the test images.

Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding. CVPR 2016.
arXiv:1604.01685
Read as the official zips unpack, or out of the zips themselves; ids are mapped here: no
preprocessing, no trainIds files.

data.training=coarse takes the 19997 coarsely labeled images of train_extra (gtCoarse.zip,
leftImg8bit_trainextra.zip) instead of the 2975, fine+coarse both. Papers with coarse labels train
on these first and go on with fine ones (a second run with --init), or on both at once.
Counts: README.md of mcordts/cityscapesScripts; its 19998 of train_extra include a black one
(below). The coarse labels of train and val, which gtCoarse.zip holds as well, are not read.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from datamodules.errors import DataError
from datamodules.labels import CITYSCAPES
from datamodules.layouts import one_of, tell
from datamodules.module import SegmentationData
from datamodules.reading.decoding import Reader, Size, decode
from datamodules.reading.sources import Files, Images, paired
from datamodules.reading.zips import Zips

IMAGE, LABEL, INSTANCES = "_leftImg8bit.png", "_{kind}_labelIds.png", "_gtFine_instanceIds.png"
EXTRA = (
    "download gtCoarse.zip and leftImg8bit_trainextra.zip too and unzip both into DIR, or "
    "take data.training=fine"
)
# the one file of train_extra that shows nothing: one gray channel, all black
BLACK = "troisdorf_000000_000073"


class Cityscapes(SegmentationData):
    labels = CITYSCAPES
    name = "Cityscapes"
    layout = (
        "leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and "
        "gtFine/{train,val}/<city>/*_gtFine_labelIds.png, "
        "or leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"
    )
    origin = (
        "register at https://www.cityscapes-dataset.com and download the two zips into "
        "DIR; they need not be unpacked"
    )
    environment = "CITYSCAPES_DATASET"
    hidden: ClassVar[dict[str, str]] = {
        "test": "evaluate on val, or predict the test images and submit them to "
        "https://www.cityscapes-dataset.com"
    }
    counts: ClassVar[dict[str, int]] = {
        "train": 2975,
        "val": 500,
        "test": 1525,
        "train_extra": 19997,
    }

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        training: Literal["fine", "fine+coarse", "coarse"] = "fine",
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        self.training = one_of("training", training, ("fine", "fine+coarse", "coarse"))
        self.instance_files: dict[str, dict[str, str]] = {}  # by split and name

    def source(self, split: str) -> Files:
        pairs, zips = {}, Zips()
        for quality in self.training.split("+") if split == "train" else ["fine"]:
            pairs |= (
                self.pairs("gtCoarse", "train_extra", zips)
                if quality == "coarse"
                else self.pairs("gtFine", split, zips)
            )
        return Files([*pairs.values()], self.labels, names=list(pairs), read=zips)

    def instances(self, split: str, index: int) -> np.ndarray | None:
        """None for a pack, which keeps labels alone, and for an image without a file of instances
        beside its label.
        """
        source = self.open(split)
        if not isinstance(source, Files):
            return None
        if split not in self.instance_files:
            self.instance_files[split] = self.listed("gtFine", split, INSTANCES, source.read)
        path = self.instance_files[split].get(source.names[index])
        return (
            None
            if path is None
            else self.labels.encode_instances(read_instances(path, source.size(index), source.read))
        )

    def pairs(self, kind: str, split: str, zips: Zips) -> dict[str, tuple[str, str]]:
        images, labels = (
            self.listing("leftImg8bit", split, IMAGE, zips),
            self.listing(kind, split, LABEL.format(kind=kind), zips),
        )
        pairs = paired(
            images,
            labels,
            f"leftImg8bit/{split} and {kind}/{split} must hold the same cities; get both "
            "archives again",
        )
        tell(self.name, self.root, split, len(pairs), self.counts[split])
        return dict(zip(images, pairs, strict=True))

    def images(self, split: str) -> Images:
        """The split's images alone: those of test have no public labels."""
        zips = Zips()
        files = self.listing("leftImg8bit", split, IMAGE, zips)
        tell(self.name, self.root, split, len(files), self.counts[split])
        return Images(files, read=zips)

    def listing(self, kind: str, split: str, ending: str, zips: Zips) -> dict[str, str]:
        """Files by their official name, such as aachen_000000_000019: from the folder, or from the
        zip where there is none.
        """
        names = self.listed(kind, split, ending, zips)
        names.pop(BLACK, None)
        if not names:
            remedy = EXTRA if split == "train_extra" else self.remedy
            raise DataError(
                f"{self.root} holds no {kind}/{split}/<city>/*{ending}{self.elsewhere(kind)}: "
                f"{remedy}"
            )
        return names

    def listed(self, kind: str, split: str, ending: str, zips: Zips) -> dict[str, str]:
        folder, archive = self.root / kind / split, self.root / archive_of(kind, split)
        if not folder.is_dir() and archive.is_file():
            files = zips.matching(archive, f"{kind}/{split}/*/*{ending}")
        else:
            files = sorted(map(str, folder.glob(f"*/*{ending}")))
        return {file.rpartition("/")[2].removesuffix(ending): file for file in files}

    def elsewhere(self, kind: str) -> str:
        """ " (did you mean ...?)" when the tree begins one folder above or below."""
        found = [
            folder
            for folder in (self.root.parent, *sorted(self.root.iterdir()))
            if (folder / kind).is_dir()
        ]
        return f" (did you mean {found[0]}?)" if found else ""


def read_instances(path: str, size: Size, read: Reader) -> np.ndarray:
    """The numbers in the file, uint16 (H, W)."""
    import cv2

    values = decode(read(path), path, lambda buffer: cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED))
    if values.dtype != np.uint16 or values.shape != size:
        kind = "x".join(map(str, values.shape))
        raise DataError(
            f"{path} is a {kind} picture of {8 * values.itemsize} bits; instances are one "
            "16-bit channel of the label's "
            f"{size[0]}x{size[1]}: get it again from gtFine_trainvaltest.zip"
        )
    return values


def archive_of(kind: str, split: str) -> str:
    if kind == "gtCoarse":
        return "gtCoarse.zip"
    return f"{kind}_trainextra.zip" if split == "train_extra" else f"{kind}_trainvaltest.zip"
