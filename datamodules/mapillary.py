"""Mapillary Vistas: 18000 / 2000 / 5000 street images of many sizes; its 66 classes (v1.2), mapped
to Cityscapes' 19.

Neuhold, Ollmann, Rota Bulo, Kontschieder: The Mapillary Vistas Dataset for Semantic Understanding
of Street Scenes. ICCV 2017.
Counts: https://research.mapillary.com/eccv18. Folders: {training,validation}/{images,labels} of the
v1.2 zip (datasets/mapillary.py of NVIDIA/semantic-segmentation) or
{training,validation}/{images,v1.2/labels} of the v2.0 zip (mmsegmentation's
docs/en/user_guides/2_dataset_prepare.md). Ids: places in the list of classes, as its config.json
and mmsegmentation 1.2.2 have it.
Mapping: the one of datasets/mapillary.py in shachoi/RobustNet, whose figures papers on
generalization compare with. Other mappings exist (some take crosswalks, bike lanes and parking for
road): a score belongs to its mapping.
"""

from datamodules.labels import CITYSCAPES, LabelSet, split_names
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files

CLASSES = """
Bird, Ground Animal, Curb, Fence, Guard Rail, Barrier, Wall, Bike Lane, Crosswalk - Plain, Curb Cut,
Parking, Pedestrian Area, Rail Track, Road, Service Lane, Sidewalk, Bridge, Building, Tunnel,
Person, Bicyclist, Motorcyclist, Other Rider, Lane Marking - Crosswalk, Lane Marking - General,
Mountain, Sand, Sky, Snow, Terrain, Vegetation, Water, Banner, Bench, Bike Rack, Billboard,
Catch Basin, CCTV Camera, Fire Hydrant, Junction Box, Mailbox, Manhole, Phone Booth, Pothole,
Street Light, Pole, Traffic Sign Frame, Utility Pole, Traffic Light, Traffic Sign (Back),
Traffic Sign (Front), Trash Can, Bicycle, Boat, Bus, Car, Caravan, Motorcycle, On Rails,
Other Vehicle, Trailer, Truck, Wheeled Slow, Car Mount, Ego Vehicle, Unlabeled
"""
IDS = {name: number for number, name in enumerate(split_names(CLASSES))}
OF_CITYSCAPES = {  # the first one stands for the class
    "road": ("Road", "Lane Marking - General", "Manhole"),
    "sidewalk": ("Sidewalk", "Curb"),
    "building": ("Building",),
    "wall": ("Wall",),
    "fence": ("Fence",),
    "pole": ("Pole", "Utility Pole"),
    "traffic light": ("Traffic Light",),
    "traffic sign": ("Traffic Sign (Front)",),
    "vegetation": ("Vegetation",),
    "terrain": ("Terrain",),
    "sky": ("Sky",),
    "person": ("Person",),
    "rider": ("Bicyclist", "Motorcyclist", "Other Rider"),
    "car": ("Car",),
    "truck": ("Truck",),
    "bus": ("Bus",),
    "train": ("On Rails",),
    "motorcycle": ("Motorcycle",),
    "bicycle": ("Bicycle",),
}
USED = [name for several in OF_CITYSCAPES.values() for name in several]
FOLDERS = {"train": "training", "val": "validation"}


class Mapillary(SegmentationData):
    labels = LabelSet(
        names=CITYSCAPES.names,
        palette=CITYSCAPES.palette,
        ids=tuple(IDS[OF_CITYSCAPES[name][0]] for name in CITYSCAPES.names),
        void=tuple(number for name, number in IDS.items() if name not in USED),
        categories=CITYSCAPES.categories,
        merged=tuple(
            (IDS[other], place)
            for place, name in enumerate(CITYSCAPES.names)
            for other in OF_CITYSCAPES[name][1:]
        ),
    )
    name = "Mapillary Vistas"
    layout = (
        "{training,validation}/images/*.jpg and {training,validation}/labels/*.png (of "
        "version 2.0: v1.2/labels/*.png)"
    )
    origin = (
        "register at https://www.mapillary.com/dataset/vistas and unzip the research "
        "edition into DIR"
    )
    hidden = {"test": "evaluate on val, which papers judge on"}
    counts = {"train": 18000, "val": 2000, "test": 5000}

    def source(self, split: str) -> Files:
        folder = FOLDERS[split]
        version = "v1.2/" if (self.root / folder / "v1.2").is_dir() else ""
        images = self.images_in(f"{folder}/images")
        return self.files(split, images, self.labels_in(f"{folder}/{version}labels"))
