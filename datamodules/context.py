"""PASCAL Context: 4998 / 5105 photographs of VOC 2010, labeled whole, with the 59 usual classes, or
60 with background.

Mottaghi et al.: The Role of Context for Object Detection and Semantic Segmentation in the Wild.
CVPR 2014.
Folders: mmsegmentation's docs/en/user_guides/2_dataset_prepare.md; its
tools/dataset_converters/pascal_context.py writes the label PNGs and both lists from
trainval_merged.json (with the Detail API). Ids: 0 .. 59, where 0 is background (every one of the
459 annotated classes that is not among the 59), the others in alphabetical order
(mmseg/datasets/pascal_context.py). Colors: VOC's, of the same number; the data set names none.
Counts: e-com-net.com/article/1188431481903620096.htm, a description that uses the same Detail API.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.file_trees import picked, read_list
from datamodules.labels import LabelSet, devkit_color, split_names
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files

CLASSES = """
aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet,
car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food,
grass, ground, horse, keyboard, light, motorbike, mountain, mouse, person, plate, platform,
pottedplant, road, rock, sheep, shelves, sidewalk, sign, sky, snow, sofa, table, track, train, tree,
truck, tvmonitor, wall, water, window, wood
"""
NAMES = split_names(CLASSES)
WITHOUT_BACKGROUND = LabelSet(
    NAMES, palette=tuple(map(devkit_color, range(1, 60))), ids=tuple(range(1, 60)), void=(0, 255)
)
WITH_BACKGROUND = replace(
    WITHOUT_BACKGROUND,
    names=("background", *NAMES),
    palette=tuple(map(devkit_color, range(60))),
    ids=tuple(range(60)),
    void=(255,),
)


class Context(SegmentationData):
    name = "PASCAL Context"
    layout = (
        "JPEGImages/*.jpg, SegmentationClassContext/*.png and "
        "ImageSets/SegmentationContext/{train,val}.txt"
    )
    origin = (
        "it is the folder VOCdevkit/VOC2010 of "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar, and "
        "mmsegmentation's tools/dataset_converters/pascal_context.py makes the labels and lists"
    )
    counts = {"train": 4998, "val": 5105}

    def __init__(
        self, root: str | Path | None = None, *, background: bool = False, **settings: Any
    ) -> None:
        """`background`: a 60th class, for papers that count it; else its pixels are ignored."""
        super().__init__(root, **settings)
        self.background = background

    @property
    def labels(self) -> LabelSet:
        return WITH_BACKGROUND if self.background else WITHOUT_BACKGROUND

    def source(self, split: str) -> Files:
        file = self.root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
        names = read_list(file, self.remedy)
        images = self.images_in("JPEGImages")
        labels = self.labels_in("SegmentationClassContext")
        return self.files(split, *picked(names, file, images, labels))
