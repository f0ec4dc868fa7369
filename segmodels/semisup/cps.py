"""CPS: Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision
Chen, Yuan, Zeng, Wang. CVPR 2021. arXiv:2106.01226

Two networks that differ in their first draw alone; each is taught by the classes that the other one
sees. So they come to say the same of an image, and images without labels get some to learn from.

    image ─┬─ first ──┬─ its own losses, where labeled
           │          ├─ argmax ─────── teaches second: cross-entropy
           └─ second ─┼─ argmax ─────── teaches first: cross-entropy
                      └─ its own losses, where labeled                   (no gradient into argmax)

With CutMix the unlabeled images alone are taught, in pairs: each network sees three boxes of one
image in another one, and has to say what the other network said of both before they were mixed.

Departures:
- `weight` is the authors' of PASCAL VOC without CutMix, whatever is trained. Their code has 1 there
  with CutMix, and on Cityscapes 6 without it and 5 with it.
- Where the label is 255, nothing is asked: not in padding, and in labeled images not where a class
  is missing. The authors' code asks everywhere.
- CutMix shows an image the next one of its batch; the authors' code draws a second batch for it.
- One optimizer steps both networks, which for SGD and Adam is the same as one for each; where a
  recipe clips gradients, it is by the norm of both.
- The second network is scored beside the first; the authors' code evaluates the first alone.
- Where a recipe weighs classes, it does so in labeled images alone; the authors weigh none.
"""

import math

import torch
from torch import Tensor

from segmodels.method import Make, Method, check_options
from segmodels.module import Batch, SegmentationModule
from segmodels.parts.losses import IGNORED, cross_entropy
from segmodels.parts.mixing import boxes, mixed, partners


class CPS(Method):
    """Two networks that teach each other."""

    networks = ("first", "second")
    evaluated_beside = ("second",)

    def __init__(self, make: Make, *, weight: float = 1.5, cutmix: bool = False) -> None:
        check_options({"weight": (0, math.inf)}, weight=weight)
        super().__init__(make(), make())
        if alike(self.first, self.second):
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
            said, classes = self.of_mixed_images(unlabeled)
        else:
            said, classes = self.of_all_images([each["main"] for each in outputs], batch)
        asked = classes[0] != IGNORED
        agreed = (classes[0] == classes[1]) & asked
        self.watched = {"agreed": agreed.sum() / asked.sum().clamp(min=1)}
        for name, logits, other in zip(self.networks, said, reversed(classes)):
            taught = cross_entropy(logits, other, align_corners=self.align_corners)
            terms[f"{name}_cps"] = self.weight * taught
        return terms

    def of_all_images(
        self, labeled: list[Tensor], batch: tuple[Batch, Batch]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Logits (2B, K, h, w) of each network, and the classes (2B, H, W) that it sees; `labeled`
        are the logits of the labeled images."""
        (_, label, *_), (image, padding, *_) = batch
        unasked = torch.cat([self.inside(label), self.inside(padding)]) == IGNORED
        said, classes = [], []
        for network, own in zip(self.pair(), labeled):
            # Passes of their own: labeled and unlabeled images share no statistics
            logits = torch.cat([own, network.logits(self.normalized(image))])
            said.append(logits)
            classes.append(self.classes(network, logits, unasked))
        return said, classes

    def of_mixed_images(self, unlabeled: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Each network's logits of the mixed images, and the mixed classes that it saw before."""
        image, padding, *_ = unlabeled
        mask = self.mask(padding)
        both = self.normalized(mixed(mask, image, partners(image)))
        unasked = self.inside(padding) == IGNORED
        said, classes = [], []
        for network in self.pair():
            with torch.no_grad():
                before = network.logits(self.normalized(image))
            seen = self.classes(network, before, unasked)
            classes.append(mixed(self.inside(mask), seen, partners(seen)))
            said.append(network.logits(both))
        return said, classes

    @torch.no_grad()
    def classes(self, network: SegmentationModule, logits: Tensor, unasked: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, H, W), the best class of each pixel; 255 where nothing is asked."""
        size = tuple(unasked.shape[1:])
        return network.at_size(logits, size).argmax().masked_fill_(unasked, IGNORED)

    def mask(self, padding: Tensor) -> Tensor:
        """True where an image is seen itself: in three boxes, a quarter to half of the area."""
        size = tuple(padding.shape[1:])
        return boxes(len(padding), size, 0.25, 0.5, number=3).to(padding.device)

    # --- pictures

    @torch.no_grad()
    def preview(self, unlabeled: Batch) -> dict[str, Tensor]:
        image, padding, *_ = unlabeled
        columns = super().preview(unlabeled)
        unasked = self.inside(padding) == IGNORED
        classes = []
        for network in self.pair():
            strips = self.inner_logits(network, image)
            classes.append(strips.argmax().masked_fill_(unasked, IGNORED))
        if self.cutmix:
            mask = self.mask(padding)
            columns["both networks see"] = self.as_pixels(mixed(mask, image, partners(image)))
            mask = self.inside(mask)
            classes = [mixed(mask, each, partners(each)) for each in classes]
        first, second = classes
        agreed = (first == second) & (first != IGNORED)
        return columns | {
            "the first teaches": self.framed(first),
            "the second teaches": self.framed(second),
            "they agree (white)": self.framed(agreed, value=False),
        }


def alike(one: SegmentationModule, other: SegmentationModule) -> bool:
    """Whether every parameter is the same in both."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


METHOD = CPS
