"""Deterministic weights and inputs for comparing two implementations of a network.

Every tensor is a pure function of its state-dict NAME, SHAPE and the model's GAIN (the number
"gain" in layouts/<model>.json, also stored in each golden .npz). numpy only; nothing here depends
on torch or on anyone's model code.

    rng    = numpy Generator(Philox(key=crc32(name)))         one stream per name
    rules  (first match wins; "last" is the part of the name after the final dot)
      integer/bool dtype, or last == num_batches_tracked  -> zeros
      last == running_mean                                -> 0.1 * N(0,1)
      last == running_var                                 -> U(0.5, 1.5)
      last contains "bias" (any shape)                    -> 0.1 * N(0,1)
      one element in all (gamma, alpha, PReLU slope, ...) -> U(0.5, 1.5)
      ndim == 1 and last contains "weight" (norm scales)  -> U(0.5, 1.5)
      ndim >= 2 and last contains "weight"                -> sqrt(gain/fan_in) * N(0,1)
                                       with fan_in = prod(shape[1:])
      everything else (embeddings, tokens, EM bases, ...) -> 0.1 * N(0,1)

Values are drawn in float64, C order, then cast. Inputs: make_input("input/a", (1,3,128,256))
is N(0,1) from the same kind of stream.

ALIASES. Some networks register one tensor under several names. All of them take the value
of the FIRST of those names in layout order ("aliases" in the layout maps name -> first name).
KEPT. Names listed under "kept" in a layout are constants that the code itself computes; they
are not filled.

Check a whole state dict with weights_crc() against "weights_crc32" of the layout.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))


def fill(name: str, shape: Sequence[int], dtype: str = "float32", gain: float = 2.0) -> NDArray:
    shape = tuple(shape)
    kind = np.dtype(str(dtype).removeprefix("torch."))
    last = name.rpartition(".")[2]
    if kind.kind in "iub" or last == "num_batches_tracked":
        return np.zeros(shape, kind)
    draw = generator(name)
    scale = 0.1
    if last != "running_mean" and "bias" not in last:
        is_weight = "weight" in last
        if last == "running_var" or np.prod(shape) == 1 or (is_weight and len(shape) == 1):
            return np.asarray(0.5 + draw.random(shape), kind)
        if is_weight:
            scale = np.sqrt(gain / np.prod(shape[1:]))
    return np.asarray(scale * draw.standard_normal(shape), kind)


def make_input(name: str, shape: Sequence[int]) -> NDArray[np.float32]:
    return generator(name).standard_normal(tuple(shape)).astype(np.float32)


def fill_layout(layout: Mapping[str, Any]) -> dict[str, NDArray]:
    """{name: array} for a loaded layouts/<model>.json (kept names are left out)."""
    aliases = layout.get("aliases", {})
    shapes = layout.get("golden_shapes", {})  # only where the golden uses another input size
    return {
        name: fill(aliases.get(name, name), shapes.get(name, shape), dtype, layout["gain"])
        for name, shape, dtype in layout["entries"]
        if name not in layout.get("kept", ())
    }


def weights_crc(arrays: Iterable[NDArray]) -> int:
    """crc32 of all filled tensors' bytes, in layout order (pass the arrays in that order)."""
    crc = 0
    for array in arrays:
        crc = zlib.crc32(np.ascontiguousarray(array).tobytes(), crc)
    return crc
