"""`benchmark.py data`: what a training sample costs, from each source, against the code that most people write."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from experiments.command_line.errors import UserError
from experiments.command_line.files import check_out
from experiments.command_line.parser import height_by_width, positive
from experiments.reports.terminal import console

DATA = """\
CPU time of one training sample (scale from 0.5 to 2, crop, flip; no color): the process's own, one thread, in turns (A B C, C B A, ...).
A ratio is the median of the rounds' own ratios to the peer, and its spread the least and the largest of them.

The peer is torchvision's Cityscapes with albumentations, as its users write it: it decodes, scales the whole image and label, crops, and
hands over normalized floats and int64 labels. Ours hands over uint8, which the network normalizes on its own device; "as floats" adds
that work on the CPU, for a like-for-like figure. That ours is the same sample is shown first: the window against scaling the whole image,
at most one gray level and no label apart.

DIR holds Cityscapes (folders or zips); some of its training images are copied to a temporary folder, as folders, zips and packs. Without
DIR, street scenes are drawn at its size and their PNGs are easier to decode than photographs: those figures say less.
"""
STORED = Path(__file__).parents[1] / "results" / "feeding.json"
SCALES = tuple(round(0.5 + 0.1 * step, 1) for step in range(16))


def add_data(subjects: Any) -> None:
    made = subjects.add_parser(
        "data", help="what a training sample costs, by source", description=DATA
    )
    add = made.add_argument
    add("--root", type=Path, metavar="DIR", help="Cityscapes (default: drawn scenes)")
    add(
        "--images",
        type=positive,
        default=8,
        metavar="N",
        help="training images to take (default: 8)",
    )
    add(
        "--crop",
        type=height_by_width,
        default=(1024, 1024),
        metavar="HxW",
        help="default: 1024x1024",
    )
    add("--samples", type=positive, default=8, metavar="N", help="in each turn (default: 8)")
    add("--rounds", type=positive, default=5, metavar="N", help="turns of each source (default: 5)")
    add(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="also through so many worker processes; 0: not (default: 2)",
    )
    add("--batch", type=positive, default=4, metavar="N", help="through workers (default: 4)")
    add(
        "--cold",
        action="store_true",
        help="also wall time with the files dropped from the page cache before each sample",
    )
    add("--out", type=Path, metavar="FILE", help="a new JSON file with every figure and condition")
    add(
        "--stored",
        action="store_true",
        help="the README's table, of the measurement that the repository holds; measures nothing",
    )
    made.set_defaults(run=data, parser=made)


def data(words: argparse.Namespace) -> int:
    if words.stored:
        return as_markdown(json.loads(STORED.read_text()))
    if words.out:
        check_out(words.out)
    return measured(words)


# --- what is compared


@dataclass(frozen=True)
class Feed:
    """Something that makes sample number k; `files` is what it reads."""

    name: str
    sample: Callable[[int], Any]
    files: tuple[Path, ...] = ()
    stock: bool = False  # goes through torch's own loader


def peer(root: Path, crop: tuple[int, int]) -> Callable[[int], Any]:
    """torchvision.datasets.Cityscapes + albumentations, in the usual words."""
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2
    from torchvision.datasets import Cityscapes

    from datamodules.labels import CITYSCAPES

    transform = A.Compose([
        A.RandomScale((-0.5, 1.0), interpolation=cv2.INTER_LINEAR, p=1.0),
        A.PadIfNeeded(*crop, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=255),
        A.RandomCrop(*crop),
        A.HorizontalFlip(p=0.5),
        A.Normalize(),
        ToTensorV2(),
    ], seed=0)  # fmt: skip
    images = Cityscapes(str(root), split="train", mode="fine", target_type="semantic")

    def sample(number: int) -> Any:
        image, label = images[number % len(images)]
        made = transform(image=np.asarray(image), mask=CITYSCAPES.table[np.asarray(label)])
        return made["image"], made["mask"].long()

    return sample


def ours(source: Any, crop: tuple[int, int]) -> Callable[[int], Any]:
    from datamodules.sampling.crops import Crop
    from datamodules.sampling.samples import Crops

    crops = Crops(source, Crop(crop, SCALES), seed=0)
    return lambda number: crops[number, number % len(crops)]


def as_floats(sample: Callable[[int], Any]) -> Callable[[int], Any]:
    """A look into 256 floats for each color. numpy makes the room, because it asks the system for large pages and torch does not."""
    import cv2
    import torch

    from segmodels.module import Normalization

    settings = Normalization()
    levels = (np.arange(256)[:, None] / settings.scale - settings.mean) / settings.std  # (256, 3)
    tables = np.ascontiguousarray(levels.T, np.float32)

    def floats(number: int) -> Any:
        image, label = sample(number)
        made = np.empty(image.shape, np.float32)
        for plane, table, room in zip(cv2.split(image.permute(1, 2, 0).numpy()), tables, made):
            cv2.LUT(plane, table, dst=room)
        return torch.from_numpy(made), torch.from_numpy(label.numpy().astype(np.int64))

    return floats


# --- a small Cityscapes in every form


@contextmanager
def forms(words: argparse.Namespace) -> Iterator[dict[str, Path]]:
    """Folders with the images in four forms."""
    with tempfile.TemporaryDirectory(prefix="feeding-") as place:
        folders = {name: Path(place) / name for name in ("folder", "zips", "tiles", "raw")}
        unpacked(words, folders["folder"])
        folders["zips"].mkdir()
        for kind in ("leftImg8bit", "gtFine"):
            with zipfile.ZipFile(folders["zips"] / f"{kind}_trainvaltest.zip", "w") as archive:
                for file in sorted((folders["folder"] / kind).rglob("*.png")):
                    archive.write(file, file.relative_to(folders["folder"]))
        for form in ("tiles", "raw"):
            command = [
                sys.executable,
                "-m",
                "experiments.pack",
                "--data",
                "cityscapes",
                f"data.root={folders['folder']}",
                "--out",
                str(folders[form]),
                "--form",
                form,
            ]
            if subprocess.run([*command, "--splits", "train"]).returncode:
                raise UserError(f"the images could not be packed as {form}")
        yield folders


def unpacked(words: argparse.Namespace, folder: Path) -> None:
    import datamodules

    if not words.root:
        from datamodules.streets import write

        return write(folder, {"train": words.images, "val": 1}, (1024, 2048))
    source = datamodules.Cityscapes(words.root).open("train")
    for (image, label), name in list(zip(source.pairs, source.names))[: words.images]:
        for path, kind, ending in (
            (image, "leftImg8bit", "leftImg8bit"),
            (label, "gtFine", "gtFine_labelIds"),
        ):
            file = folder / kind / "train" / name.split("_")[0] / f"{name}_{ending}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source.read(path))


def feeds(folders: dict[str, Path], crop: tuple[int, int]) -> list[Feed]:
    import datamodules

    sources = {
        name: datamodules.Cityscapes(folder).open("train") for name, folder in folders.items()
    }
    names = {
        "folder": "PNG files",
        "zips": "the zips",
        "tiles": "packs of tiles",
        "raw": "raw packs",
    }
    files = {
        name: tuple(file for file in folder.rglob("*") if file.is_file())
        for name, folder in folders.items()
    }
    rows = [
        Feed(
            "torchvision + albumentations",
            peer(folders["folder"], crop),
            files["folder"],
            stock=True,
        )
    ]
    rows += [Feed(names[name], ours(source, crop), files[name]) for name, source in sources.items()]
    return rows + [
        Feed(f"{names[name]}, as floats", as_floats(ours(sources[name], crop)), files[name])
        for name in ("tiles", "raw")
    ]


# --- that it is the same sample


def apart(source: Any, crop: tuple[int, int], samples: int) -> tuple[int, int]:
    """The largest difference in gray levels, and the number of labels that differ, from scaling the whole image and cropping then."""
    import cv2

    from datamodules.sampling.crops import Crop, choose, cut, draw

    levels = labels = 0
    for number in range(samples):
        image, label = source.window(number % len(source))
        window = choose(Crop(crop, SCALES), label.shape, draw(0, number))
        size = window.scaled[::-1]
        place = (
            slice(window.top, window.top + window.height),
            slice(window.left, window.left + window.width),
        )
        whole, wide = (
            cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)[place],
            cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)[place],
        )
        if window.flip:
            whole, wide = whole[:, ::-1], wide[:, ::-1]
        found, numbers = cut(source, number % len(source), window)
        levels = max(levels, int(np.abs(found.astype(int) - whole).max()))
        labels += int((numbers != wide).sum())
    return levels, labels


# --- the clock


def turns(
    rows: Sequence[Feed], rounds: int, lap: Callable[[Feed, int], float]
) -> dict[str, list[float]]:
    """Milliseconds per sample in each round; every other round goes backwards."""
    found: dict[str, list[float]] = {row.name: [] for row in rows}
    for turn in range(rounds):
        for row in rows if turn % 2 == 0 else rows[::-1]:
            found[row.name].append(lap(row, turn))
    return found


def alone(samples: int) -> Callable[[Feed, int], float]:
    def lap(row: Feed, turn: int) -> float:
        started = time.process_time()
        for number in range(turn * samples, (turn + 1) * samples):
            row.sample(number)
        return 1000 * (time.process_time() - started) / samples

    return lap


def cold(samples: int) -> Callable[[Feed, int], float]:
    """Wall time; before each sample the system is told to forget the files."""

    def lap(row: Feed, turn: int) -> float:
        total = 0.0
        for number in range(turn * samples, (turn + 1) * samples):
            for file in row.files:
                forget(file)
            started = time.perf_counter()
            row.sample(number)
            total += time.perf_counter() - started
        return 1000 * total / samples

    return lap


def forget(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


class Samples:
    """A feed as a data set of so many samples."""

    def __init__(self, sample: Callable[[int], Any], count: int) -> None:
        self.sample, self.count = sample, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        return self.sample(number)


def through_workers(words: argparse.Namespace) -> Callable[[Feed, int], float]:
    """CPU time of this process and of its workers: of many batches, less that of few, so that starting costs nothing. The peer has
    the stock DataLoader and its processes, ours the loader and threads that training has."""
    import torch
    from torch.utils.data import DataLoader

    from datamodules.sampling.loader import Loader

    def spent(row: Feed, batches: int) -> float:
        before, samples = total(), Samples(row.sample, batches * words.batch)
        loader = (
            stock(samples) if row.stock else Loader(samples, [*chunks(len(samples))], words.workers)
        )
        for _ in loader:
            pass
        del loader
        return total() - before

    def stock(samples: Samples) -> DataLoader:
        return DataLoader(
            samples,
            batch_size=words.batch,
            num_workers=words.workers,
            worker_init_fn=lambda _: torch.set_num_threads(1),
        )

    def chunks(count: int) -> Iterator[range]:
        return (range(first, first + words.batch) for first in range(0, count, words.batch))

    def lap(row: Feed, turn: int) -> float:
        few, many = words.workers, 7 * words.workers
        start = spent(row, few)
        while (
            work := spent(row, many) - start
        ) <= 0:  # lost in what starting costs: ask for more of it
            few, many, start = many, 2 * many, work + start
        return 1000 * work / ((many - few) * words.batch)

    return lap


def total() -> float:
    """Seconds of this process, its threads, and its processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


# --- the whole


def measured(words: argparse.Namespace) -> int:
    import cv2
    import torch

    from experiments.command_line import files as files_module
    from experiments.records import provenance

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with forms(words) as folders:
        rows = feeds(folders, words.crop)
        import datamodules

        levels, labels = apart(
            datamodules.Cityscapes(folders["tiles"]).open("train"), words.crop, 24
        )
        print(
            f"24 windows against scaling whole images: at most {levels} gray level{'s' * (levels != 1)} and {labels} labels apart"
        )
        if levels > 1 or labels:
            raise UserError("these are not the same samples, so nothing was timed")
        png = sum(file.stat().st_size for file in rows[0].files)
        sizes = {
            name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / png
            for name, folder in folders.items()
        }
        for row in rows:  # every image once: what is done only at first does not belong to a sample
            for number in range(words.images):
                row.sample(number)
        found = {"one process": turns(rows, words.rounds, alone(words.samples))}
        if words.workers:
            chosen = [row for row in rows if "floats" not in row.name and "zips" not in row.name]
            found[f"{words.workers} workers"] = turns(chosen, words.rounds, through_workers(words))
        if words.cold:
            found["cold, wall time"] = turns(
                [row for row in rows if "floats" not in row.name],
                words.rounds,
                cold(min(words.samples, 4)),
            )
    table(found)
    print(
        "bytes to the PNGs': " + ", ".join(f"{name} {share:.2f}" for name, share in sizes.items())
    )
    conditions = {
        "images": str(words.images) + (" of Cityscapes" if words.root else " drawn scenes"), "crop": list(words.crop), "scales": SCALES,
        "samples": words.samples, "rounds": words.rounds, "batch": words.batch, "hardware": provenance.hardware(), "versions": provenance.versions(),
        "decoder": decoder(), "date": date.today().isoformat(), "commit": provenance.commit(), "load": os.getloadavg()[0],
    }  # fmt: skip
    print(
        f"{conditions['images']}; {conditions['hardware']}; load {conditions['load']:.1f}; PNGs by {conditions['decoder']}"
    )
    if words.out:
        files_module.write_json(
            words.out,
            {
                "conditions": conditions,
                "milliseconds": found,
                "bytes": sizes,
                "apart": [levels, labels],
            },
        )
        print(f"result       {words.out}")
    return 0


def decoder() -> str:
    from datamodules.reading.png import codecs

    return "imagecodecs" if codecs() else "OpenCV (imagecodecs would be faster)"


HEADS = ("how", "source", "ms per sample", "times as fast", "spread")


def cells(found: dict[str, dict[str, list[float]]]) -> Iterator[tuple[str, ...]]:
    for how, rows in found.items():
        first = next(iter(rows.values()))
        for name, laps in rows.items():
            ratios = [theirs / own for theirs, own in zip(first, laps)]
            spread = f"{min(ratios):.1f} .. {max(ratios):.1f}" if laps is not first else ""
            yield (
                how,
                name,
                f"{statistics.median(laps):.1f}",
                f"{statistics.median(ratios):.1f}",
                spread,
            )


def table(found: dict[str, dict[str, list[float]]]) -> None:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for head in HEADS:
        shown.add_column(head, justify="left" if head in ("how", "source") else "right")
    for row in cells(found):
        shown.add_row(*row)
    console().print(shown)


def as_markdown(stored: dict[str, Any]) -> int:
    said = stored["conditions"]
    for line in (HEADS, ["---", "---", "--:", "--:", "--:"], *cells(stored["milliseconds"])):
        print("| " + " | ".join(line) + " |")
    sizes = ", ".join(f"{name} {share:.2f}" for name, share in stored["bytes"].items())
    height, width = said["crop"]
    print(
        f"\nCPU time of one sample (wall time where cold), crops of {height}x{width}, scales {said['scales'][0]} to {said['scales'][-1]}, "
        f"without color; {said['rounds']} alternated rounds of {said['samples']}, one thread, batches of {said['batch']} through workers; "
        f"{said['images']}; {said['hardware']}, load {said['load']:.0f}; PNGs by {said['decoder']}. A ratio is the median of the rounds' "
        f"own. Bytes to the PNGs': {sizes}. {said['date']}, commit {said['commit']}."
    )
    return 0
