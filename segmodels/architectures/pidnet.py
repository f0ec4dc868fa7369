"""PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers
Xu, Xiong, Bhattacharyya. CVPR 2023. arXiv:2206.02066

A network of two branches is a PI controller: where context is added to detail it overshoots, and
thin things drown in what surrounds them. A third branch, the derivative, finds boundaries, and
decides per pixel which of the other two to trust.

    image -> stem 1/4 -> 1/8 ─┬─ P: 1/8 ── Pag ─┬─ 1/8 ── Pag ── 1/8 ────────────────────┐
                              │             ↑   └ auxiliary  ↑                           │
                              ├─ I: 1/16 ───┼──── 1/32 ──────┼── 1/64 ── PAPPM ── up ── Bag ─ head ─ logits at 1/8
                              │             ↓                ↓                           │
                              └─ D: 1/8 ───(+)─── 1/8 ──────(+)─┬─ 1/8 ── sigmoid ───────┘
                                                                └ boundary
Departures:
- The boundary label is made out of the crop, on the device, as the authors make it out of the whole
  image before it is scaled (Canny on label numbers, a frame of 6 pixels left out, dilated by 4x4).
  So the frame is the crop's, boundaries are as wide at every scale, and where an image was padded
  to a crop, its border counts as one.
- Where no pixel is near a boundary (or none is labeled) the authors' code fails; here that term is
  0.
- The paper counts 34.4M parameters and 197.4G operations for M; the authors' code has 28.5M and
  177.3G, as here.
- The authors set the learning rate one step late; here step k runs at the value of k. They pad
  small images with black, as here, but never above them; here they stand anywhere in the crop.
- Of the ablations no figure was seen.
- The authors' ImageNet weights (timm has none) are given as a file; what a classifier has no use
  for (Pag, D branch) may be missing in it.
- The fixed class weights of Cityscapes come with that data set's budget, since they mean nothing on
  other classes.
- Mining keeps at least a share of the pixels: 1/48 is the authors' 131072 of 6 crops of 1024x1024
  on a device.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, PublishedSpeed, Released
from segmodels.parts import class_weights
from segmodels.parts.backbones.resnet import initialize
from segmodels.parts.dual_resolution import (
    AUTHORS,
    DAPPM,
    Block,
    Bottleneck,
    Pyramid,
    head,
    norm_relu_conv,
    pick,
    resized,
    stage,
    stem,
)
from segmodels.parts.layers import conv_bn
from segmodels.parts.losses import IGNORED
from segmodels.parts.pretrained import load_encoder
from segmodels.parts.resize import compute_dtype
from segmodels.recipe import Recipe

# --- boundaries of a label map, computed on its device as OpenCV does


def canny(label: Tensor) -> Tensor:
    """Return OpenCV's Canny on label numbers, (B, H, W) bool.

    Its thresholds are below 1, so that every local maximum of the gradient is an edge.
    """
    x = F.pad(label[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0].int()
    across = x[..., 2:] - x[..., :-2]
    down = x[:, 2:] - x[:, :-2]
    dx = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    dy = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    size = dx.abs() + dy.abs()
    height, width = label.shape[-2:]
    around = F.pad(size, (1, 1, 1, 1))

    def beside(row: int, column: int) -> Tensor:
        return around[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    # the tangents of 22.5 and 67.5 degrees, times 2 ** 15
    horizontal = (dy.abs() << 15) < dx.abs() * 13573
    vertical = (dy.abs() << 15) > dx.abs() * (13573 + (1 << 16))
    falling = (dx ^ dy) < 0
    before = (
        torch.where(falling, beside(-1, 1), beside(-1, -1))
        .where(~horizontal, beside(0, -1))
        .where(~vertical, beside(-1, 0))
    )
    behind = (
        torch.where(falling, beside(1, -1), beside(1, 1))
        .where(~horizontal, beside(0, 1))
        .where(~vertical, beside(1, 0))
    )
    ties = (horizontal | vertical) & (size == behind)
    return (size > before) & ((size > behind) | ties)


def dilated(edges: Tensor) -> Tensor:
    """Dilate by a 4x4 block of ones, whose anchor is its third pixel, as in OpenCV."""
    return F.max_pool2d(F.pad(edges.float(), (2, 1, 2, 1)), 4, 1)


def boundaries(label: Tensor, frame: int = 6) -> Tensor:
    """Return the boundary label (B, H, W) of 0 and 1, without a frame of the crop."""
    edges = canny(label)
    inner = slice(frame, -frame)
    framed = torch.zeros_like(edges)
    framed[:, inner, inner] = edges[:, inner, inner]
    return dilated(framed)


def balanced_bce(logits: Tensor, edges: Tensor) -> Tensor:
    """Return a binary cross-entropy in which edges weigh as much in sum as other pixels.

    It is divided by all pixels of the batch, and 0 if there are no edges.
    """
    # 1 - edges.mean() would lose digits if nearly all pixels are edges
    weight = torch.where(edges > 0, (1 - edges).mean(), edges.mean())
    return F.binary_cross_entropy_with_logits(logits, edges, weight)


# --- blocks


class Pag(nn.Module):
    """Pixel-attention guidance: P takes more from I at pixels where the two are more similar."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_p = conv_bn(channels, channels // 2, 1)
        self.of_i = conv_bn(channels, channels // 2, 1)

    def forward(self, p: Tensor, i: Tensor) -> Tensor:
        similarity = (self.of_p(p) * resized(self.of_i(i), p)).sum(1, keepdim=True).sigmoid()
        return (1 - similarity) * p + similarity * resized(i, p)


class Add(nn.Identity):
    """The sum of P and I, which Pag is compared with."""

    def forward(self, p: Tensor, i: Tensor) -> Tensor:
        return p + resized(i, p)


class PAPPM(Pyramid):
    """Parallel aggregation: the map is added to every scale; one grouped 3x3 for all four."""

    def __init__(self, inside: int, width: int, outside: int) -> None:
        super().__init__(inside, width, outside)
        self.process = norm_relu_conv(4 * width, 4 * width, 3, groups=4)

    def aggregated(self, own: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        return [own, self.process(torch.cat([x + own for x in pooled], 1))]


class Bag(nn.Module):
    """Boundary-attention guidance: detail at boundaries, context elsewhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = norm_relu_conv(channels, channels, 3)

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        edge = d.sigmoid()
        return self.conv(edge * p + (1 - edge) * i)


class LightBag(nn.Module):
    """Boundary-attention guidance with two 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_p = conv_bn(channels, channels, 1)
        self.of_i = conv_bn(channels, channels, 1)

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        edge = d.sigmoid()
        return self.of_p((1 - edge) * i + p) + self.of_i(i + edge * p)


class Sum(nn.Identity):
    """The sum of all three branches, which Bag is compared with."""

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        return p + i + d


LATERALS = {"pag": Pag, "add": Add, "none": None}
CONTEXTS = {"pappm": PAPPM, "dappm": DAPPM}
FUSIONS = {"bag": Bag, "light_bag": LightBag, "add": Sum}


class Exchange(nn.Module):
    """A stage of all three branches, after which I is added to P (by Pag) and to D.

    D has `d` channels.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        high: int,
        blocks: tuple[int, int],
        lateral: str,
        derivative: nn.Module,
        d: int,
    ) -> None:
        super().__init__()
        self.proportional = stage(Block, high, high, blocks[0])
        self.integral = stage(Block, inside, outside, blocks[1], 2)
        self.derivative = derivative
        connection = pick("lateral", lateral, LATERALS)
        self.compression = conv_bn(outside, high, 1) if connection else None
        self.lateral = connection(high) if connection else None
        self.difference = conv_bn(outside, d, 3)

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = self.proportional(F.relu(p))
        i = F.relu(self.integral(i))
        d = self.derivative(F.relu(d))
        if self.lateral is not None:
            p = self.lateral(p, self.compression(i))
        return p, i, d + resized(self.difference(i), d)


# width, blocks of a stage of P and of I, width of the pyramid and of the heads
VARIANTS = {"s": (32, (2, 3), 96, 128), "m": (64, (2, 3), 96, 128), "l": (64, (3, 4), 112, 256)}


class Branches(NamedTuple):
    """The maps that the heads read."""

    proportional: Tensor  # 1/8
    integral: Tensor  # 1/64
    derivative: Tensor  # 1/8
    early: Tensor  # P after its first Pag
    edges: Tensor  # D after its second sum


class ThreeBranches(nn.Module):
    """The backbone: everything before the pyramid. All but D and Pag is pretrained."""

    def __init__(self, variant: str, lateral: str) -> None:
        super().__init__()
        width, blocks, *_ = pick("variant", variant, VARIANTS)
        high = width * 2
        self.stem = stem(width)
        self.layer1 = stage(Block, width, width, blocks[0])
        self.layer2 = stage(Block, width, high, blocks[0], 2)
        if variant == "l":
            thin = high
            derivatives = (stage(Block, high, high, 1), stage(Block, high, high, 1))
        else:
            thin = width
            derivatives = (stage(Block, high, width, 1), stage(Bottleneck, width, width, 1))
        self.third = Exchange(high, width * 4, high, blocks, lateral, derivatives[0], thin)
        self.fourth = Exchange(width * 4, width * 8, high, blocks, lateral, derivatives[1], high)
        self.proportional = stage(Bottleneck, high, high, 1)
        self.integral = stage(Bottleneck, width * 8, width * 8, 2, 2)
        self.derivative = stage(Bottleneck, high, high, 1)

    def forward(self, image: Tensor) -> Branches:
        x = F.relu(self.layer2(F.relu(self.layer1(self.stem(image)))))
        early, i, d = self.third(x, x, x)
        p, i, edges = self.fourth(early, i, d)
        return Branches(
            self.proportional(F.relu(p)),
            self.integral(i),
            self.derivative(F.relu(edges)),
            early,
            edges,
        )


# --- network and losses


class PIDNet(SegmentationModule):
    """Three branches -> pyramid on I -> Bag -> head at 1/8.

    In training there are an auxiliary head on P and a boundary head on D.
    """

    align_corners = True  # of logits and losses alone; inside the network it is False
    multiple = 8

    def __init__(
        self,
        num_classes: int,
        variant: str = "s",
        lateral: str = "pag",
        context_module: str = "pappm",
        fusion: str = "light_bag",
        auxiliary_weight: float = 0.4,
        boundary_weight: float = 20.0,
        boundary_aware_weight: float = 1.0,
    ) -> None:
        """`lateral` is a key of LATERALS, `context_module` of CONTEXTS, `fusion` of FUSIONS."""
        super().__init__(num_classes)
        if boundary_aware_weight and not boundary_weight:
            raise ValueError(
                "boundary_aware_weight needs a boundary head: set it to 0 as well, or "
                "boundary_weight above 0"
            )
        self.auxiliary_weight = auxiliary_weight
        self.boundary_weight = boundary_weight
        self.boundary_aware_weight = boundary_aware_weight
        width, _, pyramid, head_width = pick("variant", variant, VARIANTS)
        self.backbone = ThreeBranches(variant, lateral)
        context = pick("context_module", context_module, CONTEXTS)
        self.context = context(width * 16, pyramid, width * 4)
        self.fusion = pick("fusion", fusion, FUSIONS)(width * 4)
        self.classifier = head(width * 4, head_width, num_classes)
        self.auxiliary = head(width * 2, head_width, num_classes) if auxiliary_weight else None
        self.boundary = head(width * 2, width, 1) if boundary_weight else None
        initialize(self)

    def encoder(self) -> nn.Module:
        return self.backbone

    def load_pretrained(self, source: str) -> str:
        """Load the authors' ImageNet classifier from their file."""
        return load_encoder(
            self.encoder(),
            source,
            rename=backbone_weights,
            may_lack=r"derivative|difference|lateral",
        )

    def features(self, image: Tensor) -> Branches:
        return self.backbone(image)

    def decode(self, features: Branches) -> Tensor:
        p, i, d, *_ = features
        return self.classifier(self.fusion(p, resized(self.context(i), p), d))

    def auxiliary_outputs(self, features: Branches) -> dict[str, Tensor]:
        outputs = {}
        if self.auxiliary is not None:
            outputs["auxiliary"] = self.auxiliary(self.seen(features.early))
        if self.boundary is not None:
            outputs["boundary"] = self.boundary(self.seen(features.edges))
        return outputs

    def seen(self, x: Tensor) -> Tensor:
        """Apply the ReLU that training heads see, which is in place in the authors' code."""
        return F.relu(x)

    def criterion(self, outputs: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Return the paper's l0 (auxiliary), l1 (boundary), l2 (main) and l3 (boundary_aware)."""
        terms = {"main": self.pixel_loss(outputs["main"], label)}
        if "auxiliary" in outputs:
            loss = self.auxiliary_loss(outputs["auxiliary"], label)
            terms["auxiliary"] = self.auxiliary_weight * loss
        if "boundary" in outputs:
            full = self.at_label(outputs["boundary"], label)
            loss = balanced_bce(full, self.edges(label).to(full.dtype))
            terms["boundary"] = self.boundary_weight * loss
            if self.boundary_aware_weight:
                near = label.masked_fill(full.detach().sigmoid() <= 0.8, IGNORED)
                loss = self.pixel_loss(outputs["main"], near)
                terms["boundary_aware"] = self.boundary_aware_weight * loss
        return terms

    def auxiliary_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the auxiliary loss: never mined, and divided by all pixels."""
        return self.pixel_loss(logits, label, "cross_entropy:all")

    def edges(self, label: Tensor) -> Tensor:
        return boundaries(label)

    def at_label(self, boundary: Tensor, label: Tensor) -> Tensor:
        """Enlarge one channel to the label's size: (B, 1, h, w) -> (B, H, W)."""
        boundary = boundary.to(compute_dtype(boundary))
        size = label.shape[-2:]
        return F.interpolate(boundary, size, mode="bilinear", align_corners=True)[:, 0]


# --- experiments

PAPER = Recipe(
    crop=(1024, 1024), scales=tuple(n / 10 for n in range(5, 22)), batch=12, iterations=119_548,
    loss="hrnet_ohem:0.9,1/48", lr=0.01, weight_decay=5e-4, schedule="poly", power=0.9,
    padding="black",
)  # fmt: skip  # 484 epochs of 247 batches
README = "README of the authors' PIDNet"
TRAINVAL = "trained on val too"


def published(val: float, test: float, camvid: float | None = None) -> tuple[Published, ...]:
    figures = [
        Published(val, "cityscapes", "val", "whole", README),
        Published(test, "cityscapes", "test", "whole", f"{README}, {TRAINVAL}"),
    ]
    if camvid is not None:
        alone = (("grouped", False),)  # its labels: see datamodules/camvid32.py
        source = f"{README}, started from its Cityscapes weights, {TRAINVAL}"
        figures.append(Published(camvid, "camvid32", "test", "whole", source, options=alone))
    return tuple(figures)


def speed(cityscapes: float, camvid: float | None = None) -> tuple[PublishedSpeed, ...]:
    """Return figures of the authors' script: the network's own output, without batch norm."""
    figures = {(1024, 2048): cityscapes, (720, 960): camvid}
    return tuple(
        PublishedSpeed(fps, size, "RTX 3090", README, "PyTorch")
        for size, fps in figures.items()
        if fps is not None
    )


MAIN = Experiment(
    PIDNet, PAPER, model={"variant": "s"}, published=published(val=78.8, test=78.6, camvid=80.1), published_speed=speed(93.2, camvid=153.7),
    budgets={"cityscapes": {"class_weights": class_weights.CITYSCAPES}},
)  # fmt: skip
LARGE = {"variant": "l", "context_module": "dappm", "fusion": "bag"}

EXPERIMENTS = {
    "s": MAIN,
    "m": MAIN.but(
        model={"variant": "m"},
        published=published(val=79.9, test=79.8, camvid=82.0),
        published_speed=speed(42.2, camvid=85.6),
    ),
    "l": MAIN.but(
        model=LARGE, published=published(val=80.9, test=80.6), published_speed=speed(31.1)
    ),
    # ablations: the way from I to P, the fusion of the branches, the pyramid, the loss terms
    "lateral_add": MAIN.but(model={"lateral": "add"}),
    "no_lateral": MAIN.but(model={"lateral": "none"}),
    "bag": MAIN.but(model={"fusion": "bag"}),
    "fusion_add": MAIN.but(model={"fusion": "add"}),
    "dappm": MAIN.but(model={"context_module": "dappm"}),
    "no_auxiliary": MAIN.but(model={"auxiliary_weight": 0.0}),
    "no_boundary": MAIN.but(model={"boundary_weight": 0.0, "boundary_aware_weight": 0.0}),
    "no_boundary_aware": MAIN.but(model={"boundary_aware_weight": 0.0}),
    "no_ohem": MAIN.but(recipe={"loss": "cross_entropy"}),
}

# --- released weights: the authors' (XuJiacong/PIDNet); layer3 is I's, layer3_ P's and layer3_d D's


def of_stage(match: re.Match[str]) -> str:
    """Rename layer3_d., compression4., pag3., diff4., layer5_.: a stage and a part of it."""
    part = {"compression": "compression", "pag": "lateral", "diff": "difference"}.get(match[1])
    branch = {None: "integral", "_": "proportional", "_d": "derivative"}[match[3]]
    return "backbone." + {"3": "third.", "4": "fourth.", "5": ""}[match[2]] + f"{part or branch}."


RENAMES = (
    (r"^(layer|compression|pag|diff)([345])(_d|_)?\.", of_stage),
    (r"\.derivative\.(?=conv|bn|downsample)", ".derivative.0."),
    (r"\.f_x\.|\.conv_p\.", ".of_p."),
    (r"\.f_y\.|\.conv_i\.", ".of_i."),
    (r"^spp\.scale_process\.", "context.process."),
    (r"^dfm\.", "fusion."),
    (r"^seghead_p\.", "auxiliary."),
    (r"^seghead_d\.", "boundary."),
    *AUTHORS,
)
LOSS = (r"^(sem_loss|bd_loss|loss)\.",)  # the authors' trainer stores its criteria too
RELEASED = {
    f"pidnet_{name}": Released(f"pidnet/{name}", "final_layer.conv2.bias", RENAMES, LOSS)
    for name in VARIANTS
}


def backbone_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the backbone's weights of an ImageNet classifier, under the backbone's names."""
    renamed = RELEASED["pidnet_s"].renamed(state)
    return {name.removeprefix("backbone."): tensor for name, tensor in renamed.items()}
