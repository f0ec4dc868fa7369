"""Tests of the static site: a page of each paper, made from its file, and no broken link."""

import subprocess
import sys
from pathlib import Path

import pytest

import segmodels
from docs.build_site import as_markdown, figures_table, paper_page, rows_table
from experiments.command_line.catalogue import catalogue
from tests.support.paths import ROOT


@pytest.mark.parametrize("paper", segmodels.papers())
def test_a_papers_page_holds_its_text_its_rows_and_how_to_run_it(paper: str) -> None:
    page = paper_page(paper, [])
    entry = catalogue()["papers"][paper]
    assert page.startswith(f"# {entry['title']}\n")
    assert page.count("```") % 2 == 0
    for row in entry["rows"]:
        assert f"| `{row}` | " in page
    for departure in entry["departures"].splitlines():
        assert departure in page
    assert f"python experiments/run.py --model {paper}\n" in page
    file = ROOT / "segmodels" / "architectures" / f"{paper}.py"
    drawings = [line for line in file.read_text().splitlines() if line.startswith("    image -> ")]
    assert all(line.strip() in page for line in drawings[:1])


def test_drawings_keep_their_form_and_paragraphs_do_not() -> None:
    text = "A paragraph\nof two lines.\n\n    a ─┬─ b\n       └─ c\n\n    x = y\n\nAnother."
    assert as_markdown(text) == (
        "A paragraph\nof two lines.\n\n```text\na ─┬─ b\n   └─ c\n\nx = y\n```\n\nAnother."
    )


def test_a_rows_difference_is_named_and_a_figure_has_its_place_and_source() -> None:
    entry = catalogue()["papers"]["bisenet"]
    table = rows_table("bisenet", entry, [])
    assert "| `no_arm` | `model.arm=False` |" in table
    assert "| `resnet18` | the main row |" in table
    figures = figures_table(entry)
    first = entry["rows"]["resnet18"]["published"][0]
    place = f"{first['data']} {first['split']} | {first['protocol']} | {first['source']}"
    assert f"| `resnet18` | {first['miou']} | {place} |" in figures


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "docs/build_site.py", tmp_path / "site"], cwd=ROOT, check=True)
    index = (tmp_path / "site" / "index.html").read_text()
    for paper in segmodels.papers():
        assert f"papers/{paper}.html" in index
        page = (tmp_path / "site" / "papers" / f"{paper}.html").read_text()
        assert "http://" not in page.replace("http://www.w3.org", "")
    assert (tmp_path / "site" / "docs" / "GUIDE.html").is_file()


def test_its_help_says_what_it_needs() -> None:
    words = [sys.executable, "docs/build_site.py", "--help"]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".[docs]" in said and "site/index.html" in said
