"""Corrupt images as ImageNet-C does: noise, blur, weather and compression, in five severities.

Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, ICLR 2019, arXiv:1903.12261. Kamann and Rother, Benchmarking the Robustness of
Semantic Segmentation Models, CVPR 2020, arXiv:1908.05005, apply the suite to Cityscapes. The
constants and formulas are those of Michaelis et al., arXiv:1907.07484 (the package
imagecorruptions), which take images of any size. Lengths are pixels whatever the image's size.

Eleven of the fifteen kinds are here. Frost needs photographs that would have to be downloaded,
glass blur swaps pixels one by one (minutes for a street without compiled code), zoom blur averages
up to 26 enlarged copies, and an elastic transform moves the objects away from their labels.
"""

import io
import math
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from zlib import crc32

import cv2
import numpy as np
from PIL import Image

from datamodules.errors import DataError
from datamodules.reading.decoding import Box, inside
from datamodules.reading.sources import Pair, Part, Source

Rng = np.random.Generator
SUITE = "imagenet-c"
SEVERITIES = (1, 2, 3, 4, 5)
GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "motion_blur"),
    "weather": ("snow", "fog", "brightness"),
    "digital": ("contrast", "pixelate", "jpeg_compression"),
}

# By severity, from 1 to 5; several numbers are those that the kind's function takes, in its order.
STRENGTHS = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": (25, 18, 15, 10, 7),
}
KINDS = tuple(STRENGTHS)


class Corrupted(Part):
    """A source whose images are corrupted and whose labels are not."""

    def __init__(self, source: Source, kind: str, severity: int) -> None:
        super().__init__(source, range(len(source)))
        if kind not in KINDS:
            raise unknown_kind(kind, KINDS)
        if severity not in SEVERITIES:
            raise DataError(f"there is no severity {severity}: give a whole number from 1 to 5")
        self.kind = kind
        self.severity = severity

    def window(self, index: int, box: Box | None = None) -> Pair:
        """A window is cut out of the whole corrupted image, so that it has the same pixels."""
        image, label = self.source.window(index)
        image = corrupt(image, self.kind, self.severity, index)
        return inside(image, box), inside(label, box)


def corrupt(image: np.ndarray, kind: str, severity: int, index: int = 0) -> np.ndarray:
    """Corrupt a uint8 RGB image (H, W, 3).

    Random numbers depend on the kind and the image's index alone: results repeat, and a curve over
    severities shows strength and not luck.
    """
    strength = STRENGTHS[kind][severity - 1]
    numbers = strength if isinstance(strength, tuple) else (strength,)
    rng = np.random.default_rng([crc32(kind.encode()), index])
    corrupted = CORRUPTIONS[kind](image, rng, *numbers)
    return np.clip(corrupted, 0, 255).astype(np.uint8)  # the suite rounds down


# --- names


def kinds_of(text: str) -> tuple[str, ...]:
    """The kinds that "fog,noise" names: kinds and groups with commas between them, or "all"."""
    known = {"all": KINDS, **GROUPS, **{kind: (kind,) for kind in KINDS}}
    words = [word.strip() for word in text.split(",") if word.strip()]
    kinds = []
    for word in words or [""]:
        if word not in known:
            raise unknown_kind(word, known)
        kinds += known[word]
    return tuple(dict.fromkeys(kinds))


def unknown_kind(word: str, known: Iterable[str]) -> DataError:
    near = get_close_matches(word.lower(), known, n=1, cutoff=0.4)
    guess = f"did you mean {near[0]}? " if near else ""
    name = word or "without a name"
    return DataError(f"there is no corruption {name}; {guess}there are {', '.join(known)}")


# --- noise


def gaussian_noise(image: np.ndarray, rng: Rng, deviation: float) -> np.ndarray:
    return 255 * (image / 255 + rng.normal(scale=deviation, size=image.shape))


def shot_noise(image: np.ndarray, rng: Rng, photons: float) -> np.ndarray:
    """`photons` make white."""
    return 255 * (rng.poisson(image / 255 * photons) / photons)


def impulse_noise(image: np.ndarray, rng: Rng, share: float) -> np.ndarray:
    """A share of the values is black or white, each channel by itself."""
    struck = rng.random(image.shape) <= share
    white = rng.random(image.shape) <= 0.5
    return np.where(struck, 255 * white, image)


# --- blur


def defocus_blur(image: np.ndarray, rng: Rng, radius: int, rim: float) -> np.ndarray:
    reach = np.arange(-max(radius, 8), max(radius, 8) + 1)
    x, y = np.meshgrid(reach, reach)
    disk = (x**2 + y**2 <= radius**2).astype(np.float32)
    side = 3 if radius <= 8 else 5
    kernel = cv2.GaussianBlur(disk / disk.sum(), (side, side), sigmaX=rim)
    return 255 * cv2.filter2D(image / 255, -1, kernel)


def motion_blur(image: np.ndarray, rng: Rng, radius: int, sigma: float) -> np.ndarray:
    return motion(image.astype(np.float64), radius, sigma, rng.uniform(-45, 45))


def motion(image: np.ndarray, radius: int, sigma: float, degrees: float) -> np.ndarray:
    """Half a Gaussian along a line from the pixel on; the edge goes on outside the image."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    angle = np.deg2rad(degrees)
    down = np.ceil(steps * np.sin(angle) - 0.5).astype(int)
    right = np.ceil(steps * np.cos(angle) - 0.5).astype(int)
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1))
    np.add.at(kernel, (2 * radius + down, 2 * radius + right), weights / weights.sum())
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)


# --- weather


def snow(
    image: np.ndarray,
    rng: Rng,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    clear: float,
) -> np.ndarray:
    """Enlarged noise above a threshold falls along a line, twice, over a whitened image."""
    height, width = image.shape[:2]
    size = (math.ceil(height / zoom), math.ceil(width / zoom))
    flakes = rng.normal(mean, deviation, size)
    flakes = enlarged(flakes, zoom)
    flakes = np.where(flakes < threshold, 0, flakes.clip(0, 1))
    flakes = motion(flakes, radius, sigma, rng.uniform(-135, -45))[:height, :width]
    flakes = np.round(255 * flakes)[..., None]
    gray = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY)[..., None]
    whitened = clear * image + (1 - clear) * np.maximum(image, 1.5 * gray + 127.5)
    return whitened + flakes + np.rot90(flakes, 2)


def enlarged(values: np.ndarray, zoom: float) -> np.ndarray:
    """Linear interpolation between corners that stay corners."""
    height, width = values.shape
    rows = linear_weights(height, round(height * zoom))
    columns = linear_weights(width, round(width * zoom))
    return rows @ values @ columns.T  # (h, w) -> (H, W)


def linear_weights(old: int, new: int) -> np.ndarray:
    """(new, old): the weights of old values at new places."""
    places = np.linspace(0, old - 1, new)[:, None]
    return np.clip(1 - abs(places - np.arange(old)), 0, 1)


def fog(image: np.ndarray, rng: Rng, thickness: float, decay: float) -> np.ndarray:
    height, width = image.shape[:2]
    clouds = plasma(1 << (max(height, width) - 1).bit_length(), decay, rng)
    brightest = image.max() / 255
    foggy = image / 255 + thickness * clouds[:height, :width, None]
    return 255 * (foggy * brightest / (brightest + thickness))


def plasma(size: int, decay: float, rng: Rng) -> np.ndarray:
    """Clouds (size, size) from 0 to 1 by the diamond-square algorithm; `size` is a power of two."""
    clouds = np.zeros((size, size))
    step = size
    jitter = 100.0

    def jittered(sums: np.ndarray) -> np.ndarray:
        return sums / 4 + jitter * rng.uniform(-jitter, jitter, sums.shape)

    while step >= 2:
        half = step // 2
        corners = clouds[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        centers = jittered(pairs + np.roll(pairs, -1, 1))
        clouds[half::step, half::step] = centers
        across = corners + np.roll(corners, -1, 1) + centers + np.roll(centers, 1, 0)
        clouds[::step, half::step] = jittered(across)
        along = corners + np.roll(corners, -1, 0) + centers + np.roll(centers, 1, 1)
        clouds[half::step, ::step] = jittered(along)
        step = half
        jitter /= decay
    clouds -= clouds.min()
    return clouds / clouds.max()


def brightness(image: np.ndarray, rng: Rng, more: float) -> np.ndarray:
    """The value of HSV grows, hue and saturation stay."""
    image = image / 255
    value = image.max(2, keepdims=True)
    paleness = np.divide(value - image, value, out=np.zeros_like(image), where=value > 0)
    return 255 * (np.minimum(value + more, 1) * (1 - paleness))


# --- digital


def contrast(image: np.ndarray, rng: Rng, left: float) -> np.ndarray:
    """A part of the distance to the mean color is left."""
    image = image / 255
    mean = image.mean((0, 1), keepdims=True)
    return 255 * ((image - mean) * left + mean)


def pixelate(image: np.ndarray, rng: Rng, share: float) -> np.ndarray:
    height, width = image.shape[:2]
    size = (max(int(width * share), 1), max(int(height * share), 1))
    small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))


def jpeg_compression(image: np.ndarray, rng: Rng, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


CORRUPTIONS: dict[str, Callable[..., np.ndarray]] = {
    function.__name__: function
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        motion_blur,
        snow,
        fog,
        brightness,
        contrast,
        pixelate,
        jpeg_compression,
    )
}
