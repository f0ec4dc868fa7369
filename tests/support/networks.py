"""Networks of one or two layers."""

import torch
from torch import Tensor, nn

from segmodels.module import SegmentationModule


class Tiny(SegmentationModule):
    """Three classes from one layer at half resolution; counts its steps."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Conv2d(8, num_classes, 1)
        self.stepped = 0

    def features(self, image: Tensor) -> Tensor:
        return self.body(image)

    def after_step(self) -> None:
        self.stepped += 1


class Valid(SegmentationModule):
    """Three classes from convolutions without padding, which lose four pixels on every side."""

    margin = 4

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Conv2d(8, num_classes, 5)

    def features(self, image: Tensor) -> Tensor:
        return self.body(image)


def images(count: int = 4, size: tuple[int, int] = (32, 48)) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8), torch.zeros(
        count, *size, dtype=torch.uint8
    )


def batch(classes: int = 3, count: int = 4) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    image, label = images(count)
    return (image, torch.randint_like(label, classes)), images(count)


def with_lively_norms(network: nn.Module) -> nn.Module:
    """As no fresh norm is: each of its four tensors says something."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean):
                nn.init.uniform_(tensor, 0.1, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return network
