"""The place of every thing of a scene, in meters.

The order of the lines is the order in which the dice are thrown: another one makes other scenes.
"""

import math
from typing import NamedTuple

import numpy as np

from datamodules.scenes.dice import Dice
from datamodules.scenes.ids import BICYCLE, BUS, FENCE, MOTORCYCLE, TRAIN, TRUCK, VEGETATION, WALL
from datamodules.scenes.people import person, two_wheeler
from datamodules.scenes.statics import (
    bush,
    house,
    litter_bin,
    pole,
    pole_arm,
    sign,
    strip,
    tower,
    traffic_light,
    tree,
)
from datamodules.scenes.street import PARK, Bank, Street
from datamodules.scenes.thing import Thing
from datamodules.scenes.vehicles import ONCOMING, SHAPES, car, large_vehicle

SPECK = 60.0  # meters: people, signs, poles and bicycles further away would be specks
BEHIND = 2.5  # meters: what ends before is beside the camera or behind it


def everything(dice: Dice, street: Street, index: int) -> list[Thing]:
    things = backdrop(dice, street)
    for bank in street.banks:
        for part in (row, greens, furniture, sidewalk):
            things += part(dice, street, bank)
    things += crossing(dice, street)
    things += traffic(dice, street, index)
    things += parked(dice, street)
    return things + pedestrians_on_road(dice, street)


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


# --- the row of houses


def row(dice: Dice, street: Street, bank: Bank) -> list[Thing]:
    """House after house, with gaps, to the end of the street."""
    things, style, z, before = [], street.style, dice.between(-3, 3), 0
    floors = dice.whole(*style.floors)
    while z < 112:
        end, is_house = z + dice.between(8, 24), dice.chance(style.houses)
        if is_house:
            floors = dice.whole(*style.floors) if dice.chance(0.6) else floors
            built = plot(dice, street, bank, z, end, floors, gable=floors >= before)
            things += built if end > BEHIND else []
        elif end > BEHIND:
            things += gap(dice, street, bank, z, end)
        before, z = floors if is_house else 0, end
    return things


def plot(
    dice: Dice, street: Street, bank: Bank, start: float, end: float, floors: int, gable: bool
) -> list[Thing]:
    """A house, at the sidewalk or behind a garden."""
    if not street.style.gardens:
        return [house(dice, street, bank.side, bank.front, start, end - 0.02, floors, gable)]
    x = bank.front + bank.side * dice.between(0, 4)
    return [
        house(dice, street, bank.side, x, start, end - 0.02, floors, gable),
        *front_garden(dice, street, bank, start, end),
    ]


def front_garden(dice: Dice, street: Street, bank: Bank, start: float, end: float) -> list[Thing]:
    """What shuts it off from the sidewalk."""
    if not dice.chance(0.45):
        return []
    label = dice.pick((VEGETATION, FENCE, FENCE, WALL))
    return [
        strip(
            dice,
            street,
            bank.side,
            bank.front - 0.4 * bank.side,
            max(start, 2.0),
            end,
            dice.between(0.8, 1.6),
            label,
        )
    ]


# the odds of no barrier, and, summed up, of each kind with its least and greatest height
OPEN = 0.34
BARRIERS = ((0.63, WALL, (1.4, 3.4)), (0.95, FENCE, (1.2, 2.6)), (1.0, VEGETATION, (1.4, 2.4)))


def gap(dice: Dice, street: Street, bank: Bank, start: float, end: float) -> list[Thing]:
    """Between two houses: trees, mostly behind a wall, a fence or a hedge."""
    roll, front = dice.roll(), []
    if roll >= OPEN:
        label, heights = next((label, heights) for odds, label, heights in BARRIERS if roll < odds)
        front = [
            strip(dice, street, bank.side, bank.front, start, end, dice.between(*heights), label)
        ]
    return front + grove(dice, street, bank, max(start, 4.0), end)


def grove(dice: Dice, street: Street, bank: Bank, start: float, end: float) -> list[Thing]:
    things = []
    for z in np.arange(start, end, 5.0).tolist():
        x = bank.front + bank.side * dice.between(1.2, 6)
        if dice.chance(0.6):
            things.append(
                tree(dice, street, x, z, dice.between(2.0, 3.8), dice.between(2.8, 4.8), trunk=0.3)
            )
        else:
            things.append(bush(dice, x, z, dice.between(2.4, 4.4)))
    return things


# --- between houses and road


def greens(dice: Dice, street: Street, bank: Bank) -> list[Thing]:
    """The row of trees, a railing before the houses, bushes on the verge."""
    things = tree_row(dice, street, bank) if dice.chance(street.style.trees) else []
    if dice.chance(street.style.railings):
        start, label = dice.between(2.5, 15), FENCE if dice.chance(0.66) else WALL
        x = bank.front - 0.25 * bank.side
        things.append(
            strip(
                dice,
                street,
                bank.side,
                x,
                start,
                start + dice.between(15, 50),
                dice.between(1, 2),
                label,
            )
        )
    for _ in range(dice.whole(0, 4) if bank.verge else 0):
        x = bank.front - bank.side * dice.between(0.4, 1.3)
        things.append(bush(dice, x, dice.between(5, 45), dice.between(0.5, 1.0)))
    return things


def tree_row(dice: Dice, street: Street, bank: Bank) -> list[Thing]:
    """At the curb, in a park where the houses would begin; the further away, the further apart."""
    things, step, z = [], dice.between(8, 15), dice.between(6, 16)
    while z < 95:
        x = (
            bank.front + bank.side * dice.between(-1, 2)
            if street.style is PARK
            else bank.beside(dice.near(0.9, 0.2))
        )
        if dice.chance(0.85):
            things.append(
                tree(
                    dice,
                    street,
                    x,
                    z,
                    dice.between(1.9, 3.5),
                    dice.between(4.6, 6.6),
                    trunk=dice.between(0.2, 0.4),
                )
            )
        z += step * dice.between(0.8, 1.2) * (1 + z / 120)
    return things


def furniture(dice: Dice, street: Street, bank: Bank) -> list[Thing]:
    """Lamps, signs, bollards and bins along the curb."""
    things = lamps(dice, bank)
    for _ in range(dice.whole(0, 2)):
        things += signpost(dice, bank.beside(dice.between(0.35, 1.0)), dice.between(6, 40))
    things += [
        pole(dice, bank.beside(0.5), dice.between(5, 30), 1.0, 0.12)
        for _ in range(dice.whole(0, 2))
    ]
    things += [
        litter_bin(dice, bank.beside(dice.between(0.5, 1.9)), dice.between(6, 26))
        for _ in range(dice.whole(0, 3))
    ]
    return things


def lamps(dice: Dice, bank: Bank) -> list[Thing]:
    """Seven in ten with an arm over the road, some with a sign on them."""
    things, x, z, step = [], bank.beside(0.45), dice.between(8, 28), dice.between(18, 38)
    while z < 1.3 * SPECK:
        arm = -bank.side * dice.between(0.8, 2.2) if dice.chance(0.7) else 0.0
        things.append(pole(dice, x, z, dice.between(5.5, 8.5), dice.between(0.08, 0.14), arm))
        if dice.chance(0.2) and z < SPECK:
            things.append(sign(dice, x, dice.between(2.2, 3.0), z))
        z += step
    return things


def signpost(dice: Dice, x: float, z: float) -> list[Thing]:
    height = dice.between(2.1, 3.1)
    things = [pole(dice, x, z, height, 0.07), sign(dice, x, height - 0.2, z)]
    return things + ([sign(dice, x, height - 0.95, z)] if dice.chance(0.3) else [])


def sidewalk(dice: Dice, street: Street, bank: Bank) -> list[Thing]:
    """People, parked bicycles and motorcycles, a cyclist near the curb."""
    things = people(dice, street, bank)
    if dice.chance(0.38):
        x, z = bank.beside(dice.between(0.5, 1.3)), dice.between(4.5, 22)
        turned = dice.between(0.4, 1)
        things += [
            two_wheeler(dice, BICYCLE, x, z + 0.7 * number, turned, ridden=False)
            for number in range(dice.whole(1, 3))
        ]
    if dice.chance(0.07):
        things.append(
            two_wheeler(
                dice,
                MOTORCYCLE,
                bank.beside(0.4),
                dice.between(5, 18),
                dice.between(0.4, 1),
                ridden=False,
            )
        )
    if dice.chance(0.17):
        things.append(
            two_wheeler(
                dice,
                BICYCLE,
                bank.beside(-0.7),
                dice.between(7, 26),
                dice.between(0.3, 1),
                ridden=True,
            )
        )
    return things


def people(dice: Dice, street: Street, bank: Bank) -> list[Thing]:
    """In groups of up to three, side by side."""
    things = []
    left = round(street.style.people * dice.between(0.2, 1.8))
    width = abs(bank.front - bank.road)
    while left > 0:
        group = min(left, dice.whole(1, 3))
        x, z = bank.beside(dice.between(0.3, width - 0.3)), dice.between(5, 50)
        step = dice.side() * 0.55
        things += [
            person(dice, x + number * step, z + dice.between(-0.4, 0.4)) for number in range(group)
        ]
        left -= group
    return things


# --- on the road


def crossing(dice: Dice, street: Street) -> list[Thing]:
    """Traffic lights on both sides, sometimes one over the road and a second pair behind."""
    if not dice.chance(0.5):
        return []
    z, things = dice.between(8, 42), []
    for distance in (z, z + 18) if dice.chance(0.3) else (z,):
        for bank in street.banks:
            things += [
                pole(dice, bank.beside(0.5), distance, 3.3, 0.13),
                traffic_light(dice, bank.beside(0.5), 2.7, distance),
            ]
    if dice.chance(0.5):
        arm, x = dice.between(3, 4.5), street.right.beside(0.6)
        things += [
            pole(dice, x, z + 0.4, 5.8, 0.15),
            pole_arm(dice, x, z + 0.4, arm),
            traffic_light(dice, x - 0.85 * arm, 5.5, z + 0.4),
        ]
    return things


# three of every twelve scenes have one: small sets hold each of these classes in about its share
GUESTS = {3: BUS, 7: TRUCK, 11: TRAIN}


class Taken(NamedTuple):
    """Where a guest stands and no one else can."""

    lane: float
    start: float
    end: float

    def hold(self, lane: float, z: float) -> bool:
        return abs(lane - self.lane) < 1 and self.start - 6 < z < self.end


NONE_TAKEN = Taken(math.inf, 0.0, 0.0)


def traffic(dice: Dice, street: Street, index: int) -> list[Thing]:
    things, taken = guests(dice, street, index)
    for lane in street.lanes:
        density, own = dice.between(0.2, 0.8), abs(lane) < 1.7
        z = dice.between(8, 40) if own else dice.between(6, 34)
        while z < 100:
            if not taken.hold(lane, z) and dice.chance(density):
                things.append(driving(dice, street, lane + dice.near(0, 0.18), z))
            z += dice.between(8, 28)
    return things


def guests(dice: Dice, street: Street, index: int) -> tuple[list[Thing], Taken]:
    """A bus, a truck or a train on its lane, a train on its rails if there are some; or none."""
    # thrown for every scene with rails, also where the index has decided
    on_rails = street.rails is not None and dice.chance(0.3)
    label = GUESTS.get(index % 12, TRAIN if on_rails else None)
    if label is None:
        return [], NONE_TAKEN
    lane = street.rails if label == TRAIN and street.rails is not None else dice.pick(street.lanes)
    start = dice.between(16, 46)
    taken = Taken(lane, start, start + SHAPES[label].length[1])
    return [large_vehicle(dice, street, lane + dice.near(0, 0.15), start, label)], taken


def driving(dice: Dice, street: Street, x: float, z: float) -> Thing:
    """One road user in a lane."""
    roll, turned = dice.roll(), dice.between(0.25, 0.6)
    if roll < 0.006:
        return large_vehicle(dice, street, x, z + 3, TRUCK if roll < 0.003 else BUS)
    if roll < 0.03 and z < SPECK:
        return two_wheeler(dice, MOTORCYCLE, x, z + 1, turned, ridden=dice.chance(0.8))
    if roll < 0.08 and z < SPECK:
        return two_wheeler(dice, BICYCLE, x + dice.between(0.4, 1), z, turned, ridden=True)
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


def pedestrians_on_road(dice: Dice, street: Street) -> list[Thing]:
    if not dice.chance(0.2):
        return []
    z = dice.between(8, 26)
    places = [
        (dice.between(street.left.road + 0.5, street.right.road - 0.5), z + dice.between(-1, 1))
        for _ in range(dice.whole(1, 3))
    ]
    return [person(dice, x, distance) for x, distance in places]
