"""Measure several things in turns, so that a machine that slows down slows all of them alike."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import TypeVar

Key = TypeVar("Key")
Thing = TypeVar("Thing")
Figure = TypeVar("Figure")


def take_turns(
    things: Mapping[Key, Thing], rounds: Iterable[int], measure: Callable[[Thing, int], Figure]
) -> dict[Key, list[Figure]]:
    """Measure every thing once in each round, whose number `measure` gets.

    Every other round goes backwards.
    """
    figures: dict[Key, list[Figure]] = {key: [] for key in things}
    order = list(things)
    for turn in rounds:
        for key in order:
            figures[key].append(measure(things[key], turn))
        order.reverse()
    return figures


def median_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the rounds' own ratios."""
    return median(time / other for time, other in zip(times, others, strict=True))
