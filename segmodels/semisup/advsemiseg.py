"""AdvSemiSeg: Adversarial Learning for Semi-Supervised Semantic Segmentation
Hung, Tsai, Liou, Lin, Yang. BMVC 2018. arXiv:1802.07934

A second network, the discriminator, distinguishes label maps from predictions, pixel by pixel. The
student learns to deceive it. On images without labels the student also learns from its own classes,
at pixels that the discriminator takes for a label map.

    image ─ student ─ probabilities ─┬─ cross-entropy, and adversarial loss ─── student's optimizer
                                     └─ detached ─┐
    label ─ one-hot ──────────────────────────────┴─ discriminator: label map or not ─── Adam

Departures:
- One step takes the gradients of all terms in one pass backward: the student's adversarial terms
  see the discriminator's weights detached, and the discriminator sees detached predictions. The
  numbers are those of the authors' passes one after the other.
- The label maps that the discriminator sees are those of the step's own labeled images; the authors
  draw another batch of them.
- Padding of an unlabeled crop counts for nothing; in the authors' code it is a pixel like others.
- Adam's rate falls as the recipe says the student's does; the authors give both the same poly
  curve.
- The student's probabilities are enlarged as its row does it; the discriminator's answers with
  aligned corners, as in the authors' code.
- The paper's network is DeepLab v2 with COCO weights; any row can be trained. Its figures are for
  20k steps of 10 crops of 321x321 of PASCAL VOC, with lr 2.5e-4.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Adam, Optimizer

from segmodels.module import Batch
from segmodels.parts.joint_optimizer import JointOptimizer
from segmodels.parts.losses import IGNORED, cross_entropy
from segmodels.parts.resize import compute_dtype
from segmodels.semisup_method import Make, Method, check_options

# --- the discriminator (section 3.2)

STRIDE = 32  # the discriminator has one logit for 32 x 32 pixels


class Discriminator(nn.Sequential):
    """Probabilities or a one-hot label map (B, K, H, W) -> one logit for each 32 x 32 pixels."""

    def __init__(self, num_classes: int) -> None:
        layers: list[nn.Module] = []
        widths = (num_classes, 64, 128, 256, 512)
        for inside, outside in pairwise(widths):
            layers.append(nn.Conv2d(inside, outside, 4, 2, 1))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        super().__init__(*layers, nn.Conv2d(512, 1, 4, 2, 1))


def discriminate(discriminator: nn.Module, maps: Tensor, frozen: bool = False) -> Tensor:
    """Return logits above 0 where maps look like a label map: (B, K, H, W) -> (B, H, W).

    If frozen, the gradient goes through the discriminator and not into its weights.
    """
    if min(maps.shape[-2:]) < STRIDE:
        height, width = maps.shape[-2:]
        raise ValueError(
            f"the discriminator answers once for {STRIDE} x {STRIDE} pixels, and the predictions "
            f"are {height} x {width}; take a larger recipe.crop"
        )
    weights = {
        name: each.detach() if frozen else each for name, each in discriminator.named_parameters()
    }
    small = functional_call(discriminator, weights, (maps,))
    small = small.to(compute_dtype(small))
    return F.interpolate(small, maps.shape[-2:], mode="bilinear", align_corners=True)[:, 0]


def adversarial_loss(logits: Tensor, is_label: bool, shown: Tensor) -> Tensor:
    """Return the binary cross-entropy over the pixels (B, H, W) that show something."""
    target = torch.full_like(logits, float(is_label))
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * shown).sum() / shown.sum().clamp(min=1)


# --- the method (section 3.3)


class AdvSemiSeg(Method):
    """A student, and the discriminator of its predictions."""

    networks = ("student",)

    def __init__(
        self,
        make: Make,
        *,
        labeled: float = 0.01,
        unlabeled: float = 0.001,
        semi: float = 0.1,
        threshold: float = 0.2,
        start: int = 5000,
        discriminator_lr: float = 1e-4,
    ) -> None:
        """`labeled` and `unlabeled` are the weights of the adversarial terms.

        `semi` is the weight of the student's own classes, from step `start` on, at pixels that the
        discriminator takes for a label map with a probability of at least `threshold`.
        """
        check_options(
            RANGES,
            labeled=labeled,
            unlabeled=unlabeled,
            semi=semi,
            threshold=threshold,
            start=start,
            discriminator_lr=discriminator_lr,
        )
        super().__init__(make())
        self.discriminator = Discriminator(self.num_classes)
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.semi = semi
        self.threshold = threshold
        self.start = start
        self.discriminator_lr = discriminator_lr
        self.steps = 0  # of the optimizer

    def losses(self, batch: tuple[Batch, Batch]) -> dict[str, Tensor]:
        """Return the terms of (labeled, unlabeled); unlabeled labels are 255 in padding, else 0."""
        labeled, (more, padding) = batch
        image, label, *_ = labeled
        student = self.student
        shown = self.inside(padding) != IGNORED
        logits = student.logits(student.normalized(more))
        theirs = self.probabilities(logits, shown)
        convinced = discriminate(self.discriminator, theirs, frozen=True)
        terms = {"adversarial_unlabeled": self.unlabeled * adversarial_loss(convinced, True, shown)}
        if self.semi and self.steps >= self.start:
            pseudo_label = self.pseudo_label(theirs, convinced, shown)
            self.watched = {"believed": (pseudo_label != IGNORED).sum() / shown.sum().clamp(min=1)}
            align = student.align_corners
            terms["semi"] = self.semi * cross_entropy(logits, pseudo_label, align_corners=align)

        label = self.inside(label)
        known = label != IGNORED
        outputs = student.outputs(student.normalized(image))
        terms |= self.own_losses(student, outputs, labeled)
        own = self.probabilities(outputs["main"], known)
        taken = discriminate(self.discriminator, own, frozen=True)
        terms["adversarial"] = self.labeled * adversarial_loss(taken, True, known)
        return terms | self.discriminator_losses(own.detach(), theirs.detach(), label, shown)

    def discriminator_losses(
        self, own: Tensor, theirs: Tensor, label: Tensor, shown: Tensor
    ) -> dict[str, Tensor]:
        """Return half of the loss on predictions, and half of the loss on label maps."""
        known = label != IGNORED
        predicted = discriminate(self.discriminator, torch.cat([own, theirs]))
        true = discriminate(self.discriminator, self.one_hot(label).to(own.dtype))
        on_predictions = adversarial_loss(predicted, False, torch.cat([known, shown]))
        return {
            "discriminator_predicted": 0.5 * on_predictions,
            "discriminator_true": 0.5 * adversarial_loss(true, True, known),
        }

    def probabilities(self, logits: Tensor, like: Tensor) -> Tensor:
        """Return probabilities (B, K, H, W) at the size of `like`."""
        return self.student.at_size(logits, tuple(like.shape[1:])).full().softmax(1)

    def one_hot(self, label: Tensor) -> Tensor:
        """Return a one-hot label, all 0 where it is ignored: (B, H, W) -> (B, K, H, W)."""
        known = label != IGNORED
        classes = F.one_hot(label.long().masked_fill(~known, 0), self.num_classes)
        return (classes * known[..., None]).permute(0, 3, 1, 2)  # (B, H, W, K) -> (B, K, H, W)

    def pseudo_label(self, probabilities: Tensor, convinced: Tensor, shown: Tensor) -> Tensor:
        """Return the student's class where the discriminator takes it for a label, else 255."""
        believed = (convinced.detach().sigmoid() >= self.threshold) & shown
        return probabilities.detach().argmax(1).to(torch.uint8).masked_fill_(~believed, IGNORED)

    # --- training

    def optimizer(self) -> Optimizer:
        adam = Adam(self.discriminator.parameters(), lr=self.discriminator_lr, betas=(0.9, 0.99))
        return JointOptimizer(self.student.optimizer(), adam)

    def after_step(self) -> None:
        super().after_step()
        self.steps += 1

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]

    @torch.no_grad()
    def preview(self, unlabeled: Batch) -> dict[str, Tensor]:
        image, padding = unlabeled
        shown = self.inside(padding) != IGNORED
        logits = self.student.logits(self.student.normalized(image))
        theirs = self.probabilities(logits, shown)
        convinced = discriminate(self.discriminator, theirs)
        return super().preview(unlabeled) | {
            "what the student says": self.framed(theirs.argmax(1).to(torch.uint8)),
            "taken for a label (white: 1)": self.framed(convinced.sigmoid(), 0.0),
            "what it is taught": self.framed(self.pseudo_label(theirs, convinced, shown)),
        }


RANGES = {
    "labeled": (0, math.inf),
    "unlabeled": (0, math.inf),
    "semi": (0, math.inf),
    "threshold": (0, 1),
    "start": (0, math.inf),
    "discriminator_lr": (0, math.inf),
}

METHOD = AdvSemiSeg
