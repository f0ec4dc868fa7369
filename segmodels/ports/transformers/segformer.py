"""SegFormer as HuggingFace transformers computes it (SegformerForSemanticSegmentation).

It differs from the authors' code in one epsilon for all norms, larger than that of the blocks, in
dropout of numbers instead of maps, and in a loss averaged over labeled pixels.
"""

from functools import partial

from torch import nn

from segmodels.architectures.segformer import BACKBONE, DEPTHS, SegFormer, Size, separated
from segmodels.paper import Released
from segmodels.recipe import Recipe


class SegFormerTransformers(SegFormer):
    """The paper's network with this code line's epsilon, dropout and loss."""

    recipe = Recipe(loss="cross_entropy")

    def __init__(self, num_classes: int, size: Size, channels: int) -> None:
        super().__init__(num_classes, size, channels)
        self.classifier[0] = nn.Dropout(0.1)
        for layer in self.modules():
            if isinstance(layer, nn.LayerNorm):
                layer.eps = 1e-5


RENAMES = (
    *BACKBONE,
    (r"^decode_head\.linear_c\.(\d)\.proj\.", r"embeddings.\1."),
    (r"^decode_head\.linear_fuse\.", "fusion.0."),
    (r"^decode_head\.batch_norm\.", "fusion.1."),
    (r"^decode_head\.classifier\.", "classifier.1."),
)
RELEASED = {
    f"segformer_{size}_transformers": Released(
        partial(SegFormerTransformers, size=size, channels=256 if size in ("b0", "b1") else 768),
        "decode_head.classifier.bias",
        RENAMES,
        convert=separated,
        row=f"segformer/{size}",
    )
    for size in DEPTHS
}
