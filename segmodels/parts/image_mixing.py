"""Perturbations for consistency training: masks that mix two images, and strong changes of color.

A mask is bool (B, H, W). True shows the image itself, False its partner (or nothing). All of it is
computed on the images' device, but random numbers are drawn on the CPU, so that the same seed gives
the same masks on every device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.parts.losses import IGNORED

# --- masks


def boxes(count: int, size: tuple[int, int], least: float, most: float, number: int = 1) -> Tensor:
    """Draw masks that are True in one box per image, which lies wholly inside it.

    The box's area is between two shares of the image's, the ratio of its sides log-uniform. Several
    boxes share the area; where two overlap the mask is False again.
    """
    share, split, down, right = torch.rand(4, number * count)
    share = (least + share * (most - least)).clamp(min=1e-6)
    smaller = number**-0.5  # the factor of each side, so that the boxes share the area
    rows = _span(share**split * smaller, down, size[0])
    columns = _span(share ** (1 - split) * smaller, right, size[1])
    each = rows[:, :, None] & columns[:, None]  # (number * B, H, W)
    return each.view(number, count, *size).sum(0) % 2 == 1  # (number, B, H, W) -> (B, H, W)


def _span(share: Tensor, place: Tensor, side: int) -> Tensor:
    """Return (B, side), True on that share of a side, at a position where it fits."""
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
    """Draw UniMatch's mask (H, W), True in one box or nowhere.

    It draws a share of the area, then a ratio of height to width and a corner, until the box lies
    within the image.
    """
    height, width = size
    mask = torch.zeros(size, dtype=torch.bool)
    if torch.rand(()) >= chance:
        return mask
    pixels = (area[0] + torch.rand(()).item() * (area[1] - area[0])) * height * width
    while True:
        turn, down, right = torch.rand(3).tolist()
        shape = ratio[0] + turn * (ratio[1] - ratio[0])
        tall = int((pixels * shape) ** 0.5)
        wide = int((pixels / shape) ** 0.5)
        top = int(down * height)
        left = int(right * width)
        if top + tall <= height and left + wide <= width:
            mask[top : top + tall, left : left + wide] = True
            return mask


def half_of_classes(label: Tensor, grid: int = 1) -> Tensor:
    """Draw a mask that is True on floor(n / 2) of the n classes that the label shows.

    Each cell of a grid has a choice of its own. The mask is False where the label is ignored.
    """
    batch, height, width = label.shape
    numbers = IGNORED + 1
    rows = torch.arange(height, device=label.device) * grid // height
    columns = torch.arange(width, device=label.device) * grid // width
    cell = rows[:, None] * grid + columns
    # of the class in its cell: (B, H, W) -> (B, H*W)
    index = (cell * numbers + label).flatten(1)
    shown = torch.zeros(batch, grid * grid * numbers, dtype=torch.bool, device=label.device)
    # (B, cells * classes) -> (B, cells, classes)
    shown = shown.scatter_(1, index, True).view(batch, grid * grid, numbers)
    shown[..., IGNORED] = False
    lot = torch.rand(shown.shape).to(label.device).masked_fill_(~shown, 2)  # the absent come last
    place = lot.argsort(2).argsort(2)
    chosen = place < shown.sum(2, keepdim=True) // 2
    # (B, cells, classes) -> (B, cells * classes) -> (B, H*W) -> (B, H, W)
    return chosen.flatten(1).gather(1, index).view(label.shape)


def mixed(mask: Tensor, own: Tensor, partner: Tensor) -> Tensor:
    """Return `own`, (B, H, W) or (B, C, H, W), where the mask is True, else `partner`."""
    return torch.where(mask if own.ndim == 3 else mask[:, None], own, partner)


def partners(batch: Tensor) -> Tensor:
    """Return the next image of the batch for each; the first for the last."""
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
    """Change the colors of each image at random, and turn some images gray.

    Brightness, contrast and saturation are multiplied by 1 +- strength; the hue is turned by up to
    `hue` of the color circle, by default a quarter of the strength.
    """
    hue = strength / 4 if hue is None else hue
    low = max(0.0, 1 - strength)
    high = 1 + strength
    factors = (low + torch.rand(3, len(image)) * (high - low)).to(image.device)
    brightness, contrast, saturation = factors.view(3, -1, 1, 1, 1)  # (3, B) -> (3, B, 1, 1, 1)
    turn, changed, grayed = torch.rand(3, len(image))
    light = torch.tensor(GRAY, device=image.device).view(3, 1, 1)  # per channel
    out = (image * brightness).clamp(0, 1)
    mean = (out * light).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    out = (mean + contrast * (out - mean)).clamp(0, 1)
    tone = (out * light).sum(1, keepdim=True)
    out = turned(tone + saturation * (out - tone), ((2 * turn - 1) * hue).to(image.device))
    out = _where(changed < chance, out.clamp(0, 1), image)
    return _where(grayed < gray, (out * light).sum(1, keepdim=True), out)


def _where(chosen: Tensor, changed: Tensor, image: Tensor) -> Tensor:
    """Return the changed images of the chosen (B,), the others as they are."""
    chosen = chosen.to(image.device).view(-1, 1, 1, 1)  # (B,) -> (B, 1, 1, 1)
    return torch.where(chosen, changed, image)


def strong(
    image: Tensor,
    color: float,
    *,
    gray: float,
    blur: float,
    hue: float | None = None,
    widths: tuple[float, float] = (0.15, 1.15),
) -> Tensor:
    """Give uint8 RGB images other colors, turn some gray and blur some.

    `color` and `hue` are strengths, `gray` and `blur` chances, `widths` the blur's in pixels.
    """
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
    """Shift the hue: turn every color around the gray axis by a share (B,) of the full circle.

    It is one matrix product.
    """
    angle = 2 * torch.pi * turn[:, None, None]
    third = torch.full((3, 3), 1 / 3, device=image.device)
    rows = [[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]
    cross = torch.tensor(rows, device=image.device) / 3**0.5
    matrix = third + angle.cos() * (torch.eye(3, device=image.device) - third) + angle.sin() * cross
    return torch.einsum("bij,bjhw->bihw", matrix.to(image.dtype), image)


def blurred(image: Tensor, chance: float = 0.5, least: float = 0.15, most: float = 1.15) -> Tensor:
    """Blur images at random, by a Gaussian of a width between two numbers of pixels."""
    batch, channels = image.shape[:2]
    width, changed = torch.rand(2, batch)
    width = (least + width * (most - least)).to(image.device)
    reach = min(round(3 * most) + 1, *(side - 1 for side in image.shape[-2:]))
    position = torch.arange(-reach, reach + 1, device=image.device)
    kernel = torch.exp(-((position / width[:, None]) ** 2) / 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    kernel = kernel.repeat_interleave(channels, 0).to(image.dtype)  # one per image and channel
    # (B, C, H, W) -> (1, B*C, H, W): a group per image and channel
    out = F.pad(image, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    out = F.conv2d(out, kernel[:, None, None], groups=batch * channels)
    out = F.conv2d(out, kernel[:, None, :, None], groups=batch * channels)
    return _where(changed < chance, out.view(image.shape), image)  # -> (B, C, H, W)
