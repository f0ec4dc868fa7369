"""Time networks beside each other, in turns, after showing that a fast form computes the same."""

import argparse
import copy
import itertools
import math
import statistics
import time
import timeit
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.progress import with_progress
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
MIB = 2**20
DTYPES = {"32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16}
TIMED = {
    "logits": "the network's own output, at its own resolution",
    "full": "logits at the image's size: one bilinear upsampling, "
    "in float32 unless the weights are float64",
    "label": "the class of each pixel: logits at the image's size and their argmax",
}
CLOCKS = {
    "cuda": "CUDA events around each pass; the device is waited for at the end of a turn",
    "cpu": "wall clock around each pass",
}


@dataclass(frozen=True)
class Figures:
    """The measured speed and memory of a network."""

    fps: float
    median_ms: float
    p95_ms: float
    ratio: float  # how many times as fast as the first network
    passes: int
    round_medians_ms: list[float]
    peak_mib: dict[str, float] | None


@dataclass
class Result:
    """The stored result of a network."""

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
    figures: Figures | None = None  # None where there is a problem

    def as_dict(self) -> dict[str, Any]:
        """Its fields and figures side by side, for JSON."""
        content = asdict(self)
        figures = content.pop("figures")
        return content | (figures or {})


@dataclass
class Subject:
    """A network while it is measured."""

    result: Result
    module: SegmentationModule | None = None  # None: a row, built with fresh weights in its turn
    work: Callable[[], object] | None = None  # one pass
    passes: int = 0  # in each round
    rounds: list[list[float]] = field(default_factory=list)  # milliseconds of each pass
    peak_mib: dict[str, float] | None = None

    def fail(self, problem: Exception) -> None:
        reason = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        self.result.problem = f"cannot run at {by(self.result.size)}: {reason}"


# --- the networks


def open_networks(
    sources: Sequence[str | Path | ReleasedCheckpoint], size: tuple[int, int] | None
) -> list[Subject]:
    """Read every checkpoint before anything is timed; rows are not built yet."""
    with as_user_error():
        return [
            of_row(source, size) if isinstance(source, str) else of_checkpoint(source, size)
            for source in sources
        ]


def of_row(address: str, size: tuple[int, int] | None) -> Subject:
    row = experiment(address)
    published = [asdict(each) for each in row.published_speed]
    result = Result(row.name, size or counted_at(row), experiment=row.name, published=published)
    return Subject(result)


def of_checkpoint(source: Path | ReleasedCheckpoint, size: tuple[int, int] | None) -> Subject:
    """A checkpoint, by default at the size that its recipe is evaluated at.

    A network changed on the command line, and that of another code line, have no published speed.
    """
    module = trained(source)
    identity = module.identity
    row = experiment(identity.experiment)
    released = identity.released
    if identity.port and not size:
        raise UserError(
            f"{source}: {released} is no row of a paper, which would say at what size it is "
            "evaluated; give --size HEIGHTxWIDTH"
        )
    if released:
        is_rows_own = not identity.port
        evaluated = row
    else:
        is_rows_own = dict(identity.model) == dict(row.model)
        evaluated = replace(row, data=identity.data, recipe=module.recipe)
    changed = {
        name.removeprefix("model."): value
        for name, value in identity.overrides.items()
        if name.startswith("model.")
    }
    result = Result(
        f"released:{released}" if released else f"{row.name} ({source})",
        size or counted_at(evaluated),
        experiment=row.name,
        model=changed,
        released=released,
        port=identity.port,
        published=[asdict(each) for each in row.published_speed] if is_rows_own else [],
    )
    return Subject(result, module)


def fresh(row: Experiment) -> SegmentationModule:
    """Running statistics of noise: under those of a new network folding would change nothing."""
    torch.manual_seed(0)
    module = row.build()
    settle_batch_norm(module, SETTLED_AT)
    return module


def prepare(subject: Subject, args: argparse.Namespace, device: str) -> None:
    """Build a network, show that its fast form is equal, warm it up.

    One that fails must not hide the others.
    """
    try:
        subject.result.problem = make_ready(subject, args, device)
    except Exception as problem:
        subject.fail(problem)
    subject.module = None


def make_ready(subject: Subject, args: argparse.Namespace, device: str) -> str | None:
    """Returns why the network may not be timed."""
    result = subject.result
    module = subject.module or fresh(experiment(result.name))
    module = module.eval().requires_grad_(False).to(device)
    module.to(memory_format=torch.contiguous_format)  # a run's checkpoint may be otherwise
    noise = torch.Generator().manual_seed(0)
    image = torch.randn(args.batch, 3, *result.size, generator=noise).to(device)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    logits = folded_logits(module, image) if args.folded else None
    network = Deployed(module, args.what, logits)
    if args.folded or args.channels_last or args.compile:
        network = copy.deepcopy(network)
        network.to(memory_format=layout)
        result.difference, result.limit = difference_to_plain(
            network, module, image, args.compile, layout
        )
        if not result.difference <= result.limit:  # so that NaN does not pass
            return (
                f"not timed, it differs from the plain network by {result.difference:.1e} "
                f"(allowed: {result.limit:.1e})"
            )
    number, _, kind = args.precision.partition("-")
    if kind == "true":
        network, image = network.to(DTYPES[number]), image.to(DTYPES[number])
    mixed = partial(torch.autocast, device, DTYPES[number])
    context = mixed if kind == "mixed" else nullcontext
    image = image.contiguous(memory_format=layout)
    with torch.inference_mode(), context():
        if not network.network(module.padded(image)).isfinite().all():
            return f"not timed, its logits are not finite numbers in {args.precision}"
    run = compiled_whole(network) if args.compile else network

    def work() -> torch.Tensor:
        with torch.inference_mode(), context():
            return run(image)

    subject.work = work
    warm_up(subject, args, device)
    if device == "cuda":
        subject.peak_mib = peak_memory(network.network, subject.work)
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


def warm_up(subject: Subject, args: argparse.Namespace, device: str) -> None:
    """Find how many passes make a turn, so that all turns together take about --seconds."""
    # The first passes may compile, or look for the fastest kernels.
    first = time_passes(subject.work, WARM_UP, device)
    tenth = round(100 * args.seconds / max(first[-1], 0.01))
    rest = time_passes(subject.work, max(1, min(100, tenth)), device)
    turn = 1000 * args.seconds / args.rounds
    subject.passes = max(1, round(turn / max(statistics.median(rest), 0.01)))
    subject.result.warm_up = len(first) + len(rest)


def take_turns(subjects: Sequence[Subject], rounds: Iterable[int], device: str) -> None:
    """Time every network once in each round, so that a machine that slows down slows all alike."""
    for _ in rounds:
        for subject in subjects:
            if subject.result.problem:
                continue
            try:
                subject.rounds.append(time_passes(subject.work, subject.passes, device))
            except Exception as problem:  # out of memory beside the others
                subject.fail(problem)


def peak_memory(network: nn.Module, work: Callable[[], object]) -> dict[str, float]:
    """MiB on the device: tensors that the network holds (training heads too, unless folded), and
    what one pass takes beside them.
    """
    tensors = (*network.parameters(), *network.buffers())
    held = sum(each.numel() * each.element_size() for each in tensors)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return {"network": held / MIB, "pass": (torch.cuda.max_memory_allocated() - before) / MIB}


# --- the stored result


def figures_of(subject: Subject, first: Subject, batch: int) -> Figures:
    """`first` is the network that the ratio is to: the median of the rounds' own ratios."""
    times = sorted(each for turn in subject.rounds for each in turn)
    medians = [statistics.median(turn) for turn in subject.rounds]
    ratios = [statistics.median(turn) / own for turn, own in zip(first.rounds, medians)]
    median = statistics.median(times)
    return Figures(
        fps=1000 * batch / median,
        median_ms=median,
        p95_ms=times[math.ceil(0.95 * len(times)) - 1],
        ratio=statistics.median(ratios),
        passes=len(times),
        round_medians_ms=medians,
        peak_mib=subject.peak_mib,
    )


def conditions(args: argparse.Namespace, device: str) -> dict[str, Any]:
    """Everything that moves a figure."""
    cuda = device == "cuda"
    return {
        "input": "normalized floats that lie on the device already: "
        "no decoding, no transfer, no normalization",
        "auxiliary heads": "not computed",
        "order": "in turns: every network once in each round; "
        "the ratio is the median of the rounds' own ratios",
        "what": args.what,
        "batch": args.batch,
        "precision": args.precision,
        "folded": args.folded,
        "channels_last": args.channels_last,
        "compile": args.compile,
        "rounds": args.rounds,
        "seconds": args.seconds,
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


def measure(args: argparse.Namespace) -> tuple[list[Result], dict[str, Any]]:
    """Measure every network; say the conditions that all of them were measured under."""
    quiet()
    with as_user_error():
        device = choose_device(args.device)
    if device == "cpu" and args.precision.startswith("16"):
        raise UserError(
            f"--precision {args.precision} is not computed on a CPU; "
            f"give {args.precision.replace('16', 'bf16')} or 32-true"
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    subjects = open_networks(args.sources, args.size)
    for subject in with_progress(subjects, "preparing"):
        prepare(subject, args, device)
    take_turns(subjects, with_progress(range(args.rounds), "timing, round"), device)
    measured = [subject for subject in subjects if not subject.result.problem]
    for subject in measured:
        subject.result.figures = figures_of(subject, measured[0], args.batch)
    return [subject.result for subject in subjects], conditions(args, device)
