"""Every row's recipe against its sources, which experiments/results/reference/recipes.json quotes value by value.

A group of rows has there: `stated`, what a source says, by the source; `ours`, values that no
source says, each with its reason; `like`, another row whose entry holds for what is not said anew;
`published`, why a row has no figure. A value of a data set's budget is called by both names, such as
"cityscapes.class_weights", and where the weights start is "starts_from".
"""

import inspect
import json
from dataclasses import asdict
from typing import Any

import pytest

import segmodels
from segmodels.paper import Experiment
from segmodels.recipe import Recipe
from tests.support.paths import REFERENCE

TYPED = json.loads((REFERENCE / "recipes.json").read_text())
ROWS = {row.name: row for paper in segmodels.papers().values() for row in paper.rows.values()}
PAIRS = [
    (f"{paper}/{row}", entry)
    for paper, groups in TYPED.items()
    for rows, entry in groups.items()
    for row in rows.split(", ")
]
ENTRIES = dict(PAIRS)
DEFAULTS = asdict(Recipe()) | {"starts_from": None}


def said(entry: dict[str, Any]) -> dict[str, Any]:
    """What a row shall have, by name, with what it takes from the row that it is like."""
    values = said(ENTRIES[entry["like"]]) if "like" in entry else {}
    for stated in entry.get("stated", {}).values():
        values |= stated
    return values | {name: value for name, (value, _) in entry.get("ours", {}).items()}


def settings(row: Experiment) -> dict[str, Any]:
    """What a row has: its recipe, its start, and where its budget for a data set differs from them.
    The built-in streets and cells are nobody's data, and so are their budgets."""
    recipe = asdict(row.recipe)
    found = recipe | {"starts_from": row.starts_from}
    for data, budget in row.budgets.items():
        differing = {name for name in budget if budget[name] != recipe[name]}
        if data not in ("streets", "cells"):
            found |= {f"{data}.{name}": budget[name] for name in differing}
    return found


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON has them: tuples are lists."""
    return json.loads(json.dumps(values))


def differences(row: Experiment, entry: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """(what the row has, what it shall have) of every value that is another one, or that is neither
    the default nor said."""
    found, expected = plain(settings(row)), plain(DEFAULTS) | said(entry)
    return {
        name: (found.get(name, "nothing"), expected.get(name, "nothing"))
        for name in found | expected
        if name not in found or name not in expected or found[name] != expected[name]
    }


def test_every_row_stands_there_once() -> None:
    assert sorted(name for name, _ in PAIRS) == sorted(ROWS)


@pytest.mark.parametrize("address", ROWS)
def test_every_value_of_a_recipe_is_its_sources_or_said_to_be_ours(address: str) -> None:
    assert differences(ROWS[address], ENTRIES[address]) == {}


@pytest.mark.parametrize("name", segmodels.papers())
def test_a_network_without_options_is_that_of_the_main_row(name: str) -> None:
    paper = segmodels.papers()[name]
    main = paper.rows[paper.main]
    options = inspect.signature(main.network).parameters
    assert {option: options[option].default for option in main.model} == main.model


def test_another_value_is_seen_and_so_is_one_that_nobody_said() -> None:
    row, entry = ROWS["bisenet/resnet18_speed"], ENTRIES["bisenet/resnet18_speed"]
    other = row.but(recipe={"lr": 0.001, "clip": 5.0, "scales": (0.75, 1.0)}, starts_from=None)
    assert set(differences(other, entry)) == {"lr", "clip", "scales", "starts_from"}
    weighted = row.but(budgets={"cityscapes": {"class_weights": (1.0,) * 19}})
    assert set(differences(weighted, entry)) == {"cityscapes.class_weights"}
    forgotten = entry | {"stated": {}}
    assert differences(row, forgotten)["crop"] == ([768, 1536], [1024, 1024])


@pytest.mark.parametrize("address", ENTRIES)
def test_a_source_is_named_once_for_a_value_and_is_one_that_was_read(address: str) -> None:
    entry = ENTRIES[address]
    assert set(entry) <= {"like", "stated", "ours", "published"}
    names = [name for stated in entry.get("stated", {}).values() for name in stated]
    names += entry.get("ours", {})
    assert len(names) == len(set(names))
    for source in entry.get("stated", {}):
        read = source.startswith(("paper, ", "arXiv:", "study notes on "))
        assert read or "/" in source.partition(":")[0]
        assert "recalled" not in source and "memory" not in source
    assert all(len(reason) > 10 for _, reason in entry.get("ours", {}).values())


@pytest.mark.parametrize("address", ROWS)
def test_a_row_without_a_figure_says_why(address: str) -> None:
    why = ENTRIES[address].get("published")
    assert (why is None) == bool(ROWS[address].published)
    assert why is None or why.startswith(("nobody: ", "not seen"))
