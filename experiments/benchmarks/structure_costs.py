"""Measure memory and time of networks in training and in inference, in turns."""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from typing import Any

import torch
from torch import Tensor

from datamodules.progress import with_progress
from experiments.benchmarks.alternation import take_turns
from experiments.benchmarks.memory import peak_mebibytes
from experiments.command_line.errors import as_user_error, quiet
from experiments.records import provenance
from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, experiment, inference_parameters, macs
from segmodels.prediction import choose_device

CLASSES = 19
CELL = 32  # pixels: the side of the squares of one class in a crop's label


@dataclass
class Cost:
    """What one network costs; times are those of every round."""

    structure: str
    name: str
    parameters: int  # in inference
    macs: int | None
    inference_mib: float = 0.0
    training_mib: float = 0.0
    inference_seconds: list[float] = field(default_factory=list)
    training_seconds: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """A network with its input: a pass from an image to logits, and a step from crops to gradients."""

    module: SegmentationModule
    image: Tensor
    crops: tuple[Tensor, ...]

    def infer(self) -> None:
        self.module.eval()
        with torch.inference_mode():
            self.module.logits(self.image)

    def train(self) -> None:
        self.module.train()
        sum(self.module.losses(self.crops).values()).backward()
        self.module.zero_grad(set_to_none=True)


def measure(args: argparse.Namespace) -> tuple[dict[str, Cost], dict[str, Any]]:
    """Return the cost of every row by its address, and the conditions of the measurement."""
    quiet()
    with as_user_error():
        device = choose_device(args.device, gpus=("cuda",))
    costs = {}
    works = {}
    for name, structure in with_progress(args.rows.items(), "measuring memory"):
        row = experiment(name)
        work = prepared(row, args, device)
        parameters = inference_parameters(row, CLASSES)
        cost = Cost(structure, name, parameters, macs(row, args.size))
        with as_user_error():  # a crop that a network's norms cannot take
            cost.inference_mib = peak_mebibytes(work.infer, device)
            cost.training_mib = peak_mebibytes(work.train, device)
        costs[name], works[name] = cost, work
    rounds = with_progress(range(args.rounds), "timing, round")
    times = take_turns(works, rounds, partial(seconds_of_both, device))
    for name, pairs in times.items():
        costs[name].inference_seconds = [inference for inference, _ in pairs]
        costs[name].training_seconds = [training for _, training in pairs]
    return costs, conditions(args, device)


def prepared(row: Experiment, args: argparse.Namespace, device: str) -> Work:
    """Build a network with fresh weights, its image and its crops; noise in squares of one class."""
    torch.manual_seed(0)
    counted = isinstance(row.recipe.class_weights, str)  # in labels that are not there
    row = row.but(recipe={"class_weights": ()}) if counted else row
    module = row.build(CLASSES).to(device)
    image = torch.randn(1, 3, *args.size, device=device)
    height, width = (module.valid_side(side + 2 * module.margin) for side in args.crop)
    crop = torch.randn(args.batch, 3, height, width, device=device)
    label = squares(args.batch, height, width).to(device)
    crops = (crop, label)
    if module.label_maps:
        crops += (maps_of(module.label_maps, label),)
    return Work(module, module.padded(image), crops)


def squares(batch: int, height: int, width: int) -> Tensor:
    coarse = torch.randint(CLASSES, (batch, -(-height // CELL), -(-width // CELL)))
    label = coarse.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    return label[:, :height, :width].to(torch.uint8)


def maps_of(label_maps: Callable[[Any], dict[str, Any]], label: Tensor) -> dict[str, Tensor]:
    each = [label_maps(one.cpu().numpy()) for one in label]
    return {
        name: torch.stack([torch.from_numpy(maps[name]) for maps in each]).to(label.device)
        for name in each[0]
    }


def seconds_of_both(device: str, work: Work, turn: int) -> tuple[float, float]:
    return seconds(work.infer, device), seconds(work.train, device)


def seconds(work: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def conditions(args: argparse.Namespace, device: str) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else provenance.processor(),
        "device_kind": device,
        "threads": torch.get_num_threads(),
        "size": args.size,
        "crop": args.crop,
        "batch": args.batch,
        "rounds": args.rounds,
        "classes": CLASSES,
        "versions": provenance.versions(),
        "date": date.today().isoformat(),
        "commit": provenance.commit(),
    }
