"""Tests of LR-ASPP: its gate of windows, its rows, and torchvision's network."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import segmentation

import segmodels
from segmodels.architectures.lraspp import LRASPP, WindowGate, averaging_and_enlarging, lite
from segmodels.paper import experiment, macs
from tests.support.checkpoints import lively
from tests.support.networks import with_lively_norms

# --- the head


def window_means(x: Tensor, side: int, step: tuple[int, int]) -> Tensor:
    """By loops: no window is larger than the map, and none reaches beyond it."""
    height, width = x.shape[-2:]
    tall, wide = min(side, height), min(side, width)
    rows = []
    for top in range(0, height - tall + 1, step[0]):
        row = []
        for left in range(0, width - wide + 1, step[1]):
            row.append(x[..., top : top + tall, left : left + wide].mean((2, 3)))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


@pytest.fixture(scope="module")
def gate() -> WindowGate:
    """25 x 25 windows that move by 4 and by 5, at stride 32."""
    torch.manual_seed(0)
    return WindowGate(3, 2, 25, (4, 5)).double()


@pytest.fixture(scope="module")
def exported(gate: WindowGate) -> nn.Module:
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    example = torch.zeros(2, 3, 31, 37, dtype=torch.float64)
    with torch.no_grad():
        return torch.export.export(gate, (example,), dynamic_shapes=(sides,)).module()


@pytest.mark.parametrize(
    ("height", "width", "windows"),
    [(25, 25, (1, 1)), (33, 65, (3, 9)), (12, 40, (1, 4)), (7, 9, (1, 1)), (1, 30, (1, 2))],
)
def test_a_gate_is_made_of_windows_inside_the_map(
    height: int, width: int, windows: tuple[int, int], gate: WindowGate, exported: nn.Module
) -> None:
    """Also as it is exported."""
    x = 3 * torch.randn(2, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        means = window_means(x, 25, (4, 5))
        assert means.shape[-2:] == windows
        wanted = ((gate.conv(means) + 3) / 6).clamp(0, 1)
        wanted = F.interpolate(wanted, (height, width), mode="bilinear", align_corners=True)
        torch.testing.assert_close(gate(x), wanted, rtol=0, atol=1e-6)
        if height > 1:
            torch.testing.assert_close(exported(x), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("side", "windows"), [(7, 1), (25, 1), (33, 3)])
def test_the_last_window_stands_there_twice_and_counts_once(side: int, windows: int) -> None:
    averaging, enlarging = averaging_and_enlarging(side, 25, 4, torch.zeros(()))
    assert averaging.shape == enlarging.T.shape == (windows + 1, side)
    assert torch.equal(averaging[-1], averaging[-2])
    assert not enlarging[:, -1].any()


@pytest.mark.parametrize(
    ("output_stride", "window", "step"),
    [(1, 769, (128, 160)), (16, 49, (8, 10)), (32, 25, (4, 5))],
)
def test_windows_are_the_same_pixels_at_every_stride(
    output_stride: int, window: int, step: tuple[int, int]
) -> None:
    gate = lite(4, 2, output_stride).gate
    assert (gate.window, gate.step) == (window, step)


def test_the_gate_multiplies_the_1x1() -> None:
    head = with_lively_norms(lite(6, 4, 32)).eval()
    x = torch.randn(1, 6, 33, 65)
    with torch.no_grad():
        torch.testing.assert_close(head(x), head.conv(x) * head.gate(x))


# --- rows


def small(**options: object) -> LRASPP:
    return LRASPP(4, backbone="small", **options)


def test_logits_of_both_maps_are_added_at_an_eighth() -> None:
    module = lively(small())
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        fine, deep = module.features(image)
        logits, whole = module.logits(image), module(image)
        enlarged = F.interpolate(
            module.context(deep), fine.shape[2:], mode="bilinear", align_corners=True
        )
        torch.testing.assert_close(logits, module.classifier(enlarged) + module.low(fine))
    assert logits.shape == (1, 4, 9, 13)
    torch.testing.assert_close(whole[..., ::8, ::8], logits)


def test_r_aspp_is_a_1x1_and_the_mean_without_the_fine_map() -> None:
    module = small(head="r_aspp").eval()
    assert module.low is None
    assert len(module.context.maps(torch.randn(1, 288, 3, 3))) == 2
    with torch.no_grad():
        assert module.logits(torch.randn(1, 3, 65, 97)).shape == (1, 4, 3, 4)


@pytest.mark.parametrize(
    ("row", "deep", "filters", "spacing"),
    [
        ("large", 480, 128, 32),
        ("small", 288, 128, 32),
        ("large_stride_16", 480, 128, 16),
        ("large_full_width", 960, 128, 32),
        ("large_r_aspp", 480, 128, 32),
        ("large_256_filters", 480, 256, 32),
        ("imagenet", 960, 128, 16),
    ],
)
def test_a_row_is_what_its_name_says(row: str, deep: int, filters: int, spacing: int) -> None:
    module = experiment(f"lraspp/{row}").build(19, "meta")
    assert (module.backbone.channels[-1], module.classifier.in_channels) == (deep, filters)
    assert module.valid_side(2) == spacing + 1 and module.valid_side(769) == 769


def test_images_are_scaled_as_the_weights_expect() -> None:
    assert experiment("lraspp").normalization.mean == (0.5, 0.5, 0.5)
    assert experiment("lraspp").normalization.std == (0.5, 0.5, 0.5)
    assert experiment("lraspp/imagenet").normalization.mean == (0.485, 0.456, 0.406)


def test_operations_are_those_of_the_authors_model_zoo() -> None:
    """15.95 billion for an image of 1025x2049: it counts a product and a sum as two."""
    assert 2 * macs(experiment("lraspp"), (1025, 2049)) / 1e9 == pytest.approx(15.95, rel=2e-3)


def test_norms_of_heads_are_slower_and_biases_learn_twice_as_fast() -> None:
    module = experiment("lraspp/small").build(5)
    heads = [each for each in module.context.modules() if isinstance(each, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in heads} == {(1e-5, 3e-4)}
    assert module.backbone.stem[1].momentum == 3e-3
    rates = {}
    for group in module.parameter_groups():
        rates |= dict.fromkeys(group["params"], group["lr"])
    for name in ("low", "classifier", "context.gate.conv", "backbone.blocks.0.block.1.fc1"):
        layer = module.get_submodule(name)
        assert rates[layer.bias] == 2 * rates[layer.weight] == 0.02
        assert not layer.bias.any()
    assert rates[module.backbone.stem[1].bias] == 0.01
    for conv in (module.context.conv[0], module.context.gate.conv, module.low):
        outside, inside = conv.weight.shape[:2]
        bound = (6 / (inside + outside)) ** 0.5
        assert bound * 0.95 < conv.weight.abs().max().item() <= bound


# --- torchvision


def test_logits_are_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    with_lively_norms(theirs).eval()
    ours = segmodels.from_released("lraspp_mobilenet_v3_large_torchvision", theirs.state_dict())
    for height, width in ((65, 97), (50, 70)):
        image = torch.randn(1, 3, height, width)
        with torch.no_grad():
            torch.testing.assert_close(ours(image), theirs(image)["out"], rtol=1e-4, atol=1e-5)
