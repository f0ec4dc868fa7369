"""Deterministic weights and inputs for comparing two implementations of a network.

Every tensor is a pure function of its state-dict NAME, SHAPE and the model's GAIN
(the number "gain" in layouts/<model>.json, also stored in each golden .npz).
numpy only; nothing here depends on torch or on anyone's model code.

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

import numpy as np


def _rng(name):
    return np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode("utf-8"))))


def fill(name, shape, dtype="float32", gain=2.0):
    shape = tuple(int(s) for s in shape)
    dtype = np.dtype(str(dtype).replace("torch.", ""))
    last = name.rsplit(".", 1)[-1]
    if dtype.kind in "iub" or last == "num_batches_tracked":
        return np.zeros(shape, dtype)
    g = _rng(name)
    n = int(np.prod(shape, dtype=np.int64))
    normal = lambda: g.standard_normal(n).reshape(shape)
    unif = lambda: (0.5 + g.random(n)).reshape(shape)
    if last == "running_mean":
        v = 0.1 * normal()
    elif last == "running_var":
        v = unif()
    elif "bias" in last:
        v = 0.1 * normal()
    elif n == 1:
        v = unif()
    elif len(shape) == 1 and "weight" in last:
        v = unif()
    elif len(shape) >= 2 and "weight" in last:
        v = np.sqrt(gain / np.prod(shape[1:])) * normal()
    else:
        v = 0.1 * normal()
    return v.astype(dtype)


def make_input(name, shape):
    n = int(np.prod(shape))
    return _rng(name).standard_normal(n).reshape(shape).astype(np.float32)


def fill_layout(layout):
    """{name: array} for a loaded layouts/<model>.json (kept names are left out)."""
    alias, kept = layout.get("aliases", {}), set(layout.get("kept", []))
    shapes = layout.get("golden_shapes", {})  # only where the golden uses another input size
    return {
        n: fill(alias.get(n, n), shapes.get(n, s), d, layout["gain"])
        for n, s, d in layout["entries"]
        if n not in kept
    }


def weights_crc(arrays):
    """crc32 of all filled tensors' bytes, in layout order (pass the arrays in that order)."""
    c = 0
    for a in arrays:
        c = zlib.crc32(np.ascontiguousarray(a).tobytes(), c)
    return c


# Known values: if these differ, your numpy draws other numbers and no golden file will match.
KNOWN = [
    (
        lambda: fill("layer.conv.weight", (2, 3, 3, 3)),
        [-0.1561308056116104, 0.2587983310222626, 0.08280383795499802, 0.32913321256637573],
    ),
    (
        lambda: fill("layer.bn.weight", (4,)),
        [1.2443876266479492, 0.5454120635986328, 1.260493278503418, 1.3270585536956787],
    ),
    (
        lambda: make_input("input/a", (1, 3, 128, 256)),
        [-0.3774159252643585, -0.49596676230430603, -0.26237645745277405, 0.5282796025276184],
    ),
]


def self_check():
    for f, want in KNOWN:
        got = f().ravel()[:4]
        assert np.allclose(got, want, rtol=1e-6, atol=0), (got, want)
    return True


if __name__ == "__main__":
    print("self check ok" if self_check() else "")
