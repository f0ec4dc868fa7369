"""Time networks beside each other, in turns, after showing that a fast form computes the same."""

import argparse
import copy
import itertools
import math
import statistics
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.progress import with_progress
from experiments.benchmarks.alternation import take_turns
from experiments.benchmarks.memory import MIB, peak_mebibytes
from experiments.command_line.catalogue import counted_at
from experiments.command_line.errors import UserError, as_user_error, quiet
from experiments.command_line.networks import ReleasedCheckpoint
from experiments.command_line.parser import by
from experiments.records import provenance
from experiments.records.trained_networks import trained
from segmodels.deploy import (
    LIMIT,
    Deployed,
    compiled_whole,
    difference_to_plain,
    folded_logits,
    settle_batch_norm,
)
from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, experiment
from segmodels.prediction import choose_device

WARM_UP = 3  # passes at the least, and a tenth of the time that is measured
SETTLED_AT = (128, 256)
DTYPES = {"32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16}
TIMED = {
    "logits": "the network's own output, at its own resolution",
    "full": "logits at the image's size: one bilinear upsampling, "
    "in float32 unless the weights are float64",
    "label": "the class of each pixel: logits at the image's size and their argmax",
}
STORED = (
    "name",
    "size",
    "problem",
    "experiment",
    "model",
    "released",
    "port",
    "difference",
    "limit",
    "warm_up",
    "published",
)
OPTIONS = (
    "what",
    "batch",
    "precision",
    "folded",
    "channels_last",
    "compile",
    "rounds",
    "seconds",
)
CLOCKS = {
    "cuda": "CUDA events around each pass; the device is waited for at the end of a turn",
    "cpu": "wall clock around each pass",
}


@dataclass
class Network:
    """A network while it is measured; the names in STORED are its stored result."""

    name: str
    size: tuple[int, int]
    problem: str | None = None  # why it was not timed
    experiment: str = ""  # "paper/row"
    model: Mapping[str, Any] = field(default_factory=dict)  # options that a run changed
    released: str | None = None  # the layout of an authors' checkpoint
    port: bool = False  # of another code line, so another network than the row's
    difference: float | None = None  # of the fast form; None where the plain network is timed
    limit: float | None = None
    warm_up: int = 0  # passes
    published: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)  # none where there is a problem

    module: SegmentationModule | None = None  # None: a row, built with fresh weights in its turn
    work: Callable[[], object] | None = None  # one pass
    passes: int = 0  # in each round
    rounds: list[list[float]] = field(default_factory=list)  # milliseconds of each pass
    peak_mib: dict[str, float] | None = None

    def fail(self, problem: Exception) -> None:
        reason = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        self.problem = f"cannot run at {by(self.size)}: {reason}"

    def as_dict(self) -> dict[str, Any]:
        """The stored result and its figures side by side, for JSON."""
        return {name: getattr(self, name) for name in STORED} | self.figures


# --- the networks


def open_networks(
    sources: Sequence[str | Path | ReleasedCheckpoint], size: tuple[int, int] | None
) -> list[Network]:
    """Read every checkpoint before anything is timed; rows are not built yet."""
    with as_user_error():
        return [
            of_row(source, size) if isinstance(source, str) else of_checkpoint(source, size)
            for source in sources
        ]


def of_row(address: str, size: tuple[int, int] | None) -> Network:
    row = experiment(address)
    return Network(
        row.name, size or counted_at(row), experiment=row.name, published=published_speed(row)
    )


def published_speed(row: Experiment) -> list[dict[str, Any]]:
    return [asdict(each) for each in row.published_speed]


def of_checkpoint(source: Path | ReleasedCheckpoint, size: tuple[int, int] | None) -> Network:
    """A checkpoint, by default at the size that its recipe is evaluated at.

    A network changed on the command line, and that of another code line, have no published speed.
    """
    module = trained(source)
    identity = module.identity
    released = identity.released
    row = evaluated = experiment(identity.experiment)
    is_rows_own = not identity.port
    if identity.port and not size:
        raise UserError(
            f"{source}: {released} is no row of a paper, which would say at what size it is "
            "evaluated; give --size HEIGHTxWIDTH"
        )
    if not released:
        evaluated = replace(row, data=identity.data, recipe=module.recipe)
        is_rows_own = dict(identity.model) == dict(row.model)
    return Network(
        f"released:{released}" if released else f"{row.name} ({source})",
        size or counted_at(evaluated),
        experiment=row.name,
        model={
            name.removeprefix("model."): value
            for name, value in identity.overrides.items()
            if name.startswith("model.")
        },
        released=released,
        port=identity.port,
        published=published_speed(row) if is_rows_own else [],
        module=module,
    )


def fresh(row: Experiment) -> SegmentationModule:
    """Running statistics of noise: under those of a new network folding would change nothing."""
    torch.manual_seed(0)
    module = row.build()
    settle_batch_norm(module, SETTLED_AT)
    return module


def prepare(network: Network, args: argparse.Namespace, device: str) -> None:
    """Build a network, show that its fast form is equal, warm it up.

    One that fails must not hide the others.
    """
    try:
        network.problem = make_ready(network, args, device)
    except Exception as problem:
        network.fail(problem)
    network.module = None


def make_ready(network: Network, args: argparse.Namespace, device: str) -> str | None:
    """Returns why the network may not be timed."""
    module = network.module or fresh(experiment(network.name))
    module = module.eval().requires_grad_(False).to(device)
    module.to(memory_format=torch.contiguous_format)  # a run's checkpoint may be otherwise
    noise = torch.Generator().manual_seed(0)
    image = torch.randn(args.batch, 3, *network.size, generator=noise).to(device)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    logits = folded_logits(module, image) if args.folded else None
    form = Deployed(module, args.what, logits)
    if args.folded or args.channels_last or args.compile:
        form = copy.deepcopy(form).to(memory_format=layout)
        network.difference, network.limit = difference_to_plain(
            form, module, image, args.compile, layout
        )
        if not network.difference <= network.limit:  # so that NaN does not pass
            return (
                f"not timed, it differs from the plain network by {network.difference:.1e} "
                f"(allowed: {network.limit:.1e})"
            )
    number, _, kind = args.precision.partition("-")
    if kind == "true":
        form = form.to(DTYPES[number])
        image = image.to(DTYPES[number])
    image = image.contiguous(memory_format=layout)

    @torch.inference_mode()
    @torch.autocast(device, DTYPES[number], enabled=kind == "mixed")
    def run(forward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return forward(image)

    def own_logits(image: torch.Tensor) -> torch.Tensor:
        return form.network(module.padded(image))

    if not run(own_logits).isfinite().all():
        return f"not timed, its logits are not finite numbers in {args.precision}"
    network.work = partial(run, compiled_whole(form) if args.compile else form)
    warm_up(network, args, device)
    if device == "cuda":
        network.peak_mib = peak_memory(form.network, network.work)
    return None


# --- the clock


def time_passes(work: Callable[[], object], passes: int, device: str) -> list[float]:
    """Milliseconds of each pass.

    CUDA is waited for at the end alone, as in a stream of images: launching one pass overlaps with
    computing another.
    """
    if device == "cpu":
        times = timeit.repeat(work, timer=time.perf_counter, repeat=passes, number=1)
        return [1000 * each for each in times]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(passes + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in itertools.pairwise(events)]


def warm_up(network: Network, args: argparse.Namespace, device: str) -> None:
    """Find how many passes make a turn, so that all turns together take about --seconds."""
    # The first passes may compile, or look for the fastest kernels.
    first = time_passes(network.work, WARM_UP, device)
    tenth = round(100 * args.seconds / max(first[-1], 0.01))
    rest = time_passes(network.work, max(1, min(100, tenth)), device)
    turn = 1000 * args.seconds / args.rounds
    network.passes = max(1, round(turn / max(statistics.median(rest), 0.01)))
    network.warm_up = len(first) + len(rest)


def time_turn(device: str, network: Network, turn: int) -> None:
    if network.problem:
        return
    try:
        network.rounds.append(time_passes(network.work, network.passes, device))
    except Exception as problem:  # out of memory beside the others
        network.fail(problem)


def peak_memory(network: nn.Module, work: Callable[[], object]) -> dict[str, float]:
    """MiB on the device: of the network's tensors, and of what one pass takes beside them.

    The network holds its training heads too, unless it is folded.
    """
    tensors = (*network.parameters(), *network.buffers())
    held = sum(each.numel() * each.element_size() for each in tensors)
    return {"network": held / MIB, "pass": peak_mebibytes(work, "cuda")}


# --- the stored result


def figures_of(network: Network, first: Network, batch: int) -> dict[str, Any]:
    """Speed and memory as they are stored.

    The ratio says how many times as fast as the first network this one is: the median of the
    rounds' own ratios.
    """
    times = sorted(itertools.chain(*network.rounds))
    medians = [statistics.median(turn) for turn in network.rounds]
    ratios = [statistics.median(turn) / own for turn, own in zip(first.rounds, medians)]
    median = statistics.median(times)
    return {
        "fps": 1000 * batch / median,
        "median_ms": median,
        "p95_ms": times[math.ceil(0.95 * len(times)) - 1],
        "ratio": statistics.median(ratios),
        "passes": len(times),
        "round_medians_ms": medians,
        "peak_mib": network.peak_mib,
    }


def conditions(args: argparse.Namespace, device: str) -> dict[str, Any]:
    """Everything that moves a figure."""
    cuda = device == "cuda"
    return {
        "input": "normalized floats that lie on the device already: "
        "no decoding, no transfer, no normalization",
        "auxiliary heads": "not computed",
        "order": "in turns: every network once in each round; "
        "the ratio is the median of the rounds' own ratios",
        **{name: getattr(args, name) for name in OPTIONS},
        "size": args.size or "each network's own",
        "timed": TIMED[args.what],
        "argmax": args.what == "label",
        "autocast": "weights are cast in each pass" if args.precision.endswith("mixed") else None,
        "warm_up": f"at least {WARM_UP} passes, and up to a tenth of the time that is measured",
        "clock": CLOCKS[device],
        "limit": f"{LIMIT} of the largest logit, "
        "or 20 times the plain network's own float32 rounding",
        "device": torch.cuda.get_device_name() if cuda else provenance.processor(),
        "device_kind": device,
        "threads": torch.get_num_threads(),
        "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "matrix_products": torch.backends.cuda.matmul.allow_tf32,
        },
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "versions": provenance.versions(),
        "date": date.today().isoformat(),
        "commit": provenance.commit(),
    }


# --- the measurement


def measure(args: argparse.Namespace) -> tuple[list[Network], dict[str, Any]]:
    """Measure every network; say the conditions that all of them were measured under."""
    quiet()
    with as_user_error():
        device = choose_device(args.device, gpus=("cuda",))  # there is no clock for others
    if device == "cpu" and args.precision.startswith("16"):
        raise UserError(
            f"--precision {args.precision} is not computed on a CPU; "
            f"give {args.precision.replace('16', 'bf16')} or 32-true"
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    networks = open_networks(args.sources, args.size)
    for network in with_progress(networks, "preparing"):
        prepare(network, args, device)
    rounds = with_progress(range(args.rounds), "timing, round")
    take_turns(dict(enumerate(networks)), rounds, partial(time_turn, device))
    measured = [network for network in networks if not network.problem]
    for network in measured:
        network.figures = figures_of(network, measured[0], args.batch)
    return networks, conditions(args, device)
