"""Measure time and memory of our losses against their usual form, after showing both equal."""

import argparse
import sys
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import exp, log
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.alternation import median_ratio, take_turns
from experiments.benchmarks.memory import peak_mebibytes
from experiments.command_line.errors import UserError
from experiments.command_line.files import check_out, write_json
from experiments.command_line.parser import Subjects, by, height_by_width, positive
from experiments.records import provenance
from experiments.reports.number_formats import plural, print_table

if TYPE_CHECKING:  # torch takes seconds, and --help and a refused word must not
    from torch import Tensor

    Batch = tuple[Tensor, Tensor]  # logits, label
    Form = Callable[[Tensor, Tensor], Tensor]

LOSS_LIMIT = 1e-6  # relative; what we call equal
GRADIENT_LIMIT = 2e-6
NO_SETTING = ("json", "run", "parser")
LOSS = """\
Losses of upsampled logits in our form and in the usual one. Both run in turns (A B, B A, ...). Time
is the CPU time of the process, the median of the rounds, so that neighbors on the machine count
little; a ratio is the median of the rounds' own ratios. Memory is the peak of what torch's
allocator hands out during one forward and backward, counted from its events: inputs are not in it,
nor is what a library takes past the allocator.
"""


@dataclass(frozen=True)
class Pair:
    """One loss in the usual form and in ours."""

    name: str
    theirs: "Form"
    ours: "Form"
    batch: "Batch"

    def run(self, form: "Form") -> "tuple[Tensor, Tensor]":
        """The loss and its gradient."""
        from torch.autograd import grad

        loss = form(*self.batch)
        return loss.detach(), grad(loss, self.batch[0])[0]

    def cpu_milliseconds(self, form: "Form", turn: int) -> float:
        work = partial(self.run, form)
        return 1000 * timeit.timeit(work, timer=time.process_time, number=1)


# --- measuring


def differences(pair: Pair) -> dict[str, float]:
    """Relative ones: of the loss, and of the gradient's largest entry."""
    loss, gradient = pair.run(pair.theirs)
    our_loss, our_gradient = pair.run(pair.ours)
    distance = (gradient - our_gradient).abs().max() / gradient.abs().max()
    return {"loss": abs(float(our_loss) / float(loss) - 1), "gradient": float(distance)}


def cost(pair: Pair, rounds: int) -> dict[str, Any]:
    """Time and memory of theirs and of ours, and their ratios."""
    forms = {"theirs": pair.theirs, "ours": pair.ours}
    times = take_turns(forms, range(rounds), pair.cpu_milliseconds)
    theirs, ours = times.values()
    peak, our_peak = (peak_mebibytes(partial(pair.run, form)) for form in forms.values())
    return {
        "milliseconds": (median(theirs), median(ours)),
        "mebibytes": (peak, our_peak),
        "faster": median_ratio(theirs, ours),
        "less_memory": peak / our_peak,
    }


# --- the losses that are compared


def loss_pairs(args: argparse.Namespace) -> list[Pair]:
    import torch.nn.functional as F

    from segmodels.parts.losses import cross_entropy, ohem, stdc_rule

    align_corners = args.align_corners

    def usual(logits: "Tensor", label: "Tensor", reduction: str = "mean") -> "Tensor":
        full = F.interpolate(logits, label.shape[-2:], mode="bilinear", align_corners=align_corners)
        return F.cross_entropy(full, label, ignore_index=255, reduction=reduction)

    batch = random_batch(args)
    losses = usual(*batch, "none").detach().flatten().sort(descending=True).values
    counts = [len(losses) // 32, len(losses) // 16, int((losses > -log(0.7)).sum())]
    few, kept, hard = (gap_near(losses, count) for count in counts) if counts[0] else (0, 0, 0)
    if not few < kept < hard:
        raise UserError(
            f"with {kept} pixels to keep, these sizes do not reach both branches of mining; "
            "try --size 512x512 --stride 8"
        )

    def mining(name: str, above: int) -> Pair:
        """STDC's mining with a limit that so many pixels are above.

        Its users sort every pixel and take those above the limit, or else the first `kept`.
        """
        limit = float(losses[above - 1] + losses[above]) / 2

        def by_sorting(logits: "Tensor", label: "Tensor") -> "Tensor":
            loss = usual(logits, label, "none").flatten().sort(descending=True).values
            return (loss[loss > limit] if loss[kept] > limit else loss[:kept]).mean()

        rule = stdc_rule(exp(-limit), kept)
        return Pair(name, by_sorting, partial(ohem, align_corners=align_corners, rule=rule), batch)

    return [
        Pair("cross-entropy", usual, partial(cross_entropy, align_corners=align_corners), batch),
        mining("mining, threshold", hard),
        mining("mining, top-k", few),
    ]


def gap_near(losses: "Tensor", place: int) -> int:
    """The place of the widest gap between two sorted losses near this one.

    Whether a pixel right at a limit is kept is a matter of rounding, and so would be the equality
    of any two forms.
    """
    start = max(place - 50, 0)
    return start + 1 + int(losses[start : place + 50].diff().argmin())


def random_batch(args: argparse.Namespace) -> "Batch":
    """Noise, raised by 1 at the true class.

    The label is a map of squares, a tenth of them ignored.
    """
    import torch

    height, width = args.size
    cell = 16 * args.stride
    random = torch.Generator().manual_seed(0)
    grid = (args.batch, -(-height // cell), -(-width // cell))

    def squares(values: "Tensor") -> "Tensor":
        pixels = values.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
        return pixels[:, :height, :width]

    classes = torch.randint(0, args.classes, grid, generator=random)
    label = squares(classes).contiguous()
    # (B, H, W) -> (B, 1, H/stride, W/stride)
    coarse = label[:, None, :: args.stride, :: args.stride]
    logits = torch.randn(args.batch, args.classes, *coarse.shape[2:], generator=random)
    logits.scatter_add_(1, coarse, torch.ones(coarse.shape))
    label[squares(torch.rand(grid, generator=random) < 0.1)] = 255
    return logits.requires_grad_(), label


# --- the command


def loss(args: argparse.Namespace) -> int:
    if args.json:
        check_out(args.json, "--json")
    import torch

    torch.set_num_threads(args.threads)
    threads = plural(args.threads, "thread")
    machine = f"torch {torch.__version__}, {provenance.processor()}, {threads}"
    pairs = loss_pairs(args)
    print(
        f"{args.batch} x {args.classes} classes, {by(args.size)}, "
        f"logits at 1/{args.stride}; {machine}\n"
    )
    equality = {pair.name: differences(pair) for pair in pairs}
    unequal = [name for name, each in equality.items() if not is_equal(**each)]
    rows = [[name, *map("{:.1e}".format, each.values())] for name, each in equality.items()]
    heads = {"relative difference": "left", "loss": "right", "gradient": "right"}
    print_table(heads, rows, failed=unequal)
    if unequal:
        print(
            f"\n{', '.join(unequal)} not equal (allowed: {LOSS_LIMIT} and {GRADIENT_LIMIT}), "
            "so nothing was timed.",
            file=sys.stderr,
        )
        return 1
    costs = {pair.name: cost(pair, args.rounds) for pair in pairs}
    print()
    print_table(COLUMNS, [[name, *cells(each)] for name, each in costs.items()])
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name not in NO_SETTING}
        table = {name: {"equality": equality[name], "cost": costs[name]} for name in costs}
        write_json(args.json, {"settings": settings, "machine": machine, "rows": table})
    return 0


def is_equal(loss: float, gradient: float) -> bool:
    """NaN is not equal."""
    return loss <= LOSS_LIMIT and gradient <= GRADIENT_LIMIT


COLUMNS = {
    "theirs -> ours": "left",
    "CPU ms": "right",
    "faster": "right",
    "peak MiB": "right",
    "less": "right",
}


def cells(measured: dict[str, Any]) -> list[str]:
    return [
        "{:.0f} -> {:.0f}".format(*measured["milliseconds"]),
        f"{measured['faster']:.1f}x",
        "{:.0f} -> {:.0f}".format(*measured["mebibytes"]),
        f"{measured['less_memory']:.1f}x",
    ]


def add_loss(subjects: Subjects) -> None:
    parser = subjects.add_parser(
        "loss",
        help="losses of upsampled logits: time, memory",
        description=LOSS,
    )
    add = parser.add_argument

    def add_number(flag: str, default: int, meaning: str) -> None:
        add(
            flag,
            type=positive,
            default=default,
            metavar="N",
            help=f"{meaning} (default: {default})",
        )

    add(
        "--size",
        type=height_by_width,
        default="1024x1024",
        metavar="HxW",
        help="of the label (default: 1024x1024)",
    )
    add_number("--classes", 19, "channels of the logits")
    add_number("--batch", 2, "images")
    add_number("--stride", 8, "size of the label over size of the logits")
    add("--align-corners", action="store_true", help="upsample with align_corners=True")
    add_number("--rounds", 3, "how often each form runs")
    add_number("--threads", 1, "torch's threads; CPU time adds them up")
    add("--json", type=Path, metavar="FILE", help="also write everything there")
    parser.set_defaults(run=loss, parser=parser)
