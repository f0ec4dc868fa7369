"""An argument parser whose errors are one sentence, and types of arguments."""

import argparse
import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from experiments.command_line.errors import UserError
from experiments.command_line.invocation import as_started
from experiments.command_line.names import unknown_name
from segmodels.nearest_names import nearest_name, synonyms

Subjects = argparse._SubParsersAction  # what `add_subparsers` returns
NO_BREAK = "\N{NO-BREAK SPACE}"
# what may compute a network, and the packages that it needs beside ours
RUNTIMES = {"torch": (), "onnxruntime": ("onnx", "onnxscript", "onnxruntime")}


class Formatter(argparse.HelpFormatter):
    """Descriptions keep their lines, but for those that the terminal would break."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        width += 2  # argparse leaves two columns free, which our lines may use
        return "\n".join(fitting_lines(as_started(text), width))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return super()._split_lines(as_started(text), width)


def fitting_lines(text: str, width: int) -> Iterator[str]:
    """The lines of a help text; a paragraph with a line beyond the width is filled anew."""
    for paragraph in paragraphs(text):
        if max(map(len, paragraph)) <= width:
            yield from paragraph
        else:
            yield from filled(paragraph, width)


def paragraphs(text: str) -> Iterator[list[str]]:
    """Lines that belong together: prose, a term with its explanation, or a command to type."""
    paragraph: list[str] = []
    for line in text.splitlines():
        if paragraph and not goes_on(paragraph, line):
            yield paragraph
            paragraph = []
        paragraph.append(line)
    if paragraph:
        yield paragraph


def goes_on(paragraph: Sequence[str], line: str) -> bool:
    """True for a line that goes on with the paragraph."""
    first, last = paragraph[0], paragraph[-1]
    if is_command(first):
        return last.endswith("\\")
    alone = not first or not line or is_command(line) or text_column(line) > indent_of(line)
    return not alone and indent_of(line) == text_column(first)


def filled(paragraph: Sequence[str], width: int) -> list[str]:
    """The paragraph in lines to a width; what goes on stands below the text of its first line."""
    column = text_column(paragraph[0])
    text = " ".join(
        line.removesuffix("\\").strip() for line in [paragraph[0][column:], *paragraph[1:]]
    )
    ending = ""
    if is_command(paragraph[0]):
        text = re.sub(r"(--\S+) (?=[^-])", rf"\1{NO_BREAK}", text)  # a flag and its value
        ending = " \\"
    lines = textwrap.wrap(
        text,
        width - len(ending),
        initial_indent=paragraph[0][:column],
        subsequent_indent=" " * (column + len(ending)),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return (ending + "\n").join(lines).replace(NO_BREAK, " ").splitlines()


def is_command(line: str) -> bool:
    """True for an example to type, without an explanation beside it."""
    words = line.lstrip().startswith(("python ", "segmodels "))
    return words and text_column(line) == indent_of(line)


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def text_column(line: str) -> int:
    """Where the explanation of a term begins, or the text of a line without a term."""
    term = re.match(r" *\S+(?: \S+)*  +(?=\S)", line)
    return term.end() if term else indent_of(line)


# argparse's errors -> ours
REWORDED = {
    r"argument (\S+): (\S*: it is )": r"\1 \2",  # of the types below
    r"argument (\S+): expected (.+)": r"\1 takes \2; see --help",
    r"argument (\S+): ignored explicit argument '(.*)'": r"\1 takes no value; leave out =\2",
    r"argument (\S+): not allowed with argument (\S+)": r"\1 and \2 cannot both hold; "
    "leave one of them out",
    r"the following arguments are required: (.+)": r"missing: \1; see --help",
}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence, and whose descriptions keep their lines.

    `groups` are those of the words group.name=value that the command takes.
    """

    def __init__(self, prog: str, groups: Sequence[str] = (), **settings: str | None) -> None:
        super().__init__(
            as_started(prog), allow_abbrev=False, formatter_class=Formatter, **settings
        )
        self.groups = groups

    def error(self, message: str) -> None:
        _, unknown, words = message.partition("unrecognized arguments: ")
        if unknown:
            self.refuse_option(words.split()[0])
        for argparses, ours in REWORDED.items():
            message = re.sub(f"^{argparses}", ours, message)
        raise UserError(message)

    def refuse_option(self, word: str) -> None:
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        fields = [each for each in synonyms(word) if each.partition(".")[0] in self.groups]
        nearest = nearest_name(word, known, cutoff=1)
        if not nearest and fields:
            nearest = f"{fields[0]}=VALUE"
        raise unknown_name("option", word, nearest or nearest_name(word, known), known)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            kind = action.option_strings[0] if action.option_strings else action.metavar
            nearest = nearest_name(str(value), action.choices)
            raise unknown_name(kind, value, nearest, action.choices)


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


def add_computation(add: Callable[..., argparse.Action]) -> None:
    """Add the options of how logits are computed, to a parser's or a group's `add_argument`."""
    add(
        "--precision",
        choices=("32-true", "16-mixed", "bf16-mixed"),
        help="default: what the run was trained in",
    )
    add(
        "--runtime",
        type=runtime,
        default="torch",
        metavar="NAME",
        help="torch (default), or onnxruntime: on the CPU faster still, once each size of image "
        'is exported, which takes seconds; needs the extra "export"',
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="default: cuda where there is one, else mps (Apple's, untested here), else cpu",
    )


def check_computation(args: argparse.Namespace) -> None:
    """Refuse options of `add_computation` that do not go together."""
    if args.runtime == "onnxruntime" and args.device not in ("auto", "cpu"):
        raise UserError(
            f"--runtime onnxruntime computes on the CPU; leave out --device {args.device}"
        )


def runtime(text: str) -> str:
    """Return the word of a --runtime, or an error where its packages are not installed."""
    if text not in RUNTIMES:
        raise argparse.ArgumentTypeError(f"{text} is none; give one of {', '.join(RUNTIMES)}")
    if lacking := [name for name in RUNTIMES[text] if find_spec(name) is None]:
        raise argparse.ArgumentTypeError(
            f'{text} needs {", ".join(lacking)}: pip install "segmodels[export]"'
        )
    return text


def by(size: Sequence[int]) -> str:
    """ "512x1024", height first."""
    return "x".join(map(str, size))
