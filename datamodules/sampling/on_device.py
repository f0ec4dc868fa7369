"""Data that lies on the device: scale, crop and flip are one sampling there. No worker, no OpenCV, nothing to wait for.

The window, its scale and its place are those of `crops.choose`, and so are the labels; pixels agree with the workers' to one gray level.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules import DataError
from datamodules.labels import IGNORED, RGB
from datamodules.reading.decoding import Size
from datamodules.reading.sources import Source
from datamodules.sampling.class_uniform import Spot, Spots
from datamodules.sampling.crops import (
    COLOR,
    PADDING,
    Crop,
    Window,
    choose,
    draw,
    factors,
    nearest,
    reflected,
    varied,
)
from datamodules.sampling.samples import Draw, Sample

SATURATION = (0.299, 0.587, 0.114)  # how much each color adds to brightness


class Draws(Dataset[Tensor]):
    """[(draw number, index)] -> the two numbers: what is drawn is made where the images lie."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: Draw) -> Tensor:
        return torch.tensor(item)


def check_resident(crop: Crop) -> None:
    """Refuses what is not made on the device."""
    settings = {"rotation": 0.0, "shift": 0.0, "elastic": 0.0, "blur": "none"}
    for name, without in settings.items():
        if (given := getattr(crop, name)) != without:
            raise DataError(
                f"data.resident=device makes crops on the device, which cannot do {name}={given}: "
                f"take data.resident=memory or no, or recipe.{name}={without}"
            )


class Taps(NamedTuple):
    """For every place along one side of the crop, the two source places around it and the share of the second."""

    first: np.ndarray
    second: np.ndarray
    share: np.ndarray


class Resident:
    """Every image and label of a source, as uint8 on a device."""

    def __init__(self, source: Source, device: torch.device) -> None:
        self.sizes = [source.size(index) for index in range(len(source))]
        needed = 4 * sum(height * width for height, width in self.sizes)
        if device.type == "cuda" and needed > (free := torch.cuda.mem_get_info(device)[0]):
            raise DataError(
                f"the images need {needed >> 20} MB on the device and {free >> 20} MB are free: take data.resident=memory or no"
            )
        pairs = (source.window(index) for index in range(len(source)))
        self.pairs = [(on(image, device), on(label, device)) for image, label in pairs]
        self.device = device

    def batch(
        self,
        draws: Sequence[Draw],
        crop: Crop,
        seed: int,
        labelled: bool = True,
        spots: Spots | None = None,
    ) -> Sample:
        samples = [
            self.sample(
                number, *(spots.of(index) if spots else (index, None)), crop, seed, labelled
            )
            for number, index in draws
        ]
        return torch.stack([image for image, _ in samples]), torch.stack(
            [label for _, label in samples]
        )

    def sample(
        self, number: int, index: int, spot: Spot | None, crop: Crop, seed: int, labelled: bool
    ) -> Sample:
        """What a worker's crop is, but for color: see `recolored`."""
        (image, label), size, rng = self.pairs[index], self.sizes[index], draw(seed, number)
        window = choose(crop, size, rng, spot)
        if crop.cat_max_ratio < 1:
            window = varied(
                crop,
                window,
                size,
                rng,
                spot,
                lambda other: counted(self.numbers(label, other, size)),
            )
        rows, columns = taps(window, size)
        pixels, numbers = (
            blended(image, rows, columns, self.device),
            self.numbers(label, window, size),
        )
        if not labelled:
            numbers = torch.zeros_like(numbers)
        if crop.jitter or crop.hue:
            rng = np.random.default_rng((seed, COLOR, number))
            pixels = recolored(pixels, crop.jitter, rng, crop.hue)
        pixels = pixels.add_(0.5).to(torch.uint8)
        return placed(pixels, numbers, window, crop.size, PADDING[crop.padding])

    def numbers(self, label: Tensor, window: Window, size: Size) -> Tensor:
        down, across = nearest(window, size, (0, 0, *size))
        return label.index_select(0, on(down, self.device)).index_select(1, on(across, self.device))


def counted(numbers: Tensor) -> np.ndarray:
    return torch.bincount(numbers.flatten(), minlength=256).cpu().numpy()


def on(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.require(array, requirements="CW")).to(device, non_blocking=True)


# --- where pixels come from


def taps(window: Window, size: Size) -> tuple[Taps, Taps]:
    fy, fx = factors(window.scaled, size)
    rows = around(fy * (np.arange(window.top, window.top + window.height) + 0.5) - 0.5, size[0])
    columns = around(fx * (np.arange(window.left, window.left + window.width) + 0.5) - 0.5, size[1])
    return rows, Taps(*(each[::-1] for each in columns)) if window.flip else columns


def around(place: np.ndarray, side: int) -> Taps:
    place = place.clip(0, side - 1)
    first = np.floor(place).astype(np.int64)
    return Taps(first, np.minimum(first + 1, side - 1), (place - first).astype(np.float32))


def blended(image: Tensor, rows: Taps, columns: Taps, device: torch.device) -> Tensor:
    """Bilinear, along rows and then along columns: (H, W, 3) uint8 -> (h, w, 3) float."""
    top, bottom = int(rows.first.min()), int(rows.second.max()) + 1
    across = mixed(image[top:bottom].to(torch.float32), columns, 1, device)
    return mixed(across, Taps(rows.first - top, rows.second - top, rows.share), 0, device)


def mixed(pixels: Tensor, taps: Taps, side: int, device: torch.device) -> Tensor:
    first, second, share = (on(each, device) for each in taps)
    share = share.view(-1, *[1] * (2 - side))
    return torch.lerp(pixels.index_select(side, first), pixels.index_select(side, second), share)


def placed(image: Tensor, label: Tensor, window: Window, size: Size, color: RGB | None) -> Sample:
    """Channels first; a window smaller than the crop stands at its place on a color, or on its own
    mirror images, and on ignored label."""
    image = image.permute(2, 0, 1)
    if tuple(label.shape) == size:
        return image.contiguous(), label
    ignored = torch.full(size, IGNORED, dtype=torch.uint8, device=image.device)
    place = (
        slice(window.down, window.down + window.height),
        slice(window.right, window.right + window.width),
    )
    ignored[place] = label
    if color is None:
        rows, columns = (on(each, image.device) for each in reflected(window, size))
        return image.index_select(1, rows).index_select(2, columns), ignored
    canvas = torch.tensor(color, dtype=torch.uint8, device=image.device)
    canvas = canvas.view(3, 1, 1).repeat(1, *size)
    canvas[:, *place] = image
    return canvas, ignored


# --- color


def recolored(
    pixels: Tensor, strength: float, rng: np.random.Generator, hue: float = 0.0
) -> Tensor:
    """Brightness, contrast and saturation by factors within 1 +- strength, and hue by up to its share,
    in random order, as the workers' albumentations does it; its random numbers are its own, so these
    factors are others."""
    steps = [brighter, contrasted, saturated]
    amounts = rng.uniform(max(0, 1 - strength), 1 + strength, 3).tolist()
    if hue:
        steps.append(turned)
        amounts.append(rng.uniform(-hue, hue))
    for step in rng.permutation(len(steps)):
        pixels = steps[step](pixels, amounts[step]).clamp_(0, 255)
    return pixels


def brighter(pixels: Tensor, amount: float) -> Tensor:
    return pixels * amount


def contrasted(pixels: Tensor, amount: float) -> Tensor:
    mean = gray(pixels).mean()
    return mean + amount * (pixels - mean)


def saturated(pixels: Tensor, amount: float) -> Tensor:
    tone = gray(pixels)[..., None]
    return tone + amount * (pixels - tone)


def turned(pixels: Tensor, amount: float) -> Tensor:
    """The hue moved on by a share of the color circle; HSV's saturation and value stay."""
    most, least = pixels.amax(-1, keepdim=True), pixels.amin(-1, keepdim=True)
    chroma = most - least
    red, green, blue = pixels.split(1, -1)
    after_green = torch.where(most == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    hue = torch.where(most == red, green - blue, after_green) / chroma.clamp(min=1e-6)  # in sixths
    place = (hue + 6 * amount + torch.tensor([5.0, 3.0, 1.0], device=pixels.device)) % 6
    return most - chroma * torch.minimum(place, 4 - place).clamp(0, 1)


def gray(pixels: Tensor) -> Tensor:
    return pixels @ torch.tensor(SATURATION, device=pixels.device)
