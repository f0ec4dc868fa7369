"""Tests of the developers' tools."""

from pathlib import Path

import pytest
import torch

from tests.support.paths import ROOT
from tests.tools import compare_commits, figures, mutations


def numbers(**changed: object) -> dict[str, object]:
    """What a snapshot holds of one network."""
    made = {
        "names": ["a.weight", "a.bias"],
        "terms with dropout": {"main": torch.tensor(0.5)},
        "terms": {"main": torch.tensor(1.5)},
        "gradients": {"a.weight": torch.tensor(3.0), "a.bias": None},
        "groups": {"a.weight": (0.01, 5e-4), "a.bias": None},
    }
    return made | changed


def test_the_same_numbers_are_equal(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_commits.compare({"a/b": numbers()}, {"a/b": numbers()}) == 0
    assert capsys.readouterr().out == "a/b: equal\n1 of 1 equal\n"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("terms", {"main": torch.tensor(1.5 + 2**-22)}, "terms differ by at most 1.6e-07"),
        ("terms", {"main": torch.tensor(1.5), "more": torch.tensor(0.0)}, "terms differ in form"),
        (
            "gradients",
            {"a.weight": torch.tensor(3.0), "a.bias": torch.tensor(0.0)},
            "gradients differ in 1 of 2",
        ),
        ("groups", {"a.weight": (0.1, 5e-4), "a.bias": None}, "groups differ in 1 of 2"),
        ("logits", torch.zeros(1), "logits is new"),
    ],
)
def test_one_changed_number_is_named(
    key: str, value: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare_commits.compare({"a/b": numbers()}, {"a/b": numbers(**{key: value})}) == 1
    assert said in capsys.readouterr().out


def test_other_draws_of_dropout_and_other_names_are_told_and_do_not_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = numbers(names=["b.weight", "a.bias"])
    other["gradients"] = {"b.weight": torch.tensor(3.0), "a.bias": None}
    other["terms with dropout"] = {"main": torch.tensor(0.25)}
    assert compare_commits.compare({"a/b": numbers()}, {"a/b": other, "c/d": numbers()}) == 0
    said = capsys.readouterr().out
    assert "equal; dropout draws its masks in another order; 1 parameters have new names" in said
    assert "new: c/d" in said


def test_a_network_that_fails_now_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_commits.compare({"a/b": numbers()}, {"a/b": "ValueError: no"}) == 1
    assert "was computed, is ValueError: no" in capsys.readouterr().out


def test_one_network_is_measured_from_its_terms_to_its_groups() -> None:
    import segmodels

    row = segmodels.experiment("fastscnn")
    found = compare_commits.numbers(lambda: row.build(compare_commits.CLASSES))
    again = compare_commits.numbers(lambda: row.build(compare_commits.CLASSES))
    assert compare_commits.difference(found, again) == []
    assert len(found["gradients"]) == len(found["groups"]) == len(found["names"])
    changed = compare_commits.numbers(
        lambda: row.but(model={"auxiliary_weight": 0.5}).build(compare_commits.CLASSES)
    )
    assert [
        each.partition(" differ")[0] for each in compare_commits.difference(found, changed)
    ] == [
        "terms",
        "gradients",
        "terms with class weights",
    ]


def test_the_eight_figures_are_counted(tmp_path: Path) -> None:
    for package in figures.PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "experiments/results").mkdir()
    stored = '{"date": "2026-01-01", "layouts": [{"ok": true}, {"ok": false}]}'
    (tmp_path / "experiments/results/fidelity.json").write_text(stored)
    (tmp_path / "experiments/reports").mkdir()
    (tmp_path / "experiments/__init__.py").touch()
    (tmp_path / "experiments/run.py").write_text("from experiments.reports import rows\n\nx = 1\n")
    (tmp_path / "experiments/reports/rows.py").write_text("from experiments.reports import more\n")
    (tmp_path / "experiments/reports/more.py").write_text("import segmodels\n")
    (tmp_path / "segmodels/__init__.py").write_text("y = 2  # " + "long " * 20 + "\n")
    found = figures.figures(tmp_path, run=False)
    assert list(found.values()) == [
        "1 of 2 (measured 2026-01-01)",
        "not measured: there is no list of mutations yet",
        "not measured",
        "1",
        "3, 2 of them within experiments; 2 between packages",
        "109",
        "3.8",
        "not measured",
    ]


def test_the_first_command_is_the_readme_s() -> None:
    import re

    text = (ROOT / "README.md").read_text()
    assert re.search(r"python (experiments/run\.py --model \w+)\n", text)[1].endswith("bisenet")


# --- mutations


def test_every_constant_is_changed_in_turn_but_places_of_an_index() -> None:
    source = (
        'é = 0.5; first = values[0]\ndef f(x=3, loss="ohem:0.8,1/16", on=False): return f"{7}"\n'
    )
    changed = [(each.before, each.after) for each in mutations.mutants(source)]
    assert changed == [
        ("0.5", "0.375"),
        ("3", "4"),
        ('"ohem:0.8,1/16"', "'ohem:0.6,1/16'"),
        ("False", "True"),
    ]
    first, *_, last = mutations.mutants(source)
    assert first.source == source.replace("0.5", "0.375") and last.line == 2
    assert last.source == source.replace("False", "True")


def test_a_change_that_no_test_notices_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "area.py"
    file.write_text("def area(side, times=3, width=0.02):\n    return times * side\n")
    (tmp_path / "tests").mkdir()
    test = "from area import area\n\n\ndef test_area():\n    assert area(2) == 6\n"
    (tmp_path / "tests" / "test_area.py").write_text(test)
    tests = mutations.tests_of(tmp_path, Path("area.py"))
    assert tests == ["tests/test_area.py"]
    (left,) = mutations.survivors(tmp_path, Path("area.py"), tests, [])
    assert (left.line, left.before, left.after) == (1, "0.02", "0.015")
    assert capsys.readouterr().out.splitlines() == [
        "area.py:1: 3 -> 4: tests/test_area.py::test_area",
        "area.py:1: 0.02 -> 0.015: SURVIVED",
        "1 of 2 survived",
    ]
    (tmp_path / "tests" / "test_area.py").write_text(test.replace("6", "7"))
    with pytest.raises(SystemExit, match="test_area fails without any change"):
        mutations.survivors(tmp_path, Path("area.py"), tests, [])


def test_a_papers_tests_are_its_own_and_those_over_all_rows() -> None:
    file = mutations.file_of(ROOT, "stdc")
    assert file == Path("segmodels/architectures/stdc.py")
    assert mutations.tests_of(ROOT, file)[-2:] == [
        "tests/papers/test_figures.py",
        "tests/papers/test_stdc.py",
    ]
    with pytest.raises(SystemExit, match="no paper and no file stcd"):
        mutations.file_of(ROOT, "stcd")
