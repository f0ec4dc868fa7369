"""Tests of sampling at learned places, against torchvision's deformable convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from segmodels.parts.deformable_sampling import sampled


def by_torchvision(x: Tensor, offsets: Tensor, rate: int) -> Tensor:
    """A deformable convolution for each channel, which has a filter of a single one per place."""
    channels = x.shape[1]
    ones = torch.eye(9, dtype=x.dtype).view(9, 1, 3, 3).repeat(channels, 1, 1, 1)
    read = deform_conv2d(x, offsets, ones, padding=rate, dilation=rate)
    return read.unflatten(1, (channels, 9))


@pytest.mark.parametrize("rate", [1, 3])
@pytest.mark.parametrize("size", [(5, 8), (7, 6), (1, 3)])
def test_places_and_gradients_are_those_of_a_deformable_convolution(
    size: tuple[int, int], rate: int
) -> None:
    """With offsets that lead within the map, over its border and far beyond it."""
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    offsets = 4 * torch.randn(2, 18, *size, dtype=torch.float64)
    offsets.requires_grad_()
    upstream = torch.randn(2, 3, 9, *size, dtype=torch.float64)
    pairs = []
    for sample in (sampled, by_torchvision):
        read = sample(x, offsets, rate)
        pairs.append((read, *torch.autograd.grad(read, (x, offsets), upstream)))
    for ours, theirs in zip(*pairs):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert (pairs[0][0] == 0).any()


def test_without_offsets_they_are_the_places_of_a_dilated_kernel() -> None:
    x = torch.randn(2, 4, 6, 7)
    still = torch.zeros(2, 18, 6, 7)
    unfolded = F.unfold(x, 3, padding=2, dilation=2).view(2, 4, 9, 6, 7)
    torch.testing.assert_close(sampled(x, still, 2), unfolded, rtol=0, atol=1e-5)


def test_positions_are_not_rounded_to_half_precision() -> None:
    """bfloat16 tells no neighboring columns apart beyond the 256th."""
    x = torch.randn(1, 1, 2, 700).bfloat16()
    read = sampled(x, torch.zeros(1, 18, 2, 700).bfloat16())
    assert read.dtype == torch.bfloat16
    torch.testing.assert_close(read[:, :, 4], x, rtol=0.01, atol=0.01)
    torch.testing.assert_close(read[:, :, 5, :, :-1], x[..., 1:], rtol=0.01, atol=0.01)
