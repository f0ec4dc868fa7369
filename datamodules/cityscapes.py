"""Cityscapes: 2975 / 500 / 1525 finely labelled street images of 1024 x 2048 from 50 cities, 19 judged classes.

Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding. CVPR 2016. arXiv:1604.01685
Read as the two official zips unpack, ids mapped here: no preprocessing, no trainIds files.
"""

from pathlib import Path
from typing import ClassVar

from lightning.pytorch.utilities import rank_zero_info

from datamodules import DataError
from datamodules.labels import CITYSCAPES
from datamodules.module import SegmentationData
from datamodules.store import Files, paired

IMAGE, LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"


class Cityscapes(SegmentationData):
    labels = CITYSCAPES
    name = "Cityscapes"
    layout = "leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and gtFine/{train,val}/<city>/*_gtFine_labelIds.png"
    origin = (
        "register at https://www.cityscapes-dataset.com, download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip "
        "and unzip both into DIR"
    )
    environment = "CITYSCAPES_DATASET"
    hidden: ClassVar[dict[str, str]] = {
        "test": "evaluate on val, or predict the test images and submit them to https://www.cityscapes-dataset.com"
    }
    counts: ClassVar[dict[str, int]] = {"train": 2975, "val": 500, "test": 1525}

    def source(self, split: str) -> Files:
        images, labels = self.listing("leftImg8bit", split, IMAGE), self.listing("gtFine", split, LABEL)
        pairs = paired(images, labels, f"leftImg8bit/{split} and gtFine/{split} must hold the same cities; unzip both archives again")
        if len(pairs) != self.counts[split]:
            rank_zero_info(f"{self.root}: {split} has {len(pairs)} images, the official Cityscapes {self.counts[split]}.")
        return Files(pairs, self.labels, names=list(images))

    def listing(self, kind: str, split: str, ending: str) -> dict[str, Path]:
        """Files by their official name, such as aachen_000000_000019."""
        files = sorted((self.root / kind / split).glob(f"*/*{ending}"))
        if not files:
            raise DataError(f"{self.root} holds no {kind}/{split}/<city>/*{ending}{self.elsewhere(kind)}: {self.remedy}")
        return {file.name.removesuffix(ending): file for file in files}

    def elsewhere(self, kind: str) -> str:
        """ " (did you mean ...?)" when the tree begins one folder above or below."""
        found = [folder for folder in (self.root.parent, *sorted(self.root.iterdir())) if (folder / kind).is_dir()]
        return f" (did you mean {found[0]}?)" if found else ""
