"""Dark Zurich: 50 night images of 1080 x 1920 to judge on (val), Cityscapes' 19 classes; its
training images carry no labels.

Sakaridis, Dai, Van Gool: Guided Curriculum Model Adaptation and Uncertainty-Aware Evaluation for
Semantic Nighttime Image Segmentation.
ICCV 2019. arXiv:1901.05946
Folders and endings, of Dark_Zurich_val_anon.zip: configs/_base_/datasets/dark_zurich.py and
mmseg/datasets/dark_zurich.py of mmsegmentation; README.md of brdav/refign. Counts (50 val, 151
test, 2416 night, 2920 twilight, 3041 day): ABSTRACT.md of dataset-ninja/dark-zurich, which quotes
the paper. Ids: train ids.
"""

from datamodules.labels import STREET_TRAIN_IDS
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files


class DarkZurich(SegmentationData):
    labels = STREET_TRAIN_IDS
    name = "Dark Zurich"
    layout = (
        "rgb_anon/val/night/<recording>/*_rgb_anon.png and "
        "gt/val/night/<recording>/*_gt_labelTrainIds.png"
    )
    origin = (
        "unzip Dark_Zurich_val_anon.zip of "
        "https://www.trace.ethz.ch/publications/2019/GCMA_UIoU into DIR"
    )
    hidden = {
        "train": "nobody made any; train on cityscapes and judge with evaluate.py RUN --data "
        "darkzurich data.root=DIR",
        "test": "evaluate on val, or submit the predictions to the data set's server",
    }
    counts = {"val": 50, "test": 151}

    def source(self, split: str) -> Files:
        images = self.matching(f"rgb_anon/{split}/night/*/*", "_rgb_anon.png")
        labels = self.matching(f"gt/{split}/night/*/*", "_gt_labelTrainIds.png")
        return self.files(split, images, labels)
