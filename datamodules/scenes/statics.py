"""Things that stand still: houses, walls and fences, trees, and what stands along the curb."""

from collections.abc import Callable, Sequence

from datamodules.scenes.dice import Dice
from datamodules.scenes.ids import (
    BUILDING,
    FENCE,
    POLE,
    STATIC,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    VEGETATION,
    WALL,
)
from datamodules.scenes.materials import (
    COLUMN_WIDTH,
    COLUMNS,
    CROWN_REACH,
    STRIP_LENGTH,
    Color,
    Pyramid,
    shade,
    textures,
)
from datamodules.scenes.painter import (
    CIRCLE,
    Cutout,
    Painter,
    Place,
    Weather,
    crosswise,
    lengthwise,
)
from datamodules.scenes.street import Street
from datamodules.scenes.thing import Shadow, Thing, footprint

NEAR = 1.2  # meters: what reaches past the camera is drawn from here on
TREE_SHADE = 88  # light, 128 for the colors as they are
TILES = ((150, 84, 64), (112, 104, 104), (128, 76, 60), (92, 86, 88))


# --- houses, walls and fences


def house(
    dice: Dice,
    street: Street,
    side: int,
    x: float,
    start: float,
    end: float,
    floors: int,
    gable: bool,
) -> Thing:
    """`gable` is the wall that looks at the camera, hidden where a house as high stands before."""
    height, depth = floors * dice.between(2.9, 3.4), dice.between(8, 16)
    texture, tinted = dice.pick(textures().facades[floors]), dice.between(0.82, 1.12)
    roof = dice.pick(TILES) if floors <= 3 else None
    light, outer, near = tinted * street.weather.on_face(side), x + side * depth, max(start, NEAR)

    def draw(painter: Painter) -> None:
        if roof:
            plaster = shade(texture[-1].mean(axis=(0, 1)).tolist(), 0.8)
            paint_roof(painter, (x, outer), height, (near, end), (roof, plaster), light)
        if gable and start > 3:
            front = crosswise(min(x, outer), max(x, outer), 0, height, start)
            painter.surface(front, texture, tiles(depth), 0.8 * tinted, BUILDING)
        painter.surface(
            lengthwise(x, near, end, 0, height), texture, tiles(end - near), light, BUILDING
        )

    # by the far end: neighbors in a row never overlap along the street
    return Thing(end - 0.01, draw)


def tiles(meters: float) -> float:
    """How often a facade's tile is repeated."""
    return meters / COLUMN_WIDTH / COLUMNS


def paint_roof(
    painter: Painter,
    walls: tuple[float, float],
    height: float,
    along: tuple[float, float],
    colors: tuple[Color, Color],
    light: float,
) -> None:
    """The slope that looks at the street, and the triangle under it that looks at the camera."""
    (inner, outer), (near, far), (roof, plaster) = walls, along, colors
    ridge, top = (inner + outer) / 2, height + 0.35 * abs(outer - inner)
    slope = [(inner, height, near), (inner, height, far), (ridge, top, far), (ridge, top, near)]
    painter.face(slope, painter.tone(roof, (near + far) / 2, light), BUILDING)
    painter.face(
        [(inner, height, near), (ridge, top, near), (outer, height, near)],
        painter.tone(plaster, near),
        BUILDING,
    )


def tower(dice: Dice, x: float, z: float) -> Thing:
    """A house across the end of the street."""
    floors = dice.whole(5, 7)
    width = COLUMN_WIDTH * dice.whole(5, 11)
    height = 3.2 * floors * dice.between(1, 1.5)
    texture = dice.pick(textures().facades[floors])
    front = crosswise(x - width / 2, x + width / 2, -0.3, height, z)
    return Thing(z, lambda painter: painter.surface(front, texture, tiles(width), 0.9, BUILDING))


def strip(
    dice: Dice,
    street: Street,
    side: int,
    x: float,
    start: float,
    end: float,
    height: float,
    label: int,
) -> Thing:
    """A wall, a fence or a hedge (vegetation) along the street."""
    kinds = {WALL: textures().walls, FENCE: textures().fences, VEGETATION: textures().hedges}
    texture, light = dice.pick(kinds[label]), dice.between(0.8, 1.05) * street.weather.on_face(side)
    near = max(start, NEAR)
    front, repeats = lengthwise(x, near, end, 0, height), max(1.0, (end - near) / STRIP_LENGTH)
    return Thing(end - 0.02, lambda painter: painter.surface(front, texture, repeats, light, label))


# --- trees


def tree(
    dice: Dice, street: Street, x: float, z: float, radius: float, height: float, trunk: float
) -> Thing:
    """A crown around `height`, on a trunk that Cityscapes labels as vegetation too."""
    crown, bark = foliage(dice, textures().crowns, (x, height, z), radius), dice.between(0.7, 1.2)

    def draw(painter: Painter) -> None:
        if not painter.sees(x, z, CROWN_REACH * radius):
            return
        # never thinner than a pixel
        cutout, half = Cutout(painter, x, z), max(trunk / 2, 0.5 * z / painter.camera.focal)
        outline = [(-half, 0), (-0.75 * half, height), (0.75 * half, height), (half, 0)]
        cutout.polygon(outline, shade((78, 64, 52), bark), VEGETATION)
        cutout.box(0.2 * half, 0, 0.7 * half, height - 0.7 * radius, shade((56, 46, 38), bark))
        crown(painter)

    return Thing(z, draw, tree_shadow(street.weather, x, z, radius, height))


def bush(dice: Dice, x: float, z: float, radius: float) -> Thing:
    return Thing(z, foliage(dice, textures().bushes, (x, 0.55 * radius, z), radius))


def foliage(
    dice: Dice, crowns: Sequence[Pyramid], place: Place, radius: float
) -> Callable[[Painter], None]:
    crown, light, mirrored = dice.pick(crowns), dice.between(0.95, 1.5), dice.chance(0.5)
    return lambda painter: painter.sprite(crown, place, radius, light, mirrored, VEGETATION)


def tree_shadow(
    weather: Weather, x: float, z: float, radius: float, height: float
) -> Shadow | None:
    if not weather.sunny:
        return None
    middle, reach = x - weather.sun * 0.6 * height, 0.9 * radius
    return Shadow(
        [(middle + reach * across, z + reach * along) for across, along in CIRCLE.tolist()],
        TREE_SHADE,
    )


# --- along the curb


def pole(dice: Dice, x: float, z: float, height: float, width: float, arm: float = 0.0) -> Thing:
    """A post; with an arm, a lamp on its end."""
    gray = dice.between(60, 150)
    color = (gray, gray, gray * 1.03)

    def draw(painter: Painter) -> None:
        cutout = Cutout(painter, x, z)
        cutout.bar((0, -0.02), (0, height), width, color, POLE)
        if arm:
            up = height + 0.3
            end = (arm, up)
            cutout.bar((0, height), end, 0.8 * width, color, POLE)
            cutout.bar(end, (1.25 * arm, up), 2.2 * width, shade(color, 1.2), POLE)

    return Thing(z, draw)


def pole_arm(dice: Dice, x: float, z: float, length: float) -> Thing:
    """From the top of a mast over the road, for a traffic light."""
    gray = dice.between(60, 150)

    def draw(painter: Painter) -> None:
        Cutout(painter, x, z).bar((0, 5.8), (-length, 6.0), 0.12, (gray, gray, gray), POLE)

    return Thing(z, draw)


LAMPS = ((0.3, (238, 44, 34)), (0.0, (248, 184, 44)), (-0.3, (54, 224, 126)))


def traffic_light(dice: Dice, x: float, y: float, z: float) -> Thing:
    lit = dice.whole(0, 2)

    def draw(painter: Painter) -> None:
        cutout = Cutout(painter, x, z)
        cutout.box(-0.17, y - 0.5, 0.17, y + 0.5, (30, 32, 30), TRAFFIC_LIGHT)
        for number, (up, color) in enumerate(LAMPS):
            cutout.disc((0, y + up), 0.115, 0.115, color if number == lit else shade(color, 0.26))

    # before the pole it hangs on
    return Thing(z - 0.05, draw)


ROUND = [tuple(point) for point in CIRCLE.tolist()]
DIAMOND = [(-1, 0), (0, 1), (1, 0), (0, -1)]
YIELD = [(-1, 0.8), (1, 0.8), (0, -0.95)]
PANEL = [(-1, 1.2), (1, 1.2), (1, -1.2), (-1, -1.2)]
RED = (204, 32, 38)
BLUE = (32, 72, 172)
YELLOW = (234, 194, 34)
WHITE = (238, 238, 236)
GREEN = (30, 112, 62)
DARK = (42, 42, 60)
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

    # before the pole it hangs on
    return Thing(z - 0.06, draw)


def litter_bin(dice: Dice, x: float, z: float) -> Thing:
    """A bin, a crate or a cabinet: Cityscapes' void class static."""
    color = dice.pick(((64, 72, 68), (92, 88, 82), (52, 84, 62), (62, 70, 92), (124, 112, 92)))
    half, height = dice.between(0.25, 0.45), dice.between(0.8, 1.25)

    def draw(painter: Painter) -> None:
        cutout = Cutout(painter, x, z)
        cutout.polygon(
            [(-half, height), (half, height), (0.93 * half, 0), (-0.93 * half, 0)], color, STATIC
        )
        cutout.box(-half, 0.88 * height, half, height, shade(color, 1.3))
        cutout.box(0.55 * half, 0.06, 0.9 * half, 0.85 * height, shade(color, 0.8))

    return Thing(z, draw, footprint(x, z, half, 0.5))
