"""Things that stand in a street, drawn from far to near after the shadows of all of them."""

from collections.abc import Callable
from typing import NamedTuple

from datamodules.scenes.painter import Painter, Point

DEEP_SHADE = 54  # light, 128 for the colors as they are


class Shadow(NamedTuple):
    corners: list[Point]  # (x, z) on the ground, convex
    light: int  # that is left of 128


class Thing(NamedTuple):
    distance: float
    draw: Callable[[Painter], None]
    shadow: Shadow | None = None


def footprint(x: float, z: float, half: float, length: float) -> Shadow:
    """The darkness right under a thing whose near side is at z."""
    near, far = z - 0.2, z + length
    return Shadow(
        [(x - half, near), (x + half, near), (x + half, far), (x - half, far)], DEEP_SHADE
    )
