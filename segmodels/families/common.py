"""One network and one recipe around the operators of many papers: their rows "common".

    image -> ResNet, dilated to 1/8 ─┬─ stage 4 ─┬─ 3x3 -> operator -> 3x3 ─┬─ 3x3, dropout, 1x1 -> logits at 1/8
                                     │           └──────────────────────────┘
                                     └─ stage 3 -> 3x3, dropout, 1x1: auxiliary, in training

Papers differ in backbones, heads and recipes too. Here nothing but the operator differs, so
`--model "*/common"` compares operators alone. Network and recipe are those in which mmsegmentation
compares them on Cityscapes; colors are not disturbed.
"""

from collections.abc import Callable

from torch import nn

from segmodels.families.dilated import Around, Dilated, classifier, fcn_head, initialize_heads
from segmodels.paper import Experiment
from segmodels.parts.backbones.resnet import ResNet
from segmodels.recipe import Recipe

CHANNELS = 512  # that an operator gets and gives


class OperatorNet(Dilated):
    """Dilated ResNet -> an operator between 3x3 convolutions -> classifier at 1/8."""

    def __init__(self, num_classes: int, depth: int, operator: nn.Module) -> None:
        backbone = ResNet(depth, output_stride=8, stem=(32, 32, 64))
        *_, middle, deep = backbone.channels
        super().__init__(
            num_classes,
            backbone,
            Around(deep, CHANNELS, operator),
            classifier(CHANNELS, num_classes),
            fcn_head(middle, 256, num_classes),
        )
        initialize_heads(self)


class CommonNet(OperatorNet):
    """The network around an operator that has no options; a paper names it."""

    operator: Callable[[int], nn.Module]  # makes the operator of a number of channels

    def __init__(self, num_classes: int, depth: int = 50) -> None:
        super().__init__(num_classes, depth, type(self).operator(CHANNELS))


RECIPE = Recipe(
    crop=(512, 1024), scales=(0.5, 2.0), continuous=True, cat_max_ratio=0.75, batch=8, iterations=40_000,
    loss="cross_entropy:all", lr=0.01, weight_decay=5e-4, min_lr=1e-4,
)  # fmt: skip


def common(network: type[OperatorNet]) -> Experiment:
    """Return the row of an operator in the common network, under the common recipe."""
    return Experiment(network, RECIPE, model={"depth": 50}, starts_from="resnet50c.gluon_in1k")
