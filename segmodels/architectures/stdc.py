"""STDC: Rethinking BiSeNet For Real-time Semantic Segmentation
Fan, Lai, Huang, Wei, Chai, Luo, Wei. CVPR 2021. arXiv:2104.13188

BiSeNet's Spatial Path computes again, at a price, what the backbone has at 1/8. STDC leaves it out:
a head that exists only in training makes stage 3 predict where the label has edges, and so keeps
detail in it. The backbone is new too: each module concatenates four convolutions of growing reach,
halving the channels from one to the next.

    image ─ ConvX, ConvX ─ stage 3 (1/8) ─┬────────────────────────────────────────────── FFM ─ head ─ logits at 1/8
                                  │       └ detail head (training)                         │
                                  ├─ stage 4 (1/16): ARM ───────────(+)─ up, 3x3 ─┬─ 1/8 ──┘
                                  └─ stage 5 (1/32): ARM ─(+)─ up, 3x3 ┤          └ auxiliary8
                                        global pooling ────┘           └ auxiliary16

    label ─ Laplacian at strides 1, 2, 4 ─ > 0.1 ─ up ─ sum of 0.6, 0.3, 0.1 ─ > 0.1 ─ the detail head's label

Departures:
- The paper's 1x1 that fuses the pyramid is trainable. In the authors' code the threshold behind it
  stops its gradient, and 0.1 is not above 0.1: stride 4 never decides, and "detail_1x_2x" is the
  same training as "stdc1". Here the three weights are constants.
- The paper's Dice has squares in its denominator, the authors' code plain sums: the latter here,
  the former in "dice_of_squares".
- The authors' optimizer overlooks the norms of the backbone, which stay as pretrained: here they
  learn at rate 0, but in "trained_norms".
- Ignored pixels count as label 255 in the Laplacian, as in the authors' code; but a batch without
  any label has no detail loss.
- The authors start from their own ImageNet classifiers, which no library holds: `--init FILE` takes
  theirs.
- Images smaller than the crop (scales below 0.5) are padded; the authors' code enlarges them again
  to the crop.
- Seg50 and Seg75 are one training evaluated at two sizes. The authors choose a checkpoint for each
  by its score on val; here there is one.
- Of the ablations no figure was seen; "trained_norms" is ours.
- "stdc1_notes" and "stdc2_notes" are how study notes on STDC trained the authors' code again:
  120,000 steps on one device, whose 16 images a step are the code's for each device. They name the
  steps and the device, not the batch. They time the same networks twice, with the released weights
  (the paper's rows have those frames per second) and with their own: these differ by up to 4 %.
- The paper's cost of the backbones (813M and 1446M, 8.44M and 12.47M parameters) is that of the
  classifiers. Ours have 806M and 1437M multiplications and additions in convolutions and matrix
  products; the same parameters.
- Of CamVid the paper's figures were seen, not its recipe: those rows have PP-LiteSeg's size,
  scales, batch and steps on that data set.
- Heads and context path have in-place ABN in the authors' code, which multiplies by |weight| +
  1e-5: converted when weights are loaded.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, PublishedSpeed, Released
from segmodels.parts.backbones.resnet import initialize
from segmodels.parts.layers import conv_bn, conv_bn_relu
from segmodels.parts.losses import IGNORED
from segmodels.parts.pretrained import load_encoder
from segmodels.parts.resize import compute_dtype
from segmodels.parts.two_paths import AttentionRefinement, FeatureFusion, SpatialPath, pooled
from segmodels.parts.weight_files import State, norms_of_abn
from segmodels.recipe import Recipe

Depth = Literal["stdc1", "stdc2"]

# --- backbone (section 3)

LAYERS = {"stdc1": (2, 2, 2), "stdc2": (4, 5, 3)}  # STDC modules in stages 3, 4, 5


class ShortTermDenseConcatenate(nn.Module):
    """A 1x1 and three 3x3 of N/2, N/4, N/8, N/8 channels, all concatenated.

    A stride follows the first.
    """

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        half = outside // 2
        quarter = outside // 4
        eighth = outside // 8
        self.first = conv_bn_relu(inside, half, 1)
        self.down = conv_bn(half, half, 3, 2, groups=half) if stride == 2 else nn.Identity()
        self.skip = nn.AvgPool2d(3, 2, 1) if stride == 2 else nn.Identity()
        self.rest = nn.ModuleList(
            [
                conv_bn_relu(half, quarter),
                conv_bn_relu(quarter, eighth),
                conv_bn_relu(eighth, eighth),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        x = self.down(first)
        maps = [self.skip(first)]
        for conv in self.rest:
            x = conv(x)
            maps.append(x)
        return torch.cat(maps, 1)


class STDCNet(nn.Module):
    """image -> stages 3, 4, 5 at strides 8, 16, 32, without the ConvX6 of the classifier."""

    channels = (256, 512, 1024)

    def __init__(self, depth: Depth) -> None:
        super().__init__()
        self.depth = depth
        self.stem = nn.Sequential(conv_bn_relu(3, 32, 3, 2), conv_bn_relu(32, 64, 3, 2))
        stages = []
        inside = 64
        for count, width in zip(LAYERS[depth], self.channels):
            rest = (ShortTermDenseConcatenate(width, width, 1) for _ in range(count - 1))
            stages.append(nn.Sequential(ShortTermDenseConcatenate(inside, width, 2), *rest))
            inside = width
        self.stages = nn.ModuleList(stages)
        initialize(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Classifier(nn.Module):
    """The backbone as an ImageNet classifier, with ConvX6 and both FC.

    It has 8.44M parameters in STDC1 and 12.47M in STDC2.
    """

    def __init__(self, depth: Depth, num_classes: int = 1000) -> None:
        super().__init__()
        self.backbone = STDCNet(depth)
        self.conv6 = conv_bn_relu(1024, 1024, 1)
        self.fc = nn.Sequential(
            nn.Linear(1024, 1024, bias=False), nn.ReLU(inplace=True), nn.Dropout(0.2)
        )
        self.classifier = nn.Linear(1024, num_classes, bias=False)
        for layer in (self.fc[0], self.classifier):
            nn.init.normal_(layer.weight, std=0.001)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv6(self.backbone(image)[-1])
        x = x.square()  # only in the authors' code, not in the paper
        return self.classifier(self.fc(x.mean((2, 3))))


# --- context path (section 3): BiSeNet's, with nearest-neighbor upsampling


class ContextPath(nn.Module):
    """Stages 3, 4, 5 -> context at 1/16 and 1/8, 128 channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.pooling = conv_bn_relu(1024, 128, 1)
        self.arms = nn.ModuleList([AttentionRefinement(1024), AttentionRefinement(512)])
        self.refines = nn.ModuleList([conv_bn_relu(128, 128), conv_bn_relu(128, 128)])

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor]:
        stage3, stage4, stage5 = stages
        at_32 = self.arms[0](stage5) + self.pooling(pooled(stage5))
        at_16 = self.refines[0](F.interpolate(at_32, stage4.shape[-2:], mode="nearest"))
        summed = self.arms[1](stage4) + at_16
        at_8 = self.refines[1](F.interpolate(summed, stage3.shape[-2:], mode="nearest"))
        return at_16, at_8


# --- detail guidance (section 3)

SHARES = (0.6, 0.3, 0.1)  # of the strides in the fused pyramid


def detail_label(label: Tensor, strides: tuple[int, ...] = (1, 2, 4)) -> Tensor:
    """Return where a Laplacian of the label numbers is above 0: (B, H, W) -> bool (B, 1, H, W).

    It is the side of an edge with the larger number.
    """
    number = label[:, None].float()
    laplacian = number.new_tensor([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]])[None, None]
    levels = (F.conv2d(number, laplacian, stride=stride, padding=1) > 0.1 for stride in strides)
    pyramid = (F.interpolate(level.float(), label.shape[-2:], mode="nearest") for level in levels)
    return sum(share * level for share, level in zip(SHARES, pyramid)) > 0.1


def dice_loss(p: Tensor, edge: Tensor, form: str) -> Tensor:
    """Return the mean of one ratio per image.

    The denominator sums probabilities, as in the authors' code, or their squares, as in the paper.
    """
    p = p.flatten(1)  # (B, 1, H, W) -> (B, H*W)
    edge = edge.flatten(1)  # the same
    power = {"sums": 1, "squares": 2}[form]
    both = 2 * (p * edge).sum(1) + 1
    return (1 - both / ((p**power).sum(1) + edge.sum(1) + 1)).mean()


# --- network and losses


class Paths(NamedTuple):
    """The maps that the heads read; all but `context_16` are at 1/8."""

    fused: Tensor  # both paths
    context_16: Tensor  # at 1/16
    context_8: Tensor
    stage3: Tensor


class STDC(SegmentationModule):
    """Backbone -> context path; stage 3 + context -> FFM -> head at 1/8.

    In training there are two auxiliary heads and the detail head.
    """

    align_corners = True
    detail_channels = 1

    def __init__(
        self,
        num_classes: int,
        depth: Depth = "stdc1",
        detail_strides: tuple[int, ...] = (1, 2, 4),
        dice: Literal["sums", "squares"] = "sums",
        spatial_path: bool = False,
        train_norms: bool = False,
    ) -> None:
        """detail_strides=() trains without guidance.

        `spatial_path` puts BiSeNet's spatial path in the place of stage 3 before the FFM.
        """
        super().__init__(num_classes)
        if len(detail_strides) > len(SHARES):
            raise ValueError(
                f"detail_strides={detail_strides}; allowed: at most three strides, such as "
                "(1, 2, 4), or () for no guidance"
            )
        self.detail_strides = tuple(detail_strides)
        self.dice = dice
        self.train_norms = train_norms
        self.backbone = STDCNet(depth)
        self.context_path = ContextPath()
        self.spatial_path = SpatialPath() if spatial_path else None
        self.fusion = FeatureFusion(128 + (128 if spatial_path else 256), squeezed=64)
        self.classifier = self.head(256, 256, num_classes)
        self.auxiliaries = nn.ModuleDict(
            {f"auxiliary{stride}": self.head(128, 64, num_classes) for stride in (16, 8)}
        )
        self.detail = self.head(256, 64, self.detail_channels) if self.detail_strides else None
        self._initialize()

    @staticmethod
    def head(inside: int, width: int, outside: int) -> nn.Sequential:
        return nn.Sequential(conv_bn_relu(inside, width), nn.Conv2d(width, outside, 1, bias=False))

    def _initialize(self) -> None:
        """Draw everything outside the backbone with a variance of 1 / fan_in, as the authors."""
        backbone = set(self.backbone.modules())
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer not in backbone:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")

    def encoder(self) -> nn.Module:
        return self.backbone

    def load_pretrained(self, source: str) -> str:
        """Load the authors' ImageNet classifier from their file."""
        rename = partial(backbone_weights, self.backbone.depth)
        return load_encoder(self.encoder(), source, rename=rename)

    def features(self, image: Tensor) -> Paths:
        stages = self.backbone(image)
        context_16, context_8 = self.context_path(stages)
        detail = stages[0] if self.spatial_path is None else self.spatial_path(image)
        return Paths(self.fusion(detail, context_8), context_16, context_8, stages[0])

    def decode(self, features: Paths) -> Tensor:
        return self.classifier(features.fused)

    def auxiliary_outputs(self, features: Paths) -> dict[str, Tensor]:
        outputs = {
            "auxiliary16": self.auxiliaries["auxiliary16"](features.context_16),
            "auxiliary8": self.auxiliaries["auxiliary8"](features.context_8),
        }
        if self.detail is not None:
            outputs["detail"] = self.detail(features.stage3)
        return outputs

    def criterion(self, outputs: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Return all terms, each with weight 1."""
        semantic = {name: logits for name, logits in outputs.items() if name != "detail"}
        terms = super().criterion(semantic, label)
        if "detail" in outputs:
            terms |= self.guidance(outputs["detail"], label)
        return terms

    def guidance(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Return the terms of the detail head, zero if no pixel has a label."""
        some = (label != IGNORED).any()
        terms = self.detail_terms(logits, detail_label(label, self.detail_strides))
        return {name: term * some for name, term in terms.items()}

    def detail_terms(self, logits: Tensor, edge: Tensor) -> dict[str, Tensor]:
        """Return Dice and a binary cross-entropy over all pixels, ignored ones too."""
        logits = F.interpolate(
            logits.to(compute_dtype(logits)), edge.shape[-2:], mode="bilinear", align_corners=True
        )
        edge = edge.to(logits.dtype)
        return {
            "detail_bce": F.binary_cross_entropy_with_logits(logits, edge),
            "detail_dice": dice_loss(logits.sigmoid(), edge, self.dice),
        }

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Return 1 in backbone and context path, head_lr elsewhere, 0 for the backbone's norms."""
        if name.startswith("backbone.") and parameter.ndim == 1 and not self.train_norms:
            return 0.0
        return 1.0 if name.startswith(("backbone.", "context_path.")) else self.recipe.head_lr


# --- experiments (section 4): each is evaluated at 512x1024 (Seg50) and at 768x1536 (Seg75)

RECIPE = Recipe(
    crop=(512, 1024), scales=tuple(eighths / 8 for eighths in range(1, 13)), jitter=0.5, batch=48,
    iterations=60_000, loss="stdc_ohem:0.7,1/16", lr=0.01, head_lr=10.0, weight_decay=5e-4,
    decay_norms=False, schedule="poly", power=0.9,
    warmup=1000, warmup_from=1e-3, warmup_shape="geometric", inference="resized:0.5",
)  # fmt: skip
SIZES = {"resized:0.5": (512, 1024), "resized:0.75": (768, 1536)}  # Seg50, Seg75
README = "README of the authors' STDC-Seg"
CITED = "paper, as PaddleSeg's PP-LiteSeg quotes it"
NOTES = "study notes on STDC"
RETRAINED = f"{NOTES}, their own retraining: 120k iterations, PyTorch 1.7, one V100"
MEASURED = f"{NOTES}, their measurement of the released weights"
GTX = ("GTX 1080Ti", "TensorRT 5.1.5")
V100 = ("V100", "TensorRT 8.5.1.7")


def published(source: str, seg50: float, seg75: float, split: str = "val") -> tuple[Published, ...]:
    return tuple(
        Published(miou, "cityscapes", split, size, source)
        for miou, size in zip((seg50, seg75), SIZES)
    )


def speed(
    source: str, seg50: float, seg75: float, machine: tuple[str, str] = GTX
) -> tuple[PublishedSpeed, ...]:
    device, runtime = machine
    return tuple(
        PublishedSpeed(fps, size, device, source, runtime)
        for fps, size in zip((seg50, seg75), SIZES.values())
    )


MAIN = Experiment(
    STDC, RECIPE, model={"depth": "stdc1"},
    published=published(CITED, 72.2, 74.5) + published(CITED, 71.9, 75.3, "test") + published(README, 72.22, 74.50),
    published_speed=speed(README, 250.4, 126.7) + speed(MEASURED, 156.2, 81.8, V100),
)  # fmt: skip
STDC2 = MAIN.but(
    model={"depth": "stdc2"},
    published=published(CITED, 74.2, 77.0) + published(CITED, 73.4, 76.8, "test") + published(README, 74.24, 77.04),
    published_speed=speed(README, 188.6, 97.0) + speed(MEASURED, 113.3, 68.6, V100),
)  # fmt: skip
ONE_DEVICE = {"batch": 16, "iterations": 120_000}
CAMVID = {
    "crop": (720, 960), "scales": tuple(quarters / 4 for quarters in range(2, 11)), "batch": 24, "iterations": 10_000, "warmup": 200,
    "inference": "whole",
}  # fmt: skip
QUOTED = "paper, as public notes on PP-LiteSeg quote its table of CamVid"


def on_camvid(row: Experiment, miou: float, fps: float) -> Experiment:
    return row.but(
        recipe=CAMVID,
        data="camvid32",
        published=(Published(miou, "camvid32", "test", "whole", QUOTED),),
        published_speed=(PublishedSpeed(fps, (720, 960), "GTX 1080Ti", QUOTED),),
    )


EXPERIMENTS = {
    "stdc1": MAIN,
    "stdc2": STDC2,
    # ablations of detail guidance; the last is of a slip in the authors' optimizer
    "no_detail": MAIN.but(model={"detail_strides": ()}),
    "spatial_path": MAIN.but(model={"detail_strides": (), "spatial_path": True}),
    "detail_1x": MAIN.but(model={"detail_strides": (1,)}),
    "detail_1x_2x": MAIN.but(model={"detail_strides": (1, 2)}),
    "dice_of_squares": MAIN.but(model={"dice": "squares"}),
    "trained_norms": MAIN.but(model={"train_norms": True}),
    # the study notes' own training
    "stdc1_notes": MAIN.but(
        recipe=ONE_DEVICE, published=published(RETRAINED, 70.0, 73.9),
        published_speed=speed(RETRAINED, 153.6, 80.3, V100),
    ),
    "stdc2_notes": STDC2.but(
        recipe=ONE_DEVICE, published=published(RETRAINED, 73.0, 76.1),
        published_speed=speed(RETRAINED, 118.3, 67.3, V100),
    ),
    # other data
    "stdc1_camvid": on_camvid(MAIN, 73.0, 197.6),
    "stdc2_camvid": on_camvid(STDC2, 73.9, 152.2),
}  # fmt: skip

# --- released weights: MichaelFan01/STDC-Seg, networks and the classifiers that they start from


def modules(depth: Depth) -> tuple[tuple[str, Any], ...]:
    """Return the renames of the backbone, whose modules are one list in the authors' code."""
    places = ["stem.0", "stem.1"]
    for stage, count in enumerate(LAYERS[depth]):
        places += [f"stages.{stage}.{each}" for each in range(count)]

    def place(match: re.Match[str]) -> str:
        number = int(match[1])
        return f"backbone.{places[number] if number < len(places) else 'beyond'}."

    return (
        (r"\.conv\.weight", ".0.weight"),
        (r"\.bn\.", ".1."),
        (r"^(?:cp\.backbone\.)?features\.(\d+)\.", place),
        (r"\.conv_list\.0\.", ".first."),
        (r"\.conv_list\.([123])\.", lambda m: f".rest.{int(m[1]) - 1}."),
        (r"\.avd_layer\.", ".down."),
    )


HEADS = (
    (r"^(conv_out\w*)\.conv\.", r"\1.0."),
    (r"^(conv_out\w*)\.conv_out\.", r"\1.1."),
    (r"^conv_out\.", "classifier."),
    # The authors name these heads by the stride before the features are enlarged.
    (r"^conv_out(16|32)\.", lambda m: f"auxiliaries.auxiliary{int(m[1]) // 2}."),
    (r"^conv_out_sp8\.", "detail."),
    (r"^cp\.arm(32|16)\.", lambda m: f"context_path.arms.{m[1] == '16':d}."),
    (r"^cp\.conv_head(32|16)\.", lambda m: f"context_path.refines.{m[1] == '16':d}."),
    (r"^cp\.conv_avg\.", "context_path.pooling."),
    (r"\.conv_atten\.", ".gate.0."),
    (r"\.bn_atten\.", ".gate.1."),
    (r"^ffm\.convblk\.", "fusion.conv."),
    (r"^ffm\.conv([12])\.", lambda m: f"fusion.select.{2 * int(m[1]) - 2}."),
)
FULLY_CONNECTED = ((r"^conv_last\.", "conv6."), (r"^fc\.", "fc.0."), (r"^linear\.", "classifier."))
# the backbone's tensors under second names, the classifier's layers, detail heads on other stages
UNUSED = (
    r"(^|\.)x(2|4|8|16|32)\.",
    r"^(cp\.backbone\.)?bn\.",
    r"^cp\.backbone\.(conv_last|fc|linear)\.",
    r"^conv_out_sp(2|4|16)\.",
)
CLASSIFIERS = {"stdc1": "stdcnet813", "stdc2": "stdcnet1446"}
RELEASED = {
    f"{depth}_seg": Released(
        f"stdc/{depth}",
        "conv_out.conv_out.weight",
        (*modules(depth), *HEADS),
        UNUSED,
        convert=partial(norms_of_abn, but=("backbone.",)),
    )
    for depth in LAYERS
} | {
    name: Released(
        partial(Classifier, depth), "linear.weight", (*modules(depth), *FULLY_CONNECTED), UNUSED
    )
    for depth, name in CLASSIFIERS.items()
}


def backbone_weights(depth: Depth, state: State) -> State:
    """Return the backbone's weights of an ImageNet classifier, under the backbone's names."""
    renamed = RELEASED[CLASSIFIERS[depth]].renamed(state)
    return {name.removeprefix("backbone."): tensor for name, tensor in renamed.items()}
