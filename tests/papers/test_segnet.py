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
from segmodels.architectures.segnet import EXPERIMENTS, PUBLISHED_WEIGHTS, SegNet, unpooled
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
