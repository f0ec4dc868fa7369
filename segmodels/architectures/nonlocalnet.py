"""Non-local Neural Networks
Wang, Girshick, Gupta, He. CVPR 2018. arXiv:1711.07971

A convolution sees its neighborhood, and many of them in a row see far only in theory. A non-local
block is one layer in which every position looks at every other one: it adds a mean over all
positions, weighted by how similar both are.

    image -> ResNet, dilated to 1/8 -> 3x3 -> non-local block -> 3x3, joined with its input by a
    3x3, dropout, 1x1 -> logits at 1/8

    y[i] = sum over j of w[i, j] g(x[j]);   out[i] = x[i] + W y[i]
    embedded Gaussian   w[i, j] = softmax over j of theta(x[i]) . phi(x[j])
    dot product         w[i, j] = theta(x[i]) . phi(x[j]) / N
    disentangled        w[i, j] = softmax over j of
                                      (theta(x[i]) - mean) . (phi(x[j]) - mean) / temperature
                                + softmax over j of m(x[j])
                        (Yin et al., ECCV 2020. arXiv:2006.06668)

Departures:
- The paper is about videos and detection and has no figure for segmentation. What stands around its
  block, the auxiliary head and the recipe are mmsegmentation's, whose heads these networks are; but
  colors are not disturbed here. Its figures stand with its weights.
- Products are divided by the square root of the number of channels, and the temperature is 0.05, as
  there.
- The Gaussian of x itself and the concatenation are not here, nor is the pooling in front of phi
  and g: the weights are N x N, 4 GiB for a whole image of Cityscapes. "slide:512x1024" takes a
  sixteenth of it.
"""

from typing import Literal

from torch import Tensor, nn

from segmodels.families.common import RECIPE
from segmodels.families.dilated import Around, Dilated, classifier, fcn_head, initialize_heads
from segmodels.paper import Experiment, unknown
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn

# --- blocks (sections 3.2, 3.3); N positions


class NonLocal(nn.Module):
    """The embedded Gaussian (equation 3) around a shortcut (equation 6)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 2
        self.theta = nn.Conv2d(channels, width, 1)
        self.phi = nn.Conv2d(channels, width, 1)
        self.g = nn.Conv2d(channels, width, 1)
        self.out = conv_bn(width, channels, 1)
        for embedding in (self.theta, self.phi, self.g):
            nn.init.normal_(embedding.weight, std=0.01)
            nn.init.zeros_(embedding.bias)
        nn.init.zeros_(self.out[1].weight)  # it starts as the identity (section 4.1)

    def forward(self, x: Tensor) -> Tensor:
        embeddings = self.theta, self.phi, self.g
        theta, phi, g = (each(x).flatten(2) for each in embeddings)  # (B, C, h, w) -> (B, C/2, N)
        weights = self.weights(x, theta, phi).transpose(1, 2)  # (B, i, j) -> (B, j, i)
        mean = (g @ weights).unflatten(2, x.shape[2:])  # (B, C/2, N) -> (B, C/2, h, w)
        return x + self.out(mean)

    def weights(self, x: Tensor, theta: Tensor, phi: Tensor) -> Tensor:
        """Return the weight of position j in the mean of position i, (B, N, N) = (B, i, j)."""
        theta = (theta / theta.shape[1] ** 0.5).transpose(1, 2)  # (B, C/2, N) -> (B, N, C/2)
        return (theta @ phi).softmax(2)


class DotProduct(NonLocal):
    """Equation 4: weights of either sign."""

    def weights(self, x: Tensor, theta: Tensor, phi: Tensor) -> Tensor:
        return theta.transpose(1, 2) @ (phi / phi.shape[2])  # (B, N, C/2) x (B, C/2, N)


class Disentangled(NonLocal):
    """Weights of pairs beyond the means, plus weights that are the same for all positions i."""

    temperature = 0.05

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.mask = nn.Conv2d(channels, 1, 1)

    def weights(self, x: Tensor, theta: Tensor, phi: Tensor) -> Tensor:
        theta = theta - theta.mean(2, keepdim=True)
        phi = phi - phi.mean(2, keepdim=True)
        pairs = super().weights(x, theta / self.temperature, phi)
        common = self.mask(x).flatten(2).softmax(2)  # (B, 1, h, w) -> (B, 1, N)
        return pairs + common


# --- network

Operator = Literal["embedded_gaussian", "dot_product", "disentangled"]
OPERATORS = {
    "embedded_gaussian": NonLocal,
    "dot_product": DotProduct,
    "disentangled": Disentangled,
}


class NonLocalNet(Dilated):
    """Dilated ResNet -> non-local block between 3x3 convolutions -> classifier at 1/8."""

    def __init__(
        self, num_classes: int, depth: int = 50, operator: Operator = "embedded_gaussian"
    ) -> None:
        if operator not in OPERATORS:
            raise ValueError(unknown("operator", operator, list(OPERATORS)))
        backbone = ResNet(depth, output_stride=8, stem=(32, 32, 64))
        *_, middle, deep = backbone.channels
        super().__init__(
            num_classes,
            backbone,
            Around(deep, 512, OPERATORS[operator](512)),
            classifier(512, num_classes),
            fcn_head(middle, 256, num_classes),
        )
        initialize_heads(self)


# --- experiments

MAIN = Experiment(
    NonLocalNet, RECIPE, model={"depth": 50}, starts_from="resnet50c.gluon_in1k"
)  # fmt: skip

EXPERIMENTS = {
    "resnet50": MAIN,
    "common": MAIN,
    "resnet101": MAIN.but(model={"depth": 101}, starts_from="resnet101c.gluon_in1k"),
    "dot_product": MAIN.but(model={"operator": "dot_product"}),
    "disentangled": MAIN.but(model={"operator": "disentangled"}),
}
