"""Tests of local relation: the layer by loops over windows, and each row as what it changes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.architectures.localrelation import (
    EXPERIMENTS,
    Likeness,
    LocalRelation,
    LocalRelationNet,
)

CHANNELS, SHARING = 32, 8
FORMULAS = {
    "product": lambda q, k: q * k,
    "absolute": lambda q, k: -abs(q - k),
    "squared": lambda q, k: -((q - k) ** 2),
}


def drawn(**options: object) -> LocalRelation:
    torch.manual_seed(0)
    layer = LocalRelation(CHANNELS, **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def prior_of(layer: LocalRelation, down: int, right: int) -> Tensor:
    """What the place of a neighbor says for each group, layer by layer."""
    if layer.prior is None:
        return torch.zeros(CHANNELS // SHARING, dtype=torch.float64)
    narrow, _, wide = layer.prior
    place = torch.tensor([down, right], dtype=torch.float64)
    hidden = (narrow.weight @ place + narrow.bias).clamp(min=0)
    return wide.weight @ hidden + wide.bias


def by_loops(layer: LocalRelation, x: Tensor, window: int) -> Tensor:
    """One image (C, h, w), window by window as the authors' kernel computes it: places beyond the
    map have a likeness of -100 and nothing to add."""
    query, key = layer.query(x), layer.key(x)
    formula = FORMULAS[layer.likeness.__name__]
    _, height, width = x.shape
    reach = range(-(window // 2), window // 2 + 1)
    places = [(down, right) for down in reach for right in reach]
    total = torch.zeros_like(x)
    for row in range(height):
        for column in range(width):
            for group in range(CHANNELS // SHARING):
                exponents = []
                for down, right in places:
                    i, j = row + down, column + right
                    likeness = -100.0
                    if 0 <= i < height and 0 <= j < width:
                        likeness = formula(query[group, row, column], key[group, i, j]).item()
                    prior = prior_of(layer, down, right)[group].item()
                    exponents.append(math.exp(likeness + prior))
                for (down, right), exponent in zip(places, exponents):
                    i, j = row + down, column + right
                    if 0 <= i < height and 0 <= j < width:
                        own = slice(SHARING * group, SHARING * (group + 1))
                        weight = exponent / sum(exponents)
                        total[own, row, column] += weight * x[own, i, j]
    return layer.out(total)


@pytest.mark.parametrize("likeness", FORMULAS)
@pytest.mark.parametrize(("window", "prior"), [(3, True), (7, True), (7, False)])
def test_a_pixel_is_the_weighted_mean_of_its_window(
    likeness: Likeness, window: int, prior: bool
) -> None:
    layer = drawn(window=window, likeness=likeness, prior=prior)
    x = torch.randn(2, CHANNELS, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([by_loops(layer, image, window) for image in x])
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-10)


def test_pixels_that_are_alike_become_the_mean_of_what_is_on_the_map() -> None:
    layer = drawn(likeness="squared", prior=False)
    for part in (layer.query, layer.key):
        nn.init.zeros_(part.weight)
    layer.key.bias.data = layer.query.bias.data
    layer.out = nn.Identity()
    x = torch.randn(2, CHANNELS, 9, 11, dtype=torch.float64)
    mean = F.avg_pool2d(x, 7, 1, 3, count_include_pad=False)
    torch.testing.assert_close(layer(x), mean, rtol=0, atol=1e-12)


def test_a_neighbor_beyond_the_map_weighs_as_much_as_one_of_likeness_minus_100() -> None:
    """As in the authors' kernel (no_define_value)."""
    layer = drawn(likeness="squared", prior=False)
    for part in (layer.query, layer.key):
        nn.init.zeros_(part.weight)
    layer.key.bias.data = layer.query.bias.data + 10
    layer.out = nn.Identity()
    x = torch.randn(2, CHANNELS, 9, 11, dtype=torch.float64)
    with_zeros = F.avg_pool2d(x, 7, 1, 3, count_include_pad=True)
    torch.testing.assert_close(layer(x), with_zeros, rtol=0, atol=1e-12)


def test_a_pixel_sees_its_window_of_7x7_and_no_more() -> None:
    layer = drawn()
    x = torch.randn(1, CHANNELS, 13, 15, dtype=torch.float64, requires_grad=True)
    layer(x)[0, :, 6, 7].sum().backward()
    seen = (x.grad[0] != 0).any(0)
    expected = torch.zeros(13, 15, dtype=torch.bool)
    expected[3:10, 4:11] = True
    assert torch.equal(seen, expected)


def test_a_row_differs_from_the_main_one_by_what_it_names() -> None:
    expected = {
        "common": (7, "product", True),
        "window3": (3, "product", True),
        "absolute": (7, "absolute", True),
        "squared": (7, "squared", True),
        "no_prior": (7, "product", False),
    }
    found = {}
    for name, row in EXPERIMENTS.items():
        network = row.build(5, "meta")
        operator = network.context.operator
        assert isinstance(network, LocalRelationNet)
        assert isinstance(operator, LocalRelation)
        likeness = operator.likeness.__name__
        found[name] = operator.window, likeness, operator.prior is not None
    assert found == expected


def test_queries_and_keys_have_a_number_for_eight_channels_and_the_prior_a_narrow_layer() -> None:
    """As in the re-implementations that the file names."""
    layer = EXPERIMENTS["common"].build(5, "meta").context.operator
    shapes = [tuple(part.weight.shape) for part in (layer.query, layer.key, layer.out)]
    assert shapes == [(64, 512, 1, 1), (64, 512, 1, 1), (512, 512, 1, 1)]
    narrow, _, wide = layer.prior
    assert [tuple(part.weight.shape) for part in (narrow, wide)] == [(32, 2), (64, 32)]
