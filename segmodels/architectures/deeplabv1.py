"""DeepLab v1: Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs
Chen, Papandreou, Kokkinos, Murphy, Yuille. ICLR 2015. arXiv:1412.7062

A classifier's poolings make its scores coarse. Here the last two lose their stride, and the
convolutions behind them skip values instead, which they read in the same places as before: the hole
algorithm gives scores at 1/8 from weights learned at 1/32. The first fully connected layer may skip
more, and then sees as far with nine weights as with forty-nine (LargeFOV). What is still blurred is
left to a dense CRF, an inference mode (`crf:10`), or to a second look at the first maps (MSc).

    image ─ VGG16, dilated to 1/8 ─ pool5 ─ fc6: 3x3, rate 12 ─ fc7 ─ scores ── + ─ logits at 1/8
      │        └ pool1, pool2, pool3, pool4 ─┬─ 3x3, 1x1 ────────── scores ─────┘
      └──────────────────────────────────────┘  (MSc; with dense=True at every pixel, logits at 1)

MSc is trained on top of a network that is trained already, and changes nothing else in it: train
large_fov, then msc_large_fov with --init and its run.

Departures:
- Where the paper is silent, the authors' Caffe files decide, as copies of them show them: poolings
  of 3x3, a mean over 3x3 in front of LargeFOV's fc6, all resizing aligns corners, biases learn at
  twice the rate and do not decay, and dropout stands behind each layer of MSc too.
- MSc sums the scores of its branches, as in those files; joining their maps, as in the paper, is the
  same. Two of its convolutions begin with other random weights there; here all begin alike.
- ImageNet weights are torchvision's, and images are normalized as these want. Of 4096 filters every
  fourth is kept, as far as fc6 and fc7 are narrower, where the authors keep some at random.
- The released networks without LargeFOV and MSc have poolings of 2x2 and crops of 306x306; here they
  are as all others.
- The paper trains by batches of 20. LargeFOV's file has 30, which DeepLab v2's table 2 names for its
  figure too.
- The authors pad every image of PASCAL VOC to 513x513; here images are padded to the next 8k + 1
  pixels, on the right and at the bottom.
- The CRF's kernels were found by figures on val; only LargeFOV's were seen, in the authors' script.
- The rows "poly" are those of DeepLab v2's table 2 (arXiv:1606.00915).
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published
from segmodels.parts.backbones.vgg import VGG16, convolutional, pre_logits, thinned
from segmodels.parts.layers import resized_with_corners
from segmodels.parts.pretrained import load_encoder
from segmodels.parts.weight_files import State
from segmodels.recipe import Recipe

# --- the hole algorithm and the field of view (sections 3.1, 3.2)


def fully_connected(inside: int, filters: int, kernel: int, rate: int) -> nn.Sequential:
    """Stack fc6 and fc7; in LargeFOV each of fc6's nine weights sees a mean over 3x3."""
    if rate * (kernel - 1) % 2:
        raise ValueError(
            f"model.rate is {rate}; for a kernel of {kernel}x{kernel} it must be even, so that fc6 "
            "sees as far to the left as to the right"
        )
    layers = pre_logits(inside, filters, kernel, rate * (kernel - 1) // 2, rate)
    if kernel != 3:
        return layers
    mean = nn.AvgPool2d(3, 1, 1)
    return nn.Sequential(OrderedDict(pool5a=mean, **dict(layers.named_children())))


# --- multi-scale prediction (section 4.3)

STRIDES = (8, 4, 2, 1, 1)  # from the image and pool1 to pool4 to 1/8


def branch(inside: int, stride: int, num_classes: int) -> nn.Sequential:
    """Stack a 3x3, a 1x1 and the scores of one map."""
    layers = nn.Sequential(
        nn.Conv2d(inside, 128, 3, stride, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Conv2d(128, 128, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Conv2d(128, num_classes, 1),
    )
    for layer, deviation in zip(layers[::3], (0.001, 0.001, 0.01)):
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)
    return layers


# --- network and loss


class DeepLabV1(SegmentationModule):
    """VGG16 with holes -> scores at 1/8, and those of earlier maps (MSc)."""

    align_corners = True

    def __init__(
        self,
        num_classes: int,
        kernel: int = 3,
        rate: int = 12,
        filters: int = 1024,
        msc: bool = False,
        dense: bool = False,
        width: int = 64,
    ) -> None:
        """`kernel`, `rate` and `filters` are those of fc6, `width` is that of VGG16's first block.

        With `dense` the branches of MSc look at every place of their maps, as the authors evaluate
        it. The weights are the same, and so is every eighth logit.
        """
        super().__init__(num_classes)
        self.kernel = kernel
        self.filters = filters
        self.dense = dense and msc
        layers = fully_connected(8 * width, filters, kernel, rate)
        self.backbone = VGG16(layers, pool=3, output_stride=8, width=width)
        self.classifier = nn.Conv2d(filters, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        self.branches = nn.ModuleList()
        if msc:
            for inside, stride in zip((3, *self.backbone.channels), STRIDES):
                self.branches.append(branch(inside, 1 if dense else stride, num_classes))

    def encoder(self) -> nn.Module:
        return self.backbone

    def load_pretrained(self, source: str) -> str:
        def rename(state: State) -> State:
            return thinned(convolutional(state), self.filters, self.kernel)

        return load_encoder(self.backbone, source, rename=rename)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return fc7's map, behind the image and the pooled maps if MSc looks at them."""
        *pooled, _, deep = self.backbone(image)
        return [image, *pooled, deep] if self.branches else [deep]

    def decode(self, features: list[Tensor]) -> Tensor:
        *fine, deep = features
        scores = [self.classifier(deep)]
        scores += [branch(x) for branch, x in zip(self.branches, fine)]
        like = features[0] if self.dense else deep
        return sum(resized_with_corners(each, like) for each in scores)

    def criterion(self, outputs: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Compare each logit with the label's pixel that it lies on."""
        step = 1 if self.dense else 8
        return super().criterion(outputs, label[:, ::step, ::step])

    def valid_side(self, side: int) -> int:
        """Return 8k + 1: with aligned corners, every eighth pixel lies on a logit."""
        return side + (1 - side) % 8

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Return 10 for the classifier, 1 elsewhere, twice as much for biases.

        With MSc nothing but its branches learns.
        """
        doubled = 2.0 if name.endswith("bias") else 1.0
        if self.branches:
            return doubled if name.startswith("branches.") else 0.0
        return doubled * super().lr_scale(name, parameter)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return not name.endswith("bias")


# --- experiments (section 5)

ICLR = "paper at ICLR, table 1"
ICLR_TEST = "paper at ICLR, table 3, trained on val too"
TPAMI = "paper in IEEE TPAMI, table 1"  # DeepLab v2's, with a figure that the other lacks
POLICIES = "paper in IEEE TPAMI, table 2"
CRF = "crf (kernels not stated)"  # of 10 steps; the kernels were searched for by figures on val
DENSE = (("dense", True),)


def published(
    whole: float, crf: float, test: float | None = None, source: str = ICLR, **details: Any
) -> tuple[Published, ...]:
    """Return figures without and with a CRF on val, and with it on test."""
    protocol = details.pop("protocol", CRF)
    figures = [
        Published(whole, "voc", "val", "whole", source, **details),
        Published(crf, "voc", "val", protocol, source, **details),
    ]
    if test:
        figures.append(Published(test, "voc", "test", protocol, ICLR_TEST, **details))
    return tuple(figures)


def policy(miou: float) -> tuple[Published, ...]:
    return (Published(miou, "voc", "val", "whole", POLICIES),)


MAIN = Experiment(
    DeepLabV1,
    Recipe(
        crop=(321, 321), batch=30, iterations=6000, lr=1e-3, head_lr=10.0, weight_decay=5e-4, schedule="step",
    ),
    model={"kernel": 3, "rate": 12}, data="voc", starts_from="vgg16.tv_in1k",
    budgets={"streets": {"crop": (97, 193), "batch": 4, "lr": 1e-4}},
    published=published(62.25, 67.64, 70.3, protocol="crf:10,4,49,5,3,3"),
)  # fmt: skip
DEEPLAB = MAIN.but(
    model={"kernel": 4, "rate": 4, "filters": 4096}, recipe={"batch": 20},
    published=published(59.80, 63.74, 66.4),
)  # fmt: skip
POLY = MAIN.but(recipe={"schedule": "poly", "power": 0.9}, published=policy(63.42))
TEN_THOUSAND = POLY.but(recipe={"iterations": 10_000}, published=policy(64.90))

EXPERIMENTS = {
    "large_fov": MAIN,
    "msc_large_fov": MAIN.but(model={"msc": True}, published=published(64.21, 68.70, 71.6, model=DENSE)),
    "deeplab": DEEPLAB,
    "msc": DEEPLAB.but(model={"msc": True}, published=published(61.30, 65.21, 67.1, model=DENSE)),
    "4x4": DEEPLAB.but(model={"rate": 8}, published=published(63.41, 67.14, source=TPAMI)),
    "7x7": DEEPLAB.but(model={"kernel": 7}, published=published(64.38, 67.64, 70.3)),
    # learning rate policies
    "large_fov_poly": POLY,
    "large_fov_poly_10k": TEN_THOUSAND,
    "large_fov_poly_10k_batch10": TEN_THOUSAND.but(recipe={"batch": 10}, published=policy(64.71)),
    "large_fov_poly_20k_batch10": TEN_THOUSAND.but(
        recipe={"batch": 10, "iterations": 20_000}, published=policy(65.88)
    ),
}  # fmt: skip
