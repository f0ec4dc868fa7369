"""Papers as other code lines compute them: subclasses that override what differs, reached by `from_released`."""

from segmodels.paper import Published

SCALES = "multiscale:0.5,0.75,1,1.25,1.5,1.75+flip"  # of both code lines' tests


def by_mmseg(folder: str, **figures: tuple[float, float]) -> tuple[Published, ...]:
    """mmsegmentation's mIoU on Cityscapes val, whole images and at several scales with flip, by how the network was trained.

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


def by_coincheung(whole: float, scales: float) -> tuple[Published, ...]:
    """CoinCheung's mIoU on Cityscapes val; its code aligns corners where it scales images, ours does not."""
    figures = {"whole": whole, SCALES: scales}
    return tuple(
        Published(miou, "cityscapes", "val", protocol, "README of CoinCheung/BiSeNet")
        for protocol, miou in figures.items()
    )
