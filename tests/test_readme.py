"""Tests of README and docs/: nothing in them is outdated."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from experiments import benchmark, report
from experiments.command_line.catalogue import catalogue
from segmodels.released_checkpoints import layouts
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()


def between(text: str, mark: str) -> str:
    """The part of a page that a command printed."""
    return text.split(f"<!-- {mark} -->\n")[1].split(f"<!-- /{mark} -->")[0]


def command_lines() -> Iterator[str]:
    """Every command of every page that runs a file of the project, without `python`."""
    for page in PAGES:
        blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
        for line in "\n".join(blocks).replace("\\\n", "").splitlines():
            yield from re.findall(r"python (experiments/.*)", line)


# --- what is printed into the pages


def test_the_table_of_results_is_what_the_report_prints(capsys: pytest.CaptureFixture) -> None:
    assert report.main(["--format", "markdown"]) == 0
    assert between(README, "results") == capsys.readouterr().out, (
        "paste `python experiments/report.py --format markdown` between the marks"
    )


def test_the_chinese_readme_has_the_same_commands_papers_pages_and_results() -> None:
    chinese = (ROOT / "README.zh-CN.md").read_text()
    assert between(chinese, "results") == between(README, "results")
    for pattern in (r"\(arXiv:\S+\)", r"^#+ ", r"\]\((?!README)(\S+?)\)", r"^\| `(\S+)` \|"):
        found, expected = (re.findall(pattern, text, re.MULTILINE) for text in (chinese, README))
        assert sorted(found) == sorted(expected), pattern
    assert code_of(chinese) == code_of(README)


def code_of(page: str) -> list[str]:
    """The lines of code of a page, without their comments."""
    blocks = re.findall(r"```\w+\n(.*?)```", page, re.DOTALL)
    return [re.sub(r" +# .*", "", line) for line in "".join(blocks).splitlines()]


def test_the_table_of_samples_is_what_was_measured(capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main(["data", "--stored"]) == 0
    page = (ROOT / "docs" / "SPEED.md").read_text()
    assert between(page, "feeding") == capsys.readouterr().out, (
        "paste `python experiments/benchmark.py data --stored` between the marks"
    )


def test_the_table_of_structures_is_what_was_measured(capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main(["structures", "--stored"]) == 0
    page = (ROOT / "docs" / "SPEED.md").read_text()
    assert between(page, "structures") == capsys.readouterr().out, (
        "paste `python experiments/benchmark.py structures --stored` between the marks"
    )


# --- what the pages name


def test_every_paper_that_it_names_is_there() -> None:
    ids = {entry["arxiv"] for entry in catalogue()["papers"].values() if entry["arxiv"]}
    papers = README.split("## Papers")[1].split("## Results")[0]
    named = set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", papers))
    assert named and named <= ids


def test_every_data_set_has_a_line() -> None:
    page = (ROOT / "docs" / "DATA.md").read_text()
    named = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(named) == sorted(catalogue()["data"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_program_that_a_page_names_exists(page: Path) -> None:
    """Links are checked in test_links.py."""
    text = page.read_text()
    files = re.findall(r"((?:experiments|notebooks|segmodels|datamodules)/\w+\.\w+)", text)
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_readme_links_to_every_page() -> None:
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in README] == []


def test_the_readme_is_short_and_pages_are_not_wide() -> None:
    papers = README.partition("## Papers\n")[2].partition("\n## ")[0]  # they grow in number
    assert README.count("\n") - papers.count("\n|") < 133
    for page in PAGES:
        text = re.sub(r"<!-- (\w+) -->.*<!-- /\1 -->", "", page.read_text(), flags=re.DOTALL)
        wide = [line for line in text.splitlines() if len(line) > 120 and line[0] != "|"]
        assert wide == [], page.name


@pytest.mark.parametrize("line", sorted(set(command_lines())))
def test_every_command_line_is_understood(line: str, capsys: pytest.CaptureFixture) -> None:
    """Each is parsed; a training's values are resolved too."""
    file, *words = shlex.split(line, comments=True)
    program = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    if file.endswith("run.py") and "--model" in words:
        assert program.main([*words, "--show"]) == 0
        return
    try:
        _, unknown = program.make_parser().parse_known_args(words)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)
    assert [word for word in unknown if word.startswith("-")] == []


# --- what the pages count


def test_it_says_whose_networks_no_released_code_is_held_against() -> None:
    held: dict[str, list[bool]] = {}
    for layout in layouts().values():
        held.setdefault(layout.address.partition("/")[0], []).append(layout.port)
    assert set(catalogue()["papers"]) - set(held) == {
        "a2net",
        "deeplabv1",
        "fastscnn",
        "localrelation",
        "smp",
        "vit",
    }  # smp is code, no paper
    assert held["bisenetv2"] == [True, True]
    sentence = "re-implementations (two for BiSeNetV2; none for Fast-SCNN, DeepLab v1, A2-Nets, Local Relation and ViT)"
    assert sentence in " ".join(README.split())


OTHERS = re.compile("^mmseg_|_(coincheung|vainf|milesial)$")


def test_it_counts_the_training_steps_that_tests_hold() -> None:
    names = [file.stem for file in (ROOT / "experiments/results/reference/steps").glob("*.npz")]
    others = [name for name in names if OTHERS.search(name)]
    text = " ".join((ROOT / "docs" / "FIDELITY.md").read_text().split())
    assert f"for {len(names)} networks (`experiments/results/reference/steps`)" in text
    assert f": {len(names) - len(others)} by their authors' code" in text
    assert f"and {len(others)} by that of others;" in text


def test_its_lines_of_python_give_a_network_that_is_ready_to_use() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    found = {"image": torch.zeros(1, 3, 64, 96, dtype=torch.uint8)}
    exec(code, found)
    assert not found["module"].training and found["logits"].shape == (1, 19, 64, 96)
