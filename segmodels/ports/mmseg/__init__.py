"""mmsegmentation 1.2.2: papers as it computes them, and the figures that it publishes."""

from segmodels.paper import Published
from segmodels.ports import SCALES


def published(folder: str, **figures: tuple[float, ...]) -> tuple[Published, ...]:
    """Return the metafile's mIoU on Cityscapes val, by how a network was trained.

    The figures of each are of whole images and, if the file has it, of several scales with flip.
    """
    rows = []
    for how, both in figures.items():
        source = f"mmsegmentation, configs/{folder}/metafile.yaml ({how.replace('_', ' ')})"
        for miou, protocol in zip(both, ("whole", SCALES)):
            rows.append(Published(miou, "cityscapes", "val", protocol, source))
    return tuple(rows)
