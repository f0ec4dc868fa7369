"""How well the outlines are met: boundary F1, boundary IoU, and the confusion matrix in bands along
the true boundaries.

Everything here takes the maps of one image, uint8 (H, W) on any device, and returns int64 counts
that add up over images and ranks.

A boundary pixel has, above, below, left or right of it, a pixel of another class. Ignored pixels
(255) neither count nor make a boundary, and what is predicted there is left out: the edge of a hood
that nobody labeled is no boundary of the street. Where a data set ignores the outlines themselves
(VOC's are five pixels wide) little is left to count, and these scores say little. The image's
border makes no boundary either, because it would always be met (Matlab's bfscore counts it);
boundary IoU alone follows its authors, who count it.
"""

from collections.abc import Callable, Sequence
from math import ceil, hypot, isqrt

import torch
from torch import Tensor

IGNORED = 255
BITS = 8  # classes that are widened at once, one per bit of a uint8
# that are widened at once: they stay in a processor's cache, which makes 8192x4096 three times as
# fast
ROWS = 256


def boundary_counts(
    predicted: Tensor, label: Tensor, num_classes: int, tolerance: float = 0.0075
) -> Tensor:
    """(C, 4): boundary pixels predicted, of them matched, true, of them matched.

    A boundary pixel is matched if the other map has a boundary pixel of the same class at most
    `tolerance` image diagonals away. The share is that of Csurka et al. (BMVC 2013) and of Matlab's
    bfscore; it is rounded up to whole pixels and met by equality, as in DAVIS' and GSCNN's code, so
    that a small image still forgives one pixel. 1024x2048 forgives 18.
    """
    pixels = ceil(tolerance * hypot(*label.shape))
    found, true = outline(predicted.masked_fill(label == IGNORED, IGNORED)), outline(label)
    return torch.stack(
        [*_matched(found, true, num_classes, pixels), *_matched(true, found, num_classes, pixels)],
        dim=1,
    )


def boundary_scores(counts: Tensor) -> dict[str, float | list[float | None]]:
    """Of (N, C, 4): F1, precision and recall per class, and the mean F1 of the classes.

    A score is made per image, then averaged over images, as Csurka et al. argue: F1 and recall over
    the images in which the class has a true boundary (without a predicted one they are 0),
    precision over those in which it has a predicted one. As in `scores`, a class that is only
    predicted has F1 0, and one that occurs nowhere has None and is left out. GSCNN's code counts an
    image without the class as 1, so its figures are higher. SegNet (arXiv:1511.00561) and Matlab
    average the classes of an image first, then the images: rare classes weigh less there.
    """
    predicted, hit, true, met = counts.to(torch.float64).unbind(-1)  # (N, C)
    precision, recall = hit / predicted.clamp(min=1), met / true.clamp(min=1)
    f1 = 2 * precision * recall / (precision + recall).where(precision + recall > 0, 1)
    occurs = true.any(0)
    f1 = _mean(f1, (true > 0) | ((predicted > 0) & ~occurs))
    known = [each for each in f1 if each is not None]
    return {
        "boundary_f1": sum(known) / len(known) if known else float("nan"),
        "f1": f1,
        "precision": _mean(precision, predicted > 0),
        "recall": _mean(recall, true > 0),
    }


def boundary_iou_counts(
    predicted: Tensor, label: Tensor, num_classes: int, width: float = 0.02
) -> Tensor:
    """(C, 2): intersection and union of the areas along the boundaries (Cheng et al.,
    arXiv:2103.16562).

    A class's area is what `width` image diagonals of erosion by a 3x3 square would take off it,
    border of the image included, as in the authors' code (boundary-iou-api 37d2558); unlike there,
    an ignored pixel takes nothing off its neighbours. 1024x2048 erodes by 46.
    """
    pixels = max(round(width * hypot(*label.shape)), 1)
    predicted = predicted.masked_fill(label == IGNORED, IGNORED)
    found, true = (
        predicted.where(_beside_another(predicted, pixels), IGNORED),
        label.where(_beside_another(label, pixels), IGNORED),
    )
    sizes = _count(found, num_classes) + _count(true, num_classes)
    both = _count(found.where(found == true, IGNORED), num_classes)
    return torch.stack([both, sizes - both], dim=1)


def boundary_iou_scores(counts: Tensor) -> dict[str, float | list[float | None]]:
    """Of (C, 2), summed over images as for mIoU: boundary IoU per class (None where the class
    occurs nowhere) and its mean."""
    iou = [both / union if union else None for both, union in counts.tolist()]
    known = [each for each in iou if each is not None]
    return {
        "boundary_miou": sum(known) / len(known) if known else float("nan"),
        "boundary_iou": iou,
    }


def band_confusions(
    predicted: Tensor, label: Tensor, num_classes: int, radii: Sequence[int] = (1, 2, 4, 8, 16, 32)
) -> Tensor:
    """(R, C, C): the confusion matrix of the pixels in a band along the true boundaries; `radii`
    ascend.

    A trimap, as Kohli et al. (IJCV 2009) and Krähenbühl and Koltun (NIPS 2011) score it by pixels
    and DeepLab (arXiv:1412.7062) by mIoU: `scores` makes either of a matrix. Radius r is r pixels
    on each side of a straight boundary: a pixel is in it if its center is nearer than r to that of
    a boundary pixel. DeepLab's band on VOC lies around the ignored outlines, which make no boundary
    here.
    """
    boundary = (outline(label) != IGNORED).to(torch.uint8)
    ring = torch.full_like(label, len(radii))  # the first of `radii` that reaches the pixel
    for radius in radii:
        ring -= widened(boundary, radius * radius - 1)
    within = (ring < len(radii)) & (label != IGNORED)
    ring, true, found = ring[within].int(), label[within].int(), predicted[within].int()
    counts = torch.bincount(
        (ring * num_classes + true) * num_classes + found, minlength=len(radii) * num_classes**2
    )
    return counts.reshape(len(radii), num_classes, num_classes).cumsum(0)


# What is a boundary, what is near one


def outline(classes: Tensor) -> Tensor:
    """The class where a pixel is one of its boundary's, 255 elsewhere."""
    edge = torch.zeros_like(classes, dtype=torch.bool)
    for dim in (0, 1):
        size = classes.shape[dim] - 1
        one, other = classes.narrow(dim, 0, size), classes.narrow(dim, 1, size)
        differ = (one != other) & (one != IGNORED) & (other != IGNORED)
        edge.narrow(dim, 0, size).logical_or_(differ)
        edge.narrow(dim, 1, size).logical_or_(differ)
    return classes.where(edge, IGNORED)


def widened(bits: Tensor, square: int) -> Tensor:
    """Every bit of uint8 (H, W) spread over the disc of pixels whose squared distance is at most
    `square`: exact, in integers."""
    reach, strips = isqrt(square), []
    for top in range(0, len(bits), ROWS):
        above = min(top, reach)
        strips.append(_discs(bits[top - above : top + ROWS + reach], square)[above : above + ROWS])
    return torch.cat(strips)


def _discs(bits: Tensor, square: int) -> Tensor:
    """From the top row of the disc, which is the narrowest, to its middle, so that each row's run
    only grows."""
    height, run, half, disc = len(bits), bits, 0, torch.zeros_like(bits)
    for rows in range(isqrt(square), -1, -1):  # above and below the middle
        while (half + 1) ** 2 + rows**2 <= square:
            wider = run.clone()
            wider[:, 1:] |= run[:, :-1]
            wider[:, :-1] |= run[:, 1:]
            run, half = wider, half + 1
        disc[rows:] |= run[: max(height - rows, 0)]
        disc[: max(height - rows, 0)] |= run[rows:]
    return disc


def _matched(ours: Tensor, theirs: Tensor, num_classes: int, pixels: int) -> tuple[Tensor, Tensor]:
    """(C,) and (C,): boundary pixels of ours, and those of them that have one of theirs of the same
    class within so many pixels."""
    spots = (ours != IGNORED).flatten().nonzero()[:, 0]
    classes = ours.flatten()[spots].long()
    total, matched = (
        torch.bincount(classes, minlength=num_classes),
        torch.zeros(num_classes, dtype=torch.int64, device=ours.device),
    )
    shared = ((total > 0) & (_count(theirs, num_classes) > 0)).nonzero()[:, 0]
    for some in shared.split(BITS):
        bit = torch.zeros(IGNORED + 1, dtype=torch.uint8, device=ours.device)
        bit[some] = 1 << torch.arange(len(some), dtype=torch.uint8, device=ours.device)
        near = widened(bit[theirs.int()], pixels * pixels).flatten()[spots]
        matched += torch.bincount(classes[(near & bit[classes]) > 0], minlength=num_classes)
    return total, matched


def _beside_another(classes: Tensor, pixels: int) -> Tensor:
    """Where the square of so many pixels to each side holds another class or leaves the image."""
    height, width = classes.shape
    beside, length = torch.ones_like(classes, dtype=torch.bool), 2 * pixels + 1
    if min(height, width) >= length:
        low, high = classes, classes.masked_fill(classes == IGNORED, 0)
        for dim in (0, 1):
            low, high = (
                _windows(torch.minimum, low, length, dim),
                _windows(torch.maximum, high, length, dim),
            )
        beside[pixels:-pixels, pixels:-pixels] = (
            low < high
        )  # in a window that is ignored throughout, low is 255 and high 0
    return beside


def _windows(
    merge: Callable[[Tensor, Tensor], Tensor], values: Tensor, length: int, dim: int
) -> Tensor:
    """The minimum or maximum of every window of `length`, by doubling it."""
    span = 1
    while span < length:
        step = min(span, length - span)
        size = values.shape[dim] - step
        values, span = (
            merge(values.narrow(dim, 0, size), values.narrow(dim, step, size)),
            span + step,
        )
    return values


def _count(classes: Tensor, num_classes: int) -> Tensor:
    return torch.bincount(classes[classes != IGNORED], minlength=num_classes)


def _mean(values: Tensor, known: Tensor) -> list[float | None]:
    """Of (N, C) over the images in which it is known; None where it is in none."""
    sums, images = (values * known).sum(0).tolist(), known.sum(0).tolist()
    return [total / count if count else None for total, count in zip(sums, images)]
