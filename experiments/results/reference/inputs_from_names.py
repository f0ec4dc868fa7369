"""Inputs of the reference cases, made from their names alone: one Philox generator per name, seeded
by the name's CRC-32.

`label`   a coarse map, each cell one class or, with probability ignore_share, 255; every cell blown
up to cell x cell pixels. `logits`  scale * N(0, 1); with a label, the true class is raised by
margin * u, u uniform per cell of a second map: easy and hard regions.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

IGNORED = 255


def generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode("utf-8"))))


def normal(name: str, shape: list[int]) -> NDArray[np.float32]:
    return generator(name).standard_normal(int(np.prod(shape))).reshape(shape).astype(np.float32)


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
    logits = scale * normal(name, shape).astype(np.float64)
    if label is not None:
        count, _, height, width = shape
        small = label[:, :: label.shape[1] // height, :: label.shape[1] // height][
            :, :height, :width
        ]
        raised = generator(name + "/margin").random((count, -(-height // cell), -(-width // cell)))
        image, row, column = np.nonzero(small != IGNORED)
        logits[image, small[image, row, column], row, column] += (
            margin * _blown_up(raised, cell, height, width)
        )[image, row, column]
    return logits.astype(np.float32)


def build(inputs: dict[str, dict]) -> dict[str, NDArray]:
    """The arrays of a case, by the keys of its `inputs`; a label stands before the logits that use
    it."""
    made: dict[str, NDArray] = {}
    for key, recipe in inputs.items():
        settings = {k: v for k, v in recipe.items() if k != "kind"}
        if recipe["kind"] == "label":
            made[key] = make_label(**settings)
        else:
            made[key] = make_logits(
                **(settings | ({"label": made[settings["label"]]} if "label" in settings else {}))
            )
    return made


def _blown_up(coarse: NDArray, cell: int, height: int, width: int) -> NDArray:
    return coarse.repeat(cell, 1).repeat(cell, 2)[:, :height, :width]
