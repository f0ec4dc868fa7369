"""Tests of the rows "common": they differ by their operator and by nothing else."""

import pytest
import torch
from torch import nn

import segmodels
from segmodels.families.common import RECIPE
from segmodels.ports.mmseg.dilated import LINES, DilatedMMSeg

PAPERS = [name for name, paper in segmodels.papers().items() if "common" in paper.rows]


def around_the_operator(network: nn.Module) -> dict[str, object]:
    """Return the layers and their settings, without the operator."""
    return {
        name: str(layer)
        for name, layer in network.named_modules()
        if not list(layer.children()) and not name.startswith("context.operator")
    }


@pytest.mark.parametrize("paper", PAPERS)
def test_a_row_is_mmsegmentations_network_but_for_its_operator(paper: str) -> None:
    with torch.device("meta"):
        theirs = DilatedMMSeg(19, LINES["fcn"].context)
    row = segmodels.experiment(f"{paper}/common")
    ours = row.build(19, "meta")
    assert around_the_operator(ours) == around_the_operator(theirs)
    assert ours.auxiliary_weight == theirs.auxiliary_weight == 0.4
    assert not ours.align_corners
    assert row.recipe == RECIPE
    assert row.starts_from == "resnet50c.gluon_in1k"


@pytest.mark.parametrize("paper", PAPERS)
def test_an_operator_keeps_the_shape_of_its_map(paper: str) -> None:
    operator = segmodels.experiment(f"{paper}/common").build(19, "meta").context.operator
    x = torch.zeros(2, 512, 12, 16, device="meta")
    assert operator(x).shape == x.shape
