"""BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation
Yu, Wang, Peng, Gao, Yu, Sang. ECCV 2018. arXiv:1808.00897

Segmentation needs detail and context, and a fast network can afford both only in separate paths: a
shallow, wide Spatial Path keeps 1/8 of the resolution, a deep, cheap Context Path sees far, and a
Feature Fusion Module lets the sum of both select its own channels.

    image ─┬─ spatial path: 7x7/2, 3x3/2, 3x3/2, 1x1 ────────────────────────── 128 at 1/8 ─┐
           └─ backbone ─┬─ 1/16: ARM ──────────────────(+)─ up x2, 3x3 ─ 128 at 1/8 ────────┴─ FFM ─ head ─ logits at 1/8
                        └─ 1/32: ARM ─(+)─ up x2, 3x3 ──┘ └ auxiliary 2 (1/8)
                             global pooling ┘    └ auxiliary 1 (1/16)

Departures:
- The paper does not state the crop, the number of iterations or how ResNet18 is pretrained; these
  are of the authors' code (768x1536, 80k, ImageNet).
- The spatial path has a fourth, 1x1 convolution and the context path a 3x3 convolution per level,
  as in the authors' code; the paper's figure shows neither.
- Xception39 starts from scratch, as in the authors' code; the paper pretrains it on ImageNet, and
  no such weights were released.
- The paper counts 49.0M parameters for ResNet18 and 5.8M for Xception39; the authors' code has
  13.2M and 1.8M, as here.
- The "_speed" and "_accuracy" rows are the authors' later code line, which differs from the paper:
  OHEM, learning rate 0.01 with 10x outside the backbone (beside Xception39 in the fusion and the
  heads alone), decay 5e-4 sparing norms and biases, one more scale.
- Their sliding evaluation adds up probabilities over windows and scales, multiplies those of an
  image and of its mirror image, and pads an image smaller than a window; here logits are averaged
  over windows, probabilities over scales and mirror images.
- The code of the "_speed" rows is scored on labels of 96x192, an eighth of its input, where a thin
  thing is gone. No inference mode does that: its figures are listed and set beside nothing, and
  these rows are evaluated on whole labels.
- On CamVid and COCO-Stuff the paper's sizes were seen, 720x960 and 640x640, and its figures; not
  its number of steps there, nor which release of COCO-Stuff it takes. The steps are BiSeNetV2's on
  both, a paper by the same authors.
- "small_input" sees what "resnet18" sees, at 2/3 of its size; "thin_channels" has half of
  ResNet18's channels and starts from scratch, since no such weights exist; "no_last_stage" reads
  both levels of the context path at 1/16. These three are ours and nobody published a figure for
  them; of the ablations of ResNet18 none was seen. Those of Xception39 (tables 2 and 3) are here
  too: their full network has 71.40 % there, more than table 6 says of it, under a protocol that was
  not seen.
- Equation 1 is the softmax cross-entropy. Study notes on BiSeNet print it with the exponential of a
  sum where a sum of exponentials belongs.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, PublishedSpeed, Released
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn, conv_bn_relu
from segmodels.parts.pretrained import load_encoder
from segmodels.parts.two_paths import AttentionRefinement, FeatureFusion, SpatialPath, pooled
from segmodels.recipe import Recipe

# --- backbone (section 4.1); ResNet, spatial path, ARM and FFM are parts


class Separable(nn.Sequential):
    """Depthwise 3x3 without norm, then 1x1 with a norm."""

    def __init__(self, inside: int, outside: int, stride: int = 1, relu: bool = True) -> None:
        depthwise = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False)
        pointwise = conv_bn_relu(inside, outside, 1) if relu else conv_bn(inside, outside, 1)
        super().__init__(depthwise, pointwise)


class XceptionBlock(nn.Module):
    """Three separable convolutions around a shortcut; the last one widens by 4."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = Separable(inside, width * 4, stride, relu=False)
        self.residual = nn.Sequential(
            Separable(inside, width, stride),
            Separable(width, width),
            Separable(width, width * 4, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.residual(x))


class Xception39(nn.Module):
    """image -> features at strides 4, 8, 16, 32 (section 4.1: the lightweight Xception)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn_relu(3, width, 3, 2), nn.MaxPool2d(3, 2, 1))
        self.channels = (width, 8 * width, 16 * width, 32 * width)
        stages = []
        inside = width
        for blocks, outside in zip((4, 8, 4), self.channels[1:]):
            again = (XceptionBlock(outside, outside // 4, 1) for _ in range(blocks - 1))
            stages.append(nn.Sequential(XceptionBlock(inside, outside // 4, 2), *again))
            inside = outside
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = [self.stem(image)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features


# --- context path (section 3.2)


class ContextPath(nn.Module):
    """Backbone, ARMs and global pooling: context at strides 16 and 8, and at 4 if it ends there."""

    def __init__(
        self,
        backbone: str = "resnet18",
        arm: bool = True,
        global_pooling: bool = True,
        width: float = 1.0,
        last_stage: bool = True,
        stride: int = 8,
    ) -> None:
        super().__init__()
        if backbone == "resnet18":
            self.backbone = ResNet(18, width=int(64 * width))
        else:
            self.backbone = Xception39(int(8 * width))
        *_, fine, middle, deep = self.backbone.channels
        if not last_stage:
            deep = middle
            drop_last_stage(self.backbone)
        read = (deep, middle) if stride == 8 else (deep, middle, fine)
        self.pooling = conv_bn_relu(deep, 128, 1) if global_pooling else None
        self.arms = nn.ModuleList(AttentionRefinement(inside, arm) for inside in read)
        self.refines = nn.ModuleList(conv_bn_relu(128, 128) for _ in read)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        deep, *finer = reversed(self.backbone(image))
        context = self.arms[0](deep)
        if self.pooling is not None:
            context = context + self.pooling(pooled(deep))
        contexts = [self.refines[0](self.resized(context, finer[0]))]
        for n, own, like in zip(range(1, len(self.arms)), finer, finer[1:]):
            context = self.arms[n](own) + contexts[-1]
            contexts.append(self.refines[n](self.resized(context, like)))
        return tuple(contexts)

    def resized(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)


def drop_last_stage(backbone: nn.Module) -> None:
    """Remove the last stage, so that the features at 1/16 come twice."""
    if isinstance(backbone, Xception39):
        backbone.stages[-1] = nn.Identity()
    else:
        backbone.layer4 = nn.Identity()


def head(inside: int, width: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(inside, width), nn.Conv2d(width, num_classes, 1))


# --- network and losses (sections 3.3, 3.4)


class Paths(NamedTuple):
    """The map for the main head, and the levels of context; auxiliary heads read the first two."""

    fused: Tensor  # (B, 256, H/8, W/8), or 128 channels without the FFM
    contexts: tuple[Tensor, ...]  # (B, 128, H/16, W/16), (B, 128, H/8, W/8), ...


class BiSeNet(SegmentationModule):
    """Spatial Path + Context Path -> FFM -> head at 1/8.

    In training there are two auxiliary heads on the context path.
    """

    align_corners = True

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet18",
        spatial_path: bool = True,
        arm: bool = True,
        ffm: bool = True,
        global_pooling: bool = True,
        auxiliary_weight: float = 1.0,
        auxiliary_width: int = 128,
        label_stride: int = 1,
        backbone_width: float = 1.0,
        last_stage: bool = True,
        context_stride: int = 8,
    ) -> None:
        """ffm=False sums the two paths; label_stride=8 supervises at 1/8, as "_speed" does.

        `backbone_width` scales the backbone's channels, last_stage=False ends it at 1/16.
        context_stride=4 takes the context path to 1/4, which needs spatial_path=False.
        """
        if backbone_width < 1 / 8:
            raise ValueError(
                f"model.backbone_width is {backbone_width}; it must be at least 1/8, "
                "which leaves one of Xception39's first 8 channels"
            )
        if context_stride not in (4, 8) or (context_stride == 4 and spatial_path):
            raise ValueError(
                f"model.context_stride is {context_stride}; it must be 8, or 4 with "
                "model.spatial_path=false, for the spatial path ends at 1/8"
            )
        super().__init__(num_classes)
        self.auxiliary_weight = auxiliary_weight
        self.label_stride = label_stride
        self.spatial_path = SpatialPath() if spatial_path else None
        self.context_path = ContextPath(
            backbone, arm, global_pooling, backbone_width, last_stage, context_stride
        )
        self.fusion = FeatureFusion() if ffm and spatial_path else None
        self.classifier = head(256 if self.fusion is not None else 128, 64, num_classes)
        auxiliaries = 2 if auxiliary_weight else 0
        self.auxiliaries = nn.ModuleList(
            head(128, auxiliary_width, num_classes) for _ in range(auxiliaries)
        )
        self._initialize()

    def _initialize(self) -> None:
        """Initialize as He et al., by fan-in, all but a pretrained backbone, as the authors do."""
        pretrained = set()
        if not isinstance(self.encoder(), Xception39):
            pretrained = set(self.encoder().modules())
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer not in pretrained:
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")

    def encoder(self) -> nn.Module:
        return self.context_path.backbone

    def load_pretrained(self, source: str) -> str:
        """Load a file with torchvision's names for ResNet18, or the authors' for Xception39."""
        rename = xception_weights if isinstance(self.encoder(), Xception39) else None
        return load_encoder(self.encoder(), source, rename=rename)

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Return 1 for both paths beside an Xception39, which starts from scratch.

        The authors' code does so.
        """
        in_paths = name.startswith(("context_path.", "spatial_path."))
        if in_paths and isinstance(self.encoder(), Xception39):
            return 1.0
        return super().lr_scale(name, parameter)

    def fused(self, image: Tensor, context: Tensor) -> Tensor:
        if self.spatial_path is None:
            return context
        spatial = self.spatial_path(image)
        return spatial + context if self.fusion is None else self.fusion(spatial, context)

    def features(self, image: Tensor) -> Paths:
        contexts = self.context_path(image)
        return Paths(self.fused(image, contexts[-1]), contexts)

    def decode(self, features: Paths) -> Tensor:
        return self.classifier(features.fused)

    def auxiliary_outputs(self, features: Paths) -> dict[str, Tensor]:
        heads = zip(self.auxiliaries, features.contexts)
        return {f"auxiliary{n}": head(x) for n, (head, x) in enumerate(heads, start=1)}

    def criterion(
        self, outputs: Mapping[str, Tensor], label: Tensor, **maps: Tensor
    ) -> dict[str, Tensor]:
        """Return equation 2: the principal loss and alpha times each auxiliary one."""
        step = slice(None, None, self.label_stride)
        thinned = {name: each[:, step, step] for name, each in maps.items()}
        return super().criterion(outputs, label[:, step, step], **thinned)


# --- experiments (section 4)

PAPER = Recipe(
    crop=(768, 1536), scales=(0.75, 1.0, 1.5, 1.75, 2.0), batch=16, iterations=80_000, lr=0.025, weight_decay=1e-4,
    schedule="poly", power=0.9, inference="resized:0.75",
)  # fmt: skip
CODE = Recipe(
    crop=(768, 1536), scales=(0.75, 1.0, 1.25, 1.5, 1.75, 2.0), batch=16, iterations=80_000, lr=0.01, head_lr=10.0, weight_decay=5e-4,
    decay_norms=False, schedule="poly", power=0.9,
    loss="torchseg_ohem:0.7,1/16", inference="resized:0.75",
)  # fmt: skip
TABLE = (
    "paper, comparison on Cityscapes, as study notes on BiSeNet and PaddleSeg's PP-LiteSeg quote it"
)
README = "README of the authors' TorchSeg"
CITED = f"{README}, its line of the paper"


def published(
    val: float, test: float | None = None, protocol: str = "resized:0.75", source: str = TABLE
) -> tuple[Published, ...]:
    figures = {"val": val, "test": test}
    return tuple(
        Published(miou, "cityscapes", split, protocol, source)
        for split, miou in figures.items()
        if miou is not None
    )


def speed(
    fps: float, size: tuple[int, int] = (768, 1536), source: str = TABLE
) -> tuple[PublishedSpeed, ...]:
    """Return a speed at 1536x768, the size of the authors' code and of PaddleSeg's table.

    The paper's headline calls the input 2048x1024.
    """
    return (PublishedSpeed(fps, size, "Titan XP", source),)


QUOTED = "as public reading notes quote it"
NOT_STATED = "scales not stated"  # nor sizes


def quoted(
    table: str,
    miou: float,
    data: str = "cityscapes",
    split: str = "val",
    protocol: str = NOT_STATED,
) -> tuple[Published, ...]:
    return (Published(miou, data, split, protocol, f"paper, {table}, {QUOTED}"),)


MAIN = Experiment(
    BiSeNet, PAPER, model={"backbone": "resnet18"}, starts_from="resnet18.tv_in1k", published=published(val=74.8, test=74.7),
    published_speed=speed(65.5),
)  # fmt: skip
XCEPTION39 = MAIN.but(
    model={"backbone": "xception39"}, starts_from=None, published=published(val=69.0, test=68.4) + quoted("table 3", 71.40),
    published_speed=speed(105.8),
)  # fmt: skip

# The authors' code: "_speed" trains and tests at 3/4 of the size and supervises at 1/8, "_accuracy"
# crops 1024 and tests sliding.
EIGHTH = "768x1536, labels at 1/8"  # how its eval.py scores "_speed"
SPEED = Experiment(
    BiSeNet, CODE, model={"backbone": "resnet18", "label_stride": 8},
    starts_from="resnet18.tv_in1k", published=published(val=74.83, protocol=EIGHTH, source=README),
)  # fmt: skip
SLIDING = "slide:1024x1024/854x854"
SCALES_AND_FLIP = f"multiscale:0.5,0.75,1,1.25,1.5,1.75+flip+{SLIDING}"
ONE_SCALE = "one scale (windows not stated)"
SEVERAL = "several scales and flip"


def by_windows(code: tuple[float, float], paper: tuple[float, float]) -> tuple[Published, ...]:
    """Return figures at one scale and at several, of the released checkpoints and of the paper."""
    lines = (
        (README, SLIDING, code[0]),
        (README, SCALES_AND_FLIP, code[1]),
        (CITED, ONE_SCALE, paper[0]),
        (CITED, SEVERAL, paper[1]),
    )
    return tuple(
        Published(miou, "cityscapes", "val", protocol, source) for source, protocol, miou in lines
    )


ACCURACY = SPEED.but(
    recipe={"crop": (1024, 1024), "inference": SLIDING},
    model={"label_stride": 1, "auxiliary_width": 256},
    published=by_windows(code=(76.28, 78.00), paper=(76.21, 78.57)),
)
LONGER = {"iterations": 140_000}  # Xception39 starts from scratch in the authors' code

# Figure 1b: the backbone and its skips alone, up to 1/8 or to 1/4
U_SHAPE = {"spatial_path": False, "arm": False, "global_pooling": False}
FULL_HD = (1080, 1920)
CAMVID = {"crop": (720, 960), "iterations": 10_000, "inference": "whole"}
COCO_STUFF = {"crop": (640, 640), "iterations": 20_000, "inference": "whole"}


def on_camvid(row: Experiment, miou: float) -> Experiment:
    figures = quoted("table 8", miou, "camvid32", "test", "whole")
    return row.but(recipe=CAMVID, data="camvid32", published=figures)


def on_coco_stuff(row: Experiment, miou: float) -> Experiment:
    figures = quoted("table 9", miou, "cocostuff")
    return row.but(recipe=COCO_STUFF, data="cocostuff", published=figures)


EXPERIMENTS = {
    "resnet18": MAIN,
    "xception39": XCEPTION39,
    "resnet18_speed": SPEED,
    "resnet18_accuracy": ACCURACY,
    "xception39_speed": SPEED.but(
        recipe=LONGER | {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)}, model={"backbone": "xception39"}, starts_from="scratch",
        published=published(val=68.51, protocol=EIGHTH, source=README),
    ),
    "xception39_accuracy": ACCURACY.but(
        recipe=LONGER, model={"backbone": "xception39", "auxiliary_width": 128}, starts_from="scratch",
        published=by_windows(code=(70.32, 72.06), paper=(70.1, 72.0)),
    ),
    # ablations (section 4.2), each without one part of MAIN
    "no_spatial_path": MAIN.but(model={"spatial_path": False}),
    "no_arm": MAIN.but(model={"arm": False}),
    "no_ffm": MAIN.but(model={"ffm": False}),
    "no_global_pooling": MAIN.but(model={"global_pooling": False}),
    "no_auxiliary": MAIN.but(model={"auxiliary_weight": 0.0}),
    "half_auxiliary": MAIN.but(model={"auxiliary_weight": 0.5}),
    # three ways of speeding a network up that the paper argues against (section 1): smaller input,
    # thinner channels, last stage dropped
    "small_input": MAIN.but(recipe={"crop": (512, 1024), "scales": (0.5, 2 / 3, 1.0, 7 / 6, 4 / 3), "inference": "resized:0.5"}),
    "thin_channels": MAIN.but(model={"backbone_width": 0.5}, starts_from=None),
    "no_last_stage": MAIN.but(model={"last_stage": False}),
    "u_shape_8": MAIN.but(model=U_SHAPE),
    "u_shape_4": MAIN.but(model=U_SHAPE | {"context_stride": 4}),
    # tables 2 and 3, which are of Xception39
    "xception39_u_shape_8": XCEPTION39.but(
        model=U_SHAPE, published=quoted("table 2", 66.01), published_speed=speed(86.7, FULL_HD, f"paper, table 2, {QUOTED}"),
    ),
    "xception39_u_shape_4": XCEPTION39.but(
        model=U_SHAPE | {"context_stride": 4}, published=quoted("table 2", 66.13),
        published_speed=speed(61.1, FULL_HD, f"paper, table 2, {QUOTED}"),
    ),
    "xception39_sum": XCEPTION39.but(
        model={"arm": False, "global_pooling": False, "ffm": False}, published=quoted("table 3", 66.82)
    ),
    "xception39_ffm": XCEPTION39.but(model={"arm": False, "global_pooling": False}, published=quoted("table 3", 67.42)),
    "xception39_no_arm": XCEPTION39.but(model={"arm": False}, published=quoted("table 3", 68.42)),
    "xception39_no_global_pooling": XCEPTION39.but(model={"global_pooling": False}, published=quoted("table 3", 68.72)),
    # other data
    "resnet18_camvid": on_camvid(MAIN, 68.7),
    "xception39_camvid": on_camvid(XCEPTION39, 65.6),
    "resnet18_cocostuff": on_coco_stuff(MAIN, 28.1),
    "xception39_cocostuff": on_coco_stuff(XCEPTION39, 22.8),
}  # fmt: skip

# --- released weights: the authors' ycszen/TorchSeg; heads.0 and heads.1 are the auxiliary ones

RENAMES = (
    # Xception39's own
    (r"^context_path\.conv1\.(conv|bn)\.", r"context_path.stem.0.\1."),
    (
        r"^context_path\.layer(\d)\.(\d)\.(?=proj|residual)",
        lambda match: f"context_path.stages.{int(match[1]) - 1}.{match[2]}.",
    ),
    (r"\.proj\.", ".shortcut."),
    (r"\.residual_branch\.", ".residual."),
    (r"(shortcut|residual\.\d)\.conv1\.", r"\1.0."),
    (r"\.point_wise_cbr\.", ".1."),
    # the rest
    (r"^(context_path)\.", r"\1.backbone."),
    (r"^spatial_path\.conv_7x7\.", "spatial_path.0."),
    (r"^spatial_path\.conv_3x3_(\d)\.", r"spatial_path.\1."),
    (r"^spatial_path\.conv_1x1\.", "spatial_path.3."),
    (r"^global_context\.1\.", "context_path.pooling."),
    (r"^(arms|refines)\.", r"context_path.\1."),
    (r"\.conv_3x3\.(conv|bn)\.", r".conv.\1."),
    (r"\.channel_attention\.1\.(conv|bn)\.", r".gate.\1."),
    (r"^ffm\.conv_1x1\.", "fusion.conv."),
    (r"^ffm\.gate\.conv\.", "fusion.select.0."),
    (r"^ffm\.channel_attention\.2\.conv\.", "fusion.select.2."),
    (r"^heads\.2\.conv\.", "classifier.0."),
    (r"^heads\.2\.conv_1x1\.", "classifier.1."),
    (r"^heads\.(\d)\.conv\.", r"auxiliaries.\1.0."),
    (r"^heads\.(\d)\.conv_1x1\.", r"auxiliaries.\1.1."),
    (r"\.conv\.conv\.", ".conv.0."),
    (r"\.conv\.bn\.", ".conv.1."),
    (r"\.conv\.(weight|bias)", r".0.\1"),
    (r"\.bn\.", ".1."),
)
RELEASED = {
    f"bisenet_{short}_torchseg": Released(f"bisenet/{row}", "heads.2.conv_1x1.bias", RENAMES)
    for short, row in {
        "r18": "resnet18_accuracy", "r18_speed": "resnet18_speed", "x39": "xception39_accuracy", "x39_speed": "xception39_speed",
    }.items()
}  # fmt: skip


def xception_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an ImageNet classifier from the authors' names to the backbone's."""
    layout = RELEASED["bisenet_x39_torchseg"]
    renamed = layout.renamed({f"context_path.{name}": tensor for name, tensor in state.items()})
    return {name.removeprefix("context_path.backbone."): tensor for name, tensor in renamed.items()}
