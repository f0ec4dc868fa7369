"""COCO-Stuff: 118287 / 5000 photographs with 171 classes of things and stuff, or the earlier 9000 /
1000 (release 10k).

Caesar, Uijlings, Ferrari: COCO-Stuff: Thing and Stuff Classes in Context. CVPR 2018.
arXiv:1612.03716
Folders, names, ids: README.md ("Setup") and labels.txt of https://github.com/nightrome/cocostuff.
Labels are numbered 1 .. 182, and 11 of them have no pixel (README.md, "Label Names & Indices";
mmsegmentation's mmseg/datasets/coco_stuff.py leaves out the same).
164k: stuffthingmaps_trainval2017.zip as it unpacks, PNGs of the label less 1 (0 .. 181) with 255
for unlabeled.
10k: cocostuff-10k-v1.1.zip holds Matlab files with the label itself (0 .. 182, 0 unlabeled) under
S, and imageLists/{train,test}.txt (mmsegmentation's tools/dataset_converters/coco_stuff10k.py). The
Matlab files are made into PNGs of the same numbers, once, by

    python -m datamodules.cocostuff DIR

Colors: VOC's, of the same number; the data set names none.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from datamodules.errors import DataError, one_of
from datamodules.file_trees import picked, read_list, read_matlab
from datamodules.labels import LabelSet, devkit_color, split_names
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files

CLASSES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
street sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear,
zebra, giraffe, hat, backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis,
snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket,
bottle, plate, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli,
carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, mirror, dining table, window,
desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
refrigerator, blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush,
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet,
ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt,
door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog,
food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat,
metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other,
plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel,
wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""
EMPTY = split_names(
    "street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush"
)
IDS = {name: number for number, name in enumerate(split_names(CLASSES), 1) if name not in EMPTY}
OF_10K = LabelSet(
    names=tuple(IDS),
    palette=tuple(map(devkit_color, IDS.values())),
    ids=tuple(IDS.values()),
    void=(0,),
)
OF_164K = replace(OF_10K, ids=tuple(number - 1 for number in OF_10K.ids), void=(255,))
RELEASES = {"164k": {"train": 118287, "val": 5000}, "10k": {"train": 9000, "val": 1000}}
LISTS = {"train": "train", "val": "test"}


class COCOStuff(SegmentationData):
    name = "COCO-Stuff"
    layout = (
        "images/{train,val}2017/*.jpg and annotations/{train,val}2017/*.png, or for "
        "data.release=10k images/*.jpg, annotations/*.png and "
        "imageLists/{train,test}.txt"
    )
    origin = (
        "unzip train2017.zip and val2017.zip of COCO into DIR/images and "
        "stuffthingmaps_trainval2017.zip into DIR/annotations as "
        "https://github.com/nightrome/cocostuff says"
    )
    hidden = {"test": "evaluate on val, as the papers do"}
    counts = RELEASES["164k"]

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        release: Literal["164k", "10k"] = "164k",
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        self.release = one_of("release", release, tuple(RELEASES))
        self.counts = RELEASES[self.release]

    @property
    def labels(self) -> LabelSet:
        return OF_10K if self.release == "10k" else OF_164K

    def source(self, split: str) -> Files:
        if self.release == "164k":
            images = self.images_in(f"images/{split}2017")
            return self.files(split, images, self.labels_in(f"annotations/{split}2017"))
        file = self.root / "imageLists" / f"{LISTS[split]}.txt"
        names = read_list(file, self.remedy)
        annotations = self.root / "annotations"
        if any(annotations.glob("*.mat")) and not any(annotations.glob("*.png")):
            raise DataError(
                f"{annotations} holds Matlab files: make PNGs of them with python -m "
                f"datamodules.cocostuff {self.root}"
            )
        images = self.images_in("images")
        return self.files(split, *picked(names, file, images, self.labels_in("annotations")))


# --- the Matlab files of release 10k


def convert(root: Path) -> int:
    """Writes annotations/NAME.png beside each NAME.mat; what is there already stays."""
    import cv2

    files = sorted((root / "annotations").glob("*.mat"))
    if not files:
        raise DataError(f"{root} holds no annotations/*.mat: unzip cocostuff-10k-v1.1.zip there")
    for file in files:
        target = file.with_suffix(".png")
        if target.exists():
            continue
        label = read_matlab(file, "S")
        if label.ndim != 2 or label.min() < 0 or label.max() > 182:
            raise DataError(
                f"{file} holds labels outside 0 .. 182: take the annotations of "
                "cocostuff-10k-v1.1.zip"
            )
        partial = target.with_suffix(".partial")
        partial.write_bytes(cv2.imencode(".png", label.astype("uint8"))[1].tobytes())
        partial.rename(target)
    return len(files)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.cocostuff",
        allow_abbrev=False,
        description="Make label PNGs of COCO-Stuff 10k's Matlab files.",
    )
    parser.add_argument(
        "root", type=Path, metavar="DIR", help="the folder with images, annotations and imageLists"
    )
    root = parser.parse_args(arguments).root
    try:
        count = convert(root)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{count} labels are PNGs in {root / 'annotations'}: --data cocostuff "
        f"data.release=10k data.root={root}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
