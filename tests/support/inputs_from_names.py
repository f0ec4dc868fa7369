"""Inputs of the reference cases, made from their names alone: one Philox generator per name, seeded
by the name's CRC-32.

`label`   a coarse map, each cell one class or, with probability ignore_share, 255; every cell blown
up to cell x cell pixels. `logits`  scale * N(0, 1); with a label, the true class is raised by
margin * u, u uniform per cell of a second map: easy and hard regions.
"""

import numpy as np
from numpy.typing import NDArray

from experiments.results.reference.weights_from_names import generator, make_input

IGNORED = 255


def make_label(
    name: str, shape: list[int], classes: int, ignore_share: float, cell: int
) -> NDArray[np.int64]:
    count, height, width = shape
    draw, coarse = generator(name), (count, -(-height // cell), -(-width // cell))
    label = np.floor(draw.random(coarse) * classes).astype(np.int64)
    label[draw.random(coarse) < ignore_share] = IGNORED
    return _blown_up(label, cell, height, width)


def make_logits(
    name: str,
    shape: list[int],
    scale: float,
    label: NDArray[np.int64] | None = None,
    margin: float = 0,
    cell: int = 3,
) -> NDArray[np.float32]:
    logits = scale * make_input(name, shape).astype(np.float64)
    if label is not None:
        count, _, height, width = shape
        step = label.shape[1] // height
        small = label[:, ::step, ::step][:, :height, :width]
        raised = generator(name + "/margin").random((count, -(-height // cell), -(-width // cell)))
        image, row, column = np.nonzero(small != IGNORED)
        raised = margin * _blown_up(raised, cell, height, width)
        logits[image, small[image, row, column], row, column] += raised[image, row, column]
    return logits.astype(np.float32)


def build(inputs: dict[str, dict]) -> dict[str, NDArray]:
    """The arrays of a case, by the keys of its `inputs`; a label stands before the logits that use
    it."""
    made: dict[str, NDArray] = {}
    for key, recipe in inputs.items():
        settings = {name: value for name, value in recipe.items() if name != "kind"}
        if recipe["kind"] == "label":
            made[key] = make_label(**settings)
        else:
            if "label" in settings:
                settings["label"] = made[settings["label"]]
            made[key] = make_logits(**settings)
    return made


def _blown_up(coarse: NDArray, cell: int, height: int, width: int) -> NDArray:
    return coarse.repeat(cell, 1).repeat(cell, 2)[:, :height, :width]
