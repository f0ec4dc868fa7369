"""Tests of DGMN2: attention by loops over sampled nodes, the pyramid level by level, the recipe."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segmodels
from segmodels.architectures.dgmn2 import (
    EXPERIMENTS,
    RELEASED,
    WIDTH,
    Backbone,
    Block,
    FeaturePyramid,
    RelativePositions,
    SampledAttention,
    SumHead,
)
from segmodels.parts.pretrained import load_encoder
from tests.support.checkpoints import misfit_of_layout, state
from tests.support.structure import kinds

SIDE = 7  # of the map that the tables of positions are made for
SIZES = [(3, 5), (4, 4)]


def drawn(module: nn.Module) -> nn.Module:
    """With weights large enough for walks of a pixel and weights far from equal."""
    torch.manual_seed(0)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.1)
    return module


def read(x: Tensor, row: float, column: float) -> Tensor:
    """The channels of x (h, w, C) at any position, blended from the four pixels around it."""
    value = x.new_zeros(x.shape[2])
    for j in (math.floor(row), math.floor(row) + 1):
        for i in (math.floor(column), math.floor(column) + 1):
            if 0 <= j < x.shape[0] and 0 <= i < x.shape[1]:
                value += (1 - abs(row - j)) * (1 - abs(column - i)) * x[j, i]
    return value


# --- attention to sampled nodes


def along(query: Tensor, table: Tensor) -> Tensor:
    """Products (m, n, 9) of queries (m, n, C), counted by i along n, with the positions s - i."""
    count = query.shape[1]
    lines = F.interpolate(table.T[None], count + 8, mode="linear")[0].T  # for 1 - n to 8
    found = query.new_zeros(*query.shape[:2], 9)
    for m in range(len(query)):
        for i in range(count):
            for s in range(9):
                found[m, i, s] = query[m, i] @ lines[s - i + count - 1]
    return found


def positions_by_loops(positions: RelativePositions, query: Tensor) -> Tensor:
    """Of one head (h, w, C). The map of the rows' term is taken as one of h x w as it is."""
    height, width, _ = query.shape
    rows = along(query.transpose(0, 1), positions.rows)  # (w, h, 9)
    rows = F.interpolate(rows.permute(2, 0, 1)[None], (height, width), mode="bilinear")[0]
    return along(query, positions.columns) + rows.permute(1, 2, 0)


def attention_by_loops(attention: SampledAttention, x: Tensor) -> Tensor:
    """On one image (h, w, C), pixel by pixel and head by head."""
    height, width, channels = x.shape
    query, key, value = attention.qkv(x).split(channels, 2)
    result = torch.zeros_like(x)
    for head in range(channels // 64):
        own = slice(64 * head, 64 * (head + 1))
        walks = attention.walks(x[..., own])
        terms = positions_by_loops(attention.positions, query[..., own])
        for row in range(height):
            for column in range(width):
                keys, values = [], []
                for s in range(9):
                    down, right = walks[row, column, 2 * s : 2 * s + 2].tolist()
                    place = row + s // 3 - 1 + down, column + s % 3 - 1 + right
                    keys.append(read(key[..., own], *place))
                    values.append(read(value[..., own], *place))
                likeness = torch.stack(keys) @ query[row, column, own] / 8
                weights = (likeness + terms[row, column]).softmax(0)
                result[row, column, own] = weights @ torch.stack(values)
    return attention.out(result)


@pytest.mark.parametrize("size", SIZES)
def test_each_head_attends_to_the_nodes_that_it_walked_to(size: tuple[int, int]) -> None:
    attention = drawn(SampledAttention(2 * WIDTH, SIDE))
    x = torch.randn(2, *size, 2 * WIDTH, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([attention_by_loops(attention, image) for image in x])
        torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-10)
        walks = attention.walks(attention.of_heads(x))
        assert walks.abs().mean() > 0.5


def test_a_block_has_a_norm_and_a_shortcut_for_attention_and_for_its_mlp() -> None:
    block = drawn(Block(WIDTH, 4, SIDE))
    x = torch.randn(1, 3, 4, WIDTH, dtype=torch.float64)

    def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
        x = x - x.mean(3, keepdim=True)
        scale = (x.square().mean(3, keepdim=True) + 1e-6).sqrt()
        return x / scale * layer.weight + layer.bias

    with torch.no_grad():
        between = x + block.attention(norm(block.norm1, x))
        wide = block.mlp[0](norm(block.norm2, between))
        assert wide.shape[3] == 4 * WIDTH
        gelu = 0.5 * wide * (1 + torch.erf(wide / 2**0.5))
        expected = between + block.mlp[2](gelu)
        torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-10)


# --- backbone


@pytest.mark.parametrize(
    ("row", "blocks", "millions"),
    [
        ("tiny", (2, 2, 2, 2), 12.1),
        ("small", (3, 4, 6, 3), 21.0),
        ("medium", (3, 4, 18, 3), 35.8),
        ("large", (3, 8, 27, 3), 48.3),
    ],
)
def test_a_row_has_the_blocks_and_with_a_classifier_the_size_of_the_authors(
    row: str, blocks: tuple[int, ...], millions: float
) -> None:
    """Parameters of ImageNet classifiers, from the table of their README."""
    backbone = EXPERIMENTS[row].build(5, "meta").backbone
    assert tuple(len(stage) for stage in backbone.stages) == blocks
    classifier = 512 * 1000 + 1000
    count = sum(each.numel() for each in backbone.parameters()) + classifier
    assert round(count / 1e6, 1) == millions


def test_stages_get_narrower_maps_of_more_channels() -> None:
    backbone = Backbone("tiny").to("meta")
    maps = backbone(torch.zeros(1, 3, 97, 161, device="meta"))
    sizes = [tuple(x.shape[1:]) for x in maps]
    assert sizes == [(64, 25, 41), (128, 13, 21), (320, 7, 11), (512, 4, 6)]
    tables = [stage[0].attention.positions.rows.shape[0] - 8 for stage in backbone.stages]
    assert tables == [56, 28, 14, 7]
    relu = ["BatchNorm", "ReLU"]
    assert kinds(backbone.embeddings[0]) == ["3/2x1", *relu, "3/1x1", *relu, "3/2x1", *relu]
    assert kinds(backbone.embeddings[3]) == ["3/2x1", *relu]
    assert backbone.embeddings[0][1][0].in_channels == 32
    norms = [layer for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}


def test_the_backbone_starts_as_the_authors() -> None:
    """Linear layers from N(0, 0.02) without a bias, tables from N(0, 1) by the root of 64."""
    torch.manual_seed(0)
    backbone = Backbone("tiny")
    attention = backbone.stages[3][1].attention
    for layer in (attention.qkv, attention.out, backbone.stages[3][1].mlp[0]):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.01)
        assert not layer.bias.any()
    for table in (backbone.stages[0][0].attention.positions.rows, attention.positions.columns):
        assert table.std().item() == pytest.approx(1 / 8, rel=0.1)


def test_an_unknown_depth_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean small"):
        Backbone("smal")


def test_the_authors_classifier_is_loaded_but_for_its_last_layer() -> None:
    """From classification/dgmn2.py, whose tensors are named as the backbone's of the segmentor."""
    given = {
        name.removeprefix("backbone."): tensor
        for name, tensor in state("dgmn2_tiny_fpn").items()
        if name.startswith("backbone.")
    }
    given |= {"head.weight": torch.zeros(1000, 512), "head.bias": torch.zeros(1000)}
    network = segmodels.experiment("dgmn2").build(5)
    summary = load_encoder(network.encoder(), given, called="a file")
    count = len(network.backbone.state_dict())
    counters = sum(name.endswith("num_batches_tracked") for name in network.backbone.state_dict())
    assert summary.startswith(f"{count - counters} of {count - counters} backbone tensors")
    assert summary.endswith("left out: head.bias, head.weight")
    mine = network.backbone.stages[2][1].attention.walks.weight
    assert torch.equal(mine, given["block3.1.attn.conv_offset.weight"])


# --- Semantic FPN


def test_coarser_levels_are_added_by_nearest_neighbors() -> None:
    pyramid = FeaturePyramid(16).double()
    sizes = ((9, 11), (5, 6), (3, 3), (2, 2))
    maps = [
        torch.randn(1, channels, *size, dtype=torch.float64)
        for channels, size in zip((64, 128, 320, 512), sizes)
    ]
    expected = [pyramid.laterals[3](maps[3])]
    for i in (2, 1, 0):
        height, width = sizes[i]
        coarse = expected[0]
        rows = torch.arange(height) * coarse.shape[2] // height
        columns = torch.arange(width) * coarse.shape[3] // width
        expected.insert(0, pyramid.laterals[i](maps[i]) + coarse[:, :, rows][..., columns])
    for found, level, out in zip(pyramid(maps), expected, pyramid.outs, strict=True):
        torch.testing.assert_close(found, out(level), rtol=0, atol=1e-10)
        assert found.shape[2:] == level.shape[2:]


def test_levels_are_enlarged_between_convolutions_and_summed() -> None:
    head = SumHead(16, 8).double().eval()
    sizes = ((9, 13), (5, 7), (3, 4), (2, 2))
    maps = [torch.randn(1, 16, *size, dtype=torch.float64) for size in sizes]

    def enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size, mode="bilinear", align_corners=True)

    expected = head.levels[0][0](maps[0])
    for level, x in enumerate(maps[1:], start=1):
        for step in range(level):
            x = head.levels[level][2 * step](x)
            x = enlarged(x, (2 * x.shape[2], 2 * x.shape[3]))
        expected = expected + enlarged(x, sizes[0])
    torch.testing.assert_close(head(maps), expected, rtol=0, atol=1e-10)


def test_logits_are_enlarged_corner_on_corner() -> None:
    module = EXPERIMENTS["tiny"].build(3, "meta")
    ups = [layer for layer in module.modules() if isinstance(layer, nn.Upsample)]
    assert {module.align_corners, *(up.align_corners for up in ups)} == {True}


def test_the_head_starts_as_mmsegmentations_and_drops_a_tenth_of_the_channels() -> None:
    """Xavier's initialization in the pyramid, He's by fan-out in the head, N(0, 0.01) behind it."""
    torch.manual_seed(0)
    network = EXPERIMENTS["tiny"].build(19)
    lateral, out = network.pyramid.laterals[3], network.pyramid.outs[1]
    for conv, fans in ((lateral, 512 + 256), (out, 9 * (256 + 256))):
        bound = math.sqrt(6 / fans)
        assert 0.99 * bound < conv.weight.abs().max().item() <= bound
        assert not conv.bias.any()
    he = math.sqrt(2 / (9 * 128))
    assert network.head.levels[3][2][0].weight.std().item() == pytest.approx(he, rel=0.01)
    dropout, conv = network.classifier
    assert isinstance(dropout, nn.Dropout2d)
    assert dropout.p == 0.1
    assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not conv.bias.any()
    others = [part for part in network.modules() if isinstance(part, nn.modules.dropout._DropoutNd)]
    assert others == [dropout]


# --- training


def test_each_tensor_of_the_authors_has_its_place() -> None:
    assert not misfit_of_layout("dgmn2_tiny_fpn")
    assert RELEASED["dgmn2_tiny_fpn"].address == "dgmn2/tiny"


def test_everything_learns_at_one_rate_and_decays() -> None:
    """configs/_base_/schedules/schedule_40k.py has no exceptions, not even for norms."""
    (group,) = segmodels.experiment("dgmn2").build(5, "meta").parameter_groups()
    assert (group["lr"], group["weight_decay"]) == (1e-4, 1e-4)


def test_the_recipe_is_that_of_the_authors_configuration() -> None:
    """configs/fpn_dgmn2_*_4x2_769x769_40k_cityscapes.py and the files that these begin with."""
    theirs = {
        "crop": (769, 769),
        "scales": (0.5, 2.0),
        "continuous": True,
        "cat_max_ratio": 0.75,
        "flip": 0.5,
        "batch": 8,
        "iterations": 40_000,
        "optimizer": "adamw",
        "schedule": "poly",
        "power": 0.9,
        "min_lr": 0.0,
        "loss": "cross_entropy:all",
        "inference": "slide:769x769/513x513",
    }
    for row in EXPERIMENTS.values():
        assert {name: getattr(row.recipe, name) for name in theirs} == theirs
