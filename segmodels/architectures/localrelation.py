"""Local Relation Networks for Image Recognition
Hu, Zhang, Xie, Lin. ICCV 2019. arXiv:1904.11491

A convolution is a template: it finds an eye only where every part of the eye has its usual place. A
local relation layer puts parts together if they belong together: the weights of a pixel's
neighbors come from what both pixels show, and from where the neighbor lies. It is attention that
stays in a window of 7x7 pixels, and so its cost grows with the number of pixels alone.

    image -> ResNet, dilated to 1/8 -> 3x3 -> local relation -> 3x3, joined with its input by a
    3x3, dropout, 1x1 -> logits at 1/8

    x ─┬─ 1x1: query ┐
       ├─ 1x1: key ──┴─ likeness to each neighbor ─┐
       │     places ─── 1x1, ReLU, 1x1: prior ────(+)─ softmax over the window ─┐
       └────────────────────────────────────────────────────────────────── weighted sum ─ 1x1 -> y

    weight      w[i, s, g] = softmax over s of F(q[i, g], k[i + s, g]) + prior[s, g]
    sum         y[i, c] = sum over s of w[i, s, g(c)] x[i + s, c];   8 channels c share a group g
    product     F(q, k) = q k
    absolute    F(q, k) = -|q - k|
    squared     F(q, k) = -(q - k)^2

Departures:
- The paper puts the layer in place of the 3x3 convolutions of a ResNet, for classification; nothing
  was seen of segmentation. Here it stands in the network and the recipe in which operators are
  compared.
- The authors released the layer's core for CUDA (microsoft/Swin-Transformer, branch LR-Net), and no
  network. What it computes is computed here: groups are channels in a row, numbers of a group are
  scalars, and a neighbor beyond the map has a likeness of -100 and the value 0. The product is its
  default.
- What stands around the core was read in re-implementations (gan3sh500/local-relational-nets and
  Anonymous-so/Local-Relation-Networks-for-Image-Recognition): the query and the key by a 1x1, the
  prior by two layers, the narrow one half as wide, of places in pixels, and the last 1x1.
- The rows vary what the paper does: the window, the likeness, and whether there is a prior. No
  figure of its tables was seen.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.families.common import CHANNELS, OperatorNet, common

SHARING = 8  # channels of a group
BEYOND = -100.0  # the likeness of a neighbor that is not on the map

# --- local relation layer (section 3)


def product(query: Tensor, key: Tensor) -> Tensor:
    return query * key


def absolute(query: Tensor, key: Tensor) -> Tensor:
    return -(query - key).abs()


def squared(query: Tensor, key: Tensor) -> Tensor:
    return -((query - key) ** 2)


Likeness = Literal["product", "absolute", "squared"]
LIKENESSES = {"product": product, "absolute": absolute, "squared": squared}


class LocalRelation(nn.Module):
    """A mean of the window around each pixel, by likeness and place, and a 1x1."""

    def __init__(
        self,
        channels: int,
        window: int = 7,
        likeness: Likeness = "product",
        prior: bool = True,
    ) -> None:
        super().__init__()
        groups = channels // SHARING
        self.window = window
        self.likeness = LIKENESSES[likeness]
        self.query = nn.Conv2d(channels, groups, 1)
        self.key = nn.Conv2d(channels, groups, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.prior = None
        if prior:
            narrow = groups // 2
            self.prior = nn.Sequential(nn.Linear(2, narrow), nn.ReLU(), nn.Linear(narrow, groups))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.aggregated(x, self.weights(x)))

    def weights(self, x: Tensor) -> Tensor:
        """Return the weights of each pixel's neighbors, (B, G, window^2, h, w)."""
        likeness = self.likeness(self.query(x)[:, :, None], self.unfolded(self.key(x)))
        on_map = self.unfolded(torch.ones_like(x[:1, :1])) > 0
        logits = torch.where(on_map, likeness, BEYOND)
        if self.prior is not None:
            logits = logits + self.prior(self.places(x)).T[:, :, None, None]  # (G, window^2, 1, 1)
        return logits.softmax(2)

    def unfolded(self, x: Tensor) -> Tensor:
        """Put each pixel's neighbors beside it: (B, C, h, w) -> (B, C, window^2, h, w)."""
        unfolded = F.unfold(x, self.window, padding=self.window // 2)
        return unfolded.unflatten(1, (-1, self.window**2)).unflatten(3, x.shape[2:])

    def places(self, like: Tensor) -> Tensor:
        """Return how far down and right of the middle each neighbor lies, (window^2, 2)."""
        side = torch.arange(self.window, dtype=like.dtype, device=like.device) - self.window // 2
        return torch.cartesian_prod(side, side)

    def aggregated(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the sum of each pixel's neighbors by their weights, (B, C, h, w).

        It goes neighbor by neighbor, since a window of 7x7 would else hold 49 copies of a map.
        """
        height, width = x.shape[2:]
        padded = F.pad(x.unflatten(1, (-1, SHARING)), [self.window // 2] * 4)  # (B, G, 8, ...)
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for place, weight in enumerate(weights.unbind(2)):
            row, column = divmod(place, self.window)
            neighbor = padded[..., row : row + height, column : column + width]
            total = total + neighbor * weight[:, :, None]
        return total.flatten(1, 2)


# --- network


class LocalRelationNet(OperatorNet):
    """The common network around a local relation layer."""

    def __init__(
        self,
        num_classes: int,
        depth: int = 50,
        window: int = 7,
        likeness: Likeness = "product",
        prior: bool = True,
    ) -> None:
        super().__init__(num_classes, depth, LocalRelation(CHANNELS, window, likeness, prior))


# --- experiments

MAIN = common(LocalRelationNet)

EXPERIMENTS = {
    "common": MAIN,
    "window3": MAIN.but(model={"window": 3}),
    "absolute": MAIN.but(model={"likeness": "absolute"}),
    "squared": MAIN.but(model={"likeness": "squared"}),
    "no_prior": MAIN.but(model={"prior": False}),
}
