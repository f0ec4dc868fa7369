"""Tests of ISANet: its groups by index, attention within them by loops, the authors' settings."""

import pytest
import torch
from torch import Tensor, nn

import segmodels
from segmodels.architectures.isanet import (
    RELEASED,
    Interlaced,
    blocks,
    interlaced,
    joined,
    woven,
)
from segmodels.families.openseg import SelfAttention, attended
from segmodels.parts.class_weights import CITYSCAPES
from segmodels.ports.mmseg.dilated import InterlacedMMSeg
from segmodels.released_checkpoints import layouts
from tests.support.checkpoints import misfit_of_layout

# --- the permutation


def numbered(images: int, height: int, width: int) -> Tensor:
    """A map whose channels are image, row and column of each position."""
    places = torch.meshgrid(
        torch.arange(images), torch.arange(height), torch.arange(width), indexing="ij"
    )
    return torch.stack(places, 1).double()


def members(group: Tensor) -> set[tuple[int, int, int]]:
    """(image, row, column) of each position of a group (3, h, w)."""
    return {tuple(map(int, place)) for place in group.flatten(1).T.tolist()}


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (24, 8)])
def test_long_groups_hold_every_eighth_position_and_short_ones_are_blocks(
    size: tuple[int, int],
) -> None:
    height, width = size
    x = numbered(2, height, width)
    long, short = set(), set()
    for image in range(2):
        for a in range(8):
            for b in range(8):
                rows, columns = range(a, height, 8), range(b, width, 8)
                long.add(frozenset((image, i, j) for i in rows for j in columns))
        for top in range(0, height, 8):
            for left in range(0, width, 8):
                rows, columns = range(top, top + 8), range(left, left + 8)
                short.add(frozenset((image, i, j) for i in rows for j in columns))
    assert {frozenset(members(group)) for group in interlaced(x)} == long
    assert {frozenset(members(group)) for group in blocks(x)} == short
    assert len(interlaced(x)) == len(long)
    assert len(blocks(x)) == len(short)


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (24, 8)])
def test_positions_keep_their_order_in_a_group_and_come_back_to_their_places(
    size: tuple[int, int],
) -> None:
    x = numbered(2, *size)
    for groups in (interlaced(x), blocks(x)):
        rows, columns = groups[:, 1], groups[:, 2]
        assert (rows.diff(dim=1) > 0).all()
        assert (columns.diff(dim=2) > 0).all()
    assert torch.equal(woven(interlaced(x)), x)
    assert torch.equal(joined(blocks(x), like=x), x)


# --- the operator


def drawn(kind: type[Interlaced] = Interlaced, channels: int = 4) -> Interlaced:
    torch.manual_seed(0)
    return kind(channels).double().eval()


def mean_by_loops(attention: SelfAttention, x: Tensor, places: list[tuple[int, int]]) -> Tensor:
    """Attention among some positions of a map (C, h, w), as a map of them alone (1, C, 1, n)."""
    group = torch.stack([x[:, i, j] for i, j in places], 1)[None, :, None]  # (1, C, 1, n)
    query, key, value = attention.query(group), attention.key(group), attention.value(group)
    mean = torch.zeros_like(value)
    for n in range(len(places)):
        products = [
            query[0, :, 0, n] @ key[0, :, 0, m] / query.shape[1] ** 0.5 for m in range(len(places))
        ]
        total = sum(product.exp() for product in products)
        for m, product in enumerate(products):
            mean[0, :, 0, n] += product.exp() / total * value[0, :, 0, m]
    return attention.out(mean)


def by_loops(attention: SelfAttention, x: Tensor, groups: list[list[tuple[int, int]]]) -> Tensor:
    result = torch.zeros_like(x)
    for places in groups:
        seen = mean_by_loops(attention, x, places)
        for n, (i, j) in enumerate(places):
            result[:, i, j] = seen[0, :, 0, n]
    return result


def groups_of(height: int, width: int, far: bool) -> list[list[tuple[int, int]]]:
    """Positions that share their remainders by 8, or their quotients."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i in range(height):
        for j in range(width):
            key = (i % 8, j % 8) if far else (i // 8, j // 8)
            found.setdefault(key, []).append((i, j))
    return list(found.values())


@pytest.mark.parametrize("kind", [Interlaced, InterlacedMMSeg])
def test_it_is_attention_in_far_groups_and_then_in_blocks(kind: type[Interlaced]) -> None:
    """A map of 9 x 14 gets 3 rows above and 4 below, and a column on either side."""
    operator = drawn(kind)
    x = torch.randn(4, 9, 14, dtype=torch.float64)
    padded = torch.zeros(4, 16, 16, dtype=torch.float64)
    padded[:, 3:12, 1:15] = x
    with torch.no_grad():
        far = by_loops(operator.long, padded, groups_of(16, 16, far=True))
        near = by_loops(operator.short, far, groups_of(16, 16, far=False))
        context = near[:, 3:12, 1:15]
        pair = [context, x] if kind is InterlacedMMSeg else [x, context]
        expected = operator.fusion(torch.cat(pair)[None])
        torch.testing.assert_close(operator(x[None]), expected, rtol=0, atol=1e-9)


def test_far_groups_alone_reach_few_positions_and_both_reach_everything() -> None:
    operator = drawn(channels=32)
    for far_only in (True, False):
        x = torch.randn(1, 32, 16, 24, dtype=torch.float64, requires_grad=True)
        y = woven(operator.long(interlaced(x))) if far_only else operator.context(x)
        y[0, :, 5, 11].sum().backward()
        reached = {tuple(place) for place in x.grad[0].ne(0).any(0).nonzero().tolist()}
        far = {(i, j) for i in (5, 13) for j in (3, 11, 19)}
        assert reached == (far if far_only else {(i, j) for i in range(16) for j in range(24)})


def test_a_mean_is_weighted_by_the_softmax_of_scaled_products() -> None:
    query, key = torch.randn(2, 1, 9, 2, 3, dtype=torch.float64)
    value = torch.randn(1, 5, 2, 3, dtype=torch.float64)
    weights = torch.einsum("bchw,bcij->bhwij", query, key).div(3).exp()
    mean = torch.einsum("bhwij,bcij->bchw", weights, value) / weights.sum((3, 4))
    torch.testing.assert_close(attended(query, key, value), mean, rtol=0, atol=1e-12)


def test_queries_and_keys_have_two_layers_of_half_the_channels_and_no_bias() -> None:
    operator = Interlaced(512)
    for attention in (operator.long, operator.short):
        for part in (attention.query, attention.key):
            sizes = [(layer[0].in_channels, layer[0].out_channels) for layer in part]
            assert sizes == [(512, 256), (256, 256)]
        assert attention.value.weight.shape == (512, 512, 1, 1)
        assert len(attention.out) == 3
    convolutions = [each for each in operator.modules() if isinstance(each, nn.Conv2d)]
    assert len(convolutions) == 13
    assert all(each.bias is None for each in convolutions)


# --- the network


@pytest.mark.parametrize(
    ("row", "slope"), [("resnet101", 0.01), ("resnet101_relu", 0.0), ("common", 0.0)]
)
def test_in_place_abn_leaks_in_the_heads_alone(row: str, slope: float) -> None:
    network = segmodels.experiment(f"isanet/{row}").build(5, "meta")
    kinds = {"backbone": set(), "heads": set()}
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.ReLU, nn.LeakyReLU)):
            where = "backbone" if name.startswith("backbone") else "heads"
            kinds[where].add(getattr(layer, "negative_slope", 0.0))
    assert kinds == {"backbone": {0.0}, "heads": {slope}}


def test_heads_are_the_authors() -> None:
    """lib/models/nets/isanet.py: 3x3s of 512 channels without a bias, dropout of 0.05 in both."""
    network = segmodels.experiment("isanet/resnet101").build(5, "meta")
    for layer, inside in ((network.context[0], 2048), (network.auxiliary[0], 1024)):
        assert layer[0].weight.shape == (512, inside, 3, 3)
        assert layer[0].bias is None
    dropped = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout2d)]
    assert dropped == [0.05, 0.05]
    assert network.auxiliary_weight == 0.4
    assert network.align_corners
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    assert network.logits(torch.zeros(1, 3, 64, 96, device="meta")).shape == (1, 5, 9, 13)


def test_first_blocks_of_dilated_stages_have_half_the_dilation() -> None:
    backbone = segmodels.experiment("isanet/resnet101").build(5, "meta").backbone
    for stage, dilation in ((backbone.layer3, 2), (backbone.layer4, 4)):
        first, *others = (block.conv2.dilation for block in stage)
        assert first == (dilation // 2, dilation // 2)
        assert {*others} == {(dilation, dilation)}
    stem = [layer.out_channels for layer in backbone.conv1 if isinstance(layer, nn.Conv2d)]
    assert stem == [64, 64, 128]


@pytest.mark.parametrize("name", [*RELEASED, "mmseg_isanet_r50_d8"])
def test_each_of_the_authors_tensors_has_its_place(name: str) -> None:
    assert not misfit_of_layout(name)


@pytest.mark.parametrize("name", RELEASED)
def test_releases_take_bgr_images_without_their_mean(name: str) -> None:
    assert layouts()[name].normalization == layouts()["ocrnet_r101_openseg"].normalization


def test_mmsegs_values_have_a_bias() -> None:
    operator = InterlacedMMSeg(16)
    for attention in (operator.long, operator.short):
        assert attention.value.bias is not None
        assert attention.value.weight.shape == (16, 16, 1, 1)


# --- training


def test_everything_learns_at_one_rate_and_decays_by_weights_of_classes() -> None:
    """configs/cityscapes/R_101_D_8.json; main.py: nbb_mult 1.0."""
    row = segmodels.experiment("isanet/resnet101")
    groups = row.build(5, "meta").parameter_groups()
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(0.01, 5e-4)}
    assert row.budgets == {"cityscapes": {"class_weights": CITYSCAPES}}
