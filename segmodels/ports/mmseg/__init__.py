"""mmsegmentation 1.2.2: papers as it computes them, and the figures that it publishes."""

from segmodels.paper import Published
from segmodels.ports import SCALES


def published(
    folder: str, file: str = "README.md", **figures: tuple[float, ...]
) -> tuple[Published, ...]:
    """mIoU on Cityscapes val, by how the network was trained: whole images and, where it says that
    too, at several scales with flip.

    Figures are those of its README, or of another file beside it; a checkpoint is one of them, and
    its name says which.
    """
    return tuple(
        Published(
            miou,
            "cityscapes",
            "val",
            protocol,
            f"mmsegmentation, configs/{folder}/{file} ({how.replace('_', ' ')})",
        )
        for how, both in figures.items()
        for miou, protocol in zip(both, ("whole", SCALES))
    )
