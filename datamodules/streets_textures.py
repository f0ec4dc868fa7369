"""What the built-in street scenes are painted with: textures, a camera, and the brush that draws into image and label at once.

The textures are painted once per process. Each is a pyramid, largest first, every level half the one before, so that distant
surfaces do not flicker.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

Pyramid = tuple[np.ndarray, ...]
Color = tuple[float, float, float]
Point = tuple[float, float]  # pixels; in a Cutout meters
Place = tuple[float, float, float]  # meters: right, up, along the street

PLASTER = ((204, 190, 164), (214, 204, 190), (186, 176, 166), (222, 198, 152), (176, 182, 186), (196, 160, 132), (226, 218, 200))
BRICK = ((150, 92, 74), (134, 98, 80), (166, 118, 92))
LEAVES = ((62, 88, 40), (78, 100, 46), (52, 76, 40), (92, 108, 52), (66, 84, 50), (112, 104, 48), (84, 98, 60))
STONE = ((150, 142, 132), (142, 104, 84), (122, 120, 118), (172, 166, 154), (112, 94, 78), (160, 150, 140))
RAILS = ((58, 62, 64), (186, 184, 178), (44, 76, 56), (146, 112, 76), (118, 122, 126))

FLOORS = range(2, 8)  # a facade is chosen by its number of floors
COLUMNS = 5  # windows beside each other on one tile of a facade
COLUMN_WIDTH = 3.0  # meters
STRIP_LENGTH = 6.0  # meters of wall, fence or hedge on one tile
CROWN_REACH = 1.25  # half the side of a crown's square, in crown radii
NEAREST = 0.05  # meters: nearer points are drawn as if at this distance

CIRCLE = np.array([(math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)) for turn in range(16)])


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
    """The same textures in every process: their seed is fixed."""
    rng = np.random.default_rng(20160401)
    noise = smooth_noise(rng, size=512, cells=16)
    return Textures(
        facades={floors: tuple(pyramid(facade(rng, noise, floors)) for _ in range(5)) for floors in FLOORS},
        walls=tuple(pyramid(wall(noise, color, bricks=number % 2 == 1)) for number, color in enumerate(STONE)),
        fences=tuple(pyramid(fence(noise, color, number)) for number, color in enumerate(RAILS)),
        hedges=tuple(pyramid(hedge(rng, color)) for color in LEAVES[:4]),
        crowns=tuple(pyramid(crown(rng, color, height=height)) for height in (0.8, 1.0) for color in LEAVES),
        bushes=tuple(pyramid(crown(rng, color, height=0.62)) for color in LEAVES),
        ground=noise,
        clouds=smooth_noise(rng, size=256, cells=4),
        grain=np.clip(rng.standard_normal((512, 1024, 3), dtype=np.float32) * 24 + 128.5, 0, 255).astype(np.uint8),
    )


def pyramid(texture: np.ndarray) -> Pyramid:
    levels = [texture]
    while min(levels[-1].shape[:2]) >= 16:
        height, width = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return tuple(levels)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Octaves of interpolated noise; opposite borders continue each other where `cells` divides `size`."""
    total = np.zeros((size, size), np.float32)
    weight = 1.0
    while cells <= size:
        lattice = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 1, mode="wrap")
        cell = size // cells
        octave = cv2.resize(lattice, (size + 2 * cell, size + 2 * cell), interpolation=cv2.INTER_LINEAR)
        total += weight * octave[cell : cell + size, cell : cell + size]
        weight *= 0.62
        cells *= 2
    return (total - total.mean()) / total.std()


def shade(color: Color, factor: float) -> Color:
    return tuple(min(255.0, channel * factor) for channel in color)


def plain(color: Color, height: int, width: int, noise: np.ndarray, strength: float) -> np.ndarray:
    surface = np.array(color, np.float32) + strength * noise[:height, :width, None]
    return np.clip(surface, 0, 255).astype(np.uint8)


def box(canvas: np.ndarray, left: float, top: float, right: float, bottom: float, color: Color) -> None:
    cv2.rectangle(canvas, (round(left), round(top)), (round(right) - 1, round(bottom) - 1), color, -1)


# --- buildings


def facade(rng: np.random.Generator, noise: np.ndarray, floors: int) -> np.ndarray:
    """One tile of COLUMNS windows by `floors` floors, the lowest a shop or an entrance; 40 pixels a floor."""
    brick = rng.random() < 0.3
    color = shade((BRICK if brick else PLASTER)[rng.integers(len(BRICK if brick else PLASTER))], rng.uniform(0.85, 1.08))
    canvas = plain(color, 40 * floors, 48 * COLUMNS, noise, 9 if brick else 5)
    if brick:
        canvas[::4] = (canvas[::4] * 0.86).astype(np.uint8)
    window_width, window_height = rng.uniform(18, 32), rng.uniform(20, 28)
    look = Look(wall=color, frame=shade(color, 1.2 if rng.random() < 0.7 else 0.55), glass=float(rng.uniform(40, 95)))
    for floor in range(floors - 1):
        if rng.random() < 0.5:
            box(canvas, 0, 40 * floor, canvas.shape[1], 40 * floor + 2, shade(color, 0.8))
        for column in range(COLUMNS):
            window(rng, canvas, 48 * column + 24, 40 * floor + 8, window_width, window_height, look)
    box(canvas, 0, 0, canvas.shape[1], 3, shade(color, 0.7))
    (shops if floors > 3 and rng.random() < 0.75 else entrances)(rng, canvas, 40 * (floors - 1), look)
    return canvas


class Look(NamedTuple):
    """What the windows and doors of one house have in common."""

    wall: Color
    frame: Color
    glass: float


def window(rng: np.random.Generator, canvas: np.ndarray, middle: float, top: float, width: float, height: float, look: Look) -> None:
    left, right, bottom = middle - width / 2, middle + width / 2, top + height
    pane = (232.0, 208.0, 150.0) if rng.random() < 0.08 else shade((0.82, 0.95, 1.08), look.glass * rng.uniform(0.6, 1.35))
    box(canvas, left - 2, top - 2, right + 2, bottom + 2, look.frame)
    box(canvas, left, top, right, bottom, pane)
    box(canvas, left, top, right, top + height * rng.uniform(0.15, 0.5), shade(pane, 1.45))  # the sky's reflection
    box(canvas, left, top, right, top + 2, shade(pane, 0.55))
    if width > 22:
        box(canvas, middle - 1, top, middle + 1, bottom, look.frame)
    box(canvas, left - 3, bottom + 2, right + 3, bottom + 4, shade(look.wall, 0.68))


def shops(rng: np.random.Generator, canvas: np.ndarray, top: int, look: Look) -> None:
    width, band = canvas.shape[1], shade(tuple(rng.uniform(30, 215, 3)), rng.uniform(0.7, 1.0))
    box(canvas, 0, top, width, top + 40, shade(look.wall, 0.72))
    for column in range(COLUMNS):
        left, pane = 48 * column + 4, shade((0.85, 0.95, 1.02), look.glass * rng.uniform(0.7, 1.3))
        box(canvas, left, top + 10, left + 40, top + 37, pane)
        box(canvas, left, top + 10, left + 40, top + 10 + rng.uniform(5, 14), shade(pane, 1.5))
        for _ in range(4):  # goods behind the glass
            x, size = left + rng.uniform(2, 34), rng.uniform(2, 7)
            box(canvas, x, top + 35 - size, x + rng.uniform(2, 6), top + 36, tuple(rng.uniform(40, 200, 3)))
    box(canvas, 0, top + 1, width, top + 9, band)
    for column in range(0, COLUMNS, 2):
        box(canvas, 48 * column + 10, top + 3, 48 * column + 10 + rng.uniform(14, 30), top + 7, shade(band, 1.9))


def entrances(rng: np.random.Generator, canvas: np.ndarray, top: int, look: Look) -> None:
    door = int(rng.integers(COLUMNS))
    for column in range(COLUMNS):
        if column != door:
            window(rng, canvas, 48 * column + 24, top + 9, 22, 20, look)
    left, wood = 48 * door + 16, shade((96, 66, 48) if rng.random() < 0.5 else (58, 74, 70), rng.uniform(0.7, 1.3))
    box(canvas, left - 2, top + 8, left + 18, top + 40, look.frame)
    box(canvas, left, top + 10, left + 16, top + 40, wood)
    box(canvas, left + 3, top + 12, left + 13, top + 20, shade(wood, 0.6))
    box(canvas, 0, top + 36, canvas.shape[1], top + 40, shade(look.wall, 0.6))


# --- strips along the street


def wall(noise: np.ndarray, color: Color, bricks: bool) -> np.ndarray:
    canvas = plain(color, 64, 256, noise, 11)
    joint = shade(color, 0.74)
    for row in range(8, 64, 8 if bricks else 28):
        box(canvas, 0, row, 256, row + 1, joint)
        for column in range((row % 16) * 2 if bricks else 0, 256, 32 if bricks else 64):
            box(canvas, column, row, column + 1, row + (8 if bricks else 28), joint)
    box(canvas, 0, 0, 256, 5, shade(color, 1.16))
    box(canvas, 0, 5, 256, 6, shade(color, 0.6))
    return canvas


def fence(noise: np.ndarray, color: Color, number: int) -> np.ndarray:
    """Bars before the garden behind them: Cityscapes labels what is seen through a fence as fence."""
    canvas = plain(((66, 82, 48), (112, 108, 98), (60, 62, 58), (92, 98, 76), (76, 72, 58))[number], 64, 256, noise, 14)
    step = (6, 10, 8, 11, 5)[number]
    for column in range(0, 256, step):
        box(canvas, column, 2, column + max(2, step // 3), 64, color)
    for row in (4, 52):
        box(canvas, 0, row, 256, row + 4, color)
    for column in range(0, 256, 64):
        box(canvas, column, 0, column + 5, 64, shade(color, 0.85))
    return canvas


def hedge(rng: np.random.Generator, color: Color) -> np.ndarray:
    canvas = np.full((64, 256, 3), shade(color, 0.5), np.uint8)
    for _ in range(2200):
        x, y = rng.integers(256), rng.integers(64)
        light = (1.3 - 0.011 * y) * rng.uniform(0.6, 1.15)
        cv2.circle(canvas, (int(x), int(y)), int(rng.integers(1, 4)), shade(color, light), -1)
    return canvas


# --- trees


def crown(rng: np.random.Generator, color: Color, height: float, size: int = 256) -> np.ndarray:
    """RGBA: clusters of leaves lit from above; the outline is one piece without holes, so that labels have no specks."""
    unit = size / (2 * CROWN_REACH)
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = shade(color, 0.45)
    outline = np.zeros((size, size), np.uint8)
    for x, y, radius in clusters(rng, height):
        middle = (round(size / 2 + x * unit), round(size / 2 + y * unit))
        cv2.circle(outline, middle, round(radius * unit), 255, -1)
        leaves(rng, canvas, outline, middle, radius * unit, color, light=0.98 - 0.28 * y / height)
    return np.dstack([canvas, one_piece(outline)])


def clusters(rng: np.random.Generator, height: float) -> list[tuple[float, float, float]]:
    """(x, y, radius) of the parts of a crown of radius 1, the lower and hence darker ones first."""
    parts = [(0.0, 0.0, 0.5 * height)]
    for number in range(15):
        angle, distance = number * 2.4 + rng.uniform(0, 0.5), math.sqrt(rng.uniform(0.1, 1.0)) * 0.7
        parts.append((math.cos(angle) * distance, math.sin(angle) * distance * height, rng.uniform(0.22, 0.4)))
    return sorted(parts, key=lambda part: -part[1])


def leaves(
    rng: np.random.Generator, canvas: np.ndarray, outline: np.ndarray, middle: tuple[int, int], radius: float, color: Color, light: float
) -> None:
    for _ in range(150):
        angle, distance = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random()) * 1.06
        x, y = round(middle[0] + radius * distance * math.cos(angle)), round(middle[1] + radius * distance * math.sin(angle))
        leaf = shade(color, light * (1 - 0.36 * distance * math.sin(angle)) * rng.uniform(0.68, 1.2))
        cv2.circle(canvas, (x, y), int(rng.integers(2, 5)), leaf, -1)
        cv2.circle(outline, (x, y), 4, 255, -1)


def one_piece(outline: np.ndarray) -> np.ndarray:
    rounded = cv2.morphologyEx(outline, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    contours, _ = cv2.findContours(rounded, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(outline)
    cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], -1, 255, -1)
    return filled


# --- camera and brush


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole in pixels; a bent street is a sideways shift that grows with the square of the distance."""

    focal: float
    center: float
    horizon: float
    eye: float
    bend: float

    def point(self, x: float, y: float, z: float) -> Point:
        z = max(z, NEAREST)
        return self.center + self.focal * (x / z + self.bend * z), self.horizon + self.focal * (self.eye - y) / z

    def depth(self, row: float) -> float:
        """Distance of the ground that is seen in a row below the horizon."""
        return self.focal * self.eye / (row - self.horizon)


@dataclass(frozen=True)
class Weather:
    sky: Color
    haze: Color
    sight: float  # meters until haze takes 63 % of a color
    sun: int  # the side of the street above which it stands
    sunny: bool

    def on_face(self, side: int) -> float:
        """How bright the faces on this side of the street are that look at the street."""
        return 1.1 if self.sunny and self.sun != side else 0.84


class Painter:
    """Draws into image and label at once: the image smooth, the label never between two classes."""

    def __init__(self, camera: Camera, weather: Weather, height: int, width: int) -> None:
        self.camera, self.weather = camera, weather
        self.height, self.width = height, width
        self.image = np.empty((height, width, 3), np.uint8)
        self.label = np.empty((height, width), np.uint8)

    def sees(self, x: float, z: float, reach: float) -> bool:
        """Whether a thing within `reach` meters of x can be on the image."""
        u = self.camera.point(x, 0, z)[0]
        return -reach * self.camera.focal / z < u < self.width + reach * self.camera.focal / z

    def tone(self, color: Color, z: float, light: float = 1.0) -> Color:
        """The color as it is seen through the haze."""
        clear = math.exp(-z / self.weather.sight)
        own, haze, gray = light * clear, self.weather.haze, 1 - clear
        return color[0] * own + haze[0] * gray, color[1] * own + haze[1] * gray, color[2] * own + haze[2] * gray

    def polygon(self, points: Sequence[Point], color: Color, label: int | None = None) -> None:
        """A convex polygon in pixels, to a sixteenth of a pixel."""
        corners = sixteenths(points)
        cv2.fillConvexPoly(self.image, corners, color, cv2.LINE_AA, 4)
        if label is not None:
            cv2.fillConvexPoly(self.label, corners, label, cv2.LINE_8, 4)

    def face(self, places: Sequence[Place], color: Color, label: int | None = None) -> None:
        point = self.camera.point
        self.polygon([point(x, y, z) for x, y, z in places], color, label)

    def upright(self, x: float, half: float, bottom: float, top: float, z: float, color: Color, label: int | None = None) -> None:
        """A rectangle that looks at the camera."""
        left, low = self.camera.point(x - half, bottom, z)
        right, high = self.camera.point(x + half, top, z)
        self.polygon([(left, high), (right, high), (right, low), (left, low)], color, label)

    def surface(self, places: Sequence[Place], texture: Pyramid, repeats: float, light: float, label: int) -> None:
        """A texture on a rectangle in space, from its upper left corner clockwise, `repeats` times side by side."""
        points = [self.camera.point(*place) for place in places]
        left, top, right, bottom = self.clipped([u for u, _ in points], [v for _, v in points])
        if right <= left or bottom <= top:
            return
        level = sharpest(texture, max(abs(points[3][1] - points[0][1]), abs(points[2][1] - points[1][1])))
        rows, columns = level.shape[:2]
        across = repeats * columns
        source = np.array([(0, 0), (across, 0), (across, rows), (0, rows)], np.float32) - 0.5
        target = np.array([(u - left, v - top) for u, v in points], np.float32)
        matrix = cv2.getPerspectiveTransform(source, target)
        size = (right - left, bottom - top)
        seen = cv2.warpPerspective(level, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        shape = np.rint(target * 16).astype(np.int32)
        inside = np.zeros(seen.shape[:2], np.uint8)
        cv2.fillConvexPoly(inside, shape, label, cv2.LINE_8, 4)
        self.paste(seen, inside, left, top, sum(z for _, _, z in places) / 4, light)

    def sprite(self, texture: Pyramid, place: Place, radius: float, light: float, mirrored: bool, label: int) -> None:
        """A crown of leaves around a place."""
        u, v = self.camera.point(*place)
        half = CROWN_REACH * radius * self.camera.focal / place[2]
        left, top, right, bottom = self.clipped((u - half, u + half), (v - half, v + half))
        if right <= left or bottom <= top:
            return
        level = sharpest(texture, 2 * half)
        scale = level.shape[0] / (2 * half)
        flip = -scale if mirrored else scale
        middle = (level.shape[0] - 1) / 2
        matrix = np.array([(flip, 0, middle + flip * (left - u)), (0, scale, middle + scale * (top - v))])
        seen = cv2.warpAffine(level, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        _, inside = cv2.threshold(cv2.extractChannel(seen, 3), 127, label, cv2.THRESH_BINARY)
        self.paste(cv2.cvtColor(seen, cv2.COLOR_RGBA2RGB), inside, left, top, place[2], light)

    def clipped(self, across: Sequence[float], down: Sequence[float]) -> tuple[int, int, int, int]:
        left, right = max(0, math.floor(min(across))), min(self.width, math.ceil(max(across)) + 1)
        top, bottom = max(0, math.floor(min(down))), min(self.height, math.ceil(max(down)) + 1)
        return left, top, right, bottom

    def paste(self, seen: np.ndarray, inside: np.ndarray, left: int, top: int, z: float, light: float) -> None:
        """`inside` is 0 outside the shape and the class inside."""
        clear = math.exp(-z / self.weather.sight)
        haze = [channel * (1 - clear) for channel in self.weather.haze]
        tone = np.zeros((3, 4))
        tone[[0, 1, 2], [0, 1, 2]], tone[:, 3] = light * clear, haze
        window = slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1])
        cv2.copyTo(cv2.transform(seen, tone), inside, self.image[window])
        cv2.copyTo(inside, inside, self.label[window])


def sixteenths(points: Sequence[Point]) -> np.ndarray:
    """Corners as OpenCV wants them for positions between pixels."""
    return np.array([(round(u * 16), round(v * 16)) for u, v in points], np.int32)


def sharpest(texture: Pyramid, pixels: float) -> np.ndarray:
    """The level of a pyramid with about as many rows as there are pixels."""
    step = max(0, int(math.log2(max(1.0, texture[0].shape[0] / max(pixels, 1.0))) + 0.4))
    return texture[min(step, len(texture) - 1)]


class Cutout:
    """A flat drawing that stands at (x, z) and looks at the camera: points are meters right of and above its foot."""

    def __init__(self, painter: Painter, x: float, z: float, size: float = 1.0) -> None:
        self.painter, self.z = painter, z
        self.u, self.v = painter.camera.point(x, 0, z)
        self.scale = size * painter.camera.focal / z

    def polygon(self, points: Sequence[Point], color: Color, label: int | None = None) -> None:
        u, v, scale = self.u, self.v, self.scale
        self.painter.polygon([(u + x * scale, v - y * scale) for x, y in points], self.painter.tone(color, self.z), label)

    def box(self, left: float, bottom: float, right: float, top: float, color: Color, label: int | None = None) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color, label)

    def bar(self, start: Point, end: Point, width: float, color: Color, label: int | None = None) -> None:
        """A thick line, never thinner than a pixel."""
        across, up = end[0] - start[0], end[1] - start[1]
        half = max(width, 0.9 / self.scale) / 2 / (math.hypot(across, up) + 1e-9)
        x, y = -up * half, across * half
        corners = [(start[0] + x, start[1] + y), (end[0] + x, end[1] + y), (end[0] - x, end[1] - y), (start[0] - x, start[1] - y)]
        self.polygon(corners, color, label)

    def ellipse(self, middle: Point, across: float, up: float) -> np.ndarray:
        """Its corners in sixteenths of a pixel; `across` and `up` are the half axes."""
        points = CIRCLE * (across * self.scale * 16, up * self.scale * 16)
        points += ((self.u + middle[0] * self.scale) * 16, (self.v - middle[1] * self.scale) * 16)
        return np.rint(points).astype(np.int32)

    def disc(self, middle: Point, across: float, up: float, color: Color, label: int | None = None) -> None:
        corners = self.ellipse(middle, across, up)
        cv2.fillConvexPoly(self.painter.image, corners, self.painter.tone(color, self.z), cv2.LINE_AA, 4)
        if label is not None:
            cv2.fillConvexPoly(self.painter.label, corners, label, cv2.LINE_8, 4)

    def ring(self, middle: Point, across: float, up: float, width: float, color: Color) -> None:
        corners, thickness = self.ellipse(middle, across, up), max(1, round(width * self.scale))
        cv2.polylines(self.painter.image, [corners], True, self.painter.tone(color, self.z), thickness, cv2.LINE_AA, 4)
