"""Sky and ground: roads, sidewalks, grass, their marks, and the light and shadows on them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from datamodules.scenes.dice import Dice
from datamodules.scenes.ids import PARKING, RAIL_TRACK, ROAD, SIDEWALK, SKY, TERRAIN
from datamodules.scenes.materials import Color, shade, textures
from datamodules.scenes.painter import FRACTION_BITS, Camera, Painter, sixteenths
from datamodules.scenes.street import END, Bank, Street
from datamodules.scenes.thing import Shadow

SUN, CLOUDS, HOUSE_SHADE = 136, 122, 74  # light, 128 for the colors as they are
ROUGHNESS = np.full(256, 0.06, np.float32)  # by class: how strong the ground's texture is
ROUGHNESS[TERRAIN] = 0.17
TEXELS = 45.0  # of the ground's texture on a meter


class Ribbon(NamedTuple):
    """A strip of the ground from x `left` to `right`, z `start` to `end`.

    Without a label it is a detail of the one it lies on.
    """

    left: float
    right: float
    start: float
    end: float
    color: Color
    label: int | None = None


class Clouds(NamedTuple):
    left: float  # of the part of the texture that is seen, in shares of its size
    top: float
    strength: float
    mirrored: bool


@dataclass(frozen=True)
class Ground:
    """The sky is a part of it: both are painted before any thing, and meet at the horizon."""

    ribbons: list[Ribbon]
    offset: tuple[float, float]  # of the texture
    clouds: Clouds
    shadows: list[Shadow]  # of the houses

    @classmethod
    def drawn(cls, dice: Dice, street: Street) -> "Ground":
        return cls(
            ribbons=areas(dice, street) + patches(dice, street) + marks(dice, street),
            offset=(dice.between(0, 512), dice.between(0, 512)),
            clouds=Clouds(
                dice.between(0, 0.5), dice.between(0, 0.5), dice.between(4, 18), dice.chance(0.5)
            ),
            shadows=house_shadow(dice, street) if street.weather.sunny else [],
        )

    def paint(self, painter: Painter, shadows: list[Shadow]) -> None:
        """`shadows` are those of the things."""
        top = int(painter.camera.horizon) + 1
        paint_sky(painter, top, self.clouds)
        paint_to_horizon(painter, top, self.ribbons[0])
        for ribbon in self.ribbons[1:]:
            paint_ribbon(painter, ribbon)
        # a shadow covers those before it: the darkest last
        light = shadow_map(
            painter, top, sorted(self.shadows + shadows, key=lambda shadow: -shadow.light)
        )
        paint_light(painter, top, light, self.offset)


# --- layout


def areas(dice: Dice, street: Street) -> list[Ribbon]:
    """From the outer to the inner: each lies over the one before, so that there are no seams."""
    asphalt = shade(
        (1.0, dice.between(0.98, 1.01), dice.between(0.97, 1.05)), dice.between(74, 124)
    )
    paving = shade((1.02, 1.0, dice.between(0.93, 0.98)), dice.between(112, 166))
    grass = dice.pick(((96, 114, 62), (116, 120, 70), (82, 106, 52), (124, 116, 88)))
    return (
        beside_road(dice, street, paving, grass)
        + road(dice, street, paving, asphalt)
        + tracks(dice, street, asphalt)
    )


def beside_road(dice: Dice, street: Street, paving: Color, grass: Color) -> list[Ribbon]:
    colors, left, right = {SIDEWALK: paving, TERRAIN: grass}, street.left, street.right
    behind = TERRAIN if street.style.gardens or dice.chance(0.3) else SIDEWALK
    outer, inner = (SIDEWALK, TERRAIN) if left.inner else (TERRAIN, SIDEWALK)
    return [
        full_length(-1000, 1000, colors[behind], behind),
        full_length(left.front, right.front, colors[outer], outer),
        full_length(left.split, right.split, colors[inner], inner),
        *paving_joints(dice, street, shade(paving, 0.8)),
    ]


def road(dice: Dice, street: Street, paving: Color, asphalt: Color) -> list[Ribbon]:
    left, right, ribbons = street.left, street.right, []
    # the curb's stone, the gutter, the road
    for beside, color, label in (
        (0.13, shade(paving, 1.1), SIDEWALK),
        (0, shade(asphalt, 0.84), ROAD),
        (-0.22, asphalt, ROAD),
    ):
        ribbons.append(full_length(left.beside(beside), right.beside(beside), color, label))
    if right.parking and dice.chance(0.4):
        ribbons.append(
            full_length(right.beside(-right.parking), right.road, shade(asphalt, 1.14), PARKING)
        )
    return ribbons


def full_length(left: float, right: float, color: Color, label: int) -> Ribbon:
    """From below the camera to the end of the street."""
    return Ribbon(left, right, 0, 2 * END, color, label)


def paving_joints(dice: Dice, street: Street, color: Color) -> list[Ribbon]:
    step, joints = dice.between(0.6, 1.3), []
    for bank in street.banks:
        # only where the sidewalk lies at the road: behind an inner verge it is too far to see them
        if not (bank.inner and bank.verge):
            joints += bank_joints(bank, step, color)
    return joints


def bank_joints(bank: Bank, step: float, color: Color) -> list[Ribbon]:
    left, right = min(bank.road, bank.split), max(bank.road, bank.split)
    across = [
        Ribbon(left, right, step * row, step * row + 0.04, color)
        for row in range(4, int(16 / step))
    ]
    along = [
        Ribbon(x, x + 0.04, 0, 26, color) for x in np.arange(left + step, right, step).tolist()
    ]
    return across + along


def tracks(dice: Dice, street: Street, asphalt: Color) -> list[Ribbon]:
    """Two rails, sometimes on a bed of their own."""
    if street.rails is None:
        return []
    middle, steel = street.rails, shade(asphalt, 0.62)
    bed = (
        [full_length(middle - 1.1, middle + 1.1, shade(asphalt, 0.92), RAIL_TRACK)]
        if dice.chance(0.5)
        else []
    )
    return bed + [Ribbon(middle + x - 0.05, middle + x + 0.05, 0, 90, steel) for x in (-0.72, 0.72)]


def patches(dice: Dice, street: Street) -> list[Ribbon]:
    """Where the road was opened and closed again, and manholes."""
    found = []
    for _ in range(dice.whole(0, 4)):
        x, z, half = (
            dice.between(street.left.road + 1, street.right.road - 1),
            dice.between(4, 26),
            dice.between(0.25, 1.0),
        )
        gray = dice.between(58, 104)
        found.append(
            Ribbon(x - half, x + half, z, z + 2 * half * dice.between(0.7, 4), (gray, gray, gray))
        )
    return found


def marks(dice: Dice, street: Street) -> list[Ribbon]:
    """Between the lanes, a zebra crossing, a stop line."""
    white = dice.between(180, 225)
    paint = (white, white, white * 0.98)
    found = lane_marks(dice, street, paint) if dice.chance(0.8) else []
    if dice.chance(0.22):
        found += zebra(dice, street, paint)
    if dice.chance(0.14):
        z = dice.between(6, 20)
        found.append(Ribbon(street.start, street.end, z, z + 0.45, paint))
    return found


def zebra(dice: Dice, street: Street, paint: Color) -> list[Ribbon]:
    z, step = dice.between(7, 28), 1.1
    starts = [
        street.start + step * number for number in range(int((street.end - street.start) / step))
    ]
    return [Ribbon(x + 0.3, x + 0.85, z, z + 3, paint) for x in starts]


def lane_marks(dice: Dice, street: Street, paint: Color) -> list[Ribbon]:
    """Mostly dashes between lanes; at the road's edges a line or none."""
    period, half, found = dice.between(6, 12), dice.between(0.06, 0.1), []
    phase = dice.between(0, period)
    for number, x in enumerate(street.dividers):
        middle = 0 < number < street.count
        dashed, drawn = dice.chance(0.8), dice.chance(0.5)
        if middle and dashed:
            found += [
                Ribbon(x - half, x + half, z, z + 0.45 * period, paint)
                for z in np.arange(-phase, 70, period).tolist()
            ]
        elif middle or drawn:
            found.append(Ribbon(x - half, x + half, 0, 110, paint))
    return found


def house_shadow(dice: Dice, street: Street) -> list[Shadow]:
    """One step for each house of the row between the sun and the street."""
    bank = street.sunny_bank
    edge, far, steps, z = bank.front - bank.side * dice.between(0.5, 7), bank.side * 80, [], 0.0
    while z < END:
        reach, end = edge + dice.between(-1.2, 1.2), z + dice.between(5, 18)
        steps.append(Shadow([(far, z), (far, end), (reach, end), (reach, z)], HOUSE_SHADE))
        z = end
    return steps


# --- painting


def paint_sky(painter: Painter, rows: int, clouds: Clouds) -> None:
    sky = np.array(painter.weather.sky)
    zenith, horizon = sky * (0.76, 0.87, 1.0), np.minimum(sky * 0.92 + 22, 255)
    ramp = np.linspace(zenith, horizon, max(rows, 1))[:, None].astype(np.uint8)
    gradient = cv2.resize(ramp, (painter.width, rows), interpolation=cv2.INTER_NEAREST)
    white = cv2.resize(seen_clouds(clouds), (painter.width, rows)).astype(np.uint8)
    cv2.add(gradient, cv2.merge([white, white, white]), dst=painter.image[:rows])
    painter.label[:rows] = SKY


def seen_clouds(clouds: Clouds) -> np.ndarray:
    """(64, 128): how much lighter they make the sky."""
    noise = textures().clouds
    top, left = int(clouds.top * 256), int(clouds.left * 256)
    seen = np.maximum(noise[top : top + 64, left : left + 128], 0) * clouds.strength
    return seen[:, ::-1] if clouds.mirrored else seen


def paint_to_horizon(painter: Painter, top: int, ribbon: Ribbon) -> None:
    painter.label[top:] = ribbon.label
    # one row, then the others from it: numpy is slow to repeat three numbers pixel by pixel
    painter.image[top] = ribbon.color
    painter.image[top + 1 :] = painter.image[top]


def paint_ribbon(painter: Painter, ribbon: Ribbon) -> None:
    start, end = max(ribbon.start, nearest_ground(painter)), min(ribbon.end, 2 * END)
    if end <= start:
        return
    # a bent street needs more corners where it is far, which is where little of it is seen
    count = 2 + int(4 * math.log2(end / start)) if end - start > 6 else 2
    depths = [start * (end / start) ** (number / (count - 1)) for number in range(count)]
    point = painter.camera.point
    outline = [point(ribbon.left, 0, z) for z in depths] + [
        point(ribbon.right, 0, z) for z in reversed(depths)
    ]
    corners = sixteenths(outline)
    cv2.fillPoly(painter.image, [corners], ribbon.color, cv2.LINE_AA, FRACTION_BITS)
    if ribbon.label is not None:
        cv2.fillPoly(painter.label, [corners], ribbon.label, cv2.LINE_8, FRACTION_BITS)


def nearest_ground(painter: Painter) -> float:
    """z of what lies just below the image."""
    return painter.camera.depth(painter.height + 1)


def shadow_map(painter: Painter, top: int, shadows: list[Shadow]) -> np.ndarray:
    """How light the ground is, 128 for as it is drawn; soft at the edges."""
    light = np.full(
        (painter.height - top, painter.width), SUN if painter.weather.sunny else CLOUDS, np.uint8
    )
    nearest = nearest_ground(painter)
    for shadow in shadows:
        points = [painter.camera.point(x, 0, max(z, nearest)) for x, z in shadow.corners]
        cv2.fillConvexPoly(
            light,
            sixteenths([(u, v - top) for u, v in points]),
            shadow.light,
            cv2.LINE_AA,
            FRACTION_BITS,
        )
    soft = 2 * (painter.height // 90) + 1
    return cv2.blur(light, (soft, soft))


def paint_light(painter: Painter, top: int, light: np.ndarray, offset: tuple[float, float]) -> None:
    """Shadows, the grain of asphalt and grass, and haze, all fading with the row's distance."""
    depth = painter.camera.depth(np.arange(top, painter.height, dtype=np.float32))
    clear = np.exp(-depth / painter.weather.sight)[:, None]
    grain = ground_texture(painter.camera, top, light.shape, offset) * np.exp(-depth / 25)[:, None]
    factor = grain * cv2.LUT(painter.label[top:], ROUGHNESS) + 1
    factor *= light
    factor *= clear
    factor = cv2.merge([np.clip(factor, 0, 255).astype(np.uint8)] * 3)
    haze = ((1 - clear)[..., None] * np.array(painter.weather.haze, np.float32)).astype(np.uint8)
    haze = cv2.resize(haze, (painter.width, len(haze)), interpolation=cv2.INTER_NEAREST)
    cv2.add(cv2.multiply(painter.image[top:], factor, scale=1 / 128), haze, dst=painter.image[top:])


def ground_texture(
    camera: Camera, top: int, shape: tuple[int, int], offset: tuple[float, float]
) -> np.ndarray:
    """The noise on the ground, for the rows from `top` on; the bend is too small to matter here."""
    (x, z), horizon, texels = offset, camera.horizon - top, TEXELS * camera.eye
    # from a pixel (u, v, 1) back to the ground:
    # times v - horizon, x = eye (u - center) and z = eye focal
    matrix = np.array(
        [
            (texels, x, -texels * camera.center - x * horizon),
            (0.0, z, TEXELS * camera.focal * camera.eye - z * horizon),
            (0.0, 1.0, -horizon),
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(
        textures().ground, matrix, shape[::-1], flags=flags, borderMode=cv2.BORDER_WRAP
    )
