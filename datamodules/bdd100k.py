"""BDD100K: 7000 / 1000 / 2000 street images of 720 x 1280 from all over the United States,
Cityscapes' 19 classes.

Yu et al.: BDD100K: A Diverse Driving Dataset for Heterogeneous Multitask Learning. CVPR 2020.
arXiv:1805.04687
Folders: "10K Images" and "Semantic Segmentation" in doc/source/download.rst of
https://github.com/bdd100k/bdd100k; ids: the masks hold train ids 0 .. 18 and 255 (format.rst
there). The files below labels/sem_seg/colormaps are pictures and are not read.
Counts: sem_seg/README.md of the authors' SysCV/bdd100k-models. The older package
(labels/{train,val}/*_train_id.png) is not read.
"""

from datamodules.labels import STREET_TRAIN_IDS
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files


class BDD100K(SegmentationData):
    labels = STREET_TRAIN_IDS
    name = "BDD100K"
    layout = "images/10k/{train,val}/*.jpg and labels/sem_seg/masks/{train,val}/*.png"
    origin = (
        "register at https://bdd-data.berkeley.edu, download '10K Images' and "
        "'Segmentation' and unzip both; it is the folder bdd100k"
    )
    hidden = {"test": "evaluate on val, or submit the predictions to BDD100K's server"}
    counts = {"train": 7000, "val": 1000, "test": 2000}

    def source(self, split: str) -> Files:
        images = self.images_in(f"images/10k/{split}")
        return self.files(split, images, self.labels_in(f"labels/sem_seg/masks/{split}"))
