"""Schedules of learning rates and loss weights: a share of the base value by optimizer step."""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def poly(steps: int, power: float = 0.9, floor: float = 0.0) -> Schedule:
    """Fall from 1 to `floor` along (1 - k / steps) ** power.

    Step k runs at the value of k, so no step runs at zero.
    """
    return lambda k: floor + (1 - floor) * (1 - min(k, steps) / steps) ** power


def cosine(steps: int, floor: float = 0.0) -> Schedule:
    return lambda k: floor + (1 - floor) * (1 + math.cos(math.pi * min(k, steps) / steps)) / 2


def step(steps: int, floor: float = 0.0) -> Schedule:
    """Divide by ten after each third of the steps."""
    return lambda k: max(floor, 0.1 ** (3 * min(k, steps - 1) // steps))


def constant() -> Schedule:
    return lambda k: 1.0


def warmed_up(schedule: Schedule, steps: int, start: float, shape: str = "linear") -> Schedule:
    """Rise from `start` to 1 in `steps`; `schedule` begins when the warm-up ends."""
    if steps == 0:
        return schedule
    if shape == "geometric":
        return lambda k: start ** (1 - k / steps) if k < steps else schedule(k - steps)
    return lambda k: start + (1 - start) * k / steps if k < steps else schedule(k - steps)


def sigmoid_ramp(steps: int) -> Schedule:
    """Rise along exp(-5 (1 - k / steps)^2), then stay at 1 (Laine, Aila: Temporal Ensembling)."""
    return lambda k: math.exp(-5 * (1 - min(k, steps) / steps) ** 2) if steps else 1.0
