"""DF1 and DF2 (Li et al., 2019. arXiv:1903.03777): plain residual stages, found by search."""

from torch import Tensor, nn

from segmodels.parts.backbones.resnet import BasicBlock, initialize
from segmodels.parts.layers import conv_bn_relu

STAGES = {  # (name, channels, blocks, stride)
    "df1": (("stage2", 64, 3, 2), ("stage3", 128, 3, 2), ("stage4", 256, 3, 2), ("stage5", 512, 1, 1)),
    "df2": (("stage2_1", 64, 2, 2), ("stage2_2", 128, 1, 1), ("stage3_1", 128, 10, 2), ("stage3_2", 256, 1, 1),
            ("stage4_1", 256, 4, 2), ("stage4_2", 512, 2, 1)),
}  # fmt: skip
RETURNED = {"df1": ("stage3", "stage4", "stage5"), "df2": ("stage2_2", "stage3_2", "stage4_2")}


class DFNet(nn.Module):
    """image -> three feature maps: DF1 at strides 16, 32, 32; DF2 at 8, 16, 32."""

    channels = (128, 256, 512)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.returned = RETURNED[name]
        self.stage1 = nn.Sequential(*conv_bn_relu(3, 32, 3, 2), *conv_bn_relu(32, 64, 3, 2))
        inside = 64
        for stage, width, blocks, stride in STAGES[name]:
            again = (BasicBlock(width, width) for _ in range(blocks - 1))
            self.add_module(stage, nn.Sequential(BasicBlock(inside, width, stride), *again))
            inside = width
        initialize(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        x, features = image, {}
        for name, stage in self.named_children():
            x = features[name] = stage(x)
        return [features[name] for name in self.returned]
