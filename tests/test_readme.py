"""The README says nothing that is not true now."""

import re
from pathlib import Path

import pytest
import torch

from experiments import benchmark, report
from experiments.command_line.catalogue import catalogue
from segmodels.released import layouts

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


def test_it_says_whose_networks_no_released_code_is_held_against() -> None:
    held: dict[str, list[bool]] = {}
    for layout in layouts().values():
        held.setdefault(layout.address.partition("/")[0], []).append(layout.port)
    assert set(catalogue()["papers"]) - set(held) == {"fastscnn", "smp"}  # smp is code, no paper
    assert held["bisenetv2"] == [True, True]
    sentence = "(of Fast-SCNN nobody's; of BiSeNetV2\ntwo variants of others)"
    assert sentence in README


OTHERS = re.compile("^mmseg_|_(coincheung|vainf|milesial)$")


def test_it_counts_the_training_steps_that_tests_hold() -> None:
    names = [file.stem for file in (ROOT / "experiments/results/reference/steps").glob("*.npz")]
    others = [name for name in names if OTHERS.search(name)]
    text = " ".join(README.split())
    assert f"for {len(names)} networks (`experiments/results/reference/steps`)" in text
    assert f": {len(names) - len(others)} by their authors' code" in text
    assert f"and {len(others)} by that of others;" in text


def test_its_lines_of_python_give_a_network_that_is_ready_to_use() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    found = {"image": torch.zeros(1, 3, 64, 96, dtype=torch.uint8)}
    exec(code, found)
    assert not found["module"].training and found["logits"].shape == (1, 19, 64, 96)
