"""The rows that a word or pattern of the command line names."""

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatch, fnmatchcase
from typing import TYPE_CHECKING, Any

from experiments.command_line.errors import UserError
from experiments.command_line.values import catalogue, named_row

if TYPE_CHECKING:  # torch takes seconds, and --help and a refused word must not
    pass


def matching(pattern: str) -> list[str]:
    """The addresses that the comma-separated words name; a paper alone is its main row, as everywhere."""
    known = catalogue()
    every = [f"{paper}/{row}" for paper, entry in known["papers"].items() for row in entry["rows"]]
    found: list[str] = []
    for word in filter(None, (part.strip() for part in pattern.split(","))):
        wild = any(sign in word for sign in "*?[")
        named = (
            [address for address in every if fnmatchcase(address, word)]
            if wild
            else ["/".join(named_row(known, word))]
        )
        if not named:
            raise UserError(nothing_matches(word, known))
        found += named
    if not found:
        raise UserError(
            f"--model {pattern} names no row; write rows or patterns with commas between them, such as 'stdc/*'"
        )
    return list(dict.fromkeys(found))


def nothing_matches(word: str, known: Mapping[str, Any]) -> str:
    paper, _, row = word.partition("/")
    if paper in known["papers"]:
        return f"no row matches {word}; {paper} has {', '.join(known['papers'][paper]['rows'])}"
    near = get_close_matches(paper.rstrip("*"), list(known["papers"]), n=1, cutoff=0.4)
    guess = f"did you mean {near[0]}/{row or '*'}? " if near else ""
    return f"no row matches {word}; {guess}there are the papers {', '.join(known['papers'])}"


def rows_of(pattern: str | None, several: bool) -> list[str]:
    known = catalogue()
    addresses = [
        f"{paper}/{row}" for paper, entry in known["papers"].items() for row in entry["rows"]
    ]
    found = [each for each in addresses if several and fnmatch(each, pattern or "*")]
    return found or ["/".join(named_row(known, pattern))]
