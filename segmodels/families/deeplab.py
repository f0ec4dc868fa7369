"""DeepLab from version 3 on, as the authors' code has it (tensorflow/models, research/deeplab)."""

from torch import nn

from segmodels.families.dilated import Dilated
from segmodels.parts.layers import is_convolution_bias


class DeepLab(Dilated):
    """Every enlargement aligns corners, and biases of convolutions learn at twice the rate."""

    align_corners = True
    spacing = 16  # pixels from corner to corner of the coarsest map

    def valid_side(self, side: int) -> int:
        """Return 16 k + 1, so that the corners of all maps lie on pixels of the image; else 16 k."""
        return side + (self.align_corners - side) % self.spacing

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        scale = super().lr_scale(name, parameter)
        return 2 * scale if is_convolution_bias(self, name) else scale
