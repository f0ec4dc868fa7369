"""Tests of UPerNet: its pyramid by the formula, and each ablation as what it removes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segmodels
from segmodels.architectures.upernet import FeaturePyramid, UPerNet
from segmodels.paper import inference_parameters
from segmodels.parts.pyramid_pooling import PyramidPooling

CHANNELS, WIDTH = (4, 6, 8, 12), 5


@pytest.fixture
def features() -> list[Tensor]:
    """Four maps of odd sizes, which no factor of 2 brings to one another."""
    sizes = ((17, 23), (9, 12), (5, 6), (3, 3))
    return [
        torch.randn(2, channels, *size, dtype=torch.float64)
        for channels, size in zip(CHANNELS, sizes)
    ]


def grown(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


# --- the pyramid


def test_each_level_is_its_lateral_plus_the_coarser_level_and_all_are_joined(
    features: list[Tensor],
) -> None:
    """Section 3.1, level by level."""
    pyramid = FeaturePyramid(CHANNELS, WIDTH).double().eval()
    quarter, eighth, sixteenth, deep = features
    level5 = pyramid.context(deep)
    level4 = pyramid.laterals[2](sixteenth)
    level4 = level4 + grown(level5, level4)
    level3 = pyramid.laterals[1](eighth)
    level3 = level3 + grown(level4, level3)
    level2 = pyramid.laterals[0](quarter)
    level2 = level2 + grown(level3, level2)
    maps = [
        pyramid.outs[0](level2),
        grown(pyramid.outs[1](level3), quarter),
        grown(pyramid.outs[2](level4), quarter),
        grown(level5, quarter),
    ]
    expected = pyramid.fusion(torch.cat(maps, 1))
    torch.testing.assert_close(pyramid(features), expected, rtol=0, atol=1e-12)
    alone = FeaturePyramid(CHANNELS, WIDTH, fusion=False).double().eval()
    alone.load_state_dict(pyramid.state_dict(), strict=False)
    torch.testing.assert_close(alone(features), maps[0], rtol=0, atol=1e-12)
    alone(features).sum().backward()
    assert all(each.grad is not None for each in alone.parameters())


def test_without_a_flow_levels_are_aligned_by_enlargement_with_aligned_corners(
    features: list[Tensor],
) -> None:
    pyramid = FeaturePyramid(CHANNELS, WIDTH, flow=True).double().eval()
    levels = pyramid.top_down(features)
    for each in pyramid.flows:
        each.flow.weight.data.zero_()
    expected = [pyramid.context(features[-1])]
    for lateral, x in zip(reversed(pyramid.laterals), reversed(features[:-1])):
        side = lateral(x)
        coarse = F.interpolate(expected[0], side.shape[2:], mode="bilinear", align_corners=True)
        expected.insert(0, side + coarse)
    torch.testing.assert_close(pyramid.top_down(features), expected, rtol=0, atol=1e-6)
    assert all(not torch.allclose(*pair) for pair in zip(levels[:-1], expected))


def test_the_first_flows_are_short() -> None:
    """Their convolutions are drawn as torch draws them, not by the fan-out of two channels."""
    network = UPerNet(3, depth=18, alignment="flow")
    for each in network.context.flows:
        bound = (1 / (9 * 512)) ** 0.5
        assert 0.99 * bound < each.flow.weight.abs().max().item() <= bound


def test_the_deepest_map_is_pooled_or_narrowed_by_a_1x1() -> None:
    pooled = FeaturePyramid(CHANNELS, WIDTH).context
    assert isinstance(pooled, PyramidPooling)
    assert not pooled.align_corners
    assert [level[1][0].out_channels for level in pooled.levels] == [WIDTH] * 4
    assert pooled.fusion[0].kernel_size == (3, 3)
    conv, *others = FeaturePyramid(CHANNELS, WIDTH, ppm=False).context
    assert (conv.kernel_size, conv.in_channels, conv.out_channels) == ((1, 1), 12, WIDTH)
    assert [type(each) for each in others] == [nn.BatchNorm2d, nn.ReLU]


# --- the network


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_logits_and_the_finest_level_are_at_the_stride(stride: int) -> None:
    network = UPerNet(3, depth=18, stride=stride).eval()
    with torch.no_grad():
        logits = network.logits(torch.randn(1, 3, 64, 96))
    assert logits.shape == (1, 3, 64 // stride, 96 // stride)
    assert len(network.context.laterals) == {4: 3, 8: 2, 16: 1}[stride]


def test_another_stride_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="at 4, 8 or 16, not 32"):
        UPerNet(3, stride=32)


def test_a_row_differs_from_the_main_one_by_what_it_names() -> None:
    def difference(row: str) -> int:
        main, other = (segmodels.experiment(f"upernet/{each}") for each in ("resnet50", row))
        return inference_parameters(main) - inference_parameters(other)

    norm = 2 * 512
    three = 9 * 512 * 512
    joined = 2 * (three + norm) + 4 * three + norm  # two levels' 3x3, and that of all four
    branches = 4 * (2048 * 512 + norm) + 9 * 4096 * 512  # means, and the 3x3 behind them
    assert difference("fpn_ppm") == joined
    assert difference("fpn") == joined + branches - 2048 * 512  # a 1x1 in their place
    assert difference("stride8") == 256 * 512 + norm + three + norm + three  # a level less
    assert difference("stride16") - difference("stride8") == 512 * 512 + norm + three + norm + three
    assert difference("no_auxiliary") == 0


@pytest.mark.parametrize(("row", "blocks"), [("resnet50", 6), ("resnet101", 23)])
def test_a_row_has_the_backbone_of_its_name_with_mmsegmentations_stem_and_all_strides(
    row: str, blocks: int
) -> None:
    network = segmodels.experiment(f"upernet/{row}").build(5, device="meta")
    assert len(network.backbone.layer3) == blocks
    stem = [each.out_channels for each in network.backbone.conv1 if isinstance(each, nn.Conv2d)]
    assert stem == [32, 32, 64]
    stages = network.backbone(torch.zeros(1, 3, 64, 64, device="meta"))
    assert [64 // x.shape[-1] for x in stages] == [4, 8, 16, 32]
    assert network.valid_side(65) == 65


# --- training: configs/_base_/models/upernet_r50.py of mmsegmentation


def test_the_auxiliary_head_reads_stage_3_and_weighs_two_fifths() -> None:
    """Both losses are means over all pixels, those without a label too."""
    module = segmodels.experiment("upernet").build(5, seed=0).eval()
    image = torch.randn(2, 3, 64, 96)
    label = torch.randint(5, (2, 64, 96), dtype=torch.uint8)
    label[:, :10] = 255
    with torch.no_grad():
        terms, outputs = module.losses((image, label)), module.outputs(image)
        heads = {"main": 1.0, "auxiliary": 0.4}
        assert set(terms) == set(outputs) == set(heads)
        assert outputs["auxiliary"].shape == (2, 5, 4, 6)
        torch.testing.assert_close(
            outputs["auxiliary"], module.auxiliary(module.features(image)[2])
        )
        for name, weight in heads.items():
            full = F.interpolate(outputs[name], (64, 96), mode="bilinear")
            loss = F.cross_entropy(full, label.long(), ignore_index=255, reduction="sum")
            torch.testing.assert_close(terms[name], weight * loss / label.numel())
    assert module.auxiliary[0][0].out_channels == 256
    without = segmodels.experiment("upernet/no_auxiliary").build(5, device="meta")
    assert without.auxiliary is None


def test_a_tenth_of_the_channels_is_dropped_in_front_of_both_classifiers() -> None:
    network = segmodels.experiment("upernet").build(5, device="meta")
    for head in (network.classifier, network.auxiliary):
        *_, dropout, conv = head
        assert isinstance(dropout, nn.Dropout2d)
        assert dropout.p == 0.1
        assert (conv.kernel_size, conv.out_channels) == ((1, 1), 5)


def test_heads_start_as_mmsegmentations() -> None:
    """He's initialization by fan-out, and N(0, 0.01) in the classifiers."""
    torch.manual_seed(0)
    network = UPerNet(19, depth=18)
    he = math.sqrt(2 / (9 * 512))
    assert network.context.fusion[0].weight.std().item() == pytest.approx(he, rel=0.01)
    assert network.context.outs[1][0].weight.std().item() == pytest.approx(he, rel=0.01)
    for head in (network.classifier, network.auxiliary):
        assert head[-1].weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not head[-1].bias.any()
