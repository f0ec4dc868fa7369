"""mmsegmentation 1.2.2: papers as it computes them, and the figures that it publishes."""

from segmodels.paper import Published
from segmodels.ports import SCALES


def published(folder: str, **figures: tuple[float, float]) -> tuple[Published, ...]:
    """mIoU on Cityscapes val, whole images and at several scales with flip, by how the network was trained.

    Figures are those of its README; a checkpoint is one of them, and its name says which.
    """
    return tuple(
        Published(
            miou,
            "cityscapes",
            "val",
            protocol,
            f"mmsegmentation, configs/{folder}/README.md ({how.replace('_', ' ')})",
        )
        for how, both in figures.items()
        for miou, protocol in zip(both, ("whole", SCALES))
    )
