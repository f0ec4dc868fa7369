"""Draw many scenes by several processes: drawing is Python, and threads would take turns.

The others are commands of their own. Nothing is forked, and no script that calls this is run again,
as multiprocessing would do it.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from datamodules.progress import with_progress
from datamodules.reading.decoding import Pair, Size
from datamodules.scenes import scene

ENOUGH = 40  # scenes that a process must have to do: starting it takes as long as drawing some


def scenes(seed: int, numbers: range, size: Size, processes: int, title: str = "") -> list[Pair]:
    """The scenes of these numbers, RGB and label ids, under a progress bar if it has a title."""
    shares = shared(numbers, processes)
    pairs: dict[int, Pair] = {}
    with ThreadPoolExecutor(len(shares)) as pool:
        others = [pool.submit(by_another, seed, share, size) for share in shares[1:]]
        for number in with_progress(shares[0], title) if title else shares[0]:
            pairs[number] = scene(seed, number, *size)
        for other, share in zip(others, shares[1:]):
            pairs.update(zip(share, other.result(), strict=True))
    return [pairs[number] for number in numbers]


def shared(numbers: range, processes: int) -> list[range]:
    """A share of the numbers for each process, the first for this one."""
    count = max(min(processes, len(numbers) // ENOUGH), 1)
    return [numbers[first::count] for first in range(count)]


def by_another(seed: int, numbers: range, size: Size) -> list[Pair]:
    """Drawn by another process; by this one where that fails."""
    height, width = size
    words = [seed, *size, numbers.start, numbers.stop, numbers.step]
    command = [sys.executable, "-m", "datamodules.scenes", *map(str, words)]
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
            check=True,
        )
        pixels = np.frombuffer(bytearray(done.stdout), np.uint8)
        # (N * 4 * H * W) -> (N, 4 * H * W): three channels of an image, and a label
        rows = pixels.reshape(len(numbers), 4 * height * width)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return [scene(seed, number, *size) for number in numbers]
    cut = 3 * height * width
    return [(row[:cut].reshape(*size, 3), row[cut:].reshape(size)) for row in rows]
