"""Cars, trucks, buses and trains: flat faces in space, with a side and an end that are seen.

Where `large` is false a car is at most 14 pixels high, and its details are left out.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from datamodules.scenes.dice import Dice
from datamodules.scenes.ids import BUS, CAR, TRAIN, TRUCK
from datamodules.scenes.materials import GLASS, RUBBER, STEEL, Color, shade
from datamodules.scenes.painter import Painter, Place, Point, Weather, lengthwise
from datamodules.scenes.street import Street
from datamodules.scenes.thing import Shadow, Thing, footprint

ONCOMING = -1.2  # meters: further left one drives towards the camera
WHEEL = [(math.cos(turn * math.pi / 6), math.sin(turn * math.pi / 6)) for turn in range(12)]
SIDES = (-1, 1)
PAINTS = (
    (198, 199, 202), (232, 232, 232), (36, 38, 42), (72, 74, 80), (120, 122, 127), (148, 28, 32),
    (38, 64, 122), (108, 32, 36), (64, 84, 68), (168, 160, 142), (24, 44, 84), (96, 100, 108),
)  # fmt: skip


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
        return self.z + self.from_near(share)

    def from_near(self, share: float) -> float:
        """Meters from the near end to a share of the length from the tail."""
        return self.length * (share if self.away else 1 - share)


def lit(street: Street, x: float) -> float:
    """The light on the side that is seen."""
    return street.weather.on_face(1 if x > 0 else -1)


def wheel(painter: Painter, x: float, z: float, radius: float, label: int, large: bool) -> None:
    disc(painter, x, z, radius, radius, RUBBER, label)
    if large:
        disc(painter, x, z, radius, 0.58 * radius, STEEL)


def disc(
    painter: Painter,
    x: float,
    z: float,
    height: float,
    radius: float,
    color: Color,
    label: int | None = None,
) -> None:
    """A circle along the street around a place `height` above the ground."""
    places = [(x, height + radius * up, z + radius * across) for across, up in WHEEL]
    painter.face(places, painter.tone(color, z), label)


def plate(
    painter: Painter,
    vehicle: Vehicle,
    half: float,
    low: float,
    high: float,
    color: Color,
    light: float = 1.0,
    label: int | None = None,
    across: float = 0.0,
    behind: float = 0.0,
) -> None:
    """A rectangle on the near end; with `across`, one on either side of its middle.

    `half` is half its width, `behind` how far behind the near end it stands.
    """
    color = painter.tone(color, vehicle.z, light)
    for side in SIDES if across else (1,):
        x = vehicle.x + side * across
        painter.upright(x, half, low, high, vehicle.z + behind, color, label)


# --- cars


class Body(NamedTuple):
    """A car from the side, in shares of its length from the tail.

    They say where rear window, roof and windscreen begin and end.
    """

    window: float
    roof: float
    roof_end: float
    windscreen: float
    belt: float  # meters: below the windows
    tail: float  # meters
    nose: float  # meters

    @property
    def profile(self) -> list[Point]:
        """(share of the length, height) of what is below the windows."""
        rear = [(0, 0.32), (0, self.tail - 0.05), (0.01, self.tail)]
        front = [(0.98, self.nose), (1, self.nose - 0.05), (1, 0.32)]
        return [*rear, (self.window, self.belt), (self.windscreen, self.belt), *front]


HATCHBACK = Body(0.03, 0.14, 0.52, 0.73, belt=0.96, tail=0.92, nose=0.76)
SEDAN = Body(0.17, 0.31, 0.56, 0.75, belt=0.96, tail=0.93, nose=0.76)
VAN = Body(0.0, 0.03, 0.74, 0.9, belt=1.1, tail=1.08, nose=0.95)
ROOF = 0.76  # half the roof's width, in halves of the car's


def car(dice: Dice, street: Street, x: float, z: float, away: bool) -> Thing:
    # the order of these lines is the order in which the dice are thrown
    body = VAN if dice.chance(0.17) else dice.pick((HATCHBACK, HATCHBACK, SEDAN))
    van = body is VAN
    length = 4.9 if van else dice.between(3.8, 4.7)
    half = 0.95 if van else dice.between(0.86, 0.93)
    height = dice.between(1.85, 2.05) if van else dice.between(1.42, 1.6)
    color = shade(dice.pick(PAINTS), dice.between(0.88, 1.1))
    vehicle = Vehicle(x, z, length, half, height, away, color, lit(street, x), CAR)
    brakes = away and dice.chance(0.35)

    def draw(painter: Painter) -> None:
        if not painter.sees(x, z, half + abs(x) * length / z):
            return
        large = painter.camera.focal * height / z > 14
        if large:
            mirror = vehicle.from_near(0.66)
            plate(painter, vehicle, 0.09, 0.93, 1.06, color, 0.7, CAR, half + 0.07, mirror)
        if abs(x) > 0.9 * half:
            car_side(painter, vehicle, body, large)
        car_end(painter, vehicle, body, large, brakes)

    return Thing(z, draw, vehicle.shadow(street.weather))


def car_side(painter: Painter, car: Vehicle, body: Body, large: bool) -> None:
    paint, cabin = painter.tone(car.color, car.middle, car.light), cabin_side(car, body)
    painter.face(cabin, paint, CAR)
    side_windows(painter, car, cabin, paint, large)
    painter.face([(car.flank, y, car.along(share)) for share, y in body.profile], paint, CAR)
    if large:
        sill = lengthwise(car.flank, car.z, car.z + car.length, 0.3, 0.44)
        painter.face(sill, painter.tone(car.color, car.middle, 0.6 * car.light))
    for share in (0.19, 0.81):
        wheel(painter, car.flank, car.along(share), 0.33, CAR, large)


def cabin_side(car: Vehicle, body: Body) -> list[Place]:
    """Leans inwards, from the belt to the narrower roof."""
    belt, roof = car.flank, car.x + (car.flank - car.x) * ROOF
    return [
        (belt, body.belt, car.along(body.window)),
        (roof, car.height, car.along(body.roof)),
        (roof, car.height, car.along(body.roof_end)),
        (belt, body.belt, car.along(body.windscreen)),
    ]


def side_windows(
    painter: Painter, car: Vehicle, cabin: list[Place], paint: Color, large: bool
) -> None:
    """The cabin's side, shrunk around its middle."""
    middle = tuple(sum(place[axis] for place in cabin) / 4 for axis in range(3))
    glass = [
        tuple(m + 0.8 * (p - m) for p, m in zip(place, middle, strict=True)) for place in cabin
    ]
    painter.face(glass, painter.tone(GLASS, car.middle))
    if large:  # the pillar between the doors
        z, thin = car.along(0.45), 0.04
        belt, roof = glass[0][:2], glass[1][:2]
        painter.face(
            [(*belt, z - thin), (*roof, z - thin), (*roof, z + thin), (*belt, z + thin)], paint
        )


def car_end(painter: Painter, car: Vehicle, body: Body, large: bool, brakes: bool) -> None:
    """Tail or nose, whichever is near."""
    x, z, half = car.x, car.z, car.half
    edge = body.tail if car.away else body.nose
    window_z = car.along(body.window if car.away else body.windscreen)
    roof_z = car.along(body.roof if car.away else body.roof_end)
    plate(painter, car, 0.13, 0, 0.4, RUBBER, 1.0, CAR, across=0.78 * half, behind=0.15)
    end_window(painter, car, body.belt, window_z, roof_z, large)
    lid = trapezoid(x, half, edge, z, half, body.belt, window_z)
    painter.face(lid, painter.tone(car.color, z, 1.08), CAR)
    right = [(0.97, edge), (1, edge - 0.05), (1, 0.38), (0.95, 0.27)]
    left = [(-share, y) for share, y in reversed(right)]
    outline = [(x + share * half, y, z) for share, y in left[1:] + right + left[:1]]
    painter.face(outline, painter.tone(car.color, z, 0.88), CAR)
    car_lamps(painter, car, large, brakes, edge)


def end_window(
    painter: Painter, car: Vehicle, belt: float, window_z: float, roof_z: float, large: bool
) -> None:
    """Rear window or windscreen with its frame; the sky is reflected in its upper half."""
    x, z, half, lower, upper = car.x, car.z, car.half, belt + 0.02, car.height - 0.09
    frame = trapezoid(x, half, belt, window_z, ROOF * half, car.height, roof_z)
    painter.face(frame, painter.tone(car.color, z, 0.88), CAR)
    pane = trapezoid(x, 0.86 * half, lower, window_z, 0.69 * half, upper, roof_z)
    painter.face(pane, painter.tone(GLASS, z))
    if large:
        glare = trapezoid(
            x, 0.78 * half, (lower + upper) / 2, (window_z + roof_z) / 2, 0.69 * half, upper, roof_z
        )
        painter.face(glare, painter.tone(GLASS, z, 1.4))


def trapezoid(
    x: float,
    low_half: float,
    low: float,
    low_z: float,
    high_half: float,
    high: float,
    high_z: float,
) -> list[Place]:
    return [
        (x - low_half, low, low_z),
        (x - high_half, high, high_z),
        (x + high_half, high, high_z),
        (x + low_half, low, low_z),
    ]


def car_lamps(painter: Painter, car: Vehicle, large: bool, brakes: bool, edge: float) -> None:
    """And, where they can be seen, bumper, grille and number plate."""
    half = car.half
    lamp = (152, 28, 28) if car.away else (242, 242, 230)
    if brakes:
        lamp = (244, 46, 38)
    plate(painter, car, 0.14 * half, edge - 0.25, edge - 0.09, lamp, across=0.82 * half)
    if not large:
        return
    plate(painter, car, 0.95 * half, 0.27, 0.4, car.color, 0.5)
    if not car.away:
        plate(painter, car, 0.6 * half, edge - 0.24, edge - 0.1, (34, 36, 40))
    plate(painter, car, 0.25, 0.44, 0.55, (228, 228, 224))


# --- trucks, buses and trains


class Shape(NamedTuple):
    """The least and the most, in meters."""

    length: tuple[float, float]
    half: float  # of the width
    height: tuple[float, float]


SHAPES = {
    TRUCK: Shape((6, 10), 1.22, (2.8, 3.7)),
    BUS: Shape((9, 13), 1.27, (2.9, 3.3)),
    TRAIN: Shape((18, 30), 1.3, (3.3, 3.7)),
}
LIVERIES = (
    (226, 226, 222),
    (200, 62, 48),
    (234, 190, 52),
    (62, 96, 160),
    (240, 240, 235),
    (62, 122, 82),
)


def large_vehicle(dice: Dice, street: Street, x: float, z: float, label: int) -> Thing:
    """A truck, a bus or a train; `trim` is its second color."""
    shape, trim = SHAPES[label], dice.color(30, 210)
    length, height = dice.between(*shape.length), dice.between(*shape.height)
    vehicle = Vehicle(
        x, z, length, shape.half, height, x > ONCOMING, dice.pick(LIVERIES), lit(street, x), label
    )
    paint_side, paint_end = (truck_side, truck_end) if label == TRUCK else (coach_side, coach_end)

    def draw(painter: Painter) -> None:
        if abs(x) > 0.8 * shape.half:
            paint_side(painter, vehicle, trim)
        wheels, lamps = 0.76 * shape.half, 0.84 * shape.half
        plate(painter, vehicle, 0.2, 0, 0.5, RUBBER, 1.0, label, across=wheels, behind=0.15)
        paint_end(painter, vehicle, trim)
        lamp = (200, 36, 32) if vehicle.away else (244, 244, 230)
        plate(painter, vehicle, 0.13, 0.62, 0.86, lamp, across=lamps)

    return Thing(z, draw, vehicle.shadow(street.weather))


def panel(
    painter: Painter,
    vehicle: Vehicle,
    start: float,
    end: float,
    low: float,
    high: float,
    color: Color,
    label: int | None = None,
) -> None:
    """A rectangle on the side that is seen.

    `start` and `end` are meters from the near end, `low` and `high` above the ground.
    """
    places = lengthwise(vehicle.flank, vehicle.z + start, vehicle.z + end, low, high)
    painter.face(places, painter.tone(color, vehicle.middle, vehicle.light), label)


def truck_side(painter: Painter, truck: Vehicle, trim: Color) -> None:
    """A cab before or behind a box, on a chassis."""
    length, height = truck.length, truck.height
    cab = (length - 2, length) if truck.away else (0, 2)
    load = (0, length - 2.2) if truck.away else (2.2, length)
    panel(painter, truck, 0, length, 0.4, 0.95, (54, 55, 58), TRUCK)
    panel(painter, truck, *load, 0.9, height, truck.color, TRUCK)
    panel(painter, truck, load[0] + 0.8, load[1] - 0.8, 0.45 * height, 0.7 * height, trim)
    panel(painter, truck, *cab, 0.4, 0.9 * height, trim, TRUCK)
    panel(painter, truck, cab[0] + 0.4, cab[0] + 1.5, 0.52 * height, 0.8 * height, GLASS)
    for share in (0.14, 0.3, 0.84):
        wheel(painter, truck.flank, truck.along(share), 0.48, TRUCK, large=True)


def truck_end(painter: Painter, truck: Vehicle, trim: Color) -> None:
    """The doors of the box, or the cab before it."""
    half, height, color = truck.half, truck.height, truck.color
    if not truck.away:
        plate(painter, truck, half, 0.9, height, color, 0.8, TRUCK, behind=2.2)
        cab_front(painter, truck, trim, 0.9 * height)
        return
    plate(painter, truck, half, 0.5, height, color, 0.9, TRUCK)
    plate(painter, truck, 0.03, 0.95, height - 0.1, color, 0.55)
    plate(painter, truck, 0.025, 0.95, height - 0.1, color, 0.68, across=0.35)
    plate(painter, truck, half, 0.45, 0.92, (52, 53, 56), 1.0, TRUCK)


def cab_front(painter: Painter, vehicle: Vehicle, color: Color, height: float) -> None:
    """The same for a truck and, seen from either end, for a bus and a train."""
    inner = 0.9 * vehicle.half
    plate(painter, vehicle, vehicle.half, 0.35, height, color, 0.92, vehicle.label)
    plate(painter, vehicle, inner, 0.45 * height, 0.86 * height, GLASS)
    plate(painter, vehicle, inner, 0.68 * height, 0.86 * height, GLASS, 1.35)
    plate(painter, vehicle, inner, 0.35, 0.55, (58, 60, 64))


def coach_side(painter: Painter, coach: Vehicle, trim: Color) -> None:
    """Of a bus or a train: a row of windows over a stripe."""
    length, height, color = coach.length, coach.height, coach.color
    low, high = 0.46 * height, 0.86 * height  # of the windows
    panel(painter, coach, 0, length, 0.32, height, color, coach.label)
    panel(painter, coach, 0.4, length - 0.4, low, high, GLASS)
    panel(painter, coach, 0.4, length - 0.4, 0.7 * height, high, shade(GLASS, 1.4))
    for number in range(1, int(length / 1.6)):
        middle = 1.6 * number
        panel(painter, coach, middle - 0.06, middle + 0.06, low, high, color)
    panel(painter, coach, 0, length, 0.28 * height, 0.36 * height, trim)
    if coach.label == TRAIN:
        panel(painter, coach, 0, length, 0.06, 0.38, (48, 49, 52), TRAIN)
        return
    for share in (0.18, 0.8):
        wheel(painter, coach.flank, coach.along(share), 0.5, BUS, large=True)


def coach_end(painter: Painter, coach: Vehicle, trim: Color) -> None:
    """With the line's number over the windscreen."""
    half, height = coach.half, coach.height
    cab_front(painter, coach, coach.color, height)
    plate(painter, coach, half, 0.3 * height, 0.37 * height, trim, 0.92)
    plate(painter, coach, 0.55 * half, 0.885 * height, 0.975 * height, (30, 30, 28))
    plate(painter, coach, 0.4 * half, 0.91 * height, 0.95 * height, (246, 176, 40))
