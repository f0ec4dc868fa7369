"""Tests of ASPP: what its maps see and how they are joined, its rates, and its first weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segmodels.parts.atrous_pyramid import AtrousPyramid, initialize, rates_at


def test_the_pyramid_joins_a_1x1_three_rates_and_the_mean_of_the_image() -> None:
    pyramid = AtrousPyramid(8, 4, (2, 3, 4)).eval()
    x = torch.randn(2, 8, 9, 11)
    with torch.no_grad():
        *convolved, mean = pyramid.maps(x)
        assert [each.shape for each in convolved] == [(2, 4, 9, 11)] * 4
        wanted = pyramid.pooling(F.adaptive_avg_pool2d(x, 1)).expand(2, 4, 9, 11)
        torch.testing.assert_close(mean, wanted)
        moved = x.clone()
        moved[..., 4, 5] += 1.0  # a 1x1 sees its own pixel, a rate three columns of three
        seen = [
            (after - before).abs().sum((0, 1)) > 0
            for before, after in zip(convolved, pyramid.maps(moved))
        ]
    assert seen[0].nonzero().tolist() == [[4, 5]]
    for rate, changed in zip((2, 3, 4), seen[1:]):
        rows, columns = changed.nonzero().T.tolist()
        assert set(rows) <= {4 - rate, 4, 4 + rate} and set(columns) <= {5 - rate, 5, 5 + rate}
        assert len(rows) > 1


def test_the_maps_are_joined_by_a_1x1_and_a_tenth_is_dropped() -> None:
    pyramid = AtrousPyramid(8, 4, (2, 3)).eval()
    conv, norm, _ = pyramid.projection
    assert (conv.weight.shape, conv.bias) == ((4, 4 * 4, 1, 1), None)
    x = torch.randn(2, 8, 9, 11)
    with torch.no_grad():
        joined = torch.einsum(
            "oc,bchw->bohw", conv.weight[..., 0, 0], torch.cat(pyramid.maps(x), 1)
        )
        torch.testing.assert_close(pyramid(x), norm(joined).relu())
    assert pyramid.dropout.p == 0.1  # keep_prob=0.9 in the authors' model.py


def test_a_pyramid_without_rates_is_a_1x1_and_the_mean() -> None:
    pyramid = AtrousPyramid(8, 4, ()).eval()
    assert len(pyramid.maps(torch.randn(1, 8, 3, 3))) == 2
    assert len(AtrousPyramid(8, 4, (2,), mean=False).maps(torch.randn(1, 8, 3, 3))) == 2


def test_rates_cover_the_same_pixels_at_both_strides() -> None:
    assert rates_at(8, (6, 12, 18, 24)) == (12, 24, 36, 48)
    assert rates_at(16, (3,)) == (3,)
    assert (rates_at(16), rates_at(8)) == ((6, 12, 18), (12, 24, 36))


@pytest.mark.parametrize("output_stride", [4, 32, 0])
def test_another_stride_is_refused_in_a_sentence(output_stride: int) -> None:
    with pytest.raises(ValueError, match=f"is {output_stride}; it must be 16, as the paper trains"):
        rates_at(output_stride)


def test_separable_convolutions_start_with_fixed_deviations_and_others_with_glorots() -> None:
    """A pointwise convolution is one behind a depthwise one; all are cut off at two deviations."""
    stack = nn.Sequential(
        nn.Conv2d(64, 64, 3),
        nn.BatchNorm2d(64),
        nn.Conv2d(64, 4096, 3, groups=2),
        nn.BatchNorm2d(4096),
        nn.Conv2d(4096, 8, 1),
        nn.Conv2d(8, 512, 1),
    )
    initialize(stack)
    first, depthwise, pointwise, last = [each for each in stack if isinstance(each, nn.Conv2d)]
    for layer, deviation in ((depthwise, 0.33), (pointwise, 0.06)):
        assert layer.weight.abs().max().item() == pytest.approx(2 * deviation, rel=0.02)
        assert layer.weight.std().item() == pytest.approx(0.8796 * deviation, rel=0.02)
    for layer, fans in ((first, 9 * (64 + 64)), (last, 8 + 512)):
        assert layer.weight.abs().max().item() == pytest.approx((6 / fans) ** 0.5, rel=0.02)
    assert not any(layer.bias.any() for layer in (first, depthwise, pointwise, last))
