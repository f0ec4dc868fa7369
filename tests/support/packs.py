"""Small Cityscapes trees, packed, zipped and opened, and sources compared pixel by pixel."""

import zipfile
from pathlib import Path

import numpy as np

from datamodules import Cityscapes
from datamodules.reading.sources import Source
from experiments import pack

SIZE = (150, 300)  # neither a multiple of a tile


def zipped(root: Path, out: Path, method: int = zipfile.ZIP_STORED) -> Path:
    out.mkdir()
    for kind in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(out / f"{kind}_trainvaltest.zip", "w", method) as archive:
            archive.writestr("README", "not a picture")
            for file in sorted((root / kind).rglob("*.png")):
                archive.write(file, file.relative_to(root))
    return out


def packed(root: Path, out: Path, *words: str) -> Path:
    assert (
        pack.main(
            [
                "--data",
                "cityscapes",
                f"data.root={root}",
                "--out",
                str(out),
                "--workers",
                "1",
                *words,
            ]
        )
        == 0
    )
    return out


def source(root: Path, split: str = "train") -> Source:
    return Cityscapes(root).open(split)


def assert_same(one: Source, other: Source) -> None:
    rng = np.random.default_rng(0)
    assert tuple(one.names) == tuple(other.names)
    for index in range(len(one)):
        assert one.size(index) == other.size(index)
        boxes = [None]
        for _ in range(8):
            top, left = (int(rng.integers(0, side - 1)) for side in SIZE)
            boxes.append(
                (
                    top,
                    left,
                    int(rng.integers(top + 1, SIZE[0] + 1)),
                    int(rng.integers(left + 1, SIZE[1] + 1)),
                )
            )
        for box in boxes:
            for ours, theirs in zip(one.window(index, box), other.window(index, box), strict=True):
                assert np.array_equal(ours, theirs)
            assert np.array_equal(one.label(index, box), other.label(index, box))
