"""How numbers and tables look, wherever a report shows them."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def console() -> Console:
    screen = Console()
    return screen if screen.is_terminal else Console(width=180)


def bare_table(*heads: str) -> Table:
    return Table(*heads, box=None, pad_edge=False, header_style="bold")


def print_table(
    columns: Mapping[str, str], rows: Iterable[Sequence[str]], failed: Collection[str] = ()
) -> None:
    """Print a table. `columns` are its heads and "left" or "right"; rows in `failed` are red."""
    table = bare_table()
    for head, side in columns.items():
        table.add_column(head, justify=side)
    for row in rows:
        table.add_row(*map(Text, row), style="red" if row[0] in failed else None)
    console().print(table)


def printed_text(out: Console) -> str:
    """What was printed into the console's file, without spaces at the ends of lines."""
    lines = out.file.getvalue().strip("\n").splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def print_markdown(columns: Mapping[str, str], rows: Iterable[Sequence[str]]) -> None:
    print(*markdown_lines(columns, rows), sep="\n")


def markdown_lines(columns: Mapping[str, str], rows: Iterable[Sequence[str]]) -> list[str]:
    rulers = ["--:" if side == "right" else "---" for side in columns.values()]
    lines = [columns, rulers, *(map(plain, row) for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def plain(words: str) -> str:
    """Words that can end neither their cell nor their line."""
    return " ".join(words.split()).replace("|", "\\|")


# --- numbers


def percent(
    share: float | None, digits: int = 2, sign: str = "", none: str = "-", unit: str = ""
) -> str:
    """A fraction in percent: "74.80", or "+0.31" with sign="+"; `none` for None and nan."""
    known = share is not None and math.isfinite(share)
    return f"{100 * share:{sign}.{digits}f}{unit}" if known else none


def between(
    interval: Sequence[float] | None, digits: int = 2, sign: str = "", none: str = "-"
) -> str:
    """An interval of fractions in percent: "[73.90, 75.60]"."""
    if not interval:
        return none
    low, high = (percent(end, digits, sign) for end in interval)
    return f"[{low}, {high}]"


def millions(count: int | None, space: str = "") -> str:
    return "-" if count is None else f"{count / 1e6:.2f}{space}M"


def signed(points: float | None) -> str:
    """A difference in percentage points: "-0.30"."""
    return "-" if points is None else f"{points:+.2f}"


def mean_and_spread(mean: float | None, spread: float | None, digits: int = 2) -> str:
    """ "74.80 ± 0.31"; a single run has no spread."""
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def plural(number: int, noun: str) -> str:
    """ "1 image", "2 images"."""
    return f"{number} {noun}{'s' * (number != 1)}"
