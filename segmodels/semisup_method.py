"""`Method`: the base of semi-supervised methods, networks of one row that learn together.

To a trainer they are one module.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from lightning import Callback
from torch import Tensor

from segmodels.inference_modes import Strips
from segmodels.module import Batch, Features, SegmentationModule
from segmodels.network_identity import Identity
from segmodels.parts.losses import IGNORED

# builds another network of the row, with its starting weights
Make = Callable[[], SegmentationModule]


class Method(SegmentationModule):
    """Networks of one row and the losses that teach them; one of them is evaluated and used.

    A method's constructor takes `make` and its own options, and hands networks to this one. It
    writes `losses` of a batch (labeled, unlabeled), and those of `preview`, `after_step`,
    `parameter_groups`, `optimizer` and `schedule` that differ from the ones below. A method with a
    second optimizer returns a `JointOptimizer` of both. An unlabeled image's label is 255 where the crop
    shows no image; its other values must not be read.
    """

    networks: tuple[str, ...] = ("student",)  # their names, here and in a checkpoint
    evaluated_beside: tuple[str, ...] = ()  # those that a validation scores beside the first one
    min_unlabeled = 1  # images per device and pass
    why_unlabeled = ""  # such as "cutmix mixes images in pairs", where it is more than one

    def __init__(self, *networks: SegmentationModule) -> None:
        """`networks` come in the order of their names."""
        super().__init__(networks[0].num_classes)
        for name, network in zip(self.networks, networks, strict=True):
            self.add_module(name, network)
        first = networks[0]
        self.adopt(first.recipe, first.normalization, first.identity)

    # --- the network that is evaluated: used as a network, the method is this one

    @property
    def evaluated(self) -> SegmentationModule:
        return self.get_submodule(self.networks[0])

    @property
    def align_corners(self) -> bool:
        return self.evaluated.align_corners

    @property
    def multiple(self) -> int:
        return self.evaluated.multiple

    @property
    def margin(self) -> int:
        return self.evaluated.margin

    @property
    def auxiliary_weight(self) -> float:
        return self.evaluated.auxiliary_weight

    @property
    def label_maps(self) -> Callable[[Any], dict[str, Any]] | None:
        return self.evaluated.label_maps

    def valid_side(self, side: int) -> int:
        return self.evaluated.valid_side(side)

    def features(self, image: Tensor) -> Features:
        return self.evaluated.features(image)

    def decode(self, features: Features) -> Tensor:
        return self.evaluated.decode(features)

    def auxiliary_outputs(self, features: Features) -> dict[str, Tensor]:
        return self.evaluated.auxiliary_outputs(features)

    def criterion(
        self, outputs: Mapping[str, Tensor], label: Tensor, **maps: Tensor
    ) -> dict[str, Tensor]:
        return self.evaluated.criterion(outputs, label, **maps)

    # --- training

    def configure_callbacks(self) -> list[Callback]:
        """None: which weights are averaged is the method's own matter."""
        return []

    def trained_on(self, data: Any) -> Identity:
        method = type(self).__module__.rpartition(".")[2]
        known = super().trained_on(data)
        return replace(known, semi={"method": method}, networks=list(self.networks))

    def losses(self, batch: tuple[Batch, Batch]) -> dict[str, Tensor]:
        """Return the weighted loss terms of (labeled, unlabeled) images."""
        raise TypeError(f"{type(self).__name__} does not say how its losses are computed")

    def own_losses(
        self, network: SegmentationModule, outputs: Mapping[str, Tensor], labeled: Batch
    ) -> dict[str, Tensor]:
        """Return the row's own loss terms of a network's outputs for the labeled images."""
        _, label, *rest = labeled
        maps = {name: self.inside(each) for name, each in rest[0].items()} if rest else {}
        return network.criterion(outputs, self.inside(label), **maps)

    def inner_logits(self, network: SegmentationModule, image: Tensor) -> Strips:
        """Return a network's logits of a training crop, at the crop's size without the margin.

        Like `losses`, and unlike `strips`, it does not mirror the image around a margin.
        """
        if not self.margin:
            return network.strips(image)
        return network.inner_strips(network.normalized(image))

    def after_step(self) -> None:
        for name in self.networks:
            self.get_submodule(name).after_step()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of every network; frozen parameters are in none."""
        groups = []
        for name in self.networks:
            groups += self.get_submodule(name).parameter_groups()
        return groups

    # --- evaluation: other networks beside the first

    def others(self) -> Iterator[tuple[str, SegmentationModule]]:
        for name in self.evaluated_beside:
            yield name, self.get_submodule(name)

    def begin_evaluation(self) -> None:
        super().begin_evaluation()
        for _, network in self.others():
            network.begin_evaluation()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        for _, network in self.others():
            network.validation_step(batch, batch_idx)
        return super().validation_step(batch, batch_idx)

    def keep_scores(self, split: str) -> None:
        super().keep_scores(split)
        others = {name: network.collected_scores() for name, network in self.others()}
        if self.trainer.sanity_checking:
            return
        self.scores["others"] = others
        for name, scores in others.items():
            self.log(f"{split}/{name}_mIoU", scores["miou"])
            self.log(f"{split}/{name}_pixel_accuracy", scores["pixel_accuracy"])

    # --- pictures

    def preview(self, unlabeled: Batch) -> dict[str, Tensor]:
        """Return what the method demands of an unlabeled batch, as columns of a sheet by heading.

        A uint8 (B, 3, H, W) is drawn as images, a bool (B, H, W) as masks, a uint8 (B, H, W) as
        classes and a float (B, H, W) from 0 to 1 in gray; all have the batch's height and width.
        """
        image, *_ = unlabeled
        return {"unlabeled image": self.as_pixels(image)}

    def framed(self, pixels: Tensor, value: float = IGNORED) -> Tensor:
        """Put the margin around (B, H, W) again, filled with one value."""
        return F.pad(pixels, (self.margin,) * 4, value=value)


def check_options(ranges: Mapping[str, tuple[float, float]], **options: float) -> None:
    """Refuse a number outside its range, by its name on the command line."""
    for name, value in options.items():
        least, most = ranges[name]
        if not (least <= value <= most and math.isfinite(value)):
            words = f"from {least} to {most}" if most < math.inf else f"at least {least}"
            raise ValueError(f"semi.{name}={value}; it must be {words}")
