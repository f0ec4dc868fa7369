"""Tests of SegNet: unpooling by plain operations, and Caffe's odd sizes.

They also check VGG16's weights and the solver's treatment of biases.
"""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from datamodules.labels import CAMVID
from experiments.command_line.resolved_values import resolve
from segmodels import deploy
from segmodels.architectures import segnet
from segmodels.architectures.segnet import (
    EXPERIMENTS,
    PUBLISHED_WEIGHTS,
    SegNet,
    SegNetBasic,
    kept_bytes,
    unpooled,
)
from segmodels.parts.layers import bilinear_deconvolution
from segmodels.ports.meetps.segnet import SegNetMeetps
from tests.support.extras import onnx


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (9, 13)])
def test_unpooling_is_torchs_with_its_gradient(size: tuple[int, int], ceil_mode: bool) -> None:
    x = torch.randn(2, 3, *size, requires_grad=True)
    pooled, place = F.max_pool2d(x, 2, ceil_mode=ceil_mode, return_indices=True)
    ours, theirs = unpooled(pooled, place, size), F.max_unpool2d(pooled, place, 2, output_size=size)
    assert torch.equal(ours, theirs)
    weight = torch.randn_like(ours)
    gradients = [
        torch.autograd.grad((each * weight).sum(), x, retain_graph=True)[0]
        for each in (ours, theirs)
    ]
    assert torch.equal(*gradients)


def test_the_sizes_are_those_of_the_released_network() -> None:
    """Models/segnet_train.prototxt unpools to 30x23 and 60x45 where pooling met these."""
    with torch.device("meta"):
        network = SegNet(11)
        features = network.features(torch.zeros(1, 3, 360, 480))
        logits = network.decode(features)
    assert features.sizes == [(360, 480), (180, 240), (90, 120), (45, 60), (23, 30)]
    assert features.deep.shape == (1, 512, 12, 15)
    assert logits.shape == (1, 11, 360, 480)
    assert not isinstance(network.up[-1][-1], nn.Sequential)


@pytest.mark.parametrize("network", [SegNet, SegNetMeetps])
def test_logits_have_the_image_size_whatever_it_is(network: type[SegNet]) -> None:
    module = network(3).eval()
    for size in ((33, 47), (7, 5)):
        with torch.no_grad():
            assert module(torch.randn(1, 3, *size)).shape == (1, 3, *size)


def test_the_encoder_is_vgg16_and_takes_its_weights_from_a_file(tmp_path: Path) -> None:
    with torch.device("meta"):
        theirs = timm.create_model("vgg16_bn", pretrained=False).features
    theirs = theirs.to_empty(device="cpu").eval()
    state = {}
    for name, tensor in theirs.state_dict().items():
        if tensor.is_floating_point():
            drawn = (
                torch.rand_like(tensor) + 0.5
                if tensor.ndim == 1
                else 0.03 * torch.randn_like(tensor)
            )
            state[f"features.{name}"] = drawn
    theirs.load_state_dict({name[9:]: tensor for name, tensor in state.items()}, strict=False)
    torch.save(state | {"pre_logits.fc1.weight": torch.zeros(2, 2, 7, 7)}, tmp_path / "vgg.pth")
    module = SegNet(5).eval()
    said = module.load_pretrained(str(tmp_path / "vgg.pth"))
    assert said.startswith("78 of 78 backbone tensors")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(module.features(image).deep, theirs(image))
    assert EXPERIMENTS["vgg16"].starts_from in timm.list_pretrained("vgg16*")


def test_biases_do_not_decay_and_those_of_convolutions_learn_twice_as_fast() -> None:
    module = EXPERIMENTS["vgg16"].build(11, device="meta")
    found = {}
    for group in module.parameter_groups():
        for parameter in group["params"]:
            found[id(parameter)] = (round(group["lr"], 9), group["weight_decay"])
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
            assert found[id(layer.weight)] == (0.001, 5e-4)
            rate = 0.002 if isinstance(layer, nn.Conv2d) else 0.001
            assert found[id(layer.bias)] == (rate, 0.0)


def test_the_published_class_weights_are_the_released_files_and_for_camvid_alone() -> None:
    released = {
        "sky": 0.2595, "building": 0.1826, "pole": 4.5640, "road": 0.1417, "pavement": 0.9051, "tree": 0.3826,
        "sign": 9.6446, "fence": 1.8418, "car": 0.6823, "pedestrian": 6.2478, "bicyclist": 7.3614,
    }  # fmt: skip
    assert dict(zip(CAMVID.names, PUBLISHED_WEIGHTS, strict=True)) == released
    on_camvid = resolve("segnet/published_weights", "camvid", [])
    assert tuple(on_camvid.recipe["class_weights"]) == PUBLISHED_WEIGHTS
    elsewhere = resolve("segnet/published_weights", "folder", [])
    assert elsewhere.recipe["class_weights"] == "median_frequency"


def test_on_camvid_the_rows_own_recipe_stands() -> None:
    recipe = resolve("segnet", "camvid", []).recipe
    own = EXPERIMENTS["vgg16"].recipe
    names = (
        "crop",
        "scales",
        "flip",
        "batch",
        "iterations",
        "lr",
        "momentum",
        "weight_decay",
        "schedule",
        "class_weights",
    )
    for name in names:
        value = recipe[name]
        assert (tuple(value) if isinstance(value, list) else value) == getattr(own, name), name


@pytest.mark.slow
@onnx
@pytest.mark.parametrize("size", [(64, 96), (45, 71)])
def test_unpooling_goes_to_onnx(size: tuple[int, int], tmp_path: Path) -> None:
    module = SegNet(5)
    deploy.settle_batch_norm(module, size)
    image = torch.randn(1, 3, *size)
    deploy.write_onnx(
        deploy.deployed(module, size), tmp_path / "segnet.onnx", {"classes": list("abcde")}
    )
    with torch.no_grad():
        expected = module(image)
    found = deploy.Runtime(tmp_path / "segnet.onnx")(image)
    assert (found - expected).abs().max() <= deploy.LIMIT * expected.abs().max()


# --- small networks with other decoders (section 3.1, table 1)

# parameters in millions, and channels of the encoder's first map that are stored
TABLE_1 = {
    "basic": (1.425, None),
    "basic_encoder_addition": (1.425, 64),
    "basic_single_channel": (0.625, None),
    "basic_bilinear": (0.625, 0),
    "basic_fcn": (0.65, 11),
    "basic_fcn_no_addition": (0.65, 0),
    "basic_fcn_no_reduction": (1.625, 64),
    "basic_fcn_no_addition_reduction": (1.625, 0),
}


def basic(row: str, **model: object) -> SegNetBasic:
    chosen = EXPERIMENTS[row].but(recipe={"class_weights": ()}, model=model)
    return chosen.build(11, "cpu" if model else "meta").eval()


def traced(row: str) -> tuple[SegNetBasic, segnet.Pooled]:
    module = basic(row)
    return module, module.features(torch.zeros(1, 3, 360, 480, device="meta"))


@pytest.mark.parametrize("row", TABLE_1)
def test_a_decoder_has_the_parameters_and_keeps_the_maps_of_table_1(row: str) -> None:
    """Its parameters are given to 0.025 M; of its storage, channels of the first layer's map."""
    millions, channels = TABLE_1[row]
    module, features = traced(row)
    assert sum(each.numel() for each in module.parameters()) / 1e6 == pytest.approx(
        millions, abs=0.04
    )
    if channels is None:
        assert not features.maps and features.places[0].shape == (1, 64, 180, 240)
    else:
        assert sum(each.shape[1] for each in features.maps[:1]) == channels
    assert module.decode(features).shape[-2:] == (
        (23, 30) if row == "basic_bilinear" else (360, 480)
    )


def test_the_files_table_says_what_each_decoder_keeps() -> None:
    """Counted by hand: 64 maps of 180x240, 90x120, 45x60 and 23x30, or scores of 11 classes."""
    pixels = (180 * 240, 90 * 120, 45 * 60, 23 * 30)
    places = 64 * sum(pixels) // 4
    maps = 4 * 64 * sum(pixels[:3])
    counted = dict.fromkeys(TABLE_1, 0) | {
        "basic": places,
        "basic_encoder_addition": places + maps,
        "basic_single_channel": places,
        "basic_fcn": maps * 11 // 64,
        "basic_fcn_no_reduction": maps,
    }
    for row, kept in counted.items():
        module, features = traced(row)
        assert kept_bytes(features) == kept
        line = next(line for line in segnet.__doc__.splitlines() if line.split()[:1] == [row])
        parameters = sum(each.numel() for each in module.parameters())
        assert line.endswith(f"{parameters / 1e6:.3f} M")
        assert (f" {kept / 1e6:.2f} MB " if kept else "  0  ") in line
    with torch.device("meta"):
        whole = SegNet(11).features(torch.zeros(1, 3, 360, 480))
    assert f"{kept_bytes(whole) / 1e6:.2f} MB):" in segnet.__doc__


def test_fcn_decoders_double_the_sides_and_have_no_layer_to_spare() -> None:
    for row, narrow in {
        "basic_fcn": 4,
        "basic_fcn_no_addition": 1,
        "basic_fcn_no_reduction": 0,
    }.items():
        module = basic(row)
        assert len(module.narrow) == narrow
        for up in module.up:
            x = torch.zeros(1, up.in_channels, 9, 12, device="meta")
            assert up(x).shape[-2:] == (18, 24)


def test_the_basic_decoder_unpools_convolves_and_has_no_relu() -> None:
    module = basic("basic_encoder_addition", width=4)
    image = torch.randn(1, 3, 36, 52)
    with torch.no_grad():
        x = image
        stored = []
        for conv, norm in module.down:
            x = norm(F.conv2d(x, conv.weight, padding=3)).relu()
            size = x.shape[-2:]
            pooled, place = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
            stored.append((size, place, pooled))
            x = pooled
        for number, (conv, norm) in enumerate(module.up):
            size, place, _ = stored[3 - number]
            x = F.max_unpool2d(x, place, 2, output_size=size)
            x = norm(F.conv2d(x, conv.weight, padding=3))
            if number < 3:
                x = x + stored[2 - number][2]
        expected = module.classifier(x)
        torch.testing.assert_close(module(image), expected)
    assert [conv.bias for conv, _ in module.down] == [None] * 4


@pytest.mark.parametrize("row", ["basic_fcn", "basic_fcn_no_reduction", "basic_fcn_no_addition"])
def test_fcns_decoder_upsamples_and_adds_the_pooled_map_of_its_size(row: str) -> None:
    module = basic(row, width=4)
    image = torch.randn(1, 3, 36, 52)
    with torch.no_grad():
        x = image
        pooled = []
        for conv in module.down:
            x = F.max_pool2d(conv(x).relu(), 2, ceil_mode=True)
            pooled.append(x)
        scores = list(module.narrow)
        x = scores[0](x) if scores else x
        others = scores[1:] or [nn.Identity()] * 3
        for number, up in enumerate(module.up):
            height, width = ((5, 7), (9, 13), (18, 26), (36, 52))[number]
            x = up(x)[..., :height, :width]
            if number < 3 and row != "basic_fcn_no_addition":
                x = x + others[2 - number](pooled[2 - number])
        torch.testing.assert_close(module(image), module.classifier(x))


def test_wide_kernels_of_upsampling_begin_as_a_triangle_that_keeps_a_constant() -> None:
    up = bilinear_deconvolution(2, 2, kernel=8, padding=3)
    with torch.no_grad():
        found = up(torch.full((1, 2, 9, 9), 3.0))
    assert found.shape == (1, 2, 18, 18)
    torch.testing.assert_close(found[..., 4:-4, 4:-4], torch.full((1, 2, 10, 10), 3.0))
    slope = torch.tensor([1, 3, 5, 7, 7, 5, 3, 1]) / 16
    torch.testing.assert_close(up.weight[1, 1], slope[:, None] * slope)
    assert not up.weight[0, 1].any()


def test_a_single_channel_decoder_convolves_each_map_by_itself() -> None:
    module = basic("basic_single_channel", width=4)
    assert [conv.groups for conv, _ in module.up] == [4] * 4
    assert [conv.groups for conv, _ in basic("basic", width=4).up] == [1] * 4


def test_on_camvid_the_small_networks_have_their_own_recipe() -> None:
    recipe = resolve("segnet/basic_fcn", "camvid", []).recipe
    settings = (recipe["lr"], recipe["batch"], recipe["iterations"], *recipe["crop"])
    assert settings == (0.1, 12, 10_000, 360, 480)


@pytest.mark.parametrize("row", ["vgg16", "basic"])
def test_fresh_convolutions_are_hes_and_norms_shift_a_little(row: str) -> None:
    """weight_filler msra and shift_filler 0.001 of the released prototxt files."""
    module = EXPERIMENTS[row].build(11)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.15)
            assert layer.bias is None or not layer.bias.any()
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.bias.unique().item() == pytest.approx(0.001)
