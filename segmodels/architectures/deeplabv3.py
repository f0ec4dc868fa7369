"""DeepLabV3: Rethinking Atrous Convolution for Semantic Image Segmentation
Chen, Papandreou, Schroff, Adam. 2017. arXiv:1706.05587

DeepLab without its CRF. Convolutions of several dilations read the deepest map side by side, now
with batch norm, and beside them stands the mean of the image: a dilation that is too large for its
map reads mostly padding and turns into a 1x1, so that the widest context has to come from
elsewhere. The last stage's own dilations differ from block to block (multi-grid). Stride is traded
for dilation without a new weight: trained at 1/16, where batches are large enough for batch norm,
evaluated at 1/8.

    image -> ResNet, dilated, ──┬─ 1x1 ──────────────┐
             multi-grid 1, 2, 4 ├─ 3x3, rate  6 (12) │
             1/16 (or 1/8)      ├─ 3x3, rate 12 (24) ├─ 1x1, dropout, 1x1 -> logits at 1/16 (1/8)
                                ├─ 3x3, rate 18 (36) │
                                └─ mean of the image ┘

Departures:
- The paper has no code of its own; where it is silent, that of DeepLabV3+ by the same authors
  decides (tensorflow/models, research/deeplab): every enlargement aligns corners, sizes are 16 k + 1
  pixels, the classifier's bias learns at twice the rate, dropout, and how new layers are drawn.
- ResNet is torchvision's, with a 7x7 in front and the stride in a stage's first block, which keeps
  the dilation before it. What the authors' ResNet was at that time is not known here.
- Figures were seen for ResNet-101 alone, the scales of its multi-scale one nowhere. The ablations
  are of ResNet-50, which costs half.
- "frozen_norms" is the second phase: from the weights of the first (`--init`), at 1/8, with frozen
  norms. The paper trains it on trainval, for the test server; here it sees what the first saw.
- The modules in cascade (blocks 5 to 7) and the bootstrapping of rare classes are left out.
"""

from torch import nn

from segmodels.families.deeplab import DeepLab
from segmodels.paper import Experiment, Published
from segmodels.parts.atrous_pyramid import AtrousPyramid, initialize, rates_at
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import with_momentum
from segmodels.recipe import FEW_STEPS, Recipe

# --- network (section 3)


class DeepLabV3(DeepLab):
    """Dilated ResNet with a multi-grid -> atrous pyramid with the image's mean -> classifier."""

    def __init__(
        self,
        num_classes: int,
        depth: int = 50,
        output_stride: int = 16,
        rates: tuple[int, ...] = (6, 12, 18),
        multi_grid: tuple[int, ...] = (1, 2, 4),
        image_pooling: bool = True,
        frozen_norms: bool = False,
    ) -> None:
        """`rates` are those at stride 16.

        `output_stride`, `rates` and `multi_grid` leave the weights as they are.
        """
        backbone = ResNet(depth, output_stride, multi_grid=multi_grid)
        rates = rates_at(output_stride, rates)
        super().__init__(
            num_classes,
            backbone,
            context=AtrousPyramid(backbone.channels[-1], 256, rates, mean=image_pooling),
            classifier=nn.Conv2d(256, num_classes, 1),
        )
        self.frozen_norms = frozen_norms
        with_momentum(self, 3e-4)
        initialize(self.context)
        initialize(self.classifier)
        nn.init.trunc_normal_(self.classifier.weight, std=0.01, a=-0.02, b=0.02)


# --- experiments (section 4)

PAPER = Recipe(
    crop=(513, 513), scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), batch=16, iterations=30_000,
    lr=0.007, weight_decay=1e-4, decay_norms=False, schedule="poly", power=0.9,
)  # fmt: skip
QUOTED = "paper, as MindSpore's README of DeepLabV3 quotes it"
FINE = (("output_stride", 8),)  # at evaluation of a network that was trained at 16

MAIN = Experiment(
    DeepLabV3, PAPER, model={"depth": 50, "output_stride": 16}, data="voc",
    starts_from="resnet50.tv_in1k", budgets=FEW_STEPS,
)  # fmt: skip

EXPERIMENTS = {
    "resnet50": MAIN,
    "resnet101": MAIN.but(
        model={"depth": 101}, starts_from="resnet101.tv_in1k",
        published=(
            Published(77.21, "voc", "val", "whole", QUOTED),
            Published(78.51, "voc", "val", "whole", QUOTED, FINE),
            Published(79.45, "voc", "val", "multiscale (scales not stated)", QUOTED, FINE),
            Published(79.77, "voc", "val", "multiscale+flip (scales not stated)", QUOTED, FINE),
        ),
    ),
    # ablations: the pyramid, the grid, the stride
    "rate_24_too": MAIN.but(model={"rates": (6, 12, 18, 24)}),
    "no_image_pooling": MAIN.but(model={"image_pooling": False}),
    "multi_grid_111": MAIN.but(model={"multi_grid": (1, 1, 1)}),
    "multi_grid_121": MAIN.but(model={"multi_grid": (1, 2, 1)}),
    "stride_8": MAIN.but(model={"output_stride": 8}),
    # the second phase
    "frozen_norms": MAIN.but(
        model={"output_stride": 8, "frozen_norms": True}, recipe={"lr": 0.001},
    ),
}  # fmt: skip
