"""Tests of pyramid pooling, by loops, in the form of each paper that has it."""

import math

import pytest
import torch
from torch import Tensor, nn

import segmodels
from segmodels.parts.layers import conv_bn
from segmodels.parts.pyramid_pooling import PyramidPooling


def means(x: Tensor, parts: int) -> Tensor:
    """(C, h, w) -> (C, parts, parts) by loops; parts overlap where they do not divide a side."""
    channels, height, width = x.shape
    found = torch.zeros(channels, parts, parts, dtype=x.dtype)
    for row in range(parts):
        for column in range(parts):
            top, bottom = row * height // parts, math.ceil((row + 1) * height / parts)
            left, right = column * width // parts, math.ceil((column + 1) * width / parts)
            found[:, row, column] = x[:, top:bottom, left:right].mean((1, 2))
    return found


def at(small: Tensor, place: float, side: int, align_corners: bool) -> tuple[int, int, float]:
    """The two neighbors of a pixel of the large map along one side, and the share of the second."""
    length = small.shape[-1]
    position = place * (length - 1) / (side - 1)
    if not align_corners:
        position = max((place + 0.5) * length / side - 0.5, 0)
    first = min(int(position), length - 1)
    return first, min(first + 1, length - 1), position - first


def enlarged(small: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    found = torch.zeros(len(small), height, width, dtype=small.dtype)
    for y in range(height):
        up, down, lower = at(small, y, height, align_corners)
        for x in range(width):
            left, right, later = at(small, x, width, align_corners)
            above = (1 - later) * small[:, up, left] + later * small[:, up, right]
            below = (1 - later) * small[:, down, left] + later * small[:, down, right]
            found[:, y, x] = (1 - lower) * above + lower * below
    return found


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("map_first", [True, False])
def test_the_pyramid_puts_means_over_1_4_9_and_36_parts_beside_the_map(
    align_corners: bool, map_first: bool
) -> None:
    pyramid = PyramidPooling(8, 3, align_corners=align_corners, map_first=map_first)
    pyramid = pyramid.double().eval()
    x = torch.randn(1, 8, 7, 10, dtype=torch.float64)
    seen = []
    for parts, level in zip((1, 2, 3, 6), pyramid.levels, strict=True):
        projected = level[1](means(x[0], parts)[None])[0]
        assert projected.shape == (2, parts, parts)
        seen.append(enlarged(projected, 7, 10, align_corners))
    seen.insert(0 if map_first else 4, x[0])
    expected = pyramid.fusion(torch.cat(seen)[None])
    torch.testing.assert_close(pyramid(x), expected, rtol=0, atol=1e-12)


def test_means_have_a_fourth_of_the_maps_channels_a_norm_and_a_relu_unless_one_says_otherwise() -> (
    None
):
    pyramid = PyramidPooling(8, 3, align_corners=True)
    assert kinds(pyramid.levels[0][1]) == ["1x1 8 -> 2", "BatchNorm2d", "ReLU"]
    assert kinds(pyramid.fusion) == ["3x3 16 -> 3", "BatchNorm2d", "ReLU"]
    thin = PyramidPooling(8, 3, kernel=1, align_corners=True, width=5, projection=conv_bn)
    assert kinds(thin.levels[3][1]) == ["1x1 8 -> 5", "BatchNorm2d"]
    assert kinds(thin.fusion) == ["1x1 28 -> 3", "BatchNorm2d", "ReLU"]


def kinds(stack: nn.Sequential) -> list[str]:
    """The layers by name, a convolution by its kernel and channels."""
    return [described(layer) for layer in stack]


def described(layer: nn.Module) -> str:
    if not isinstance(layer, nn.Conv2d):
        return type(layer).__name__
    height, width = layer.kernel_size
    return f"{height}x{width} {layer.in_channels} -> {layer.out_channels}"


@pytest.mark.parametrize(
    ("row", "mean", "fusion", "align_corners", "map_first"),
    [
        ("pspnet", ["1x1 2048 -> 512", "BatchNorm2d", "ReLU"], "3x3 4096 -> 512", True, True),
        ("fastscnn", ["1x1 128 -> 32", "BatchNorm2d", "ReLU"], "1x1 256 -> 128", False, True),
        ("sfnet", ["1x1 512 -> 128", "BatchNorm2d"], "1x1 1024 -> 128", True, False),
    ],
)
def test_each_paper_has_the_pyramid_of_its_authors(
    row: str, mean: list[str], fusion: str, align_corners: bool, map_first: bool
) -> None:
    network = segmodels.experiment(row).build(3, device="meta")
    (pyramid,) = [each for each in network.modules() if isinstance(each, PyramidPooling)]
    assert kinds(pyramid.levels[0][1]) == mean
    assert kinds(pyramid.fusion)[0] == fusion
    assert (pyramid.align_corners, pyramid.map_first) == (align_corners, map_first)


def test_sfnet_drops_whole_channels_behind_its_pyramid() -> None:
    network = segmodels.experiment("sfnet").build(3, device="meta")
    *_, dropout = network.neck.context.fusion
    assert isinstance(dropout, nn.Dropout2d)
    assert dropout.p == 0.1
