"""Time and memory, measured here and in one process, in turns; where something is computed in another way, equal results are shown first.

    python experiments/benchmark.py infer bisenet stdc/stdc1 ddrnet/23_slim      frames per second, each at its paper's size
    python experiments/benchmark.py infer "stdc/*" --size 1024x2048 --folded     rows by a pattern, all at one size
    python experiments/benchmark.py loss                       cross-entropy and hard-example mining of upsampled logits
    python experiments/benchmark.py data --root DIR            what a training sample costs, from files, zips and packs
    python experiments/benchmark.py loss --batch 4 --stride 4 --rounds 5 --json loss.json

Each has its own --help.
"""

import sys

from experiments.benchmarks import data, inference
from experiments.benchmarks.losses import add_loss
from experiments.command_line.errors import command, run_main
from experiments.command_line.parser import Parser


@command(stopped="stopped; nothing was written")
def main(words: list[str] | None = None) -> int:
    given, unknown = parser().parse_known_args(words)
    if unknown:  # argparse itself would name the options of the program instead of the subject's
        given.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return given.run(given)


def parser() -> Parser:
    made = Parser(prog="benchmark.py", description=__doc__)
    subjects = made.add_subparsers(title="what to measure", metavar="SUBJECT", required=True)
    inference.add_infer(subjects)
    add_loss(subjects)
    data.add_data(subjects)
    return made


if __name__ == "__main__":
    sys.exit(run_main(main))
