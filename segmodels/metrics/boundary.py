"""Boundary metrics: boundary F1, boundary IoU, and confusion matrices near the true boundaries.

The functions take the maps of one image, uint8 (H, W) on any device, and return int64 counts that
add up over images.

A boundary pixel has, above, below, left or right of it, a pixel of another class. Ignored pixels
(255) neither count nor make a boundary, and predictions there are left out: the edge of an
unlabeled hood is no boundary of the street. If a data set ignores the outlines themselves (VOC's
are five pixels wide) little is left to count, and these scores mean little. The image's border
makes no boundary either, because it would always be matched (Matlab's bfscore counts it); boundary
IoU alone follows its authors, who count it.
"""

from collections.abc import Callable, Sequence
from math import ceil, hypot, isqrt

import torch
from torch import Tensor

IGNORED = 255
BITS = 8  # classes that are widened at once, one per bit of a uint8
ROWS = 256  # widened at once: they fit into the cache, which makes 8192x4096 three times as fast


def boundary_counts(
    predicted: Tensor, label: Tensor, num_classes: int, tolerance: float = 0.0075
) -> Tensor:
    """Count boundary pixels per class (C, 4): predicted, of these matched, true, of these matched.

    A boundary pixel is matched if the other map has a boundary pixel of the same class at most
    `tolerance` image diagonals away. The share is that of Csurka et al. (BMVC 2013) and of Matlab's
    bfscore; it is rounded up to whole pixels and met by equality, as in DAVIS' and GSCNN's code, so
    that a small image still forgives one pixel. 1024x2048 forgives 18.
    """
    pixels = ceil(tolerance * hypot(*label.shape))
    guess = outline(predicted.masked_fill(label == IGNORED, IGNORED))
    true = outline(label)
    precision = _matched(guess, true, num_classes, pixels)
    recall = _matched(true, guess, num_classes, pixels)
    return torch.stack([*precision, *recall], dim=1)


def boundary_scores(counts: Tensor) -> dict[str, float | list[float | None]]:
    """Return F1, precision and recall per class, and the mean F1, from counts (N, C, 4).

    A score is made per image, then averaged over images, as Csurka et al. argue: F1 and recall over
    the images in which the class has a true boundary (without a predicted one they are 0),
    precision over those in which it has a predicted one. As in `scores`, a class that is only
    predicted has F1 0, and one that occurs nowhere has None and is left out. GSCNN's code counts an
    image without the class as 1, so its figures are higher. SegNet (arXiv:1511.00561) and Matlab
    average the classes of an image first, then the images: rare classes weigh less there.
    """
    predicted, hit, true, met = counts.to(torch.float64).unbind(-1)  # (N, C)
    precision = hit / predicted.clamp(min=1)
    recall = met / true.clamp(min=1)
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
    """Count the intersection and the union of the areas along the boundaries (C, 2).

    It is the boundary IoU of Cheng et al. (arXiv:2103.16562). A class's area is what `width` image
    diagonals of erosion by a 3x3 square would remove, border of the image included, as in the
    authors' code (boundary-iou-api 37d2558). Unlike there, an ignored pixel does not erode its
    neighbors. 1024x2048 erodes by 46.
    """
    pixels = max(round(width * hypot(*label.shape)), 1)
    predicted = predicted.masked_fill(label == IGNORED, IGNORED)
    guess = predicted.where(_beside_another(predicted, pixels), IGNORED)
    true = label.where(_beside_another(label, pixels), IGNORED)
    sizes = _count(guess, num_classes) + _count(true, num_classes)
    both = _count(guess.where(guess == true, IGNORED), num_classes)
    return torch.stack([both, sizes - both], dim=1)


def boundary_iou_scores(counts: Tensor) -> dict[str, float | list[float | None]]:
    """Return boundary IoU per class and its mean, from counts (C, 2) summed over images.

    A class that occurs nowhere has None.
    """
    iou = [both / union if union else None for both, union in counts.tolist()]
    known = [each for each in iou if each is not None]
    return {
        "boundary_miou": sum(known) / len(known) if known else float("nan"),
        "boundary_iou": iou,
    }


def band_confusions(
    predicted: Tensor, label: Tensor, num_classes: int, radii: Sequence[int] = (1, 2, 4, 8, 16, 32)
) -> Tensor:
    """Return confusion matrices (R, C, C) of bands along the true boundaries, by ascending `radii`.

    A trimap, as Kohli et al. (IJCV 2009) and Krähenbühl and Koltun (NIPS 2011) score it by pixels
    and DeepLab (arXiv:1412.7062) by mIoU: `scores` computes both from a matrix. Radius r is r
    pixels on each side of a straight boundary: a pixel is in the band if its center is nearer than
    r to that of a boundary pixel. DeepLab's band on VOC lies around the ignored outlines, which
    make no boundary here.
    """
    boundary = (outline(label) != IGNORED).to(torch.uint8)
    ring = torch.full_like(label, len(radii))  # the first of `radii` that reaches the pixel
    for radius in radii:
        ring -= widened(boundary, radius * radius - 1)
    within = (ring < len(radii)) & (label != IGNORED)
    place = (ring[within].int() * num_classes + label[within].int()) * num_classes
    counts = torch.bincount(place + predicted[within].int(), minlength=len(radii) * num_classes**2)
    counts = counts.reshape(len(radii), num_classes, num_classes)  # (R * C * C,) -> (R, C, C)
    return counts.cumsum(0)  # a wider band contains the narrower ones


# --- boundaries, and pixels near them


def outline(classes: Tensor) -> Tensor:
    """Return the class of each boundary pixel, 255 elsewhere."""
    edge = torch.zeros_like(classes, dtype=torch.bool)
    for dim in (0, 1):
        size = classes.shape[dim] - 1
        one = classes.narrow(dim, 0, size)
        other = classes.narrow(dim, 1, size)
        differ = (one != other) & (one != IGNORED) & (other != IGNORED)
        edge.narrow(dim, 0, size).logical_or_(differ)
        edge.narrow(dim, 1, size).logical_or_(differ)
    return classes.where(edge, IGNORED)


def widened(bits: Tensor, square: int) -> Tensor:
    """Spread every bit of uint8 (H, W) over the pixels whose squared distance is at most `square`.

    It is exact, in integers.
    """
    reach = isqrt(square)
    strips = []
    for top in range(0, len(bits), ROWS):
        above = min(top, reach)
        strips.append(_discs(bits[top - above : top + ROWS + reach], square)[above : above + ROWS])
    return torch.cat(strips)


def _discs(bits: Tensor, square: int) -> Tensor:
    """Widen one strip: from the disc's top row, the narrowest, to its middle, runs only grow."""
    height = len(bits)
    disc = torch.zeros_like(bits)
    run = bits  # every bit spread over `half` pixels to the left and to the right
    half = 0
    for rows in range(isqrt(square), -1, -1):  # above and below the middle
        while (half + 1) ** 2 + rows**2 <= square:
            wider = run.clone()
            wider[:, 1:] |= run[:, :-1]
            wider[:, :-1] |= run[:, 1:]
            run = wider
            half += 1
        disc[rows:] |= run[: max(height - rows, 0)]
        disc[: max(height - rows, 0)] |= run[rows:]
    return disc


def _matched(ours: Tensor, theirs: Tensor, num_classes: int, pixels: int) -> tuple[Tensor, Tensor]:
    """Count boundary pixels of ours (C,), and those with one of theirs near by (C,).

    Near by is one of the same class within so many pixels.
    """
    spots = (ours != IGNORED).flatten().nonzero()[:, 0]  # (H, W) -> (boundary pixels,)
    classes = ours.flatten()[spots].long()  # (H, W) -> (boundary pixels,)
    total = torch.bincount(classes, minlength=num_classes)
    matched = torch.zeros(num_classes, dtype=torch.int64, device=ours.device)
    shared = ((total > 0) & (_count(theirs, num_classes) > 0)).nonzero()[:, 0]
    for some in shared.split(BITS):
        bit = torch.zeros(IGNORED + 1, dtype=torch.uint8, device=ours.device)
        bit[some] = 1 << torch.arange(len(some), dtype=torch.uint8, device=ours.device)
        widened_bits = widened(bit[theirs.int()], pixels * pixels)
        near = widened_bits.flatten()[spots]  # (H, W) -> (boundary pixels,)
        matched += torch.bincount(classes[(near & bit[classes]) > 0], minlength=num_classes)
    return total, matched


def _beside_another(classes: Tensor, pixels: int) -> Tensor:
    """Return where the square of this radius holds another class or leaves the image."""
    height, width = classes.shape
    beside = torch.ones_like(classes, dtype=torch.bool)
    length = 2 * pixels + 1
    if min(height, width) >= length:
        low = classes
        high = classes.masked_fill(classes == IGNORED, 0)
        for dim in (0, 1):
            low = _windows(torch.minimum, low, length, dim)
            high = _windows(torch.maximum, high, length, dim)
        # In a window of ignored pixels alone, low is 255 and high 0.
        beside[pixels:-pixels, pixels:-pixels] = low < high
    return beside


def _windows(
    merge: Callable[[Tensor, Tensor], Tensor], values: Tensor, length: int, dim: int
) -> Tensor:
    """Return the minimum or maximum of every window of `length`, by doubling the window."""
    span = 1
    while span < length:
        step = min(span, length - span)
        size = values.shape[dim] - step
        values = merge(values.narrow(dim, 0, size), values.narrow(dim, step, size))
        span += step
    return values


def _count(classes: Tensor, num_classes: int) -> Tensor:
    return torch.bincount(classes[classes != IGNORED], minlength=num_classes)


def _mean(values: Tensor, known: Tensor) -> list[float | None]:
    """Average (N, C) over the images in which it is known; None if there is none."""
    sums = (values * known).sum(0).tolist()
    images = known.sum(0).tolist()
    return [total / count if count else None for total, count in zip(sums, images)]
