"""Tests of mmsegmentation's dilated networks: their heads start and train as in its code."""

import math

import pytest
import torch
from torch import nn

from segmodels.families.dilated import Around, Dilated, classifier, fcn_head, initialize_heads
from segmodels.ports.mmseg.dilated import LINES, DilatedMMSeg
from tests.support.training_step import assert_terms, assert_the_authors_gradients, prepared, stored


@pytest.mark.catalogue
@pytest.mark.parametrize("name", ["mmseg_fcn_r50_d8", "mmseg_pspnet_r50_d8"])
def test_one_training_step_is_its_own_in_float64(name: str) -> None:
    """Loss terms, divided by ignored pixels too, gradients and batch-norm statistics."""
    module, batch = prepared(name)
    for layer in module.modules():
        if isinstance(layer, nn.Dropout2d):
            assert layer.p == 0.1
            layer.p = 0.0
    theirs = stored(name)["terms"]
    terms = module.losses(batch)
    assert_terms(terms, {"main": theirs["decode.loss_ce"], "auxiliary": theirs["aux.loss_ce"]})
    sum(terms.values()).backward()
    assert_the_authors_gradients(name, module)


def spread(layer: nn.Conv2d) -> float:
    """The standard deviation of its weights, as a multiple of He's for fan-out."""
    outputs = layer.out_channels * math.prod(layer.kernel_size)
    return layer.weight.std().item() / math.sqrt(2 / outputs)


def test_convolutions_in_front_of_norms_start_by_fan_out_and_classifiers_small() -> None:
    torch.manual_seed(0)
    operator = nn.Conv2d(64, 64, 1)
    before = operator.weight.clone()
    network = Dilated(
        5, nn.Identity(), Around(256, 64, operator), classifier(64, 50), fcn_head(128, 64, 50)
    )
    initialize_heads(network)
    head = network.context
    joined = [each[0] for each in (head.before, head.behind, head.fusion, network.auxiliary[0])]
    assert [spread(each) for each in joined] == pytest.approx([1] * 4, rel=0.02)
    for last in (network.classifier[-1], network.auxiliary[-1]):
        assert last.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not last.bias.any()
    assert torch.equal(operator.weight, before)


def test_every_line_of_the_table_starts_so() -> None:
    for line in LINES.values():
        network = DilatedMMSeg(5, line.context)
        assert network.classifier[-1].weight.std().item() == pytest.approx(0.01, rel=0.1)
        *_, last = (each for each in network.context.modules() if isinstance(each, nn.Conv2d))
        assert spread(last) == pytest.approx(1, rel=0.01)
