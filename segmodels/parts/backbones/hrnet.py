"""HRNet as a backbone that returns the maps of its four branches, at 1/4, 1/8, 1/16 and 1/32.

Wang et al., 2019. arXiv:1908.07919. A branch of half the resolution begins with every stage, and no
branch ever ends: each module of a stage computes residual blocks on all of them and then gives each
branch the sum of the maps of all. Parameters have the authors' names, which are timm's too.

    image -> stem 1/4 -> stage 1 ─┬─ 1/4 ─┬──┬─ 1/4 ─┬──┬─ 1/4 ─┬─ 1/4
                                  └─ 1/8 ─┤  ├─ 1/8 ─┤  ├─ 1/8 ─┼─ 1/8
                                          └──┴─ 1/16 ┤  ├─ 1/16 ┼─ 1/16
                                                     └──┴─ 1/32 ┴─ 1/32
                                  stage 2    stage 3    stage 4
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.parts.backbones.resnet import BasicBlock, Bottleneck, stage
from segmodels.parts.layers import conv_bn, conv_bn_relu, resized

Depth = Literal["full", "small_v2", "small_v1"]
Fusions = Literal["all", "across_stages", "final"]
Resize = Callable[[Tensor, Tensor], Tensor]  # a map to the size of another one


@dataclass(frozen=True)
class Layers:
    """The sizes of a network, but for the width of its branches."""

    first: tuple[int, int]  # blocks of stage 1 and their width
    blocks: int  # of each branch in a module
    modules: tuple[int, int, int]  # of stages 2, 3 and 4


DEPTHS: dict[Depth, Layers] = {
    "full": Layers((4, 64), 4, (1, 4, 3)),
    "small_v2": Layers((2, 64), 2, (1, 3, 2)),
    "small_v1": Layers((1, 32), 2, (1, 1, 1)),
}


class Exchange(nn.Module):
    """Residual blocks on each branch, and sums over all of them for the first `sums` (figure 3)."""

    def __init__(self, widths: Sequence[int], blocks: int, sums: int, resize: Resize) -> None:
        super().__init__()
        self.resize = resize
        self.branches = nn.ModuleList(
            stage(BasicBlock, width, width, 1, (1,) * blocks) for width in widths
        )
        self.fuse_layers = nn.ModuleList(self.paths(widths, target) for target in range(sums))

    def paths(self, widths: Sequence[int], target: int) -> nn.ModuleList:
        """Return the layers that bring each branch to the width and resolution of one of them."""
        outside = widths[target]
        finer = [
            down(width, outside, target - source) for source, width in enumerate(widths[:target])
        ]
        coarser = [
            self.up(width, outside, steps)
            for steps, width in enumerate(widths[target + 1 :], start=1)
        ]
        return nn.ModuleList([*finer, nn.Identity(), *coarser])

    def up(self, inside: int, outside: int, steps: int) -> nn.Sequential:
        """Return what stands before a map is resized to 2 ** steps times its sides."""
        return conv_bn(inside, outside, 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps)]
        if not self.fuse_layers:
            return maps
        return [self.fused(maps, target) for target in range(len(self.fuse_layers))]

    def fused(self, maps: list[Tensor], target: int) -> Tensor:
        own = maps[target]
        parts = [path(x) for path, x in zip(self.fuse_layers[target], maps)]
        coarser = [self.resize(x, own) for x in parts[target + 1 :]]
        first, *others = [*parts[: target + 1], *coarser]
        return F.relu(sum(others, start=first))


def down(inside: int, outside: int, steps: int) -> nn.Sequential:
    """Stack 3x3 convolutions of stride 2; the last one widens, without a ReLU."""
    halves = [conv_bn_relu(inside, inside, stride=2) for _ in range(steps - 1)]
    return nn.Sequential(*halves, conv_bn(inside, outside, stride=2))


class HighResolutionNet(nn.Module):
    """image -> maps at strides 4, 8, 16 and 32, with `width` times 1, 2, 4 and 8 channels.

    `fusions` says which modules exchange maps: all, the last one of each stage, or the very last
    one. With `outputs` = 1 that one computes the finest map alone (HRNetV1).
    """

    exchange: type[Exchange] = Exchange

    def __init__(
        self,
        width: int,
        depth: Depth = "full",
        fusions: Fusions = "all",
        outputs: int = 4,
        resize: Resize = resized,
    ) -> None:
        super().__init__()
        layers = DEPTHS[depth]
        blocks, first = layers.first
        deep = first * Bottleneck.expansion
        self.channels = (width, 2 * width, 4 * width, 8 * width)
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(Bottleneck, 64, first, 1, (1,) * blocks)
        kept: list[nn.Module] = [conv_bn_relu(deep, width)]
        for number, modules in enumerate(layers.modules, start=2):
            widths = self.channels[:number]
            begins = nn.Sequential(conv_bn_relu(deep, widths[-1], stride=2))
            self.add_module(f"transition{number - 1}", nn.ModuleList([*kept, begins]))
            kept = [nn.Identity() for _ in widths]
            deep = widths[-1]
            sums = [number if fusions == "all" else 0] * modules
            if number == 4:
                sums[-1] = outputs
            elif fusions == "across_stages":
                sums[-1] = number
            stacked = (self.exchange(widths, layers.blocks, count, resize) for count in sums)
            self.add_module(f"stage{number}", nn.Sequential(*stacked))
        initialize(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(image)))
        maps = [self.layer1(self.relu(self.bn2(self.conv2(x))))]
        for transition, exchanges in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            # the coarsest branch begins from the one that was coarsest before
            maps = exchanges([layer(x) for layer, x in zip(transition, [*maps, maps[-1]])])
        return maps


def initialize(module: nn.Module) -> None:
    """Initialize convolutions as the authors do, by N(0, 0.001)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.001)


def joined(maps: list[Tensor], resize: Resize = resized) -> Tensor:
    """Stack the maps of all branches at the size of the finest (HRNetV2)."""
    finest, *others = maps
    return torch.cat([finest, *(resize(x, finest) for x in others)], 1)


# (pattern, replacement): the authors' names of the backbone, which has no prefix in their networks
AUTHORS = ((r"^(conv|bn|layer|transition|stage)(\d)\.", r"backbone.\1\2."),)
