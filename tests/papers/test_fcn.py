"""Tests of FCN on a dilated ResNet, which equals torchvision's network layer by layer."""

import pytest
import torch
from torch import nn
from torchvision.models import segmentation

import segmodels
from segmodels.architectures.fcn import FCN, RELEASED
from segmodels.paper import inference_parameters


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    found = segmentation.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    for layer in found.modules():  # as no fresh norm is: each of its four tensors says something
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean):
                nn.init.uniform_(tensor, 0.1, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return found


@pytest.fixture(scope="module")
def ours(theirs: nn.Module) -> FCN:
    return segmodels.from_released("fcn_resnet50_torchvision", theirs.state_dict())


def test_both_outputs_are_torchvisions(theirs: nn.Module, ours: FCN) -> None:
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        wanted, found = theirs.eval()(image), ours.outputs(image)
        for name, key in (("main", "out"), ("auxiliary", "aux")):
            full = nn.functional.interpolate(found[name], (65, 97), mode="bilinear")
            torch.testing.assert_close(full, wanted[key], rtol=1e-4, atol=1e-4)


def test_what_is_dropped_in_training_is_torchvisions(theirs: nn.Module, ours: FCN) -> None:
    heads = ((theirs.classifier, ours.classifier), (theirs.aux_classifier, ours.auxiliary))
    for head, own in heads:
        (drop,) = (layer for layer in head.modules() if isinstance(layer, nn.Dropout))
        (mine,) = (layer for layer in own.modules() if isinstance(layer, nn.Dropout))
        assert type(mine) is type(drop) and mine.p == drop.p


def test_the_auxiliary_head_weighs_a_half_and_is_left_out_where_it_weighs_nothing() -> None:
    """loss = losses["out"] + 0.5 * losses["aux"], in train.py of torchvision's references."""
    label = torch.randint(5, (2, 64, 96), dtype=torch.uint8)
    image = torch.randn(2, 3, 64, 96)
    main, without = (segmodels.experiment(f"fcn/{row}") for row in ("resnet50", "no_auxiliary"))
    module = main.build(5).eval()
    with torch.no_grad():
        terms, outputs = module.losses((image, label)), module.outputs(image)
        full = nn.functional.interpolate(outputs["auxiliary"], (64, 96), mode="bilinear")
        loss = nn.functional.cross_entropy(full, label.long())
    torch.testing.assert_close(terms["auxiliary"], 0.5 * loss)
    assert set(without.build(5).losses((image, label))) == {"main"}
    assert inference_parameters(main) == inference_parameters(without)


@pytest.mark.parametrize(("row", "depth"), [("resnet50", 50), ("resnet101", 101)])
def test_a_row_has_the_depth_of_its_name(row: str, depth: int) -> None:
    count = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}[depth]
    backbone = segmodels.experiment(f"fcn/{row}").build(5, "meta").backbone
    stages = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    assert [len(stage) for stage in stages] == count
    assert FCN(5).backbone.channels == (256, 512, 1024, 2048)


def test_every_layout_is_of_the_row_that_it_names() -> None:
    assert {name: layout.address for name, layout in RELEASED.items()} == {
        "fcn_resnet50_torchvision": "fcn/resnet50",
        "fcn_resnet101_torchvision": "fcn/resnet101",
    }
