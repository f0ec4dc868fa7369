"""Writes tiny data sets in their official layouts, for tests: random pixels, known labels."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import yaml

from datamodules.labels import CITYSCAPES

Arrays = tuple[np.ndarray, np.ndarray]  # RGB (H, W, 3), values of the label file (H, W)


def noise(size: tuple[int, int], ids: tuple[int, ...], seed: int = 0, block: int = 4) -> Arrays:
    """Fine noise, the hardest picture for an interpolation, over blocks of random ids."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    coarse = rng.choice(np.array(ids, np.uint8), (-(-size[0] // block), -(-size[1] // block)))
    return image, coarse.repeat(block, 0).repeat(block, 1)[: size[0], : size[1]]


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1])
    path.write_bytes(cv2.imencode(path.suffix, bgr)[1].tobytes())
    return path


def cityscapes(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (48, 96)) -> dict[str, Arrays]:
    """Two cities a split; {name: (image, label ids)} of everything written."""
    written = {}
    for split, count in counts.items():
        for index in range(count):
            city = ("aachen", "bochum")[index % 2]
            name = f"{city}_{index:06d}_000019"
            pair = noise(size, tuple(i for i in CITYSCAPES.ids + CITYSCAPES.void if i >= 0), seed=len(written))
            save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", pair[0])
            save(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", pair[1])
            written[f"{split}/{name}"] = pair
    return written


def camvid(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (36, 48), suffix: str = ".png") -> dict[str, Arrays]:
    written = {}
    for split, count in counts.items():
        for index in range(count):
            name = f"0001TP_{6690 + 30 * index:06d}"
            pair = noise(size, tuple(range(12)), seed=len(written))
            save(root / split / f"{name}{suffix}", pair[0])
            save(root / f"{split}annot" / f"{name}.png", pair[1])
            written[f"{split}/{name}"] = pair
    return written


def folder(
    root: Path, counts: Mapping[str, int], classes: object, ids: tuple[int, ...] = (0, 1, 2), size: tuple[int, int] = (40, 60)
) -> dict[str, Arrays]:
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.yaml").write_text(yaml.safe_dump(classes))
    written = {}
    for split, count in counts.items():
        for index in range(count):
            pair = noise(size, ids, seed=len(written))
            save(root / split / "images" / f"photo{index}.png", pair[0])
            save(root / split / "masks" / f"photo{index}.png", pair[1])
            written[f"{split}/photo{index}"] = pair
    return written
