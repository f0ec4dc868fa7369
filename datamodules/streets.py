"""Streets: built-in street scenes with Cityscapes' label ids and classes, drawn while they load.

They check that a pipeline learns and evaluates; they rank nothing. Scene k of a split is a function
of (scene seed, split, k) at any size.

    python -m datamodules.streets --out DIR --train 20 --val 5 --size 256x512

writes scenes in Cityscapes' own folder layout, to try on files whatever reads Cityscapes.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np

from datamodules.built_in import BuiltIn
from datamodules.errors import DataError
from datamodules.labels import CITYSCAPES
from datamodules.progress import with_progress
from datamodules.reading.decoding import Size
from datamodules.reading.sources import Memory, Pair
from datamodules.sampling.labeled_part import chosen

FEW = 8  # scenes that are drawn singly
DRAWING = Lock()


class Streets(BuiltIn):
    labels = CITYSCAPES
    name = "streets"
    files_instead = "--data cityscapes for a folder of them"
    least_size = (32, 64)
    caution = (
        "streets check that the pipeline learns and judges; "
        "a score on them ranks nothing and compares with no paper"
    )
    budget = {
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
        counts = {"train": train, "val": val, "test": test}
        self.settle((height, width), counts, ("scene_seed", scene_seed))

    def source(self, split: str) -> Memory:
        count = self.picture_counts[split]
        # those to train on at once, the others when the first validation comes
        title = f"making {count} {split} scenes" if split == "train" else ""
        drawn = Scenes(count, partial(self.drawn, split))
        if title:
            drawn.update(zip(range(count), self.drawn(split, range(count), title)))
        source = Memory((), [scene_name(index) for index in range(count)])
        source.pairs = drawn
        return source

    def drawn(self, split: str, numbers: range, title: str = "") -> list[Pair]:
        """RGB and train ids."""
        from datamodules.scenes.processes import scenes

        pairs = scenes(self.split_seed(split), numbers, self.size, self.threads, title)
        return [(image, self.labels.encode(ids)) for image, ids in pairs]

    def extent(self) -> tuple[int, Size]:
        """Known before a scene is drawn."""
        names = [scene_name(index) for index in range(self.picture_counts["train"])]
        return len(chosen(names, self.labeled) if self.labeled else names), self.size

    def scenes(self, split: str) -> Iterator[Pair]:
        """RGB and label ids, one after another."""
        from datamodules.scenes import scene

        count = self.picture_counts[split]
        for index in with_progress(range(count), f"making {count} {split} scenes"):
            yield scene(self.split_seed(split), index, *self.size)


class Scenes(dict[int, Pair]):
    """Scenes by number, drawn when one is wanted: the first few singly, then all others at once.

    A check before the training looks at a few, and a validation at all.
    """

    def __init__(self, count: int, drawn: Callable[[range], list[Pair]]) -> None:
        super().__init__()
        self.count = count
        self.drawn = drawn

    def __missing__(self, number: int) -> Pair:
        with DRAWING:  # a loader's threads want them at the same time
            if number not in self and len(self) < FEW:
                self[number] = self.drawn(range(number, number + 1))[0]
            elif number not in self:
                every = range(self.count)
                self.update(zip(every, self.drawn(every), strict=True))
            return self[number]


def scene_name(index: int) -> str:
    return f"streets_{index:06d}_000019"


# --- as files


def write(out: Path, data: Streets) -> None:
    """Write Cityscapes' layout beside `out`, and move it there when it is complete."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out} exists and is not an empty folder: nothing was written; give another --out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.partial-", dir=out.parent) as partial:
        root = Path(partial) / out.name
        for split in ("train", "val"):
            for index, pair in enumerate(data.scenes(split)):
                write_scene(root, split, scene_name(index), pair)
        if out.exists():
            out.rmdir()
        root.rename(out)


def write_scene(root: Path, split: str, name: str, pair: Pair) -> None:
    image, ids = pair
    write_png(root / f"leftImg8bit/{split}/streets/{name}_leftImg8bit.png", image[..., ::-1])
    write_png(root / f"gtFine/{split}/streets/{name}_gtFine_labelIds.png", ids)


def write_png(file: Path, pixels: np.ndarray) -> None:
    import cv2

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


def parsed_size(text: str) -> Size:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(
            f"{text} is not a size: write height x width, such as 256x512"
        )
    return int(height), int(width)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.streets",
        allow_abbrev=False,
        description="Write built-in street scenes in Cityscapes' folder layout.",
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="a new or empty folder")
    add("--train", type=int, default=20, help="training scenes (default 20)")
    add("--val", type=int, default=5, help="validation scenes (default 5)")
    add("--size", type=parsed_size, default=(256, 512), help="HEIGHTxWIDTH (default 256x512)")
    add("--seed", type=int, default=0, help="scene seed (default 0)")
    args = parser.parse_args(arguments)
    height, width = args.size
    counts = {"train": args.train, "val": args.val}
    try:
        write(args.out, Streets(height=height, width=width, scene_seed=args.seed, **counts))
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{args.train} train and {args.val} val scenes are in {args.out}: "
        f"use them as Cityscapes with data.root={args.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
