"""Tests of MobileNetV3 against torchvision's and timm's, and of its two strides."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from segmodels.parts.backbones.mobilenetv3 import MobileNetV3, SqueezeExcitation, in_eights
from segmodels.parts.pretrained import load_encoder
from tests.support.networks import with_lively_norms


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("size", ["large", "small"])
def test_features_are_torchvisions(size: str, reduced: bool) -> None:
    """With its weights in its order; the fine map is the first block's output at 1/8."""
    torch.manual_seed(0)
    build = getattr(models, f"mobilenet_v3_{size}")
    theirs = with_lively_norms(build(weights=None, dilated=True, reduced_tail=reduced).features)
    ours = MobileNetV3(size, 16, reduced, narrow=True, dilated_first=True)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    image = torch.randn(1, 3, 65, 97)
    first = {"large": 4, "small": 2}[size]
    with torch.no_grad():
        wanted = theirs.eval()(image)
        fine, deep = ours.eval()(image)
        low = theirs[: first + 1](image)
    torch.testing.assert_close(deep, wanted)
    torch.testing.assert_close(fine, low)
    assert (fine.shape[1], deep.shape[1]) == ours.channels
    assert norms(ours)[0] == norms(theirs)[0] == 1e-3


def norms(network: nn.Module) -> tuple[float, float]:
    """Epsilon and momentum, which all norms have alike."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    (found,) = {(layer.eps, layer.momentum) for layer in layers}
    return found


@pytest.mark.parametrize(("size", "block", "channels"), [("large", 6, 120), ("small", 3, 88)])
def test_the_fine_map_is_the_last_one_at_an_eighth_before_its_gate(
    size: str, block: int, channels: int
) -> None:
    """layer_7 and layer_4 of the authors' code, which counts the stem as layer_1."""
    network = MobileNetV3(size).eval()
    maps = []
    last = network.blocks[block - 1]
    last.block[last.widening - 1].register_forward_hook(lambda *given: maps.append(given[-1]))
    with torch.no_grad():
        fine, deep = network(torch.randn(1, 3, 64, 96))
    assert torch.equal(fine, maps[0])
    assert fine.shape == (1, channels, 8, 12)
    assert deep.shape == (1, network.channels[-1], 2, 3)


@pytest.mark.parametrize("size", ["large", "small"])
def test_every_second_value_at_stride_16_is_one_at_stride_32(size: str) -> None:
    """But for gates, which average other places. In the half stage of small too, whose first block
    has as many channels at both ends."""
    coarse = with_lively_norms(MobileNetV3(size, 32, reduced=True)).double().eval()
    for block in coarse.blocks:
        for layer in block.block:
            if isinstance(layer, SqueezeExcitation):
                nn.init.zeros_(layer.fc2.weight)
                nn.init.uniform_(layer.fc2.bias, -2, 2)
    fine = MobileNetV3(size, 16, reduced=True).double().eval()
    fine.load_state_dict(coarse.state_dict())
    with torch.no_grad():
        image = torch.randn(1, 3, 65, 97, dtype=torch.float64)
        deep, dense = coarse(image)[-1], fine(image)[-1]
    assert (deep.shape[2:], dense.shape[2:]) == ((3, 4), (5, 7))
    torch.testing.assert_close(dense[..., ::2, ::2], deep)


@pytest.mark.parametrize(
    ("size", "name"), [("large", "mobilenetv3_large_100"), ("small", "mobilenetv3_small_100")]
)
def test_timms_weights_are_matched_by_their_order(size: str, name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = with_lively_norms(timm.create_model(name)).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = MobileNetV3(size).eval()
    said = load_encoder(ours, str(tmp_path / "weights.pth"))
    assert "matched by their order (conv_stem.weight is stem.0.weight" in said
    for layer in ours.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-5  # timm's
    with torch.no_grad():
        image = torch.randn(1, 3, 64, 96)
        features = theirs.blocks(theirs.bn1(theirs.conv_stem(image)))
        torch.testing.assert_close(ours(image)[-1], features, rtol=1e-4, atol=1e-4)


def test_half_the_last_stage_is_half_of_its_channels() -> None:
    with torch.device("meta"):
        whole, half = MobileNetV3("large"), MobileNetV3("large", reduced=True)
    assert (whole.channels, half.channels) == ((120, 960), (120, 480))
    widths = [block.block[-1][0].out_channels for block in half.blocks[-4:]]
    assert widths == [112, 80, 80, 80]


def test_it_starts_and_paces_its_norms_as_the_authors_do() -> None:
    network = MobileNetV3("small")
    for name in ("stem.0.weight", "blocks.5.block.0.0.weight", "blocks.5.block.2.fc1.weight"):
        weight = network.get_parameter(name)
        assert weight.std().item() == pytest.approx(0.8796 * 0.09, rel=0.1)
        assert weight.abs().max().item() <= 0.18
    assert not network.get_parameter("blocks.5.block.2.fc1.bias").any()
    assert norms(network) == (1e-3, 3e-3)


def test_squeezed_widths_are_multiples_of_eight_not_much_smaller() -> None:
    assert [in_eights(width) for width in (4, 12, 18, 22, 30, 168)] == [8, 16, 24, 24, 32, 168]


@pytest.mark.parametrize("output_stride", [8, 64])
def test_another_stride_is_refused(output_stride: int) -> None:
    with pytest.raises(ValueError, match=f"is 16 or 32, not {output_stride}"):
        MobileNetV3("large", output_stride)
