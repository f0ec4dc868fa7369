"""The built-in street scenes: pictures in the manner of Cityscapes with labels, from a seed.

Everything is placed in meters before a camera; the things are drawn from far to near into the image
and the label at once. x points right, y up from the ground, z along the street. All random numbers
are drawn while placing, so a scene is the same at every size.

    materials, painter      textures; the camera and the brush
    dice, street, lens      the first decisions: the street's layout, the camera's place and
    exposure ground, placement       the ground, and where each thing stands on it statics,
    vehicles, people       the things
"""

import numpy as np

from datamodules.scenes.dice import Dice
from datamodules.scenes.ground import Ground
from datamodules.scenes.lens import Exposure, Lens
from datamodules.scenes.materials import textures
from datamodules.scenes.painter import Painter
from datamodules.scenes.placement import everything
from datamodules.scenes.street import Street

__all__ = ["scene", "textures"]

SMALLEST = 32  # pixels


def scene(seed: int, index: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """RGB image (H, W, 3) and Cityscapes label ids (H, W), both uint8.

    They are the same bytes for the same arguments, whatever was drawn before.
    """
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"a street scene has at least {SMALLEST} rows and columns, not {height}x{width}: "
            "draw it larger and scale it down"
        )
    dice = Dice(seed, index)
    lens, street, exposure = Lens.drawn(dice), Street.drawn(dice), Exposure.drawn(dice)
    ground = Ground.drawn(dice, street)
    things = sorted(everything(dice, street, index), key=lambda thing: -thing.distance)
    painter = Painter(lens.camera(height, width), street.weather, height, width)
    ground.paint(painter, [thing.shadow for thing in things if thing.shadow])
    for thing in things:
        thing.draw(painter)
    return exposure.develop(painter.image, painter.label)
