"""UPerNet: Unified Perceptual Parsing for Scene Understanding
Xiao, Liu, Zhou, Jiang, Sun. ECCV 2018. arXiv:1807.10221

A dilated network keeps its deep maps large, and pays for that in every block. A feature pyramid
gets back to 1/4 without dilation: it adds deep maps to fine ones from the top down. UPerNet gives
its deepest map the surroundings by PSPNet's pooling, and classifies all levels together.

    image -> ResNet ─┬─ 1/32: pyramid pooling ──┬──────────────────────────────────────┐
                     ├─ 1/16: 1x1 ──────(+)─ up ┘ ─┬─ 3x3 ─────────────────────────────┤ up, concatenate,
                     │    └ auxiliary: 3x3, 1x1    │                                   │ 3x3, dropout, 1x1
                     ├─ 1/8:  1x1 ──────(+)──── up ┘ ─┬─ 3x3 ──────────────────────────┤ -> logits at 1/4
                     └─ 1/4:  1x1 ──────(+)─────── up ┘ ─ 3x3 ─────────────────────────┘

Departures:
- The paper reads scenes, objects, parts, materials and textures off one pyramid; here is the part
  that segments, which users of a backbone mean by UPerNet.
- The paper trains on ADE20K. These rows are mmsegmentation's network and its recipe for Cityscapes,
  but colors are not disturbed; its figures stand with its weights.
- The authors' code (CSAILVision/semantic-segmentation-pytorch) trains on whole images with a short
  side of 300 to 600 pixels. Its network has no auxiliary head and no dropout, a stem of 64, 64 and
  128 channels, and enlarges the means of the pooling before their 1x1, not behind it.
- The ablations are those of the paper's table of ADE20K, recalled: the pyramid alone, with pooling,
  with all levels joined, and a finest level of 1/16, 1/8 or 1/4. Without joining, the finest level
  alone is classified. No figure of that table was seen.
- "flow" aligns the terms of the sums by SFNet's module, whose corners are aligned; it is no paper's.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from segmodels.families.dilated import classifier, fcn_head, initialize_heads
from segmodels.module import SegmentationModule
from segmodels.paper import Experiment
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.backbones.timm_encoder import TimmEncoder
from segmodels.parts.flow_alignment import FlowAlignment
from segmodels.parts.layers import conv_bn_relu, resized
from segmodels.parts.pyramid_pooling import PyramidPooling
from segmodels.recipe import Recipe

# --- feature pyramid with pooling (section 3.1)


class FeaturePyramid(nn.Module):
    """Sums from the deepest map to the finest one; all levels are joined at the finest size."""

    def __init__(
        self,
        channels: tuple[int, ...],
        width: int,
        ppm: bool = True,
        fusion: bool = True,
        flow: bool = False,
    ) -> None:
        """fusion=False returns the finest level alone; `flow` aligns the terms of the sums by it."""
        super().__init__()
        *fine, deep = channels
        self.context = conv_bn_relu(deep, width, 1)
        if ppm:
            self.context = PyramidPooling(deep, width, width=width, align_corners=False)
        self.laterals = nn.ModuleList(conv_bn_relu(inside, width, 1) for inside in fine)
        self.flows = nn.ModuleList(FlowAlignment(width) for _ in fine if flow)
        smoothed = len(fine) if fusion else 1
        self.outs = nn.ModuleList(conv_bn_relu(width, width) for _ in range(smoothed))
        self.fusion = conv_bn_relu(len(channels) * width, width) if fusion else None

    def forward(self, features: list[Tensor]) -> Tensor:
        *sums, context = self.top_down(features)
        finest, *others = [out(x) for out, x in zip(self.outs, sums)]
        if self.fusion is None:
            return finest
        maps = [finest, *(resized(x, finest) for x in (*others, context))]
        return self.fusion(torch.cat(maps, 1))  # (B, levels*width, h, w) -> (B, width, h, w)

    def top_down(self, features: list[Tensor]) -> list[Tensor]:
        """Return each level with the coarser ones added to it, finest first."""
        *fine, deep = features
        levels = [self.context(deep)]
        for i in reversed(range(len(fine))):
            side = self.laterals[i](fine[i])
            coarse = self.flows[i](side, levels[0]) if self.flows else resized(levels[0], side)
            levels.insert(0, side + coarse)
        return levels


# --- network

STRIDES = (4, 8, 16)  # of the levels below the deepest one
WIDTH = 512


class UPerNet(SegmentationModule):
    """ResNet -> feature pyramid -> classifier at its finest level; in training a head on stage 3."""

    def __init__(
        self,
        num_classes: int,
        depth: int = 50,
        stride: int = 4,
        ppm: bool = True,
        fusion: bool = True,
        auxiliary_weight: float = 0.4,
        alignment: Literal["bilinear", "flow"] = "bilinear",
        encoder: str | None = None,
    ) -> None:
        """`stride` is that of the finest level, and so of the logits.

        `alignment` is how a coarser level is brought to a finer one. `encoder` is the name of a
        timm network that takes the place of the ResNet.
        """
        super().__init__(num_classes)
        if stride not in STRIDES:
            raise ValueError(f"the finest level of a UPerNet is at 4, 8 or 16, not {stride}")
        self.auxiliary_weight = auxiliary_weight
        self.finest = STRIDES.index(stride)
        self.backbone = TimmEncoder(encoder) if encoder else ResNet(depth, stem=(32, 32, 64))
        self.multiple = self.backbone.multiple if encoder else 1
        channels = self.backbone.channels
        flow = alignment == "flow"
        self.context = FeaturePyramid(channels[self.finest :], WIDTH, ppm, fusion, flow)
        self.classifier = classifier(WIDTH, num_classes)
        self.auxiliary = fcn_head(channels[-2], 256, num_classes) if auxiliary_weight else None
        initialize_heads(self)
        for each in self.context.flows:
            each.initialize()

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> list[Tensor]:
        return self.backbone(image)  # 1/4, 1/8, 1/16, 1/32

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.classifier(self.context(features[self.finest :]))

    def auxiliary_outputs(self, features: list[Tensor]) -> dict[str, Tensor]:
        return {} if self.auxiliary is None else {"auxiliary": self.auxiliary(features[-2])}


# --- experiments

MAIN = Experiment(
    UPerNet,
    Recipe(
        crop=(512, 1024), scales=(0.5, 2.0), continuous=True, cat_max_ratio=0.75, batch=8, iterations=40_000,
        loss="cross_entropy:all", lr=0.01, weight_decay=5e-4, min_lr=1e-4,
    ),
    model={"depth": 50}, starts_from="resnet50c.gluon_in1k",
)  # fmt: skip

EXPERIMENTS = {
    "resnet50": MAIN,
    "resnet101": MAIN.but(model={"depth": 101}, starts_from="resnet101c.gluon_in1k"),
    "no_auxiliary": MAIN.but(model={"auxiliary_weight": 0.0}),  # as in the authors' code
    "fpn": MAIN.but(model={"ppm": False, "fusion": False}),
    "fpn_ppm": MAIN.but(model={"fusion": False}),
    "stride8": MAIN.but(model={"stride": 8}),
    "stride16": MAIN.but(model={"stride": 16}),
    "flow": MAIN.but(model={"alignment": "flow"}),  # SFNet's (arXiv:2002.10120)
}
