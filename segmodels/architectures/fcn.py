"""FCN: Fully Convolutional Networks for Semantic Segmentation
Long, Shelhamer, Darrell. CVPR 2015. arXiv:1411.4038

A classifier becomes a segmenter when its fully connected layers are read as convolutions: every
position of the last feature map votes for its own class, and upsampling brings the votes back to
the image.

    image -> ResNet, dilated to 1/8 ─┬─ layer 4 -> 3x3, dropout, 1x1 -> logits at 1/8 -> bilinear
                                     └─ layer 3 -> the same head: auxiliary, in training

Departures:
- The paper's networks are VGG16 with skips from pool3 and pool4. These rows are what "FCN" has
  meant since: a dilated ResNet and one head, layer by layer torchvision's.
- The paper has no Cityscapes run; the recipe is mmsegmentation's, by which dilated networks are
  commonly compared there (SGD 0.01, 40k iterations of 8 crops of 512x1024), but colors are not
  disturbed and the loss is torchvision's: a mean over labeled pixels. torchvision's published
  figures are for COCO images with the 21 PASCAL VOC classes; nobody published any for these rows on
  Cityscapes, nor any without the auxiliary head.
- The auxiliary head and its weight 0.5 are torchvision's; the paper trains one loss.
"""

from torch import nn

from segmodels.families.dilated import Dilated
from segmodels.paper import Experiment, Published, Released
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn_relu
from segmodels.recipe import Recipe

# --- network (sections 3.1, 4.1)


def classifier(inside: int, num_classes: int) -> nn.Sequential:
    """Stack dropout and a 1x1; torchvision drops values where others drop whole channels."""
    return nn.Sequential(nn.Dropout(0.1), nn.Conv2d(inside, num_classes, 1))


class FCN(Dilated):
    """Dilated ResNet -> 3x3 -> classifier; in training a second head of that kind on stage 3."""

    def __init__(self, num_classes: int, depth: int = 50, auxiliary_weight: float = 0.5) -> None:
        backbone = ResNet(depth, output_stride=8)
        *_, middle, deep = backbone.channels
        context = conv_bn_relu(deep, deep // 4)
        main = classifier(deep // 4, num_classes)
        auxiliary = None
        if auxiliary_weight:
            narrowed = conv_bn_relu(middle, middle // 4)
            auxiliary = nn.Sequential(narrowed, *classifier(middle // 4, num_classes))
        super().__init__(num_classes, backbone, context, main, auxiliary)
        self.auxiliary_weight = auxiliary_weight


# --- experiments

CITYSCAPES = Recipe(
    crop=(512, 1024), scales=(0.5, 2.0), continuous=True, cat_max_ratio=0.75, batch=8, iterations=40_000,
    lr=0.01, weight_decay=5e-4, schedule="poly", power=0.9, min_lr=1e-4,
)  # fmt: skip
TORCHVISION = "torchvision's description of its COCO_WITH_VOC_LABELS_V1 weights"


def published(miou: float) -> tuple[Published, ...]:
    """Return torchvision's figure; its reference code scales image and label."""
    protocol = "short side 520, labels too"
    return (Published(miou, "coco (VOC labels)", "val", protocol, TORCHVISION),)


MAIN = Experiment(
    FCN, CITYSCAPES, model={"depth": 50}, starts_from="resnet50.tv_in1k",
    published=published(60.5),
)  # fmt: skip

EXPERIMENTS = {
    "resnet50": MAIN,
    "resnet101": MAIN.but(
        model={"depth": 101}, starts_from="resnet101.tv_in1k",
        published=published(63.7),
    ),
    "no_auxiliary": MAIN.but(model={"auxiliary_weight": 0.0}),
}  # fmt: skip

# --- released weights: torchvision's, 21 classes

RENAMES = (
    (r"^classifier\.([01])\.", r"context.\1."),
    (r"^classifier\.4\.", "classifier.1."),
    (r"^aux_classifier\.([01])\.", r"auxiliary.0.\1."),
    (r"^aux_classifier\.4\.", "auxiliary.2."),
)
RELEASED = {
    "fcn_resnet50_torchvision": Released("fcn/resnet50", "classifier.4.bias", RENAMES, data="voc"),
    "fcn_resnet101_torchvision": Released(
        "fcn/resnet101", "classifier.4.bias", RENAMES, data="voc"
    ),
}
