"""The README says nothing that is not true now."""

import re
from pathlib import Path

import pytest

from experiments import benchmark, report
from experiments.catalogue import catalogue

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_results_is_what_the_report_prints(capsys: pytest.CaptureFixture) -> None:
    assert report.main(["--format", "markdown"]) == 0
    written = README.split("<!-- results -->\n")[1].split("<!-- /results -->")[0]
    assert written == capsys.readouterr().out, (
        "paste `python experiments/report.py --format markdown` between the marks"
    )


def test_the_table_of_samples_is_what_was_measured(capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main(["data", "--stored"]) == 0
    written = README.split("<!-- feeding -->\n")[1].split("<!-- /feeding -->")[0]
    assert written == capsys.readouterr().out, (
        "paste `python experiments/benchmark.py data --stored` between the marks"
    )


def test_every_paper_that_it_names_is_there() -> None:
    ids = {entry["arxiv"] for entry in catalogue()["papers"].values() if entry["arxiv"]}
    named = set(
        re.findall(
            r"arXiv:(\d{4}\.\d{4,5})", README.split("## What there is")[1].split("Beside logits")[0]
        )
    )
    assert named and named <= ids


def test_every_program_and_picture_that_it_names_exists() -> None:
    named = re.findall(
        r"(experiments/\w+\.py|docs/\w+\.png|notebooks/\w+\.ipynb|ARCHITECTURE\.md)", README
    )
    assert len(set(named)) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []
