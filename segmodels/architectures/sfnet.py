"""SFNet: Semantic Flow for Fast and Accurate Scene Parsing
Li, You, Zhu, Zhao, Yang, Yang, Tan, Tong. ECCV 2020. arXiv:2002.10120. SFNet-Lite: IJCV 2023,
arXiv:2207.04415

A feature pyramid adds coarse maps to fine ones after bilinear upsampling, which puts a class where
the coarse grid says, not where the object is. The Flow Alignment Module (FAM) looks at both maps,
predicts for each fine position where in the coarse map to read, and reads there. SFNet-Lite needs
one such step: it warps the coarsest and the finest map at once and gates the two.

    image -> backbone ─┬─ 1/32: PPM ─────────┬────────────────────────────────────────────┐
                       ├─ 1/16: 1x1 ─(+)─ FAM ┘ ─┬─ 3x3 ───────────────────────────────────┤
                       ├─ 1/8:  1x1 ─(+)──── FAM ┘ ─┬─ 3x3 ────────────────────────────────┤ up, concatenate,
                       └─ 1/4:  1x1 ─(+)─────── FAM ┘ ─ 3x3 ───────────────────────────────┴ 3x3, 1x1 -> logits at 1/4
                                      └ each sum has a head of its own in training (FPN supervision)

Departures:
- The ResNets have a stem of three 3x3 convolutions and dilate the second convolution of each block
  of stages 3 and 4 (by 2 and 4) while keeping all strides, as the authors' code does. timm has
  ImageNet weights for such a ResNet50 and ResNet101; those that the authors give for ResNet18, DF1
  and DF2 go into `load_pretrained(file)`.
- The paper mines the 10 % hardest pixels; here, as in the authors' code, those of probability up to
  0.7 and at least 10k or 100k of 2 x 1024 x 1024, as a share, so that the number does not depend on
  how many images a device holds.
- The recipe is that of the paper's first code (donnyyou/torchcv), written for ResNet18, whose
  scales are 0.7 to 2.1 (recalled as 0.75 to 2 of the paper). That code has one more head, on stage
  3 of the backbone, and does not mine the loss of the finest FPN head. The "_code" rows are the
  authors' later scripts (lxtGH/SFSegNets), with FPN supervision for DF1 and DF2 alone and
  class-uniform sampling of half of an epoch; their rate falls once per epoch. There is none for
  ResNet50, and that for DF2 trains DF1: both rows follow the others. Their blur is here, by a
  kernel that OpenCV rounds to steps of 1/256, and so is their hue, in steps of 1/180 of the circle;
  their padding is black as here, but color and blur reach it.
- The paper counts 9.03M and 10.53M parameters for DF1 and DF2; the authors' code has 8.42M and
  17.88M, as here.
- SFNet-Lite's released checkpoint holds a supervision head and a third lateral convolution that no
  code runs: left out.
- No figure was seen of the paper's recipe with ResNet50 and ResNet101, of the scripts' with
  ResNet101, and of the ablations.
- The paper trains on CamVid too; of that neither recipe nor figure was seen, and "resnet18_camvid"
  is the recipe of Cityscapes on whole images, for the steps that others take on that data set.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, PublishedSpeed, Released, unknown
from segmodels.parts.backbones.resnet import BasicBlock, ResNet, initialize
from segmodels.parts.backbones.timm_encoder import TimmEncoder
from segmodels.parts.flow_alignment import FlowAlignment, displaced
from segmodels.parts.layers import conv_bn, conv_bn_relu, resized_with_corners
from segmodels.parts.pyramid_pooling import PyramidPooling
from segmodels.recipe import Recipe

# --- DF1 and DF2 (Li et al., 2019. arXiv:1903.03777): plain residual stages, found by search

# (name, channels, blocks, stride)
STAGES = {
    "df1": (("stage2", 64, 3, 2), ("stage3", 128, 3, 2), ("stage4", 256, 3, 2), ("stage5", 512, 1, 1)),
    "df2": (("stage2_1", 64, 2, 2), ("stage2_2", 128, 1, 1), ("stage3_1", 128, 10, 2), ("stage3_2", 256, 1, 1),
            ("stage4_1", 256, 4, 2), ("stage4_2", 512, 2, 1)),
}  # fmt: skip
RETURNED = {"df1": ("stage3", "stage4", "stage5"), "df2": ("stage2_2", "stage3_2", "stage4_2")}


class DFNet(nn.Module):
    """DF1 or DF2: image -> three feature maps, DF1's at strides 16, 32, 32, DF2's at 8, 16, 32."""

    channels = (128, 256, 512)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.returned = RETURNED[name]
        self.stage1 = nn.Sequential(*conv_bn_relu(3, 32, 3, 2), *conv_bn_relu(32, 64, 3, 2))
        inside = 64
        for stage, width, blocks, stride in STAGES[name]:
            again = (BasicBlock(width, width) for _ in range(blocks - 1))
            self.add_module(stage, nn.Sequential(BasicBlock(inside, width, stride), *again))
            inside = width
        initialize(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = image
        features = {}
        for name, stage in self.named_children():
            x = features[name] = stage(x)
        return [features[name] for name in self.returned]


# --- backbone (section 4.1)


def dilated(backbone: ResNet) -> ResNet:
    """Dilate the second convolution of each block of stages 3 and 4, which keep their strides."""
    for stage, dilation in ((backbone.layer3, 2), (backbone.layer4, 4)):
        for block in stage:
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    return backbone


def backbone_of(name: str) -> DFNet | ResNet:
    """Build DF1, DF2 or a ResNet with a deep stem."""
    if name.startswith("df"):
        return DFNet(name)
    depth = int(name.removeprefix("resnet"))
    return dilated(ResNet(depth, stem=(64, 64, 128)))


# --- blocks (section 3.2)


def pyramid(inside: int, width: int) -> PyramidPooling:
    """Build PSPNet's; its means have no ReLU, and whole channels are dropped behind it."""
    pooling = PyramidPooling(
        inside,
        width,
        kernel=1,
        align_corners=True,
        width=width,
        projection=conv_bn,
        map_first=False,
    )
    pooling.fusion.append(nn.Dropout2d(0.1))
    return pooling


class GatedDualFlowAlignment(FlowAlignment):
    """GD-FAM of SFNet-Lite: both maps are displaced and mixed by a gate.

    The gate reads mean and maximum of the fine map and of the coarse one with half the channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, flows=2)
        self.gate = nn.Conv2d(4, 1, 3, padding=1, bias=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        thin = resized_with_corners(self.coarse(coarse), fine)
        up, down = self.flow(torch.cat([thin, self.fine(fine)], 1)).chunk(2, 1)
        statistics = [
            thin.mean(1, keepdim=True),
            fine.mean(1, keepdim=True),
            thin.amax(1, keepdim=True),
            fine.amax(1, keepdim=True),
        ]
        gate = self.gate(torch.cat(statistics, 1)).sigmoid()
        return displaced(coarse, up) * gate + displaced(fine, down) * (1 - gate)


class Upsampling(nn.Module):
    """Bilinear upsampling or a deconvolution, in place of FAM.

    The deconvolution is a 4x4; the paper does not describe its own.
    """

    def __init__(self, width: int, learned: bool = False) -> None:
        super().__init__()
        self.conv = nn.Identity()
        if learned:
            self.conv = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return resized_with_corners(self.conv(coarse), fine)


ALIGNMENTS = {
    "flow": FlowAlignment,
    "bilinear": Upsampling,
    "deconvolution": partial(Upsampling, learned=True),
}


def lateral(inside: int, width: int, kernel: int = 1) -> nn.Sequential:
    """Stack a convolution with a bias, as in the authors' code, a norm and a ReLU."""
    conv = nn.Conv2d(inside, width, kernel, padding=kernel // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


class Aligned(NamedTuple):
    """The maps that the heads read."""

    fused: Tensor  # for the classifier, at the finest level
    sums: list[Tensor]  # for FPN supervision, finest first


class FlowPyramid(nn.Module):
    """Figure 3a: top-down sums of aligned maps, all brought to the finest size and concatenated."""

    def __init__(self, channels: tuple[int, ...], width: int, alignment: str, ppm: bool) -> None:
        super().__init__()
        *fine, deep = channels
        self.channels = width * len(channels)
        self.context = pyramid(deep, width) if ppm else conv_bn_relu(deep, width, 1)
        self.laterals = nn.ModuleList(lateral(inside, width) for inside in fine)
        self.aligns = nn.ModuleList(ALIGNMENTS[alignment](width) for _ in fine)
        self.outs = nn.ModuleList(conv_bn_relu(width, width) for _ in fine)

    def top_down(self, features: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return (lateral map, coarser map before alignment, sum) of each level, finest first."""
        *fine, deep = features
        levels = []
        summed = self.context(deep)
        for i in reversed(range(len(fine))):
            side = self.laterals[i](fine[i])
            coarse = summed
            summed = side + self.aligns[i](side, coarse)
            levels.insert(0, (side, coarse, summed))
        return levels

    def forward(self, features: list[Tensor]) -> Aligned:
        levels = self.top_down(features)
        sums = [summed for *_, summed in levels]
        _, context, _ = levels[-1]
        finest, *others = [out(x) for out, x in zip(self.outs, sums)]
        maps = [finest, *(resized_with_corners(x, finest) for x in (*others, context))]
        return Aligned(torch.cat(maps, 1), sums)

    def flows(self, features: list[Tensor]) -> dict[str, Tensor]:
        fields = {}
        for n, (side, coarse, _) in enumerate(self.top_down(features)):
            fields[f"fpn{n + 1}"] = self.aligns[n].flows(side, coarse)
        return fields


class DualFlow(nn.Module):
    """SFNet-Lite: the finest and the coarsest map through one GD-FAM, beside the map at 1/16."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.channels = 2 * width
        self.context = pyramid(channels[-1], width)
        self.laterals = nn.ModuleList([lateral(channels[0], width), lateral(channels[-2], width)])
        self.align = GatedDualFlowAlignment(width)

    def forward(self, features: list[Tensor]) -> Aligned:
        fused = self.align(self.laterals[0](features[0]), self.context(features[-1]))
        middle = resized_with_corners(self.laterals[1](features[-2]), fused)
        return Aligned(torch.cat([fused, middle], 1), [])

    def flows(self, features: list[Tensor]) -> dict[str, Tensor]:
        both = self.align.flows(self.laterals[0](features[0]), self.context(features[-1]))
        up, down = both.chunk(2, 1)  # (B, 4, h, w) -> (B, 2, h, w) twice
        return {"coarse": up, "fine": down}


# --- network and losses (section 3.3)

WIDTHS = {"resnet18": 128, "resnet50": 256, "resnet101": 256, "df1": 64, "df2": 64}
ENCODER_WIDTH = 128  # around a timm network, as around ResNet18


class SFNet(SegmentationModule):
    """Backbone -> pyramid aligned by flow -> logits at the finest level.

    In training each level has a head.
    """

    align_corners = True

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet18",
        lite: bool = False,
        alignment: str = "flow",
        ppm: bool = True,
        supervision: float = 1.0,
        encoder: str | None = None,
    ) -> None:
        """`lite` is a network with one GD-FAM and without supervision.

        `supervision` is the weight of each level's loss, 0 for no such heads. `encoder` is the name
        of a timm network that takes the backbone's place.
        """
        super().__init__(num_classes)
        if backbone not in WIDTHS:
            raise ValueError(unknown("backbone", backbone, list(WIDTHS)))
        if alignment not in ALIGNMENTS:
            raise ValueError(unknown("alignment", alignment, list(ALIGNMENTS)))
        width = ENCODER_WIDTH if encoder else WIDTHS[backbone]
        self.auxiliary_weight = supervision
        self.backbone = TimmEncoder(encoder) if encoder else backbone_of(backbone)
        self.multiple = self.backbone.multiple if encoder else 1
        channels = self.backbone.channels
        if lite:
            self.neck = DualFlow(channels, width)
        else:
            self.neck = FlowPyramid(channels, width, alignment, ppm)
        self.classifier = nn.Sequential(
            conv_bn_relu(self.neck.channels, width), nn.Conv2d(width, num_classes, 1)
        )
        supervised = len(channels) - 1 if supervision and not lite else 0
        self.heads = nn.ModuleList(
            nn.Sequential(
                *lateral(width, width, 3), nn.Dropout2d(0.1), nn.Conv2d(width, num_classes, 1)
            )
            for _ in range(supervised)
        )

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> Aligned:
        return self.neck(self.backbone(image))

    def decode(self, features: Aligned) -> Tensor:
        return self.classifier(features.fused)

    def auxiliary_outputs(self, features: Aligned) -> dict[str, Tensor]:
        levels = enumerate(zip(self.heads, features.sums), start=1)
        return {f"fpn{n}": head(x) for n, (head, x) in levels}

    @torch.no_grad()
    def flow_fields(self, image: Tensor) -> dict[str, Tensor]:
        """Return the flow of each level for plotting, (B, 2, h, w) in pixels to the right and down.

        It points from each position to the one that it reads.
        """
        if not any(isinstance(layer, FlowAlignment) for layer in self.neck.modules()):
            raise ValueError(
                "this network aligns its maps without a flow; build it with alignment='flow'"
            )
        fields = self.neck.flows(self.backbone(self.padded(self.normalized(image))))
        in_pixels = {}
        for name, flow in fields.items():
            size = flow.new_tensor(flow.shape[:1:-1]).view(2, 1, 1)  # (width, height)
            in_pixels[name] = flow / size * (size - 1) / 2
        return in_pixels


# --- experiments (section 4)

# Of 2 x 1024 x 1024, one device's batch in the authors' scripts, their losses keep 100k or 10k.
PAPER = Recipe(
    crop=(1024, 1024), scales=(0.7, 2.1), continuous=True, batch=16, iterations=50_000,
    loss="torchseg_ohem:0.7,100000/2097152", lr=0.01, weight_decay=5e-4, power=0.9,
)  # fmt: skip
EPOCH = 186  # iterations: 2975 images on 8 devices, 2 at a time
CODE = {
    "scales": (0.5, 2.0), "jitter": 0.25, "hue": 0.25, "blur": "sigma:0.15,1.3", "class_uniform": 0.5, "padding": "black",
    "iterations": 300 * EPOCH, "weight_decay": 1e-4, "power": 1.0,
}  # fmt: skip
RESNET_CODE = CODE | {"loss": "torchseg_ohem:0.7,10000/2097152"}
PLAIN = {"supervision": 0.0}  # the authors' ResNet scripts
README = "README of the authors' SFSegNets"
ABSTRACT = "paper, abstract; trained on val too, and on what else it does not state"
CITED = "paper, as PaddleSeg's PP-LiteSeg quotes it"


def published(miou: float, split: str, source: str) -> tuple[Published, ...]:
    return (Published(miou, "cityscapes", split, "whole", source),)


def speed(fps: float, source: str, runtime: str = "") -> tuple[PublishedSpeed, ...]:
    return (PublishedSpeed(fps, (1024, 2048), "GTX 1080Ti", source, runtime),)


MAIN = Experiment(
    SFNet, PAPER, model={"backbone": "resnet18"}, published=published(80.4, "test", ABSTRACT),
    published_speed=speed(25.7, "paperswithcode.com's page of the paper", "TensorRT"),
)  # fmt: skip
RESNET50 = MAIN.but(model={"backbone": "resnet50"}, starts_from="resnet50s.gluon_in1k")
RESNET101 = MAIN.but(model={"backbone": "resnet101"}, starts_from="resnet101s.gluon_in1k")
DF1 = MAIN.but(
    model={"backbone": "df1"},
    published=published(74.5, "test", f"{CITED}; trained on val too"),
    published_speed=speed(121, CITED),
)
ISSUE = "paper, as issue 12 of lxtGH/SFSegNets quotes it; trained on val too"
DF2 = MAIN.but(model={"backbone": "df2"}, published=published(77.8, "test", ISSUE))

EXPERIMENTS = {
    "resnet18": MAIN, "resnet50": RESNET50, "resnet101": RESNET101, "df1": DF1, "df2": DF2,
    # the authors' scripts; of their ResNet101 no figure is published
    "resnet18_code": MAIN.but(
        recipe=RESNET_CODE, model=PLAIN, published=published(79.0, "val", README)
    ),
    "resnet50_code": RESNET50.but(
        recipe=RESNET_CODE, model=PLAIN, published=published(80.4, "val", README)
    ),
    "resnet101_code": RESNET101.but(recipe=RESNET_CODE, model=PLAIN),
    "df1_code": DF1.but(recipe=CODE, published=published(72.2, "val", README)),
    "df2_code": DF2.but(recipe=CODE, published=published(75.8, "val", README)),
    "lite_resnet18": MAIN.but(
        recipe=CODE | {"iterations": 1000 * EPOCH}, model={"lite": True, "supervision": 0.0},
        published=published(80.1, "test", "abstract of arXiv:2207.04415, which does not state the training data"),
    ),
    # ablations (section 4.2), each without one part of MAIN
    "bilinear": MAIN.but(model={"alignment": "bilinear"}),
    "deconvolution": MAIN.but(model={"alignment": "deconvolution"}),
    "no_ppm": MAIN.but(model={"ppm": False}),
    "fpn": MAIN.but(model={"alignment": "bilinear", "ppm": False}),
    "no_supervision": MAIN.but(model={"supervision": 0.0}),
    # other data
    "resnet18_camvid": MAIN.but(recipe={"crop": (720, 960), "iterations": 10_000}, data="camvid32"),
}  # fmt: skip

# --- released weights: the authors' (lxtGH/SFSegNets), 19 classes, without FPN supervision

RENAMES = (
    (r"^layer0\.0\.", "backbone.conv1."), (r"^layer0\.1\.", "backbone.bn1."), (r"^layer(\d)\.", r"backbone.layer\1."),
    (r"^head\.conv_last\.", "classifier."), (r"^head\.ppm\.bottleneck\.", "neck.context.fusion."),
    (r"^head\.ppm\.stages\.(\d)\.([12])\.", lambda m: f"neck.context.levels.{m[1]}.1.{int(m[2]) - 1}."),
    (r"^head\.fpn_in\.", "neck.laterals."),
    (r"^head\.fpn_out\.(\d)\.0\.", r"neck.outs.\1."), (r"^head\.fpn_out_align\.", "neck.aligns."),
    (r"^head\.flow_align_module\.", "neck.align."),
    (r"\.down_h\.", ".coarse."), (r"\.down_l\.", ".fine."), (r"\.flow_make\.", ".flow."), (r"\.flow_gate\.0\.", ".gate."),
)  # fmt: skip


def released(row: str, *drops: str) -> Released:
    """Return the layout of a row without its training heads, which not every file has."""
    bare = EXPERIMENTS[row].but(model={"supervision": 0.0}, name=f"sfnet/{row}")

    def network(num_classes: int) -> nn.Module:
        return bare.build(num_classes, str(torch.get_default_device()))

    return Released(
        network, "head.conv_last.1.bias", RENAMES, (r"^head\.dsn\.", *drops), row=f"sfnet/{row}"
    )


RELEASED = {
    "sfnet_r18": released("resnet18_code"), "sfnet_r50": released("resnet50_code"), "sfnet_r101": released("resnet101_code"),
    "sfnet_dfv1": released("df1_code"), "sfnet_dfv2": released("df2_code"),
    "sfnet_lite_r18": released("lite_resnet18", r"^head\.fpn_in\.2\."),
}  # fmt: skip
