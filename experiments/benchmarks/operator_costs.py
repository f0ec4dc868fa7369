"""Measure memory and time of the operators of attention alone, in turns, on maps of several sizes."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from datamodules.progress import with_progress
from experiments.benchmarks.alternation import take_turns
from experiments.benchmarks.memory import peak_mebibytes
from experiments.benchmarks.structure_costs import CLASSES, seconds
from experiments.command_line.errors import UserError, as_user_error, quiet
from experiments.records import provenance
from segmodels.families.common import CHANNELS
from segmodels.families.dilated import Around
from segmodels.paper import experiment
from segmodels.prediction import choose_device

Size = tuple[int, int]


@dataclass
class Cost:
    """What one operator costs; lists have one entry for each size of the map."""

    name: str
    parameters: int
    macs: list[int]
    mib: list[float] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)  # by size, those of every round

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """An operator and its map."""

    operator: nn.Module
    x: Tensor

    def run(self) -> None:
        with torch.inference_mode():
            self.operator(self.x)


def measure(args: argparse.Namespace) -> tuple[dict[str, Cost], dict[str, Any]]:
    """Return the cost of every row's operator by address, and the conditions."""
    quiet()
    with as_user_error():
        device = choose_device(args.device, gpus=("cuda",))
    costs = {}
    works = {}
    for name in with_progress(args.rows, "measuring memory"):
        torch.manual_seed(0)
        operator = operator_of(name).to(device)
        parameters = sum(each.numel() for each in operator.parameters())
        costs[name] = Cost(name, parameters, macs_of(name, args.sizes))
        for size in args.sizes:
            work = Work(operator, torch.randn(1, CHANNELS, *size, device=device))
            costs[name].mib.append(peak_mebibytes(work.run, device))
            works[name, size] = work
    rounds = with_progress(range(args.rounds), "timing, round")
    times = take_turns(works, rounds, partial(seconds_of, device))
    for (name, _), measured in times.items():
        costs[name].seconds.append(measured)
    return costs, conditions(args, device)


def operator_of(name: str, device: str | None = None) -> nn.Module:
    network = experiment(name).build(CLASSES, device).eval()
    context = getattr(network, "context", None)
    if not isinstance(context, Around):
        raise UserError(
            f'{name} has no operator between convolutions, as rows "common" have; '
            "python experiments/run.py --list names them"
        )
    return context.operator


def macs_of(name: str, sizes: Sequence[Size]) -> list[int]:
    """Count the multiply-accumulates of convolutions and matrix products at every size."""
    operator = operator_of(name, "meta")
    counts = []
    for size in sizes:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            operator(torch.zeros(1, CHANNELS, *size, device="meta"))
        counts.append(counter.get_total_flops() // 2)
    return counts


def seconds_of(device: str, work: Work, turn: int) -> float:
    return seconds(work.run, device)


def conditions(args: argparse.Namespace, device: str) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else provenance.processor(),
        "device_kind": device,
        "threads": torch.get_num_threads(),
        "sizes": args.sizes,
        "channels": CHANNELS,
        "rounds": args.rounds,
        "versions": provenance.versions(),
        "date": date.today().isoformat(),
        "commit": provenance.commit(),
    }


# --- growth


def growth(figures: Sequence[float], sizes: Sequence[Size]) -> float:
    """Return the power of the number of pixels that the figures grow with, first size to last.

    1 is linear, 2 quadratic.
    """
    pixels = [height * width for height, width in (sizes[0], sizes[-1])]
    return math.log(figures[-1] / figures[0]) / math.log(pixels[1] / pixels[0])


def growth_of_both(cost: Cost, sizes: Sequence[Size]) -> Mapping[str, float]:
    times = [median(each) for each in cost.seconds]
    return {"memory": growth(cost.mib, sizes), "time": growth(times, sizes)}
