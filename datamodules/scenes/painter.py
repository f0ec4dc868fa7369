"""The camera, the weather, and the brush that draws into image and label at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from datamodules.scenes.materials import CROWN_REACH, Color, Pyramid

Point = tuple[float, float]  # pixels; in a Cutout meters
Place = tuple[float, float, float]  # meters: right, up, along the street
Rows = TypeVar("Rows", float, np.ndarray)

NEAREST = 0.05  # meters: nearer points are drawn as if at this distance
FRACTION_BITS = 4  # OpenCV takes corners between pixels as whole numbers: of sixteenths
CIRCLE = np.array(
    [(math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)) for turn in range(16)]
)


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole in pixels; a bend shifts sideways with the square of the distance."""

    focal: float
    center: float
    horizon: float
    eye: float
    bend: float

    def point(self, x: float, y: float, z: float) -> Point:
        z = max(z, NEAREST)
        return self.center + self.focal * (x / z + self.bend * z), self.horizon + self.focal * (
            self.eye - y
        ) / z

    def depth(self, row: Rows) -> Rows:
        """Distance of the ground that is seen in a row below the horizon, or in each of several."""
        return self.focal * self.eye / (row - self.horizon)


@dataclass(frozen=True)
class Weather:
    sky: Color
    haze: Color
    sight: float  # meters until haze takes 63 % of a color
    sun: int  # the side of the street above which it stands
    sunny: bool

    def clear(self, z: float) -> float:
        """The share of a color that comes through the haze."""
        return math.exp(-z / self.sight)

    def on_face(self, side: int) -> float:
        """How bright the faces on this side of the street are that look at the street."""
        return 1.1 if self.sunny and self.sun != side else 0.84


class Window(NamedTuple):
    """A part of the image, in whole pixels; `right` and `bottom` are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as OpenCV orders them."""
        return self.right - self.left, self.bottom - self.top


class Painter:
    """Draws into image and label at once: the image smooth, the label never between two classes."""

    def __init__(self, camera: Camera, weather: Weather, height: int, width: int) -> None:
        self.camera, self.weather = camera, weather
        self.height, self.width = height, width
        self.image = np.empty((height, width, 3), np.uint8)
        self.label = np.empty((height, width), np.uint8)

    def sees(self, x: float, z: float, reach: float) -> bool:
        """Whether a thing within `reach` meters of x can be on the image."""
        u, margin = self.camera.point(x, 0, z)[0], reach * self.camera.focal / z
        return -margin < u < self.width + margin

    def tone(self, color: Color, z: float, light: float = 1.0) -> Color:
        """The color as it is seen through the haze."""
        clear, haze = self.weather.clear(z), self.weather.haze
        own, gray = light * clear, 1 - clear
        return (
            color[0] * own + haze[0] * gray,
            color[1] * own + haze[1] * gray,
            color[2] * own + haze[2] * gray,
        )

    # --- plain shapes; without a label they are details of what was labeled before

    def fill(self, corners: np.ndarray, color: Color, label: int | None = None) -> None:
        """A convex polygon in sixteenths of a pixel."""
        cv2.fillConvexPoly(self.image, corners, color, cv2.LINE_AA, FRACTION_BITS)
        if label is not None:
            cv2.fillConvexPoly(self.label, corners, label, cv2.LINE_8, FRACTION_BITS)

    def polygon(self, points: Sequence[Point], color: Color, label: int | None = None) -> None:
        """A convex polygon in pixels."""
        self.fill(sixteenths(points), color, label)

    def face(self, places: Sequence[Place], color: Color, label: int | None = None) -> None:
        """A convex polygon in space."""
        point = self.camera.point
        self.polygon([point(x, y, z) for x, y, z in places], color, label)

    def upright(
        self,
        x: float,
        half: float,
        bottom: float,
        top: float,
        z: float,
        color: Color,
        label: int | None = None,
    ) -> None:
        """A rectangle that looks at the camera."""
        left, low = self.camera.point(x - half, bottom, z)
        right, high = self.camera.point(x + half, top, z)
        self.polygon([(left, high), (right, high), (right, low), (left, low)], color, label)

    # --- textures

    def surface(
        self, places: Sequence[Place], texture: Pyramid, repeats: float, light: float, label: int
    ) -> None:
        """A texture, `repeats` times side by side, on a rectangle in space.

        The places are clockwise from its upper left corner.
        """
        points = [self.camera.point(*place) for place in places]
        window = self.window(points)
        if window is None:
            return
        # as sharp as the taller one of the two upright edges needs it
        level = sharpest(
            texture, max(abs(points[3][1] - points[0][1]), abs(points[2][1] - points[1][1]))
        )
        corners = np.array([(u - window.left, v - window.top) for u, v in points], np.float32)
        matrix = perspective(level, repeats, corners)
        seen = cv2.warpPerspective(
            level, matrix, window.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
        inside = np.zeros(seen.shape[:2], np.uint8)
        cv2.fillConvexPoly(
            inside, np.rint(corners * 16).astype(np.int32), label, cv2.LINE_8, FRACTION_BITS
        )
        self.paste(seen, inside, window, sum(z for _, _, z in places) / 4, light)

    def sprite(
        self,
        texture: Pyramid,
        place: Place,
        radius: float,
        light: float,
        mirrored: bool,
        label: int,
    ) -> None:
        """A crown of leaves around a place."""
        u, v = self.camera.point(*place)
        half = CROWN_REACH * radius * self.camera.focal / place[2]
        window = self.window([(u - half, v - half), (u + half, v + half)])
        if window is None:
            return
        level = sharpest(texture, 2 * half)
        matrix = similarity(level, 2 * half, mirrored, (window.left - u, window.top - v))
        seen = cv2.warpAffine(
            level, matrix, window.size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        _, inside = cv2.threshold(cv2.extractChannel(seen, 3), 127, label, cv2.THRESH_BINARY)
        self.paste(cv2.cvtColor(seen, cv2.COLOR_RGBA2RGB), inside, window, place[2], light)

    def window(self, points: Sequence[Point]) -> Window | None:
        """The part of the image around these points; None where they lie outside."""
        across, down = [u for u, _ in points], [v for _, v in points]
        left, right = max(0, math.floor(min(across))), min(self.width, math.ceil(max(across)) + 1)
        top, bottom = max(0, math.floor(min(down))), min(self.height, math.ceil(max(down)) + 1)
        return Window(left, top, right, bottom) if right > left and bottom > top else None

    def paste(
        self, seen: np.ndarray, inside: np.ndarray, window: Window, z: float, light: float
    ) -> None:
        """`inside` is 0 outside the shape and the class inside."""
        clear = self.weather.clear(z)
        own, (red, green, blue) = (
            light * clear,
            [channel * (1 - clear) for channel in self.weather.haze],
        )
        tone = np.array([(own, 0, 0, red), (0, own, 0, green), (0, 0, own, blue)])
        area = slice(window.top, window.bottom), slice(window.left, window.right)
        cv2.copyTo(cv2.transform(seen, tone), inside, self.image[area])
        cv2.copyTo(inside, inside, self.label[area])


def sixteenths(points: Sequence[Point]) -> np.ndarray:
    """Corners as OpenCV wants them for positions between pixels."""
    return np.array([(round(u * 16), round(v * 16)) for u, v in points], np.int32)


def sharpest(texture: Pyramid, pixels: float) -> np.ndarray:
    """The level of a pyramid with about as many rows as there are pixels."""
    step = max(0, int(math.log2(max(1.0, texture[0].shape[0] / max(pixels, 1.0))) + 0.4))
    return texture[min(step, len(texture) - 1)]


def perspective(level: np.ndarray, repeats: float, corners: np.ndarray) -> np.ndarray:
    """The matrix from texels to pixels."""
    rows, columns = level.shape[:2]
    across = repeats * columns
    # half a texel less: OpenCV counts from the middle of the first one
    texels = np.array([(0, 0), (across, 0), (across, rows), (0, rows)], np.float32) - 0.5
    return cv2.getPerspectiveTransform(texels, corners)


def similarity(level: np.ndarray, pixels: float, mirrored: bool, corner: Point) -> np.ndarray:
    """The matrix from pixels to texels for a square of `pixels` around a middle.

    `corner` is the window's corner as seen from there.
    """
    scale, middle = level.shape[0] / pixels, (level.shape[0] - 1) / 2
    flip = -scale if mirrored else scale
    return np.array([(flip, 0, middle + flip * corner[0]), (0, scale, middle + scale * corner[1])])


# --- rectangles in space, from the upper left corner clockwise


def lengthwise(x: float, near: float, far: float, low: float, high: float) -> list[Place]:
    """Upright, along the street."""
    return [(x, high, near), (x, high, far), (x, low, far), (x, low, near)]


def crosswise(left: float, right: float, low: float, high: float, z: float) -> list[Place]:
    """Upright, across the street."""
    return [(left, high, z), (right, high, z), (right, low, z), (left, low, z)]


# --- flat drawings


class Cutout:
    """A flat drawing at (x, z) that looks at the camera: points are meters from its foot."""

    def __init__(self, painter: Painter, x: float, z: float, size: float = 1.0) -> None:
        self.painter, self.z = painter, z
        self.u, self.v = painter.camera.point(x, 0, z)
        self.scale = size * painter.camera.focal / z

    def polygon(self, points: Sequence[Point], color: Color, label: int | None = None) -> None:
        u, v, scale = self.u, self.v, self.scale
        self.painter.polygon(
            [(u + x * scale, v - y * scale) for x, y in points],
            self.painter.tone(color, self.z),
            label,
        )

    def box(
        self,
        left: float,
        bottom: float,
        right: float,
        top: float,
        color: Color,
        label: int | None = None,
    ) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color, label)

    def bar(
        self, start: Point, end: Point, width: float, color: Color, label: int | None = None
    ) -> None:
        """A thick line, never thinner than a pixel."""
        across, up = end[0] - start[0], end[1] - start[1]
        half = max(width, 0.9 / self.scale) / 2 / (math.hypot(across, up) + 1e-9)
        x, y = -up * half, across * half
        corners = [
            (start[0] + x, start[1] + y),
            (end[0] + x, end[1] + y),
            (end[0] - x, end[1] - y),
            (start[0] - x, start[1] - y),
        ]
        self.polygon(corners, color, label)

    def disc(
        self, middle: Point, across: float, up: float, color: Color, label: int | None = None
    ) -> None:
        self.painter.fill(self.ellipse(middle, across, up), self.painter.tone(color, self.z), label)

    def ring(self, middle: Point, across: float, up: float, width: float, color: Color) -> None:
        corners, thickness = self.ellipse(middle, across, up), max(1, round(width * self.scale))
        cv2.polylines(
            self.painter.image,
            [corners],
            True,
            self.painter.tone(color, self.z),
            thickness,
            cv2.LINE_AA,
            FRACTION_BITS,
        )

    def ellipse(self, middle: Point, across: float, up: float) -> np.ndarray:
        """Its corners in sixteenths of a pixel; `across` and `up` are the half axes."""
        points = CIRCLE * (across * self.scale * 16, up * self.scale * 16)
        points += ((self.u + middle[0] * self.scale) * 16, (self.v - middle[1] * self.scale) * 16)
        return np.rint(points).astype(np.int32)
