"""What each row mines, where its threshold or its share decides, against its code line's rule.

A training step with random weights says nothing of either: nearly all of its pixels are hard.
"""

from collections.abc import Callable
from fnmatch import fnmatch
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom

import segmodels
from segmodels.module import SegmentationModule
from segmodels.network_identity import Identity
from segmodels.paper import Experiment
from segmodels.recipe import loss_settings

CLASSES, SIZE = 19, (2, 64, 64)
Rule = Callable[[np.ndarray, np.ndarray, float, int], float]


# --- the rules: p is the probability of the true class, `count` the least number of pixels


def torchseg(p: np.ndarray, label: np.ndarray, threshold: float, count: int) -> float:
    """ProbOhemCrossEntropy2d in TorchSeg, OhemCrossEntropy2dTensor in SFSegNets: p up to the
    count-th smallest of all pixels, where an ignored one counts as 1."""
    p, valid = p.ravel(), label.ravel() != 255
    ranked = np.sort(np.where(valid, p, 1.0))
    kept = valid & (p <= max(threshold, ranked[count - 1]))
    return float(-np.log(p[kept]).mean())


def hrnet(p: np.ndarray, label: np.ndarray, threshold: float, count: int) -> float:
    """OhemCrossEntropy in HRNet and PIDNet: p below the one after the `count`
    smallest of the valid pixels."""
    p, valid = p.ravel(), label.ravel() != 255
    ranked = np.sort(p[valid])
    kept = valid & (p < max(threshold, ranked[min(count, len(ranked) - 1)]))
    return float(-np.log(p[kept]).mean())


def stdc(p: np.ndarray, label: np.ndarray, threshold: float, count: int) -> float:
    """OhemCELoss in STDC-Seg: every loss above the threshold's if more than `count` are, else the
    `count` largest."""
    p, valid = p.ravel(), label.ravel() != 255
    losses = np.sort(np.where(valid, -np.log(p), 0.0))[::-1]
    above = losses[losses > -np.log(threshold)]
    return float(above.mean() if len(above) > count else losses[:count].mean())


def ccnet(p: np.ndarray, label: np.ndarray, threshold: float, count: int) -> float:
    """OhemCrossEntropy2d in CCNet: p up to the count/64-th smallest of a map an eighth of the size,
    which scipy makes of all probabilities and of the nearest labels."""
    true = (label % 255)[:, None] == np.arange(CLASSES)[:, None, None]
    every = np.where(true, p[:, None], (1 - p[:, None]) / (CLASSES - 1))
    small = zoom(every, (1, 1, 1 / 8, 1 / 8), order=1)
    nearest = zoom(label, (1, 1 / 8, 1 / 8), order=0)
    image, row, column = np.nonzero(nearest != 255)
    ranked = np.sort(small[image, nearest[image, row, column], row, column])
    kept = (label != 255) & (p <= max(threshold, ranked[count // 64 - 1]))
    return float(-np.log(p[kept]).mean())


class Mined(NamedTuple):
    rule: Rule
    threshold: float
    kept: int
    pixels: int  # of which at least `kept` are kept


CROP = 1024 * 1024  # pixels
SOURCES = {  # the first pattern that fits a row
    # loss.py of lxtGH/SFSegNets: --ohem keeps 10,000, --fpn_dsn_loss 100,000; its scripts have two
    # crops on a device
    "sfnet/resnet*_code": Mined(torchseg, 0.7, 10_000, 2 * CROP),
    "sfnet/*": Mined(torchseg, 0.7, 100_000, 2 * CROP),
    # train.py of ycszen/TorchSeg's BiSeNet folders: thresh=0.7, a sixteenth of the batch's pixels
    "bisenet/*": Mined(torchseg, 0.7, 1, 16),
    # no source names them: Departures say that they are those of BiSeNet, or common ones
    "bisenetv2/*": Mined(torchseg, 0.7, 1, 16),
    "emanet/*": Mined(torchseg, 0.7, 1, 16),
    # train.py of MichaelFan01/STDC-Seg: score_thres = 0.7, n_min a sixteenth of the batch's pixels
    "stdc/*": Mined(stdc, 0.7, 1, 16),
    # configs/cityscapes of XuJiacong/PIDNet: OHEMTHRES 0.9, OHEMKEEP 131072, six crops on a device;
    # DDRNet's authors name HRNet's trainer, from which PIDNet's comes
    "pidnet/*": Mined(hrnet, 0.9, 131_072, 6 * CROP),
    "ddrnet/*": Mined(hrnet, 0.9, 131_072, 6 * CROP),
    # README.md of speedinghzl/CCNet: --ohem-thres 0.7 --ohem-keep 100000, of 2 crops on a device
    "ccnet/*": Mined(ccnet, 0.7, 100_000, 2 * 769 * 769),
    # the trainer itself, by its configuration with OHEM: three crops of half the size on a device
    "hrnet/*": Mined(hrnet, 0.9, 131_072, 3 * CROP // 2),
}
ROWS = {
    row.name: row
    for paper in segmodels.papers().values()
    for row in paper.rows.values()
    if loss_settings(row.recipe.loss)[0] != "cross_entropy"
}


def without_layers(row: Experiment) -> SegmentationModule:
    """The row's class with its recipe: a pixel loss asks for no more."""
    module = row.network.__new__(row.network)
    SegmentationModule.__init__(module, CLASSES)
    module.adopt(row.recipe, row.normalization, Identity())
    return module


def logits_of(p: np.ndarray, label: torch.Tensor) -> torch.Tensor:
    """Logits that give the labeled class the probability p, and all others the same."""
    likely = torch.from_numpy(p)
    logits = ((1 - likely) / (CLASSES - 1)).log()[:, None].repeat(1, CLASSES, 1, 1)
    return logits.scatter(1, (label.long() % 255)[:, None], likely.log()[:, None])


@pytest.mark.parametrize("decides", ["threshold", "share"])
@pytest.mark.parametrize("name", ROWS)
def test_a_row_mines_by_the_rule_threshold_and_share_of_its_source(name: str, decides: str) -> None:
    """Most pixels are below the threshold, or none is."""
    rule, threshold, kept, pixels = next(
        mined for pattern, mined in SOURCES.items() if fnmatch(name, pattern)
    )
    random = np.random.default_rng(0)
    least = 0.05 if decides == "threshold" else threshold + 0.02
    p = random.permutation(np.linspace(least, 0.999, np.prod(SIZE))).reshape(SIZE)
    label = torch.from_numpy(random.integers(0, CLASSES, SIZE, dtype=np.uint8))
    label[torch.from_numpy(random.random(SIZE) < 0.1)] = 255
    found = without_layers(ROWS[name]).pixel_loss(logits_of(p, label), label)
    count = p.size * kept // pixels
    wanted = rule(p, label.numpy(), threshold, count)
    assert found.item() == pytest.approx(wanted, rel=1e-9)
