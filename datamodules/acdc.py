"""ACDC: 1600 / 406 / 2000 street images of 1080 x 1920 in fog, night, rain and snow, Cityscapes' 19
classes.

Sakaridis, Dai, Van Gool: ACDC: The Adverse Conditions Dataset with Correspondences. ICCV 2021.
arXiv:2104.13395
Folders and endings, of the official zips rgb_anon_trainvaltest.zip and gt_trainval.zip: README.md
and data_modules/datasets/acdc.py of brdav/refign; README.md of lhoyer/DAFormer (which then flattens
the tree; here it is read as it unpacks). Ids: train ids, as both read them (naver/oasis reads the
*_gt_labelIds.png beside them).
Counts: 4006 images in all and 2006 labels of train and val, as the download page describes its
archives; 406 of val, by public READMEs.
That 106 of these are at night, and 100 in each other weather, is from memory, not looked up.
"""

from pathlib import Path
from typing import Any, Literal

from datamodules.errors import one_of
from datamodules.labels import STREET_TRAIN_IDS
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files

WEATHER = ("fog", "night", "rain", "snow")


class ACDC(SegmentationData):
    labels = STREET_TRAIN_IDS
    name = "ACDC"
    layout = (
        "rgb_anon/{fog,night,rain,snow}/{train,val}/<recording>/*_rgb_anon.png and "
        "gt/.../*_gt_labelTrainIds.png likewise"
    )
    origin = (
        "register at https://acdc.vision.ee.ethz.ch, download rgb_anon_trainvaltest.zip "
        "and gt_trainval.zip and unzip both into DIR"
    )
    hidden = {
        "test": "evaluate on val, or predict the test images and submit them to "
        "https://acdc.vision.ee.ethz.ch"
    }
    counts = {"train": 1600, "val": 406, "test": 2000}

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        condition: Literal["all", "fog", "night", "rain", "snow"] = "all",
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        self.condition = one_of("condition", condition, ("all", *WEATHER))
        if condition != "all":
            self.counts = {"train": 400, "val": 106 if condition == "night" else 100}

    def source(self, split: str) -> Files:
        images: dict[str, Path] = {}
        labels: dict[str, Path] = {}
        for weather in WEATHER if self.condition == "all" else [self.condition]:
            images |= self.matching(f"rgb_anon/{weather}/{split}/*/*", "_rgb_anon.png")
            labels |= self.matching(f"gt/{weather}/{split}/*/*", "_gt_labelTrainIds.png")
        return self.files(split, images, labels)
