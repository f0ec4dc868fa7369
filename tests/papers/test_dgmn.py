"""Tests of DGMN: messages by loops over nodes, and the authors' layers with their slip."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segmodels
from segmodels.architectures.dgmn import (
    EXPERIMENTS,
    RELEASED,
    FastMessagePassing,
    MessagePassing,
    Messages,
    UniformMessages,
)
from tests.support.checkpoints import misfit_of_layout

CHANNELS, SIZE = 8, (4, 5)
RATES, GROUPS = (1, 4, 8, 12), 4


def read(x: Tensor, row: float, column: float) -> Tensor:
    """The channels of x (C, h, w) at any position, blended from the four pixels around it."""
    value = x.new_zeros(len(x))
    for j in (math.floor(row), math.floor(row) + 1):
        for i in (math.floor(column), math.floor(column) + 1):
            if 0 <= j < x.shape[1] and 0 <= i < x.shape[2]:
                value += (1 - abs(row - j)) * (1 - abs(column - i)) * x[:, j, i]
    return value


def nodes_of(x: Tensor, walks: Tensor, rate: int, row: int, column: int) -> Tensor:
    """The nine nodes (9, C) that a pixel walks to; walks are (18, h, w)."""
    found = []
    for place in range(9):
        down, right = walks[2 * place : 2 * place + 2, row, column].tolist()
        start = row + rate * (place // 3 - 1), column + rate * (place % 3 - 1)
        found.append(read(x, start[0] + down, start[1] + right))
    return torch.stack(found)


def summed(nodes: Tensor, filters: Tensor) -> Tensor:
    """The message (C,) of nodes (9, C), whose channels are shared out among filters (G, 9)."""
    share = nodes.shape[1] // GROUPS
    return torch.stack([filters[c // share] @ nodes[:, c] for c in range(nodes.shape[1])])


def drawn(module: nn.Module) -> nn.Module:
    """With weights large enough for walks of a few pixels and filters far from equal."""
    torch.manual_seed(0)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.4)
    return module


def pixels(x: Tensor) -> list[tuple[int, int]]:
    return [(row, column) for row in range(x.shape[1]) for column in range(x.shape[2])]


# --- message passing


def by_loops(messages: Messages, x: Tensor, rate: int) -> Tensor:
    """The message of one rate to each pixel of one image (C, h, w)."""
    walks = F.conv2d(x[None], messages.walks.weight, padding=rate, dilation=rate)[0]
    matrix = messages.predict.weight.flatten(1)
    message = torch.zeros_like(x)
    for row, column in pixels(x):
        nodes = nodes_of(x, walks, rate, row, column)
        predicted = matrix @ nodes.T.flatten()  # the nine nodes of each channel in turn
        filters = predicted[: 9 * GROUPS].view(GROUPS, 9)
        if len(predicted) > 9 * GROUPS:
            filters = filters * predicted[9 * GROUPS :].softmax(0)
        else:
            filters = filters.softmax(1)
        message[:, row, column] = summed(nodes, filters)
    return message


@pytest.mark.parametrize("affinity", [True, False])
def test_a_message_is_a_sum_over_the_nodes_that_a_pixel_walked_to(affinity: bool) -> None:
    messages = drawn(Messages(CHANNELS, rate=2, affinity=affinity))
    x = torch.randn(2, CHANNELS, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([by_loops(messages, image, 2) for image in x])
        torch.testing.assert_close(messages(x), expected, rtol=0, atol=1e-10)
        assert messages.walks(x).abs().mean() > 1


def test_messages_of_four_rates_are_scaled_and_added() -> None:
    """On a map on which the last rate still finds other nodes."""
    passing = drawn(MessagePassing(CHANNELS))
    x = torch.randn(1, CHANNELS, 4, 15, dtype=torch.float64)
    with torch.no_grad():
        expected = x[0].clone()
        for messages, scale, rate in zip(passing.messages, passing.scales, RATES, strict=True):
            expected += scale * by_loops(messages, x[0], rate)
        torch.testing.assert_close(passing(x)[0], expected, rtol=0, atol=1e-10)


def test_without_walks_the_nodes_are_those_of_a_dilated_kernel() -> None:
    uniform = drawn(UniformMessages(CHANNELS, rate=2))
    walking = Messages(CHANNELS, rate=2, affinity=False).double()
    nn.init.zeros_(walking.walks.weight)
    walking.predict.weight.data = uniform.predict.weight.data.reshape(9 * GROUPS, -1, 1, 1)
    x = torch.randn(2, CHANNELS, *SIZE, dtype=torch.float64)
    torch.testing.assert_close(uniform(x), walking(x), rtol=0, atol=1e-10)


def test_the_fast_layer_predicts_everything_by_one_convolution() -> None:
    passing = drawn(FastMessagePassing(128))
    x = torch.randn(1, 128, *SIZE, dtype=torch.float64)

    def layer(part: nn.Sequential, x: Tensor) -> Tensor:
        x = F.group_norm(F.conv2d(x, part[0].weight), 32, part[1].weight, part[1].bias, eps=1e-5)
        return x.clamp(min=0)

    with torch.no_grad():
        inner = layer(passing.reduce, x)
        assert inner.shape[1] == 32
        maps = [inner]
        for messages, rate in zip(passing.messages, RATES, strict=True):
            kernel = messages.predict.weight
            predicted = F.conv2d(inner, kernel, padding=rate, dilation=rate)[0]
            message = torch.zeros_like(inner)
            for row, column in pixels(inner[0]):
                nodes = nodes_of(inner[0], predicted[36:54], rate, row, column)
                nodes = nodes * predicted[54:, row, column].sigmoid()[:, None]
                filters = predicted[:36, row, column].view(GROUPS, 9).softmax(1)
                message[0, :, row, column] = summed(nodes, filters)
            maps.append(message)
        expected = layer(passing.expand, layer(passing.join, torch.cat(maps, 1))) + x
        torch.testing.assert_close(passing(x), expected, rtol=0, atol=1e-10)


# --- rows


@pytest.mark.parametrize(
    ("row", "kind"),
    [("common", Messages), ("no_affinity", Messages), ("no_walks", UniformMessages)],
)
def test_a_row_is_named_after_what_its_messages_lack(row: str, kind: type[nn.Module]) -> None:
    operator = EXPERIMENTS[row].build(5, "meta").context.operator
    assert isinstance(operator, MessagePassing)
    assert {type(each) for each in operator.messages} == {kind}
    predicted = {each.predict.out_channels for each in operator.messages}
    assert predicted == {9 * GROUPS + (9 if row == "common" else 0)}
    fast = EXPERIMENTS["fast"].build(5, "meta").context.operator
    assert isinstance(fast, FastMessagePassing)


@pytest.mark.parametrize("row", ["common", "fast"])
def test_first_walks_are_short_and_all_scales_are_one(row: str) -> None:
    """Convolutions of the authors' layers start within one over the root of their inputs."""
    network = EXPERIMENTS[row].but(model={"depth": 18}).build(5, seed=0)
    operator = network.context.operator
    convolutions = [part for part in operator.modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == {"common": 8, "fast": 7}[row]
    for conv in convolutions:
        bound = conv.weight[0].numel() ** -0.5
        assert 0.99 * bound < conv.weight.abs().max().item() <= bound
    assert all(scale.item() == 1 for scale in getattr(operator, "scales", ()))
    he = math.sqrt(2 / (512 * 9))
    assert network.context.before[0].weight.std().item() == pytest.approx(he, rel=0.02)


# --- the authors' layers


@pytest.mark.parametrize("name", RELEASED)
def test_each_tensor_of_the_authors_has_its_place(name: str) -> None:
    assert not misfit_of_layout(name)
    assert segmodels.experiment(RELEASED[name].address)


def test_the_authors_fourth_affinity_is_the_last_groups_filters() -> None:
    """ReDynamicWeightsCat33 cuts it from the filters alone; the nine numbers behind them are idle."""
    names = [
        *(f"gamma{n}" for n in range(1, 5)),
        *(f"{part}_conv{rate}.weight" for part in ("off", "kernel") for rate in "abcd"),
    ]
    shapes = {"g": (1,), "o": (18, CHANNELS, 3, 3), "k": (45, CHANNELS, 3, 3)}
    state = {name: torch.randn(shapes[name[0]], dtype=torch.float64) for name in names}
    layout = RELEASED["dgmn_layer_cat33_deformatt"]
    x = torch.randn(1, CHANNELS, *SIZE, dtype=torch.float64)

    def computed() -> Tensor:
        passing = MessagePassing(CHANNELS).double()
        passing.load_state_dict(layout.renamed(state))
        return passing(x)

    with torch.no_grad():
        given = computed()
        state["kernel_convd.weight"][36:] = 0.0
        assert torch.equal(computed(), given)
        state["kernel_convc.weight"][36:] = 0.0
        assert not torch.allclose(computed(), given)
    own = layout.renamed(state)["messages.3.predict.weight"]
    assert torch.equal(own[36:], state["kernel_convd.weight"][27:36].reshape(9, -1, 1, 1))
