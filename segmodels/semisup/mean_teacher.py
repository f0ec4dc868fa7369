"""Mean teachers are better role models: Weight-averaged consistency targets improve semi-supervised deep learning results
Tarvainen, Valpola. NeurIPS 2017. arXiv:1703.01780

The teacher is a running average of the student and sees an unlabeled image as it is; the student
sees it perturbed, and has to predict the same. In segmentation the perturbations are a mask that
mixes two images (French et al. arXiv:1906.01916: CutOut, CutMix; Olsson et al. arXiv:2007.07936:
ClassMix; Chen et al. arXiv:2101.10156: ComplexMix) and strong color: small changes teach nothing.

    labeled    ──────────────────────────────── student ── the paper's own losses
    unlabeled ─┬─ mixed by mask ─ color, blur ─ student ──── consistency, at the image's size
                └─ teacher ─ mixed by the same mask ── target ──┘      (no gradient)
                     ^─────── after each step: teacher = decay teacher + (1 - decay) student

    cutout       one box is erased, 0 to 1 of the area; it has no loss
    cutmix       a box of half the area shows the partner image
    classmix     half of the classes that the teacher predicts are pasted over the partner
    complexmix   the same in each cell of a grid

Departures:
- "share" weighs the loss by the share of pixels that the teacher is sure of, one number per batch,
  as in the code of French et al. and Olsson et al.; theirs counts all pixels, here padding is left
  out. The loss is averaged over all pixels, as in both.
- The squared difference is summed over classes, as in the code of French et al.
- The teacher's first steps are a true average (decay 1 - 1 / (step + 1), as in ClassMix's code),
  since it starts as its student.
- The teacher always normalizes with its running statistics, which are averaged as its weights are,
  and drops nothing; French et al. freeze batch norm in both networks (batch_norm="frozen"), which
  makes sense for a pretrained network alone.
- `semi.masks=classmix` keeps French et al.'s other defaults. ClassMix's code takes cross-entropy
  with the teacher's classes, the share above 0.968, and on Cityscapes color of 0.25 (of hue too)
  without gray, on PASCAL VOC neither color nor blur.
- The hue is turned in RGB around the gray axis instead of in HSV. Each image draws its own color,
  blur and mask.
- ComplexMix's code was never published: its grid is the abstract's idea, its size (4 x 4) our
  choice.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from segmodels.module import Batch
from segmodels.parts.image_mixing import boxes, half_of_classes, mixed, partners, strong
from segmodels.parts.layers import keep_statistics
from segmodels.parts.losses import IGNORED
from segmodels.parts.schedules import sigmoid_ramp
from segmodels.semisup_method import Make, Method, check_options

Mask = Literal["none", "cutout", "cutmix", "classmix", "complexmix"]
MIXING = ("cutmix", "classmix", "complexmix")  # masks that show a partner image
BLOCK = 1 << 23  # logits at the image's size that exist at a time


@dataclass(frozen=True)
class Task:
    """The student's input, and the teacher's predictions of it."""

    image: Tensor  # (B, 3, H, W), normalized
    mask: Tensor  # (B, H, W)
    label: Tensor  # (B, H, W), 255 for pixels without a loss
    confidence: Tensor  # (B, H, W)
    probabilities: Callable[[int, int], Tensor]  # rows from top to bottom


class MeanTeacher(Method):
    """A student that learns, and a teacher that follows it.

    The teacher is the network that is evaluated and used; the student is scored beside it.
    """

    networks = ("teacher", "student")
    evaluated_beside = ("student",)

    def __init__(
        self,
        make: Make,
        *,
        masks: Mask = "cutmix",
        consistency: Literal["mse", "cross_entropy"] = "mse",
        weight: float = 1.0,
        ramp_up: int = 0,
        decay: float = 0.99,
        confidence: Literal["share", "pixel", "none"] = "share",
        threshold: float = 0.97,
        color: float = 0.4,
        gray: float = 0.2,
        blur: float = 0.5,
        batch_norm: Literal["all", "labeled", "frozen"] = "all",
        grid: int = 4,
    ) -> None:
        """`ramp_up` counts steps until the full weight; `color` is a strength.

        `confidence` weighs a pixel by the share of sure ones, by whether it is sure itself, or not
        at all. `gray` and `blur` are chances. `batch_norm` selects the images that move the
        student's running statistics.
        """
        check_options(
            RANGES,
            weight=weight,
            decay=decay,
            threshold=threshold,
            color=color,
            gray=gray,
            blur=blur,
            ramp_up=ramp_up,
            grid=grid,
        )
        student = make()
        teacher = make().requires_grad_(False)
        teacher.load_state_dict(student.state_dict())
        super().__init__(teacher, student)
        self.masks = masks
        self.grid = grid
        self.consistency = consistency
        self.weight = weight
        self.ramp_up = ramp_up
        self.decay = decay
        self.confidence = confidence
        self.threshold = threshold
        self.color = color
        self.gray = gray
        self.blur = blur
        self.batch_norm = batch_norm
        self.steps = 0  # of the optimizer
        if masks in MIXING:
            self.min_unlabeled = 2
            self.why_unlabeled = f"{masks} mixes images in pairs"

    # --- the networks

    def train(self, mode: bool = True) -> "MeanTeacher":
        super().train(mode)
        self.teacher.eval()
        if self.batch_norm == "frozen":
            keep_statistics(self.student)
        return self

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the teacher's weights and statistics towards the student's; copy counters."""
        self.student.after_step()
        pace = 1 - min(1 - 1 / (self.steps + 1), self.decay)
        self.steps += 1
        own = list(self.teacher.state_dict().values())
        theirs = list(self.student.state_dict().values())
        moving = [index for index, tensor in enumerate(own) if tensor.is_floating_point()]
        teachers = [own[index] for index in moving]
        students = [theirs[index] for index in moving]
        torch._foreach_lerp_(teachers, students, pace)
        for index in set(range(len(own))) - set(moving):
            own[index].copy_(theirs[index])

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]

    # --- losses

    def losses(self, batch: tuple[Batch, Batch]) -> dict[str, Tensor]:
        labeled, unlabeled = batch
        terms = self.student.losses(labeled)
        task = self.task(unlabeled)
        shown = task.label != IGNORED
        sure = (task.confidence >= self.threshold) & shown
        self.watched = {"sure": sure.sum() / shown.sum().clamp(min=1)}
        loss = self.distance(task, sure if self.confidence == "pixel" else shown)
        if self.confidence == "share":
            loss = loss * self.watched["sure"]
        ramp = sigmoid_ramp(self.ramp_up)(self.steps)
        return terms | {"consistency": self.weight * ramp * loss}

    @torch.no_grad()
    def task(self, unlabeled: Batch) -> Task:
        """Let the teacher predict the images, and perturb them for the student.

        The margin of a network that has one gets no label.
        """
        image, padding = unlabeled
        seen = self.teacher.strips(image)
        best = [seen.probabilities(top, bottom).max(1) for top, bottom in self.blocks(padding)]
        confidence = torch.cat([values for values, _ in best], 1)
        label = torch.cat([classes for _, classes in best], 1).to(torch.uint8)
        mask = self.mask(label.masked_fill(padding == IGNORED, IGNORED))
        label.masked_fill_(self.framed(self.inside(padding)) == IGNORED, IGNORED)
        if self.masks not in MIXING:
            image = self.student.normalized(self.perturbed(image)) * mask[:, None]
            label = label.masked_fill(~mask, IGNORED)
            return Task(image, mask, label, confidence, seen.probabilities)

        def mix(own: Tensor) -> Tensor:
            return mixed(mask, own, partners(own))

        def probabilities(top: int, bottom: int) -> Tensor:
            rows = seen.probabilities(top, bottom)
            return mixed(mask[:, top:bottom], rows, partners(rows))

        image = self.student.normalized(self.perturbed(mix(image)))
        return Task(image, mask, mix(label), mix(confidence), probabilities)

    @torch.no_grad()
    def preview(self, unlabeled: Batch) -> dict[str, Tensor]:
        task = self.task(unlabeled)
        return super().preview(unlabeled) | {
            "mask (white: itself)": task.mask,
            "what the student sees": self.as_pixels(task.image),
            "what the teacher says": task.label,
            "confidence (white: 1)": task.confidence.masked_fill(task.label == IGNORED, 0.0),
        }

    def mask(self, label: Tensor) -> Tensor:
        """Draw masks, for some kinds by the teacher's classes; see parts/image_mixing.py."""
        size = tuple(label.shape[1:])
        if self.masks in ("classmix", "complexmix"):
            return half_of_classes(label, self.grid if self.masks == "complexmix" else 1)
        share = {"none": (0.0, 0.0), "cutout": (0.0, 1.0), "cutmix": (0.5, 0.5)}[self.masks]
        return ~boxes(len(label), size, *share).to(label.device)

    def perturbed(self, image: Tensor) -> Tensor:
        return strong(image, self.color, gray=self.gray, blur=self.blur)

    def distance(self, task: Task, counted: Tensor) -> Tensor:
        """Return the mean over all pixels inside the margin; those not counted add zero.

        Logits at the image's size exist a block of rows at a time.
        """
        margin = self.margin
        counted = self.inside(counted)
        classes = self.inside(task.label)
        with self.statistics_kept():
            strips = self.inner_logits(self.student, task.image)

        def block(top: int, bottom: int) -> Tensor:
            logits = strips.rows(top, bottom)
            here = counted[:, top:bottom]
            if self.consistency == "cross_entropy":
                label = classes[:, top:bottom].masked_fill(~here, IGNORED).long()
                return F.cross_entropy(logits, label, ignore_index=IGNORED, reduction="sum")
            target = task.probabilities(margin + top, margin + bottom)
            target = target[..., margin : target.shape[-1] - margin]
            return ((logits.softmax(1) - target).square().sum(1) * here).sum()

        sums = []
        for top, bottom in self.blocks(counted):
            loss = checkpoint(block, top, bottom, use_reentrant=False, preserve_rng_state=False)
            sums.append(loss)
        return torch.stack(sums).sum() / classes.numel()

    def blocks(self, pixels: Tensor) -> list[tuple[int, int]]:
        """Divide maps (B, H, W) into blocks of rows, given by top and bottom."""
        batch, height, width = pixels.shape
        step = max(16, BLOCK // (batch * width * self.num_classes))
        return [(top, min(top + step, height)) for top in range(0, height, step)]

    @contextmanager
    def statistics_kept(self) -> Iterator[None]:
        """Keep the student's running statistics, if unlabeled images may not move them."""
        layers = []
        if self.batch_norm == "labeled":
            layers = [each for each in self.student.modules() if isinstance(each, _BatchNorm)]
        paces = [layer.momentum for layer in layers]
        for layer in layers:
            layer.momentum = 0.0
        try:
            yield
        finally:
            for layer, pace in zip(layers, paces):
                layer.momentum = pace


RANGES = {
    "weight": (0, math.inf),
    "decay": (0, 1),
    "threshold": (0, 1),
    "color": (0, 1),
    "gray": (0, 1),
    "blur": (0, 1),
    "ramp_up": (0, math.inf),
    "grid": (1, 64),
}


METHOD = MeanTeacher
