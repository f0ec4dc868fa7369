"""mmsegmentation 1.2.2: papers as it computes them, and the figures that it publishes."""

from segmodels.paper import Published
from segmodels.ports import SCALES


def published(folder: str, **figures: tuple[float, ...]) -> tuple[Published, ...]:
    """mIoU on Cityscapes val, by how the network was trained: whole images and, where it says that
    too, at several scales with flip.

    Figures are those of the metafile, which names the checkpoint of each.
    """
    return tuple(
        Published(
            miou,
            "cityscapes",
            "val",
            protocol,
            f"mmsegmentation, configs/{folder}/metafile.yaml ({how.replace('_', ' ')})",
        )
        for how, both in figures.items()
        for miou, protocol in zip(both, ("whole", SCALES))
    )
