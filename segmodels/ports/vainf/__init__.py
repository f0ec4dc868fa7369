"""VainF/DeepLabV3Plus-Pytorch: DeepLab in PyTorch, and the figures of its README."""

from segmodels.paper import Published

README = "README of VainF/DeepLabV3Plus-Pytorch"


def published(voc: float | None = None, cityscapes: float | None = None) -> tuple[Published, ...]:
    """Return the mIoU of networks trained on each data set.

    On VOC it is of images that are scaled and cropped to 513x513.
    """
    figures = []
    if voc:
        figures.append(Published(voc, "voc", "val", "center crop 513x513", README))
    if cityscapes:
        figures.append(Published(cityscapes, "cityscapes", "val", "whole", README))
    return tuple(figures)
