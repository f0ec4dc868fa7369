"""UniMatch: Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation
Yang, Qi, Feng, Zhang, Shi. CVPR 2023. arXiv:2208.09910

A network's confident predictions of an image are the labels of strongly changed copies, and of the
image's own features with half of their channels dropped. With `semi.streams=1 semi.dropped=0` it is
FixMatch (Sohn et al. arXiv:2001.07685) as the authors apply it to segmentation.

    labeled ─┬─ one pass ─┬─ labeled ───────────────────── the paper's own losses ──────── x 1/2
    weak ─────┘            ├─ weak ──┬─ sure classes ─┬─ mixed by box 1 ─┐
                           │         └────────────────│─ mixed by box 2 ─│─┐
                           └─ features, half of the channels dropped ─ decode ─ cross-entropy x 1/4
    strong 1, boxes of the next image's strong 1 ─┬─ one pass ─┬─ cross-entropy ─┘ │ ────────── x 1/8
    strong 2, boxes of the next image's strong 2 ─┘            └─ cross-entropy ───┘ ────────── x 1/8
    weak, in evaluation mode, no gradient ─ classes of the next image, for the boxes

Departures:
- The image that a box shows is the next one of the batch; the authors draw a second batch of
  unlabeled images. As there, its classes are predicted in evaluation mode.
- A crop's padding counts for nothing. In the authors' code padded pixels inside a box count as
  padding too; here likewise.
- Hue is turned in RGB around the gray axis instead of in HSV, and brightness, contrast, saturation
  and hue are changed in this order instead of a random one.
- Channels are dropped in all maps that the network's `features` returns, which for most networks
  are more or fewer than the authors' first and last stage; indices of a pooling stay.
- `threshold` is the authors' for PASCAL VOC; for Cityscapes they take 0.
- The networks of the paper are DeepLabV3+ with ImageNet weights; any row can be trained.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from segmodels.module import Batch, Features
from segmodels.parts.image_mixing import mixed, partners, random_box, strong
from segmodels.parts.losses import IGNORED, cross_entropy
from segmodels.semisup_method import Make, Method, check_options


class UniMatch(Method):
    """One network that learns from its own confident predictions."""

    networks = ("student",)

    def __init__(
        self,
        make: Make,
        *,
        threshold: float = 0.95,
        streams: int = 2,
        dropped: float = 0.5,
        color: float = 0.5,
        hue: float = 0.25,
        gray: float = 0.2,
        blur: float = 0.5,
        cutmix: float = 0.5,
    ) -> None:
        """`streams` counts strong copies of an image; `dropped` is a share of the channels.

        `color` and `hue` are strengths; `gray`, `blur` and `cutmix` are chances.
        """
        check_options(
            RANGES,
            threshold=threshold,
            streams=streams,
            dropped=dropped,
            color=color,
            hue=hue,
            gray=gray,
            blur=blur,
            cutmix=cutmix,
        )
        super().__init__(make())
        self.threshold = threshold
        self.streams = streams
        self.dropped = dropped
        self.color = color
        self.hue = hue
        self.gray = gray
        self.blur = blur
        self.cutmix = cutmix
        if cutmix:
            self.min_unlabeled = 2
            self.why_unlabeled = "cutmix shows a part of another image"

    # --- losses

    def losses(self, batch: tuple[Batch, Batch]) -> dict[str, Tensor]:
        """Return the terms of (labeled, unlabeled); unlabeled labels are 255 in padding, else 0."""
        labeled, (unlabeled, padding) = batch
        image = labeled[0]
        student = self.student
        beyond = self.inside(padding) == IGNORED
        beside = self.sure(self.predicted(unlabeled), beyond)
        boxes = [self.boxes(unlabeled, self.cutmix) for _ in range(self.streams)]
        views = [self.strong_view(unlabeled, box) for box in boxes]

        # Labeled and weak images share batch-norm statistics; strong ones have their own.
        both = torch.cat([student.normalized(image), student.normalized(unlabeled)])
        features = student.features(both)
        main, perturbed = self.decoded(features)
        first = slice(0, len(image))
        outputs = {"main": main[first], **student.auxiliary_outputs(part(features, first))}
        supervised = self.own_losses(student, outputs, labeled)
        terms = {name: 0.5 * term for name, term in supervised.items()}

        own = self.sure(main[len(image) :].detach(), beyond)
        self.watched = {"sure": self.share_of_sure(own, beyond)}
        if perturbed is not None:
            terms["features"] = 0.25 * self.distance(perturbed[len(image) :], own, beyond)
        weight = (0.25 if perturbed is not None else 0.5) / self.streams
        strong_logits = student.logits(torch.cat(views)).chunk(self.streams)
        for number, (logits, box) in enumerate(zip(strong_logits, boxes), start=1):
            box = self.inside(box)
            label = mixed(box, partners(beside), own)
            hidden = mixed(box, partners(beyond), beyond)
            terms[f"strong{number}"] = weight * self.distance(logits, label, hidden)
        return terms

    def decoded(self, features: Features) -> tuple[Tensor, Tensor | None]:
        """Return logits, and those of features with dropped channels; both in one pass."""
        if not self.dropped:
            return self.student.decode(features), None
        twice = tree_map(self.with_a_perturbed_copy, features)
        main, perturbed = self.student.decode(twice).chunk(2)
        return main, perturbed

    def with_a_perturbed_copy(self, leaf: Any) -> Any:
        """Append a perturbed copy to a map; indices of a pooling and sizes are not perturbed."""
        if not isinstance(leaf, Tensor):
            return leaf
        copy = F.dropout2d(leaf, self.dropped) if leaf.is_floating_point() else leaf
        return torch.cat([leaf, copy])

    def distance(self, logits: Tensor, label: Tensor, beyond: Tensor) -> Tensor:
        """Return the cross-entropy of the sure pixels, divided by all that show an image."""
        align = self.student.align_corners
        total = cross_entropy(logits, label, align_corners=align, average="all")
        return total * (label.numel() / (~beyond).sum().clamp(min=1))

    # --- inputs and pseudo-labels of the network

    @torch.no_grad()
    def predicted(self, image: Tensor) -> Tensor:
        """Return logits in evaluation mode."""
        student = self.student
        training = student.training
        student.eval()
        logits = student.logits(student.normalized(image))
        student.train(training)
        return logits

    @torch.no_grad()
    def sure(self, logits: Tensor, beyond: Tensor) -> Tensor:
        """Return the class of each pixel, uint8 (B, H, W); 255 if it is not sure or padding."""
        strips = self.student.at_size(logits, tuple(beyond.shape[1:]))
        confidence, label = strips.most_likely()
        return label.masked_fill_((confidence < self.threshold) | beyond, IGNORED)

    def share_of_sure(self, label: Tensor, beyond: Tensor) -> Tensor:
        return (label != IGNORED).sum() / (~beyond).sum().clamp(min=1)

    def strong_view(self, image: Tensor, box: Tensor) -> Tensor:
        """Return normalized images in other colors, with the next image in their boxes."""
        changed = strong(
            image, self.color, hue=self.hue, gray=self.gray, blur=self.blur, widths=(0.1, 2.0)
        )
        return self.student.normalized(mixed(box, partners(changed), changed))

    def boxes(self, image: Tensor, chance: float) -> Tensor:
        """Draw masks (B, H, W), True where an image shows the next one."""
        size = tuple(image.shape[-2:])
        drawn = [random_box(size, chance) for _ in range(len(image))]
        return torch.stack(drawn).to(image.device)

    @torch.no_grad()
    def preview(self, unlabeled: Batch) -> dict[str, Tensor]:
        image, padding = unlabeled
        beyond = self.inside(padding) == IGNORED
        box = self.boxes(image, 1.0 if self.cutmix else 0.0)  # every image with its box
        view = self.strong_view(image, box)
        logits = self.predicted(image)
        label = self.sure(logits, beyond)
        confidence, _ = self.student.at_size(logits, tuple(beyond.shape[1:])).most_likely()
        inner = self.inside(box)
        label = mixed(inner, partners(label), label)
        confidence = mixed(inner, partners(confidence), confidence)
        return super().preview(unlabeled) | {
            "box (white: the next)": box,
            "a strong copy": self.as_pixels(view),
            "what it is asked": self.framed(label),
            "confidence (white: 1)": self.framed(confidence, 0.0),
        }


def part(features: Features, images: slice) -> Features:
    """Return the features of some of the images."""
    return tree_map(lambda leaf: leaf[images] if isinstance(leaf, Tensor) else leaf, features)


RANGES = {
    "threshold": (0, 1),
    "streams": (1, 8),
    "dropped": (0, 0.99),
    "color": (0, 1),
    "hue": (0, 0.5),
    "gray": (0, 1),
    "blur": (0, 1),
    "cutmix": (0, 1),
}

METHOD = UniMatch
