"""The built-in street scenes: small pictures in the manner of Cityscapes, drawn from a seed, with their labels.

Everything is placed in meters before a camera; the things are drawn from far to near into the image and the label at once. x points
right, y up from the ground, z along the street. All random numbers are drawn while placing, so a scene is the same at every size.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from datamodules.streets_textures import (
    CIRCLE,
    COLUMN_WIDTH,
    COLUMNS,
    CROWN_REACH,
    STRIP_LENGTH,
    Camera,
    Color,
    Cutout,
    Painter,
    Place,
    Point,
    Pyramid,
    Weather,
    shade,
    sixteenths,
    textures,
)

# Cityscapes' own ids
EGO, OUT_OF_ROI, STATIC, ROAD, SIDEWALK, PARKING, RAIL_TRACK, BUILDING, WALL, FENCE = 1, 3, 4, 7, 8, 9, 10, 11, 12, 13
POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER = 17, 19, 20, 21, 22, 23, 24, 25
CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = 26, 27, 28, 31, 32, 33

SMALLEST = 32  # pixels
END = 160.0  # meters: the ground ends behind the last houses
ONCOMING = -1.2  # meters: further left one drives towards the camera
SPECK = 60.0  # meters: people, signs, poles and bicycles further away would be specks

Item = TypeVar("Item")
WHEEL = [(math.cos(turn * math.pi / 6), math.sin(turn * math.pi / 6)) for turn in range(12)]


def scene(seed: int, index: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """RGB image (H, W, 3) and Cityscapes label ids (H, W), both uint8: the same bytes for the same arguments, whatever was drawn before."""
    if min(height, width) < SMALLEST:
        raise ValueError(f"a street scene has at least {SMALLEST} rows and columns, not {height}x{width}: draw it larger and scale it down")
    dice = Dice(seed, index)
    lens, street, develop = Lens.drawn(dice), Street.drawn(dice), development(dice)
    ground = ground_of(dice, street)
    things = sorted(everything(dice, street, index), key=lambda thing: -thing.distance)
    painter = Painter(lens.camera(height, width), street.weather, height, width)
    ground(painter, [thing.shadow for thing in things if thing.shadow])
    for thing in things:
        thing.draw(painter)
    return develop(painter.image, painter.label)


# --- chance


class Dice:
    """A scene's random numbers, all made from `random.random()`, whose sequence Python promises to keep."""

    def __init__(self, seed: int, index: int) -> None:
        self.roll = random.Random(f"street {int(seed)}/{int(index)}").random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.roll()

    def chance(self, share: float) -> bool:
        return self.roll() < share

    def pick(self, items: Sequence[Item]) -> Item:
        return items[int(self.roll() * len(items))]

    def whole(self, low: int, high: int) -> int:
        """One of low..high, both included."""
        return low + int(self.roll() * (high - low + 1))

    def near(self, mean: float, spread: float) -> float:
        """About normal: a sum of three even ones."""
        return mean + spread * 2 * (self.roll() + self.roll() + self.roll() - 1.5)

    def side(self) -> int:
        return -1 if self.roll() < 0.5 else 1

    def color(self, low: float, high: float) -> Color:
        return self.between(low, high), self.between(low, high), self.between(low, high)


@dataclass(frozen=True)
class Lens:
    """The camera in shares of the image's size."""

    focal: float
    center: float
    horizon: float
    eye: float  # meters above the ground
    bend: float  # of the street, 1 / meters

    @classmethod
    def drawn(cls, dice: Dice) -> "Lens":
        return cls(
            focal=dice.between(1.0, 1.2),
            center=dice.between(0.46, 0.54),
            horizon=dice.between(0.40, 0.47),
            eye=dice.between(1.2, 1.45),
            bend=dice.near(0, 0.0012),
        )

    def camera(self, height: int, width: int) -> Camera:
        # half a pixel less: OpenCV counts from the middle of the first pixel
        return Camera(self.focal * width, self.center * width - 0.5, self.horizon * height - 0.5, self.eye, self.bend)


SKIES = ((142, 182, 226), (150, 188, 228), (205, 212, 220), (226, 226, 228), (176, 202, 230))


def weather_of(dice: Dice) -> Weather:
    sky = shade(dice.pick(SKIES), dice.between(0.9, 1.06))
    haze = shade(tuple(channel + 16 for channel in sky), 0.9)
    return Weather(sky, haze, sight=dice.between(150, 420), sun=dice.side(), sunny=dice.chance(0.6))


# --- the street


@dataclass(frozen=True)
class Style:
    """What kind of neighborhood; the odds of what stands beside the road."""

    share: float
    houses: float
    verge: float  # a green strip
    trees: float  # a row along the street
    railings: float
    people: float  # on each sidewalk
    floors: tuple[int, int]
    backdrop: float  # houses, not trees, at the street's end
    wide: float  # meters of additional road


URBAN = Style(0.52, houses=0.82, verge=0.14, trees=0.45, railings=0.13, people=5.2, floors=(4, 7), backdrop=0.65, wide=0)
AVENUE = Style(0.26, houses=0.66, verge=0.36, trees=0.75, railings=0.24, people=3.8, floors=(4, 7), backdrop=0.45, wide=3)
SUBURB = Style(0.12, houses=0.46, verge=0.70, trees=0.66, railings=0.40, people=1.6, floors=(2, 3), backdrop=0.30, wide=0)
PARK = Style(0.10, houses=0.16, verge=0.85, trees=0.75, railings=0.50, people=1.2, floors=(2, 3), backdrop=0.15, wide=0)
STYLES = (URBAN, AVENUE, SUBURB, PARK)


@dataclass(frozen=True)
class Bank:
    """One side of the street, in meters from the middle of the own lane; `side` is -1 on the left and 1 on the right."""

    side: int
    road: float  # where the road ends
    verge: float  # width of the green strip, 0 without
    inner: bool  # the verge lies between road and sidewalk, not behind it
    front: float  # where the houses begin
    parking: float  # width of the lane with parked cars, a part of the road

    @classmethod
    def drawn(cls, dice: Dice, style: Style, side: int, inner: bool) -> "Bank":
        parking = 2.2 if dice.chance(0.30) else 0.0
        width = dice.between(2.5, 6.6) + style.wide * 2 / 3 if side < 0 else dice.between(1.7, 3.9) + style.wide / 3
        road = width + 0.8 * parking
        verge = dice.between(1.5, 5) if dice.chance(style.verge) else 0.0
        return cls(side, side * road, verge, inner, side * (road + dice.between(2.2, 7.2) + verge), parking)

    @property
    def split(self) -> float:
        """x between verge and sidewalk."""
        return self.beside(self.verge) if self.inner else self.front - self.side * self.verge

    def beside(self, distance: float) -> float:
        """x at this distance from the road, away from it."""
        return self.road + self.side * distance


@dataclass(frozen=True)
class Street:
    style: Style
    weather: Weather
    left: Bank
    right: Bank
    start: float  # x where the lanes begin, without those for parking
    end: float
    count: int  # of the lanes
    rails: float | None  # the middle of the track

    @classmethod
    def drawn(cls, dice: Dice) -> "Street":
        style, inner = one_style(dice.roll()), dice.chance(0.4)
        left, right = Bank.drawn(dice, style, -1, inner), Bank.drawn(dice, style, 1, inner)
        start, end = left.road + left.parking, right.road - right.parking
        count = max(1, round((end - start) / 3.2))
        rails = start + (end - start) * (dice.whole(1, count) - 0.5) / count if dice.chance(0.06) else None
        return cls(style, weather_of(dice), left, right, start, end, count, rails)

    @property
    def banks(self) -> tuple[Bank, Bank]:
        return self.left, self.right

    @property
    def lanes(self) -> list[float]:
        """Their middles."""
        return [self.start + (self.end - self.start) * (number + 0.5) / self.count for number in range(self.count)]

    @property
    def dividers(self) -> list[float]:
        return [self.start + (self.end - self.start) * number / self.count for number in range(self.count + 1)]


def one_style(roll: float) -> Style:
    for style in STYLES[:-1]:
        if roll < style.share:
            return style
        roll -= style.share
    return STYLES[-1]


# --- ground and sky


SUN, CLOUDS, TREE_SHADE, SHADE, DEEP_SHADE = 136, 122, 88, 74, 54  # light, 128 for the colors as they are
ROUGHNESS = np.full(256, 0.06, np.float32)  # by class: how strong the ground's texture is
ROUGHNESS[TERRAIN] = 0.17


class Ribbon(NamedTuple):
    """A strip of the ground from x `left` to `right`, z `start` to `end`."""

    left: float
    right: float
    start: float
    end: float
    color: Color
    label: int | None = None


class Shadow(NamedTuple):
    corners: list[Point]  # (x, z) on the ground, convex
    light: int  # that is left of 128


def footprint(x: float, z: float, half: float, length: float) -> Shadow:
    """The darkness right under a thing whose near side is at z."""
    near, far = z - 0.2, z + length
    return Shadow([(x - half, near), (x + half, near), (x + half, far), (x - half, far)], DEEP_SHADE)


def ground_of(dice: Dice, street: Street) -> Callable[[Painter, list[Shadow]], None]:
    """Draws the ground's layout now; the function that is returned paints it, and the sky."""
    ribbons = areas(dice, street) + patches(dice, street) + marks(dice, street)
    texture_offset = dice.between(0, 512), dice.between(0, 512)
    clouds = dice.between(0, 0.5), dice.between(0, 0.5), dice.between(4, 18), dice.chance(0.5)
    row_of_houses = house_shadow(dice, street) if street.weather.sunny else []

    def paint(painter: Painter, shadows: list[Shadow]) -> None:
        top = int(painter.camera.horizon) + 1
        paint_sky(painter, top, *clouds)
        # the first goes on to the horizon
        painter.image[top:], painter.label[top:] = ribbons[0].color, ribbons[0].label
        for ribbon in ribbons[1:]:
            paint_ribbon(painter, ribbon)
        # a shadow covers those before it: the darkest last
        light = shadow_map(painter, top, sorted(row_of_houses + shadows, key=lambda shadow: -shadow.light))
        paint_light(painter, top, light, texture_offset)

    return paint


def areas(dice: Dice, street: Street) -> list[Ribbon]:
    """From the outer to the inner: each lies over the one before, so that no seam shows between two."""
    asphalt = shade((1.0, dice.between(0.98, 1.01), dice.between(0.97, 1.05)), dice.between(74, 124))
    paving = shade((1.02, 1.0, dice.between(0.93, 0.98)), dice.between(112, 166))
    grass = dice.pick(((96, 114, 62), (116, 120, 70), (82, 106, 52), (124, 116, 88)))
    behind = TERRAIN if street.style in (SUBURB, PARK) or dice.chance(0.3) else SIDEWALK
    colors = {SIDEWALK: paving, TERRAIN: grass}
    ribbons = [full_length(-1000, 1000, colors[behind], behind)]
    outer, inner = (SIDEWALK, TERRAIN) if street.left.inner else (TERRAIN, SIDEWALK)
    ribbons.append(full_length(street.left.front, street.right.front, colors[outer], outer))
    ribbons.append(full_length(street.left.split, street.right.split, colors[inner], inner))
    ribbons += paving_joints(dice, street, shade(paving, 0.8))
    # the curb's stone, the gutter, the road
    for beside, color, label in ((0.13, shade(paving, 1.1), SIDEWALK), (0, shade(asphalt, 0.84), ROAD), (-0.22, asphalt, ROAD)):
        ribbons.append(full_length(street.left.beside(beside), street.right.beside(beside), color, label))
    if street.right.parking and dice.chance(0.4):
        ribbons.append(full_length(street.right.beside(-street.right.parking), street.right.road, shade(asphalt, 1.14), PARKING))
    return ribbons + tracks(dice, street, asphalt)


def full_length(left: float, right: float, color: Color, label: int) -> Ribbon:
    """From below the camera to the end of the street."""
    return Ribbon(left, right, 0, 2 * END, color, label)


def paving_joints(dice: Dice, street: Street, color: Color) -> list[Ribbon]:
    step, joints = dice.between(0.6, 1.3), []
    for bank in street.banks:
        # only where the sidewalk lies at the road: behind an inner verge it is far enough to do without
        if bank.inner and bank.verge:
            continue
        left, right = min(bank.road, bank.split), max(bank.road, bank.split)
        joints += [Ribbon(left, right, step * row, step * row + 0.04, color) for row in range(4, int(16 / step))]
        joints += [Ribbon(x, x + 0.04, 0, 26, color) for x in np.arange(left + step, right, step).tolist()]
    return joints


def tracks(dice: Dice, street: Street, asphalt: Color) -> list[Ribbon]:
    if street.rails is None:
        return []
    bed = [Ribbon(street.rails - 1.1, street.rails + 1.1, 0, 2 * END, shade(asphalt, 0.92), RAIL_TRACK)] if dice.chance(0.5) else []
    steel = shade(asphalt, 0.62)
    return bed + [Ribbon(street.rails + x - 0.05, street.rails + x + 0.05, 0, 90, steel) for x in (-0.72, 0.72)]


def patches(dice: Dice, street: Street) -> list[Ribbon]:
    """Where the road was opened and closed again, and manholes."""
    found = []
    for _ in range(dice.whole(0, 4)):
        x, z, half = dice.between(street.left.road + 1, street.right.road - 1), dice.between(4, 26), dice.between(0.25, 1.0)
        gray = dice.between(58, 104)
        found.append(Ribbon(x - half, x + half, z, z + 2 * half * dice.between(0.7, 4), (gray, gray, gray)))
    return found


def marks(dice: Dice, street: Street) -> list[Ribbon]:
    white = dice.between(180, 225)
    paint = (white, white, white * 0.98)
    start, end = street.start, street.end
    found = lane_marks(dice, street, paint) if dice.chance(0.8) else []
    if dice.chance(0.22):
        z, stripes = dice.between(7, 28), int((end - start) / 1.1)
        found += [Ribbon(start + 1.1 * number + 0.3, start + 1.1 * number + 0.85, z, z + 3, paint) for number in range(stripes)]
    if dice.chance(0.14):
        z = dice.between(6, 20)
        found.append(Ribbon(start, end, z, z + 0.45, paint))
    return found


def lane_marks(dice: Dice, street: Street, paint: Color) -> list[Ribbon]:
    period, half, found = dice.between(6, 12), dice.between(0.06, 0.1), []
    phase = dice.between(0, period)
    for number, x in enumerate(street.dividers):
        middle = 0 < number < len(street.dividers) - 1
        dashed, drawn = dice.chance(0.8), dice.chance(0.5)
        if middle and dashed:
            found += [Ribbon(x - half, x + half, z, z + 0.45 * period, paint) for z in np.arange(-phase, 70, period).tolist()]
        elif middle or drawn:
            found.append(Ribbon(x - half, x + half, 0, 110, paint))
    return found


def house_shadow(dice: Dice, street: Street) -> list[Shadow]:
    """One step for each house of the row between the sun and the street."""
    bank = street.left if street.weather.sun < 0 else street.right
    edge, steps, z = bank.front - bank.side * dice.between(0.5, 7), [], 0.0
    while z < END:
        reach, length = edge + dice.between(-1.2, 1.2), dice.between(5, 18)
        steps.append(Shadow([(bank.side * 80, z), (bank.side * 80, z + length), (reach, z + length), (reach, z)], SHADE))
        z += length
    return steps


def paint_sky(painter: Painter, rows: int, across: float, down: float, strength: float, mirrored: bool) -> None:
    sky = np.array(painter.weather.sky)
    zenith, horizon = sky * (0.76, 0.87, 1.0), np.minimum(sky * 0.92 + 22, 255)
    ramp = np.linspace(zenith, horizon, max(rows, 1))[:, None].astype(np.uint8)
    noise = textures().clouds
    top, left = int(down * 256), int(across * 256)
    clouds = np.maximum(noise[top : top + 64, left : left + 128], 0) * strength
    clouds = cv2.resize(clouds[:, ::-1] if mirrored else clouds, (painter.width, rows)).astype(np.uint8)
    gradient = cv2.resize(ramp, (painter.width, rows), interpolation=cv2.INTER_NEAREST)
    cv2.add(gradient, cv2.merge([clouds, clouds, clouds]), dst=painter.image[:rows])
    painter.label[:rows] = SKY


def paint_ribbon(painter: Painter, ribbon: Ribbon) -> None:
    camera = painter.camera
    # a bent street needs more corners where it is far, which is where little of it is seen
    nearest = camera.depth(painter.height + 1)
    start, end = max(ribbon.start, nearest), min(ribbon.end, 2 * END)
    if end <= start:
        return
    count = 2 + int(4 * math.log2(end / start)) if end - start > 6 else 2
    depths = [start * (end / start) ** (number / (count - 1)) for number in range(count)]
    outline = [camera.point(ribbon.left, 0, z) for z in depths] + [camera.point(ribbon.right, 0, z) for z in reversed(depths)]
    corners = sixteenths(outline)
    cv2.fillPoly(painter.image, [corners], ribbon.color, cv2.LINE_AA, 4)
    if ribbon.label is not None:
        cv2.fillPoly(painter.label, [corners], ribbon.label, cv2.LINE_8, 4)


def shadow_map(painter: Painter, top: int, shadows: list[Shadow]) -> np.ndarray:
    """How light the ground is, 128 for as it is drawn; soft at the edges."""
    light = np.full((painter.height - top, painter.width), SUN if painter.weather.sunny else CLOUDS, np.uint8)
    nearest = painter.camera.depth(painter.height + 1)
    for shadow in shadows:
        points = [painter.camera.point(x, 0, max(z, nearest)) for x, z in shadow.corners]
        cv2.fillConvexPoly(light, sixteenths([(u, v - top) for u, v in points]), shadow.light, cv2.LINE_AA, 4)
    soft = 2 * (painter.height // 90) + 1
    return cv2.blur(light, (soft, soft))


def paint_light(painter: Painter, top: int, light: np.ndarray, offset: tuple[float, float]) -> None:
    """Shadows, the grain of asphalt and grass, and haze, each fading with the distance of the row."""
    camera, weather = painter.camera, painter.weather
    depth = camera.focal * camera.eye / (np.arange(top, painter.height, dtype=np.float32) - camera.horizon)
    grain = ground_texture(camera, top, light.shape, offset) * np.exp(-depth / 25)[:, None]
    grain = grain * cv2.LUT(painter.label[top:], ROUGHNESS) + 1
    grain *= light
    clear = np.exp(-depth / weather.sight)[:, None]
    grain *= clear
    factor = cv2.merge([np.clip(grain, 0, 255).astype(np.uint8)] * 3)
    haze = ((1 - clear)[..., None] * np.array(weather.haze, np.float32)).astype(np.uint8)
    haze = cv2.resize(haze, (painter.width, len(haze)), interpolation=cv2.INTER_NEAREST)
    seen = cv2.multiply(painter.image[top:], factor, scale=1 / 128)
    cv2.add(seen, haze, dst=painter.image[top:])


def ground_texture(camera: Camera, top: int, shape: tuple[int, int], offset: tuple[float, float]) -> np.ndarray:
    """The noise as it lies on the ground, 45 texels a meter; the bend is too small to matter here."""
    texels, (x, z) = 45.0, offset
    horizon = camera.horizon - top
    matrix = np.array(
        [
            (texels * camera.eye, x, -texels * camera.eye * camera.center - x * horizon),
            (0.0, z, texels * camera.focal * camera.eye - z * horizon),
            (0.0, 1.0, -horizon),
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(textures().ground, matrix, shape[::-1], flags=flags, borderMode=cv2.BORDER_WRAP)


# --- things that stand still


TILES = ((150, 84, 64), (112, 104, 104), (128, 76, 60), (92, 86, 88))


class Thing(NamedTuple):
    distance: float
    draw: Callable[[Painter], None]
    shadow: Shadow | None = None


def house(dice: Dice, street: Street, side: int, x: float, start: float, end: float, floors: int, gable: bool) -> Thing:
    """`gable` is the wall that looks at the camera, needed where no house of the same height stands before."""
    height, depth = floors * dice.between(2.9, 3.4), dice.between(8, 16)
    texture, tinted = dice.pick(textures().facades[floors]), dice.between(0.82, 1.12)
    light, outer, roof = tinted * street.weather.on_face(side), x + side * depth, dice.pick(TILES) if floors <= 3 else None

    def draw(painter: Painter) -> None:
        near = max(start, 1.2)
        if roof:
            plaster = shade(texture[-1].mean(axis=(0, 1)).tolist(), 0.8)
            paint_roof(painter, (x, outer), height, (near, end), (roof, plaster), light)
        if gable and start > 3:
            left, right = min(x, outer), max(x, outer)
            corners = [(left, height, start), (right, height, start), (right, 0, start), (left, 0, start)]
            painter.surface(corners, texture, depth / COLUMN_WIDTH / COLUMNS, 0.8 * tinted, BUILDING)
        corners = [(x, height, near), (x, height, end), (x, 0, end), (x, 0, near)]
        painter.surface(corners, texture, (end - near) / COLUMN_WIDTH / COLUMNS, light, BUILDING)

    # by the far end: neighbors in a row never overlap along the street
    return Thing(end - 0.01, draw)


def paint_roof(
    painter: Painter, walls: tuple[float, float], height: float, along: tuple[float, float], colors: tuple[Color, Color], light: float
) -> None:
    """The slope that looks at the street, and the triangle under it that looks at the camera."""
    (inner, outer), (near, far) = walls, along
    ridge, top = (inner + outer) / 2, height + 0.35 * abs(outer - inner)
    slope = [(inner, height, near), (inner, height, far), (ridge, top, far), (ridge, top, near)]
    painter.face(slope, painter.tone(colors[0], (near + far) / 2, light), BUILDING)
    painter.face([(inner, height, near), (ridge, top, near), (outer, height, near)], painter.tone(colors[1], near), BUILDING)


def tower(dice: Dice, x: float, z: float) -> Thing:
    """A house across the end of the street."""
    floors = dice.whole(5, 7)
    width, height, texture = 3.0 * dice.whole(5, 11), 3.2 * floors * dice.between(1, 1.5), dice.pick(textures().facades[floors])

    def draw(painter: Painter) -> None:
        corners = [(x - width / 2, height, z), (x + width / 2, height, z), (x + width / 2, -0.3, z), (x - width / 2, -0.3, z)]
        painter.surface(corners, texture, width / COLUMN_WIDTH / COLUMNS, 0.9, BUILDING)

    return Thing(z, draw)


def strip(dice: Dice, street: Street, side: int, x: float, start: float, end: float, height: float, label: int) -> Thing:
    """A wall, a fence or a hedge (vegetation) along the street."""
    kinds = {WALL: textures().walls, FENCE: textures().fences, VEGETATION: textures().hedges}
    texture, light = dice.pick(kinds[label]), dice.between(0.8, 1.05) * street.weather.on_face(side)

    def draw(painter: Painter) -> None:
        near = max(start, 1.2)
        corners = [(x, height, near), (x, height, end), (x, 0, end), (x, 0, near)]
        painter.surface(corners, texture, max(1.0, (end - near) / STRIP_LENGTH), light, label)

    return Thing(end - 0.02, draw)


def tree(dice: Dice, street: Street, x: float, z: float, radius: float, height: float, trunk: float) -> Thing:
    """A crown around `height`, on a trunk that Cityscapes labels as vegetation too."""
    crown, bark, thick = leaves(dice, textures().crowns, (x, height, z), radius), dice.between(0.7, 1.2), trunk / 2

    def draw(painter: Painter) -> None:
        if not painter.sees(x, z, CROWN_REACH * radius):
            return
        cutout, half = Cutout(painter, x, z), max(thick, 0.5 * z / painter.camera.focal)
        outline = [(-half, 0), (-0.75 * half, height), (0.75 * half, height), (half, 0)]
        cutout.polygon(outline, shade((78, 64, 52), bark), VEGETATION)
        cutout.box(0.2 * half, 0, 0.7 * half, height - 0.7 * radius, shade((56, 46, 38), bark))
        crown(painter)

    return Thing(z, draw, tree_shadow(street.weather, x, z, radius, height))


def bush(dice: Dice, x: float, z: float, radius: float) -> Thing:
    return Thing(z, leaves(dice, textures().bushes, (x, 0.55 * radius, z), radius))


def leaves(dice: Dice, crowns: Sequence[Pyramid], place: Place, radius: float) -> Callable[[Painter], None]:
    crown, light, mirrored = dice.pick(crowns), dice.between(0.95, 1.5), dice.chance(0.5)
    return lambda painter: painter.sprite(crown, place, radius, light, mirrored, VEGETATION)


def tree_shadow(weather: Weather, x: float, z: float, radius: float, height: float) -> Shadow | None:
    if not weather.sunny:
        return None
    middle = x - weather.sun * 0.6 * height
    return Shadow([(middle + 0.9 * radius * across, z + 0.9 * radius * along) for across, along in CIRCLE.tolist()], TREE_SHADE)


def pole(dice: Dice, x: float, z: float, height: float, width: float, arm: float = 0.0) -> Thing:
    """A post; with an arm, a lamp on its end."""
    gray = dice.between(60, 150)
    color = (gray, gray, gray * 1.03)

    def draw(painter: Painter) -> None:
        cutout = Cutout(painter, x, z)
        cutout.bar((0, -0.02), (0, height), width, color, POLE)
        if arm:
            cutout.bar((0, height), (arm, height + 0.3), 0.8 * width, color, POLE)
            cutout.bar((arm, height + 0.3), (1.25 * arm, height + 0.3), 2.2 * width, shade(color, 1.2), POLE)

    return Thing(z, draw)


LAMPS = ((0.3, (238, 44, 34)), (0.0, (248, 184, 44)), (-0.3, (54, 224, 126)))


def traffic_light(dice: Dice, x: float, y: float, z: float) -> Thing:
    lit = dice.whole(0, 2)

    def draw(painter: Painter) -> None:
        cutout = Cutout(painter, x, z)
        cutout.box(-0.17, y - 0.5, 0.17, y + 0.5, (30, 32, 30), TRAFFIC_LIGHT)
        for number, (up, color) in enumerate(LAMPS):
            cutout.disc((0, y + up), 0.115, 0.115, color if number == lit else shade(color, 0.26))

    return Thing(z - 0.05, draw)


ROUND = [tuple(point) for point in CIRCLE.tolist()]
RED, BLUE, YELLOW, WHITE, GREEN, DARK = (204, 32, 38), (32, 72, 172), (234, 194, 34), (238, 238, 236), (30, 112, 62), (42, 42, 60)
DIAMOND, YIELD, PANEL = [(-1, 0), (0, 1), (1, 0), (0, -1)], [(-1, 0.8), (1, 0.8), (0, -0.95)], [(-1, 1.2), (1, 1.2), (1, -1.2), (-1, -1.2)]
# outline, its color, width and height of the inner part, its color
SIGNS = (
    (ROUND, RED, 0.7, 0.7, WHITE),
    (ROUND, RED, 0.7, 0.2, WHITE),
    (ROUND, BLUE, 0.2, 0.65, WHITE),
    (DIAMOND, WHITE, 0.72, 0.72, YELLOW),
    (YIELD, RED, 0.6, 0.6, WHITE),
    (PANEL, WHITE, 0.75, 0.18, DARK),
    (PANEL, BLUE, 0.5, 0.45, WHITE),
    (PANEL, GREEN, 0.75, 0.15, WHITE),
)


def sign(dice: Dice, x: float, y: float, z: float) -> Thing:
    outline, color, across, up, inner = dice.pick(SIGNS)
    size = dice.between(0.28, 0.42)

    def draw(painter: Painter) -> None:
        cutout = Cutout(painter, x, z)
        cutout.polygon([(size * a, y + size * b) for a, b in outline], color, TRAFFIC_SIGN)
        if cutout.scale * size > 2:
            cutout.polygon([(size * a * across, y + size * b * up) for a, b in outline], inner)

    return Thing(z - 0.06, draw)


def litter_bin(dice: Dice, x: float, z: float) -> Thing:
    """A bin, a crate or a cabinet: Cityscapes' void class static."""
    color = dice.pick(((64, 72, 68), (92, 88, 82), (52, 84, 62), (62, 70, 92), (124, 112, 92)))
    half, height = dice.between(0.25, 0.45), dice.between(0.8, 1.25)

    def draw(painter: Painter) -> None:
        cutout = Cutout(painter, x, z)
        cutout.polygon([(-half, height), (half, height), (0.93 * half, 0), (-0.93 * half, 0)], color, STATIC)
        cutout.box(-half, 0.88 * height, half, height, shade(color, 1.3))
        cutout.box(0.55 * half, 0.06, 0.9 * half, 0.85 * height, shade(color, 0.8))

    return Thing(z, draw, footprint(x, z, half, 0.5))


# --- vehicles

GLASS, RUBBER, STEEL = (46, 54, 64), (24, 24, 27), (128, 130, 134)
PAINTS = (
    (198, 199, 202), (232, 232, 232), (36, 38, 42), (72, 74, 80), (120, 122, 127), (148, 28, 32),
    (38, 64, 122), (108, 32, 36), (64, 84, 68), (168, 160, 142), (24, 44, 84), (96, 100, 108),
)  # fmt: skip


class Body(NamedTuple):
    """A car from the side, in shares of its length from the tail: where rear window, roof and windscreen begin and end."""

    window: float
    roof: float
    roof_end: float
    windscreen: float
    belt: float  # meters: below the windows
    tail: float  # meters
    nose: float  # meters


HATCHBACK = Body(0.03, 0.14, 0.52, 0.73, belt=0.96, tail=0.92, nose=0.76)
SEDAN = Body(0.17, 0.31, 0.56, 0.75, belt=0.96, tail=0.93, nose=0.76)
VAN = Body(0.0, 0.03, 0.74, 0.9, belt=1.1, tail=1.08, nose=0.95)


@dataclass(frozen=True)
class Vehicle:
    """Where it stands: x of its middle, z of its near end."""

    x: float
    z: float
    length: float
    half: float  # of the width
    height: float
    away: bool  # drives away: its tail is near
    color: Color
    light: float  # on the side that is seen
    label: int

    @property
    def flank(self) -> float:
        """x of the side that looks at the middle of the image."""
        return self.x + self.half if self.x < 0 else self.x - self.half

    @property
    def middle(self) -> float:
        return self.z + self.length / 2

    def shadow(self, weather: Weather) -> Shadow:
        lean = 0.35 if weather.sunny else 0.0
        return footprint(self.x - lean * weather.sun, self.z, self.half + lean + 0.1, self.length)

    def along(self, share: float) -> float:
        """z at a share of the length from the tail."""
        return self.z + self.length * (share if self.away else 1 - share)


def car(dice: Dice, street: Street, x: float, z: float, away: bool) -> Thing:
    body = VAN if dice.chance(0.17) else dice.pick((HATCHBACK, HATCHBACK, SEDAN))
    length, half = (4.9, 0.95) if body is VAN else (dice.between(3.8, 4.7), dice.between(0.86, 0.93))
    height = dice.between(1.85, 2.05) if body is VAN else dice.between(1.42, 1.6)
    color, light = shade(dice.pick(PAINTS), dice.between(0.88, 1.1)), street.weather.on_face(1 if x > 0 else -1)
    vehicle, brakes = Vehicle(x, z, length, half, height, away, color, light, CAR), away and dice.chance(0.35)

    def draw(painter: Painter) -> None:
        if not painter.sees(x, z, half + abs(x) * length / z):
            return
        large = painter.camera.focal * height / z > 14
        for side in (-1, 1) if large else ():
            painter.upright(x + side * (half + 0.07), 0.09, 0.93, 1.06, vehicle.along(0.66), painter.tone(color, z, 0.7), CAR)
        if abs(x) > 0.9 * half:
            car_side(painter, vehicle, body, large)
        car_end(painter, vehicle, body, large, brakes)

    return Thing(z, draw, vehicle.shadow(street.weather))


def car_side(painter: Painter, car: Vehicle, body: Body, large: bool) -> None:
    flank, belt = car.flank, body.belt
    roof_flank = car.x + (flank - car.x) * 0.76
    paint = painter.tone(car.color, car.middle, car.light)
    cabin = [
        (flank, belt, car.along(body.window)), (roof_flank, car.height, car.along(body.roof)),
        (roof_flank, car.height, car.along(body.roof_end)), (flank, belt, car.along(body.windscreen)),
    ]  # fmt: skip
    painter.face(cabin, paint, CAR)
    side_windows(painter, car, cabin, paint, large)
    rear, front = ((0, 0.32), (0, body.tail - 0.05), (0.01, body.tail)), ((0.98, body.nose), (1, body.nose - 0.05), (1, 0.32))
    profile = (*rear, (body.window, belt), (body.windscreen, belt), *front)
    painter.face([(flank, y, car.along(share)) for share, y in profile], paint, CAR)
    if large:
        sill = painter.tone(car.color, car.middle, 0.6 * car.light)
        painter.face([(flank, 0.44, car.z), (flank, 0.44, car.z + car.length), (flank, 0.3, car.z + car.length), (flank, 0.3, car.z)], sill)
    for share in (0.19, 0.81):
        wheel(painter, flank, car.along(share), 0.33, CAR, large)


def side_windows(painter: Painter, car: Vehicle, cabin: list[Place], paint: Color, large: bool) -> None:
    middle = tuple(sum(place[axis] for place in cabin) / 4 for axis in range(3))
    glass = [tuple(m + 0.8 * (p - m) for p, m in zip(place, middle, strict=True)) for place in cabin]
    painter.face(glass, painter.tone(GLASS, car.middle))
    if large:
        z, thin = car.along(0.45), 0.04
        belt, roof = glass[0], glass[1]
        painter.face([(*belt[:2], z - thin), (*roof[:2], z - thin), (*roof[:2], z + thin), (*belt[:2], z + thin)], paint)


def wheel(painter: Painter, x: float, z: float, radius: float, label: int, large: bool) -> None:
    painter.face([(x, radius + radius * up, z + radius * across) for across, up in WHEEL], painter.tone(RUBBER, z), label)
    if large:
        painter.face([(x, radius + 0.58 * radius * up, z + 0.58 * radius * across) for across, up in WHEEL], painter.tone(STEEL, z))


def car_end(painter: Painter, car: Vehicle, body: Body, large: bool, brakes: bool) -> None:
    x, z, half, belt = car.x, car.z, car.half, body.belt
    near_window, near_roof = (body.window, body.roof) if car.away else (body.windscreen, body.roof_end)
    edge = body.tail if car.away else body.nose
    paint, window_z, roof_z = painter.tone(car.color, z, 0.88), car.along(near_window), car.along(near_roof)
    for side in (-1, 1):
        painter.upright(x + side * 0.78 * half, 0.13, 0, 0.4, z + 0.15, painter.tone(RUBBER, z), CAR)
    painter.face(trapezoid(x, half, belt, window_z, 0.76 * half, car.height, roof_z), paint, CAR)
    lower, upper = belt + 0.02, car.height - 0.09
    pane = trapezoid(x, 0.86 * half, lower, window_z, 0.69 * half, upper, roof_z)
    painter.face(pane, painter.tone(GLASS, z))
    if large:
        glare = trapezoid(x, 0.78 * half, (lower + upper) / 2, (window_z + roof_z) / 2, 0.69 * half, upper, roof_z)
        painter.face(glare, painter.tone(GLASS, z, 1.4))
    painter.face(trapezoid(x, half, edge, z, half, belt, window_z), painter.tone(car.color, z, 1.08), CAR)
    outline = [(-1, 0.38), (-1, edge - 0.05), (-0.97, edge), (0.97, edge), (1, edge - 0.05), (1, 0.38), (0.95, 0.27), (-0.95, 0.27)]
    painter.face([(x + share * half, y, z) for share, y in outline], paint, CAR)
    car_lamps(painter, car, large, brakes, edge)


def trapezoid(x: float, low_half: float, low: float, low_z: float, high_half: float, high: float, high_z: float) -> list[Place]:
    return [(x - low_half, low, low_z), (x - high_half, high, high_z), (x + high_half, high, high_z), (x + low_half, low, low_z)]


def car_lamps(painter: Painter, car: Vehicle, large: bool, brakes: bool, edge: float) -> None:
    x, z, half = car.x, car.z, car.half
    lamp = (244, 46, 38) if brakes else (152, 28, 28) if car.away else (242, 242, 230)
    for side in (-1, 1):
        painter.upright(x + side * 0.82 * half, 0.14 * half, edge - 0.25, edge - 0.09, z, painter.tone(lamp, z))
    if not large:
        return
    painter.upright(x, 0.95 * half, 0.27, 0.4, z, painter.tone(car.color, z, 0.5))
    if not car.away:
        painter.upright(x, 0.6 * half, edge - 0.24, edge - 0.1, z, painter.tone((34, 36, 40), z))
    painter.upright(x, 0.25, 0.44, 0.55, z, painter.tone((228, 228, 224), z))


class Shape(NamedTuple):
    length: tuple[float, float]
    half: float
    height: tuple[float, float]


BOXES = {TRUCK: Shape((6, 10), 1.22, (2.8, 3.7)), BUS: Shape((9, 13), 1.27, (2.9, 3.3)), TRAIN: Shape((18, 30), 1.3, (3.3, 3.7))}
LIVERIES = ((226, 226, 222), (200, 62, 48), (234, 190, 52), (62, 96, 160), (240, 240, 235), (62, 122, 82))


def large_vehicle(dice: Dice, street: Street, x: float, z: float, label: int) -> Thing:
    """A truck, a bus or a train."""
    shape, trim = BOXES[label], dice.color(30, 210)
    light = street.weather.on_face(1 if x > 0 else -1)
    length, height, away = dice.between(*shape.length), dice.between(*shape.height), x > ONCOMING
    vehicle = Vehicle(x, z, length, shape.half, height, away, dice.pick(LIVERIES), light, label)

    def draw(painter: Painter) -> None:
        if abs(x) > 0.8 * shape.half:
            (truck_side if label == TRUCK else coach_side)(painter, vehicle, trim)
        for side in (-1, 1):
            painter.upright(x + side * 0.76 * shape.half, 0.2, 0, 0.5, z + 0.15, painter.tone(RUBBER, z), label)
        (truck_end if label == TRUCK else coach_end)(painter, vehicle, trim)
        lamp = (200, 36, 32) if away else (244, 244, 230)
        for side in (-1, 1):
            painter.upright(x + side * 0.84 * shape.half, 0.13, 0.62, 0.86, z, painter.tone(lamp, z))

    return Thing(z, draw, vehicle.shadow(street.weather))


def panel(
    painter: Painter, car: Vehicle, start: float, end: float, low: float, high: float, color: Color, label: int | None = None
) -> None:
    """A rectangle on the side that is seen; `start` and `end` in meters from the near end, `low` and `high` above the ground."""
    near, far, x = car.z + start, car.z + end, car.flank
    painter.face([(x, high, near), (x, high, far), (x, low, far), (x, low, near)], painter.tone(color, car.middle, car.light), label)


def truck_side(painter: Painter, truck: Vehicle, trim: Color) -> None:
    length, height = truck.length, truck.height
    cab = (length - 2, length) if truck.away else (0, 2)
    load = (0, length - 2.2) if truck.away else (2.2, length)
    panel(painter, truck, 0, length, 0.4, 0.95, (54, 55, 58), TRUCK)
    panel(painter, truck, *load, 0.9, height, truck.color, TRUCK)
    panel(painter, truck, load[0] + 0.8, load[1] - 0.8, 0.45 * height, 0.7 * height, trim)
    panel(painter, truck, *cab, 0.4, 0.9 * height, trim, TRUCK)
    panel(painter, truck, cab[0] + 0.4, cab[0] + 1.5, 0.52 * height, 0.8 * height, GLASS)
    for share in (0.14, 0.3, 0.84):
        wheel(painter, truck.flank, truck.z + share * length if truck.away else truck.z + (1 - share) * length, 0.48, TRUCK, large=True)


def truck_end(painter: Painter, truck: Vehicle, trim: Color) -> None:
    x, z, half, height = truck.x, truck.z, truck.half, truck.height
    if not truck.away:
        painter.upright(x, half, 0.9, height, z + 2.2, painter.tone(truck.color, z, 0.8), TRUCK)
        cab_front(painter, truck, trim, 0.9 * height, TRUCK)
        return
    painter.upright(x, half, 0.5, height, z, painter.tone(truck.color, z, 0.9), TRUCK)
    painter.upright(x, 0.03, 0.95, height - 0.1, z, painter.tone(truck.color, z, 0.55))
    for side in (-1, 1):
        painter.upright(x + side * 0.35, 0.025, 0.95, height - 0.1, z, painter.tone(truck.color, z, 0.68))
    painter.upright(x, half, 0.45, 0.92, z, painter.tone((52, 53, 56), z), TRUCK)


def cab_front(painter: Painter, vehicle: Vehicle, color: Color, height: float, label: int) -> None:
    x, z, half = vehicle.x, vehicle.z, vehicle.half
    painter.upright(x, half, 0.35, height, z, painter.tone(color, z, 0.92), label)
    painter.upright(x, 0.9 * half, 0.45 * height, 0.86 * height, z, painter.tone(GLASS, z))
    painter.upright(x, 0.9 * half, 0.68 * height, 0.86 * height, z, painter.tone(GLASS, z, 1.35))
    painter.upright(x, 0.9 * half, 0.35, 0.55, z, painter.tone((58, 60, 64), z))


def coach_side(painter: Painter, coach: Vehicle, trim: Color) -> None:
    """Of a bus or a train: a row of windows over a stripe."""
    length, height = coach.length, coach.height
    panel(painter, coach, 0, length, 0.32, height, coach.color, coach.label)
    panel(painter, coach, 0.4, length - 0.4, 0.46 * height, 0.86 * height, GLASS)
    panel(painter, coach, 0.4, length - 0.4, 0.7 * height, 0.86 * height, shade(GLASS, 1.4))
    for number in range(1, int(length / 1.6)):
        panel(painter, coach, 1.6 * number - 0.06, 1.6 * number + 0.06, 0.46 * height, 0.86 * height, coach.color)
    panel(painter, coach, 0, length, 0.28 * height, 0.36 * height, trim)
    if coach.label == TRAIN:
        panel(painter, coach, 0, length, 0.06, 0.38, (48, 49, 52), TRAIN)
    else:
        for share in (0.18, 0.8):
            wheel(painter, coach.flank, coach.along(share), 0.5, BUS, large=True)


def coach_end(painter: Painter, coach: Vehicle, trim: Color) -> None:
    cab_front(painter, coach, coach.color, coach.height, coach.label)
    height, z = coach.height, coach.z
    painter.upright(coach.x, coach.half, 0.3 * height, 0.37 * height, z, painter.tone(trim, z, 0.92))
    painter.upright(coach.x, 0.55 * coach.half, 0.885 * height, 0.975 * height, z, painter.tone((30, 30, 28), z))
    painter.upright(coach.x, 0.4 * coach.half, 0.91 * height, 0.95 * height, z, painter.tone((246, 176, 40), z))


# --- people and two-wheelers

SKINS = ((216, 172, 146), (152, 108, 82), (226, 186, 162), (98, 68, 54))
HAIRS = ((42, 32, 26), (92, 66, 42), (24, 22, 24), (152, 122, 74))
TROUSERS = ((42, 48, 74), (32, 32, 35), (92, 86, 80), (120, 106, 82))
HELMET = (62, 62, 68)


@dataclass(frozen=True)
class Figure:
    """A person or a rider; with a seat, its height in meters, instead of walking legs."""

    label: int
    seat: float
    facing: int  # -1 left, 1 right
    stride: float
    top: Color
    trousers: Color
    skin: Color
    hair: Color
    bag: Color | None

    @classmethod
    def drawn(cls, dice: Dice, label: int, seat: float = 0.0, facing: int = 0) -> "Figure":
        top, bag = shade(dice.color(20, 225), dice.between(0.4, 1)), dice.color(20, 150) if dice.chance(0.25) else None
        hair = HELMET if seat and dice.chance(0.6) else dice.pick(HAIRS)
        return cls(label, seat, facing or dice.side(), dice.between(0.04, 0.22), top, dice.pick(TROUSERS), dice.pick(SKINS), hair, bag)

    def draw(self, cutout: Cutout) -> None:
        hip = self.seat or 0.86
        shoulder, lean = hip + 0.56, 0.12 * self.facing if self.seat else 0.0
        (self.riding_legs if self.seat else self.walking_legs)(cutout, hip)
        self.arms(cutout, shoulder, lean)
        torso = [(-0.16, hip - 0.04), (-0.22 + lean, shoulder - 0.02), (-0.1 + lean, shoulder + 0.07)]
        mirrored = [(0.1 + lean, shoulder + 0.07), (0.22 + lean, shoulder - 0.02), (0.16, hip - 0.04)]
        cutout.polygon(torso + mirrored, self.top, self.label)
        if self.bag:
            back = -self.facing
            inner, outer = 0.12 * back, 0.35 * back
            corners = [(inner, shoulder), (outer, shoulder - 0.05), (outer, shoulder - 0.42), (inner, shoulder - 0.45)]
            cutout.polygon(corners, self.bag, self.label)
        cutout.disc((1.3 * lean, shoulder + 0.19), 0.105, 0.135, self.skin, self.label)
        cutout.disc((1.3 * lean - 0.02 * self.facing, shoulder + 0.25), 0.11, 0.085, self.hair, self.label)

    def walking_legs(self, cutout: Cutout, hip: float) -> None:
        step = self.stride * self.facing
        for x, light in ((-0.07, 0.82), (0.07, 1.0)):
            foot = x + math.copysign(step, x * self.facing)
            cutout.bar((x, hip), (foot, 0.04), 0.15, shade(self.trousers, light), self.label)
            cutout.bar((foot - 0.04 * self.facing, 0.03), (foot + 0.13 * self.facing, 0.03), 0.08, (34, 30, 30), self.label)

    def riding_legs(self, cutout: Cutout, hip: float) -> None:
        knee, foot = (0.24 * self.facing, hip - 0.22), (0.1 * self.facing, max(0.15, hip - 0.65))
        cutout.bar((0, hip), knee, 0.17, self.trousers, self.label)
        cutout.bar(knee, foot, 0.13, self.trousers, self.label)

    def arms(self, cutout: Cutout, shoulder: float, lean: float) -> None:
        sleeve = shade(self.top, 0.82)
        if self.seat:
            cutout.bar((lean, shoulder - 0.04), (lean + 0.42 * self.facing, shoulder - 0.4), 0.1, sleeve, self.label)
            return
        for side in (-1, 1):
            hand = (side * 0.25 + 0.4 * side * self.stride, shoulder - 0.52)
            cutout.bar((side * 0.2, shoulder - 0.01), hand, 0.1, sleeve, self.label)
            cutout.disc(hand, 0.045, 0.05, self.skin, self.label)


def person(dice: Dice, x: float, z: float) -> Thing:
    figure = Figure.drawn(dice, PERSON)
    size = dice.near(1.0, 0.05) if dice.chance(0.9) else dice.between(0.6, 0.8)
    return Thing(z, lambda painter: figure.draw(Cutout(painter, x, z, size)), footprint(x, z, 0.26, 0.4))


# tubes from point to point; x in half wheel bases, y in meters
FRAME = (
    ((-1, 0.34), (-0.3, 0.75)), ((-0.3, 0.75), (0.75, 0.78)), ((0.72, 0.95), (1, 0.34)),
    ((0, 0.32), (-0.32, 0.9)), ((0, 0.32), (0.75, 0.8)), ((-1, 0.34), (0, 0.32)),
)  # fmt: skip
TANK = ((-0.85, 0.45), (-1.0, 0.66), (-0.6, 0.86), (0.1, 0.96), (0.5, 1.0), (0.85, 0.78), (0.6, 0.34), (-0.3, 0.26))


def bicycle(dice: Dice, x: float, z: float, turned: float, ridden: bool) -> Thing:
    """`turned` is the share of its length that is seen: 1 from the side."""
    facing, color = dice.side(), dice.color(20, 200)
    rider = Figure.drawn(dice, RIDER, seat=0.9, facing=facing) if ridden else None
    base = facing * 0.52 * turned

    def draw(painter: Painter) -> None:
        cutout = Cutout(painter, x, z)
        across = 0.34 * max(0.22, turned)
        for side in (-1, 1):
            # Cityscapes labels what is seen through a wheel as the bicycle
            cutout.disc((side * base, 0.34), across, 0.34, (104, 104, 105), BICYCLE)
            cutout.ring((side * base, 0.34), across, 0.34, 0.045, RUBBER)
        for start, end in FRAME:
            cutout.bar((start[0] * base, start[1]), (end[0] * base, end[1]), 0.05, color, BICYCLE)
        cutout.bar((-0.5 * base, 0.92), (-0.1 * base, 0.92), 0.07, RUBBER, BICYCLE)
        cutout.bar((0.6 * base, 1.0), (0.95 * base, 1.02), 0.05, RUBBER, BICYCLE)
        if rider:
            rider.draw(cutout)

    return Thing(z, draw, footprint(x, z, abs(base) + 0.2, 0.3))


def motorcycle(dice: Dice, x: float, z: float, turned: float, ridden: bool) -> Thing:
    facing, color = dice.side(), dice.color(15, 190)
    rider = Figure.drawn(dice, RIDER, seat=0.82, facing=facing) if ridden else None
    base = facing * 0.68 * turned

    def draw(painter: Painter) -> None:
        cutout = Cutout(painter, x, z)
        for side in (-1, 1):
            cutout.disc((side * base, 0.3), 0.3 * max(0.3, turned), 0.3, RUBBER, MOTORCYCLE)
            cutout.disc((side * base, 0.3), 0.15 * max(0.3, turned), 0.15, STEEL)
        cutout.polygon([(share * base, y) for share, y in TANK], color, MOTORCYCLE)
        cutout.box(-0.3 * abs(base), 0.3, 0.35 * abs(base), 0.52, (84, 86, 90))
        cutout.bar((-0.9 * base, 0.88), (0, 0.84), 0.13, RUBBER, MOTORCYCLE)
        cutout.bar((0.95 * base, 0.3), (0.5 * base, 1.08), 0.08, RUBBER, MOTORCYCLE)
        cutout.disc((0.75 * base, 0.9), 0.1, 0.1, (236, 236, 214), MOTORCYCLE)
        if rider:
            rider.draw(cutout)

    return Thing(z, draw, footprint(x, z, abs(base) + 0.3, 0.4))


# --- who stands where


def everything(dice: Dice, street: Street, index: int) -> list[Thing]:
    things = backdrop(dice, street)
    for bank in street.banks:
        things += row(dice, street, bank) + greens(dice, street, bank) + furniture(dice, bank) + sidewalk(dice, street, bank)
    return things + crossing(dice, street) + traffic(dice, street, index) + parked(dice, street) + pedestrians_on_road(dice, street)


def backdrop(dice: Dice, street: Street) -> list[Thing]:
    """Closes the end of the street, where there would be too much sky."""
    things = []
    for _ in range(dice.whole(5, 9)):
        x, z = dice.between(-70, 70), dice.between(125, 155)
        if dice.chance(street.style.backdrop):
            things.append(tower(dice, x, z))
        else:
            things.append(bush(dice, x, z, dice.between(5, 10)))
    for x in range(-24, 25, 7):
        place = x + dice.between(-3, 3), dice.between(105, 122)
        things.append(bush(dice, *place, dice.between(3, 6)))
    return things


def row(dice: Dice, street: Street, bank: Bank) -> list[Thing]:
    """House after house, with gaps, to the end of the street."""
    things, style, z, before = [], street.style, dice.between(-3, 3), 0
    floors = dice.whole(*style.floors)
    while z < 112:
        end, is_house = z + dice.between(8, 24), dice.chance(style.houses)
        if is_house:
            floors = dice.whole(*style.floors) if dice.chance(0.6) else floors
            setback = dice.between(0, 4) if style in (SUBURB, PARK) else 0.0
            facade = house(dice, street, bank.side, bank.front + bank.side * setback, z, end - 0.02, floors, gable=floors >= before)
            garden = front_garden(dice, street, bank, z, end) if style in (SUBURB, PARK) else []
            things += [facade, *garden] if end > 2.5 else []
        else:
            things += gap(dice, street, bank, z, end) if end > 2.5 else []
        before, z = floors if is_house else 0, end
    return things


def front_garden(dice: Dice, street: Street, bank: Bank, start: float, end: float) -> list[Thing]:
    if not dice.chance(0.45):
        return []
    label = dice.pick((VEGETATION, FENCE, FENCE, WALL))
    return [strip(dice, street, bank.side, bank.front - 0.4 * bank.side, max(start, 2.0), end, dice.between(0.8, 1.6), label)]


def gap(dice: Dice, street: Street, bank: Bank, start: float, end: float) -> list[Thing]:
    """Between two houses: trees, mostly behind a wall or a fence."""
    roll = dice.roll()
    if roll < 0.34:
        front = []
    elif roll < 0.63:
        front = [strip(dice, street, bank.side, bank.front, start, end, dice.between(1.4, 3.4), WALL)]
    elif roll < 0.95:
        front = [strip(dice, street, bank.side, bank.front, start, end, dice.between(1.2, 2.6), FENCE)]
    else:
        front = [strip(dice, street, bank.side, bank.front, start, end, dice.between(1.4, 2.4), VEGETATION)]
    return front + grove(dice, street, bank, max(start, 4.0), end)


def grove(dice: Dice, street: Street, bank: Bank, start: float, end: float) -> list[Thing]:
    things = []
    for z in np.arange(start, end, 5.0).tolist():
        x = bank.front + bank.side * dice.between(1.2, 6)
        if dice.chance(0.6):
            things.append(tree(dice, street, x, z, dice.between(2.0, 3.8), dice.between(2.8, 4.8), trunk=0.3))
        else:
            things.append(bush(dice, x, z, dice.between(2.4, 4.4)))
    return things


def greens(dice: Dice, street: Street, bank: Bank) -> list[Thing]:
    """The row of trees, bushes on the verge, a railing before the houses."""
    things = tree_row(dice, street, bank) if dice.chance(street.style.trees) else []
    if dice.chance(street.style.railings):
        start, label = dice.between(2.5, 15), FENCE if dice.chance(0.66) else WALL
        x = bank.front - 0.25 * bank.side
        things.append(strip(dice, street, bank.side, x, start, start + dice.between(15, 50), dice.between(1, 2), label))
    for _ in range(dice.whole(0, 4) if bank.verge else 0):
        x = bank.front - bank.side * dice.between(0.4, 1.3)
        things.append(bush(dice, x, dice.between(5, 45), dice.between(0.5, 1.0)))
    return things


def tree_row(dice: Dice, street: Street, bank: Bank) -> list[Thing]:
    things, step, z = [], dice.between(8, 15), dice.between(6, 16)
    while z < 95:
        x = bank.front + bank.side * dice.between(-1, 2) if street.style is PARK else bank.beside(dice.near(0.9, 0.2))
        if dice.chance(0.85):
            things.append(tree(dice, street, x, z, dice.between(1.9, 3.5), dice.between(4.6, 6.6), trunk=dice.between(0.2, 0.4)))
        z += step * dice.between(0.8, 1.2) * (1 + z / 120)
    return things


def furniture(dice: Dice, bank: Bank) -> list[Thing]:
    """Lamps, signs, bollards and bins along the curb."""
    things, z, step = [], dice.between(8, 28), dice.between(18, 38)
    while z < 1.3 * SPECK:
        arm = -bank.side * dice.between(0.8, 2.2) if dice.chance(0.7) else 0.0
        things.append(pole(dice, bank.beside(0.45), z, dice.between(5.5, 8.5), dice.between(0.08, 0.14), arm))
        if dice.chance(0.2) and z < SPECK:
            things.append(sign(dice, bank.beside(0.45), dice.between(2.2, 3.0), z))
        z += step
    for _ in range(dice.whole(0, 2)):
        things += signpost(dice, bank.beside(dice.between(0.35, 1.0)), dice.between(6, 40))
    things += [pole(dice, bank.beside(0.5), dice.between(5, 30), 1.0, 0.12) for _ in range(dice.whole(0, 2))]
    things += [litter_bin(dice, bank.beside(dice.between(0.5, 1.9)), dice.between(6, 26)) for _ in range(dice.whole(0, 3))]
    return things


def signpost(dice: Dice, x: float, z: float) -> list[Thing]:
    height = dice.between(2.1, 3.1)
    things = [pole(dice, x, z, height, 0.07), sign(dice, x, height - 0.2, z)]
    return things + ([sign(dice, x, height - 0.95, z)] if dice.chance(0.3) else [])


def crossing(dice: Dice, street: Street) -> list[Thing]:
    """Traffic lights on both sides, sometimes one over the road and a second pair behind."""
    if not dice.chance(0.5):
        return []
    z, things = dice.between(8, 42), []
    for distance in (z, z + 18) if dice.chance(0.3) else (z,):
        for bank in street.banks:
            things += [pole(dice, bank.beside(0.5), distance, 3.3, 0.13), traffic_light(dice, bank.beside(0.5), 2.7, distance)]
    if dice.chance(0.5):
        arm, x = dice.between(3, 4.5), street.right.beside(0.6)
        things += [pole(dice, x, z + 0.4, 5.8, 0.15), pole_arm(dice, x, z + 0.4, arm), traffic_light(dice, x - 0.85 * arm, 5.5, z + 0.4)]
    return things


def pole_arm(dice: Dice, x: float, z: float, length: float) -> Thing:
    gray = dice.between(60, 150)
    return Thing(z, lambda painter: Cutout(painter, x, z).bar((0, 5.8), (-length, 6.0), 0.12, (gray, gray, gray), POLE))


# every twelfth scene has one, so that small sets hold each of these classes in about its share
GUESTS = {3: BUS, 7: TRUCK, 11: TRAIN}


def traffic(dice: Dice, street: Street, index: int) -> list[Thing]:
    guest = GUESTS.get(index % 12, TRAIN if street.rails is not None and dice.chance(0.3) else None)
    lane_taken, start, end, things = math.inf, 0.0, 0.0, []
    if guest is not None:
        lane_taken = street.rails if guest == TRAIN and street.rails is not None else dice.pick(street.lanes)
        start = dice.between(16, 46)
        end = start + BOXES[guest].length[1]
        things.append(large_vehicle(dice, street, lane_taken + dice.near(0, 0.15), start, guest))
    for lane in street.lanes:
        density, z = dice.between(0.2, 0.8), dice.between(8, 40) if abs(lane) < 1.7 else dice.between(6, 34)
        while z < 100:
            blocked = abs(lane - lane_taken) < 1 and start - 6 < z < end
            if not blocked and dice.chance(density):
                things.append(driving(dice, street, lane + dice.near(0, 0.18), z))
            z += dice.between(8, 28)
    return things


def driving(dice: Dice, street: Street, x: float, z: float) -> Thing:
    """One road user in a lane."""
    roll, turned = dice.roll(), dice.between(0.25, 0.6)
    if roll < 0.006:
        return large_vehicle(dice, street, x, z + 3, TRUCK if roll < 0.003 else BUS)
    if roll < 0.03 and z < SPECK:
        return motorcycle(dice, x, z + 1, turned, ridden=dice.chance(0.8))
    if roll < 0.08 and z < SPECK:
        return bicycle(dice, x + dice.between(0.4, 1), z, turned, ridden=True)
    return car(dice, street, x, z, away=x > ONCOMING)


def parked(dice: Dice, street: Street) -> list[Thing]:
    things = []
    for bank in street.banks:
        x, z = bank.beside(-1.1), dice.between(5.5, 16)
        while bank.parking and z < 80:
            if dice.chance(0.62):
                things.append(car(dice, street, x + dice.near(0, 0.08), z, away=bank.side > 0))
            z += dice.between(5.2, 6.8)
    return things


def sidewalk(dice: Dice, street: Street, bank: Bank) -> list[Thing]:
    """People in groups, parked bicycles and motorcycles, a cyclist near the curb."""
    things, left = [], round(street.style.people * dice.between(0.2, 1.8))
    width = abs(bank.front - bank.road)
    while left > 0:
        group = min(left, dice.whole(1, 3))
        x, z, step = bank.beside(dice.between(0.3, width - 0.3)), dice.between(5, 50), dice.side() * 0.55
        things += [person(dice, x + number * step, z + dice.between(-0.4, 0.4)) for number in range(group)]
        left -= group
    if dice.chance(0.38):
        x, z, turned = bank.beside(dice.between(0.5, 1.3)), dice.between(4.5, 22), dice.between(0.4, 1)
        things += [bicycle(dice, x, z + 0.7 * number, turned, ridden=False) for number in range(dice.whole(1, 3))]
    if dice.chance(0.07):
        things.append(motorcycle(dice, bank.beside(0.4), dice.between(5, 18), dice.between(0.4, 1), ridden=False))
    if dice.chance(0.17):
        things.append(bicycle(dice, bank.beside(-0.7), dice.between(7, 26), dice.between(0.3, 1), ridden=True))
    return things


def pedestrians_on_road(dice: Dice, street: Street) -> list[Thing]:
    if not dice.chance(0.2):
        return []
    z = dice.between(8, 26)
    places = [(dice.between(street.left.road + 0.5, street.right.road - 0.5), z + dice.between(-1, 1)) for _ in range(dice.whole(1, 3))]
    return [person(dice, x, distance) for x, distance in places]


# --- the exposure


def development(dice: Dice) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Adds what belongs to the camera and not to the street: its own hood, the frame, blur, exposure and noise."""
    top, gray, soft = dice.between(0.87, 0.935), dice.between(28, 70), dice.chance(0.5)
    gains, gamma = (dice.between(0.93, 1.06), 1.0, dice.between(0.92, 1.08)), dice.between(0.85, 1.2)
    exposure, noise, offset = dice.between(0.72, 1.2), dice.between(0.06, 0.24), (dice.roll(), dice.roll())
    curve = exposure * np.array(gains) * (np.arange(256)[:, None] / 255) ** gamma * 255
    curve = np.clip(curve, 0, 255).astype(np.uint8)[:, None]

    def develop(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        paint_hood(image, label, top, gray)
        if soft:
            image = cv2.GaussianBlur(image, (3, 3), 0.55 if image.shape[1] < 1024 else 0.8)
        image = cv2.LUT(image, curve)
        return cv2.addWeighted(image, 1, grain_of(image.shape[:2], offset), noise, -128 * noise), label

    return develop


def paint_hood(image: np.ndarray, label: np.ndarray, top: float, gray: float) -> None:
    height, width = label.shape
    for share, light, own in ((0.0, 1.0, EGO), (0.3, 1.35, None), (0.4, 0.9, None)):
        x = np.linspace(-1, 1, 33)
        edge = height * (top + (1 - top) * (share + 1.05 * np.abs(x) ** 2.6))
        arc = np.stack([(x + 1) / 2 * width, edge], axis=1).tolist()
        outline = sixteenths([*arc, (width, height + 2), (0, height + 2)])
        cv2.fillPoly(image, [outline], (gray * light, gray * light, gray * light * 1.05), cv2.LINE_AA, 4)
        if own:
            cv2.fillPoly(label, [outline], own, cv2.LINE_8, 4)
    frame = max(1, round(width * 5 / 2048))
    label[:, :frame] = label[:, -frame:] = label[-frame:] = OUT_OF_ROI


def grain_of(shape: tuple[int, int], offset: tuple[float, float]) -> np.ndarray:
    """A part of the noise, repeated where the image is larger."""
    grain = textures().grain
    top, left = int(offset[0] * 64), int(offset[1] * 64)
    repeats = math.ceil((shape[0] + top) / grain.shape[0]), math.ceil((shape[1] + left) / grain.shape[1])
    repeated = grain if repeats == (1, 1) else np.tile(grain, (*repeats, 1))
    return repeated[top : top + shape[0], left : left + shape[1]]
