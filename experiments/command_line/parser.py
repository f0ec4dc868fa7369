"""An argument parser whose errors are one sentence, and types of arguments."""

import argparse
from collections.abc import Sequence
from typing import Any

from experiments.command_line.names import did_you_mean

Subjects = argparse._SubParsersAction  # what `add_subparsers` returns


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence, and whose descriptions keep their lines."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
            | settings
        )

    def error(self, message: str) -> None:
        if "unrecognized arguments" in message:
            wrong = message.split(":", 1)[1].split()[0]
            known = [
                flag
                for action in self._actions
                for flag in action.option_strings
                if flag.startswith("--")
            ]
            message = (
                f"there is no option {wrong}; {did_you_mean(wrong, known)}"
                f"there are {', '.join(known)}"
            )
        self.exit(2, f"error: {message}\n")


def by(size: Sequence[int]) -> str:
    """ "512x1024", height first."""
    return "x".join(map(str, size))


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} came; a whole number from 1 is wanted")
    return int(text)


def seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} came; a number above 0 is wanted")
    return found


def height_by_width(text: str) -> tuple[int, int]:
    height, by, width = text.partition("x")
    if not by:
        raise argparse.ArgumentTypeError(f"{text!r} came; HEIGHTxWIDTH is wanted, such as 512x1024")
    return positive(height), positive(width)
