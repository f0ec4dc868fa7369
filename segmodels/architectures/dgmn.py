"""DGMN: Dynamic Graph Message Passing Networks
Zhang, Xu, Arnab, Torr. CVPR 2020. arXiv:1908.06955

A non-local block has every pixel listen to all others, most of which have nothing to tell. Here a
pixel is a node of a graph that listens to a few nodes, and picks them by itself: it starts from
3x3 nodes at several distances, and walks from each to a better place. What it hears there is
weighted by filters and by an affinity, both of which are predicted from the nodes that it found.

    image -> ResNet, dilated to 1/8 -> 3x3 -> message passing -> 3x3, joined with its input by a
    3x3, dropout, 1x1 -> logits at 1/8

    x ─┬─ at each of four rates: ─┬─ dilated 3x3: nine walks ┐
       │                          └─ nodes, read there ──────┴─┬─ product with matrices: filters, affinity ┐
       │                                                       └─ weighted sum ────────────────────────────┴─ message
       └─ (+) <- messages, each times its own scale

    nodes      x[i, k] = x at p[i] + rate * d[k] + walk[i, k];   d[k]: the places of a 3x3 kernel
    predicted  (f[i, g], a[i]) = W (x[i, 1], ..., x[i, 9]), nine numbers in each
    message    m[i] = sum over k of f[i, g, k] softmax over k (a[i, k]) x[i, k], for channels of group g
    result     y[i] = x[i] + sum over rates of scale * m[i]

Departures:
- The authors released a detector (lzrobots/dgmn), whose layers are these; its blocks have them
  behind the 3x3 convolutions of a ResNet's last stages. Network and recipe of their segmentation
  were not seen: the rows have the network and the recipe in which operators are compared here.
- "fast" is the layer that the authors call not rigorous: a single convolution predicts filters,
  walks and affinities before a node is read, on a quarter of the channels.
- In the authors' rigorous layer the fourth rate takes its affinity from the filters of the last
  group, and its own is not used, which looks like a slip. Here it has its own; released weights are
  converted so that both give the same.
- "no_affinity" and "no_walks" are settings of the authors' layer (deform is "deform" or "none"), in
  which a softmax over the nine nodes normalizes the filters.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from segmodels.families.common import CHANNELS, OperatorNet, common
from segmodels.paper import Released
from segmodels.parts.deformable_sampling import sampled
from segmodels.parts.weight_files import State

RATES = (1, 4, 8, 12)
GROUPS = 4  # of channels that share filters

# --- message passing (section 3)


def weighted_sum(nodes: Tensor, filters: Tensor) -> Tensor:
    """Sum nodes (B, C, 9, h, w) by the filters of their groups (B, G, 9, h, w), to (B, C, h, w)."""
    groups = nodes.unflatten(1, (GROUPS, -1))  # (B, G, C/G, 9, h, w)
    return torch.einsum("bgckhw,bgkhw->bgchw", groups, filters).flatten(1, 2)


def filters_of(predicted: Tensor) -> Tensor:
    return predicted[:, : 9 * GROUPS].unflatten(1, (GROUPS, 9))  # (B, G, 9, h, w)


def dilated(inside: int, outside: int, rate: int) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, padding=rate, dilation=rate, bias=False)


class Messages(nn.Module):
    """The message to each node at one rate, of nodes, filters and affinity that it chose."""

    def __init__(self, channels: int, rate: int, affinity: bool = True) -> None:
        super().__init__()
        self.rate = rate
        self.affinity = affinity
        self.walks = dilated(channels, 18, rate)
        predicted = 9 * GROUPS + 9 * affinity
        self.predict = nn.Conv2d(9 * channels, predicted, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        nodes = sampled(x, self.walks(x), self.rate)  # (B, C, 9, h, w)
        predicted = self.predict(nodes.flatten(1, 2))
        filters = filters_of(predicted)
        if self.affinity:
            affinity = predicted[:, -9:].softmax(1)  # (B, 9, h, w)
            return weighted_sum(nodes, filters * affinity[:, None])
        return weighted_sum(nodes, filters.softmax(2))


class UniformMessages(nn.Module):
    """The message to each node from the places of a dilated 3x3 kernel: nobody walks."""

    def __init__(self, channels: int, rate: int) -> None:
        super().__init__()
        self.predict = dilated(channels, 9 * GROUPS, rate)
        self.unfold = nn.Unfold(3, padding=rate, dilation=rate)

    def forward(self, x: Tensor) -> Tensor:
        nodes = self.unfold(x).unflatten(1, (-1, 9))  # (B, C*9, h*w) -> (B, C, 9, h*w)
        nodes = nodes.unflatten(3, x.shape[2:])
        return weighted_sum(nodes, filters_of(self.predict(x)).softmax(2))


class MessagePassing(nn.Module):
    """The messages of all rates, scaled and added to each node."""

    def __init__(self, channels: int, messages: Callable[[int, int], nn.Module] = Messages) -> None:
        super().__init__()
        self.messages = nn.ModuleList(messages(channels, rate) for rate in RATES)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in RATES)

    def forward(self, x: Tensor) -> Tensor:
        messages = [messages(x) for messages in self.messages]
        return x + sum(scale * message for scale, message in zip(self.scales, messages))


# --- the authors' fast layer


class FastMessages(nn.Module):
    """The message at one rate, of which a single convolution predicts everything."""

    def __init__(self, channels: int, rate: int) -> None:
        super().__init__()
        self.rate = rate
        self.predict = dilated(channels, 9 * GROUPS + 18 + 9, rate)

    def forward(self, x: Tensor) -> Tensor:
        predicted = self.predict(x)
        walks, affinity = predicted[:, 9 * GROUPS :].split((18, 9), 1)
        nodes = sampled(x, walks, self.rate) * affinity.sigmoid()[:, None]  # (B, C, 9, h, w)
        return weighted_sum(nodes, filters_of(predicted).softmax(2))


class FastMessagePassing(nn.Module):
    """The messages of all rates on a quarter of the channels, joined and added to each node."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 4
        self.reduce = layer(channels, width)
        self.messages = nn.ModuleList(FastMessages(width, rate) for rate in RATES)
        self.join = layer((1 + len(RATES)) * width, width)
        self.expand = layer(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        nodes = self.reduce(x)
        messages = [messages(nodes) for messages in self.messages]
        return self.expand(self.join(torch.cat([nodes, *messages], 1))) + x


def layer(inside: int, outside: int) -> nn.Sequential:
    """Stack a 1x1, group normalization and a ReLU."""
    conv = nn.Conv2d(inside, outside, 1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(32, outside), nn.ReLU(inplace=True))


# --- network

Layer = Literal["rigorous", "no_affinity", "no_walks", "fast"]
LAYERS = {
    "rigorous": MessagePassing,
    "no_affinity": partial(MessagePassing, messages=partial(Messages, affinity=False)),
    "no_walks": partial(MessagePassing, messages=UniformMessages),
    "fast": FastMessagePassing,
}


class DGMN(OperatorNet):
    """The common network around message passing."""

    def __init__(self, num_classes: int, depth: int = 50, layer: Layer = "rigorous") -> None:
        super().__init__(num_classes, depth, LAYERS[layer](CHANNELS))


# --- experiments

MAIN = common(DGMN)

EXPERIMENTS = {
    "common": MAIN,
    "fast": MAIN.but(model={"layer": "fast"}),
    "no_affinity": MAIN.but(model={"layer": "no_affinity"}),
    "no_walks": MAIN.but(model={"layer": "no_walks"}),
}

# --- released layers: the authors' lzrobots/dgmn, which are no networks


def alone(operator: Callable[[int], nn.Module], channels: int, num_classes: int) -> nn.Module:
    """Build an operator by itself, which has no classes."""
    return operator(channels)


def converted(state: State) -> State:
    """Give the fourth rate the affinity that the authors' code computes: the last group's filters.

    Weights of a deformable convolution become those of a 1x1 on the nodes that it reads.
    """
    state = dict(state)
    for name, weight in state.items():
        if name.endswith("predict.weight"):
            state[name] = weight.reshape(len(weight), -1, 1, 1)
    last = state["messages.3.predict.weight"]
    used = last[9 * (GROUPS - 1) : 9 * GROUPS]
    state["messages.3.predict.weight"] = torch.cat([last[: 9 * GROUPS], used])
    return state


def number(letter: str) -> str:
    return str("abcd".index(letter))


RELEASED = {
    "dgmn_layer_cat33_deformatt": Released(
        partial(alone, MessagePassing, 512),
        "kernel_conva.weight",
        (
            (r"^off_conv(\w)\.", lambda m: f"messages.{number(m[1])}.walks."),
            (r"^kernel_conv(\w)\.", lambda m: f"messages.{number(m[1])}.predict."),
            (r"^gamma(\d)$", lambda m: f"scales.{int(m[1]) - 1}"),
        ),
        convert=converted,
        row="dgmn/common",
    ),
    "dgmn_layer_cat11_deformatt": Released(
        partial(alone, FastMessagePassing, 1024),
        "cata.weight",
        (
            (r"^cat(\w)\.", lambda m: f"messages.{number(m[1])}.predict."),
            (r"^scale1\.", "reduce."),
            (r"^scale2\.", "join."),
            (r"^scale3\.", "expand."),
        ),
        row="dgmn/fast",
    ),
}
