"""Measure the time of our fully-connected CRF and of pydensecrf2, after showing how close they are."""

import argparse
import timeit
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import TYPE_CHECKING

from experiments.benchmarks.alternation import median_ratio, take_turns
from experiments.command_line.errors import as_user_error
from experiments.command_line.parser import Subjects, by, height_by_width, positive
from experiments.records import provenance
from experiments.reports.number_formats import percent, plural, print_table

if TYPE_CHECKING:  # torch takes seconds, and --help and a refused word must not
    from torch import Tensor

    from segmodels.parts.crf import Settings

CRF = """\
Mean field of the fully-connected CRF, ours and pydensecrf2's, of a drawn street scene with smooth
random scores, by DeepLab v2's settings. Both run once before they are timed, and their
probabilities are compared. Then they run in turns (A B, B A, ...). Time is wall time, the median of
the rounds; the ratio is the median of the rounds' own. pydensecrf2 computes in one thread, whatever
--threads says.
"""


def crf(args: argparse.Namespace) -> int:
    import torch

    from segmodels.parts.crf import Settings, marginals

    torch.set_num_threads(args.threads)
    with as_user_error():
        probabilities, image = scores_and_scene(args.size, args.classes)
    settings = Settings(args.steps)
    forms = {"ours": partial(marginals, probabilities, image, settings)}
    machine = f"torch {torch.__version__}, {provenance.processor()}"
    print(f"{by(args.size)}, {args.classes} classes, {plural(args.steps, 'step')}; {machine}\n")
    ours = forms["ours"]()
    if find_spec("pydensecrf"):
        forms["pydensecrf2"] = partial(pydensecrf_marginals, probabilities, image, settings)
        theirs = forms["pydensecrf2"]()
        equal = (ours.argmax(0) == theirs.argmax(0)).double().mean()
        apart = (ours - theirs).abs()
        print(f"difference of a probability: mean {apart.mean():.1e}, greatest {apart.max():.1e}")
        print(f"labels that are equal: {percent(float(equal), unit=' %')}\n")
    else:
        print('pydensecrf2 is not there to compare with: pip install "segmodels[crf]"\n')
    times = take_turns(forms, range(args.rounds), wall_seconds)
    threads = {"ours": args.threads, "pydensecrf2": 1}
    rows = [[name, str(threads[name]), f"{median(times[name]):.2f}"] for name in forms]
    print_table({"CRF": "left", "threads": "right", "seconds": "right"}, rows)
    if len(times) == 2:
        print(f"\nours takes {median_ratio(*times.values()):.2f} times as long as pydensecrf2")
    return 0


def scores_and_scene(size: tuple[int, int], classes: int) -> "tuple[Tensor, Tensor]":
    """Return smooth random probabilities (C, H, W), and a street scene, uint8 (3, H, W)."""
    import torch
    import torch.nn.functional as F

    from datamodules.scenes import scene

    pixels, _ = scene(0, 0, *size)
    coarse = [-(-side // 8) for side in size]
    scores = 2 * torch.randn(1, classes, *coarse, generator=torch.Generator().manual_seed(0))
    full = F.interpolate(scores, size, mode="bilinear")[0]
    return full.softmax(0), torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def pydensecrf_marginals(
    probabilities: "Tensor", image: "Tensor", settings: "Settings"
) -> "Tensor":
    import numpy as np
    import torch
    from pydensecrf.densecrf import DenseCRF2D
    from pydensecrf.utils import unary_from_softmax

    classes, height, width = probabilities.shape
    pixels = image.permute(1, 2, 0).contiguous().numpy()  # (3, H, W) -> (H, W, 3)
    field = DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(unary_from_softmax(probabilities.numpy()))
    field.addPairwiseBilateral(
        sxy=settings.appearance_position,
        srgb=settings.appearance_color,
        rgbim=pixels,
        compat=settings.appearance_weight,
    )
    field.addPairwiseGaussian(sxy=settings.smoothness_position, compat=settings.smoothness_weight)
    refined = torch.from_numpy(np.array(field.inference(settings.steps)))  # (C, H*W)
    return refined.unflatten(1, (height, width))


def wall_seconds(work: Callable[[], object], turn: int) -> float:
    return timeit.timeit(work, number=1)


def add_crf(subjects: Subjects) -> None:
    parser = subjects.add_parser(
        "crf", help="the fully-connected CRF beside pydensecrf2: time", description=CRF
    )
    add = parser.add_argument
    add(
        "--size",
        type=height_by_width,
        default="513x513",
        metavar="HxW",
        help="of the image (default: 513x513)",
    )
    numbers = {
        "--classes": (21, "of the probabilities"),
        "--steps": (10, "of the mean field"),
        "--rounds": (5, "how often each runs"),
        "--threads": (1, "torch's threads"),
    }
    for flag, (default, meaning) in numbers.items():
        help = f"{meaning} (default: {default})"
        add(flag, type=positive, default=default, metavar="N", help=help)
    parser.set_defaults(run=crf, parser=parser)
