"""BibTeX of a paper, read from the head of its file."""

import ast
import re

from experiments.command_line.catalogue import ROOT

FOLDER = ROOT / "segmodels" / "architectures"
# The name that a file begins with is a part of these papers' titles; before others it is ours.
NAME_IN_TITLE = (
    *("a2net", "bisenet", "bisenetv2", "ccnet", "deeplabv2", "fastscnn", "ocnet", "pidnet"),
    *("psanet", "refinenet", "segformer", "segmenter", "segnet", "unet"),
)
JOURNALS = ("IJCV", "TPAMI", "T-ITS")


def citation(paper: str) -> str:
    """Return a paper's entry, with its authors' family names; a comment for what is no paper."""
    head = ast.get_docstring(ast.parse((FOLDER / f"{paper}.py").read_text(encoding="utf-8")))
    title, *lines = head.partition("\n\n")[0].splitlines()
    said = re.match(r"(?P<authors>.+?)\. (?P<place>.*?\d{4}.*?)(\.|$)", " ".join(lines))
    if not said:
        return f"% {' '.join([title, *lines])}"
    authors = said["authors"].split(", ")
    venue, year = re.fullmatch(r"(.*?) ?(\d{4})(?:[ ,(].*)?", said["place"]).groups()
    fields = {
        "title": f"{{{title_of(paper, title)}}}",
        "author": " and ".join(authors),
        "year": year,
    }
    kind = "misc"
    if venue:
        kind = "article" if any(name in venue for name in JOURNALS) else "inproceedings"
        fields["journal" if kind == "article" else "booktitle"] = venue
    if found := re.search(r"arXiv:(\d{4}\.\d{4,5})", " ".join(lines)):
        fields |= {"eprint": found[1], "archivePrefix": "arXiv"}
    key = f"{authors[0].lower()}{year}{paper}"
    body = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@{kind}{{{key},\n{body}}}"


def title_of(paper: str, line: str) -> str:
    _, colon, rest = line.partition(": ")
    if paper == "deeplabv2":  # whose title has no number
        return f"DeepLab: {rest}"
    return rest if colon and paper not in NAME_IN_TITLE else line
