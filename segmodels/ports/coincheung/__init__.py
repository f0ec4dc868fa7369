"""CoinCheung/BiSeNet: the re-implementation whose weights most users have."""

from segmodels.module import Normalization
from segmodels.paper import Published
from segmodels.ports import SCALES

CITYSCAPES = Normalization(mean=(0.3257, 0.3690, 0.3223), std=(0.2112, 0.2148, 0.2115))


def published(whole: float, scales: float) -> tuple[Published, ...]:
    """mIoU on Cityscapes val; its code aligns corners where it scales images, ours does not."""
    figures = {"whole": whole, SCALES: scales}
    source = "README of CoinCheung/BiSeNet"
    return tuple(
        Published(miou, "cityscapes", "val", protocol, source) for protocol, miou in figures.items()
    )
