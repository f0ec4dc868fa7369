"""Run a command by its name: `segmodels run --model bisenet`, or `python -m experiments run ...`."""

import importlib
import sys
from collections.abc import Sequence

from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.invocation import COMMANDS, program
from experiments.command_line.names import known_name
from experiments.command_line.parser import Parser
from segmodels import __version__

DESCRIPTION = """\
Semantic-segmentation papers in PyTorch Lightning.

the built-in streets: nothing to download
  python experiments/run.py --model bisenet
what there is
  python experiments/run.py --list
"""


def make_parser() -> Parser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {meaning}" for name, meaning in COMMANDS.items()]
    parser = Parser(
        prog=program() or "segmodels",
        usage="%(prog)s COMMAND ...",
        description=DESCRIPTION,
        epilog="\n".join(["commands, each with its own --help", *lines]),
    )
    parser.add_argument("--version", action="version", version=f"segmodels {__version__}")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="see below")
    return parser


@command(stopped="stopped; nothing was written")
def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    name = make_parser().parse_args(words[:1]).command  # the other words are the command's own
    if not name:
        raise UserError(f"which command? there are {', '.join(COMMANDS)} (see --help)")
    known_name("command", name, COMMANDS)
    return importlib.import_module(f"experiments.{name}").main(words[1:])


def start() -> int:
    return run_main(main)


if __name__ == "__main__":
    sys.exit(start())
