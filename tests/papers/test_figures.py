"""Tests of published figures: each equals its source, and none is missing or invented."""

import json
import re
from dataclasses import asdict
from typing import Any

import pytest

import datamodules
import segmodels
from segmodels.recipe import inference_steps
from segmodels.released_checkpoints import layouts
from tests.support.paths import REFERENCE

FILE = json.loads((REFERENCE / "figures.json").read_text("utf-8"))
SEEN = FILE["figures"]
ROWS = {row.name: row for paper in segmodels.papers().values() for row in paper.rows.values()}
CLAIMING = ROWS | layouts()
MIOU, SPEED = {"model": {}, "options": {}}, {"runtime": ""}  # what goes without saying
NOTES = "study notes on "
PLACES = (
    r"[\w.-]+/[\w.-]+:[\w./-]+",  # a file of a repository
    r"[\w.-]+/[\w.-]+#\d+",  # an issue of it
    r"[\w.-]+==[\d.]+:[\w./-]+",  # a file of a package
    r"https?://\S+",
    rf"{NOTES}\w+",
    r"transcription of arXiv:[\d.]+",  # the paper's text and tables, in somebody's public notes
)


def claims(name: str) -> list[dict[str, Any]]:
    """What a row or a released layout says is published, as plain values: mIoU, then speeds."""
    found = CLAIMING[name]
    speeds = getattr(found, "published_speed", ())
    said = [*(each.as_dict() for each in found.published), *map(asdict, speeds)]
    return json.loads(json.dumps(said))


def complete(entry: dict[str, Any]) -> dict[str, Any]:
    return (MIOU if "miou" in entry else SPEED) | entry


ENTRIES = [entry for entries in SEEN.values() for entry in entries]
FIGURES = [entry for entry in ENTRIES if "miou" in entry]


@pytest.mark.parametrize("name", CLAIMING)
def test_a_row_claims_what_was_seen_and_nothing_else(name: str) -> None:
    """Number, data, split, protocol and options, or size, device and runtime; the source; and the order: the first is compared."""
    assert claims(name) == [complete(entry) for entry in SEEN.get(name, ())]


def test_every_figure_belongs_to_a_row_or_a_layout() -> None:
    assert set(SEEN) <= set(CLAIMING)


def test_every_source_says_where_it_was_seen() -> None:
    assert {entry["source"] for entry in ENTRIES} == set(FILE["sources"])
    for source, places in FILE["sources"].items():
        assert places and all(
            any(re.fullmatch(form, place) for form in PLACES) for place in places
        ), source
        if all(place.startswith(NOTES) for place in places):
            assert "study notes" in source
        assert not re.search("recall|memor|remember|not seen", source)


def test_what_was_not_seen_is_in_no_row() -> None:
    for each in FILE["dropped"]:
        number = {key: each[key] for key in ("miou", "fps", "data", "split", "size") if key in each}
        assert each["why"]
        assert not any(number.items() <= claim.items() for claim in claims(each["of"])), each


def test_a_figure_is_on_a_data_set_of_the_project_unless_it_is_said_why_not() -> None:
    elsewhere = FILE["data sets that are not here"]
    here = datamodules.names()
    named = {entry["data"] for entry in FIGURES}
    assert named - set(here) == set(elsewhere)
    assert all(elsewhere.values())
    assert {entry["split"] for entry in FIGURES} == {"val", "test"}


def test_a_protocol_is_an_inference_mode_unless_it_is_said_why_not() -> None:
    without_mode = set()
    for entry in FIGURES:
        try:
            inference_steps(entry["protocol"])
        except ValueError:
            without_mode.add(entry["protocol"])
    assert without_mode == set(FILE["protocols that no inference mode computes"])
