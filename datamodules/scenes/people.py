"""People, riders, bicycles and motorcycles: flat drawings that look at the camera."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from datamodules.scenes.dice import Dice
from datamodules.scenes.ids import BICYCLE, MOTORCYCLE, PERSON, RIDER
from datamodules.scenes.materials import RUBBER, STEEL, Color, shade
from datamodules.scenes.painter import Cutout, Painter, Point
from datamodules.scenes.thing import Thing, footprint

SKINS = ((216, 172, 146), (152, 108, 82), (226, 186, 162), (98, 68, 54))
HAIRS = ((42, 32, 26), (92, 66, 42), (24, 22, 24), (152, 122, 74))
TROUSERS = ((42, 48, 74), (32, 32, 35), (92, 86, 80), (120, 106, 82))
SHOE, HELMET = (34, 30, 30), (62, 62, 68)
HIP = 0.86  # meters, of someone who walks


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
        # the order of these lines is the order in which the dice are thrown
        top = shade(dice.color(20, 225), dice.between(0.4, 1))
        bag = dice.color(20, 150) if dice.chance(0.25) else None
        hair = HELMET if seat and dice.chance(0.6) else dice.pick(HAIRS)
        return cls(
            label=label,
            seat=seat,
            facing=facing or dice.side(),
            stride=dice.between(0.04, 0.22),
            top=top,
            trousers=dice.pick(TROUSERS),
            skin=dice.pick(SKINS),
            hair=hair,
            bag=bag,
        )

    def draw(self, cutout: Cutout) -> None:
        hip = self.seat or HIP
        shoulder, lean = hip + 0.56, 0.12 * self.facing if self.seat else 0.0
        (self.riding_legs if self.seat else self.walking_legs)(cutout, hip)
        self.arms(cutout, shoulder, lean)
        self.torso(cutout, hip, shoulder, lean)
        if self.bag:
            self.backpack(cutout, shoulder, self.bag)
        self.head(cutout, shoulder, lean)

    def walking_legs(self, cutout: Cutout, hip: float) -> None:
        step = self.stride * self.facing
        for x, light in ((-0.07, 0.82), (0.07, 1.0)):
            foot = x + math.copysign(step, x * self.facing)
            cutout.bar((x, hip), (foot, 0.04), 0.15, shade(self.trousers, light), self.label)
            cutout.bar(
                (foot - 0.04 * self.facing, 0.03),
                (foot + 0.13 * self.facing, 0.03),
                0.08,
                SHOE,
                self.label,
            )

    def riding_legs(self, cutout: Cutout, hip: float) -> None:
        knee, foot = (0.24 * self.facing, hip - 0.22), (0.1 * self.facing, max(0.15, hip - 0.65))
        cutout.bar((0, hip), knee, 0.17, self.trousers, self.label)
        cutout.bar(knee, foot, 0.13, self.trousers, self.label)

    def arms(self, cutout: Cutout, shoulder: float, lean: float) -> None:
        sleeve = shade(self.top, 0.82)
        if self.seat:
            cutout.bar(
                (lean, shoulder - 0.04),
                (lean + 0.42 * self.facing, shoulder - 0.4),
                0.1,
                sleeve,
                self.label,
            )
            return
        for side in (-1, 1):
            hand = (side * 0.25 + 0.4 * side * self.stride, shoulder - 0.52)
            cutout.bar((side * 0.2, shoulder - 0.01), hand, 0.1, sleeve, self.label)
            cutout.disc(hand, 0.045, 0.05, self.skin, self.label)

    def torso(self, cutout: Cutout, hip: float, shoulder: float, lean: float) -> None:
        left = [
            (-0.16, hip - 0.04),
            (-0.22 + lean, shoulder - 0.02),
            (-0.1 + lean, shoulder + 0.07),
        ]
        right = [(0.1 + lean, shoulder + 0.07), (0.22 + lean, shoulder - 0.02), (0.16, hip - 0.04)]
        cutout.polygon(left + right, self.top, self.label)

    def backpack(self, cutout: Cutout, shoulder: float, color: Color) -> None:
        inner, outer = -0.12 * self.facing, -0.35 * self.facing
        corners = [
            (inner, shoulder),
            (outer, shoulder - 0.05),
            (outer, shoulder - 0.42),
            (inner, shoulder - 0.45),
        ]
        cutout.polygon(corners, color, self.label)

    def head(self, cutout: Cutout, shoulder: float, lean: float) -> None:
        x = 1.3 * lean
        cutout.disc((x, shoulder + 0.19), 0.105, 0.135, self.skin, self.label)
        cutout.disc((x - 0.02 * self.facing, shoulder + 0.25), 0.11, 0.085, self.hair, self.label)


def person(dice: Dice, x: float, z: float) -> Thing:
    """One in ten is a child."""
    figure = Figure.drawn(dice, PERSON)
    size = dice.near(1.0, 0.05) if dice.chance(0.9) else dice.between(0.6, 0.8)
    return Thing(
        z, lambda painter: figure.draw(Cutout(painter, x, z, size)), footprint(x, z, 0.26, 0.4)
    )


# --- two-wheelers
# `base` is half the distance of the wheels as it is seen, negative where they face left

Tube = tuple[Point, Point, float]  # x in half wheel bases and y in meters of both ends; width
FRAME = (
    ((-1, 0.34), (-0.3, 0.75), 0.05),
    ((-0.3, 0.75), (0.75, 0.78), 0.05),
    ((0.72, 0.95), (1, 0.34), 0.05),
    ((0, 0.32), (-0.32, 0.9), 0.05),
    ((0, 0.32), (0.75, 0.8), 0.05),
    ((-1, 0.34), (0, 0.32), 0.05),
)
SADDLE_AND_HANDLEBAR = (((-0.5, 0.92), (-0.1, 0.92), 0.07), ((0.6, 1.0), (0.95, 1.02), 0.05))
SADDLE_AND_FORK = (((-0.9, 0.88), (0, 0.84), 0.13), ((0.95, 0.3), (0.5, 1.08), 0.08))
TANK = (
    (-0.85, 0.45), (-1.0, 0.66), (-0.6, 0.86), (0.1, 0.96),
    (0.5, 1.0), (0.85, 0.78), (0.6, 0.34), (-0.3, 0.26),
)  # fmt: skip


def paint_bicycle(cutout: Cutout, base: float, narrowed: float, color: Color) -> None:
    """`narrowed` is the share of a wheel's width that is seen."""
    for side in (-1, 1):
        wheel = (side * base, 0.34), 0.34 * narrowed, 0.34
        # Cityscapes labels what is seen through a wheel as the bicycle
        cutout.disc(*wheel, (104, 104, 105), BICYCLE)
        cutout.ring(*wheel, 0.045, RUBBER)
    paint_tubes(cutout, base, FRAME, color, BICYCLE)
    paint_tubes(cutout, base, SADDLE_AND_HANDLEBAR, RUBBER, BICYCLE)


def paint_motorcycle(cutout: Cutout, base: float, narrowed: float, color: Color) -> None:
    for side in (-1, 1):
        cutout.disc((side * base, 0.3), 0.3 * narrowed, 0.3, RUBBER, MOTORCYCLE)
        cutout.disc((side * base, 0.3), 0.15 * narrowed, 0.15, STEEL)
    cutout.polygon([(share * base, y) for share, y in TANK], color, MOTORCYCLE)
    cutout.box(-0.3 * abs(base), 0.3, 0.35 * abs(base), 0.52, (84, 86, 90))
    paint_tubes(cutout, base, SADDLE_AND_FORK, RUBBER, MOTORCYCLE)
    cutout.disc((0.75 * base, 0.9), 0.1, 0.1, (236, 236, 214), MOTORCYCLE)  # the headlamp


def paint_tubes(
    cutout: Cutout, base: float, tubes: Sequence[Tube], color: Color, label: int
) -> None:
    for start, end, width in tubes:
        cutout.bar((start[0] * base, start[1]), (end[0] * base, end[1]), width, color, label)


class Kind(NamedTuple):
    """The measures of bicycles or motorcycles, in meters."""

    colors: tuple[float, float]  # the darkest and the lightest
    seat: float  # its height
    base: float  # half the distance of the wheels
    narrowest: float  # share of a wheel's width that is seen at least
    reach: float  # of the shadow beyond the wheels
    depth: float  # of the shadow
    paint: Callable[[Cutout, float, float, Color], None]


KINDS = {
    BICYCLE: Kind((20, 200), 0.9, 0.52, 0.22, 0.2, 0.3, paint_bicycle),
    MOTORCYCLE: Kind((15, 190), 0.82, 0.68, 0.3, 0.3, 0.4, paint_motorcycle),
}


def two_wheeler(dice: Dice, label: int, x: float, z: float, turned: float, ridden: bool) -> Thing:
    """`turned` is the share of its length that is seen: 1 from the side."""
    kind = KINDS[label]
    facing, color = dice.side(), dice.color(*kind.colors)
    rider = Figure.drawn(dice, RIDER, kind.seat, facing) if ridden else None
    base = facing * kind.base * turned

    def draw(painter: Painter) -> None:
        cutout = Cutout(painter, x, z)
        kind.paint(cutout, base, max(kind.narrowest, turned), color)
        if rider:
            rider.draw(cutout)

    return Thing(z, draw, footprint(x, z, abs(base) + kind.reach, kind.depth))
