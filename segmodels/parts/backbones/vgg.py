"""VGG16 as a backbone that returns its pooled maps, fully connected layers included.

Simonyan and Zisserman, 2014. arXiv:1409.1556. Parameters have timm's names, which for the
convolutions are torchvision's too. fc6 and fc7 are convolutions (fc1 and fc2 of `pre_logits`), as
FCN and DeepLab read them.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from segmodels.parts.weight_files import State

BLOCKS = (2, 2, 3, 3, 3)  # convolutions before each pooling


class VGG16(nn.Module):
    """image -> the five pooled maps, at strides 2, 4, 8, 16, 32; and that of `pre_logits`, if given.

    Poolings round up, as Caffe's do, unless `pool`, the side of their window, is odd: then it is
    centered on every second value. With output_stride=8 the last two have stride 1, and the
    convolutions behind them are dilated instead (the hole algorithm of arXiv:1412.7062); those of
    `pre_logits` are the paper's. `padding` is that of the first convolution, and `width` the width
    of the first block.
    """

    def __init__(
        self,
        pre_logits: nn.Module | None = None,
        padding: int = 1,
        pool: int = 2,
        output_stride: int = 32,
        width: int = 64,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 32):
            raise ValueError(f"VGG16's output_stride is 8 or 32, not {output_stride}")
        self.channels = (width, 2 * width, 4 * width, 8 * width, 8 * width)
        layers: list[nn.Module] = []
        inside = 3
        stride = 1
        dilation = 1
        for convs, outside in zip(BLOCKS, self.channels):
            for _ in range(convs):
                around = dilation if layers else padding
                layers += [
                    nn.Conv2d(inside, outside, 3, 1, around, dilation),
                    nn.ReLU(inplace=True),
                ]
                inside = outside
            step = 2 if stride < output_stride else 1
            layers.append(nn.MaxPool2d(pool, step, (pool - 1) // 2, ceil_mode=pool % 2 == 0))
            stride *= step
            dilation *= 1 if step == 2 else 2
        self.features = nn.Sequential(*layers)
        self.pre_logits = pre_logits
        initialize(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = image
        pooled = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pooled.append(x)
        return pooled if self.pre_logits is None else [*pooled, self.pre_logits(x)]


def pre_logits(
    inside: int = 512, width: int = 4096, kernel: int = 7, padding: int = 0, dilation: int = 1
) -> nn.Sequential:
    """Stack fc6 and fc7 as convolutions; dropout falls on values, not on whole channels."""
    layers = {
        "fc1": nn.Conv2d(inside, width, kernel, 1, padding, dilation),
        "act1": nn.ReLU(inplace=True),
        "drop1": nn.Dropout(0.5),
        "fc2": nn.Conv2d(width, width, 1),
        "act2": nn.ReLU(inplace=True),
        "drop2": nn.Dropout(0.5),
    }
    return nn.Sequential(OrderedDict(layers))


def initialize(module: nn.Module) -> None:
    """Initialize convolutions as He et al., by fan-in: without norms maps keep their scale so."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


def convolutional(state: State) -> State:
    """Return torchvision's weights under timm's names: matrices of fc6 and fc7 as convolutions."""
    renamed = {}
    for name, tensor in state.items():
        for theirs, ours in (("classifier.0.", "fc1."), ("classifier.3.", "fc2.")):
            if name.startswith(theirs):
                name = f"pre_logits.{ours}{name.removeprefix(theirs)}"
                side = 7 if ours == "fc1." else 1
                if tensor.ndim == 2:  # (4096, inside * side * side)
                    tensor = tensor.unflatten(1, (-1, side, side))
        renamed[name] = tensor
    return renamed


def thinned(state: State, width: int, kernel: int) -> State:
    """Return timm's weights with `width` of 4096 filters in fc6 and fc7, and fc6's 7x7 decimated.

    DeepLab makes these layers cheaper in this way (section 3.2 of arXiv:1412.7062).
    """
    fc6, fc7 = "pre_logits.fc1", "pre_logits.fc2"
    if f"{fc6}.weight" not in state:
        return state
    full, _, side, _ = state[f"{fc6}.weight"].shape
    kept = torch.arange(width) * full // width  # evenly spaced
    taps = torch.linspace(0, side - 1, kernel).round().long()  # 0, 3, 6 of 7
    layers = {
        f"{fc6}.weight": state[f"{fc6}.weight"][kept][:, :, taps][..., taps],
        f"{fc6}.bias": state[f"{fc6}.bias"][kept],
        f"{fc7}.weight": state[f"{fc7}.weight"][kept][:, kept],
        f"{fc7}.bias": state[f"{fc7}.bias"][kept],
    }
    return {**state, **layers}
