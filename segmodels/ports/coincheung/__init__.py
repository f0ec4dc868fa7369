"""CoinCheung/BiSeNet: the re-implementation whose weights most users have."""

from segmodels.module import Normalization
from segmodels.paper import Published
from segmodels.ports import SCALES
from segmodels.recipe import Recipe

CITYSCAPES = Normalization(mean=(0.3257, 0.3690, 0.3223), std=(0.2112, 0.2148, 0.2115))

# tools/train_amp.py, lib/lr_scheduler.py and lib/data/transform_cv2.py; two devices of eight images
TRAINER = Recipe(
    continuous=True, jitter=0.4, batch=16, loss="coincheung_ohem:0.7", head_lr=10.0,
    weight_decay=5e-4, decay_norms=False, schedule="poly", power=0.9,
    warmup=1000, warmup_from=0.1, warmup_shape="geometric",
)  # fmt: skip


def published(whole: float, scales: float) -> tuple[Published, ...]:
    """Return mIoU on Cityscapes val; its code scales images with aligned corners, ours without."""
    figures = {"whole": whole, SCALES: scales}
    source = "README of CoinCheung/BiSeNet"
    return tuple(
        Published(miou, "cityscapes", "val", protocol, source) for protocol, miou in figures.items()
    )
