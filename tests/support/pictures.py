"""Pictures for predict.py, and calls of it that check its output."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import predict
from segmodels.inference_modes import mode
from segmodels.module import SegmentationModule


def listing(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() if file.is_file() else b"" for file in folder.rglob("*")}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Patches of color, coarse enough that a network sees different things in them."""
    patches = np.random.default_rng(seed).integers(
        0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8
    )
    return patches.repeat(16, 0).repeat(16, 1)[:height, :width]


def picture(
    file: Path, pixels: np.ndarray | Image.Image | None = None, **how: object
) -> np.ndarray:
    """Writes it, and says what is in it."""
    pixels = noise(50, 70) if pixels is None else pixels
    file.parent.mkdir(parents=True, exist_ok=True)
    made = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    made.save(file, **how)
    return np.asarray(made.convert("RGB"))


def predicted(
    module: SegmentationModule, image: np.ndarray, inference: str = "whole"
) -> np.ndarray:
    with torch.no_grad():
        return (
            mode(inference)(module, torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
            .full()
            .argmax(1)[0]
            .numpy()
        )


def read(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def run(*words: object) -> int:
    return predict.main([str(word) for word in words])


def refused(capsys: pytest.CaptureFixture, folder: Path, *words: object) -> str:
    """The sentence; nothing may be written or changed on the way to it."""
    before = listing(folder)
    assert run(*words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert printed.out == ""
    assert listing(folder) == before
    return printed.err
