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

A mask keeps some of the pairs of the embedded Gaussian; the others are not computed. With a rate of
R, here 8, and N positions in the map, 8192 of a crop of 512x1024, position i looks at

    local      those less than R rows and less than R columns away             225 of the 8192
    dilated    those whose distance is a multiple of R rows and of R columns   128
    both       both, under one softmax, itself once                            352

    the map in blocks of R x R ─┬─ a block looks at itself and R - 1 more on every side: local
                                └─ equal places of all blocks look at each other: dilated

Departures:
- The paper is about videos and detection and has no figure for segmentation. What stands around its
  block, the auxiliary head and the recipe are mmsegmentation's, whose heads these networks are; but
  colors are not disturbed here. Its figures stand with its weights.
- Products are divided by the square root of the number of channels, and the temperature is 0.05, as
  there.
- The Gaussian of x itself and the concatenation are not here, nor is the pooling in front of phi
  and g: the weights are N x N, 4 GiB for a whole image of Cityscapes. "slide:512x1024" takes a
  sixteenth of it.
- The masks are not the paper's. They are the local, atrous and sparse self-attention of the code
  (bojone/attention) of an essay that the study notes on EMANet link to, taken from sequences to
  maps. In that code zeros beyond the ends of a sequence are looked at too, unless it is told not to,
  and its third kind takes local ones R steps apart and counts a position itself twice. Here nothing
  lies outside of a map, and every position counts once.
- The local mask computes all pairs of a block and its surroundings, less than 2.25 times those that
  it keeps of a block inside the map; the dilated one computes those that it keeps.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.families.common import CHANNELS, OperatorNet, common
from segmodels.paper import unknown
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


# --- masks; C channels of an embedding, n blocks of R x R positions


def blocks(x: Tensor, rate: int, around: int = 0) -> Tensor:
    """Cut a map into blocks of R x R, each with `around` more positions on every side.

    (B, C, h, w) -> (B, blocks down, blocks across, positions, C), with zeros outside of the map.
    """
    x = F.pad(x, (around, around + rate - 1) * 2)
    side = rate + 2 * around
    x = x.unfold(2, side, rate).unfold(3, side, rate)  # (B, C, down, across, side, side)
    return x.permute(0, 2, 3, 4, 5, 1).flatten(3, 4)


def kept(scores: Tensor, keep: Tensor) -> Tensor:
    """Leave pairs out of a softmax."""
    return scores.masked_fill(~keep, torch.finfo(scores.dtype).min)


class Local(nn.Module):
    """Pairs of positions less than R rows and R columns apart."""

    def __init__(self, rate: int, itself: bool = True) -> None:
        super().__init__()
        self.rate = rate
        # rows, or columns, from a position of a block to one of its surroundings: (R, 3 R - 2)
        away = torch.arange(3 * rate - 2) - (rate - 1) - torch.arange(rate)[:, None]
        near = on_both_axes(away.abs() < rate)
        if not itself:
            near &= ~on_both_axes(away == 0)
        self.register_buffer("near", near, persistent=False)

    def surroundings(self, x: Tensor) -> Tensor:
        return blocks(x, self.rate, around=self.rate - 1).flatten(1, 2)  # (B, n, (3 R - 2)^2, C)

    def scores(self, theta: Tensor, phi: Tensor, inside: Tensor) -> Tensor:
        """Return (B, n, R^2, (3 R - 2)^2), of theta in blocks and a map of phi."""
        products = theta @ self.surroundings(phi).mT
        return kept(products, self.near & self.surroundings(inside).mT.bool())

    def mean(self, weights: Tensor, g: Tensor) -> Tensor:
        return weights @ self.surroundings(g)  # (B, n, R^2, C)


def on_both_axes(along: Tensor) -> Tensor:
    """Return what holds of rows and of columns: (R, S) -> (R^2, S^2)."""
    return (along[:, None, :, None] & along[:, None, :]).flatten(2).flatten(0, 1)


class Grid(nn.Module):
    """Pairs of positions that are multiples of R rows and of R columns apart."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.rate = rate

    def grids(self, x: Tensor) -> Tensor:
        return blocks(x, self.rate).flatten(1, 2).transpose(1, 2)  # (B, R^2, n, C)

    def scores(self, theta: Tensor, phi: Tensor, inside: Tensor) -> Tensor:
        """Return (B, n, R^2, n), of theta in blocks and a map of phi."""
        products = theta.transpose(1, 2) @ self.grids(phi).mT  # (B, R^2, n, n)
        return kept(products, self.grids(inside).mT.bool()).transpose(1, 2)

    def mean(self, weights: Tensor, g: Tensor) -> Tensor:
        return (weights.transpose(1, 2) @ self.grids(g)).transpose(1, 2)  # (B, n, R^2, C)


class SparseNonLocal(NonLocal):
    """The embedded Gaussian over the pairs of a mask, or of several under one softmax."""

    def __init__(self, channels: int, *masks: nn.Module) -> None:
        super().__init__(channels)
        self.masks = nn.ModuleList(masks)
        self.rate = masks[0].rate

    def forward(self, x: Tensor) -> Tensor:
        embeddings = self.theta, self.phi, self.g
        theta, phi, g = (each(x) for each in embeddings)  # (B, C, h, w)
        theta = blocks(theta / theta.shape[1] ** 0.5, self.rate)
        grid = theta.shape[1:3]
        theta = theta.flatten(1, 2)  # (B, n, R^2, C)
        inside = torch.ones_like(x[:1, :1])
        scores = [mask.scores(theta, phi, inside) for mask in self.masks]
        weights = torch.cat(scores, 3).softmax(3)
        shares = weights.split([each.shape[3] for each in scores], 3)
        mean = sum(mask.mean(share, g) for mask, share in zip(self.masks, shares))
        return x + self.out(self.whole(mean, grid)[..., : x.shape[2], : x.shape[3]])

    def whole(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Put blocks together, (B, n, R^2, C) -> (B, C, rows, columns)."""
        x = x.unflatten(1, grid).unflatten(3, (self.rate, self.rate))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


# --- network

Operator = Literal["embedded_gaussian", "dot_product", "disentangled"]
OPERATORS = {
    "embedded_gaussian": NonLocal,
    "dot_product": DotProduct,
    "disentangled": Disentangled,
}
Mask = Literal["none", "local", "dilated", "both"]


def non_local_block(channels: int, operator: Operator, mask: Mask, rate: int = 8) -> NonLocal:
    """Build a non-local block; `rate` is that of its mask."""
    if operator not in OPERATORS:
        raise ValueError(unknown("operator", operator, list(OPERATORS)))
    if mask not in get_args(Mask):
        raise ValueError(unknown("mask", mask, list(get_args(Mask))))
    if mask == "none":
        return OPERATORS[operator](channels)
    if operator != "embedded_gaussian":
        raise ValueError(f"operator={operator} has no mask; embedded_gaussian takes mask={mask}")
    if mask == "both":
        return SparseNonLocal(channels, Local(rate, itself=False), Grid(rate))
    return SparseNonLocal(channels, Local(rate) if mask == "local" else Grid(rate))


class NonLocalNet(OperatorNet):
    """Dilated ResNet -> non-local block between 3x3 convolutions -> classifier at 1/8."""

    def __init__(
        self,
        num_classes: int,
        depth: int = 50,
        operator: Operator = "embedded_gaussian",
        mask: Mask = "none",
    ) -> None:
        super().__init__(num_classes, depth, non_local_block(CHANNELS, operator, mask))


# --- experiments

MAIN = common(NonLocalNet)

EXPERIMENTS = {
    "resnet50": MAIN,
    "common": MAIN,
    "resnet101": MAIN.but(model={"depth": 101}, starts_from="resnet101c.gluon_in1k"),
    "dot_product": MAIN.but(model={"operator": "dot_product"}),
    "disentangled": MAIN.but(model={"operator": "disentangled"}),
    # sparse kinds
    "local": MAIN.but(model={"mask": "local"}),
    "dilated": MAIN.but(model={"mask": "dilated"}),
    "both": MAIN.but(model={"mask": "both"}),
}
