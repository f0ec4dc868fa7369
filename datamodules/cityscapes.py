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
from typing import Any, Literal

import numpy as np

from datamodules.errors import DataError, one_of
from datamodules.labels import CITYSCAPES
from datamodules.module import SegmentationData
from datamodules.reading.decoding import Reader, Size, decode
from datamodules.reading.sources import Files, Images
from datamodules.reading.zips import Zips

IMAGE = "_leftImg8bit.png"
COUNTS = {"fine": 2975, "coarse": 19997, "fine+coarse": 22972}
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
    hidden = {
        "test": "evaluate on val, or predict the test images and submit them to "
        "https://www.cityscapes-dataset.com"
    }
    counts = {"train": 2975, "val": 500, "test": 1525}

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        training: Literal["fine", "fine+coarse", "coarse"] = "fine",
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        self.training = one_of("training", training, ("fine", "fine+coarse", "coarse"))
        self.counts = self.counts | {"train": COUNTS[training]}
        self.instance_files: dict[str, dict[str, str]] = {}  # by split and name

    def source(self, split: str) -> Files:
        zips = Zips()
        images: dict[str, str] = {}
        labels: dict[str, str] = {}
        if split != "train" or "fine" in self.training:
            images |= self.listing("leftImg8bit", split, IMAGE, zips)
            labels |= self.listing("gtFine", split, "_gtFine_labelIds.png", zips)
        if split == "train" and "coarse" in self.training:
            images |= self.listing("leftImg8bit", "train_extra", IMAGE, zips)
            labels |= self.listing("gtCoarse", "train_extra", "_gtCoarse_labelIds.png", zips)
        return self.files(split, images, labels, read=zips)

    def instances(self, split: str, index: int) -> np.ndarray | None:
        """None for a pack, which keeps labels alone, and for an image without such a file."""
        source = self.open(split)
        if not isinstance(source, Files):
            return None
        if split not in self.instance_files:
            files = self.listed("gtFine", split, "_gtFine_instanceIds.png", source.read)
            self.instance_files[split] = files
        path = self.instance_files[split].get(source.names[index])
        if path is None:
            return None
        return self.labels.encode_instances(read_instances(path, source.size(index), source.read))

    def images(self, split: str) -> Images:
        """The split's images alone: those of test have no public labels."""
        zips = Zips()
        files = self.listing("leftImg8bit", split, IMAGE, zips)
        self.compare_size(split, len(files))
        return Images(files, read=zips)

    def listing(self, kind: str, split: str, ending: str, zips: Zips) -> dict[str, str]:
        """The files of `listed`; refuses a split that has none."""
        files = self.listed(kind, split, ending, zips)
        files.pop(BLACK, None)
        if not files:
            absent = f"{kind}/{split}/<city>/*{ending}{self.elsewhere(kind)}"
            remedy = EXTRA if split == "train_extra" else self.remedy
            raise DataError(f"{self.root} holds no {absent}: {remedy}")
        return files

    def listed(self, kind: str, split: str, ending: str, zips: Zips) -> dict[str, str]:
        """Files by their official name, such as aachen_000000_000019: from the folder, or from the
        zip where there is none."""
        folder = self.root / kind / split
        archive = self.root / archive_of(kind, split)
        if not folder.is_dir() and archive.is_file():
            files = zips.matching(archive, f"{kind}/{split}/*/*{ending}")
        else:
            files = sorted(map(str, folder.glob(f"*/*{ending}")))
        return {file.rpartition("/")[2].removesuffix(ending): file for file in files}

    def elsewhere(self, kind: str) -> str:
        """ " (did you mean ...?)" when the tree begins one folder above or below."""
        for folder in (self.root.parent, *sorted(self.root.iterdir())):
            if (folder / kind).is_dir():
                return f" (did you mean {folder}?)"
        return ""


def read_instances(path: str, size: Size, read: Reader) -> np.ndarray:
    """The numbers in the file, uint16 (H, W)."""
    import cv2

    values = decode(read(path), path, lambda buffer: cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED))
    if values.dtype != np.uint16 or values.shape != size:
        kind = "x".join(map(str, values.shape))
        raise DataError(
            f"{path} is a {kind} picture of {8 * values.itemsize} bits; instances are one 16-bit "
            f"channel of the label's {size[0]}x{size[1]}: get it again from "
            "gtFine_trainvaltest.zip"
        )
    return values


def archive_of(kind: str, split: str) -> str:
    if kind == "gtCoarse":
        return "gtCoarse.zip"
    return f"{kind}_trainextra.zip" if split == "train_extra" else f"{kind}_trainvaltest.zip"
