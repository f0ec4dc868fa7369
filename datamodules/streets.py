"""Streets: built-in street scenes with Cityscapes' label ids and classes, drawn while they load.

They check that a pipeline learns and evaluates; they rank nothing. Scene k of a split is a function
of (scene seed, split, k) at any size.

    python -m datamodules.streets --out DIR --train 20 --val 5 --size 256x512

writes scenes in Cityscapes' own folder layout, to try on files whatever reads Cityscapes.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.errors import DataError, whole_number
from datamodules.labels import CITYSCAPES
from datamodules.module import SegmentationData
from datamodules.progress import with_progress
from datamodules.reading.decoding import Size
from datamodules.reading.sources import Memory, Pair

SPLITS = ("train", "val", "test")


class Streets(SegmentationData):
    labels = CITYSCAPES
    name = "streets"
    caution = (
        "streets check that the pipeline learns and judges; "
        "a score on them ranks nothing and compares with no paper"
    )
    budget: ClassVar[dict[str, Any]] = {
        "iterations": 300,
        "batch": 8,
        "crop": (192, 384),
        "scales": (0.6, 1.2),
        "continuous": True,
        "jitter": 0.3,
        "optimizer": "adamw",
        "lr": 2e-3,
        "head_lr": 1.0,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup": 25,
        "precision": "auto",
        "inference": "whole",
        # 1 / ln(1.1 + p), as ERFNet weighs classes, with p the share among the labeled pixels of
        # the 500 training scenes at 256x512
        "class_weights": (
            2.80,
            6.96,
            3.23,
            10.12,
            10.03,
            8.99,
            10.26,
            9.82,
            4.41,
            9.72,
            6.97,
            9.18,
            10.28,
            6.47,
            10.25,
            10.25,
            10.16,
            10.39,
            9.85,
        ),
    }

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        height: int = 256,
        width: int = 512,
        train: int = 500,
        val: int = 100,
        test: int = 100,
        scene_seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        if root is not None:
            raise DataError(
                f"streets are made, not read: drop data.root={root}, "
                "or take --data cityscapes for a folder of them"
            )
        counts = {"train": train, "val": val, "test": test}
        for field, value, least in [
            ("height", height, 32),
            ("width", width, 64),
            ("scene_seed", scene_seed, 0),
            *((split, count, 1) for split, count in counts.items()),
        ]:
            whole_number(f"data.{field}", value, least)
        self.size, self.counts, self.scene_seed = (height, width), counts, scene_seed

    def source(self, split: str) -> Memory:
        count = self.counts[split]
        made = scenes(split, count, self.size, self.scene_seed)
        pairs = ((image, self.labels.encode(ids)) for image, ids in made)
        return Memory(pairs, [scene_name(index) for index in range(count)])


def scene_name(index: int) -> str:
    return f"streets_{index:06d}_000019"


def scenes(split: str, count: int, size: Size, scene_seed: int = 0) -> Iterator[Pair]:
    """RGB and label ids, under a progress bar; each split of each scene seed has its own seed."""
    from datamodules.scenes import scene

    seed = len(SPLITS) * scene_seed + SPLITS.index(split)
    for index in with_progress(range(count), f"making {count} {split} scenes"):
        yield scene(seed, index, *size)


# --- as files


def write(out: Path, counts: dict[str, int], size: Size, scene_seed: int = 0) -> None:
    """Write Cityscapes' layout beside `out`, and move it there when it is complete."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out} exists and is not an empty folder: nothing was written; give another --out"
        )
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        for split, count in counts.items():
            for index, pair in enumerate(scenes(split, count, size, scene_seed)):
                write_scene(partial, split, scene_name(index), pair)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_scene(root: Path, split: str, name: str, pair: Pair) -> None:
    image, ids = pair
    for kind, ending, pixels in (
        ("leftImg8bit", "leftImg8bit", image[..., ::-1]),
        ("gtFine", "gtFine_labelIds", ids),
    ):
        file = root / kind / split / name.split("_")[0] / f"{name}_{ending}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(pixels))


def png(pixels: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", pixels)[1].tobytes()


def at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least} up")
        return int(text)

    return number


def parsed_size(text: str) -> Size:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) >= 32 and int(width) >= 64):
        raise argparse.ArgumentTypeError(
            f"{text} is not a size of at least 32x64: write height x width, such as 256x512"
        )
    return int(height), int(width)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.streets",
        allow_abbrev=False,
        description="Write built-in street scenes in Cityscapes' folder layout.",
    )
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument(
        "--train", type=at_least(1), default=20, help="training scenes (default 20)"
    )
    parser.add_argument("--val", type=at_least(1), default=5, help="validation scenes (default 5)")
    parser.add_argument(
        "--size", type=parsed_size, default=(256, 512), help="HEIGHTxWIDTH (default 256x512)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="scene seed (default 0)")
    options = parser.parse_args(arguments)
    try:
        write(options.out, {"train": options.train, "val": options.val}, options.size, options.seed)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{options.train} train and {options.val} val scenes are in {options.out}: "
        f"use them as Cityscapes with data.root={options.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
