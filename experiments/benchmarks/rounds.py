"""Measure several things in turns, so that a machine that slows down slows all of them alike."""

from collections.abc import Callable, Mapping
from typing import TypeVar

Thing = TypeVar("Thing")


def take_turns(
    things: Mapping[str, Thing], rounds: int, measure: Callable[[Thing, int], float]
) -> dict[str, list[float]]:
    """Measure every thing once in each round, whose number `measure` gets.

    Every other round goes backwards.
    """
    figures: dict[str, list[float]] = {name: [] for name in things}
    order = list(things)
    for turn in range(rounds):
        for name in order:
            figures[name].append(measure(things[name], turn))
        order.reverse()
    return figures
