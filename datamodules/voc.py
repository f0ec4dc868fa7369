"""PASCAL VOC 2012: 1464 / 1449 photographs with 21 classes, background among them; 10582 to train
on with SBD's labels.

Everingham, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes (VOC) Challenge.
IJCV 2010.
Hariharan, Arbelaez, Bourdev, Maji, Malik: Semantic Contours from Inverse Detectors. ICCV 2011
(SBD).
Folders and lists: the development kit's tree, as mmsegmentation's
docs/en/user_guides/2_dataset_prepare.md shows it. Ids: 0 background, 1 .. 20 in alphabetical order,
255 for the border of an object; colors: the kit's VOClabelcolormap.m. trainaug is train and every
image of SBD that is not in val: 10582 (AUG_LEN in mmsegmentation's
tools/dataset_converters/voc_aug.py, and the lines of splits/pascal/train_aug.txt in
LiheYoung/UniMatch). Where an image of it has an official label, that one is read; the others come
from SegmentationClassAug (mmsegmentation's configs/_base_/datasets/pascal_voc12_aug.py concatenates
the same two).
"""

from pathlib import Path
from typing import Any, Literal

from datamodules.errors import one_of
from datamodules.file_trees import picked, read_list
from datamodules.labels import LabelSet, devkit_color, split_names
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files

CLASSES = """
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog,
horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
"""
NAMES = split_names(CLASSES)


class VOC(SegmentationData):
    labels = LabelSet(
        NAMES,
        palette=tuple(map(devkit_color, range(21))),
        ids=tuple(range(21)),
        void_palette=((224, 224, 192),),
    )
    name = "PASCAL VOC 2012"
    layout = (
        "JPEGImages/*.jpg, SegmentationClass/*.png, ImageSets/Segmentation/{train,val}.txt, "
        "and for data.training=trainaug "
        "SegmentationClassAug/*.png and ImageSets/Segmentation/trainaug.txt"
    )
    origin = (
        "it is the folder VOCdevkit/VOC2012 of "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar; the last "
        "two are SBD's, for example by mmsegmentation's tools/dataset_converters/voc_aug.py, or "
        "take data.training=train without them"
    )
    hidden = {
        "test": "evaluate on val, or submit the predictions to "
        "http://host.robots.ox.ac.uk:8080 (the VOC evaluation server)"
    }
    counts = {"train": 10582, "val": 1449}

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        training: Literal["trainaug", "train"] = "trainaug",
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        self.training = one_of("training", training, ("trainaug", "train"))
        if training == "train":
            self.counts = self.counts | {"train": 1464}

    def source(self, split: str) -> Files:
        listed = self.training if split == "train" else split
        file = self.root / "ImageSets" / "Segmentation" / f"{listed}.txt"
        names = read_list(file, self.remedy)
        images = self.images_in("JPEGImages")
        labels = self.labels_in("SegmentationClass")
        if listed == "trainaug":
            labels = self.labels_in("SegmentationClassAug") | labels
        return self.files(split, *picked(names, file, images, labels))
