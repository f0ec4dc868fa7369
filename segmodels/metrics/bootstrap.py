"""Confidence intervals of scores and paired comparisons of two models, over images.

They need one confusion matrix per image. An image is the unit that is drawn, since its pixels are
not independent. The computation uses `margins`, three numbers per image and class instead of C * C,
in blocks of BLOCK draws: 2000 images of 150 classes need some 40 MB beside the input.

The intervals are percentiles of the bootstrap (Efron and Tibshirani: An Introduction to the
Bootstrap, 1993, chapter 13). The p-values are those of a permutation test (Good: Permutation Tests,
2000): the share of draws with a difference at least as large, if for each image a coin decides
which of the two models gave which prediction.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segmodels.metrics.confusion import listed, margins, rates

Interval = tuple[float, float]
MEANS = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
BLOCK = 256  # draws at a time
TRUE = 1  # index of the truth's pixels in margins
TIE = 1e-12  # two orders of summing one mean differ by less
UNKNOWN = (float("nan"), float("nan"))


@dataclass(frozen=True)
class Comparison:
    """The first model against the second one: a positive difference is in the first one's favor.

    Values per class are None if the truth never shows the class. Values per image are of the mean
    IoU over the classes that its truth shows, and None if it shows none.
    """

    difference: float  # of the mIoU
    interval: Interval
    p: float
    class_differences: list[float | None]  # of the IoU
    class_intervals: list[Interval | None]
    class_ps: list[float | None]  # uncorrected: for C classes, Bonferroni's level is C times less
    image_differences: list[float | None]
    wins: int  # images on which the first one is better
    ties: int
    losses: int
    level: float
    draws: int
    seed: int


def interval(
    confusions: Any, statistic: str = "miou", level: float = 0.95, draws: int = 1000, seed: int = 0
) -> Interval:
    """Return the interval of a data set's score, were other images of its kind taken.

    `confusions` holds counts (N, C, C) by image, truth and prediction.
    """
    if statistic not in MEANS:
        raise ValueError(
            f"the statistic {statistic} is none of {', '.join(MEANS)}: name one of them"
        )
    samples = resampled(by_image(confusions), draws, seed)
    drawn = torch.cat([rates(each)[statistic] for each in samples])
    return percentiles(drawn[:, None], level)[0] or UNKNOWN


def class_intervals(
    confusions: Any, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> list[Interval | None]:
    """Return the interval of each class's IoU, over the draws in which the class occurs.

    It is None for a class that never occurs.
    """
    samples = resampled(by_image(confusions), draws, seed)
    return percentiles(torch.cat([rates(each)["iou"] for each in samples]), level)


def image_scores(confusions: Any) -> list[float | None]:
    """Return each image's mean IoU over the classes that its truth shows.

    So a stray pixel of another class costs the class that it hits, and adds no class with IoU 0.
    """
    return listed(image_means(by_image(confusions)))


def paired(a: Any, b: Any, level: float = 0.95, draws: int = 1000, seed: int = 0) -> Comparison:
    """Compare two models on the same images, from counts (N, C, C) of each."""
    a = by_image(a)
    b = by_image(b)
    if a.shape != b.shape or not torch.equal(a[:, TRUE], b[:, TRUE]):
        raise ValueError(
            "the two models were not judged on the same images: judge both on one split with "
            "the same labels"
        )
    both = torch.cat([a, b], -1)  # (N, 3, 2C): the same images are drawn for both
    drawn = torch.cat([difference(*each.chunk(2, -1)) for each in resampled(both, draws, seed)])
    swapped = torch.cat([difference(*each) for each in exchanged(a, b, draws, seed)])
    seen = difference(a.sum(0), b.sum(0))
    as_large = swapped.abs() >= seen.abs() - TIE
    # The observed assignment counts as one of the draws, hence 1 + .
    ps = (1 + as_large.double().sum(0)) / (1 + draws)
    ps = ps.masked_fill(seen.isnan(), float("nan"))
    limits = percentiles(drawn.masked_fill(seen.isnan(), float("nan")), level)
    images = image_means(a) - image_means(b)
    return Comparison(
        difference=seen[0].item(),
        interval=limits[0] or UNKNOWN,
        p=ps[0].item(),
        class_differences=listed(seen[1:]),
        class_intervals=limits[1:],
        class_ps=listed(ps[1:]),
        image_differences=listed(images),
        wins=int((images > 0).sum()),
        ties=int((images == 0).sum()),
        losses=int((images < 0).sum()),
        level=level,
        draws=draws,
        seed=seed,
    )


# --- the pieces


def by_image(confusions: Any) -> Tensor:
    """Turn counts (N, C, C), a tensor or an array, into margins (N, 3, C) float64."""
    confusions = torch.as_tensor(confusions)
    if confusions.ndim != 3 or confusions.shape[1] != confusions.shape[2] or not len(confusions):
        raise ValueError(
            f"counts of the shape {tuple(confusions.shape)} are not (images, classes, "
            "classes): give one matrix per image"
        )
    return margins(confusions).double().cpu()


def blocks(draws: int, seed: int) -> Iterator[tuple[int, torch.Generator]]:
    if draws < 1:
        raise ValueError(f"{draws} draws tell nothing: take 1000 or more")
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, draws, BLOCK):
        yield min(BLOCK, draws - start), generator


def resampled(images: Tensor, draws: int, seed: int) -> Iterator[Tensor]:
    """Yield sums over N images drawn with replacement: (N, 3, C) -> blocks of (draws, 3, C)."""
    count = len(images)
    for size, generator in blocks(draws, seed):
        taken = torch.randint(count, (size, count), generator=generator)
        times = torch.zeros(size, count, dtype=torch.float64)
        times.scatter_add_(1, taken, torch.ones_like(times))
        sums = times @ images.flatten(1)  # (draws, N) x (N, 3*C)
        yield sums.unflatten(1, images.shape[1:])  # (draws, 3*C) -> (draws, 3, C)


def exchanged(a: Tensor, b: Tensor, draws: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield blocks of both models' sums after a coin per image has swapped their predictions.

    The sums are of whole numbers, so they are exact.
    """
    together = (a + b).sum(0)
    change = (a - b).flatten(1)  # (N, 3, C) -> (N, 3*C)
    for size, generator in blocks(draws, seed):
        coins = torch.randint(2, (size, len(a)), generator=generator).double()
        first = b.sum(0) + (coins @ change).unflatten(1, a.shape[1:])  # (draws, 3, C)
        yield first, together - first


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Return a's mIoU less b's, then the same of each class's IoU: (..., 3, C) -> (..., 1 + C).

    It is nan for a class of which the truth has no pixel.
    """
    ours = rates(a)
    theirs = rates(b)
    classes = (ours["iou"] - theirs["iou"]).masked_fill(a[..., TRUE, :] == 0, float("nan"))
    return torch.cat([(ours["miou"] - theirs["miou"])[..., None], classes], -1)


def image_means(images: Tensor) -> Tensor:
    return rates(images)["iou"].masked_fill(images[:, TRUE] == 0, float("nan")).nanmean(-1)


def percentiles(drawn: Tensor, level: float) -> list[Interval | None]:
    """Return the middle `level` of each column of (draws, K), without its nan."""
    if not 0 < level < 1:
        raise ValueError(f"the level {level} is not between 0 and 1: 0.95 is usual")
    shares = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    ends = drawn.nanquantile(shares, dim=0)  # (2, K)
    return [None if low != low else (low, high) for low, high in ends.T.tolist()]
