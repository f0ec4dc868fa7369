"""Tests of flow alignment: reading a map along a flow, position by position."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmodels.parts.flow_alignment import FlowAlignment, displaced, evenly_spaced


def read_along(features: Tensor, flow: Tensor) -> Tensor:
    """One position at a time: where the fine grid lies on the coarse one, moved by the flow, and
    blended from the four around it."""
    channels, h, w = features.shape
    _, height, width = flow.shape
    out = features.new_zeros(channels, height, width)
    for row in range(height):
        for column in range(width):
            x = (column / (width - 1) + flow[0, row, column].item() / width / 2) * (w - 1)
            y = (row / (height - 1) + flow[1, row, column].item() / height / 2) * (h - 1)
            for j in (int(np.floor(y)), int(np.floor(y)) + 1):
                for i in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= j < h and 0 <= i < w:
                        share = (1 - abs(y - j)) * (1 - abs(x - i))
                        out[:, row, column] += share * features[:, j, i]
    return out


def test_a_map_is_read_where_the_flow_points_and_is_zero_outside() -> None:
    features = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    flow = 6 * torch.randn(1, 2, 9, 17, dtype=torch.float64)
    expected = read_along(features[0], flow[0])
    torch.testing.assert_close(displaced(features, flow)[0], expected, rtol=0, atol=1e-12)


def test_half_precision_reads_within_its_rounding_of_single_precision() -> None:
    features, flow = torch.randn(1, 2, 16, 32), torch.randn(1, 2, 256, 512)
    half = displaced(features.bfloat16(), flow.bfloat16())
    whole = displaced(features.bfloat16().float(), flow.bfloat16().float())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_exported_form_of_a_grid_has_the_same_positions(count: int) -> None:
    """While a graph for any size is made, a side is no int."""
    found = evenly_spaced(np.int64(count), torch.device("cpu"))
    torch.testing.assert_close(found, torch.linspace(-1, 1, count))
    assert evenly_spaced(count, torch.device("cpu")).equal(torch.linspace(-1, 1, count))


@pytest.mark.parametrize(
    ("module", "fine", "flows"), [(FlowAlignment(8), 8, 1), (FlowAlignment(8, 6, flows=2), 6, 2)]
)
def test_both_maps_give_half_the_coarse_ones_channels_to_the_flow(
    module: FlowAlignment, fine: int, flows: int
) -> None:
    """Figure 3b: two 1x1s without a bias, and a 3x3 to two numbers a flow."""
    shapes = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
    assert shapes == {
        "fine.weight": (4, fine, 1, 1),
        "coarse.weight": (4, 8, 1, 1),
        "flow.weight": (2 * flows, 8, 3, 3),
    }
    found = module.flows(torch.randn(2, fine, 9, 12), torch.randn(2, 8, 5, 6))
    assert found.shape == (2, 2 * flows, 9, 12)


def test_the_flow_is_made_of_the_enlarged_coarse_map_and_the_fine_one() -> None:
    module = FlowAlignment(4).double()
    fine = torch.randn(1, 4, 9, 13, dtype=torch.float64)
    coarse = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    larger = nn.Upsample((9, 13), mode="bilinear", align_corners=True)(module.coarse(coarse))
    flow = module.flow(torch.cat([larger, module.fine(fine)], 1))
    torch.testing.assert_close(module(fine, coarse), displaced(coarse, flow), rtol=0, atol=1e-9)
