"""Tests of HRNet: what its branches exchange, how often, and what is made of the result.

It is initialized, started and trained as by the authors' code.
"""

from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segmodels
from segmodels.architectures.hrnet import EXPERIMENTS, HRNet
from segmodels.parts.backbones.hrnet import (
    Exchange,
    HighResolutionNet,
    joined,
)
from segmodels.parts.class_weights import CITYSCAPES
from segmodels.parts.layers import resized, resized_with_corners
from segmodels.parts.losses import amount
from segmodels.parts.pretrained import load_encoder
from segmodels.ports.mmseg.hrnet import ExchangeMMSeg
from segmodels.recipe import loss_settings
from tests.support.training_step import (
    assert_terms,
    assert_the_authors_gradients,
    prepared,
    stored,
)

WIDTHS = (2, 4, 8)
SIZES = ((9, 12), (5, 6), (3, 3))


def maps() -> list[Tensor]:
    pairs = zip(WIDTHS, SIZES, strict=True)
    return [torch.randn(1, width, *size, dtype=torch.float64) for width, size in pairs]


def normed(x: Tensor, layer: nn.Sequential) -> Tensor:
    """A convolution and a norm that has seen nothing yet, by the formula of the norm."""
    conv, norm = layer[0], layer[1]
    y = F.conv2d(x, conv.weight, None, conv.stride, conv.kernel_size[0] // 2)
    return y / (1 + norm.eps) ** 0.5


def shares(length: int, size: int, aligned: bool) -> Tensor:
    """(size, length): the share of each pixel of a side in each of the enlarged one, bilinearly."""
    table = torch.zeros(size, length, dtype=torch.float64)
    for place in range(size):
        position = place * (length - 1) / (size - 1)
        if not aligned:
            position = max((place + 0.5) * length / size - 0.5, 0)
        first = min(int(position), length - 1)
        table[place, first] += 1 - (position - first)
        table[place, min(first + 1, length - 1)] += position - first
    return table


def enlarged(x: Tensor, size: tuple[int, int], aligned: bool = False) -> Tensor:
    height, width = x.shape[-2:]
    return shares(height, size[0], aligned) @ x @ shares(width, size[1], aligned).T


# --- the exchange


@pytest.mark.parametrize("aligned", [False, True])
def test_each_branch_gets_the_sum_of_all_maps(aligned: bool) -> None:
    """A finer map by 3x3s of stride 2, a ReLU between them; a coarser one by a 1x1, enlarged."""
    resize = resized_with_corners if aligned else resized
    module = Exchange(WIDTHS, 1, 3, resize).double().eval()
    given = maps()
    seen = [branch(x) for branch, x in zip(module.branches, given)]
    for target, (own, paths) in enumerate(zip(seen, module.fuse_layers, strict=True)):
        expected = own.clone()
        for source, x in enumerate(seen):
            if source > target:
                expected += enlarged(normed(x, paths[source]), SIZES[target], aligned)
            for step in range(target - source):
                if step:
                    x = x.relu()
                assert paths[source][step][0].stride == (2, 2)
                x = normed(x, paths[source][step])
            if source < target:
                expected += x
        torch.testing.assert_close(module(given)[target], expected.relu(), rtol=0, atol=1e-12)


def test_a_branch_is_residual_blocks_of_its_own() -> None:
    module = Exchange(WIDTHS, 3, 0, resized).double().eval()
    given = maps()
    for branch, x, y in zip(module.branches, given, module(given), strict=True):
        assert len(branch) == 3
        torch.testing.assert_close(branch(x), y, rtol=0, atol=0)


def test_mmseg_enlarges_by_the_whole_factor_first() -> None:
    module = ExchangeMMSeg(WIDTHS, 1, 3, resized).double().eval()
    given = maps()
    seen = [branch(x) for branch, x in zip(module.branches, given)]
    expected = seen[0].clone()
    for source in (1, 2):
        narrow = normed(seen[source], module.fuse_layers[0][source])
        height, width = narrow.shape[-2:]
        whole = enlarged(narrow, (height * 2**source, width * 2**source))
        expected += enlarged(whole, SIZES[0])
    torch.testing.assert_close(module(given)[0], expected.relu(), rtol=0, atol=1e-12)


def test_the_maps_are_joined_at_the_size_of_the_finest() -> None:
    given = maps()
    for aligned, resize in ((False, resized), (True, resized_with_corners)):
        large = [enlarged(x, SIZES[0], aligned) for x in given[1:]]
        expected = torch.cat([given[0], *large], 1)
        torch.testing.assert_close(joined(given, resize), expected, rtol=0, atol=1e-12)


# --- the network


@pytest.mark.parametrize(
    ("fusions", "expected"),
    [
        ("all", [[2], [3] * 4, [4] * 3]),
        ("across_stages", [[2], [0, 0, 0, 3], [0, 0, 4]]),
        ("final", [[0], [0] * 4, [0, 0, 4]]),
    ],
)
def test_the_branches_exchange_their_maps_8_3_or_1_times(
    fusions: str, expected: list[list[int]]
) -> None:
    """In the table of the paper: within stages and across them, across them, at the end."""
    with torch.device("meta"):
        backbone = HighResolutionNet(8, fusions=fusions)
    stages = (backbone.stage2, backbone.stage3, backbone.stage4)
    assert [[len(module.fuse_layers) for module in stage] for stage in stages] == expected


@pytest.mark.parametrize(
    ("depth", "first", "blocks", "modules"),
    [
        ("full", (4, 64), 4, [1, 4, 3]),
        ("small_v2", (2, 64), 2, [1, 3, 2]),
        ("small_v1", (1, 32), 2, [1, 1, 1]),
    ],
)
def test_a_depth_has_the_numbers_of_the_authors_configuration(
    depth: str, first: tuple[int, int], blocks: int, modules: list[int]
) -> None:
    """experiments/cityscapes/seg_hrnet_w48_*, w18_small_v1_* and w18_small_v2_*.yaml."""
    with torch.device("meta"):
        backbone = HighResolutionNet(8, depth)
    assert (len(backbone.layer1), backbone.layer1[0].conv1.out_channels) == first
    stages = (backbone.stage2, backbone.stage3, backbone.stage4)
    assert [len(stage) for stage in stages] == modules
    for number, stage in enumerate(stages, start=2):
        for module in stage:
            assert [len(branch) for branch in module.branches] == [blocks] * number


@pytest.mark.parametrize(
    ("representation", "inside", "outside"), [("v1", 8, 3), ("v1h", 8, 120), ("v2", 120, 120)]
)
def test_v1_classifies_the_finest_map_and_v2_all_of_them(
    representation: str, inside: int, outside: int
) -> None:
    network = HRNet(3, width=8, depth="small_v1", representation=representation)
    first = network.classifier[0]
    assert (first.in_channels, first.out_channels) == (inside, outside)
    features = network.features(torch.randn(2, 3, 64, 96))
    shapes = [(8, 16, 24), (16, 8, 12), (32, 4, 6), (64, 2, 3)]
    assert [x.shape[1:] for x in features] == shapes[: 4 if inside == 120 else 1]
    assert network.decode(features).shape == (2, 3, 16, 24)


@pytest.mark.parametrize(
    ("row", "millions"), [("w48", 65.8), ("w18_small_v2", 3.9), ("w18_small_v1", 1.5)]
)
def test_parameters_are_as_many_as_the_readme_counts(row: str, millions: float) -> None:
    network = segmodels.experiment(f"hrnet/{row}").build(19, device="meta")
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


# --- start


def test_weights_of_convolutions_are_small_and_their_biases_torchs() -> None:
    """init_weights: N(0, 0.001) for all of them, before ImageNet's replace those of the backbone."""
    torch.manual_seed(0)
    network = HRNet(19, width=8, depth="small_v1")
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.std().item() == pytest.approx(0.001, rel=0.25), name
            assert abs(layer.weight.mean().item()) < 5e-4
    assert network.classifier[0].bias.abs().max() > 0.02  # uniform within 1 / sqrt(120)


@pytest.mark.parametrize("row", EXPERIMENTS)
def test_a_row_starts_from_weights_that_timm_has_or_from_none(row: str) -> None:
    source = EXPERIMENTS[row].starts_from
    assert source == "scratch" or timm.is_model_pretrained(source)


@pytest.mark.parametrize("row", ["w18", "w40", "w48"])
def test_a_full_network_starts_from_weights_of_its_width(row: str) -> None:
    width = EXPERIMENTS[row].model["width"]
    assert row == f"w{width}"
    assert EXPERIMENTS[row].starts_from.startswith(f"hrnet_{row}.")


@pytest.mark.parametrize(
    "row",
    [
        "w18_small_v1",
        "w18_small_v2",
        *(pytest.param(row, marks=pytest.mark.catalogue) for row in ("w18", "w40", "w48")),
    ],
)
def test_imagenet_weights_of_timm_fit_by_their_names(row: str) -> None:
    experiment = EXPERIMENTS[row]
    with torch.device("meta"):
        encoder = experiment.build(19).encoder()
        theirs = timm.create_model(experiment.starts_from.partition(".")[0]).state_dict()
    for name, tensor in encoder.state_dict().items():
        assert theirs[name].shape == tensor.shape


def test_loading_says_that_the_classifier_is_left_out() -> None:
    timms = timm.create_model("hrnet_w18_small")
    network = HRNet(19, width=16, depth="small_v1")
    said = load_encoder(network.encoder(), timms.state_dict(), called="hrnet_w18_small")
    assert said.startswith("355 of 355 backbone tensors from hrnet_w18_small; left out: classifier")
    theirs = timms.stage4[0].fuse_layers[0][3][0].weight
    assert torch.equal(network.backbone.stage4[0].fuse_layers[0][3][0].weight, theirs)


@pytest.mark.parametrize(
    ("row", "momentum", "aligned"),
    [
        ("w48", 0.01, False),
        ("ocr_branch", 0.1, False),
        ("ocr_branch_paddle", 0.1, False),
        ("aligned_corners", 0.1, True),
    ],
)
def test_the_two_branches_of_the_repository_differ_in_norms_and_corners(
    row: str, momentum: float, aligned: bool
) -> None:
    small = EXPERIMENTS[row].but(model={"width": 16, "depth": "small_v1"})
    network = small.build(19, device="meta")
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(momentum, 1e-5)}
    assert len(norms) == 72
    assert network.align_corners is aligned
    resize = resized_with_corners if aligned else resized
    assert network.resize is resize
    assert network.backbone.stage3[0].resize is resize


# --- training


def test_one_training_step_is_the_authors_in_float64() -> None:
    name = "hrnetv2_w18_small_v1"
    module, batch = prepared(name)
    module.recipe = replace(module.recipe, class_weights=CITYSCAPES)
    terms = module.losses(batch)
    assert_terms(terms, {"main": stored(name)["loss_value"]})
    sum(terms.values()).backward()
    assert_the_authors_gradients(name, module)


def test_everything_learns_at_one_rate_and_decays() -> None:
    """tools/train.py: one group, for Cityscapes has no NONBACKBONE_KEYWORDS."""
    module = segmodels.experiment("hrnet/w18_small_v1").build(19, device="meta")
    (group,) = module.parameter_groups()
    assert len(group["params"]) == len(list(module.parameters()))
    assert (group["lr"], group["weight_decay"]) == (0.01, 5e-4)


def test_mining_keeps_131072_of_the_pixels_of_three_crops() -> None:
    recipe = segmodels.experiment("hrnet/ohem").recipe
    name, (threshold, share) = loss_settings(recipe.loss)
    height, width = recipe.crop
    assert (name, threshold) == ("hrnet_ohem", "0.9")
    assert round(amount(share) * 3 * height * width) == 131_072


def test_the_rate_is_the_authors_over_484_epochs_of_247() -> None:
    """utils.adjust_learning_rate: base_lr * (1 - cur_iters / max_iters) ** 0.9."""
    module = segmodels.experiment("hrnet/w18_small_v1").build(19, device="meta")
    steps = 484 * (2975 // 12)
    assert module.recipe.iterations == steps
    for step in (0, 1, 1000, steps - 1):
        rate = 0.01 * (1 - step / steps) ** 0.9
        assert 0.01 * module.schedule()(step) == pytest.approx(rate, rel=1e-12)
