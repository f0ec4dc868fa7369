"""What a camera meets that a data set does not show: blur, noise, weather, night and compression, in five severities.

After Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019, arXiv:1903.12261
(ImageNet-C), and Kamann and Rother, Benchmarking the Robustness of Semantic Segmentation Models, CVPR 2020, arXiv:1908.05005.

Lengths are pixels of an image of 512 rows and grow with the image's height, and so does the weather's pattern: a severity looks alike at
360x480 and 1024x2048. ImageNet-C's lengths are for 224 rows that one object fills; the same numbers stand here for 512 rows, as a street's
objects are smaller. Noise and JPEG act on pixels and blocks of 8x8 at any size, as they do in a camera.

ImageNet-C's are the numbers of defocus, both noises, brightness, contrast and JPEG (corruptions.py of hendrycks/robustness); motion is a
straight stroke as wide spread as the half Gaussian there (sigma 3, 5, 8, 12, 15 over 21, 31, 31, 31, 41 pixels). Fog, rain and snow are our
own, after the law of haze with a street's distances; night is our own too. Hence a score here stands beside other scores of this file, not
beside the papers' tables. Albumentations' transforms are not used: its fog is a heap of disks and its rain lines of one pixel at any size,
neither in severities; its defocus takes whole pixels; its random numbers belong to a transform and not to an image, which threads would
share.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from zlib import crc32

import cv2
import numpy as np

from datamodules import DataError
from datamodules.reading.decoding import Box, Size, inside
from datamodules.reading.sources import Pair, Source

Dice = np.random.Generator
ROWS = 512  # the height that lengths are given for
SEVERITIES = (1, 2, 3, 4, 5)
GROUPS = {
    "blur": ("defocus", "motion"),
    "noise": ("gaussian_noise", "shot_noise"),
    "weather": ("fog", "rain", "snow", "night"),
    "digital": ("brightness", "contrast", "jpeg"),
}
KINDS = tuple(kind for kinds in GROUPS.values() for kind in kinds)

# fmt: off
STRENGTHS = {  # of severity       1     2     3     4     5
    "defocus":        {"radius":  (3,    4,    6,    8,    10)},           # of the disk that a point becomes
    "motion":         {"length":  (6.5,  10.7, 17,   23.8, 30.2)},         # of the stroke that a point becomes
    "gaussian_noise": {"spread":  (0.08, 0.12, 0.18, 0.26, 0.38)},         # standard deviation, white is 1
    "shot_noise":     {"photons": (60,   25,   12,   5,    3)},            # that make white
    "fog":            {"density": (0.6,  1.0,  1.5,  2.2,  3.0)},          # optical depth at the horizon
    "rain":           {"drops":   (300,  600,  1000, 1600, 2400),          # in a square of the image's height
                       "length":  (26,   30,   34,   40,   46),            # of the nearest streaks
                       "density": (0.2,  0.35, 0.55, 0.8,  1.1)},          # of the haze behind them
    "snow":           {"flakes":  (300,  700,  1300, 2200, 3400),          # in a square of the image's height
                       "density": (0.25, 0.45, 0.7,  1.0,  1.4)},          # of the haze behind them
    "night":          {"light":   (0.50, 0.36, 0.26, 0.18, 0.12),          # that is left of the day's
                       "photons": (1000, 600,  350,  200,  120)},          # that would make white
    "brightness":     {"more":    (0.1,  0.2,  0.3,  0.4,  0.5)},          # added to the value of HSV
    "contrast":       {"left":    (0.4,  0.3,  0.2,  0.1,  0.05)},         # of the distance to the mean color
    "jpeg":           {"quality": (25,   18,   15,   10,   7)},
}
# fmt: on


class Shifted:
    """A source under one kind of corruption: labels as they were, pixels a function of (seed, index, kind, severity) and of nothing else.

    All severities of an image share their random numbers: a curve over severities shows strength and not luck.
    """

    def __init__(self, source: Source, kind: str, severity: int, seed: int = 0) -> None:
        self.source, self.kind, self.severity, self.seed = (
            source,
            named(kind),
            checked(severity),
            seed,
        )
        self.names = source.names

    def __len__(self) -> int:
        return len(self.source)

    def size(self, index: int) -> Size:
        return self.source.size(index)

    def label(self, index: int, box: Box | None = None) -> np.ndarray:
        return self.source.label(index, box)

    def window(self, index: int, box: Box | None = None) -> Pair:
        """A window out of the whole corrupted image, so that it has the same pixels."""
        image, label = self.source.window(index)
        return inside(corrupted(image, self.kind, self.severity, (self.seed, index)), box), inside(
            label, box
        )


def corrupted(
    image: np.ndarray, kind: str, severity: int, seed: Sequence[int] = (0,)
) -> np.ndarray:
    """uint8 RGB (H, W, 3) to the same; the kind is part of the seed, so that rain does not fall where snow does."""
    strength = {
        name: values[checked(severity) - 1] for name, values in STRENGTHS[named(kind)].items()
    }
    dice = np.random.default_rng([crc32(kind.encode()), *seed])
    found = CORRUPTIONS[kind](image.astype(np.float32) / 255, dice, **strength)
    return (found * 255).round().clip(0, 255).astype(np.uint8)


# --- names


def named(kind: str) -> str:
    if kind in KINDS:
        return kind
    raise DataError(f"there is no shift {kind}; {guess(kind, KINDS)}there are {', '.join(KINDS)}")


def chosen(text: str) -> tuple[str, ...]:
    """ "fog,noise" as kinds: names of kinds and of groups with commas between them; "all" is every kind."""
    known = {"all": KINDS, **GROUPS, **{kind: (kind,) for kind in KINDS}}
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words or [text]:
        if word not in known:
            raise DataError(
                f"there is no shift {word or 'without a name'}; {guess(word, known)}there are {', '.join(known)}"
            )
    return tuple(dict.fromkeys(kind for word in words for kind in known[word]))


def guess(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word.lower(), known, n=1, cutoff=0.4)
    return f"did you mean {near[0]}? " if near else ""


def checked(severity: int) -> int:
    if severity in SEVERITIES:
        return int(severity)
    raise DataError(
        f"there is no severity {severity}: give a whole number from {SEVERITIES[0]} to {SEVERITIES[-1]}"
    )


# --- blur


def defocus(image: np.ndarray, dice: Dice, *, radius: float) -> np.ndarray:
    return filtered(image, disk(radius * image.shape[0] / ROWS))


def motion(image: np.ndarray, dice: Dice, *, length: float) -> np.ndarray:
    """Up to 45 degrees off the horizontal, as ImageNet-C has it."""
    return filtered(image, stroke(length * image.shape[0] / ROWS, dice.uniform(-45, 45)))


def filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def disk(radius: float) -> np.ndarray:
    """Its rim is soft, so that any radius differs from the next."""
    reach = np.arange(-int(radius) - 1, int(radius) + 2)
    return normalized(np.clip(radius + 0.5 - np.hypot(*np.meshgrid(reach, reach)), 0, 1))


def stroke(length: float, degrees: float) -> np.ndarray:
    """A straight line of any length and angle: points along it, each shared among the four pixels around it."""
    reach = int(length / 2) + 1
    along = np.linspace(-length / 2, length / 2, 8 * reach + 1)
    x, y = reach + along * np.cos(np.radians(degrees)), reach + along * np.sin(np.radians(degrees))
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    kernel = np.zeros((2 * reach + 2, 2 * reach + 2))
    for down in (0, 1):
        for right in (0, 1):
            np.add.at(
                kernel,
                (top + down, left + right),
                (1 - abs(y - top - down)) * (1 - abs(x - left - right)),
            )
    return normalized(kernel[:-1, :-1])


def normalized(kernel: np.ndarray) -> np.ndarray:
    return (kernel / kernel.sum()).astype(np.float32)


# --- noise


def gaussian_noise(image: np.ndarray, dice: Dice, *, spread: float) -> np.ndarray:
    return image + spread * dice.standard_normal(image.shape, np.float32)


def shot_noise(image: np.ndarray, dice: Dice, *, photons: float) -> np.ndarray:
    return (dice.poisson(image * photons) / photons).astype(np.float32)


# --- weather


def fog(image: np.ndarray, dice: Dice, *, density: float) -> np.ndarray:
    return hazy(
        image, density * (0.7 + 0.6 * clouds(image.shape[:2], dice)), light=(0.80, 0.81, 0.82)
    )


def rain(
    image: np.ndarray, dice: Dice, *, drops: float, length: float, density: float
) -> np.ndarray:
    """Far, nearer and near streaks of one slant before a gray haze."""
    height, width = size = canvas(image.shape)
    slant, layer = dice.uniform(65, 115), np.zeros(size, np.float32)
    for share, near, opacity in ((0.65, 0.35, 0.22), (0.27, 0.65, 0.34), (0.08, 1.0, 0.5)):
        starts = scattered(dice, "rain", "drops", share, size)[
            : round(share * drops * width / height)
        ]
        step = near * length * np.array([np.cos(np.radians(slant)), np.sin(np.radians(slant))])
        lines = np.zeros(size, np.uint8)
        cv2.polylines(
            lines,
            fixed(np.stack([starts, starts + step], 1)),
            False,
            255,
            2 if near == 1 else 1,
            cv2.LINE_AA,
            FRACTION,
        )
        layer = np.maximum(layer, opacity / 255 * filtered(lines, stroke(near * length / 3, slant)))
    return covered(hazy(0.92 * image, density, light=(0.60, 0.62, 0.64)), layer, 0.88)


def snow(image: np.ndarray, dice: Dice, *, flakes: float, density: float) -> np.ndarray:
    """Far, nearer and near flakes on their way down before a white haze."""
    height, width = size = canvas(image.shape)
    slant, layer = dice.uniform(50, 130), np.zeros(size, np.float32)
    for share, radius, opacity in ((0.72, 0.8, 0.6), (0.23, 1.6, 0.8), (0.05, 3.2, 0.85)):
        centers = scattered(dice, "snow", "flakes", share, size)[
            : round(share * flakes * width / height)
        ]
        dots = np.zeros(size, np.uint8)
        for center in fixed(centers):
            cv2.circle(
                dots, center.tolist(), round(radius * 2**FRACTION), 255, -1, cv2.LINE_AA, FRACTION
            )
        layer = np.maximum(layer, opacity / 255 * filtered(dots, stroke(1 + 2.5 * radius, slant)))
    return covered(hazy(image, density, light=(0.83, 0.84, 0.86)), layer, 0.97)


def night(image: np.ndarray, dice: Dice, *, light: float, photons: float) -> np.ndarray:
    """In linear light: the sky loses most, headlights warm some of the road, colors pale towards blue, and photons are few."""
    height, width = image.shape[:2]
    y, x = (
        np.linspace(0, 1, height, dtype=np.float32)[:, None],
        np.linspace(-1, 1, width, dtype=np.float32),
    )
    sky = 1 - 0.8 / (1 + np.exp((y - 0.36) / 0.08))
    headlights = 1.6 * np.exp(-((x / 0.6) ** 2) - ((y - 0.7) / 0.16) ** 2)
    day = image**2.2
    pale = 0.4 * day.mean(-1, keepdims=True) + 0.6 * day
    lamps = sky[..., None] * np.array([0.9, 0.94, 1.16], np.float32) + headlights[
        ..., None
    ] * np.array([1.12, 1.0, 0.8], np.float32)
    lit = light * lamps * pale / (1 + 2 * pale)
    return np.maximum(
        lit + np.sqrt(lit / photons) * dice.standard_normal(image.shape, np.float32), 0
    ) ** (1 / 2.2)


def hazy(image: np.ndarray, density: np.ndarray | float, light: Sequence[float]) -> np.ndarray:
    """Koschmieder's law: what is far gives way to the air's light."""
    clear = np.exp(-density * distances(image.shape[0]))[..., None]
    return clear * image + (1 - clear) * np.array(light, np.float32)


def distances(height: int) -> np.ndarray:
    """(H, 1): of a street seen by a car, 1 at the horizon; the ground comes near below it, and houses and trees do so above."""
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    ground = 0.1 / np.maximum(y - 0.35, 0.1)
    return np.where(y > 0.45, ground, 1 - 0.45 * ((0.45 - y) / 0.45))


def clouds(size: Size, dice: Dice) -> np.ndarray:
    """(H, W) from 0 to 1: noise of halving grain, the same picture at any size."""
    height, width = size
    total = np.zeros(size, np.float32)
    for cells in (2, 4, 8, 16, 32):
        grid = dice.random((cells, max(1, round(cells * width / height))), np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / cells
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


# --- what falls is drawn at 512 rows and brought to the image's size

FRACTION = 4  # bits of a pixel that OpenCV's drawing takes


def canvas(shape: Sequence[int]) -> Size:
    return ROWS, max(1, round(ROWS * shape[1] / shape[0]))


def scattered(dice: Dice, kind: str, count: str, share: float, size: Size) -> np.ndarray:
    """(N, 2) x and y of as many as the highest severity wants: a lower one takes the first of them."""
    most = round(share * STRENGTHS[kind][count][-1] * size[1] / size[0])
    return dice.uniform((-0.1 * size[1], -0.1 * size[0]), (1.1 * size[1], size[0]), (most, 2))


def fixed(points: np.ndarray) -> np.ndarray:
    return (points * 2**FRACTION).round().astype(np.int32)


def covered(image: np.ndarray, layer: np.ndarray, white: float) -> np.ndarray:
    height, width = image.shape[:2]
    smaller = height < ROWS
    layer = cv2.resize(
        layer, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    )[..., None]
    return (1 - layer) * image + layer * white


# --- digital


def brightness(image: np.ndarray, dice: Dice, *, more: float) -> np.ndarray:
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    return cv2.cvtColor(
        cv2.merge([hue, saturation, np.minimum(value + more, 1)]), cv2.COLOR_HSV2RGB
    )


def contrast(image: np.ndarray, dice: Dice, *, left: float) -> np.ndarray:
    mean = image.mean((0, 1), dtype=np.float64).astype(np.float32)
    return mean + left * (image - mean)


def jpeg(image: np.ndarray, dice: Dice, *, quality: int) -> np.ndarray:
    pixels = (image * 255).round().astype(np.uint8)
    data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB).astype(np.float32) / 255


CORRUPTIONS: dict[str, Callable[..., np.ndarray]] = {
    "defocus": defocus,
    "motion": motion,
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "fog": fog,
    "rain": rain,
    "snow": snow,
    "night": night,
    "brightness": brightness,
    "contrast": contrast,
    "jpeg": jpeg,
}
