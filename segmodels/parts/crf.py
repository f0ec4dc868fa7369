"""Fully-connected CRF: a label map follows the edges of its image.

Philipp Krähenbühl, Vladlen Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials (NIPS 2011, arXiv:1210.5644), as DeepLab v1 and v2 refine their score maps with it.

With the network's probabilities P, positions p and colors I of pixels, a label map x has the energy

    E(x) = sum_i -log P_i(x_i) + sum_{i<j} [x_i != x_j] (w_a a_ij + w_s s_ij)
    a_ij = exp(-|p_i - p_j|^2 / 2 sigma_p^2 - |I_i - I_j|^2 / 2 sigma_c^2)   the appearance kernel
    s_ij = exp(-|p_i - p_j|^2 / 2 sigma_s^2)                                 the smoothness kernel

so that two near pixels of one color pay for different classes. A step of the mean field is

    Q_i(l) = softmax_l(log P_i(l) + sum_j (w_a a_ij + w_s s_ij) Q_j(l))

The sum over all pixels j is a Gaussian filter of Q in the space of positions and colors. As in the
authors' code each kernel k is normalized to k_ij / sqrt(sum_m k_im sum_m k_jm), and j = i counts
too, which the paper leaves out.

`Lattice` filters in time linear in the pixels: the permutohedral lattice of Adams, Baek and Davis
(Fast High-Dimensional Filtering Using the Permutohedral Lattice, Eurographics 2010). `exact` sums
over all pairs of pixels, for small images and tests.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.parts.resize import compute_dtype

LEAST = 1e-5  # of a probability, as pydensecrf's unary_from_softmax bounds it
PAIRS = 2**18  # of pixels, whose kernel `exact` holds at one time
NOTHING = -80.0  # an exponent; below it exp is many times slower, for it makes subnormal numbers
Filter = Callable[[Tensor], Tensor]  # (pixels, channels) -> (pixels, channels)
MakeFilter = Callable[[Tensor], Filter]  # of features (pixels, d) in standard deviations


@dataclass(frozen=True)
class Settings:
    """Steps, and the weights and standard deviations of both kernels; DeepLab v2's released ones."""

    steps: int = 10
    appearance_weight: float = 4.0
    appearance_position: float = 67.0  # in pixels
    appearance_color: float = 3.0  # in levels of 0 to 255
    smoothness_weight: float = 3.0
    smoothness_position: float = 1.0


# --- the permutohedral lattice


def elevated(features: Tensor) -> Tensor:
    """Map points (N, d) onto the plane of d + 1 coordinates whose sum is 0.

    Distances grow so far that splatting, blurring and slicing have a standard deviation of 1.
    """
    d = features.shape[1]
    column = torch.arange(1, d + 1, device=features.device, dtype=features.dtype)
    ones = torch.ones(d + 1, d, device=features.device, dtype=features.dtype)
    basis = ones.triu() - F.pad(column.diag(), (0, 0, 1, 0))  # orthogonal columns
    length = (column * (column + 1)).sqrt()
    return features @ (basis / length).T * (math.sqrt(2 / 3) * (d + 1))


def corners_of(features: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Return the keys (N, d + 1) of the corners of each point's simplex, and its weights there.

    A vertex has whole coordinates that have the sum 0 and one remainder by d + 1. Its key is a sum
    of coordinates times strides. The third value is the step in keys along each of the axes.
    """
    d = features.shape[1]
    position = elevated(features) / (d + 1)
    nearest = position.round()
    rest = position - nearest
    # The sum must be 0. If it is n, the n coordinates that were rounded up furthest go back by one.
    excess = nearest.sum(1, keepdim=True)
    rank = rest.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    back = (rank > d - excess).to(rest.dtype) - (rank < -excess).to(rest.dtype)
    nearest -= back
    # Of equal rests the first comes last. Corners of weight 0 exist too; this order says which.
    rest, order = (rest + back).sort(dim=1, descending=True, stable=True)
    rest, order = rest.flip(1), order.flip(1)
    weights = rest.diff(dim=1, prepend=rest[:, -1:] - 1)  # barycentric coordinates

    sides = (nearest.amax(0) - nearest.amin(0) + 3) * (d + 1)  # with neighbors
    strides = strides_of([int(side) for side in sides])
    stride = torch.tensor(strides, device=features.device)
    # Corner k: the nearest vertex plus k, less d + 1 at the k coordinates of least rest
    first = (nearest.long() * (d + 1) * stride).sum(1, keepdim=True)
    less = F.pad(stride[order[:, :-1]].cumsum(1), (1, 0)) * (d + 1)
    keys = first + torch.arange(d + 1, device=features.device) * stride.sum() - less
    return keys, weights, [(d + 1) * each - sum(strides) for each in strides]


def strides_of(sides: list[int]) -> list[int]:
    """Return a stride for each coordinate; the last one follows from the others and has 0."""
    *strides, size = accumulate(reversed(sides[:-1]), mul, initial=1)
    if size > 2**62:
        raise ValueError(
            f"a lattice of {' x '.join(map(str, sides[:-1]))} vertices is too fine; the standard "
            "deviations of the CRF must be larger"
        )
    return [*reversed(strides), 0]


def neighbors_along(vertices: Tensor, step: int) -> Tensor:
    """Return the rows (M + 1, 3) of the vertex after, of each itself, and of the vertex before.

    One that does not exist is row M, which is its own neighbor.
    """
    count = len(vertices)
    own = torch.arange(count, device=vertices.device)
    wanted = vertices + step
    place = torch.searchsorted(vertices, wanted).clamp_(max=count - 1)
    after = torch.where(vertices[place] == wanted, place, count)
    before = torch.full((count + 1,), count, device=vertices.device).scatter_(0, after, own)
    rows = torch.stack([after, own, before[:-1]], 1)
    return F.pad(rows, (0, 0, 0, 1), value=count)


def weighted_sums(
    rows: Tensor, values: Tensor, weights: Tensor, starts: Tensor | None = None
) -> Tensor:
    """Sum rows of `values`: those that each row of `rows` names, or those between `starts`."""
    weights = weights.to(values.dtype)
    return F.embedding_bag(rows, values, starts, mode="sum", per_sample_weights=weights)


class Lattice:
    """A Gaussian filter on the permutohedral lattice, whose cells are simplices.

    Each pixel is split among the d + 1 corners of the simplex that it lies in, vertices are blurred
    along each of d + 1 axes, and a pixel is the mean of its corners. Only corners of pixels exist.
    """

    def __init__(self, features: Tensor) -> None:
        keys, weights, steps = corners_of(features)
        vertices, corners, counts = keys.unique(return_inverse=True, return_counts=True)
        self.corners = corners.int()  # (N, d + 1)
        self.weights = weights.float()
        order = corners.flatten().argsort()  # vertex by vertex
        self.pixels = order.div(len(steps), rounding_mode="floor").int()
        self.shares = self.weights.flatten()[order]
        self.starts = F.pad(counts.cumsum(0), (1, 0)).int()  # of M vertices, and of one without any
        self.neighbors = [neighbors_along(vertices, step).int() for step in steps]
        self.blur = torch.tensor([0.5, 1, 0.5], device=features.device).repeat(len(self.starts), 1)

    def __call__(self, values: Tensor) -> Tensor:
        held = weighted_sums(self.pixels, values, self.shares, self.starts)
        for neighbors in self.neighbors:
            held = weighted_sums(neighbors, held, self.blur)
        return weighted_sums(self.corners, held, self.weights)


# --- the mean field


def exact(features: Tensor) -> Filter:
    """Return the filter that sums over all pairs of pixels, a block of them at a time."""
    half = features.square().sum(1, keepdim=True) / 2
    ones = torch.ones_like(half)
    left = torch.cat([features, -half, ones], 1)
    right = torch.cat([features, ones, -half], 1)  # left_i . right_j = -|f_i - f_j|^2 / 2
    block = max(1, PAIRS // len(features))

    def filtered(values: Tensor) -> Tensor:
        sums = []
        for rows in left.split(block):
            exponent = (rows @ right.T).to(values.dtype)
            sums.append(exponent.clamp_(min=NOTHING).exp_() @ values)
        return torch.cat(sums)

    return filtered


def normalized(kernel: Filter, features: Tensor) -> Filter:
    """Divide a kernel by the roots of its sums at both of its pixels."""
    scale = kernel(torch.ones(len(features), 1, device=features.device)).rsqrt()

    def filtered(values: Tensor) -> Tensor:
        return kernel(values * scale) * scale

    return filtered


def kernels_of(
    image: Tensor, settings: Settings, make_filter: MakeFilter
) -> list[tuple[float, Filter]]:
    """Return the kernels of an image (3, H, W), each after its weight, which is not 0."""
    height, width = image.shape[-2:]
    y = torch.arange(height, device=image.device).expand(width, -1).T
    x = torch.arange(width, device=image.device).expand(height, -1)
    position = torch.stack([x, y]).double().flatten(1).T  # (2, H, W) -> (H*W, 2)
    color = image.double().flatten(1).T  # (3, H, W) -> (H*W, 3)
    near = position / settings.appearance_position
    alike = color / settings.appearance_color
    kernels = [
        (settings.appearance_weight, torch.cat([near, alike], 1)),
        (settings.smoothness_weight, position / settings.smoothness_position),
    ]
    return [
        (weight, normalized(make_filter(features), features))
        for weight, features in kernels
        if weight
    ]


@torch.no_grad()
def marginals(
    probabilities: Tensor,
    image: Tensor,
    settings: Settings = Settings(),
    make_filter: MakeFilter = Lattice,
) -> Tensor:
    """Return the probabilities (C, H, W) of the mean field, from a network's and uint8 RGB.

    `make_filter` is `Lattice` or, for small images, `exact`.
    """
    _, height, width = probabilities.shape
    with torch.autocast(probabilities.device.type, enabled=False):
        kernels = kernels_of(image, settings, make_filter)
        unary = probabilities.to(compute_dtype(probabilities)).clamp(min=LEAST).log()
        unary = unary.flatten(1).T.contiguous()  # (C, H, W) -> (H*W, C)
        refined = unary.softmax(1)
        for _ in range(settings.steps):
            total = unary.clone()
            for weight, kernel in kernels:
                total.add_(kernel(refined), alpha=weight)
            refined = total.softmax(1)
    return refined.T.unflatten(1, (height, width))
