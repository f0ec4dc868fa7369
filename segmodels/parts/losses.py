"""Cross-entropy and hard-example mining that never hold the logits at the label's size.

A loss here is sum(weight * loss) over the pixels of a batch, with weights that carry no gradient.
The logits come at the network's own resolution and are upsampled a block of pixels at a time; a
block gives its loss and its gradient and is forgotten:

    logits (B, C, h, w) -> block of (B, C, H, W) -> log p of the label -> sum(weight * loss)
                                                 └> p - onehot, brought back to (B, C, h, w)

Mining passes over the blocks twice: first for the map of losses, from which a rule makes the
weights, then for the gradient of the pixels that it kept. `block` is the number of upsampled logits
that exist at a time; it changes time and memory, not the result. Where sums are made a block is a
tile that matrix products upsample, if they are exact and on a CPU; elsewhere it is a strip of rows.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.parts.resize import (
    Strip,
    Tile,
    compute_dtype,
    corner_taps,
    products_are_exact,
    strip,
    tiles,
    upsampled_at,
)

IGNORED = 255
# a whole number counts pixels of the batch on this device; a float is a share of them
Amount = int | float
Place = tuple[slice, slice, slice]  # a few images, rows and columns of the label
# A rule takes the unweighted loss (B, H, W), the label and the class weight of each pixel (None
# without class weights), and returns the weights by which the losses are summed. Where the label is
# ignored, the loss is that of class 0; rules differ in whether such a pixel is counted. Whatever
# weight a rule gives it, it adds neither loss nor gradient.
Rule = Callable[[Tensor, Tensor, Tensor | None], Tensor]


# --- losses


def pixel_loss(
    kind: str,
    logits: Tensor,
    label: Tensor,
    *,
    align_corners: bool,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute the loss that a recipe names, such as "cross_entropy" or "hrnet_ohem:0.9,1/48"."""
    name, _, argument = kind.partition(":")
    settings = {"align_corners": align_corners, "class_weights": class_weights}
    if name == "cross_entropy":
        average = argument or "valid"
        return cross_entropy(logits, label, weights=weights, average=average, **settings)
    if weights is not None:
        raise ValueError(
            f"{kind} chooses pixels by itself; weights per pixel go with cross_entropy"
        )
    threshold, *kept = argument.split(",")
    make_rule = RULES[name.removesuffix("_ohem")]
    if make_rule is ccnet_rule:  # the one that asks for the logits
        make_rule = partial(ccnet_rule, logits, align_corners)
    return ohem(logits, label, rule=make_rule(float(threshold), *map(amount, kept)), **settings)


def amount(text: str) -> Amount:
    """Parse a share, "1/16" or "0.0625", or a number of pixels, "10000"."""
    if "/" in text:
        above, below = text.split("/")
        return int(above) / int(below)
    return float(text) if "." in text else int(text)


def cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    align_corners: bool,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
    average: str = "valid",
    block: int | None = None,
) -> Tensor:
    """Compute sum(w * l), where w is the class weight times `weights`, as an average.

    "valid" divides by sum(w), as torch's mean does, "all" by all pixels, ignored ones too, and
    "sum" by nothing.
    """
    _check(logits, label, weights)
    if average not in ("valid", "all", "sum"):
        raise ValueError(
            f"average={average!r} is not known; allowed: 'valid' (divide by the sum of "
            "weights), 'all' (by all pixels), 'sum' (by nothing)"
        )
    table = _weight_of_label(logits, class_weights)
    gradient = _gradient_buffer(logits)

    def weigh(at: Place) -> Tensor:
        weight = _look_up(table, label[at])
        return weight if weights is None else weight * weights[at].detach().to(weight.dtype)

    loss, total_weight = _sum_over_blocks(logits, label, weigh, gradient, align_corners, block)
    divisor = {"valid": _nonzero(total_weight), "all": label.numel(), "sum": 1}[average]
    if gradient is not None:
        gradient.div_(divisor)
    return _with_gradient(logits, loss / divisor, gradient)


def weight_sum(
    label: Tensor, class_weights: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Return the sum of weights that a mean over valid pixels is divided by."""
    table = torch.ones(IGNORED + 1, device=label.device)
    if class_weights is not None:
        table[: len(class_weights)] = class_weights
    table[IGNORED] = 0
    each = _look_up(table, label)
    return (each if weights is None else each * weights).sum()


def ohem(
    logits: Tensor,
    label: Tensor,
    *,
    align_corners: bool,
    rule: Rule,
    class_weights: Tensor | None = None,
    block: int | None = None,
) -> Tensor:
    """Compute the cross-entropy over the hard pixels that `rule` keeps.

    If it keeps none, loss and gradient are 0.
    """
    _check(logits, label)
    loss = _pixel_losses(logits, label, align_corners, block)
    weight = None
    if class_weights is not None:
        weight = _look_up(_weight_of_label(logits, class_weights), label)
    with torch.no_grad():
        kept = rule(loss, label, weight)
    ignored = label == IGNORED
    kept.masked_fill_(ignored, 0)
    loss = loss.masked_fill_(ignored, 0).mul_(kept).sum()
    gradient = _gradient_buffer(logits)
    if gradient is not None:

        def weigh(at: Place) -> Tensor:
            return kept[at]

        _sum_over_blocks(logits, label, weigh, gradient, align_corners, block)
    return _with_gradient(logits, loss, gradient)


# --- rules of mining: the pixels that each code line keeps, and its divisor


def torchseg_rule(threshold: float, min_kept: Amount) -> Rule:
    """BiSeNet (TorchSeg), SFNet: p <= max(threshold, min_kept-th smallest p).

    Nothing is mined if min_kept is 0 or above the number of valid pixels.
    """
    _check_rule(threshold, min_kept)

    def rule(loss: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        count = _pixels(min_kept, label)
        valid = label != IGNORED
        p = torch.exp(-loss).masked_fill_(~valid, 1)
        # The limit is 1 also if an ignored pixel is the min_kept-th.
        limit = _kth_smallest(p, count).clamp_(min=threshold if count else 1)
        kept = valid & (p <= limit)
        return normalized(_weighted(kept, weight, loss))

    return rule


def hrnet_rule(threshold: float, min_kept: Amount) -> Rule:
    """HRNet, OCR, DDRNet, PIDNet: p < max(threshold, the p after the min_kept smallest).

    The sum is divided by the number of kept pixels.
    """
    _check_rule(threshold, min_kept)

    def rule(loss: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        kept = _below(loss, label != IGNORED, threshold, max(_pixels(min_kept, label), 1))
        return _weighted(kept, weight, loss) / kept.sum().clamp(min=1)

    return rule


def openseg_rule(threshold: float, min_kept: Amount) -> Rule:
    """OCNet, ISANet, OCRNet: HRNet's rule, in which the batch's first pixel always takes part.

    If it is ignored, it counts as class 0 and has no loss.
    """
    _check_rule(threshold, min_kept)

    def rule(loss: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        present = label != IGNORED
        present[0, 0, 0] = True
        kept = _below(loss, present, threshold, max(_pixels(min_kept, label), 1))
        return _weighted(kept, weight, loss) / kept.sum().clamp(min=1)

    return rule


def mmseg_rule(threshold: float | None, min_kept_per_image: int) -> Rule:
    """mmseg's OHEMPixelSampler: HRNet's choice, or the hardest pixels if there is no threshold.

    The sum is divided by ALL pixels, or by the sum of all class weights.
    """
    _check_rule(1 if threshold is None else threshold, min_kept_per_image)

    def rule(loss: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        count = min(min_kept_per_image * len(label), label.numel())
        valid = label != IGNORED
        if threshold is None:
            kept = _hardest(_weighted(loss.masked_fill(~valid, 0), weight, loss), count)
        else:
            kept = _below(loss, valid, threshold, count)
        divisor = label.numel() if weight is None else _nonzero(weight.sum())
        return _weighted(kept, weight, loss) / divisor

    return rule


def stdc_rule(threshold: float, min_kept: Amount) -> Rule:
    """STDC: every l above -log(threshold), or the min_kept largest if these are more.

    Ignored pixels have l = 0.
    """
    _check_rule(threshold, min_kept)

    def rule(loss: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        return _above_or_hardest(loss, label, weight, threshold, _pixels(min_kept, label))

    return rule


def coincheung_rule(threshold: float, one_in: int = 16) -> Rule:
    """CoinCheung/BiSeNet: every l above -log(threshold), or the hardest pixels if these are more.

    The hardest are V // one_in of the V VALID pixels.
    """
    _check_rule(threshold)

    def rule(loss: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        return _above_or_hardest(loss, label, weight, threshold, (label != IGNORED).sum() // one_in)

    return rule


def ccnet_rule(logits: Tensor, align_corners: bool, threshold: float, min_kept: Amount) -> Rule:
    """CCNet: p <= max(threshold, the p below which min_kept pixels are), as a small map has it.

    The small map has an eighth of the rows and columns. Its p lies between those of four pixels,
    but is always that of the nearest pixel's class.
    """
    _check_rule(threshold, min_kept)

    def rule(loss: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        count = _pixels(min_kept, label) // 64
        p, valid = _eighth(logits.detach(), label, align_corners)
        limit = _kth_smallest(p.masked_fill(~valid, 1), count) * bool(count)
        limit = limit.masked_fill(valid.sum() <= count, 1)  # too few: all are kept
        kept = (label != IGNORED) & (torch.exp(-loss) <= limit.clamp(min=threshold))
        return normalized(_weighted(kept, weight, loss))

    return rule


def _eighth(logits: Tensor, label: Tensor, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Return p of the label on an eighth of the rows and columns, corner on corner, and where it
    is valid, twice (B, H/8, W/8), as scipy.ndimage.zoom shrinks them.
    """
    size = label.shape[1:]
    taps = [corner_taps(side, max(round(side / 8), 1)) for side in size]
    rows, columns = (torch.cat([upper, lower]) for upper, lower, _ in taps)
    p = upsampled_at(logits, size, rows, columns, align_corners).softmax(1)
    p = p.unflatten(3, (2, -1)).unflatten(2, (2, -1))  # (B, C, 2, H/8, 2, W/8)
    down, across = (share.to(p) for *_, share in taps)
    p = torch.lerp(p[:, :, 0], p[:, :, 1], down[:, None, None])  # (B, C, H/8, 2, W/8)
    p = torch.lerp(p[:, :, :, 0], p[:, :, :, 1], across)  # (B, C, H/8, W/8)
    for dim, (upper, _, share) in enumerate(taps, start=1):
        nearest = upper + (share >= 0.5)
        label = label.index_select(dim, nearest.to(label.device))
    classes, ignored = _classes(label)
    return p.gather(1, classes.long()[:, None])[:, 0], ~ignored


RULES = {
    "ccnet": ccnet_rule,
    "torchseg": torchseg_rule,
    "hrnet": hrnet_rule,
    "openseg": openseg_rule,
    "mmseg": mmseg_rule,
    "stdc": stdc_rule,
    "coincheung": coincheung_rule,
}


def _above_or_hardest(
    loss: Tensor, label: Tensor, weight: Tensor | None, threshold: float, count: int | Tensor
) -> Tensor:
    loss = _weighted(loss.masked_fill(label == IGNORED, 0), weight, loss)
    above = loss > -math.log(threshold)
    hardest = _hardest(loss, count)
    kept = torch.where(above.sum() >= count, above, hardest)  # (B, H, W), of the loss's type
    return _weighted(normalized(kept), weight, loss)


def _below(loss: Tensor, present: Tensor, threshold: float, count: int) -> Tensor:
    """Return where p is strictly below max(threshold, the p after the `count` smallest).

    If there are no more than `count`, the largest p takes its place.
    """
    p = torch.exp(-loss).masked_fill_(~present, math.inf)
    limit = _kth_smallest(p, min(count, p.numel() - 1) + 1)
    largest = p.masked_fill(~present, 0).amax()
    return present & (p < torch.where(limit.isinf(), largest, limit).clamp_(min=threshold))


def _hardest(loss: Tensor, count: int | Tensor) -> Tensor:
    """Return 1 for each of the `count` largest losses and 0 elsewhere.

    Losses that tie for the last places share them, so that the order of pixels does not matter.
    """
    limit = _kth_smallest(loss, loss.numel() - count + 1)
    above = loss > limit
    ties = loss == limit
    return above + ties * ((count - above.sum()).to(loss.dtype) / ties.sum().clamp(min=1))


def _kth_smallest(values: Tensor, k: int | Tensor) -> Tensor:
    """Return the k-th smallest of numbers >= 0; k is clamped to 1 and their count."""
    if values.is_cpu:
        place = min(max(int(k), 1), values.numel())
        return values.flatten().kthvalue(place).values  # (B, H, W) -> (B*H*W,) -> ()
    return _kth_smallest_bits(values, k)


def _kth_smallest_bits(values: Tensor, k: int | Tensor) -> Tensor:
    """Return the same, bit by bit: numbers >= 0 sort as their bits do.

    Counting needs no copy, no sorting and no wait for the device.
    """
    kind, bits = (torch.int64, 63) if values.dtype == torch.float64 else (torch.int32, 31)
    ordered = values.contiguous().view(kind)  # the same shape, bits as integers
    smallest = torch.zeros((), dtype=kind, device=values.device)
    for bit in reversed(range(bits)):
        higher = smallest + (1 << bit)
        below = (ordered < higher).sum()
        smallest = torch.where((below < k) & (below < values.numel()), higher, smallest)
    return smallest.view(values.dtype)  # (), bits as a float


def _weighted(values: Tensor, weight: Tensor | None, like: Tensor) -> Tensor:
    return values.to(like.dtype) if weight is None else values * weight


def normalized(weights: Tensor) -> Tensor:
    """Divide weights by their sum; if it is 0, so are all shares."""
    return weights / _nonzero(weights.sum())


def _nonzero(divisor: Tensor) -> Tensor:
    """Return a sum to divide by, so that 0 / 0 is 0 and not nan."""
    return divisor.clamp(min=torch.finfo(divisor.dtype).tiny)


def _pixels(min_kept: Amount, label: Tensor) -> int:
    count = int(min_kept * label.numel()) if isinstance(min_kept, float) else min_kept
    return min(count, label.numel())


# --- sums over blocks of pixels

# The number of upsampled logits in a block: on a CPU each thread's part should stay in its cache,
# elsewhere a block should take longer than the launch of its kernels.
_BLOCK_OF_A_THREAD = 1 << 19
_BLOCK_ELSEWHERE = 1 << 24
_ROWS = 16  # no fewer at a time: neighboring blocks both widen the source rows at their border
_COLUMNS = 384  # of a tile: its products cost in proportion to its sides


def _sum_over_blocks(
    logits: Tensor,
    label: Tensor,
    weigh: Callable[[Place], Tensor],
    gradient: Tensor | None,
    align_corners: bool,
    block: int | None,
) -> tuple[Tensor, Tensor]:
    """Return (sum of weight * loss, sum of weight); add the gradient of the first to `gradient`."""
    sums = [logits.new_zeros(2, dtype=compute_dtype(logits))]
    classes, ignored = _classes(label)
    by_products = products_are_exact(logits)
    for images, piece in _blocks(logits, label, align_corners, block, by_products):
        at = images, *piece.at
        weight = weigh(at)
        if weight.is_cpu and not weight.any():  # elsewhere this test costs more than the block
            continue
        part = _part(logits, images, piece)
        if gradient is None:
            full = piece.upsampled(part)
        else:
            full, transposed = piece.with_transpose(part)
        true = classes[at].long()
        loss, values, total = _softmax(full, true, in_place=isinstance(piece, Tile))
        loss.masked_fill_(ignored[at], 0)
        sums.append(torch.stack([(loss * weight).sum(), weight.sum()]))
        if gradient is not None:
            at_label = (torch.exp(-loss) - 1) * weight
            weight = weight[:, None]
            p = values.exp_().mul_(weight) if total is None else values.mul_(weight / total)
            slope = p.scatter_(1, true[:, None], at_label[:, None])  # weight * (p - onehot)
            gradient[images, :, *piece.source] += transposed(slope)
    return tuple(torch.stack(sums).sum(0))


def _pixel_losses(logits: Tensor, label: Tensor, align_corners: bool, block: int | None) -> Tensor:
    """Return -log p of the label (B, H, W), of class 0 where it is ignored; no gradient.

    By strips: rounded in another way, two losses may change places, and other pixels are kept than
    by the authors' code.
    """
    losses = logits.new_empty(label.shape, dtype=compute_dtype(logits))
    classes, _ = _classes(label)
    for images, piece in _blocks(logits, label, align_corners, block, by_products=False):
        at = images, *piece.at
        full = piece.upsampled(_part(logits, images, piece))
        losses[at] = _softmax(full, classes[at].long(), in_place=False)[0]
    return losses


def _classes(label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the class of each pixel, 0 where it is ignored, and where that is."""
    ignored = label == IGNORED
    return label.masked_fill(ignored, 0), ignored


def _softmax(full: Tensor, true: Tensor, *, in_place: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the loss (B, rows, columns), and log p, or in place p times a total.

    `true` is the class of each pixel. A CPU is quicker in place, where a second block's memory
    costs more than the arithmetic.
    """
    if not in_place:
        log_p = F.log_softmax(full, dim=1)
        return -log_p.gather(1, true[:, None])[:, 0], log_p, None
    full.sub_(full.amax(1, keepdim=True))
    of_label = full.gather(1, true[:, None])
    total = full.exp_().sum(1, keepdim=True)
    return (total.log() - of_label)[:, 0], full, total


def _part(logits: Tensor, images: slice, piece: Strip | Tile) -> Tensor:
    """Return a copy of the logits that a block is upsampled from, which may be overwritten."""
    part = logits.detach()[images, :, *piece.source]
    form = torch.contiguous_format
    return part.to(compute_dtype(logits), copy=True, memory_format=form)


def _blocks(
    logits: Tensor, label: Tensor, align_corners: bool, block: int | None, by_products: bool
) -> Iterator[tuple[slice, Strip | Tile]]:
    """Yield every pixel of the batch once, as a few images and a strip or tile of them."""
    batch, height, width = label.shape
    columns = min(width, _COLUMNS) if by_products else width
    if block is None:
        of_threads = torch.get_num_threads() * _BLOCK_OF_A_THREAD
        block = of_threads if logits.is_cpu else _BLOCK_ELSEWHERE
    pixels = block // logits.shape[1]
    rows = min(height, max(pixels // columns, min(_ROWS, block)))
    images = max(1, pixels // (rows * columns))
    settings = {"align_corners": align_corners, "dtype": compute_dtype(logits)}
    source = logits.shape[-2:]
    if by_products:
        pieces = tiles(source, (height, width), rows, columns, **settings)
    else:
        pieces = (
            strip(source[0], (height, width), top, min(top + rows, height), **settings)
            for top in range(0, height, rows)
        )
    for piece in pieces:
        for first in range(0, batch, images):
            yield slice(first, first + images), piece


# --- gradients that were computed with the loss


class _PrecomputedGradient(torch.autograd.Function):
    """A loss whose gradient is known; backward only scales it.

    It does so in float32, so that half precision does not lose small entries.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, logits: Tensor, loss: Tensor, gradient: Tensor
    ) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return loss.clone()

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor
    ) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph=True came, but this loss can be differentiated only once; use "
                "F.interpolate and F.cross_entropy"
            )
        return (ctx.saved_tensors[0] * upstream).to(ctx.dtype), None, None


def _gradient_buffer(logits: Tensor) -> Tensor | None:
    """Return zeros for the gradient, or None if no gradient is needed."""
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return None
    dtype = compute_dtype(logits)
    return torch.zeros_like(logits, dtype=dtype, memory_format=torch.contiguous_format)


def _with_gradient(logits: Tensor, loss: Tensor, gradient: Tensor | None) -> Tensor:
    return loss if gradient is None else _PrecomputedGradient.apply(logits, loss, gradient)


# --- class weights, and checks of arguments


def _weight_of_label(logits: Tensor, class_weights: Tensor | None) -> Tensor:
    """Return the weight of each label number (256,); 0 for the ignored one."""
    classes = logits.shape[1]
    table = logits.new_ones(IGNORED + 1, dtype=compute_dtype(logits))
    if class_weights is not None:
        if class_weights.shape != (classes,):
            raise ValueError(
                f"class_weights of shape {tuple(class_weights.shape)} for {classes} classes; "
                f"allowed: ({classes},)"
            )
        table[:classes] = class_weights.detach()
    table[IGNORED] = 0
    return table


def _look_up(table: Tensor, label: Tensor) -> Tensor:
    index = label.reshape(-1).long()  # (B, H, W) -> (B*H*W,)
    return table.index_select(0, index).view(label.shape)  # -> (B, H, W)


def _check(logits: Tensor, label: Tensor, weights: Tensor | None = None) -> None:
    if logits.dim() != 4 or label.dim() != 3 or len(logits) != len(label):
        raise ValueError(
            f"logits {tuple(logits.shape)} and label {tuple(label.shape)} do not fit; allowed: "
            "(B, C, h, w) and (B, H, W)"
        )
    if label.dtype not in (torch.uint8, torch.int64):
        raise TypeError(
            f"a label of {label.dtype}; allowed: torch.uint8 or torch.int64, {IGNORED} where "
            "ignored"
        )
    if weights is not None and weights.shape != label.shape:
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} for a label of shape "
            f"{tuple(label.shape)}; the two must be equal"
        )


def _check_rule(threshold: float, min_kept: Amount = 0) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(
            f"threshold={threshold} is no probability; allowed: 0 < threshold <= 1, such as 0.7"
        )
    if min_kept < 0 or (isinstance(min_kept, float) and min_kept > 1):
        raise ValueError(
            f"min_kept={min_kept}; allowed: a whole number of pixels, such as 100_000, or a "
            "float up to 1.0, such as 1 / 16"
        )
