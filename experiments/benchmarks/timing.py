"""Networks timed beside each other: what `benchmark.py infer` does once its words are read, with the passes of experiments/passes.py."""

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import date
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
from segmodels.checkpoint import from_checkpoint
from segmodels.deploy import LIMIT, Pass, apart, folded, layout, pass_of, settled
from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, PublishedSpeed, experiment
from segmodels.prediction import choose_device
from segmodels.released import from_released, layouts

WARM_UP = 3  # passes at the least, and a tenth of the time that is measured
SETTLED_AT = (128, 256)
MIB = 2**20
DTYPES = {"32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16}
TIMED = {
    "logits": "the network's own output, at its own resolution",
    "full": "logits at the image's size: one bilinear upsampling, in float32 unless the weights are float64",
    "label": "the class of each pixel: logits at the image's size and their argmax",
}
FIXED = {
    "input": "normalized floats that lie on the device already: no decoding, no transfer, no normalization",
    "auxiliary heads": "not computed",
    "order": "in turns: every network once in each round; the ratio is the median of the rounds' own ratios",
}
CLOCKS = {
    "cuda": "CUDA events around each pass; the device is waited for at the end of a turn",
    "cpu": "wall clock around each pass",
}

Laps = Callable[[Callable[[], object], int], list[float]]  # milliseconds of each of so many passes


# --- the networks


@dataclass
class Subject:
    """A network that was asked for, and what was found out about it."""

    name: str
    size: tuple[int, int]
    experiment: str = ""  # "paper/row"; empty for a released network that is no row
    published: tuple[PublishedSpeed, ...] = ()
    model: Mapping[str, Any] = field(
        default_factory=dict
    )  # what of the row's network a run changed
    released: str | None = None  # the layout of an authors' checkpoint
    port: bool = False  # of another code line, so another network than the row's
    module: SegmentationModule | None = (
        None  # None: a row, which is built with fresh weights when its turn comes
    )
    work: Callable[[], object] | None = None  # one pass
    difference: float | None = None  # of the fast form; None where the plain network is timed
    limit: float | None = None
    warm_up: int = 0  # passes
    passes: int = 0  # in each turn
    rounds: list[list[float]] = field(default_factory=list)  # milliseconds of each pass
    mebibytes: dict[str, float] | None = None
    problem: str = ""


def opened(
    sources: Sequence[str | Path | ReleasedCheckpoint], size: tuple[int, int] | None
) -> list[Subject]:
    """Every checkpoint is read here, before anything is timed; rows are not built yet."""
    with as_user_error():
        return [subject_of(each, size) for each in sources]


def subject_of(source: str | Path | ReleasedCheckpoint, size: tuple[int, int] | None) -> Subject:
    if isinstance(source, Path):
        return of_checkpoint(source, size)
    if isinstance(source, ReleasedCheckpoint):
        return of_released(source, size)
    row = experiment(source)
    return Subject(row.name, size or counted_at(row), row.name, row.published_speed)


def of_released(source: ReleasedCheckpoint, size: tuple[int, int] | None) -> Subject:
    name = source.layout
    module = from_released(name, source.file)
    if not isinstance(module, SegmentationModule):
        raise UserError(
            f"{source}: {name} is a classifier; give a layout of a segmentation network"
        )
    layout = layouts()[name]
    row = experiment(layout.network) if isinstance(layout.network, str) else None
    if not size and not row:
        raise UserError(
            f"{source}: {name} is no row of a paper, which would say at what size it is judged; give --size HEIGHTxWIDTH"
        )
    published = row.published_speed if row and not layout.port else ()
    return Subject(
        f"released:{name}",
        size or counted_at(row),
        layout.address,
        published,
        released=name,
        port=layout.port,
        module=module,
    )


def of_checkpoint(file: Path, size: tuple[int, int] | None) -> Subject:
    """At the size that the run's own recipe judges at; a network changed on the command line has no published speed."""
    module = from_checkpoint(file)
    row = experiment(module.identity.experiment)
    judged = replace(row, data=module.identity.data or row.data, recipe=module.recipe)
    same = dict(module.identity.model) == dict(row.model)
    given = (module.identity.overrides or {}).items()
    model = {
        name.removeprefix("model."): value for name, value in given if name.startswith("model.")
    }
    published = row.published_speed if same else ()
    return Subject(
        f"{row.name} ({file})",
        size or counted_at(judged),
        row.name,
        published,
        model,
        module=module,
    )


def fresh(row: Experiment) -> SegmentationModule:
    """With running statistics of noise: under those of a new network folding would change nothing."""
    torch.manual_seed(0)
    module = row.build()
    settled(module, SETTLED_AT)
    return module


def prepare(subject: Subject, asked: argparse.Namespace, device: str, laps: Laps) -> None:
    """Built, shown to be equal where it is a fast form, warmed up; what keeps it from being timed becomes its `problem`."""
    try:
        subject.problem = made_ready(subject, asked, device, laps)
    except Exception as problem:  # one network that fails must not hide the others
        subject.problem = failure(subject, problem)
    subject.module = None


def failure(subject: Subject, problem: Exception) -> str:
    return f"cannot run at {by(subject.size)}: {type(problem).__name__}: {' '.join(str(problem).split())[:200]}"


def made_ready(subject: Subject, asked: argparse.Namespace, device: str, laps: Laps) -> str:
    """Why it is not to be timed; empty where it may be."""
    module = (
        (subject.module or fresh(experiment(subject.name))).eval().requires_grad_(False).to(device)
    )
    module.to(memory_format=torch.contiguous_format)  # a run's checkpoint may be otherwise
    image = torch.randn(
        asked.batch, 3, *subject.size, generator=torch.Generator().manual_seed(0)
    ).to(device)
    network = Pass(module, asked.what, folded(module, image) if asked.folded else None)
    if asked.folded or asked.channels_last or asked.compile:
        network = copy.deepcopy(network)
        network.to(memory_format=layout(asked))
        subject.difference, subject.limit = apart(module, network, image, asked)
        if not subject.difference <= subject.limit:  # so that NaN does not pass
            return f"not timed, it differs from the plain network by {subject.difference:.1e} (allowed: {subject.limit:.1e})"
    number, _, kind = asked.precision.partition("-")
    if kind == "true":
        network, image = network.to(DTYPES[number]), image.to(DTYPES[number])
    context = (lambda: torch.autocast(device, DTYPES[number])) if kind == "mixed" else nullcontext
    image = image.contiguous(memory_format=layout(asked))
    with torch.inference_mode(), context():
        if not network.network(module.padded(image)).isfinite().all():
            return f"not timed, its logits are not finite numbers in {asked.precision}"
    work = pass_of(network, image, context, asked.compile)
    subject.warm_up, subject.passes = warmed_up(work, asked, laps)
    subject.mebibytes = mebibytes(network.network, work) if device == "cuda" else None
    subject.work = work
    return ""


# --- the clock


def cpu_laps(work: Callable[[], object], passes: int) -> list[float]:
    laps = []
    for _ in range(passes):
        started = time.perf_counter()
        work()
        laps.append(1000 * (time.perf_counter() - started))
    return laps


def cuda_laps(work: Callable[[], object], passes: int) -> list[float]:
    """The device is not waited for between passes, as in a stream of images: launching one overlaps with computing another."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(passes)]
    torch.cuda.synchronize()
    for before, after in events:
        before.record()
        work()
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in events]


def warmed_up(work: Callable[[], object], asked: argparse.Namespace, laps: Laps) -> tuple[int, int]:
    """Passes that the warm-up took, and how many passes make a turn so that all turns together take --seconds."""
    found = laps(work, WARM_UP)  # the first may compile, or look for the fastest kernels
    rest = laps(
        work, max(1, min(100, round(100 * asked.seconds / max(found[-1], 0.01))))
    )  # a tenth of the time that is measured
    return len(found) + len(rest), max(
        1, round(1000 * asked.seconds / asked.rounds / max(statistics.median(rest), 0.01))
    )


def alternated(subjects: Sequence[Subject], rounds: Iterable[int], laps: Laps) -> None:
    """Every network once in each round, so that a machine that slows down slows all alike; one that fails is left out from then on."""
    for _ in rounds:
        for each in subjects:
            if each.problem:
                continue
            try:
                each.rounds.append(laps(each.work, each.passes))
            except Exception as problem:  # out of memory beside the others
                each.problem = failure(each, problem)


def mebibytes(network: nn.Module, work: Callable[[], object]) -> dict[str, float]:
    """On the device: tensors that the network holds (training heads too, unless folded), and the most that one pass takes beside them."""
    held = sum(
        each.numel() * each.element_size() for each in (*network.parameters(), *network.buffers())
    )
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return {"network": held / MIB, "pass": (torch.cuda.max_memory_allocated() - before) / MIB}


# --- what is stored


def result_of(subject: Subject, first: Subject | None, batch: int) -> dict[str, Any]:
    said: dict[str, Any] = {
        "name": subject.name,
        "size": list(subject.size),
        "problem": subject.problem or None,
    }
    said |= {
        "experiment": subject.experiment,
        "model": dict(subject.model),
        "released": subject.released,
        "port": subject.port,
    }
    said |= {"difference": subject.difference, "limit": subject.limit, "warm_up": subject.warm_up}
    said |= {"published": [asdict(each) for each in subject.published]}
    if subject.problem:
        return said
    laps, medians = (
        sorted(lap for turn in subject.rounds for lap in turn),
        [statistics.median(turn) for turn in subject.rounds],
    )
    beside = [statistics.median(turn) for turn in first.rounds]
    return said | {
        "fps": 1000 * batch / statistics.median(laps),
        "median_ms": statistics.median(laps),
        "p95_ms": laps[math.ceil(0.95 * len(laps)) - 1],
        "ratio": statistics.median(theirs / ours for theirs, ours in zip(beside, medians)),
        "passes": len(laps),
        "round_medians_ms": medians,
        "peak_mib": subject.mebibytes,
    }


def conditions(asked: argparse.Namespace, device: str) -> dict[str, Any]:
    """Everything that moves a figure."""
    cuda = device == "cuda"
    chosen = (
        "what",
        "batch",
        "precision",
        "folded",
        "channels_last",
        "compile",
        "rounds",
        "seconds",
    )
    return FIXED | {name: getattr(asked, name) for name in chosen} | {
        "size": list(asked.size) if asked.size else "each network's own",
        "timed": TIMED[asked.what],
        "argmax": asked.what == "label",
        "autocast": "weights are cast in each pass" if asked.precision.endswith("mixed") else None,
        "warm_up": f"at least {WARM_UP} passes, and up to a tenth of the time that is measured",
        "clock": CLOCKS[device],
        "limit": f"{LIMIT} of the largest logit, or 20 times the plain network's own float32 rounding",
        "device": torch.cuda.get_device_name() if cuda else provenance.processor(),
        "device_kind": device,
        "threads": torch.get_num_threads(),
        "tf32": {"convolutions": torch.backends.cudnn.allow_tf32, "matrix_products": torch.backends.cuda.matmul.allow_tf32},
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "versions": provenance.versions(),
        "date": date.today().isoformat(),
        "commit": provenance.commit(),
    }  # fmt: skip


# --- the whole


def timed(asked: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The figures of every network, and the conditions that all of them were measured under."""
    quiet()
    with as_user_error():
        device = choose_device(asked.device)
    if device == "cpu" and asked.precision.startswith("16"):
        raise UserError(
            f"--precision {asked.precision} is not computed on a CPU; give {asked.precision.replace('16', 'bf16')} or 32-true"
        )
    laps = cuda_laps if device == "cuda" else cpu_laps
    torch.set_num_threads(asked.threads or torch.get_num_threads())
    torch.backends.cudnn.benchmark = True
    subjects = opened(asked.sources, asked.size)
    for each in with_progress(subjects, "preparing"):
        prepare(each, asked, device, laps)
    alternated(subjects, with_progress(range(asked.rounds), "timing, round"), laps)
    first = next((each for each in subjects if not each.problem), None)
    return [result_of(each, first, asked.batch) for each in subjects], conditions(asked, device)
