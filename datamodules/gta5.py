"""GTA5: 24966 rendered street images of about 1052 x 1914, with Cityscapes' ids and 19 classes; for
adaptation to real streets.

Richter, Vineet, Roth, Koltun: Playing for Data: Ground Truth from Computer Games. ECCV 2016.
arXiv:1608.02192
Folders and names: images/00001.png .. 24966.png and labels/ likewise, as all zips unpack (README.md
of lhoyer/DAFormer).
Ids: those of Cityscapes, as indices of palette PNGs (DAFormer's tools/convert_datasets/gta.py); 34
is the license plate, Cityscapes' -1.
Split: the authors' split.mat with trainIds, valIds and testIds (cycada/data/gta5.py of
jhoffman/cycada_release): 12403 / 6382 / 6181 (the first by issue 21 of sunghac/RobustNet, the other
two counted in split_data of shachoi/RobustNet).
Left out: 62 images whose label has another size (listed in data/gtav.py of ArantxaCasanova/ralis;
RobustNet skips what differs, too). By RobustNet's lists they are 1, 35 and 26 of the splits: 12402
/ 6347 / 6155 remain, 24904 in all.

Papers on adaptation train on every image and are judged on Cityscapes: data.training=all, then
evaluate.py RUN --data cityscapes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from datamodules.errors import DataError, one_of
from datamodules.file_trees import picked, read_matlab
from datamodules.labels import CITYSCAPES
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files

# image and label differ in size
UNLIKE = {f"{number:05d}" for number in (15188, 17705, *range(20801, 20861))}


class GTA5(SegmentationData):
    labels = replace(CITYSCAPES, void=tuple(sorted(set(range(35)) - set(CITYSCAPES.ids))))
    name = "GTA5"
    layout = "images/*.png, labels/*.png and split.mat"
    origin = (
        "download the ten image zips, the ten label zips and read_mapping.zip (which holds "
        "split.mat) from "
        "https://download.visinf.tu-darmstadt.de/data/from_games and unzip all into DIR"
    )
    caution = (
        "GTA5 is rendered: judge what learned from it on Cityscapes (evaluate.py RUN "
        "--data cityscapes)"
    )
    counts = {"train": 12402, "val": 6347, "test": 6155}

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        training: Literal["split", "all"] = "split",
        **settings: Any,
    ) -> None:
        """`training`: the authors' training split, or all images; those of val are then among them,
        and val says nothing.
        """
        super().__init__(root, **settings)
        self.training = one_of("training", training, ("split", "all"))
        if training == "all":
            self.counts = self.counts | {"train": 24904}

    def source(self, split: str) -> Files:
        images = self.images_in("images")
        labels = self.labels_in("labels")
        for name in UNLIKE:
            images.pop(name, None)
            labels.pop(name, None)
        if split != "train" or self.training == "split":
            images, labels = picked(self.listed(split), self.root / "split.mat", images, labels)
        return self.files(split, images, labels)

    def listed(self, split: str) -> list[str]:
        file = self.root / "split.mat"
        if not file.is_file():
            raise DataError(f"there is no split list {file}: {self.remedy}")
        names = [f"{int(number):05d}" for number in read_matlab(file, f"{split}Ids").ravel()]
        return [name for name in names if name not in UNLIKE]
