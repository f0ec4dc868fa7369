"""The one language for rows of papers: names and patterns, with commas between them."""

from fnmatch import fnmatchcase

from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError
from experiments.command_line.names import did_you_mean, known_name, unknown_name
from segmodels.nearest_names import nearest_name, squeezed

WILDCARDS = "*?["
PAPER_CUTOFF = 0.75  # names of networks are short and alike: hrnet is not ddrnet


def matching_rows(pattern: str) -> list[str]:
    """The addresses that the words name, each once; a paper alone is its main row."""
    words = [word.strip() for word in pattern.split(",") if word.strip()]
    if not words:
        raise UserError(
            f"{pattern!r} names no row; write rows or patterns with commas between them, "
            "such as 'stdc/*'"
        )
    papers = catalogue()["papers"]
    rows: list[str] = []
    for word in words:
        rows += wildcard_rows(word, papers) if is_pattern(word) else [row_address(word)]
    return list(dict.fromkeys(rows))


def is_pattern(text: str) -> bool:
    """True for a text that may name several rows."""
    return any(sign in text for sign in f"{WILDCARDS},")


def wildcard_rows(word: str, papers: dict[str, dict]) -> list[str]:
    every = [f"{paper}/{row}" for paper, entry in papers.items() for row in entry["rows"]]
    if rows := [address for address in every if fnmatchcase(address, word)]:
        return rows
    paper, _, row = word.partition("/")
    if paper in papers:
        raise UserError(f"no row matches {word}; {paper} has {', '.join(papers[paper]['rows'])}")
    near = nearest_name(paper.rstrip("*"), papers, PAPER_CUTOFF)
    guess = did_you_mean(near and f"{near}/{row or '*'}")
    raise UserError(f"no row matches {word}; {guess}there are the papers {', '.join(papers)}")


def row_address(word: str) -> str:
    """ "stdc/stdc1" for "stdc", the main row of a paper, and for itself."""
    papers = catalogue()["papers"]
    paper, _, row = word.partition("/")
    if paper not in papers:
        raise unknown_name("paper", paper, nearest_row(paper, papers), papers)
    entry = papers[paper]
    row = known_name("row", row, entry["rows"], f"{paper}/") if row else entry["main"]
    return f"{paper}/{row}"


def nearest_row(word: str, papers: dict[str, dict]) -> str:
    """A paper whose name begins so, the last of several editions ("deeplabv3plus" for "deeplab"); or
    a row ("smp/linknet_resnet18" for "linknet"); or a paper of a name like it."""
    start = squeezed(word)
    if start in papers:
        return start
    if editions := [paper for paper in papers if paper.startswith(start)]:
        return editions[-1]
    for paper, entry in papers.items():
        for row in entry["rows"]:
            if squeezed(row).startswith(start):
                return f"{paper}/{row}"
    return nearest_name(word, papers, PAPER_CUTOFF)


def row_entry(address: str) -> dict:
    """The row as the catalogue has it."""
    paper, _, row = address.partition("/")
    return catalogue()["papers"][paper]["rows"][row]
