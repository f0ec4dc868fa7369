"""Tests of RefineNet: its blocks by slow formulas, and each ablation as what it removes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segmodels
from segmodels.architectures.refinenet import (
    RELEASED,
    ChainedResidualPooling,
    Fusion,
    RefineNet,
    RefineNetBlock,
    ResidualConvUnit,
)
from segmodels.paper import inference_parameters
from tests.support.checkpoints import misfit_of_layout

# --- blocks


def largest_around(x: Tensor) -> Tensor:
    """(B, C, h, w): each position's largest number within two rows and columns."""
    found = torch.empty_like(x)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            window = x[:, :, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
            found[:, :, row, column] = window.amax((2, 3))
    return found


@pytest.mark.parametrize("conv_first", [False, True])
def test_each_pooling_takes_the_one_before_and_all_are_added(conv_first: bool) -> None:
    """A chain of poolings, not of sums; the authors' later form has the 3x3 in front."""
    pooling = ChainedResidualPooling(3, 4, conv_first).double()
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    first, second, third, fourth = pooling.convs
    start = x.clamp(min=0)
    if conv_first:
        one = largest_around(first(start))
        two = largest_around(second(one))
        three = largest_around(third(two))
        four = largest_around(fourth(three))
    else:
        one = first(largest_around(start))
        two = second(largest_around(one))
        three = third(largest_around(two))
        four = fourth(largest_around(three))
    expected = start + one + two + three + four
    torch.testing.assert_close(pooling(x), expected, rtol=0, atol=1e-12)


def test_a_unit_adds_two_convolutions_behind_their_relus_to_the_map_itself() -> None:
    unit = ResidualConvUnit(4).double()
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    inner = F.conv2d(x.clamp(min=0), unit.conv1.weight, unit.conv1.bias, padding=1)
    expected = x + F.conv2d(inner.clamp(min=0), unit.conv2.weight, padding=1)
    torch.testing.assert_close(unit(x), expected, rtol=0, atol=1e-12)
    assert unit.conv2.bias is None


def test_fusion_brings_all_paths_to_the_least_width_and_the_finest_size_with_aligned_corners() -> (
    None
):
    fusion = Fusion([6, 3, 4]).double()
    sizes = ((2, 3), (3, 5), (5, 9))
    paths = [
        torch.randn(1, width, *size, dtype=torch.float64) for width, size in zip((6, 3, 4), sizes)
    ]
    grown = nn.Upsample((5, 9), mode="bilinear", align_corners=True)
    expected = sum(grown(conv(x)) for conv, x in zip(fusion.convs, paths))
    torch.testing.assert_close(fusion(paths), expected, rtol=0, atol=1e-12)
    assert [conv.out_channels for conv in fusion.convs] == [3, 3, 3]
    assert all(conv.bias is None for conv in fusion.convs)
    with pytest.raises(ValueError, match="shorter"):
        fusion(paths[:2])


def test_a_block_fuses_then_pools_then_refines_and_does_not_fuse_a_single_path() -> None:
    pooling, units = ChainedResidualPooling(2, 1, False), ResidualConvUnit(2)
    block = RefineNetBlock([3, 2], pooling, units)
    coarse, fine = torch.randn(1, 3, 2, 2), torch.randn(1, 2, 4, 4)
    expected = units(pooling(block.fusion([coarse, fine])))
    torch.testing.assert_close(block([coarse, fine]), expected)
    alone = RefineNetBlock([2], pooling, units)
    torch.testing.assert_close(alone([fine]), units(pooling(fine)))


# --- the network


@pytest.mark.parametrize("cascades", [1, 2, 4])
def test_each_block_takes_the_map_so_far_and_its_share_of_the_paths(cascades: int) -> None:
    """Coarsest first: 4; 2 and 1 + 2; or 1 and thrice 1 + 1 paths."""
    network = RefineNet(3, depth=18, width=4, cascades=cascades).eval()
    features = network.features(torch.randn(1, 3, 64, 96))
    paths = [network.adapted[n](network.narrowed[n](x)) for n, x in enumerate(reversed(features))]
    assert [len(path[0]) for path in paths] == [8, 4, 4, 4]
    quarter, eighth, sixteenth, deep = reversed(paths)
    blocks = network.blocks
    if cascades == 1:
        refined = blocks[0]([deep, sixteenth, eighth, quarter])
    elif cascades == 2:
        refined = blocks[1]([blocks[0]([deep, sixteenth]), eighth, quarter])
    else:
        refined = blocks[1]([blocks[0]([deep]), sixteenth])
        refined = blocks[3]([blocks[2]([refined, eighth]), quarter])
    assert len(blocks) == cascades
    logits = network.logits(torch.zeros(1, 3, 64, 96))
    assert logits.shape == (1, 3, 16, 24)
    torch.testing.assert_close(network.decode(features), network.classifier(refined))
    with pytest.raises(ValueError, match="longer"):
        network.decode([features[0], *features])


def test_another_number_of_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="1, 2 or 4 blocks, not 3"):
        RefineNet(3, cascades=3)


def test_a_row_differs_from_the_main_one_by_what_it_names() -> None:
    def difference(row: str) -> int:
        main, other = (segmodels.experiment(f"refinenet/{each}") for each in ("resnet50", row))
        return inference_parameters(main) - inference_parameters(other)

    wide, thin = 9 * 512 * 512, 9 * 256 * 256
    assert difference("no_crp") == 4 * wide + 3 * 4 * thin
    assert difference("two_poolings") == 2 * wide + 3 * 2 * thin
    assert difference("improved_pooling") == 0
    improved = segmodels.experiment("refinenet/improved_pooling").build(19, device="meta")
    assert all(block.pooling.conv_first for block in improved.blocks)
    main = segmodels.experiment("refinenet/resnet50").build(19, device="meta")
    assert not any(block.pooling.conv_first for block in main.blocks)
    assert difference("no_rcu") == 5 * (2 * wide + 512) + 3 * 5 * (2 * thin + 256)
    # The first block is 512 wide; each block of several paths has a 3x3 for each.
    first, block = 4 * wide + 3 * (2 * wide + 512), 4 * thin + 3 * (2 * thin + 256)
    fusions = {"main": 2 + 1 + 2 + 2, "two_cascaded": 2 + 1 + 3, "single": 2 + 3}  # 512 to 256: 2
    for row, fewer in (("two_cascaded", 1), ("single", 2)):
        convs = (fusions["main"] - fusions[row]) * thin
        assert difference(row) == first + fewer * block + convs


@pytest.mark.parametrize(("row", "blocks"), [("resnet50", 6), ("resnet101", 23)])
def test_a_row_has_the_depth_of_its_name_and_all_strides(row: str, blocks: int) -> None:
    network = segmodels.experiment(f"refinenet/{row}").build(5, device="meta")
    assert len(network.backbone.layer3) == blocks
    stages = network.backbone(torch.zeros(1, 3, 64, 64, device="meta"))
    assert [64 // x.shape[-1] for x in stages] == [4, 8, 16, 32]
    assert [len(each) for each in network.adapted] == [2, 2, 2, 2]
    assert [len(block.units) for block in network.blocks] == [3, 3, 3, 3]
    assert [len(block.pooling.convs) for block in network.blocks] == [4, 4, 4, 4]


# --- training, as the authors' code


def test_the_loss_is_a_mean_over_labeled_pixels_pixel_by_pixel() -> None:
    module = segmodels.experiment("refinenet").but(model={"width": 4}).build(3, seed=0)
    module = module.double().eval()
    image = torch.randn(1, 3, 33, 40, dtype=torch.float64)
    label = torch.randint(3, (1, 33, 40), dtype=torch.uint8)
    label[:, :4] = 255
    terms = module.losses((image, label))
    assert set(terms) == {"main"}
    chances = module(image).softmax(1)
    losses = [-chances[0, int(label[0, y, x]), y, x].log() for y in range(4, 33) for x in range(40)]
    torch.testing.assert_close(terms["main"], sum(losses) / len(losses), rtol=0, atol=1e-9)


def test_half_is_dropped_of_the_two_deepest_maps_and_in_front_of_the_classifier() -> None:
    """gen_network_featnet_resnet.m drops of maps with more than 512 channels."""
    network = segmodels.experiment("refinenet").build(5, device="meta")
    kinds = [type(narrowed[0]) for narrowed in network.narrowed]
    assert kinds == [nn.Dropout, nn.Dropout, nn.Identity, nn.Identity]
    dropped = [layer for layer in network.modules() if isinstance(layer, nn.Dropout)]
    assert [layer.p for layer in dropped] == [0.5, 0.5, 0.5]
    assert dropped[-1] is network.classifier[0]


def test_the_backbone_learns_at_a_tenth_of_the_rate_and_everything_decays() -> None:
    """gen_net_opts_model_type1.m: input_featnet_lr_multiplier."""
    module = segmodels.experiment("refinenet").build(5, device="meta")
    of_backbone = set(module.backbone.parameters())
    for group in module.parameter_groups():
        assert group["weight_decay"] == 5e-4
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(4e-4 if parameter in of_backbone else 4e-3)


def test_new_convolutions_start_as_in_the_authors_code() -> None:
    """My_net_util.m: 0.01 * randn, and offsets of zero; the backbone is drawn by its own rule."""
    torch.manual_seed(0)
    network = RefineNet(21, depth=18)
    for name in ("narrowed.0.1", "adapted.0.1.conv1", "blocks.1.fusion.convs.0", "blocks.3.pooling.convs.2",
                 "blocks.0.units.2.conv2", "classifier.1"):  # fmt: skip
        layer = network.get_submodule(name)
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.03)
        assert layer.bias is None or not layer.bias.any()
    assert network.backbone.conv1.weight.std() > 0.02


@pytest.mark.parametrize("name", RELEASED)
def test_each_of_the_authors_tensors_has_its_place(name: str) -> None:
    assert not misfit_of_layout(name)


def test_every_layout_is_of_the_row_that_it_names() -> None:
    assert {name: (layout.address, layout.data) for name, layout in RELEASED.items()} == {
        "refinenet_r50": ("refinenet/resnet50", "voc"),
        "refinenet_r101": ("refinenet/resnet101", "voc"),
    }
