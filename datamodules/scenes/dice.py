"""Chance: the only source of randomness of a scene."""

import random
from collections.abc import Sequence
from typing import TypeVar

from datamodules.scenes.materials import Color

Item = TypeVar("Item")


class Dice:
    """A scene's random numbers, all made from `random.random()`: Python keeps its sequence."""

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
