"""Measure time and memory here, in turns; where something is computed in another way, show first
that the results are equal.

    python experiments/benchmark.py infer bisenet stdc/stdc1 ddrnet/23_slim
        frames per second, each at its paper's size
    python experiments/benchmark.py infer "stdc/*" --size 1024x2048 --folded
        rows by a pattern, all at one size
    python experiments/benchmark.py structures
        what dilation, decoders, pyramids, two paths and parallel branches cost: memory, time
    python experiments/benchmark.py operators --plot operators.png
        how operators of attention grow with the image: memory, time
    python experiments/benchmark.py heads
        what heads add to a ResNet-101, beside the cost table of the EMANet paper
    python experiments/benchmark.py loss
    python experiments/benchmark.py loss --batch 4 --stride 4 --rounds 5 --json loss.json
        cross-entropy and hard-example mining of upsampled logits
    python experiments/benchmark.py crf --threads 2
        the mean field of the fully-connected CRF, beside pydensecrf2
    python experiments/benchmark.py data --root DIR
        what a training sample costs, from files, zips and packs

Each has its own --help.
"""

import sys

from experiments.benchmarks.data_loading import add_data
from experiments.benchmarks.heads import add_heads
from experiments.benchmarks.losses import add_loss
from experiments.benchmarks.mean_field import add_crf
from experiments.benchmarks.network_speed import add_infer
from experiments.benchmarks.operators import add_operators
from experiments.benchmarks.structures import add_structures
from experiments.command_line.errors import command, run_main
from experiments.command_line.parser import Parser


@command(stopped="stopped; nothing was written")
def main(arguments: list[str] | None = None) -> int:
    args, unknown = make_parser().parse_known_args(arguments)
    if unknown:  # argparse itself would name the options of the program instead of the subject's
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args.run(args)


def make_parser() -> Parser:
    parser = Parser(prog="benchmark.py", description=__doc__)
    subjects = parser.add_subparsers(title="what to measure", metavar="SUBJECT", required=True)
    add_infer(subjects)
    add_structures(subjects)
    add_operators(subjects)
    add_heads(subjects)
    add_loss(subjects)
    add_crf(subjects)
    add_data(subjects)
    return parser


if __name__ == "__main__":
    sys.exit(run_main(main))
