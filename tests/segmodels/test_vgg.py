"""Tests of VGG16 against timm's and torchvision's, by name and by number."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from segmodels.parts.backbones.vgg import VGG16, convolutional, pre_logits, thinned
from segmodels.parts.pretrained import load_encoder

WIDTHS = (64, 128, 256, 512, 512)


def weights(network: nn.Module) -> dict[str, Tensor]:
    """He's initialization, so that no map vanishes."""
    drawn = {}
    for name, tensor in network.state_dict().items():
        deviation = (2 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.1
        drawn[name] = deviation * torch.randn(tensor.shape)
    return drawn


def empty(network: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(network)


def test_the_maps_are_timms_under_its_names() -> None:
    """timm's poolings round down, so sizes here are multiples of 32."""
    theirs = empty("vgg16").features.to_empty(device="cpu")
    state = weights(theirs)
    theirs.load_state_dict(state)
    ours = VGG16()
    ours.load_state_dict({f"features.{name}": tensor for name, tensor in state.items()})
    image = torch.randn(1, 3, 64, 96)
    x = image
    pooled = []
    with torch.no_grad():
        for layer in theirs:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pooled.append(x)
        found = ours(image)
    assert ours.channels == WIDTHS
    for mine, other in zip(found, pooled, strict=True):
        torch.testing.assert_close(mine, other)


def test_fully_connected_layers_are_timms_and_torchvisions_weights_become_these() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        ours = VGG16(pre_logits())
        theirs = torchvision.models.vgg16(weights=None).state_dict()
    timms = {
        name: tensor.shape
        for name, tensor in empty("vgg16").state_dict().items()
        if not name.startswith("head.")
    }
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == timms
    renamed = {name: tensor.shape for name, tensor in convolutional(theirs).items()}
    assert {name: renamed[name] for name in timms} == timms


def test_a_fully_connected_layer_computes_the_same_as_a_convolution(tmp_path: Path) -> None:
    ours = VGG16(pre_logits(32, 8), width=4)
    linear = nn.Linear(32 * 7 * 7, 8)
    state = ours.state_dict() | {
        "classifier.0.weight": linear.weight.detach(),
        "classifier.0.bias": linear.bias.detach(),
        "classifier.3.weight": ours.pre_logits.fc2.weight.detach().flatten(1),
        "classifier.3.bias": ours.pre_logits.fc2.bias.detach(),
    }
    state = {name: each for name, each in state.items() if not name.startswith("pre_logits.")}
    torch.save(state, tmp_path / "vgg.pth")
    said = load_encoder(ours, str(tmp_path / "vgg.pth"), rename=convolutional)
    assert said.startswith("30 of 30 backbone tensors")
    x = torch.randn(2, 32, 7, 7)
    convolved = ours.pre_logits.fc1(x).flatten(1)
    torch.testing.assert_close(convolved, linear(x.flatten(1)))


@pytest.mark.parametrize(("kernel", "step"), [(3, 3), (4, 2), (7, 1)])
def test_thinned_layers_keep_filters_and_taps_at_equal_distances(kernel: int, step: int) -> None:
    state = {name: torch.randn_like(each) for name, each in pre_logits(3, 8).state_dict().items()}
    state = {f"pre_logits.{name}": each for name, each in state.items()}
    found = thinned({"features.0.bias": torch.ones(1), **state}, 4, kernel)
    weight, bias = state["pre_logits.fc1.weight"], state["pre_logits.fc1.bias"]
    assert torch.equal(found["pre_logits.fc1.weight"], weight[::2, :, ::step, ::step])
    assert torch.equal(found["pre_logits.fc1.bias"], bias[::2])
    assert torch.equal(found["pre_logits.fc2.weight"], state["pre_logits.fc2.weight"][::2, ::2])
    assert torch.equal(found["pre_logits.fc2.bias"], state["pre_logits.fc2.bias"][::2])
    assert torch.equal(found["features.0.bias"], torch.ones(1))


def test_poolings_round_up_and_the_first_padding_shifts_the_maps() -> None:
    """Of 500 pixels padded by 100 on both sides Caffe keeps 698, 349, 175, 88, 44, 22."""
    with torch.device("meta"):
        maps = VGG16(pre_logits(), padding=100)(torch.zeros(1, 3, 500, 33))
    assert [each.shape[2] for each in maps] == [349, 175, 88, 44, 22, 16]
    assert [each.shape[1] for each in maps] == [*WIDTHS, 4096]


def test_wide_poolings_and_holes_give_deeplabs_maps() -> None:
    """The released LargeFOV's sizes for a crop of 321: 161, 81, 41, and 41 from there on."""
    with torch.device("meta"):
        network = VGG16(pool=3, output_stride=8)
        maps = network(torch.zeros(1, 3, 321, 321))
    assert [each.shape[2] for each in maps] == [161, 81, 41, 41, 41]
    convs = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    assert [layer.dilation[0] for layer in convs] == [1] * 10 + [2] * 3
    assert [layer.padding[0] for layer in convs] == [1] * 10 + [2] * 3
    assert [each.shape[2] for each in network(torch.zeros(1, 3, 96, 8, device="meta"))][2:] == [
        12
    ] * 3
    pools = [layer for layer in network.features if isinstance(layer, nn.MaxPool2d)]
    settings = [(layer.kernel_size, layer.stride, layer.padding) for layer in pools]
    assert settings == [(3, 2, 1)] * 3 + [(3, 1, 1)] * 2


@pytest.mark.parametrize("stride", [4, 16])
def test_an_output_stride_that_no_paper_has_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"8 or 32, not {stride}"):
        VGG16(output_stride=stride)


def test_dropout_halves_values_behind_both_fully_connected_layers() -> None:
    stack = pre_logits(4, 8)
    places = {name: layer.p for name, layer in stack.named_children() if "drop" in name}
    assert places == {"drop1": 0.5, "drop2": 0.5}
    assert list(dict(stack.named_children())) == ["fc1", "act1", "drop1", "fc2", "act2", "drop2"]
    assert not any(isinstance(layer, nn.Dropout2d) for layer in stack)


def test_fresh_weights_are_hes_by_fan_in_so_that_maps_keep_their_scale() -> None:
    network = VGG16(pre_logits(128, 256, kernel=3, padding=1), width=16)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.15)
            assert not layer.bias.any()
