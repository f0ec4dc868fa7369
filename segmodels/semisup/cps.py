"""CPS: Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision
Chen, Yuan, Zeng, Wang. CVPR 2021. arXiv:2106.01226

Two networks differ only in their first random weights, and each learns from the classes that the
other one predicts. So they come to agree on an image, and unlabeled images get labels too.

    image ─┬─ first ──┬─ its own losses, where labeled
           │          ├─ argmax ─────── teaches second: cross-entropy
           └─ second ─┼─ argmax ─────── teaches first: cross-entropy
                      └─ its own losses, where labeled                   (no gradient into argmax)

With CutMix only the unlabeled images are used, in pairs: each network sees three boxes of one image
in another one, and has to predict what the other network predicted of both before the mixing.

Departures:
- `weight` is the authors' of PASCAL VOC without CutMix, whatever is trained. Their code has 1 there
  with CutMix, and on Cityscapes 6 without it and 5 with it.
- Pixels with label 255 have no such loss: neither padding nor unlabeled pixels of labeled images.
  In the authors' code they have.
- CutMix shows an image the next one of its batch; the authors' code draws a second batch for it.
- One optimizer steps both networks, which for SGD and Adam is the same as one for each; where a
  recipe clips gradients, it is by the norm of both.
- The second network is scored beside the first; the authors' code evaluates the first alone.
- Where a recipe weighs classes, it does so in labeled images alone; the authors weigh none.
"""

import math

import torch
from torch import Tensor

from segmodels.module import Batch, SegmentationModule
from segmodels.parts.image_mixing import boxes, mixed, partners
from segmodels.parts.losses import IGNORED, cross_entropy
from segmodels.semisup_method import Make, Method, check_options


class CPS(Method):
    """Two networks that teach each other."""

    networks = ("first", "second")
    evaluated_beside = ("second",)

    def __init__(self, make: Make, *, weight: float = 1.5, cutmix: bool = False) -> None:
        check_options({"weight": (0, math.inf)}, weight=weight)
        super().__init__(make(), make())
        if same_weights(self.first, self.second):
            raise ValueError(
                "two networks that start alike learn nothing from each other: start them from "
                "ImageNet weights or from scratch, so that their heads at least are drawn anew "
                "(--init imagenet, --init scratch)"
            )
        self.weight = weight
        self.cutmix = cutmix
        if cutmix:
            self.min_unlabeled = 2
            self.why_unlabeled = "cutmix mixes images in pairs"

    def pair(self) -> tuple[SegmentationModule, SegmentationModule]:
        return self.first, self.second

    # --- losses

    def losses(self, batch: tuple[Batch, Batch]) -> dict[str, Tensor]:
        labeled, unlabeled = batch
        image = self.normalized(labeled[0])
        outputs = [network.outputs(image) for network in self.pair()]
        terms = {}
        for name, network, own in zip(self.networks, self.pair(), outputs):
            for key, term in self.own_losses(network, own, labeled).items():
                terms[f"{name}_{key}"] = term
        if self.cutmix:
            logits, pseudo_labels = self.of_mixed_images(unlabeled)
        else:
            logits, pseudo_labels = self.of_all_images([each["main"] for each in outputs], batch)
        first, second = pseudo_labels
        valid = first != IGNORED
        agreed = (first == second) & valid
        self.watched = {"agreed": agreed.sum() / valid.sum().clamp(min=1)}
        for name, own, other in zip(self.networks, logits, (second, first)):
            loss = cross_entropy(own, other, align_corners=self.align_corners)
            terms[f"{name}_cps"] = self.weight * loss
        return terms

    def of_all_images(
        self, labeled: list[Tensor], batch: tuple[Batch, Batch]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return each network's logits (2B, K, h, w) and pseudo-labels (2B, H, W) of all images.

        `labeled` holds the logits of the labeled images.
        """
        (_, label, *_), (image, padding, *_) = batch
        ignored = torch.cat([self.inside(label), self.inside(padding)]) == IGNORED
        logits = []
        pseudo_labels = []
        for network, own in zip(self.pair(), labeled):
            # Labeled and unlabeled images are separate passes, so they share no statistics.
            both = torch.cat([own, network.logits(self.normalized(image))])
            logits.append(both)
            pseudo_labels.append(self.pseudo_label(network, both, ignored))
        return logits, pseudo_labels

    def of_mixed_images(self, unlabeled: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Return each network's logits of mixed images, and its mixed pseudo-labels of both."""
        image, padding, *_ = unlabeled
        mask = self.mask(padding)
        both = self.normalized(mixed(mask, image, partners(image)))
        ignored = self.inside(padding) == IGNORED
        logits = []
        pseudo_labels = []
        for network in self.pair():
            with torch.no_grad():
                before = network.logits(self.normalized(image))
            label = self.pseudo_label(network, before, ignored)
            pseudo_labels.append(mixed(self.inside(mask), label, partners(label)))
            logits.append(network.logits(both))
        return logits, pseudo_labels

    @torch.no_grad()
    def pseudo_label(self, network: SegmentationModule, logits: Tensor, ignored: Tensor) -> Tensor:
        """Return the best class of each pixel, 255 if ignored: (B, K, h, w) -> (B, H, W)."""
        size = tuple(ignored.shape[1:])
        return network.at_size(logits, size).argmax().masked_fill_(ignored, IGNORED)

    def mask(self, padding: Tensor) -> Tensor:
        """Draw three boxes, a quarter to half of the area, in which an image shows itself."""
        size = tuple(padding.shape[1:])
        return boxes(len(padding), size, 0.25, 0.5, number=3).to(padding.device)

    # --- pictures

    @torch.no_grad()
    def preview(self, unlabeled: Batch) -> dict[str, Tensor]:
        image, padding, *_ = unlabeled
        columns = super().preview(unlabeled)
        ignored = self.inside(padding) == IGNORED
        labels = []
        for network in self.pair():
            strips = self.inner_logits(network, image)
            labels.append(strips.argmax().masked_fill_(ignored, IGNORED))
        if self.cutmix:
            mask = self.mask(padding)
            columns["both networks see"] = self.as_pixels(mixed(mask, image, partners(image)))
            mask = self.inside(mask)
            labels = [mixed(mask, each, partners(each)) for each in labels]
        first, second = labels
        agreed = (first == second) & (first != IGNORED)
        return columns | {
            "the first teaches": self.framed(first),
            "the second teaches": self.framed(second),
            "they agree (white)": self.framed(agreed, value=False),
        }


def same_weights(one: SegmentationModule, other: SegmentationModule) -> bool:
    """Return whether every parameter is the same in both networks."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


METHOD = CPS
