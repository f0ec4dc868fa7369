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
from typing import Any, ClassVar, Literal

from datamodules.labels import STREET_TRAIN_IDS
from datamodules.layouts import below, one_of, tell
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files, paired

IMAGE, LABEL = "_rgb_anon.png", "_gt_labelTrainIds.png"
WEATHER = ("fog", "night", "rain", "snow")
PARTS = {("train", each): 400 for each in WEATHER} | {
    ("val", each): 106 if each == "night" else 100 for each in WEATHER
}


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
    hidden: ClassVar[dict[str, str]] = {
        "test": "evaluate on val, or predict the test images and submit them to "
        "https://acdc.vision.ee.ethz.ch"
    }
    counts: ClassVar[dict[str, int]] = {"train": 1600, "val": 406, "test": 2000}

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        condition: Literal["all", "fog", "night", "rain", "snow"] = "all",
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        self.condition = one_of("condition", condition, ("all", *WEATHER))
        self.conditions = WEATHER if condition == "all" else (condition,)

    def source(self, split: str) -> Files:
        images, labels = {}, {}
        for weather in self.conditions:
            images |= below(self.root, f"rgb_anon/{weather}/{split}/*/*", IMAGE, self.remedy)
            labels |= below(self.root, f"gt/{weather}/{split}/*/*", LABEL, self.remedy)
        tell(
            self.name,
            self.root,
            split,
            len(images),
            sum(PARTS[split, weather] for weather in self.conditions),
        )
        pairs = paired(
            images,
            labels,
            f"rgb_anon/*/{split} and gt/*/{split} must hold the same recordings; unzip both "
            "archives again",
        )
        return Files(pairs, self.labels, names=list(images))
