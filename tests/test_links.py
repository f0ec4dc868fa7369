"""Tests of links: what a page links to exists, headings too. Nothing is asked of the network."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCED.sub("", page.read_text())
    return {anchor(each) for each in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The file and the anchor of every link that stays within the project."""
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text())):
        if not re.match(r"\w+:", link):
            file, _, heading = link.partition("#")
            yield (page.parent / file if file else page), heading


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page: Path) -> None:
    for file, heading in links(page):
        assert file.exists(), f"{page.name} links to {file}"
        assert not heading or heading in anchors(file), f"{file.name} has no heading {heading}"


def test_anchors_are_those_of_github() -> None:
    assert anchor("What `attention` costs: memory, time") == "what-attention-costs-memory-time"
    assert "a-paper-in-one-file" in anchors(ROOT / "CONTRIBUTING.md")
