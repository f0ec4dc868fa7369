"""A2-Nets: Double Attention Networks
Chen, Kalantidis, Li, Yan, Feng. NeurIPS 2018. arXiv:1810.11579

What a position needs from the rest of an image is not every other position but a few of the things
that it shows. A first attention gathers these: n descriptors, each a mean over all positions. A
second one gives every position its own mixture of them.

    image -> ResNet, dilated to 1/8 -> 3x3 -> double attention -> 3x3, joined with its input by a
    3x3, dropout, 1x1 -> logits at 1/8

    x ─┬─ 1x1: A (m x N) ─────────────────────────┐
       ├─ 1x1: B (n x N), softmax over N ── G = A B' (m x n) ─┐
       ├─ 1x1: V (n x N), softmax over n ─────────────── Z = G V (m x N) ── 1x1, BN ─ (+) -> out
       └──────────────────────────────────────────────────────────────────────────────┘

    gathering      g[k] = sum over j of softmax over j of (theta(x[j]))[k] phi(x[j])
    distribution   z[i] = sum over k of softmax over k of (rho(x[i]))[k] g[k]

    (A B') V = A (B' V): on the right stand the N x N weights of a non-local mean, on the left no
    more than m x n numbers. Both give the same, for N^2 (m + n) products or for 2 N m n.

Departures:
- The paper classifies images and videos and has no figure for segmentation; no code of the authors'
  is known. Network and recipe are those in which all operators are compared, and the only rows.
- m and n are a quarter of the channels, as in the paper's ablations.
- The batch norm behind the last 1x1 starts at zero, so that the block starts as the identity, like
  the non-local one; what the paper has there was not found.
"""

from torch import Tensor, nn

from segmodels.families.common import CommonNet, common
from segmodels.parts.layers import conv_bn

# --- double attention (section 3); N positions


class DoubleAttention(nn.Module):
    """Gather n descriptors of the map, give each position a mixture of them, add it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 4
        self.phi = nn.Conv2d(channels, width, 1)
        self.theta = nn.Conv2d(channels, width, 1)
        self.rho = nn.Conv2d(channels, width, 1)
        self.out = conv_bn(width, channels, 1)
        nn.init.zeros_(self.out[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        embeddings = self.phi, self.theta, self.rho
        a, b, v = (each(x).flatten(2) for each in embeddings)  # (B, C, h, w) -> (B, C/4, N)
        descriptors = a @ b.softmax(2).mT  # (B, m, N) x (B, N, n) -> (B, m, n)
        mixtures = descriptors @ v.softmax(1)  # (B, m, n) x (B, n, N) -> (B, m, N)
        return x + self.out(mixtures.unflatten(2, x.shape[2:]))


# --- network


class Common(CommonNet):
    """Double attention in the network in which operators are compared."""

    operator = DoubleAttention


# --- experiments

MAIN = common(Common)

EXPERIMENTS = {"common": MAIN}
