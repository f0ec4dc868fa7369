"""Predict images of one size with a trained network, and write the pictures of its predictions."""

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.labels import LabelSet
from experiments.command_line.errors import UserError
from experiments.command_line.names import known_name
from experiments.command_line.networks import Checkpoint
from experiments.drawing.label_images import colored, legend, overlay, save
from experiments.prediction.outputs import IN_COLOR, LEGEND, ONE_CLASS
from experiments.prediction.read_image import or_unreadable, read_image
from experiments.records.trained_networks import labels_of, options_of, trained
from experiments.reports.number_formats import plural
from segmodels.inference_modes import Strips, most_likely_classes
from segmodels.module import SegmentationModule
from segmodels.prediction import (
    choose_device,
    predicted_strips,
    prepared,
    set_inference,
    set_runtime,
)

BLOCK = 128  # rows whose probabilities exist at one time
Pictures = dict[str, np.ndarray]  # by kind
Share = Callable[[Tensor], Tensor]


class Predictor:
    """A network ready to use: images of one size in, maps and pictures of its prediction out."""

    def __init__(self, source: Checkpoint, args: argparse.Namespace) -> None:
        choose_device(args.device)  # refused before a checkpoint is read
        self.module = trained(source, model=options_of(source, args.model))
        self.kinds: Sequence[str] = args.kinds
        self.strength = args.strength
        set_inference(self.module, args.inference, args.precision)
        set_runtime(self.module, args.runtime, args.device)
        classes = self.module.identity.classes
        self.palette = self.module.identity.palette
        shares = {kind: share_of(kind, classes) for kind in self.kinds}
        self.shares = {kind: share for kind, share in shares.items() if share}
        self.labels = own_labels(self.module) if "ids" in self.kinds else None
        self.legend = legend(classes, self.palette)
        self.passes: list[tuple[int, float]] = []  # (images, seconds)
        self.module = prepared(self.module)

    def __call__(self, images: Sequence[np.ndarray]) -> list[Pictures]:
        """Of each image "label", and those other kinds that need the network's probabilities."""
        begun = time.perf_counter()
        with predicted_strips(self.module, images) as strips:
            maps = maps_of(strips, self.shares)
        arrays = {kind: tensor.cpu().numpy() for kind, tensor in maps.items()}
        self.passes.append((len(images), time.perf_counter() - begun))
        return [dict(zip(arrays, image_maps)) for image_maps in zip(*arrays.values())]

    def pictures(self, image: np.ndarray, maps: Pictures) -> Pictures:
        """Every kind that is wanted; threads make them while the network computes."""
        label = maps["label"]
        made = dict(maps)
        if "ids" in self.kinds:
            made["ids"] = self.labels.decode(label)
        if "color" in self.kinds:
            made["color"] = colored(label, self.palette)
        if "overlay" in self.kinds:
            made["overlay"] = overlay(image, label, self.palette, self.strength)
        return {kind: made[kind] for kind in self.kinds}

    def count(self) -> int:
        """Images predicted so far."""
        return sum(images for images, _ in self.passes)

    def speed(self, what: str, seconds: float) -> str:
        """The first pass warms up: it is left out where it was slower than the others."""
        alone = max(images_per_second(self.passes), images_per_second(self.passes[1:]))
        device = self.module.device
        hardware = device.type.upper()
        if device.type == "cpu":
            hardware += f", {plural(torch.get_num_threads(), 'thread')}"
        if device.type == "cuda":
            hardware = torch.cuda.get_device_name(device)
        return (
            f"{short(alone)} {what}/s through the network alone, "
            f"{short(self.count() / seconds)} with reading and writing ({hardware})"
        )


def images_per_second(passes: Sequence[tuple[int, float]]) -> float:
    return sum(images for images, _ in passes) / (sum(seconds for _, seconds in passes) or math.inf)


def short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def own_labels(module: SegmentationModule) -> LabelSet:
    """The numbers of the classes in the files of the checkpoint's data set."""
    data = module.identity.data
    classes = list(module.identity.classes)
    labels = labels_of(data)
    if labels and list(labels.names) == classes:
        return labels
    raise UserError(
        f"--kinds ids: the {len(classes)} classes of this checkpoint have no other numbers "
        f"({data} does not say any); take label"
    )


# --- shares that are shown as gray: of probabilities (B, C, H, W), from 0 to 1 (B, H, W)


def share_of(kind: str, classes: Sequence[str]) -> Share | None:
    """What the kind shows of the probabilities, if it shows any."""
    if kind == "probability":
        return likeliest
    if kind == "entropy":
        return entropy
    if not kind.startswith(ONE_CLASS):
        return None
    name = kind.removeprefix(ONE_CLASS)
    known_name("class", name, classes, ONE_CLASS)
    return partial(torch.select, dim=1, index=classes.index(name))


def likeliest(probability: Tensor) -> Tensor:
    return probability.amax(1)


def entropy(probability: Tensor) -> Tensor:
    return torch.special.entr(probability).sum(1) / math.log(max(2, probability.shape[1]))


def maps_of(strips: Strips, shares: Mapping[str, Share]) -> dict[str, Tensor]:
    """uint8 (B, H, W) each, made in blocks of rows: probabilities never exist at full size."""
    if not shares:
        return {"label": strips.argmax(BLOCK)}
    height, _ = strips.size
    blocks: dict[str, list[Tensor]] = defaultdict(list)
    for top in range(0, height, BLOCK):
        rows = strips.rows(top, min(top + BLOCK, height))  # (B, C, rows, W)
        blocks["label"].append(most_likely_classes(rows))
        probability = rows if strips.averaged else rows.softmax(1)
        for kind, share in shares.items():
            levels = 255 * share(probability).float()
            blocks[kind].append(levels.round().clamp(0, 255).to(torch.uint8))
    return {kind: torch.cat(parts, 1) for kind, parts in blocks.items()}


# --- files


def prepare_out(out: Path, predictor: Predictor) -> None:
    """Make the folder, and the legend that all pictures below it share."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / LEGEND
    if not IN_COLOR & set(predictor.kinds):
        return
    if not file.exists():
        write_picture(predictor.legend, file)
    elif not np.array_equal(or_unreadable(read_image)(file), np.asarray(predictor.legend)):
        raise UserError(
            f"{file} exists and is no legend of these classes, and is not overwritten; "
            "give another --out"
        )


def write_picture(picture: Image.Image | np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save(picture, file)
