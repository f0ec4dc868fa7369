"""DeepLab v2: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs
Chen, Papandreou, Kokkinos, Murphy, Yuille. IEEE TPAMI 2018. arXiv:1606.00915

A convolution with holes sees further at no cost, and how far is one number, its rate. Atrous
spatial pyramid pooling takes four rates side by side, straight to the scores of the classes, and
adds them up: each pixel is judged with little and with much of its surroundings. The same network
looks at the image at three scales, and for each class the most confident one is believed. A dense
CRF then finds the borders, as an inference mode (`crf:10`).

    image ─┬───────── ResNet-101 or VGG16, dilated to 1/8 ─┬─ 3x3, rate  6 ─┐
           │                                               ├─ 3x3, rate 12 ─┤
           │                                               ├─ 3x3, rate 18 ─┼─ scores ────────┐
           │                                               └─ 3x3, rate 24 ─┘                 │
           ├─ 0.75 ── the same network ──────────────────────────────────────── scores ─ up ─ max ─ logits at 1/8
           └─ 0.5 ─── the same network ──────────────────────────────────────── scores ─ up ──┘

Departures:
- Where the paper is silent, the authors' Caffe files decide, as copies of them show them: all
  resizing aligns corners, the scores of scale 0.5 are compared with labels at 1/16 and all others
  with labels at 1/8, four losses weigh the same, and biases learn at twice the rate and do not
  decay.
- ImageNet weights are torchvision's, and images are normalized as these want. The authors' ResNet
  has its strides in the first 1x1 of a block, torchvision's in the 3x3; no library holds weights of
  the former by name, so one block here starts from weights of the latter. As in Caffe, norms keep
  the statistics and the scales that they start with, but not in a run from scratch.
- Figures named "COCO first" are of networks that the authors trained on COCO before; here no row
  does.
- The CRF's kernels were found by figures on val. Those of ResNet-101 are the port's configuration's;
  those of VGG16 were not seen.
- fc6 and fc7 of VGG16 start from every fourth filter of ImageNet's, not from a random fourth. fc8 is
  one layer for all branches, whose only bias learns like one of the authors' four, which add up. The
  mean over 3x3 between pool5 and fc6, which v1's released network has, is in no branch of v2's;
  that the LargeFOV of table 3 lacks it too was not seen.
- The authors pad every image of PASCAL VOC to 513x513; here images are padded to the next 32k + 1
  pixels (8k + 1 at one scale), on the right and at the bottom.
- The crop of VGG16's rows, 321x321, is that of a copy of the authors' file for another data set.
"""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import lcm
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published
from segmodels.parts.backbones.resnet import ResNet, stride_first
from segmodels.parts.backbones.vgg import VGG16, convolutional, pre_logits, thinned
from segmodels.parts.layers import is_convolution_bias, resized
from segmodels.parts.pretrained import load_encoder
from segmodels.parts.weight_files import State
from segmodels.recipe import Recipe

# --- atrous spatial pyramid pooling (section 3.2)


class AtrousScores(nn.ModuleList):
    """3x3s at several rates straight to the scores of the classes, summed (figure 4)."""

    def __init__(self, inside: int, num_classes: int, rates: tuple[int, ...]) -> None:
        convs = [nn.Conv2d(inside, num_classes, 3, 1, rate, rate) for rate in rates]
        super().__init__(convs or [nn.Conv2d(inside, num_classes, 1)])

    def forward(self, x: Tensor) -> Tensor:
        return sum(conv(x) for conv in self)


class AtrousBranches(nn.ModuleList):
    """VGG16's fc6 and fc7 at several rates; fc8 of all of them is one 1x1 (figure 7b)."""

    width = 1024  # of fc6 and fc7
    kernel = 3

    def __init__(self, inside: int, rates: tuple[int, ...]) -> None:
        super().__init__(pre_logits(inside, self.width, self.kernel, rate, rate) for rate in rates)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)  # (B, 1024 * rates, h, w)

    def weights(self, state: State) -> State:
        """Return VGG16's weights, with those of fc6 and fc7 for each branch."""
        found = {}
        for name, tensor in thinned(convolutional(state), self.width, self.kernel).items():
            first, _, rest = name.partition(".")
            if first == "pre_logits":
                found |= {f"{first}.{branch}.{rest}": tensor for branch in range(len(self))}
            else:
                found[name] = tensor
        return found


# --- network and losses (section 4)


class DeepLabV2(SegmentationModule):
    """Dilated backbone -> scores at 1/8, and their maximum over several scales of the image.

    In training there is a loss of each scale, and one of the maximum.
    """

    align_corners = True

    def __init__(
        self,
        num_classes: int,
        backbone: Literal["resnet101", "vgg16"] = "resnet101",
        rates: tuple[int, ...] = (6, 12, 18, 24),
        scales: tuple[float, ...] = (0.75, 0.5),
        frozen_norms: bool = True,
    ) -> None:
        """`scales` are those beside 1; rates=() is a 1x1 in the place of the 3x3s.

        `frozen_norms` is not for a start from scratch, where there are no statistics to keep.
        """
        super().__init__(num_classes)
        if not all(0 < scale < 1 for scale in scales):
            raise ValueError(
                f"model.scales is {scales}; beside 1 itself, each must be above 0 and below 1, such "
                "as 0.75,0.5"
            )
        self.scales = [Fraction(scale).limit_denominator(16) for scale in scales]
        self.frozen_norms = frozen_norms
        if backbone == "vgg16":
            branches = AtrousBranches(512, rates)
            self.backbone = VGG16(branches, pool=3, output_stride=8)
            self.classifier = nn.Conv2d(branches.width * len(rates), num_classes, 1)
        else:
            self.backbone = stride_first(ResNet(101, output_stride=8, dilated_first=True))
            self.classifier = AtrousScores(2048, num_classes, rates)
        for layer in self.classifier.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def encoder(self) -> nn.Module:
        return self.backbone

    def load_pretrained(self, source: str) -> str:
        if isinstance(self.backbone, VGG16):
            return load_encoder(self.backbone, source, rename=self.backbone.pre_logits.weights)
        return super().load_pretrained(source)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the last map of the image and of each smaller copy of it."""
        copies = [image, *(self.resized(image, scale) for scale in self.scales)]
        return [self.backbone(each)[-1] for each in copies]

    def resized(self, image: Tensor, scale: Fraction) -> Tensor:
        """Scale the distances between pixels, so that corners stay corners: 321 become 241, 161."""
        above, below = scale.as_integer_ratio()
        size = [(side - 1) * above // below + 1 for side in image.shape[-2:]]
        return F.interpolate(image, size, mode="bilinear", align_corners=True)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return the maximum over the scales, for each class by itself."""
        most, *others = [self.classifier(x) for x in features]
        for scores in others:
            most = torch.maximum(most, resized(scores, most, self.align_corners))
        return most

    def auxiliary_outputs(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Return the scores of each scale, "scale_1" and so on; of one scale they are the main ones."""
        if not self.scales:
            return {}
        return {name: self.classifier(x) for name, x in zip(self.strides(), features)}

    def strides(self) -> dict[str, int]:
        """Return the strides of the labels by output: those of the scores, or 8 if not whole."""
        found = {}
        for scale in (Fraction(1), *self.scales):
            stride = 8 / scale
            found[f"scale_{float(scale):g}"] = int(stride) if stride.denominator == 1 else 8
        return found

    def criterion(self, outputs: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Return a loss of each output, by labels that are subsampled to the strides of the scores.

        Scores that have another stride are enlarged.
        """
        strides = {"main": 8, **self.strides()}
        labels = {stride: label[:, ::stride, ::stride] for stride in set(strides.values())}
        return {
            name: self.pixel_loss(scores, labels[strides[name]]) for name, scores in outputs.items()
        }

    def valid_side(self, side: int) -> int:
        """Return 8k + 1, at every scale: corners of all maps lie on pixels of the image."""
        step = 8 * lcm(*(scale.denominator for scale in self.scales))
        return side + (1 - side) % step

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Return 10 for weights of the classifier, 1 elsewhere, twice as much for their biases."""
        scale = super().lr_scale(name, parameter)
        return 2 * scale if is_convolution_bias(self, name) else scale

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return not name.endswith("bias")


# --- experiments (section 4.1)

VGG16_RECIPE = Recipe(
    crop=(321, 321), batch=10, iterations=20_000, lr=1e-3, head_lr=10.0, weight_decay=5e-4, schedule="poly", power=0.9,
)  # fmt: skip
RESNET101_RECIPE = replace(VGG16_RECIPE, scales=(0.5, 0.75, 1.0, 1.25, 1.5), lr=2.5e-4)


COCO_FIRST = ", COCO first"


def table(
    number: int, miou: float, pretrained: str = "", protocol: str = "whole", split: str = "val"
) -> Published:
    source = f"paper in IEEE TPAMI, table {number}{pretrained}"
    return Published(miou, "voc", split, protocol, source)


def vgg16(whole: float, crf: float) -> tuple[Published, ...]:
    return table(3, whole), table(3, crf, protocol="crf (kernels not stated)")


MAIN = Experiment(
    DeepLabV2, RESNET101_RECIPE, model={"backbone": "resnet101"}, data="voc", starts_from="resnet101.tv_in1k",
    budgets={"streets": {"crop": (97, 193), "batch": 4, "lr": 1e-4}},
    published=(
        table(4, 76.35, COCO_FIRST), table(4, 77.69, COCO_FIRST, "crf:10"),
        table(5, 79.7, COCO_FIRST, "crf:10", "test"),
    ),
)  # fmt: skip
ONE_BY_ONE = MAIN.but(model={"rates": ()}, published=(table(4, 74.87, COCO_FIRST),))
UNSCALED = ONE_BY_ONE.but(
    recipe={"scales": (1.0,)}, published=(table(4, 71.27), table(4, 73.28, COCO_FIRST))
)
ASPP_L = replace(
    MAIN, recipe=VGG16_RECIPE, model={"backbone": "vgg16", "scales": ()}, starts_from="vgg16.tv_in1k",
    published=vgg16(68.96, 71.57),
)  # fmt: skip

EXPERIMENTS = {
    # table 4
    "resnet101": MAIN,
    "resnet101_large_fov": MAIN.but(model={"rates": (12,)}, published=(table(4, 75.54, COCO_FIRST),)),
    "resnet101_1x1": ONE_BY_ONE,
    "resnet101_1x1_unscaled": UNSCALED,
    "resnet101_1x1_one_scale": UNSCALED.but(model={"scales": ()}, published=(table(4, 68.72),)),
    "resnet101_one_scale": MAIN.but(model={"scales": ()}),
    # table 3
    "vgg16_aspp_l": ASPP_L,
    "vgg16_aspp_s": ASPP_L.but(model={"rates": (2, 4, 8, 12)}, published=vgg16(66.98, 69.73)),
    "vgg16_large_fov": ASPP_L.but(model={"rates": (12,)}, published=vgg16(65.76, 69.84)),
}  # fmt: skip
