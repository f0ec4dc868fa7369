"""Tests of double attention: the formula by loops, its two orders, and how its cost grows."""

import pytest
import torch
from torch import Tensor

import segmodels
from segmodels.architectures.a2net import DoubleAttention
from segmodels.paper import macs

CHANNELS, HEIGHT, WIDTH = 8, 3, 4
POSITIONS = HEIGHT * WIDTH


@pytest.fixture
def block() -> DoubleAttention:
    """With weights large enough for attention to be far from a plain mean."""
    torch.manual_seed(0)
    block = DoubleAttention(CHANNELS).double().eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    return block


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64)


def embedded(block: DoubleAttention, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and V of an image (C, h, w), before any softmax."""
    return tuple(each(image[None]).flatten(2)[0] for each in (block.phi, block.theta, block.rho))


def by_loops(block: DoubleAttention, image: Tensor) -> Tensor:
    """The paper's equations on one image, a descriptor and then a position at a time."""
    a, b, v = embedded(block, image)
    descriptors = []
    for k in range(len(b)):
        exponents = [b[k, j].exp() for j in range(POSITIONS)]
        gathered = sum(exponents[j] * a[:, j] for j in range(POSITIONS))
        descriptors.append(gathered / sum(exponents))
    z = torch.zeros(len(a), POSITIONS, dtype=image.dtype)
    for i in range(POSITIONS):
        exponents = [v[k, i].exp() for k in range(len(v))]
        z[:, i] = sum(e * g for e, g in zip(exponents, descriptors)) / sum(exponents)
    return image + block.out(z.view(1, -1, HEIGHT, WIDTH))[0]


def test_a_position_gets_its_own_mixture_of_what_was_gathered(
    block: DoubleAttention, x: Tensor
) -> None:
    with torch.no_grad():
        expected = torch.stack([by_loops(block, image) for image in x])
        torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-10)
        assert (block(x) - x).abs().max() > 0.1


def test_the_other_order_of_products_gives_the_same(block: DoubleAttention, x: Tensor) -> None:
    """A (B' V) has N x N weights in between, whose rows sum to 1 as those of a non-local mean."""
    with torch.no_grad():
        for image, found in zip(x, block(x)):
            a, b, v = embedded(block, image)
            weights = b.softmax(1).T @ v.softmax(0)  # (N, n) x (n, N)
            assert weights.shape == (POSITIONS, POSITIONS)
            torch.testing.assert_close(weights.sum(0), torch.ones(POSITIONS).double())
            mean = (a @ weights).view(1, -1, HEIGHT, WIDTH)
            torch.testing.assert_close(found, image + block.out(mean)[0], rtol=0, atol=1e-10)


def test_a_block_starts_as_the_identity_with_a_quarter_of_the_channels() -> None:
    block = DoubleAttention(64)
    x = torch.randn(2, 64, 5, 7)
    assert torch.equal(block(x), x)
    for embedding in (block.phi, block.theta, block.rho):
        assert embedding.out_channels == 16
    assert block.out[0].in_channels == 16


@pytest.mark.parametrize("size", [(512, 1024), (1024, 2048)])
def test_its_cost_grows_with_the_number_of_positions_and_not_with_its_square(
    size: tuple[int, int],
) -> None:
    """Four 1x1s, and two products of 128 x 128 numbers with every position."""
    positions = size[0] * size[1] // 64
    added = macs(segmodels.experiment("a2net"), size) - macs(
        segmodels.experiment("fcn/common"), size
    )
    assert added == positions * (4 * 512 * 128 + 2 * 128 * 128)
