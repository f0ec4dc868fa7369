"""Tests of DeepLabV3: its rows, its two strides, and the networks of other code lines."""

import pytest
import torch
from torch import nn
from torchvision.models import segmentation

import segmodels
from segmodels.architectures.deeplabv3 import DeepLabV3
from segmodels.paper import experiment, inference_parameters
from segmodels.ports.kazuto.deeplabv3 import DeepLabV3Kazuto
from segmodels.ports.mmseg.dilated import LINES
from segmodels.ports.torchvision.deeplabv3 import DeepLabV3Torchvision
from segmodels.ports.vainf.deeplab import DeepLabVainF
from tests.support.checkpoints import lively
from tests.support.networks import with_lively_norms


def dilations(module: nn.Module) -> list[int]:
    """Of the 3x3 convolutions, in their order."""
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return [layer.dilation[0] for layer in convolutions if layer.kernel_size[0] == 3]


def norms(module: nn.Module) -> set[tuple[float, float]]:
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    return {(layer.eps, layer.momentum) for layer in layers}


# --- rows


@pytest.mark.parametrize(
    ("row", "grid", "rates"),
    [
        ("resnet50", [1, 4, 8], [6, 12, 18]),
        ("rate_24_too", [1, 4, 8], [6, 12, 18, 24]),
        ("multi_grid_111", [1, 2, 2], [6, 12, 18]),
        ("multi_grid_121", [1, 4, 2], [6, 12, 18]),
        ("stride_8", [2, 8, 16], [12, 24, 36]),
        ("frozen_norms", [2, 8, 16], [12, 24, 36]),
    ],
)
def test_a_row_has_the_dilations_of_its_name(row: str, grid: list[int], rates: list[int]) -> None:
    module = experiment(f"deeplabv3/{row}").build(5, "meta")
    assert dilations(module.backbone.layer4) == grid
    assert dilations(module.context) == rates


def test_the_backbone_of_a_row_is_as_deep_as_its_name_says() -> None:
    for row, blocks in (("resnet50", [3, 4, 6, 3]), ("resnet101", [3, 4, 23, 3])):
        backbone = experiment(f"deeplabv3/{row}").build(5, "meta").backbone
        stages = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
        assert [len(stage) for stage in stages] == blocks


def test_image_pooling_is_one_of_the_maps_and_can_be_left_out() -> None:
    with_mean, without = (
        experiment(f"deeplabv3/{row}").build(5, "meta") for row in ("resnet50", "no_image_pooling")
    )
    x = torch.zeros(2, 2048, 5, 7, device="meta")
    assert (len(with_mean.context.maps(x)), len(without.context.maps(x))) == (5, 4)
    saved = 2048 * 256 + 2 * 256 + 256 * 256  # its 1x1, its norm, its part of the projection
    assert inference_parameters(with_mean) - inference_parameters(without) == saved


def test_every_second_value_at_stride_8_is_one_at_stride_16() -> None:
    """The hole algorithm, multi-grid included: no weight changes with the stride."""
    row = experiment("deeplabv3")
    coarse = lively(row.build(4)).double()
    fine = row.but(model={"output_stride": 8}).build(4).double().eval()
    fine.load_state_dict(coarse.state_dict())
    image = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        deep, dense = coarse.features(image)[-1], fine.features(image)[-1]
    torch.testing.assert_close(dense[..., ::2, ::2], deep)


def test_logits_of_the_image_pass_through_those_of_the_network() -> None:
    """Sizes are 16 k + 1 pixels, and corners stay corners."""
    module = lively(experiment("deeplabv3").build(4))
    with torch.no_grad():
        image = torch.randn(1, 3, 65, 97)
        logits, whole = module.logits(image), module(image)
        assert module(image[..., :50, :90]).shape == (1, 4, 50, 90)
    assert logits.shape == (1, 4, 5, 7)
    torch.testing.assert_close(whole[..., ::16, ::16], logits)
    assert module.valid_side(513) == 513 and module.valid_side(514) == 529


# --- training


def test_new_layers_are_drawn_as_the_authors_draw_them() -> None:
    module = DeepLabV3(21)
    assert module.classifier.weight.std().item() == pytest.approx(0.8796 * 0.01, rel=0.05)
    weight = module.classifier.weight
    assert -0.02 <= weight.min().item() < -0.018 and 0.018 < weight.max().item() <= 0.02
    assert not module.classifier.bias.any()
    for convolution in (module.context.convs[0][0], module.context.projection[0]):
        outside, inside = convolution.weight.shape[:2]
        bound = (6 / (inside + outside)) ** 0.5
        assert bound * 0.99 < convolution.weight.abs().max().item() <= bound
    assert norms(module) == {(1e-5, 3e-4)}
    assert (module.context.dropout.p, module.backbone.channels[-1]) == (0.1, 2048)


def test_the_bias_learns_twice_as_fast_and_norms_are_not_decayed() -> None:
    module = experiment("deeplabv3").build(5, "meta")
    found = {}
    for group in module.parameter_groups():
        for parameter in group["params"]:
            found[parameter] = (group["lr"], group["weight_decay"])
    for name, parameter in module.named_parameters():
        rate = 2 * 0.007 if name == "classifier.bias" else 0.007
        assert found[parameter] == (rate, 1e-4 if parameter.ndim == 4 else 0.0), name


def test_in_the_second_phase_norms_keep_what_the_first_one_learned() -> None:
    row = experiment("deeplabv3/frozen_norms")
    module = row.build(5, "meta")
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert not any(layer.training for layer in layers)
    assert module.context.dropout.training
    of_norms = {parameter for layer in layers for parameter in layer.parameters()}
    for group in module.parameter_groups():
        for parameter in group["params"]:
            assert (group["lr"] == 0) == (parameter in of_norms)
    first = experiment("deeplabv3")
    assert (row.recipe.lr, first.recipe.lr) == (0.001, 0.007)
    assert row.recipe.iterations == first.recipe.iterations == 30_000
    assert all(layer.training for layer in first.build(5, "meta").context.modules())


# --- torchvision


@pytest.fixture(
    scope="module",
    params=["deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large"],
)
def both(request: pytest.FixtureRequest) -> tuple[nn.Module, DeepLabV3Torchvision]:
    """torchvision's own network, and ours with its weights."""
    torch.manual_seed(0)
    build = getattr(segmentation, request.param)
    theirs = with_lively_norms(build(weights=None, weights_backbone=None, aux_loss=True))
    return theirs, segmodels.from_released(f"{request.param}_torchvision", theirs.state_dict())


def test_both_outputs_are_torchvisions(both: tuple[nn.Module, DeepLabV3Torchvision]) -> None:
    theirs, ours = both
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        wanted, found = theirs.eval()(image), ours.outputs(image)
    for name, key in (("main", "out"), ("auxiliary", "aux")):
        full = nn.functional.interpolate(found[name], (65, 97), mode="bilinear")
        torch.testing.assert_close(full, wanted[key], rtol=1e-4, atol=1e-4)


def test_what_is_dropped_in_training_is_torchvisions(
    both: tuple[nn.Module, DeepLabV3Torchvision],
) -> None:
    theirs, ours = both
    drops = [layer for layer in theirs.modules() if isinstance(layer, nn.Dropout)]
    own = [layer for layer in ours.modules() if isinstance(layer, nn.Dropout)]
    assert [layer.p for layer in own] == [layer.p for layer in drops] == [0.5, 0.1]
    assert ours.auxiliary_weight == 0.5


def test_rates_that_reach_beyond_a_small_map_are_torchvisions_too(
    both: tuple[nn.Module, DeepLabV3Torchvision],
) -> None:
    theirs, ours = both
    assert dilations(ours.context) == dilations(theirs.classifier[0]) == [12, 24, 36]
    assert dilations(ours.backbone) == dilations(theirs.backbone)


def test_mmsegmentations_pyramid_ends_in_a_3x3() -> None:
    """dilations=(1, 12, 24, 36), of which the first is a 1x1, and 512 channels."""
    with torch.device("meta"):
        pyramid = LINES["deeplabv3"].context()
    assert dilations(pyramid) == [12, 24, 36, 1]
    assert (pyramid.projection[0].out_channels, pyramid.dropout.p) == (512, 0.0)


# --- VainF and Kazuto


def test_vainfs_deeplabv3_is_its_deeplabv3plus_without_the_decoder() -> None:
    with torch.device("meta"):
        module, plus = DeepLabVainF(4, "resnet50", decoder=False), DeepLabVainF(4, "resnet50")
    assert module.low is None
    assert module.classifier[0][0].weight.shape == (256, 256, 3, 3)
    assert plus.classifier[0][0].weight.shape == (256, 256 + 48, 3, 3)
    assert norms(module.backbone) == {(1e-5, 0.01)} and norms(module.context) == {(1e-5, 0.1)}
    assert dilations(module.context) == [6, 12, 18]
    assert module.context.dropout.p == 0.1


def test_vainfs_heads_start_by_fan_in() -> None:
    """nn.init.kaiming_normal_, with its own defaults."""
    module = DeepLabVainF(4, "mobilenet", decoder=False)
    for conv in (module.context.convs[1][0], module.context.projection[0], module.classifier[0][0]):
        inputs = conv.weight[0].numel()
        assert conv.weight.std().item() == pytest.approx((2 / inputs) ** 0.5, rel=0.02)


def test_kazutos_network_has_caffes_strides_and_no_dropout() -> None:
    with torch.device("meta"):
        module = DeepLabV3Kazuto(21)
    first = module.backbone.layer3[0]
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    assert module.backbone.maxpool.ceil_mode
    assert dilations(module.backbone.layer4) == [2, 4, 8]
    assert (module.context.dropout.p, module.valid_side(50)) == (0.0, 50)
    assert len(module.backbone.layer3) == 23
    assert norms(module) == {(1e-5, 0.9997)}
    assert not module.align_corners
