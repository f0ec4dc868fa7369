"""Measure what a training sample costs, by source, against the code that most people write."""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.benchmarks.alternation import take_turns
from experiments.command_line.errors import UserError
from experiments.command_line.files import check_out, write_json
from experiments.command_line.parser import Number, Subjects, by, count, height_by_width, positive
from experiments.records import provenance
from experiments.reports.number_formats import plural, print_markdown, print_table

if TYPE_CHECKING:  # torch takes seconds, and --help and the stored table must not wait for it
    from torch import Tensor

    from datamodules.reading.sources import Source

    Sample = Callable[[int], tuple[Tensor, Tensor]]

DATA = """\
CPU time of one training sample (scale from 0.5 to 2, crop, flip): the process's own, one thread, in
turns (A B C, C B A, ...). A ratio is the median of the rounds' own ratios to the peer,
and its spread the least and the largest of them.

The peer is torchvision's Cityscapes with albumentations, as its users write it: it decodes, scales
the whole image and label, crops, and hands over normalized floats and int64 labels. Ours hands over
uint8, which the network normalizes on its own device. So the first rows compare what a training has
from either; "both uint8" and "both floats" compare like with like, the peer without its last steps
or ours with them on the CPU, and again with color jitter on both sides. That ours is the same
sample is shown first: the window against scaling the whole image, at most one gray level and no
label apart.

DIR holds Cityscapes (folders or zips); some of its training images are copied to a temporary
folder, as folders, zips and packs. Without DIR, street scenes are drawn at its size and their PNGs
are easier to decode than photographs: those figures say less.
"""
STORED = Path(__file__).parents[1] / "results" / "data_speed.json"
SCALES = tuple(round(0.5 + 0.1 * step, 1) for step in range(16))
FORMS = {
    "folder": "PNG files",
    "zips": "the zips",
    "tiles": "packs of tiles",
    "raw": "raw packs",
}
PACKS = ("tiles", "raw")
JITTER = 0.5  # brightness, contrast and saturation, where both sides have it
PEER = "torchvision + albumentations"
Times = dict[str, dict[str, list[float]]]  # way of measuring -> source -> ms per sample, by round


def add_data(subjects: Subjects) -> None:
    parser = subjects.add_parser(
        "data", help="what a training sample costs, by source", description=DATA
    )
    add = parser.add_argument

    def add_number(flag: str, default: int, meaning: str, kind: Number = positive) -> None:
        add(flag, type=kind, default=default, metavar="N", help=f"{meaning} (default: {default})")

    add("--root", type=Path, metavar="DIR", help="Cityscapes (default: drawn scenes)")
    add_number("--images", 8, "training images to take")
    add(
        "--crop",
        type=height_by_width,
        default="1024x1024",
        metavar="HxW",
        help="default: 1024x1024",
    )
    add_number("--samples", 8, "in each turn")
    add_number("--rounds", 5, "turns of each source")
    add_number("--workers", 2, "also through so many worker processes; 0: not", count)
    add_number("--batch", 4, "through workers")
    add(
        "--cold",
        action="store_true",
        help="also wall time with the files dropped from the page cache before each sample",
    )
    add("--out", type=Path, metavar="FILE", help="a new JSON file with every figure and condition")
    add(
        "--stored",
        action="store_true",
        help="print the table of docs/SPEED.md, as it was measured last; measures nothing",
    )
    parser.set_defaults(run=data, parser=parser)


# --- the samples that are compared


@dataclass(frozen=True)
class Samples:
    """A data set without an end; `files` is what its samples are read from."""

    sample: "Sample"
    files: tuple[Path, ...] = ()

    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def __getitem__(self, number: int) -> "tuple[Tensor, Tensor]":
        return self.sample(number)


def samples_of(folders: Mapping[str, Path], crop: tuple[int, int]) -> dict[str, Samples]:
    """The peer, and ours from every form."""
    made = {PEER: Samples(peer(folders["folder"], crop), files_in(folders["folder"]))}
    for form, folder in folders.items():
        made[FORMS[form]] = Samples(ours(folder, crop), files_in(folder))
    return made


def like_for_like(
    folders: Mapping[str, Path], crop: tuple[int, int]
) -> dict[str, dict[str, Samples]]:
    """{how: samples} where the peer and ours do the same work."""
    made = {}
    for jitter, floats in ((0.0, False), (0.0, True), (JITTER, False), (JITTER, True)):
        how = f"both {'floats' if floats else 'uint8'}{', color jitter' if jitter else ''}"
        made[how] = {PEER: Samples(peer(folders["folder"], crop, jitter, floats))}
        for form in ("folder", *PACKS):
            sample = ours(folders[form], crop, jitter)
            made[how][FORMS[form]] = Samples(as_floats(sample) if floats else sample)
    return made


def files_in(folder: Path) -> tuple[Path, ...]:
    return tuple(file for file in folder.rglob("*") if file.is_file())


def peer(root: Path, crop: tuple[int, int], jitter: float = 0.0, floats: bool = True) -> "Sample":
    """torchvision.datasets.Cityscapes + albumentations, in the usual words."""
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2
    from torchvision.datasets import Cityscapes

    from datamodules.labels import CITYSCAPES

    steps = [
        A.RandomScale((-0.5, 1.0), interpolation=cv2.INTER_LINEAR, p=1.0),
        A.PadIfNeeded(*crop, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=255),
        A.RandomCrop(*crop),
        A.HorizontalFlip(p=0.5),
    ]
    if jitter:
        steps.append(A.ColorJitter(jitter, jitter, jitter, 0.0, p=1.0))
    if floats:
        steps.append(A.Normalize())
    steps.append(ToTensorV2())
    transform = A.Compose(steps, seed=0)
    images = Cityscapes(str(root), split="train", mode="fine", target_type="semantic")

    def sample(number: int) -> "tuple[Tensor, Tensor]":
        image, label = images[number % len(images)]
        made = transform(image=np.asarray(image), mask=CITYSCAPES.table[np.asarray(label)])
        return made["image"], made["mask"].long() if floats else made["mask"]

    return sample


def ours(folder: Path, crop: tuple[int, int], jitter: float = 0.0) -> "Sample":
    import datamodules
    from datamodules.sampling.crops import Crop
    from datamodules.sampling.samples import Crops

    source = datamodules.Cityscapes(folder).open("train")
    crops = Crops(source, Crop(crop, SCALES, jitter=jitter), seed=0)
    return lambda number: crops[number, number % len(crops)]


def as_floats(sample: "Sample") -> "Sample":
    """Normalize on the CPU: a look into 256 floats for each color."""
    import cv2
    import torch

    from segmodels.module import Normalization

    settings = Normalization()
    levels = (np.arange(256)[:, None] / settings.scale - settings.mean) / settings.std  # (256, 3)
    tables = np.ascontiguousarray(levels.T, np.float32)

    def floats(number: int) -> "tuple[Tensor, Tensor]":
        image, label = sample(number)
        # Memory by numpy, because it asks the system for large pages and torch does not.
        made = np.empty(image.shape, np.float32)
        planes = cv2.split(image.permute(1, 2, 0).numpy())  # (3, H, W) -> (H, W, 3)
        for plane, table, target in zip(planes, tables, made):
            cv2.LUT(plane, table, dst=target)
        return torch.from_numpy(made), torch.from_numpy(label.numpy().astype(np.int64))

    return floats


# --- a small Cityscapes in every form


@contextmanager
def every_form(args: argparse.Namespace) -> Iterator[dict[str, Path]]:
    """Temporary folders with the same images, one for each of FORMS."""
    with tempfile.TemporaryDirectory(prefix="data-speed-") as place:
        folders = {name: Path(place) / name for name in FORMS}
        folder = folders["folder"]
        copy_images(args, folder)
        folders["zips"].mkdir()
        for kind in ("leftImg8bit", "gtFine"):
            with zipfile.ZipFile(folders["zips"] / f"{kind}_trainvaltest.zip", "w") as archive:
                for file in sorted((folder / kind).rglob("*.png")):
                    archive.write(file, file.relative_to(folder))
        for form in PACKS:
            pack = f"-m experiments.pack --data cityscapes --splits train --form {form} --out"
            arguments = [*pack.split(), str(folders[form]), f"data.root={folder}"]
            if subprocess.run([sys.executable, *arguments]).returncode:
                raise UserError(f"the images could not be packed as {form}")
        yield folders


def copy_images(args: argparse.Namespace, folder: Path) -> None:
    import datamodules
    from datamodules.streets import Streets, write

    if not args.root:
        return write(folder, Streets(height=1024, width=2048, train=args.images, val=1))
    source = datamodules.Cityscapes(args.root).open("train")
    targets = ("leftImg8bit/train/{}/{}_leftImg8bit.png", "gtFine/train/{}/{}_gtFine_labelIds.png")
    for pair, name in list(zip(source.pairs, source.names))[: args.images]:
        for path, target in zip(pair, targets):
            file = folder / target.format(name.split("_")[0], name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source.read(path))


# --- both take the same sample


def max_difference(source: "Source", crop: tuple[int, int], count: int) -> tuple[int, int]:
    """Compare windows with scaling the whole image and cropping then.

    Returns the largest difference in gray levels, and how many labels differ.
    """
    import cv2

    from datamodules.sampling.crops import Crop, choose, draw
    from datamodules.sampling.samples import cut

    def scaled_whole(array: np.ndarray, interpolation: int) -> np.ndarray:
        whole = cv2.resize(array, window.scaled[::-1], interpolation=interpolation)
        part = whole[window.top :, window.left :][: window.height, : window.width]
        return part[:, ::-1] if window.flip else part

    levels = labels = 0
    for number in range(count):
        index = number % len(source)
        image, label = source.window(index)
        window = choose(Crop(crop, SCALES), label.shape, draw(0, number))
        our_image, our_label = cut(source, index, window)
        difference = np.abs(our_image.astype(int) - scaled_whole(image, cv2.INTER_LINEAR))
        levels = max(levels, int(difference.max()))
        labels += int((our_label != scaled_whole(label, cv2.INTER_NEAREST)).sum())
    return levels, labels


# --- the clock: milliseconds per sample


def time_samples(count: int, cold: bool, samples: Samples, turn: int) -> float:
    """CPU time of other samples in every turn.

    `cold`: wall time, and before each sample the system is told to forget the files, which is not
    timed.
    """
    clock = time.perf_counter if cold else time.process_time
    seconds = 0.0
    for number in range(turn * count, (turn + 1) * count):
        if cold:
            forget(samples.files)
        begun = clock()
        samples.sample(number)
        seconds += clock() - begun
    return 1000 * seconds / count


def forget(files: tuple[Path, ...]) -> None:
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def worker_time(samples: Samples, workers: int, batch: int, stock: bool) -> float:
    """CPU time of this process and of its workers.

    It is that of many batches, less that of few, so that starting costs nothing. The peer (`stock`)
    has torch's DataLoader and its processes, ours the loader and threads that training has.
    """
    import torch
    from torch.utils.data import DataLoader

    from datamodules.sampling.loader import Loader

    def spent(batches: int) -> float:
        before = total_cpu_time()
        order = [range(number * batch, (number + 1) * batch) for number in range(batches)]
        loader = Loader(samples, order, workers)
        if stock:
            loader = DataLoader(
                samples,
                batch_sampler=order,
                num_workers=workers,
                worker_init_fn=lambda _: torch.set_num_threads(1),
            )
        for _ in loader:
            pass
        return total_cpu_time() - before

    few = workers
    many = 7 * workers
    start = spent(few)
    while (work := spent(many) - start) <= 0:  # lost in what starting costs: ask for more of it
        few, many = many, 2 * many
        start += work
    return 1000 * work / ((many - few) * batch)


def total_cpu_time() -> float:
    """Seconds of this process, its threads, and its processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure(
    sources: dict[str, Samples],
    alike: dict[str, dict[str, Samples]],
    args: argparse.Namespace,
) -> Times:
    rounds = range(args.rounds)
    warm = partial(time_samples, args.samples, False)
    times = {}
    for how, group in {"one process": sources, **alike}.items():
        for each in group.values():  # what is done only at first does not belong to a sample
            for number in range(args.images):
                each.sample(number)
        times[how] = take_turns(group, rounds, warm)
    if args.workers:

        def through_workers(samples: Samples, turn: int) -> float:
            return worker_time(samples, args.workers, args.batch, stock=samples is sources[PEER])

        chosen = {name: each for name, each in sources.items() if name != FORMS["zips"]}
        times[f"{args.workers} workers"] = take_turns(chosen, rounds, through_workers)
    if args.cold:
        cold = partial(time_samples, min(args.samples, 4), True)
        times["cold, wall time"] = take_turns(sources, rounds, cold)
    return times


# --- the measurement


def data(args: argparse.Namespace) -> int:
    if args.stored:
        result = json.loads(STORED.read_text())
        print_markdown(COLUMNS, rows(result["milliseconds"]))
        print(f"\n{caption(result)}")
        return 0
    if args.out:
        check_out(args.out)
    result = compare(args)
    print_table(COLUMNS, rows(result["milliseconds"]))
    print(caption(result))
    if args.out:
        write_json(args.out, result)
        print(f"result       {args.out}")
    return 0


def compare(args: argparse.Namespace) -> dict[str, Any]:
    import cv2
    import torch

    import datamodules
    from datamodules.reading.png import codecs

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with every_form(args) as folders:
        tiles = datamodules.Cityscapes(folders["tiles"]).open("train")
        levels, labels = max_difference(tiles, args.crop, 24)
        print(
            "24 windows against scaling whole images: at most "
            f"{plural(levels, 'gray level')} and {labels} labels apart"
        )
        if levels > 1 or labels:
            raise UserError("these are not the same samples, so nothing was timed")
        sources = samples_of(folders, args.crop)
        times = measure(sources, like_for_like(folders, args.crop), args)
        sizes = {form: sources[name].bytes() for form, name in FORMS.items()}
    conditions = {
        "images": f"{args.images} {'of Cityscapes' if args.root else 'drawn scenes'}",
        "crop": args.crop,
        "scales": SCALES,
        "jitter": JITTER,
        "samples": args.samples,
        "rounds": args.rounds,
        "batch": args.batch,
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "decoder": "imagecodecs" if codecs() else "OpenCV (imagecodecs would be faster)",
        "date": date.today().isoformat(),
        "commit": provenance.commit(),
        "load": os.getloadavg()[0],
    }
    return {
        "conditions": conditions,
        "milliseconds": times,
        "bytes": {form: size / sizes["folder"] for form, size in sizes.items()},
        "apart": [levels, labels],
    }


# --- the table

COLUMNS = {
    "how": "left",
    "source": "left",
    "ms per sample": "right",
    "times as fast": "right",
    "spread": "right",
}


def rows(times: Times) -> Iterator[list[str]]:
    """The cells of each row, in the order of COLUMNS."""
    for how, sources in times.items():
        for name, own in sources.items():
            ratios = [peers / each for peers, each in zip(sources[PEER], own)]
            spread = "" if name == PEER else f"{min(ratios):.1f} .. {max(ratios):.1f}"
            yield [how, name, f"{median(own):.1f}", f"{median(ratios):.1f}", spread]


CAPTION = (
    "CPU time of one sample (wall time where cold), crops of {size}, scales {scales[0]} to "
    "{largest}, without color but where a row says so; {rounds} alternated rounds of {samples}, one "
    "thread, batches of {batch} through workers; {images}; {hardware}, load {load:.0f}; PNGs by "
    "{decoder}. A ratio is the median of the rounds' own. Bytes to the PNGs': {sizes}. {date}, "
    "commit {commit}."
)


def caption(result: dict[str, Any]) -> str:
    """The conditions of a measurement, in a paragraph."""
    about = result["conditions"]
    sizes = ", ".join(f"{name} {share:.2f}" for name, share in result["bytes"].items())
    size = by(about["crop"])
    largest = about["scales"][-1]
    return CAPTION.format(**about, size=size, largest=largest, sizes=sizes)
