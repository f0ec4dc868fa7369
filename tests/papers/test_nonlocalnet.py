"""Tests of non-local networks: weights by loops over pairs, and a block that starts as identity."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import segmodels
from segmodels.architectures.nonlocalnet import (
    Disentangled,
    DotProduct,
    NonLocal,
    NonLocalNet,
    non_local_block,
)
from segmodels.paper import macs
from segmodels.released_checkpoints import layouts
from tests.support.structure import kinds

CHANNELS, HEIGHT, WIDTH = 6, 3, 4
POSITIONS = HEIGHT * WIDTH


def softmax(values: list[float]) -> list[float]:
    exponents = [math.exp(value) for value in values]
    return [each / sum(exponents) for each in exponents]


def row_of(block: NonLocal, theta: Tensor, phi: Tensor, mask: Tensor | None, i: int) -> list[float]:
    """What position i takes of each other one; theta and phi (C/2, N), mask (N,)."""
    products = [float(theta[:, i] @ phi[:, j]) for j in range(POSITIONS)]
    if isinstance(block, DotProduct):
        return [product / POSITIONS for product in products]
    scaled = [product / math.sqrt(CHANNELS // 2) for product in products]
    if not isinstance(block, Disentangled):
        return softmax(scaled)
    pairs = softmax([product / 0.05 for product in scaled])
    salient = softmax(mask.tolist())
    return [pair + alone for pair, alone in zip(pairs, salient)]


def by_loops(block: NonLocal, x: Tensor) -> Tensor:
    """The block on one image (1, C, h, w), pair by pair."""
    theta, phi, g = (each(x).flatten(2)[0] for each in (block.theta, block.phi, block.g))
    mask = None
    if isinstance(block, Disentangled):
        theta = theta - theta.mean(1, keepdim=True)
        phi = phi - phi.mean(1, keepdim=True)
        mask = block.mask(x).flatten()
    seen = torch.zeros(CHANNELS // 2, POSITIONS, dtype=x.dtype)
    for i in range(POSITIONS):
        for j, weight in enumerate(row_of(block, theta, phi, mask, i)):
            seen[:, i] += weight * g[:, j]
    return x + block.out(seen.view(1, -1, HEIGHT, WIDTH))


def drawn(kind: Callable[..., NonLocal], *options: str | int) -> NonLocal:
    """With weights large enough for attention to be far from a plain mean."""
    torch.manual_seed(0)
    block = kind(CHANNELS, *options).double().eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    return block


@pytest.mark.parametrize("kind", [NonLocal, DotProduct, Disentangled])
def test_a_block_adds_the_weighted_mean_over_all_positions(kind: type[NonLocal]) -> None:
    block = drawn(kind)
    x = torch.randn(2, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.cat([by_loops(block, image[None]) for image in x])
        torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-10)
        assert (block(x) - x).abs().max() > 0.1


@pytest.mark.parametrize("kind", [NonLocal, DotProduct, Disentangled])
def test_a_block_starts_as_the_identity_with_small_embeddings(kind: type[NonLocal]) -> None:
    torch.manual_seed(0)
    block = kind(64)
    x = torch.randn(2, 64, 5, 7)
    assert torch.equal(block(x), x)
    for embedding in (block.theta, block.phi, block.g):
        assert embedding.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert not embedding.bias.any()


def test_a_common_offset_of_the_embeddings_is_disentangled_away() -> None:
    """The mean of theta and of phi takes no part in what a pair has in common."""
    block = drawn(Disentangled)
    x = torch.randn(1, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        before = block(x)
        block.theta.bias += 3.0
        block.phi.bias -= 2.0
        torch.testing.assert_close(block(x), before, rtol=0, atol=1e-9)
        block.g.bias += 1.0
        assert (block(x) - before).abs().max() > 0.1


def test_the_network_starts_its_heads_as_mmsegmentation_does() -> None:
    """And leaves the block's embeddings as they are."""
    torch.manual_seed(0)
    network = NonLocalNet(19)
    assert network.classifier[-1].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert network.auxiliary[-1].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert network.context.operator.theta.weight.std().item() == pytest.approx(0.01, rel=0.02)
    he = math.sqrt(2 / (512 * 9))
    assert network.context.fusion[0].weight.std().item() == pytest.approx(he, rel=0.01)


# --- masks


def near(down: int, across: int, rate: int) -> bool:
    return max(abs(down), abs(across)) < rate


def on_the_grid(down: int, across: int, rate: int) -> bool:
    return down % rate == 0 and across % rate == 0


def near_or_on_the_grid(down: int, across: int, rate: int) -> bool:
    return near(down, across, rate) or on_the_grid(down, across, rate)


KEPT = {"local": near, "dilated": on_the_grid, "both": near_or_on_the_grid}
SIZES = [(7, 10), (8, 12), (2, 3), (1, 1)]


def kept_pairs(row: str, size: tuple[int, int], rate: int) -> Tensor:
    """Which positions j a position i looks at, (N, N), pair by pair."""
    places = [(y, x) for y in range(size[0]) for x in range(size[1])]
    keep = KEPT[row]
    return torch.tensor([[keep(y - v, x - u, rate) for v, u in places] for y, x in places])


@pytest.mark.parametrize("row", KEPT)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rate", [2, 3, 4])
def test_a_mask_is_a_softmax_over_the_pairs_that_it_keeps(
    row: str, size: tuple[int, int], rate: int
) -> None:
    """Values and gradients; maps smaller than a block, and of no whole number of blocks, too."""
    sparse = drawn(non_local_block, "embedded_gaussian", row, rate)
    x = torch.randn(2, CHANNELS, *size, dtype=torch.float64, requires_grad=True)
    theta, phi, g = (each(x).flatten(2) for each in (sparse.theta, sparse.phi, sparse.g))
    products = theta.mT @ phi / math.sqrt(CHANNELS // 2)
    weights = products.masked_fill(~kept_pairs(row, size, rate), -math.inf).softmax(2)
    expected = x + sparse.out((g @ weights.mT).unflatten(2, size))
    found = sparse(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    (ours,), (dense,) = (torch.autograd.grad(y.square().sum(), x) for y in (found, expected))
    torch.testing.assert_close(ours, dense, rtol=0, atol=1e-8 * dense.abs().max().item())


@pytest.mark.parametrize(("row", "pairs"), [("local", 225), ("dilated", 128), ("both", 352)])
def test_a_position_in_the_middle_of_a_crop_has_as_many_pairs_as_the_file_says(
    row: str, pairs: int
) -> None:
    keep = KEPT[row]
    assert sum(keep(y - 32, x - 64, rate=8) for y in range(64) for x in range(128)) == pairs


@pytest.mark.parametrize(
    ("row", "computed"),
    [("common", 8192), ("local", 22 * 22), ("dilated", 128), ("both", 22 * 22 + 128)],
)
def test_masked_pairs_are_not_computed(row: str, computed: int) -> None:
    """Beside pairs, in products of 256 channels for weights and for means, a crop costs the same."""
    whole = macs(segmodels.experiment(f"nonlocalnet/{row}"), (512, 1024))
    without = macs(segmodels.experiment("fcn/common"), (512, 1024))
    embeddings = 4 * 512 * 256 * 8192
    assert whole == without + embeddings + 8192 * computed * 2 * 256


def test_the_rows_with_a_mask_differ_by_it_alone() -> None:
    main = segmodels.experiment("nonlocalnet")
    for mask in KEPT:
        row = segmodels.experiment(f"nonlocalnet/{mask}")
        assert row.model == {**main.model, "mask": mask}
        assert row.recipe == main.recipe
        weights, wanted = (each.build(19, "meta").state_dict() for each in (row, main))
        assert weights.keys() == wanted.keys()


def test_an_unknown_mask_and_one_of_another_operator_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean dilated"):
        NonLocalNet(19, mask="dilate")
    with pytest.raises(ValueError, match="dot_product has no mask; embedded_gaussian takes"):
        NonLocalNet(19, operator="dot_product", mask="local")


def test_an_unknown_operator_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean dot_product"):
        NonLocalNet(19, operator="dotproduct")


@pytest.mark.parametrize(
    ("row", "layout"),
    [("resnet50", "mmseg_nonlocal_r50_d8"), ("disentangled", "mmseg_dnl_r50_d8")],
)
def test_a_row_is_the_network_that_the_released_numbers_are_of(row: str, layout: str) -> None:
    """Shapes, strides and dilations; the layouts' numbers are held by the table of them."""
    ours = segmodels.experiment(f"nonlocalnet/{row}").build(19, "meta")
    theirs = layouts()[layout].build(19, "meta")
    assert kinds(ours) == kinds(theirs)
    found, wanted = ({n: t.shape for n, t in each.state_dict().items()} for each in (ours, theirs))
    assert found == wanted


def test_the_deeper_row_has_resnet101s_third_stage() -> None:
    module = segmodels.experiment("nonlocalnet/resnet101").build(5, "meta")
    assert len(module.backbone.layer3) == 23
