"""Build the pages of the project, and one of each paper made from its file, as a static site.

    pip install -e ".[docs]"
    python docs/build_site.py site        then open site/index.html

Nothing is written beside the pages that are there: a paper's page is its docstring, the stored
catalogue's rows and figures, and its BibTeX. A broken link ends the build.
"""

import argparse
import ast
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments.command_line.catalogue import catalogue  # noqa: E402
from experiments.command_line.citations import citation  # noqa: E402
from experiments.records.results import (  # noqa: E402
    RESULTS,
    PublishedFigure,
    Result,
    kept_files,
    read_results,
)
from experiments.reports.number_formats import millions  # noqa: E402
from experiments.reports.terminal_tables import best_of_ours, macs_shown, ours_shown  # noqa: E402

PAGES = {
    "README": "Overview",
    "README.zh-CN": "中文",
    "ARCHITECTURE": "Architecture",
    "CONTRIBUTING": "Contributing",
    "CHANGELOG": "Changelog",
}
SETTINGS = """\
project = "segmodels"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "segmodels"
html_static_path = ["style"]
html_css_files = ["wide.css"]
html_show_copyright = False
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
"""
STYLE = ".content { width: 62em }"  # drawings are up to 100 characters wide
INDEX = """\
# segmodels

Semantic-segmentation papers in PyTorch Lightning, a readable file each.

```{{toctree}}
:caption: The project
:maxdepth: 1

{pages}
```

## Papers by year

{papers}

```{{toctree}}
:caption: Papers
:maxdepth: 1
:hidden:

{names}
```
"""


# --- a paper's page


def paper_page(paper: str, results: list[Result]) -> str:
    """Return the docstring of a paper's file as Markdown, with its rows, figures and commands."""
    entry = catalogue()["papers"][paper]
    file = f"segmodels/architectures/{paper}.py"
    docstring = ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8")))
    head, _, text = docstring.partition("\n\n")
    title, *lines = head.splitlines()
    text, _, departures = text.partition("Departures:\n")
    parts = [
        f"# {title}",
        linked(" ".join(lines)),
        f"The file: [{file}](../{file})",
        as_markdown(text),
        f"## Departures\n\n{departures}" if departures else "",
        "## Rows\n\n" + rows_table(paper, entry, results),
        "## Published figures\n\n" + figures_table(entry),
        f"## How to run it\n\n```bash\n{commands(paper)}\n```",
        f"## Citation\n\n```bibtex\n{citation(paper)}\n```",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def linked(text: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def as_markdown(text: str) -> str:
    """Return a docstring's paragraphs, with its drawings, which are indented, as they are."""
    blocks = []
    for block in re.split(r"\n\n(?=\S)", text.strip("\n")):
        paragraph, *drawn = re.split(r"\n\n(?=    )", block, maxsplit=1)
        blocks += [paragraph, *map(drawing, drawn)]
    return "\n\n".join(blocks)


def drawing(block: str) -> str:
    return f"```text\n{dedent(block)}\n```"


def rows_table(paper: str, entry: Mapping[str, Any], results: list[Result]) -> str:
    lines = [
        "| row | differs from the main row | parameters | MACs | data | published | ours |",
        "|---|---|--:|--:|---|--:|--:|",
    ]
    main = entry["rows"][entry["main"]]
    for row, each in entry["rows"].items():
        figures = [figure for figure in each["published"] if figure["data"] == each["data"]]
        first = PublishedFigure(**figures[0]) if figures else None
        ours = ours_shown(best_of_ours(results, f"{paper}/{row}", each["data"]), first)
        cells = [
            f"`{row}`",
            "the main row" if row == entry["main"] else difference(each, main),
            millions(each["inference_parameters"]),
            macs_shown(each),
            each["data"],
            f"{first.miou:.1f} ({first.split})" if first else "",
            ours,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def difference(row: Mapping[str, Any], main: Mapping[str, Any]) -> str:
    """Name the options and the fields of the recipe that a row has otherwise, with their values."""
    found = []
    for group in ("model", "recipe"):
        for name, value in row[group].items():
            if value != main[group].get(name):
                shown = f"{len(value)} values" if name == "class_weights" else value
                found.append(f"`{group}.{name}={shown}`")
    if row["starts_from"] != main["starts_from"]:
        found.append(f"starts from {row['starts_from']}")
    return ", ".join(found) or "in its network"


def figures_table(entry: Mapping[str, Any]) -> str:
    lines = ["| row | mIoU | data | protocol | source |", "|---|--:|---|---|---|"]
    for row, each in entry["rows"].items():
        for figure in each["published"]:
            place = f"{figure['data']} {figure['split']}"
            options = ", ".join(f"{name}={value}" for name, value in figure["model"].items())
            protocol = " with ".join(filter(None, [figure["protocol"], options]))
            lines.append(
                f"| `{row}` | {figure['miou']} | {place} | {protocol} | {figure['source']} |"
            )
    return "\n".join(lines) if len(lines) > 2 else "None was seen; the file says why."


def commands(paper: str) -> str:
    return "\n".join(
        [
            f"python experiments/run.py --model {paper} --show",
            f"python experiments/run.py --model {paper}",
            f"python experiments/evaluate.py runs/{paper}-... --protocols",
            f"python experiments/export.py runs/{paper}-... --size any --out {paper}.onnx",
        ]
    )


# --- the site


def write_sources(folder: Path) -> None:
    """Write all pages below a folder, and the files that they link to."""
    (folder / "papers").mkdir(parents=True)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("*.py", "_*"))
    for page in PAGES:
        shutil.copy(ROOT / f"{page}.md", folder)
    results = read_results(kept_files(RESULTS))
    papers = catalogue()["papers"]
    for paper in papers:
        (folder / "papers" / f"{paper}.md").write_text(paper_page(paper, results), encoding="utf-8")
    shutil.copytree(
        ROOT / "segmodels" / "architectures",
        folder / "segmodels" / "architectures",
        ignore=shutil.ignore_patterns("_*"),
    )
    docs = sorted(file.stem for file in (ROOT / "docs").glob("*.md"))
    named = [f"{title} <{page}>" for page, title in PAGES.items()]
    index = INDEX.format(
        pages="\n".join([*named, *(f"docs/{name}" for name in docs)]),
        papers="\n".join(by_year(papers)),
        names="\n".join(f"papers/{name}" for name in papers),
    )
    (folder / "index.md").write_text(index, encoding="utf-8")
    (folder / "conf.py").write_text(SETTINGS)
    (folder / "style").mkdir()
    (folder / "style" / "wide.css").write_text(STYLE)


def by_year(papers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    years = {}
    for name, entry in papers.items():
        year = re.search(r"year = \{(\d+)\}", citation(name))
        years.setdefault(year[1] if year else "without a paper", []).append((name, entry["title"]))
    for year in sorted(years):
        yield f"- {year}"
        for name, title in years[year]:
            yield f"  - [{title}](papers/{name}.md)"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="build_site.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="the folder of the site")
    args = parser.parse_args(arguments)
    try:
        from sphinx.cmd.build import main as sphinx_build
    except ImportError:
        print('error: the site is built by Sphinx: pip install -e ".[docs]"', file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "pages"
        write_sources(sources)
        words = ["--quiet", "--fail-on-warning", "--keep-going", "-d", f"{folder}/doctrees"]
        failed = sphinx_build([*words, str(sources), str(args.out)])
    if not failed:
        print(f"site         {args.out / 'index.html'}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
