"""Textures of facades, walls, fences, hedges, leaves and noise, painted once per process.

Each is a pyramid, largest first, every level half the one before: distant surfaces do not flicker.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

Pyramid = tuple[np.ndarray, ...]
Color = tuple[float, float, float]

PLASTER = (
    (204, 190, 164),
    (214, 204, 190),
    (186, 176, 166),
    (222, 198, 152),
    (176, 182, 186),
    (196, 160, 132),
    (226, 218, 200),
)
BRICK = ((150, 92, 74), (134, 98, 80), (166, 118, 92))
LEAVES = (
    (62, 88, 40),
    (78, 100, 46),
    (52, 76, 40),
    (92, 108, 52),
    (66, 84, 50),
    (112, 104, 48),
    (84, 98, 60),
)
STONE = (
    (150, 142, 132),
    (142, 104, 84),
    (122, 120, 118),
    (172, 166, 154),
    (112, 94, 78),
    (160, 150, 140),
)
GLASS, RUBBER, STEEL = (46, 54, 64), (24, 24, 27), (128, 130, 134)
# color of the bars, color of the garden behind them, pixels from bar to bar
RAILINGS = (
    ((58, 62, 64), (66, 82, 48), 6),
    ((186, 184, 178), (112, 108, 98), 10),
    ((44, 76, 56), (60, 62, 58), 8),
    ((146, 112, 76), (92, 98, 76), 11),
    ((118, 122, 126), (76, 72, 58), 5),
)

FLOORS = range(2, 8)  # a facade is chosen by its number of floors
COLUMNS = 5  # windows beside each other on one tile of a facade
COLUMN_WIDTH = 3.0  # meters
FLOOR, COLUMN = (
    40,
    48,
)  # pixels of a facade's tile: the height of one floor, the width of one column
STRIP = 64, 256  # pixels of a wall's, fence's or hedge's tile
STRIP_LENGTH = 6.0  # meters
CROWN_REACH = 1.25  # half the side of a crown's square, in crown radii
CROWN_SIDE = 256  # pixels


@dataclass(frozen=True)
class Textures:
    facades: dict[int, tuple[Pyramid, ...]]
    walls: tuple[Pyramid, ...]
    fences: tuple[Pyramid, ...]
    hedges: tuple[Pyramid, ...]
    crowns: tuple[Pyramid, ...]  # RGBA; the fourth channel is the outline
    bushes: tuple[Pyramid, ...]  # RGBA
    ground: np.ndarray  # float32, mean 0, deviation 1, seamless
    clouds: np.ndarray  # float32, mean 0, deviation 1, seamless
    grain: np.ndarray  # uint8 RGB around 128: the camera's noise


@lru_cache(maxsize=1)
def textures() -> Textures:
    """The same textures in every process: one generator with a fixed seed, used in this order."""
    rng = np.random.default_rng(20160401)
    noise = smooth_noise(rng, size=512, cells=16)
    return Textures(
        facades={
            floors: tuple(pyramid(facade(rng, noise, floors)) for _ in range(5))
            for floors in FLOORS
        },
        walls=tuple(
            pyramid(wall(noise, color, bricks=number % 2 == 1))
            for number, color in enumerate(STONE)
        ),
        fences=tuple(pyramid(fence(noise, *railing)) for railing in RAILINGS),
        hedges=tuple(pyramid(hedge(rng, color)) for color in LEAVES[:4]),
        crowns=tuple(
            pyramid(crown(rng, color, height)) for height in (0.8, 1.0) for color in LEAVES
        ),
        bushes=tuple(pyramid(crown(rng, color, height=0.62)) for color in LEAVES),
        ground=noise,
        clouds=smooth_noise(rng, size=256, cells=4),
        grain=np.clip(
            rng.standard_normal((512, 1024, 3), dtype=np.float32) * 24 + 128.5, 0, 255
        ).astype(np.uint8),
    )


def pyramid(texture: np.ndarray) -> Pyramid:
    levels = [texture]
    while min(levels[-1].shape[:2]) >= 16:
        height, width = levels[-1].shape[:2]
        levels.append(
            cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        )
    return tuple(levels)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Octaves of interpolated noise, seamless at the borders where `cells` divides `size`."""
    total = np.zeros((size, size), np.float32)
    weight = 1.0
    while cells <= size:
        # one more cell around, from the opposite border, and cut off again
        lattice = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 1, mode="wrap")
        cell = size // cells
        octave = cv2.resize(
            lattice, (size + 2 * cell, size + 2 * cell), interpolation=cv2.INTER_LINEAR
        )
        total += weight * octave[cell : cell + size, cell : cell + size]
        weight *= 0.62
        cells *= 2
    return (total - total.mean()) / total.std()


def shade(color: Color, factor: float) -> Color:
    return tuple(min(255.0, channel * factor) for channel in color)


def plain(color: Color, height: int, width: int, noise: np.ndarray, strength: float) -> np.ndarray:
    surface = np.array(color, np.float32) + strength * noise[:height, :width, None]
    return np.clip(surface, 0, 255).astype(np.uint8)


def box(
    canvas: np.ndarray, left: float, top: float, right: float, bottom: float, color: Color
) -> None:
    """Without the row `bottom` and the column `right`."""
    cv2.rectangle(
        canvas, (round(left), round(top)), (round(right) - 1, round(bottom) - 1), color, -1
    )


def stripe(canvas: np.ndarray, top: float, bottom: float, color: Color) -> None:
    """A box over the whole width."""
    box(canvas, 0, top, canvas.shape[1], bottom, color)


# --- buildings


class Look(NamedTuple):
    """What the windows and doors of one house have in common."""

    wall: Color
    frame: Color
    glass: float


def facade(rng: np.random.Generator, noise: np.ndarray, floors: int) -> np.ndarray:
    """One tile of COLUMNS windows by `floors` floors, the lowest a shop or an entrance."""
    brick = rng.random() < 0.3
    colors = BRICK if brick else PLASTER
    color = shade(colors[rng.integers(len(colors))], rng.uniform(0.85, 1.08))
    canvas = plain(color, FLOOR * floors, COLUMN * COLUMNS, noise, 9 if brick else 5)
    if brick:
        canvas[::4] = (canvas[::4] * 0.86).astype(np.uint8)  # joints
    size = rng.uniform(18, 32), rng.uniform(20, 28)
    look = Look(
        wall=color,
        frame=shade(color, 1.2 if rng.random() < 0.7 else 0.55),
        glass=float(rng.uniform(40, 95)),
    )
    for floor in range(floors - 1):
        upper_floor(rng, canvas, FLOOR * floor, size, look)
    stripe(canvas, 0, 3, shade(color, 0.7))
    ground_floor = shops if floors > 3 and rng.random() < 0.75 else entrances
    ground_floor(rng, canvas, FLOOR * (floors - 1), look)
    return canvas


def upper_floor(
    rng: np.random.Generator, canvas: np.ndarray, top: int, size: tuple[float, float], look: Look
) -> None:
    """`size` is the windows' width and height."""
    if rng.random() < 0.5:
        stripe(canvas, top, top + 2, shade(look.wall, 0.8))
    for column in range(COLUMNS):
        window(rng, canvas, COLUMN * column + COLUMN // 2, top + 8, *size, look)


def window(
    rng: np.random.Generator,
    canvas: np.ndarray,
    middle: float,
    top: float,
    width: float,
    height: float,
    look: Look,
) -> None:
    left, right, bottom = middle - width / 2, middle + width / 2, top + height
    lit = rng.random() < 0.08
    pane = (
        (232.0, 208.0, 150.0)
        if lit
        else shade((0.82, 0.95, 1.08), look.glass * rng.uniform(0.6, 1.35))
    )
    box(canvas, left - 2, top - 2, right + 2, bottom + 2, look.frame)
    box(canvas, left, top, right, bottom, pane)
    box(
        canvas, left, top, right, top + height * rng.uniform(0.15, 0.5), shade(pane, 1.45)
    )  # the sky's reflection
    box(canvas, left, top, right, top + 2, shade(pane, 0.55))
    if width > 22:
        box(canvas, middle - 1, top, middle + 1, bottom, look.frame)
    box(canvas, left - 3, bottom + 2, right + 3, bottom + 4, shade(look.wall, 0.68))


def shops(rng: np.random.Generator, canvas: np.ndarray, top: int, look: Look) -> None:
    sign = shade(tuple(rng.uniform(30, 215, 3)), rng.uniform(0.7, 1.0))
    stripe(canvas, top, top + FLOOR, shade(look.wall, 0.72))
    for column in range(COLUMNS):
        shop_window(rng, canvas, COLUMN * column + 4, top, look)
    stripe(canvas, top + 1, top + 9, sign)
    for column in range(0, COLUMNS, 2):
        left = COLUMN * column + 10
        box(
            canvas, left, top + 3, left + rng.uniform(14, 30), top + 7, shade(sign, 1.9)
        )  # its lettering


def shop_window(
    rng: np.random.Generator, canvas: np.ndarray, left: int, top: int, look: Look
) -> None:
    pane = shade((0.85, 0.95, 1.02), look.glass * rng.uniform(0.7, 1.3))
    box(canvas, left, top + 10, left + 40, top + 37, pane)
    box(canvas, left, top + 10, left + 40, top + 10 + rng.uniform(5, 14), shade(pane, 1.5))
    for _ in range(4):  # goods behind the glass
        x, size = left + rng.uniform(2, 34), rng.uniform(2, 7)
        box(
            canvas,
            x,
            top + 35 - size,
            x + rng.uniform(2, 6),
            top + 36,
            tuple(rng.uniform(40, 200, 3)),
        )


def entrances(rng: np.random.Generator, canvas: np.ndarray, top: int, look: Look) -> None:
    """One door, windows in the other columns."""
    door = int(rng.integers(COLUMNS))
    for column in range(COLUMNS):
        if column != door:
            window(rng, canvas, COLUMN * column + COLUMN // 2, top + 9, 22, 20, look)
    left = COLUMN * door + 16
    wood = (96, 66, 48) if rng.random() < 0.5 else (58, 74, 70)
    wood = shade(wood, rng.uniform(0.7, 1.3))
    box(canvas, left - 2, top + 8, left + 18, top + FLOOR, look.frame)
    box(canvas, left, top + 10, left + 16, top + FLOOR, wood)
    box(canvas, left + 3, top + 12, left + 13, top + 20, shade(wood, 0.6))
    stripe(canvas, top + 36, top + FLOOR, shade(look.wall, 0.6))


# --- strips along the street


def wall(noise: np.ndarray, color: Color, bricks: bool) -> np.ndarray:
    height, width = STRIP
    canvas, joint = plain(color, height, width, noise, 11), shade(color, 0.74)
    course, length = (8, 32) if bricks else (28, 64)
    for row in range(8, height, course):
        stripe(canvas, row, row + 1, joint)
        # every other course of bricks begins with half a brick
        for column in range(length // 2 if bricks and row % (2 * course) else 0, width, length):
            box(canvas, column, row, column + 1, row + course, joint)
    stripe(canvas, 0, 5, shade(color, 1.16))
    stripe(canvas, 5, 6, shade(color, 0.6))
    return canvas


def fence(noise: np.ndarray, color: Color, garden: Color, step: int) -> np.ndarray:
    """Bars before a garden: Cityscapes labels as fence what is seen through it."""
    height, width = STRIP
    canvas = plain(garden, height, width, noise, 14)
    for column in range(0, width, step):
        box(canvas, column, 2, column + max(2, step // 3), height, color)
    for row in (4, 52):
        stripe(canvas, row, row + 4, color)
    for column in range(0, width, 64):
        box(canvas, column, 0, column + 5, height, shade(color, 0.85))
    return canvas


def hedge(rng: np.random.Generator, color: Color) -> np.ndarray:
    height, width = STRIP
    canvas = np.full((height, width, 3), shade(color, 0.5), np.uint8)
    for _ in range(2200):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        light = (1.3 - 0.011 * y) * rng.uniform(0.6, 1.15)
        cv2.circle(canvas, (x, y), int(rng.integers(1, 4)), shade(color, light), -1)
    return canvas


# --- trees


def crown(rng: np.random.Generator, color: Color, height: float) -> np.ndarray:
    """RGBA: clusters of leaves lit from above.

    The outline is one piece without holes, so that labels have no specks.
    """
    unit = CROWN_SIDE / (2 * CROWN_REACH)  # pixels of a crown's radius
    canvas = np.empty((CROWN_SIDE, CROWN_SIDE, 3), np.uint8)
    canvas[:] = shade(color, 0.45)
    outline = np.zeros((CROWN_SIDE, CROWN_SIDE), np.uint8)
    for x, y, radius in clusters(rng, height):
        middle = (round(CROWN_SIDE / 2 + x * unit), round(CROWN_SIDE / 2 + y * unit))
        cv2.circle(outline, middle, round(radius * unit), 255, -1)
        leaves(rng, canvas, outline, middle, radius * unit, color, light=0.98 - 0.28 * y / height)
    return np.dstack([canvas, one_piece(outline)])


def clusters(rng: np.random.Generator, height: float) -> list[tuple[float, float, float]]:
    """(x, y, radius) of the parts of a crown of radius 1, the lower and hence darker ones first."""
    parts = [(0.0, 0.0, 0.5 * height)]
    for number in range(15):
        angle, distance = number * 2.4 + rng.uniform(0, 0.5), math.sqrt(rng.uniform(0.1, 1.0)) * 0.7
        parts.append(
            (
                math.cos(angle) * distance,
                math.sin(angle) * distance * height,
                rng.uniform(0.22, 0.4),
            )
        )
    return sorted(parts, key=lambda part: -part[1])


def leaves(
    rng: np.random.Generator,
    canvas: np.ndarray,
    outline: np.ndarray,
    middle: tuple[int, int],
    radius: float,
    color: Color,
    light: float,
) -> None:
    """Of one cluster, the upper ones lighter."""
    for _ in range(150):
        angle, distance = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random()) * 1.06
        across, down = math.cos(angle), math.sin(angle)
        place = (
            round(middle[0] + radius * distance * across),
            round(middle[1] + radius * distance * down),
        )
        leaf = shade(color, light * (1 - 0.36 * distance * down) * rng.uniform(0.68, 1.2))
        cv2.circle(canvas, place, int(rng.integers(2, 5)), leaf, -1)
        cv2.circle(outline, place, 4, 255, -1)


def one_piece(outline: np.ndarray) -> np.ndarray:
    """Its largest part, without thin twigs and holes."""
    rounded = cv2.morphologyEx(
        outline, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    )
    contours, _ = cv2.findContours(rounded, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(outline)
    cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], -1, 255, -1)
    return filled
