"""Time and memory of the losses against their usual form, after showing that both are equal."""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import exp, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command_line.errors import UserError, silenced_stderr
from experiments.command_line.files import check_out, write_json
from experiments.command_line.parser import height_by_width, positive

if TYPE_CHECKING:  # torch takes seconds, and --help and a refused word must not
    from torch import Tensor


MIB = 2**20
LOSS_LIMIT, GRADIENT_LIMIT = 1e-6, 2e-6  # relative; what we call equal
LOSS = """\
Losses of upsampled logits in our form and in the usual one. Both run in turns (A B, B A, ...). Time is the CPU time of the process, the
median of the rounds, so that neighbors on the machine count little; a ratio is the median of the rounds' own ratios. Memory is the peak of
what torch's allocator hands out during one forward and backward, counted from its events: inputs are not in it, nor is what a library takes
past the allocator.
"""


# --- measuring


@dataclass(frozen=True)
class Pair:
    """One thing computed in two ways, each from no argument to (loss, its gradient)."""

    name: str
    theirs: Callable[[], tuple["Tensor", "Tensor"]]
    ours: Callable[[], tuple["Tensor", "Tensor"]]


@dataclass(frozen=True)
class Equality:
    loss: float
    gradient: float

    def holds(self) -> bool:
        return self.loss <= LOSS_LIMIT and self.gradient <= GRADIENT_LIMIT


@dataclass(frozen=True)
class Cost:
    milliseconds: tuple[float, float]  # theirs, ours
    mebibytes: tuple[float, float]
    faster: float
    less_memory: float


def equality(pair: Pair) -> Equality:
    """Relative: of the loss, and of the gradient's largest entry."""
    (theirs, their_slope), (ours, our_slope) = pair.theirs(), pair.ours()
    distance = (their_slope - our_slope).abs().max() / their_slope.abs().max()
    return Equality(abs(float(ours) / float(theirs) - 1), float(distance))


def cost(pair: Pair, rounds: int) -> Cost:
    forms = {"theirs": pair.theirs, "ours": pair.ours}
    times: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(rounds):
        for name in sorted(forms, reverse=turn % 2 == 0):
            times[name].append(cpu_milliseconds(forms[name]))
    theirs, ours = times["theirs"], times["ours"]
    peaks = peak_mebibytes(pair.theirs), peak_mebibytes(pair.ours)
    faster = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    return Cost(
        (statistics.median(theirs), statistics.median(ours)), peaks, faster, peaks[0] / peaks[1]
    )


def cpu_milliseconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return 1000 * (time.process_time() - started)


def peak_mebibytes(work: Callable[[], object]) -> float:
    """The highest sum of allocations not yet freed, out of the profiler's trace."""
    from torch.profiler import ProfilerActivity, profile

    with (
        silenced_stderr(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record,
    ):  # torch 2.11 warns without
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        record.export_chrome_trace(str(trace))
        events = [
            e for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"
        ]
    held = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak / MIB


# --- loss


def loss_pairs(
    size: tuple[int, int], classes: int, batch: int, stride: int, align_corners: bool
) -> list[Pair]:
    import torch.nn.functional as F

    from segmodels.parts.losses import cross_entropy, ohem, stdc_rule

    def two_step(logits: "Tensor", label: "Tensor", reduction: str = "mean") -> "Tensor":
        full = F.interpolate(logits, label.shape[-2:], mode="bilinear", align_corners=align_corners)
        return F.cross_entropy(full, label, ignore_index=255, reduction=reduction)

    def lean(logits: "Tensor", label: "Tensor") -> "Tensor":
        return cross_entropy(logits, label, align_corners=align_corners)

    def mining(name: str, inputs: tuple["Tensor", "Tensor"], above: float, kept: int) -> Pair:
        def mined(logits: "Tensor", label: "Tensor") -> "Tensor":
            return ohem(
                logits, label, align_corners=align_corners, rule=stdc_rule(exp(-above), kept)
            )

        def by_sorting(logits: "Tensor", label: "Tensor") -> "Tensor":
            return hardest_by_sorting(two_step(logits, label, "none"), above, kept)

        return Pair(name, with_gradient(by_sorting, *inputs), with_gradient(mined, *inputs))

    def losses_and_limits(margin: float) -> tuple[tuple["Tensor", "Tensor"], int, float, int]:
        inputs = made_up(size, classes, batch, stride, margin)
        return inputs, *last_places(two_step(*inputs, "none").detach(), threshold=0.7, share=1 / 16)

    unsure, many, above, kept = losses_and_limits(margin=1.0)
    easier = (losses_and_limits(margin) for margin in (5.5, 6.5, 8.0, 10.0, 13.0))
    easy, _, same, least = next((x for x in easier if x[1] < x[3]), (None, 0, 0.0, 0))
    if easy is None or many <= kept:
        raise UserError(
            f"with {kept} pixels to keep, these sizes do not reach both branches of mining; try --size 512x512 --stride 8"
        )
    return [
        Pair("cross-entropy", with_gradient(two_step, *unsure), with_gradient(lean, *unsure)),
        mining("mining, threshold", unsure, above, kept),
        mining("mining, top-k", easy, same, least),
    ]


def hardest_by_sorting(loss: "Tensor", above: float, kept: int) -> "Tensor":
    """STDC's mining as its users have it: every pixel sorted, those above the limit or else the first `kept`."""
    ordered = loss.flatten().sort(descending=True).values
    return (ordered[ordered > above] if ordered[kept] > above else ordered[:kept]).mean()


def last_places(loss: "Tensor", threshold: float, share: float) -> tuple[int, float, int]:
    """How many are hard, above which loss, and how many to keep: beside what was asked for, in a gap between two losses."""
    # whether a pixel right at a limit is kept is a matter of rounding, and so would be the equality of any two forms
    ordered = loss.flatten().sort(descending=True).values
    if len(ordered) < 2:
        return 0, 0.0, 0

    def gap(place: int) -> int:
        start = max(place - 50, 0)
        return start + 1 + int(ordered[start : place + 50].diff().argmin())

    hard, kept = gap(int((ordered > -log(threshold)).sum())), gap(int(share * len(ordered)))
    return hard, float(ordered[hard - 1] + ordered[hard]) / 2, kept


def with_gradient(
    form: Callable[["Tensor", "Tensor"], "Tensor"], logits: "Tensor", label: "Tensor"
) -> Callable[[], tuple["Tensor", "Tensor"]]:
    from torch.autograd import grad

    def work() -> tuple["Tensor", "Tensor"]:
        loss = form(logits, label)
        return loss.detach(), grad(loss, logits)[0]

    return work


def made_up(
    size: tuple[int, int], classes: int, batch: int, stride: int, margin: float
) -> tuple["Tensor", "Tensor"]:
    """Noise, raised by `margin` at the true class; the label (int64, as F.cross_entropy wants it) is a map of squares, a tenth ignored."""
    import torch

    random, cell = torch.Generator().manual_seed(0), 16 * stride
    squares = torch.randint(
        0, classes, (batch, -(-size[0] // cell), -(-size[1] // cell)), generator=random
    )
    label = (
        squares.repeat_interleave(cell, 1)
        .repeat_interleave(cell, 2)[:, : size[0], : size[1]]
        .contiguous()
    )
    small = -(-size[0] // stride), -(-size[1] // stride)
    logits = torch.randn(batch, classes, *small, generator=random)
    logits.scatter_add_(
        1, label[:, None, ::stride, ::stride], torch.full((batch, 1, *small), margin)
    )
    hidden = torch.rand(squares.shape, generator=random) < 0.1
    label[hidden.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, : size[0], : size[1]]] = (
        255
    )
    return logits.requires_grad_(), label


def loss(words: argparse.Namespace) -> int:
    if words.json:
        check_out(words.json, "--json")
    return compared(words)


def compared(words: argparse.Namespace) -> int:
    import torch

    torch.set_num_threads(words.threads)
    pairs = loss_pairs(words.size, words.classes, words.batch, words.stride, words.align_corners)
    print(
        f"{words.batch} x {words.classes} classes, {words.size[0]}x{words.size[1]}, logits at 1/{words.stride}; {machine(words.threads)}\n"
    )
    equal = {pair.name: equality(pair) for pair in pairs}
    print(f"{'relative difference':<22}{'loss':>12}{'gradient':>12}")
    for name, found in equal.items():
        print(
            f"{name:<22}{found.loss:>12.1e}{found.gradient:>12.1e}"
            + ("" if found.holds() else "   NOT EQUAL")
        )
    if not all(found.holds() for found in equal.values()):
        print(
            f"\nNot equal (allowed: {LOSS_LIMIT} and {GRADIENT_LIMIT}), so nothing was timed.",
            file=sys.stderr,
        )
        return 1
    costs = {pair.name: cost(pair, words.rounds) for pair in pairs}
    print("\n" + table(costs))
    if words.json:
        rows = {
            name: {"equality": asdict(equal[name]), "cost": asdict(costs[name])} for name in equal
        }
        settings = {k: v for k, v in vars(words).items() if k not in ("json", "run", "parser")}
        write_json(
            words.json, {"settings": settings, "machine": machine(words.threads), "rows": rows}
        )
    return 0


def table(costs: dict[str, Cost]) -> str:
    lines = [f"{'theirs -> ours':<22}{'CPU ms':>18}{'faster':>9}{'peak MiB':>20}{'less':>9}"]
    for name, found in costs.items():
        milliseconds, mebibytes = (
            "{:.0f} -> {:.0f}".format(*x) for x in (found.milliseconds, found.mebibytes)
        )
        lines.append(
            f"{name:<22}{milliseconds:>18}{found.faster:>8.1f}x{mebibytes:>20}{found.less_memory:>8.1f}x"
        )
    return "\n".join(lines)


def machine(threads: int) -> str:
    import torch

    return f"torch {torch.__version__}, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' * (threads > 1)}"


def add_loss(subjects: Any) -> None:
    made = subjects.add_parser(
        "loss",
        help="losses of upsampled logits: time, memory",
        description=LOSS,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument(
        "--size", type=height_by_width, default="1024x1024", metavar="HxW", help="of the label"
    )
    made.add_argument(
        "--classes", type=positive, default=19, metavar="N", help="channels of the logits"
    )
    made.add_argument("--batch", type=positive, default=2, metavar="N", help="images")
    made.add_argument(
        "--stride",
        type=positive,
        default=8,
        metavar="N",
        help="size of the label over size of the logits",
    )
    made.add_argument(
        "--align-corners", action="store_true", help="upsample with align_corners=True"
    )
    made.add_argument(
        "--rounds", type=positive, default=3, metavar="N", help="how often each form runs"
    )
    made.add_argument(
        "--threads",
        type=positive,
        default=1,
        metavar="N",
        help="torch's threads; CPU time adds them up",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    made.set_defaults(run=loss, parser=made)
