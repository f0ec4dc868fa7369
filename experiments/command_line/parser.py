"""An argument parser whose errors are one sentence, and types of arguments."""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.command_line.errors import UserError
from experiments.command_line.names import did_you_mean

Subjects = argparse._SubParsersAction  # what `add_subparsers` returns


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence, and whose descriptions keep their lines."""

    def __init__(
        self,
        formatter_class: type[argparse.HelpFormatter] = argparse.RawDescriptionHelpFormatter,
        **settings: str | None,
    ) -> None:
        super().__init__(allow_abbrev=False, formatter_class=formatter_class, **settings)

    def error(self, message: str) -> None:
        _, unknown, words = message.partition("unrecognized arguments: ")
        if unknown:
            wrong = words.split()[0]
            known = [flag for flag in self._option_string_actions if flag.startswith("--")]
            guess = did_you_mean(wrong, known)
            message = f"there is no option {wrong}; {guess}there are {', '.join(known)}"
        # "--batch 0: it is ..." of the types below
        raise UserError(re.sub(r"^argument (\S+): (\S*: it is )", r"\1 \2", message))


@dataclass(frozen=True)
class Number:
    """The type of an argument that is a number in a range, both ends included."""

    kind: type[int] | type[float]
    least: float
    meaning: str
    most: float = sys.float_info.max

    def __call__(self, text: str) -> float:
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if not self.least <= value <= self.most:
            raise argparse.ArgumentTypeError(f"{text}: it is {self.meaning}")
        return value


count = Number(int, 0, "a whole number from 0 up")
positive = Number(int, 1, "a whole number from 1 up")
share = Number(float, 0, "a share from 0 to 1", most=1)
seconds = Number(float, 0, "a number of seconds from 0 up")
duration = Number(float, sys.float_info.min, "a number of seconds above 0")


def height_by_width(text: str) -> tuple[int, int]:
    height, by, width = text.partition("x")
    if not by:
        raise argparse.ArgumentTypeError(f"{text}: it is HEIGHTxWIDTH, such as 512x1024")
    return positive(height), positive(width)


def by(size: Sequence[int]) -> str:
    """ "512x1024", height first."""
    return "x".join(map(str, size))
