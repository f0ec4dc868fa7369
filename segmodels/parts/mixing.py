"""Perturbations for consistency training: masks that mix two images, and strong changes of color.
All of it runs on the images' device.

A mask is bool (B, H, W). True shows the image itself, False its partner (or nothing). What chance
decides is drawn on the CPU: the same seed gives the same masks on every device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.parts.losses import IGNORED

# --- masks


def boxes(count: int, size: tuple[int, int], least: float, most: float, number: int = 1) -> Tensor:
    """True in one box per image, wholly inside it: an area between two shares of the image's, the
    ratio of its sides log-uniform. Several boxes share the area, and overlap to False again."""
    share, split, down, right = torch.rand(4, number * count)
    share = (least + share * (most - least)).clamp(min=1e-6)
    smaller = number**-0.5  # each side's
    rows = _span(share**split * smaller, down, size[0])
    columns = _span(share ** (1 - split) * smaller, right, size[1])
    each = rows[:, :, None] & columns[:, None]  # (number * B, H, W)
    return each.view(number, count, *size).sum(0) % 2 == 1


def _span(share: Tensor, place: Tensor, side: int) -> Tensor:
    """(B, side): True on that share of a side, beginning anywhere that leaves room for it."""
    length = (share * side).round()
    start = (place * (side - length)).round()
    position = torch.arange(side)
    return (position >= start[:, None]) & (position < (start + length)[:, None])


def random_box(
    size: tuple[int, int],
    chance: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """True in one box (H, W), or nowhere: UniMatch's. A share of the area, then a ratio of height
    to width and a corner, drawn again until the box lies within the image."""
    height, width = size
    mask = torch.zeros(size, dtype=torch.bool)
    if torch.rand(()) >= chance:
        return mask
    pixels = (area[0] + torch.rand(()).item() * (area[1] - area[0])) * height * width
    while True:
        turn, down, right = torch.rand(3).tolist()
        shape = ratio[0] + turn * (ratio[1] - ratio[0])
        tall, wide = int((pixels * shape) ** 0.5), int((pixels / shape) ** 0.5)
        top, left = int(down * height), int(right * width)
        if top + tall <= height and left + wide <= width:
            mask[top : top + tall, left : left + wide] = True
            return mask


def half_of_classes(label: Tensor, grid: int = 1) -> Tensor:
    """True on floor(n / 2) of the n classes that the label shows, chosen anew in each cell of a
    grid; never where it is ignored."""
    batch, height, width = label.shape
    numbers = IGNORED + 1
    rows, columns = (
        torch.arange(side, device=label.device) * grid // side for side in (height, width)
    )
    cell = rows[:, None] * grid + columns
    index = (cell * numbers + label).flatten(1)  # of the class in its cell
    shown = torch.zeros(batch, grid * grid * numbers, dtype=torch.bool, device=label.device)
    shown = shown.scatter_(1, index, True).view(batch, grid * grid, numbers)
    shown[..., IGNORED] = False
    lot = torch.rand(shown.shape).to(label.device).masked_fill_(~shown, 2)  # the absent come last
    place = lot.argsort(2).argsort(2)
    chosen = place < shown.sum(2, keepdim=True) // 2
    return chosen.flatten(1).gather(1, index).view(label.shape)


def mixed(mask: Tensor, own: Tensor, partner: Tensor) -> Tensor:
    """(B, H, W) or (B, C, H, W): `own` where the mask is True."""
    return torch.where(mask if own.ndim == 3 else mask[:, None], own, partner)


def partners(batch: Tensor) -> Tensor:
    """The next image of the batch for each; the first for the last."""
    return batch.roll(-1, 0)


# --- color and blur, on RGB between 0 and 1

GRAY = (0.299, 0.587, 0.114)


def recolored(
    image: Tensor,
    strength: float,
    chance: float = 0.8,
    gray: float = 0.2,
    hue: float | None = None,
) -> Tensor:
    """Brightness, contrast and saturation times 1 +- strength, hue turned by up to `hue` of the
    circle (a quarter of the strength, unless told); each image at random, some to gray."""
    hue = strength / 4 if hue is None else hue
    low, high = max(0.0, 1 - strength), 1 + strength
    brightness, contrast, saturation = (
        (low + torch.rand(3, len(image)) * (high - low)).to(image.device).view(3, -1, 1, 1, 1)
    )
    turn, changed, grayed = torch.rand(3, len(image))
    light = torch.tensor(GRAY, device=image.device).view(3, 1, 1)
    out = (image * brightness).clamp(0, 1)
    mean = (out * light).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    out = (mean + contrast * (out - mean)).clamp(0, 1)
    tone = (out * light).sum(1, keepdim=True)
    out = turned(tone + saturation * (out - tone), ((2 * turn - 1) * hue).to(image.device)).clamp(
        0, 1
    )
    out = torch.where((changed < chance).to(image.device).view(-1, 1, 1, 1), out, image)
    return torch.where(
        (grayed < gray).to(image.device).view(-1, 1, 1, 1), (out * light).sum(1, keepdim=True), out
    )


def strong(
    image: Tensor,
    color: float,
    *,
    gray: float,
    blur: float,
    hue: float | None = None,
    widths: tuple[float, float] = (0.15, 1.15),
) -> Tensor:
    """uint8 RGB in other colors, some images gray, some blurred: `color` and `hue` are strengths,
    `gray` and `blur` chances, `widths` those of the blur in pixels."""
    if not (color or gray or blur or hue):
        return image
    if image.dtype != torch.uint8:
        raise TypeError(
            "strong color is defined on uint8 RGB; give such images, or 0 for each of semi.color, "
            "semi.gray, semi.blur and, where there is one, semi.hue"
        )
    changed = blurred(recolored(image / 255, color, gray=gray, hue=hue), blur, *widths)
    return (255 * changed).round().to(torch.uint8)


def turned(image: Tensor, turn: Tensor) -> Tensor:
    """Every color turned around the gray axis by a share (B,) of the full circle: a hue shift that
    is one matrix product."""
    angle, third = (
        2 * torch.pi * turn[:, None, None],
        torch.full((3, 3), 1 / 3, device=image.device),
    )
    cross = (
        torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=image.device)
        / 3**0.5
    )
    matrix = third + angle.cos() * (torch.eye(3, device=image.device) - third) + angle.sin() * cross
    return torch.einsum("bij,bjhw->bihw", matrix.to(image.dtype), image)


def blurred(image: Tensor, chance: float = 0.5, least: float = 0.15, most: float = 1.15) -> Tensor:
    """A Gaussian of a width between two numbers of pixels, each image at random."""
    batch, channels = image.shape[:2]
    width, changed = torch.rand(2, batch)
    width = (least + width * (most - least)).to(image.device)
    reach = min(round(3 * most) + 1, *(side - 1 for side in image.shape[-2:]))
    position = torch.arange(-reach, reach + 1, device=image.device)
    kernel = torch.exp(-((position / width[:, None]) ** 2) / 2)
    kernel = (
        (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0).to(image.dtype)
    )  # one per image and channel
    out = F.pad(image, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    out = F.conv2d(out, kernel[:, None, None], groups=batch * channels)
    out = F.conv2d(out, kernel[:, None, :, None], groups=batch * channels).view(image.shape)
    return torch.where((changed < chance).to(image.device).view(-1, 1, 1, 1), out, image)
