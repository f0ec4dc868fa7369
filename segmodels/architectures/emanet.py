"""EMANet: Expectation-Maximization Attention Networks for Semantic Segmentation
Li, Zhong, Wu, Yang, Lin, Liu. ICCV 2019. arXiv:1907.13426

Attention between all pairs of N pixels is costly and, since an image holds few things, redundant.
Here every pixel attends to K << N bases instead, and the bases are found per image by a few steps
of expectation-maximization: pixels are shared out among the bases (E), each base becomes the mean
of its pixels (M), and the pixels are made up again from the bases.

    image -> ResNet, dilated to 1/8 -> 3x3 -> EMA unit -> 3x3, dropout, 1x1 -> logits at 1/8

    EMA unit:  x ─┬─ 1x1 ─ X ─┬─────────────────┐                                                  ┌─ kept for the next images:
                  │           E: Z = softmax(λ X μ')  <─── μ, T times ───>  M: μ = normalized(Z' X) ┘  a moving average of μ
                  │           X~ = Z μ  (N x K times K x C)
                  └────────────────────────────────────────── (+) ─ relu <─ BN, 1x1 <─ relu <─ X~

    E step           z[n, k] = exp(λ x[n].μ[k]) / sum over j of exp(λ x[n].μ[j])
    M step           μ[k]    = sum over n of z[n, k] x[n] / sum over m of z[m, k]
    reconstruction   x~[n]   = sum over k of z[n, k] μ[k]

Departures:
- Equation 6 of the notes that this project comes from is misprinted: a sum is missing. The three
  equations above are written out: a base is a mean over the pixels, so its numerator and its
  denominator are both summed, as in the authors' code. The notes also print their equation 3, of
  the non-local mean, in the place of the E step's and the M step's results, and call the
  reconstruction an update of the bases.
- The M step adds 1e-6 to what it divides by, and so does the l2 norm, as in the authors' code. What
  is kept of the bases is an average of unit vectors and not of unit length itself, as there.
- The E and M steps run outside the gradient in training, as in the authors' code. Hence the first
  1x1 of the unit is never trained: it stays as it was initialized.
- The paper trains for PASCAL VOC, Context and COCO-Stuff; its recipe is taken to Cityscapes as it
  is. The authors' Cityscapes figures name only OHEM; the threshold (0.7) and the share (1/16) are
  common ones, the rest of that recipe is the paper's.
- The notes' table of iterations names neither data set nor network. Of the paper's three data sets
  only VOC's figures are as high, and only val is scored so often; that it is ResNet-50 with 512
  channels, at one scale, is our reading. Of the other ablations no figure stands here.
- The loss is averaged over all pixels, ignored ones too, as in the authors' code: crops with little
  label count for little.
- The rate follows the poly curve at every step; the authors' code moves it every tenth step, the
  last time to zero.
- ImageNet weights are timm's of the same network; the authors' own cannot be fetched by name.
- The authors' evaluation pads images to 8 k + 1 pixels; here they stay as they are.
- The inner-product kernel may be negative, which a share cannot be: here such products count as
  zero.
- The paper's numbers of parameters (4.87M and 10.0M over its ResNet-101) are those of the 3x3 in
  front, the unit and its bases.
"""

from contextlib import nullcontext
from typing import Literal

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.families.common import CommonNet, common
from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, Released
from segmodels.parts.backbones.resnet import ResNet, initialize
from segmodels.parts.layers import conv_bn, conv_bn_relu, with_momentum
from segmodels.recipe import FEW_STEPS, Recipe

Kernel = Literal["exponential", "gaussian", "inner"]
Normalization = Literal["l2", "layer", "none"]
Maintenance = Literal["moving_average", "backpropagation", "fixed"]

# --- expectation-maximization attention (section 4); X (B, C, N), bases (B, C, K), Z (B, N, K)


def expectation(
    x: Tensor, bases: Tensor, kernel: Kernel = "exponential", lambda_: float = 1.0
) -> Tensor:
    """E step: compute the share of each base in each pixel, (B, N, K).

    On bases of one length, "gaussian" and "exponential" are the same.
    """
    products = x.transpose(1, 2) @ bases  # (B, N, C) x (B, C, K) -> (B, N, K)
    if kernel == "inner":
        products = products.relu()
        return products / (products.sum(2, keepdim=True) + 1e-6)
    if kernel == "gaussian":  # |x - mu|^2 / 2 without |x|^2, which is the same for all bases
        products = products - bases.square().sum(1, keepdim=True) / 2
    return (lambda_ * products).softmax(2)


def maximization(x: Tensor, z: Tensor, epsilon: float = 1e-6) -> Tensor:
    """M step: compute each base as the mean of the pixels, weighted by its shares in them."""
    return x @ (z / (z.sum(1, keepdim=True) + epsilon))


def normalized(bases: Tensor, how: Normalization = "l2", epsilon: float = 1e-6) -> Tensor:
    """Normalize bases, since otherwise long bases attract pixels only for their length."""
    if how == "l2":
        return bases / (bases.norm(dim=1, keepdim=True) + epsilon)
    if how == "layer":
        rows = bases.transpose(1, 2)  # (B, C, K) -> (B, K, C)
        return F.layer_norm(rows, bases.shape[1:2]).transpose(1, 2)  # -> (B, C, K)
    return bases


def wishes(x: Tensor, z: Tensor, bases: Tensor) -> dict[str, Tensor]:
    """Measure what the notes wish for in bases: that they are representative, few and dissimilar.

    `representative` is the cosine between a pixel and what the bases make of it, 1 at best.
    `in_use` is the number of bases, of K, among which the pixels are shared out: the exponential of
    the entropy of their mean shares. `dissimilar` is 1 less the mean cosine of two bases.
    """
    again = bases @ z.transpose(1, 2)  # (B, C, K) x (B, K, N) -> (B, C, N)
    shares = z.sum(1) / z.sum((1, 2))[:, None]  # (B, N, K) -> (B, K)
    directions = F.normalize(bases, dim=1)
    cosines = directions.transpose(1, 2) @ directions  # (B, K, C) x (B, C, K) -> (B, K, K)
    k = bases.shape[2]
    others = (cosines.sum((1, 2)) - k) / max(k * (k - 1), 1)  # without each with itself
    return {
        "representative": F.cosine_similarity(x, again).mean(),
        "in_use": torch.special.entr(shares).sum(1).exp().mean(),
        "dissimilar": 1 - others.mean(),
    }


class EMAUnit(nn.Module):
    """1x1, attention to bases from T steps of EM, 1x1, around a shortcut."""

    epsilon = 1e-6

    def __init__(
        self,
        channels: int,
        bases: int = 64,
        train_iterations: int = 3,
        eval_iterations: int = 3,
        lambda_: float = 1.0,
        kernel: Kernel = "exponential",
        normalization: Normalization = "l2",
        maintenance: Maintenance = "moving_average",
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.train_iterations = train_iterations
        self.eval_iterations = eval_iterations
        self.lambda_ = lambda_
        self.kernel = kernel
        self.normalization = normalization
        self.maintenance = maintenance
        self.momentum = momentum
        start = normalized(torch.randn(1, channels, bases) * (2 / bases) ** 0.5)
        if maintenance == "backpropagation":
            self.bases = nn.Parameter(start)
        else:
            self.register_buffer("bases", start)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = conv_bn(channels, channels, 1)
        initialize(self)
        # The sum of the final bases of the images since the last step, and their number. They are no
        # buffers, since DDP would overwrite these with those of rank 0 before every pass.
        self.seen: Tensor | None = None
        self.images = 0

    def attended(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return X (B, C, N), attention maps Z (B, N, K) and bases (B, C, K) of each image."""
        x = self.conv1(x).flatten(2)  # (B, C, H, W) -> (B, C, N)
        bases = self.bases.repeat(x.shape[0], 1, 1)  # (1, C, K) -> (B, C, K)
        without_gradient = self.training and self.maintenance != "backpropagation"
        with torch.no_grad() if without_gradient else nullcontext():
            for _ in range(self.train_iterations if self.training else self.eval_iterations):
                z = expectation(x, bases, self.kernel, self.lambda_)
                means = maximization(x, z, self.epsilon)
                bases = normalized(means, self.normalization, self.epsilon)
        return x, z, bases

    def forward(self, x: Tensor) -> Tensor:
        _, z, bases = self.attended(x)
        if self.training and torch.is_grad_enabled() and self.maintenance == "moving_average":
            total = bases.sum(0, keepdim=True)
            self.seen = total if self.seen is None else self.seen + total
            self.images += len(bases)
        again = (bases @ z.transpose(1, 2)).view(x.shape)  # (B, C, K) x (B, K, N) -> (B, C, H, W)
        return F.relu(x + self.conv2(F.relu(again)))

    @torch.no_grad()
    def keep(self) -> None:
        """Move the bases towards the mean over all images of a step, of all passes and ranks."""
        if self.seen is None:
            return
        images = self.seen.new_full((1,), self.images)
        totals = torch.cat([self.seen.flatten(), images])  # (1, C, K) -> (C*K + 1,)
        self.seen = None
        self.images = 0
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(totals)
        mean = (totals[:-1] / totals[-1]).view_as(self.bases)  # (C*K,) -> (1, C, K)
        # The optimizer skips a step that overflowed in half precision, and so do the bases.
        self.bases.copy_(torch.where(mean.isfinite().all(), self.blended(mean), self.bases))

    def blended(self, mean: Tensor) -> Tensor:
        return self.momentum * self.bases + (1 - self.momentum) * mean


# --- network and losses (sections 4, 5)


class EMANet(SegmentationModule):
    """Dilated ResNet -> 3x3 -> EMA unit -> head at 1/8."""

    align_corners = True
    # This layer only gives bases and attention maps, which are computed without gradient.
    without_gradient = ("unit.conv1.weight", "unit.conv1.bias")

    def __init__(
        self,
        num_classes: int,
        depth: int = 50,
        channels: int = 512,
        bases: int = 64,
        train_iterations: int = 3,
        eval_iterations: int = 3,
        lambda_: float = 1.0,
        kernel: Kernel = "exponential",
        normalization: Normalization = "l2",
        maintenance: Maintenance = "moving_average",
    ) -> None:
        """`channels` and `bases` are the paper's C and K, both numbers of iterations its T."""
        if min(train_iterations, eval_iterations) < 1:
            raise ValueError(
                f"{train_iterations} iterations in training and {eval_iterations} in "
                "evaluation; both must be at least 1"
            )
        super().__init__(num_classes)
        self.backbone = ResNet(depth, output_stride=8, stem=(64, 64, 128), multi_grid=(1, 2, 4))
        self.reduction = conv_bn_relu(self.backbone.channels[-1], channels)
        self.unit = EMAUnit(
            channels,
            bases,
            train_iterations,
            eval_iterations,
            lambda_,
            kernel,
            normalization,
            maintenance,
        )
        self.classifier = nn.Sequential(
            conv_bn_relu(channels, 256), nn.Dropout2d(0.1), nn.Conv2d(256, num_classes, 1)
        )
        if maintenance == "backpropagation":
            self.without_gradient = ()
        with_momentum(self, 3e-4)

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> list[Tensor]:
        return self.backbone(image)  # 1/4, 1/8, 1/8, 1/8

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.classifier(self.unit(self.reduction(features[-1])))

    def attention_maps(self, image: Tensor) -> Tensor:
        """Return Z as K pictures per image, (B, K, h, w): each base's share in each pixel.

        They sum to 1 over K.
        """
        x = self.reduced(image)
        _, z, _ = self.unit.attended(x)
        return z.transpose(1, 2).unflatten(2, x.shape[2:])  # (B, N, K) -> (B, K, h, w)

    def wishes(self, image: Tensor) -> dict[str, float]:
        """Measure how representative, few and dissimilar the bases of these images are."""
        measured = wishes(*self.unit.attended(self.reduced(image)))
        return {name: value.item() for name, value in measured.items()}

    def reduced(self, image: Tensor) -> Tensor:
        """Return the map that the unit sees, of images that may be pixels."""
        return self.reduction(self.backbone(self.padded(self.normalized(image)))[-1])

    def after_step(self) -> None:
        self.unit.keep()

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Double the rate of biases, as in the authors' code."""
        return super().lr_scale(name, parameter) * (2 if name.endswith("bias") else 1)


class Common(CommonNet):
    """The unit in the common network."""

    operator = EMAUnit
    without_gradient = ("context.operator.conv1.weight", "context.operator.conv1.bias")

    def after_step(self) -> None:
        self.context.operator.keep()


# --- experiments (section 5)

PAPER = Recipe(
    crop=(513, 513), scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), batch=16, iterations=30_000,
    loss="cross_entropy:all", lr=0.009, weight_decay=1e-4, decay_norms=False, schedule="poly",
    power=0.9,
)  # fmt: skip
README = "README of the authors' EMANet"
COCO_FIRST = f"{README}, table 2: trained on COCO first and on val too"
NOTES = "paper, as study notes on EMANet quote its table"
GRID = "paper, as study notes on EMANet quote its table of iterations, which names no data set"
SCALES = "several scales"  # which ones is not stated
SCALES_AND_FLIP = "several scales and flip"
NOT_STATED = "scales not stated"  # one, or several


def published(single: float, several: float) -> tuple[Published, ...]:
    source = f"{README}, table 1"
    return (
        Published(single, "voc", "val", "whole", source),
        Published(several, "voc", "val", SCALES_AND_FLIP, source),
    )


def noted(context: float, stuff: float) -> tuple[Published, ...]:
    """Return figures on the table's test sets; of COCO-Stuff, release 10k has one with labels."""
    release = (("release", "10k"),)
    return (
        Published(context, "context", "test", NOT_STATED, NOTES),
        Published(stuff, "cocostuff", "test", NOT_STATED, NOTES, options=release),
    )


MAIN = Experiment(
    EMANet, PAPER, model={"depth": 50, "channels": 512}, starts_from="resnet50s.gluon_in1k",
    published=noted(context=50.5, stuff=37.6), budgets=FEW_STEPS,
)  # fmt: skip
RESNET101 = MAIN.but(
    model={"depth": 101}, starts_from="resnet101s.gluon_in1k",
    published=(
        *published(80.05, 81.32),
        Published(80.99, "voc", "val", "whole", f"{README}, a later checkpoint"),
        Published(87.7, "voc", "test", NOT_STATED, COCO_FIRST),
        *noted(context=53.1, stuff=39.9),
    ),
)  # fmt: skip

# mIoU by iterations in training, for each number of iterations in evaluation from there to 8:
# `run.py --model "emanet/t*"` trains the eight, `evaluate.py RUN --protocols` computes one's line.
ITERATIONS = {
    1: (77.34, 77.52, 77.60, 77.59, 77.59, 77.59, 77.59, 77.59),
    2: (77.75, 78.04, 78.15, 78.15, 78.12, 78.12, 78.17),
    3: (78.52, 78.80, 78.86, 78.88, 78.89, 78.88),
    4: (78.14, 78.25, 78.27, 78.28, 78.27),
    5: (77.70, 77.76, 77.82, 77.86),
    6: (77.85, 77.91, 77.92),
    7: (77.11, 77.14),
    8: (77.24,),
}


def iterations(steps: int) -> Experiment:
    """Return a row of the table of iterations: trained with so many, evaluated with up to 8."""
    figures = []
    for evaluated, miou in enumerate(ITERATIONS[steps], start=steps):
        differing = () if evaluated == steps else (("eval_iterations", evaluated),)
        figures.append(Published(miou, "voc", "val", "whole", GRID, model=differing))
    return MAIN.but(
        model={"train_iterations": steps, "eval_iterations": steps}, published=tuple(figures)
    )


EXPERIMENTS = {
    "resnet50": MAIN,
    "resnet101": RESNET101,
    "resnet50_256": MAIN.but(model={"channels": 256}),
    "resnet101_256": RESNET101.but(model={"channels": 256}, published=published(79.73, 80.94)),
    "resnet152": MAIN.but(
        model={"depth": 152}, starts_from="resnet152s.gluon_in1k",
        published=(Published(88.2, "voc", "test", NOT_STATED, COCO_FIRST),),
    ),
    "resnet101_ohem": RESNET101.but(
        recipe={"loss": "torchseg_ohem:0.7,1/16"},
        published=(
            Published(81.14, "cityscapes", "val", "whole", README), Published(81.9, "cityscapes", "test", SCALES, README),
        ),
    ),
    # ablations: iterations, bases K, lambda, kernels, how the bases are kept and normalized
    **{f"t{steps}": iterations(steps) for steps in ITERATIONS},
    "bases_32": MAIN.but(model={"bases": 32}),
    "bases_128": MAIN.but(model={"bases": 128}),
    "lambda_half": MAIN.but(model={"lambda_": 0.5}),
    "lambda_2": MAIN.but(model={"lambda_": 2.0}),
    # EM of a Gaussian mixture
    "gaussian_kernel": MAIN.but(model={"kernel": "gaussian", "normalization": "none"}),
    "inner_kernel": MAIN.but(model={"kernel": "inner"}),
    "bases_fixed": MAIN.but(model={"maintenance": "fixed"}),
    "bases_trained": MAIN.but(model={"maintenance": "backpropagation"}),
    "layer_norm": MAIN.but(model={"normalization": "layer"}),
    "no_normalization": MAIN.but(model={"normalization": "none"}),
    "common": common(Common),
}  # fmt: skip

# --- released weights: the authors' XiaLiPKU/EMANet, PASCAL VOC's 21 classes

RENAMES = (
    (r"^extractor\.0\.", "backbone.conv1."),
    (r"^extractor\.1\.", "backbone.bn1."),
    (r"^extractor\.(\d)\.", lambda m: f"backbone.layer{int(m[1]) - 3}."),
    (r"^fc0\.conv\.", "reduction.0."),
    (r"^fc0\.bn\.", "reduction.1."),
    (r"^emau\.mu$", "unit.bases"),
    (r"^emau\.", "unit."),
    (r"^fc1\.0\.conv\.", "classifier.0.0."),
    (r"^fc1\.0\.bn\.", "classifier.0.1."),
    (r"^fc2\.", "classifier.2."),
)
RELEASED = {
    "emanet_r50": Released("emanet/resnet50", "fc2.bias", RENAMES, data="voc"),
    "emanet_r101": Released("emanet/resnet101", "fc2.bias", RENAMES, data="voc"),
}
