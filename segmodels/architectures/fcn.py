"""FCN: Fully Convolutional Networks for Semantic Segmentation
Long, Shelhamer, Darrell. CVPR 2015. arXiv:1411.4038

A classifier becomes a segmenter when its fully connected layers are read as convolutions: every position of the last
feature map votes for its own class, and upsampling brings the votes back to the image.

    image -> ResNet, dilated to 1/8 ─┬─ layer 4 -> 3x3, dropout, 1x1 -> logits at 1/8 -> bilinear
                                     └─ layer 3 -> the same head: auxiliary, in training

Departures:
- The paper's networks are VGG16 with skips from pool3 and pool4. These rows are what "FCN" has meant since: a dilated
  ResNet and one head, layer by layer torchvision's.
- The paper has no Cityscapes run; the recipe is the one that dilated networks are commonly compared with there (SGD 0.01, 40k
  iterations of 8 crops of 512x1024). torchvision's published figures are for COCO images with the 21 PASCAL VOC classes.
- The auxiliary head and its weight 0.5 are torchvision's; the paper trains one loss.
"""

from torch import Tensor, nn

from segmodels.module import Batch, SegmentationModule
from segmodels.paper import Experiment, Published
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn_relu
from segmodels.parts.losses import cross_entropy
from segmodels.recipe import Recipe
from segmodels.released import Released

# --- network and losses (sections 3.1, 4.1)


def head(inside: int, num_classes: int) -> nn.Sequential:
    """Votes of every position, from a quarter of the channels."""
    return nn.Sequential(
        conv_bn_relu(inside, inside // 4), nn.Dropout(0.1), nn.Conv2d(inside // 4, num_classes, 1)
    )


class FCN(SegmentationModule):
    """Dilated ResNet -> head at 1/8; an auxiliary head on layer 3 in training."""

    def __init__(self, num_classes: int, depth: int = 50, auxiliary_weight: float = 0.5) -> None:
        super().__init__(num_classes)
        self.backbone = ResNet(depth, output_stride=8)
        *_, middle, deep = self.backbone.channels
        self.classifier = head(deep, num_classes)
        self.auxiliary_weight = auxiliary_weight
        self.auxiliary = head(middle, num_classes) if auxiliary_weight else None

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> Tensor:
        return self.backbone(image)[-1]

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        *_, middle, deep = self.backbone(image)
        outputs = {"main": self.classifier(deep)}
        return (
            outputs if self.auxiliary is None else outputs | {"auxiliary": self.auxiliary(middle)}
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        image, label = self.prepared(batch)
        weights = {"main": 1.0, "auxiliary": self.auxiliary_weight}
        return {
            name: weights[name]
            * cross_entropy(logits, label, align_corners=False, class_weights=self.class_weights)
            for name, logits in self.outputs(image).items()
        }


# --- experiments

CITYSCAPES = Recipe(
    crop=(512, 1024), scales=(0.5, 2.0), continuous=True, batch=8, iterations=40_000, lr=0.01, weight_decay=5e-4,
    schedule="poly", power=0.9, min_lr=1e-4,
)  # fmt: skip
TORCHVISION = "documentation of torchvision's COCO_WITH_VOC_LABELS_V1 weights"

MAIN = Experiment(
    FCN, CITYSCAPES, model={"depth": 50}, starts_from="resnet50.tv_in1k",
    published=(Published(60.5, "coco (VOC labels)", "val", "whole", TORCHVISION),),
)  # fmt: skip

EXPERIMENTS = {
    "resnet50": MAIN,
    "resnet101": MAIN.but(
        model={"depth": 101}, starts_from="resnet101.tv_in1k",
        published=(Published(63.7, "coco (VOC labels)", "val", "whole", TORCHVISION),),
    ),
    "no_auxiliary": MAIN.but(model={"auxiliary_weight": 0.0}),
}  # fmt: skip

# --- released weights: torchvision's, 21 classes

RENAMES = (
    (r"classifier\.0\.", "classifier.0.0."),
    (r"classifier\.1\.", "classifier.0.1."),
    (r"classifier\.4\.", "classifier.2."),
    (r"^aux_classifier\.", "auxiliary."),
)
RELEASED = {
    "fcn_resnet50_torchvision": Released("fcn/resnet50", "classifier.4.bias", RENAMES, data="voc"),
    "fcn_resnet101_torchvision": Released(
        "fcn/resnet101", "classifier.4.bias", RENAMES, data="voc"
    ),
}
