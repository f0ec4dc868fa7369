"""Dilated networks: a backbone that ends at 1/8 or 1/16, a context module, and a 1x1.

    image -> backbone, dilated ─┬─ stage 4 -> context -> dropout, 1x1 -> logits at 1/8
                                └─ stage 3 -> 3x3, dropout, 1x1: auxiliary, in training

A paper hands in its backbone (stem, dilations, stride) and its context, and writes `decode` anew
where its head has several outputs.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.parts.backbones.resnet import initialize
from segmodels.parts.layers import conv_bn_relu

Layer = Callable[[int, int], nn.Sequential]  # makes a 3x3 of so many channels with its norm


class Dilated(SegmentationModule):
    """Backbone -> context on the last stage -> classifier; an auxiliary head one stage before."""

    auxiliary_weight = 0.4

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Module,
        context: nn.Module,
        classifier: nn.Module,
        auxiliary: nn.Module | None = None,
    ) -> None:
        """`backbone` returns its stages, finest first, and names their `channels`."""
        super().__init__(num_classes)
        self.backbone = backbone
        self.context = context
        self.classifier = classifier
        self.auxiliary = auxiliary

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> list[Tensor]:
        return self.backbone(image)  # 1/4, 1/8, 1/8, 1/8 of a ResNet with output stride 8

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.classifier(self.context(features[-1]))

    def auxiliary_outputs(self, features: list[Tensor]) -> dict[str, Tensor]:
        return {} if self.auxiliary is None else {"auxiliary": self.auxiliary(features[-2])}


def classifier(inside: int, num_classes: int, dropout: float = 0.1) -> nn.Sequential:
    """Stack dropout of whole channels and a 1x1."""
    return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(inside, num_classes, 1))


def fcn_head(
    inside: int, width: int, num_classes: int, dropout: float = 0.1, layer: Layer = conv_bn_relu
) -> nn.Sequential:
    """Stack a 3x3 and the classifier: the auxiliary head of most papers on stage 3."""
    return nn.Sequential(layer(inside, width), *classifier(width, num_classes, dropout))


class Around(nn.Module):
    """An operator between two 3x3 convolutions; a third joins the result with the input.

    CCNet has this head, and most attention networks since.
    """

    def __init__(
        self, inside: int, width: int, operator: nn.Module, layer: Layer = conv_bn_relu
    ) -> None:
        super().__init__()
        self.before = layer(inside, width)
        self.operator = operator
        self.behind = layer(width, width)
        self.fusion = layer(inside + width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.behind(self.operator(self.before(x)))
        return self.fusion(torch.cat([x, y], 1))


def initialize_heads(network: SegmentationModule) -> None:
    """Initialize the heads as mmsegmentation does.

    Convolutions before a norm get He's initialization, classifiers N(0, 0.01). All others, such as
    layers of an operator that no norm follows, stay as they are.
    """
    initialize_before_norms(network.context)
    initialize_classifier(network.classifier)
    if network.auxiliary is not None:
        initialize_before_norms(network.auxiliary)
        initialize_classifier(network.auxiliary)


def initialize_before_norms(head: nn.Module) -> None:
    """Initialize those convolutions that a norm follows in a sequence."""
    for part in head.modules():
        layers = list(part) if isinstance(part, nn.Sequential) else []
        for layer, follower in pairwise(layers):
            if isinstance(layer, nn.Conv2d) and isinstance(follower, nn.BatchNorm2d):
                initialize(layer)


def initialize_classifier(head: nn.Sequential) -> None:
    nn.init.normal_(head[-1].weight, std=0.01)
    nn.init.zeros_(head[-1].bias)
