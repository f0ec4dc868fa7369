"""Cityscapes: 2975 / 500 / 1525 finely labelled street images of 1024 x 2048 from 50 cities, 19 judged classes.

Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding. CVPR 2016. arXiv:1604.01685
Read as the two official zips unpack, or out of the zips themselves; ids are mapped here: no preprocessing, no trainIds files.
"""

from typing import ClassVar

from lightning.pytorch.utilities import rank_zero_info

from datamodules import DataError
from datamodules.labels import CITYSCAPES
from datamodules.module import SegmentationData
from datamodules.store import Files, paired
from datamodules.zips import Zips

IMAGE, LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"


class Cityscapes(SegmentationData):
    labels = CITYSCAPES
    name = "Cityscapes"
    layout = (
        "leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and gtFine/{train,val}/<city>/*_gtFine_labelIds.png, "
        "or leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"
    )
    origin = "register at https://www.cityscapes-dataset.com and download the two zips into DIR; they need not be unpacked"
    environment = "CITYSCAPES_DATASET"
    hidden: ClassVar[dict[str, str]] = {
        "test": "evaluate on val, or predict the test images and submit them to https://www.cityscapes-dataset.com"
    }
    counts: ClassVar[dict[str, int]] = {"train": 2975, "val": 500, "test": 1525}

    def source(self, split: str) -> Files:
        zips = self.zips()
        images, labels = (self.listing(kind, split, end, zips) for kind, end in (("leftImg8bit", IMAGE), ("gtFine", LABEL)))
        pairs = paired(images, labels, f"leftImg8bit/{split} and gtFine/{split} must hold the same cities; get both archives again")
        if len(pairs) != self.counts[split]:
            rank_zero_info(f"{self.root}: {split} has {len(pairs)} images, the official Cityscapes {self.counts[split]}.")
        return Files(pairs, self.labels, names=list(images), read=zips)

    def zips(self) -> Zips | None:
        """The official archives, where they lie unpacked nowhere."""
        files = [self.root / f"{kind}_trainvaltest.zip" for kind in ("leftImg8bit", "gtFine") if not (self.root / kind).is_dir()]
        return Zips(files) if len(files) == 2 and all(file.is_file() for file in files) else None

    def listing(self, kind: str, split: str, ending: str, zips: Zips | None) -> dict[str, str]:
        """Files by their official name, such as aachen_000000_000019."""
        start = f"{self.root}/{kind}_trainvaltest.zip/{kind}/{split}/" if zips else f"{self.root}/{kind}/{split}/"
        every = zips.paths() if zips else map(str, (self.root / kind / split).glob(f"*/*{ending}"))
        files = sorted(path for path in every if path.startswith(start) and path.endswith(ending))
        if not files:
            raise DataError(f"{self.root} holds no {kind}/{split}/<city>/*{ending}{self.elsewhere(kind)}: {self.remedy}")
        return {path.rpartition("/")[2].removesuffix(ending): path for path in files}

    def elsewhere(self, kind: str) -> str:
        """ " (did you mean ...?)" when the tree begins one folder above or below."""
        found = [folder for folder in (self.root.parent, *sorted(self.root.iterdir())) if (folder / kind).is_dir()]
        return f" (did you mean {found[0]}?)" if found else ""
