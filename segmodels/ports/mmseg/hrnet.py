"""HRNet (as its FCN) and OCRNet as mmsegmentation 1.2.2 trains them.

Its files are configs/hrnet/fcn_hr18_* and configs/ocrnet/ocrnet_hr18_*, both *-512x1024. No
convolution of their heads has a bias, nothing is dropped, corners are not aligned, and
cross-entropies are averaged over all pixels, ignored ones too. In an exchange, a map is enlarged by
the whole factor and then brought to the finer map's size, which differs where that is odd.
"""

from torch import nn

from segmodels.architectures.hrnet import HRNet
from segmodels.architectures.ocrnet import OCRNet, StackedNet
from segmodels.paper import Released
from segmodels.parts.backbones.hrnet import Exchange, HighResolutionNet
from segmodels.parts.backbones.resnet import initialize
from segmodels.parts.layers import conv_bn_relu, resized
from segmodels.ports.mmseg import published
from segmodels.recipe import Recipe


class ExchangeMMSeg(Exchange):
    def up(self, inside: int, outside: int, steps: int) -> nn.Sequential:
        return (
            super()
            .up(inside, outside, steps)
            .append(nn.Upsample(scale_factor=2**steps, mode="bilinear"))
        )


class BackboneMMSeg(HighResolutionNet):
    exchange = ExchangeMMSeg


class StackedMMSeg(StackedNet):
    exchange = ExchangeMMSeg


class HRNetMMSeg(HRNet):
    recipe = Recipe(loss="cross_entropy:all")

    def __init__(self, num_classes: int, width: int = 18) -> None:
        super().__init__(num_classes, width, momentum=0.1)
        self.backbone = BackboneMMSeg(width)
        channels = sum(self.backbone.channels)
        self.classifier = fcn_head(channels, num_classes)
        initialize_heads(self)


class OCRNetMMSeg(OCRNet):
    align_corners = False
    recipe = Recipe(loss="cross_entropy:all")

    def __init__(self, num_classes: int, width: int = 18) -> None:
        super().__init__(num_classes, width=width)
        self.backbone = StackedMMSeg(width, "full", resized)
        channels, _ = self.backbone.channels
        self.regions = fcn_head(channels, num_classes)
        self.pixels = conv_bn_relu(channels, 512)
        self.fusion = conv_bn_relu(2 * 512, 512, 1)
        initialize_heads(self)


def fcn_head(channels: int, num_classes: int) -> nn.Sequential:
    return conv_bn_relu(channels, channels, 1).append(nn.Conv2d(channels, num_classes, 1))


def initialize_heads(network: HRNet | OCRNet) -> None:
    """Initialize as mmsegmentation does: by He, and classifiers by N(0, 0.01)."""
    for name, part in network.named_modules():
        if name.startswith("backbone.") or not isinstance(part, nn.Conv2d):
            continue
        initialize(part)
        if part.bias is not None:
            nn.init.normal_(part.weight, std=0.01)
            nn.init.zeros_(part.bias)


# --- released weights

RENAMES = (
    (r"^decode_head\.0\.convs\.0\.", "regions."),
    (r"^decode_head\.0\.conv_seg\.", "regions.3."),
    (r"^decode_head\.1\.bottleneck\.", "pixels."),
    (r"^decode_head\.1\.object_context_block\.bottleneck\.", "fusion."),
    (r"^decode_head\.1\.object_context_block\.", "attention."),
    (r"^decode_head\.1\.conv_seg\.", "classifier."),
    (r"^decode_head\.convs\.0\.", "classifier."),
    (r"^decode_head\.conv_seg\.", "classifier.3."),
    (r"\.query_project\.", ".phi."),
    (r"\.key_project\.", ".psi."),
    (r"\.value_project\.", ".delta."),
    (r"\.out_project\.", ".rho."),
    (r"\.conv\.(?=weight$)", ".0."),
    (r"\.bn\.", ".1."),
)
RELEASED = {
    "mmseg_fcn_hr18": Released(
        HRNetMMSeg, "decode_head.conv_seg.bias", RENAMES, row="hrnet/w18",
        published=published(
            "hrnet", for_40k_iterations=(77.19, 78.92), for_80k_iterations=(78.65, 80.35),
            for_160k_iterations=(78.80, 80.74),
        ),
    ),
    "mmseg_ocrnet_hr18": Released(
        OCRNetMMSeg, "decode_head.1.conv_seg.bias", RENAMES, row="ocrnet/hrnet_w18",
        published=published(
            "ocrnet", for_40k_iterations=(77.72, 79.49), for_80k_iterations=(78.57, 80.46),
            for_160k_iterations=(79.47, 80.91),
        ),
    ),
}  # fmt: skip
