"""SegFormer as mmsegmentation 1.2.2 computes it (configs/segformer).

It differs from the authors' code in one epsilon for all norms, in a norm and a ReLU behind each
layer of the decoder that reads a map, and in the order of these maps: the fine one comes first.
"""

import torch
from torch import Tensor, nn

from segmodels.architectures.segformer import BACKBONE, PAPER, SegFormer, separated
from segmodels.paper import Published, Released
from segmodels.parts.backbones.resnet import initialize
from segmodels.parts.layers import conv_bn_relu, resized
from segmodels.ports import SCALES
from segmodels.recipe import Recipe


class SegFormerMMSeg(SegFormer):
    """The paper's network with this code line's decoder and epsilon."""

    recipe = Recipe(loss="cross_entropy:all")

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        widths = self.backbone.channels
        self.embeddings = nn.ModuleList(conv_bn_relu(width, 256, 1) for width in widths)
        initialize(self.embeddings)
        for layer in self.modules():
            if isinstance(layer, nn.LayerNorm):
                layer.eps = 1e-6

    def decode(self, features: list[Tensor]) -> Tensor:
        embedded = [embed(x) for embed, x in zip(self.embeddings, features)]
        fine_first = [resized(x, features[0]) for x in embedded]
        return self.classifier(self.fusion(torch.cat(fine_first, 1)))


RENAMES = (
    *BACKBONE,
    (r"^decode_head\.convs\.(\d)\.conv\.", r"embeddings.\1.0."),
    (r"^decode_head\.convs\.(\d)\.bn\.", r"embeddings.\1.1."),
    (r"^decode_head\.fusion_conv\.conv\.", "fusion.0."),
    (r"^decode_head\.fusion_conv\.bn\.", "fusion.1."),
    (r"^decode_head\.conv_seg\.", "classifier.1."),
)
SOURCE = "mmsegmentation, configs/segformer/metafile.yaml"
RELEASED = {
    "mmseg_segformer_b0": Released(
        SegFormerMMSeg,
        "decode_head.conv_seg.bias",
        RENAMES,
        convert=separated,
        row="segformer/b0",
        published=(
            Published(76.54, "cityscapes", "val", PAPER.inference, SOURCE),
            Published(78.22, "cityscapes", "val", f"{SCALES}+{PAPER.inference}", SOURCE),
        ),
    )
}
