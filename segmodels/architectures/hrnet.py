"""HRNet: Deep High-Resolution Representation Learning for Visual Recognition
Wang, Sun, Cheng, Jiang, Deng, Zhao, Liu, Mu, Tan, Wang, Liu, Xiao. TPAMI 2020. arXiv:1908.07919

Where others shrink the image and then recover what was lost, this network never gives up its
resolution: a branch at 1/4 runs from the stem to the end, coarser ones begin beside it, and all of
them exchange their maps again and again. So the finest map has seen everything, and the head only
stacks the four (HRNetV2).

    image -> stem 1/4 -> stage 1 ─┬─ 1/4 ─┬──┬─ 1/4 ─┬──┬─ 1/4 ─┬───────┬─ 1x1, 1x1 -> logits at 1/4
                                  └─ 1/8 ─┤  ├─ 1/8 ─┤  ├─ 1/8 ─┼─ up ──┤
                                          └──┴─ 1/16 ┤  ├─ 1/16 ┼─ up ──┤
                                                     └──┴─ 1/32 ┴─ up ──┘
                                  stage 2    stage 3    stage 4
    each stage but the first: modules of four residual blocks a branch and an exchange (1, 4, 3)

Departures:
- The authors' trainer sets the learning rate one step late; here step k runs at the value of k. It
  pads small images with black, as here, but never above them; here they stand anywhere in the crop.
- The fixed class weights of Cityscapes come with that data set's budget, since they mean nothing on
  other classes.
- At scales above 1 the authors evaluate in windows, and they average the exponentials of logits.
  Here each scale is evaluated whole, and probabilities are averaged, beside the same figures.
- The README counts 696.2G operations for W48; here they are 747.5G, as in the authors' code. For
  W40 public notes quote 45.2M parameters and 493.2G from the paper; here they are 45.9M and 535.4G.
- Rows are the networks of the repository's branch "pytorch-v1.1". Two are of its branch "HRNet-OCR":
  in "ocr_branch" batch norm's momentum is 0.1, not 0.01; "aligned_corners" is what that branch has
  for ADE20K and COCO-Stuff, though not for Cityscapes.
- What stands behind HRNetV1 is our reading: "v1" classifies the map at 1/4 itself, "v1h" behind a
  1x1 to as many channels as V2 has. The paper draws their figures as bars, which were not seen.
- The paper's ablations of the exchange were trained from scratch, and so are these rows. Only the
  figure of the network with all of them was seen.
- W18 has no configuration for Cityscapes in that repository; it is the W48's, at another width.
"""

from typing import Literal

from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, PublishedSpeed, Released
from segmodels.parts import class_weights
from segmodels.parts.backbones.hrnet import (
    AUTHORS,
    Depth,
    Fusions,
    HighResolutionNet,
    initialize,
    joined,
)
from segmodels.parts.layers import conv_bn_relu, resized, resized_with_corners
from segmodels.recipe import Recipe

# --- network (sections 3.1 to 3.4)

Representation = Literal["v1", "v1h", "v2"]


class HRNet(SegmentationModule):
    """Four parallel branches -> their maps, stacked at 1/4 -> 1x1 -> classifier."""

    def __init__(
        self,
        num_classes: int,
        width: int = 48,
        depth: Depth = "full",
        fusions: Fusions = "all",
        representation: Representation = "v2",
        align_corners: bool = False,
        momentum: float = 0.01,
    ) -> None:
        """`width` is that of the branch at 1/4, the paper's C; `momentum` is batch norm's."""
        super().__init__(num_classes)
        self.align_corners = align_corners
        self.resize = resized_with_corners if align_corners else resized
        outputs = 4 if representation == "v2" else 1
        self.backbone = HighResolutionNet(width, depth, fusions, outputs, self.resize)
        inside = sum(self.backbone.channels[:outputs])
        outside = sum(self.backbone.channels)
        if representation == "v1":
            self.classifier = nn.Sequential(nn.Conv2d(inside, num_classes, 1))
        else:
            mixed = conv_bn_relu(inside, outside, 1, bias=True)
            self.classifier = mixed.append(nn.Conv2d(outside, num_classes, 1))
        initialize(self.classifier)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = momentum

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> list[Tensor]:
        return self.backbone(image)  # 1/4, 1/8, 1/16, 1/32

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.classifier(joined(features, self.resize))


# --- experiments (sections 5, 7)

PAPER = Recipe(
    crop=(512, 1024), scales=tuple(n / 10 for n in range(5, 22)), batch=12, iterations=119_548,
    lr=0.01, weight_decay=5e-4, schedule="poly", power=0.9, padding="black",
)  # fmt: skip  # 484 epochs of 247 batches
README = "README of the authors' HRNet-Semantic-Segmentation, branch pytorch-v1.1"
OCR_README = "README of the authors' HRNet-Semantic-Segmentation, branch HRNet-OCR"
NOTES = "paper, as public reading notes on HRNet quote it"
SCRATCH = "paper, section 7, as a translation of it has it"
SCALES = "multiscale:0.5,0.75,1,1.25,1.5,1.75+flip"


def published(miou: float, source: str = README) -> tuple[Published, ...]:
    return (Published(miou, "cityscapes", "val", "whole", source),)


MAIN = Experiment(
    HRNet, PAPER, model={"width": 48}, starts_from="hrnet_w48.ms_in1k",
    published=(
        *published(81.1), Published(80.4, "cityscapes", "test", SCALES, NOTES),
        Published(81.6, "cityscapes", "test", SCALES, f"{NOTES}: trained on val too"),
    ),
    published_speed=(PublishedSpeed(6.67, (1024, 2048), "V100", f"{README}: 0.150 s", "PyTorch 1.0"),),
    budgets={"cityscapes": {"class_weights": class_weights.CITYSCAPES}},
)  # fmt: skip
W18 = MAIN.but(model={"width": 18}, starts_from="hrnet_w18.ms_in1k")
FROM_SCRATCH = MAIN.but(starts_from="scratch", published=published(76.4, SCRATCH))

EXPERIMENTS = {
    "w48": MAIN,
    "w40": MAIN.but(
        model={"width": 40}, starts_from="hrnet_w40.ms_in1k", published=published(80.2, NOTES),
    ),
    "w18": W18,
    "w18_small_v2": W18.but(
        model={"depth": "small_v2"}, starts_from="hrnet_w18_small_v2.ms_in1k", published=published(76.2),
    ),
    "w18_small_v1": MAIN.but(
        model={"width": 16, "depth": "small_v1"}, starts_from="hrnet_w18_small.ms_in1k",
        published=published(70.3),
    ),
    "ohem": MAIN.but(recipe={"loss": "hrnet_ohem:0.9,1/12"}),
    # the repository's other branch
    "ocr_branch": MAIN.but(model={"momentum": 0.1}, published=published(80.9, OCR_README)),
    "ocr_branch_paddle": MAIN.but(
        model={"momentum": 0.1}, starts_from="hrnet_w48_ssld.paddle_in1k",
        published=published(81.6, OCR_README),
    ),
    "aligned_corners": MAIN.but(model={"momentum": 0.1, "align_corners": True}),
    # ablations: how often the branches exchange their maps (table 12), and what is made of them
    "from_scratch": FROM_SCRATCH,
    "across_stages": FROM_SCRATCH.but(model={"fusions": "across_stages"}),
    "final_fusion": FROM_SCRATCH.but(model={"fusions": "final"}),
    "v1": MAIN.but(model={"representation": "v1"}),
    "v1h": MAIN.but(model={"representation": "v1h"}),
}  # fmt: skip

# --- released weights: the authors' (HRNet/HRNet-Semantic-Segmentation)

RENAMES = (*AUTHORS, (r"^last_layer\.", "classifier."))
LOSS = (r"^loss\.",)  # the authors' trainer stores its criterion too
RELEASED = {
    f"hrnetv2_{name}": Released(f"hrnet/{row}", "last_layer.3.bias", RENAMES, LOSS)
    for name, row in {
        "w48": "w48",
        "w18": "w18",
        "w18_small_v2": "w18_small_v2",
        "w18_small_v1": "w18_small_v1",
        "w48_ocrbranch": "aligned_corners",
    }.items()
}
