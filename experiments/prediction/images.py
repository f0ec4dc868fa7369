"""Images in, pictures of labels out; reading and writing go on while the network computes."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor

import datamodules
from datamodules.labels import LabelSet
from datamodules.progress import with_progress
from datamodules.sampling.threads import prefetch, write_behind
from experiments.command_line.errors import UserError, as_user_error, quiet
from experiments.command_line.names import known_name
from experiments.command_line.networks import ReleasedCheckpoint
from experiments.drawing.label_images import colored, legend, overlay, save
from experiments.prediction.outputs import IN_COLOR, LEGEND, ONE_CLASS, folder_of, place_of
from experiments.prediction.read_image import (
    Size,
    Unreadable,
    left_out,
    opened,
    refusal,
    size_of,
    tried,
    without_warnings,
)
from experiments.records.trained_networks import options_of, trained
from segmodels.inference import Strips
from segmodels.module import SegmentationModule
from segmodels.prediction import choose_device, predicted_strips, set_inference

BLOCK = 128  # rows whose probabilities exist at one time
THREADS = 4  # that read, and as many that write
EFFORT = (
    2  # of PNG's compression: an overlay takes a fifth of the usual 6's time, and a tenth more room
)
Pictures = dict[str, np.ndarray]  # by kind
Target = tuple[Path, Path]  # an image's file, and what it is called below --out


def predict(
    source: Path | ReleasedCheckpoint, targets: Sequence[Target], kinds: Sequence[str], asked: Any
) -> int:
    """Headers are read before anything is written; each image is read once, and one that is damaged inside stops no other."""
    quiet()
    without_warnings()
    damaged: list[Unreadable] = []
    done = 0
    with as_user_error():
        predictor = Predictor(source, kinds, asked)
        good, sizes = looked_over(targets, damaged)
        if damaged and not (asked.skip_unreadable and good):
            raise refusal(damaged)
        prepare(asked.out, predictor.key if IN_COLOR & set(kinds) else None, good, kinds)
    begun = time.perf_counter()
    with bar("predicting", len(good)) as step, write_behind(THREADS) as later:
        for images, batch in read_ahead(batches(good, sizes, asked.batch), damaged):
            for image, found, (_, name) in zip(images, predictor(images), batch):
                later(write, asked.out, name, image, found, predictor)
            done += len(batch)
            step(len(batch))
    report(predictor, done, time.perf_counter() - begun, asked.out)
    if damaged:
        raise left_out(damaged, len(targets))
    return 0


def report(predictor: "Predictor", done: int, seconds: float, out: Path) -> None:
    if not done:
        return
    places = [out / folder_of(kind) for kind in predictor.kinds] + [out / LEGEND] * bool(
        IN_COLOR & set(predictor.kinds)
    )
    print(f"{done} image{'s' * (done > 1)}: {', '.join(map(str, places))}")
    print(predictor.speed("images", done, seconds), flush=True)


class Predictor:
    """A network ready to use: images of one size in, what the kinds need out."""

    def __init__(self, source: Path | ReleasedCheckpoint, kinds: Sequence[str], asked: Any) -> None:
        device = choose_device(asked.device)  # refused before a checkpoint is read
        self.module = trained(source, model=options_of(source, asked.model))
        self.kinds, self.strength = tuple(kinds), asked.strength
        set_inference(self.module, asked.inference, asked.precision)
        self.classes, self.palette = (
            self.module.identity.classes,
            self.module.identity.palette,
        )
        self.single = {
            kind: self.number_of(kind.removeprefix(ONE_CLASS))
            for kind in kinds
            if kind.startswith(ONE_CLASS)
        }
        self.labels = own_labels(self.module) if "ids" in kinds else None
        self.key = legend(self.classes, self.palette)
        self.passes: list[tuple[int, float]] = []  # (images, seconds)
        self.module.to(device)

    def number_of(self, name: str) -> int:
        return self.classes.index(known_name("class", name, self.classes, ONE_CLASS))

    def __call__(self, images: Sequence[np.ndarray]) -> list[Pictures]:
        """ "label", and of the other kinds those that need the network's probabilities."""
        begun = time.perf_counter()
        with predicted_strips(self.module, images) as strips:
            maps = maps_of(strips, self.kinds, self.single)
        found = {name: each.cpu().numpy() for name, each in maps.items()}
        self.passes.append((len(images), time.perf_counter() - begun))
        return [
            {name: each[number] for name, each in found.items()} for number in range(len(images))
        ]

    def pictures(self, image: np.ndarray, found: Pictures) -> Pictures:
        """Every kind that was asked for; apart from the network, so that threads can make them."""
        label, made = found["label"], dict(found)
        if "ids" in self.kinds:
            made["ids"] = self.labels.decode(label)
        if "color" in self.kinds:
            made["color"] = colored(label, self.palette)
        if "overlay" in self.kinds:
            made["overlay"] = overlay(image, label, self.palette, self.strength)
        return {kind: made[kind] for kind in self.kinds}

    def speed(self, what: str, count: int, seconds: float) -> str:
        """The first pass warms up: it is left out where it was slower than the others."""
        counted = (self.passes, self.passes[1:] or self.passes)
        alone = max(
            sum(images for images, _ in passes) / sum(each for _, each in passes)
            for passes in counted
        )
        return f"{rate(alone)} {what}/s through the network alone, {rate(count / seconds)} with reading and writing ({self.hardware()})"

    def hardware(self) -> str:
        device, threads = self.module.device, torch.get_num_threads()
        return (
            torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"CPU, {threads} thread{'s' * (threads > 1)}"
        )


def rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def own_labels(module: SegmentationModule) -> LabelSet:
    """What the checkpoint's data set calls its classes in its files; a few data sets know it only from their folder."""
    data, count = module.identity.data, len(module.identity.classes)
    known = datamodules.dataset(data) if data in datamodules.names() else None
    labels = getattr(known, "labels", None)
    if isinstance(labels, LabelSet) and list(labels.names) == list(module.identity.classes):
        return labels
    raise UserError(
        f"--kinds ids: the {count} classes of this checkpoint have no other numbers ({data} does not say any); take label"
    )


def maps_of(strips: Strips, kinds: Sequence[str], single: dict[str, int]) -> dict[str, Tensor]:
    """uint8 (B, H, W) each, made in blocks of rows: probabilities never exist at full size."""
    if not {"probability", "entropy", *single} & set(kinds):
        return {"label": strips.argmax(BLOCK)}
    height = strips.size[0]
    blocks = [
        block_of(strips, top, min(top + BLOCK, height), kinds, single)
        for top in range(0, height, BLOCK)
    ]
    return {name: torch.cat([block[name] for block in blocks], 1) for name in blocks[0]}


def block_of(
    strips: Strips, top: int, bottom: int, kinds: Sequence[str], single: dict[str, int]
) -> dict[str, Tensor]:
    rows = strips.rows(top, bottom)  # (B, C, bottom - top, W)
    shares = rows if strips.averaged else rows.softmax(1)
    made = {"label": rows.argmax(1).to(torch.uint8)}
    if "probability" in kinds:
        made["probability"] = byte(shares.amax(1))
    if "entropy" in kinds:
        made["entropy"] = byte(
            torch.special.entr(shares).sum(1) / math.log(max(2, shares.shape[1]))
        )
    return made | {kind: byte(shares[:, number]) for kind, number in single.items()}


def byte(share: Tensor) -> Tensor:
    """0 to 1 as 0 to 255."""
    return (255 * share.float()).round().clamp(0, 255).to(torch.uint8)


# --- files


def looked_over(
    targets: Sequence[Target], damaged: list[Unreadable]
) -> tuple[list[Target], list[Size]]:
    """Targets that look whole, and their sizes; the others join the damaged."""
    seen = with_progress(
        prefetch(tried(size_of), [file for file, _ in targets], THREADS), "looking", len(targets)
    )
    good, sizes = [], []
    for target, size in zip(targets, seen):
        if isinstance(size, Unreadable):
            damaged.append(size)
        else:
            good.append(target)
            sizes.append(size)
    return good, sizes


def batches(targets: Sequence[Target], sizes: Sequence[Size], most: int) -> list[list[Target]]:
    """Images of one size together, at most so many; one by one they keep their order."""
    if most == 1:
        return [[target] for target in targets]
    alike: dict[Size, list[Target]] = {}
    for target, size in zip(targets, sizes):
        alike.setdefault(size, []).append(target)
    return [
        group[start : start + most]
        for group in alike.values()
        for start in range(0, len(group), most)
    ]


def read_ahead(
    groups: Sequence[list[Target]], damaged: list[Unreadable]
) -> Iterator[tuple[list[np.ndarray], list[Target]]]:
    """The images of each group; what turns out damaged joins the damaged, and what has another size than its header said goes apart."""
    images = prefetch(tried(opened), [file for group in groups for file, _ in group], THREADS)
    for group in groups:
        alike: dict[tuple[int, ...], list[tuple[np.ndarray, Target]]] = {}
        for target in group:
            image = next(images)
            if isinstance(image, Unreadable):
                damaged.append(image)
            else:
                alike.setdefault(image.shape, []).append((image, target))
        for together in alike.values():
            yield [image for image, _ in together], [target for _, target in together]


def prepare(
    out: Path, key: Image.Image | None, targets: Sequence[tuple[Any, Path]], kinds: Sequence[str]
) -> None:
    """The folders, and the legend that all pictures below them share."""
    file = out / LEGEND
    if key and file.exists() and not np.array_equal(tried(opened)(file), np.asarray(key)):
        raise UserError(
            f"{file} exists and is no legend of these classes, and is not overwritten; give another --out"
        )
    try:
        for folder in {
            out,
            *(place_of(out, kind, name).parent for _, name in targets for kind in kinds),
        }:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(
            f"{problem.filename} cannot be made ({problem.strerror}); give another --out"
        ) from None
    if key and not file.exists():
        keep(key, file)


def write(out: Path, name: Path, image: np.ndarray, found: Pictures, predictor: Predictor) -> None:
    with as_user_error():
        for kind, picture in predictor.pictures(image, found).items():
            keep(picture, place_of(out, kind, name))


def keep(picture: Image.Image | np.ndarray, file: Path) -> None:
    try:
        save(picture, file, EFFORT)
    except OSError as problem:
        raise UserError(
            f"{file} could not be written ({problem.strerror or problem}); make room, or give another --out"
        ) from problem


# --- what a terminal shows


class Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{rate(task.speed)}/s" if task.speed else "")


@contextmanager
def bar(doing: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """step(n): so many more are done; a bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=total == 1 or not console.is_terminal
    ) as board:
        task = board.add_task(doing, total=total)
        yield lambda count: board.advance(task, count)
