"""Tests of the description of a network in a checkpoint: written and read again, old files too."""

from dataclasses import FrozenInstanceError

import pytest

from segmodels.network_identity import Identity

RUN = Identity(
    experiment="stdc/stdc1",
    model={"booster_weight": 0.4},
    data="camvid",
    classes=["sky", "road"],
    palette=[[1, 2, 3], [4, 5, 6]],
    seed=0,
    departures=[],
    overrides={},
    smoke=False,
    semi={"method": "cps"},
    networks=["first", "second"],
)


def test_an_identity_comes_back_from_what_a_checkpoint_stores() -> None:
    assert Identity.from_dict(RUN.as_dict()) == RUN


def test_what_is_unknown_is_not_stored_and_what_is_zero_or_empty_is() -> None:
    stored = RUN.as_dict()
    assert (stored["seed"], stored["departures"], stored["overrides"]) == (0, [], {})
    assert stored["smoke"] is False
    assert not {"labeled", "network", "iterations", "released", "published"} & stored.keys()


def test_an_older_checkpoint_lacks_keys_and_a_newer_one_has_more() -> None:
    older = {"experiment": "stdc/stdc1", "model": {}, "seed": 3, "labeled": None}
    found = Identity.from_dict(older | {"of_tomorrow": 1})
    assert found == Identity(experiment="stdc/stdc1", seed=3)
    assert (found.data, found.smoke, found.networks, found.evaluated_with) == (None, None, (), {})


def test_an_identity_is_never_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        RUN.seed = 1


def test_a_checkpoint_of_before_spelled_labeled_with_two_ls() -> None:
    stored = {"labelled": {"images": 3, "of": 8}, "overrides": {"data.labelled": "3", "model.a": 1}}
    read = Identity.from_dict(stored)
    assert read.labeled == {"images": 3, "of": 8}
    assert read.overrides == {"data.labeled": "3", "model.a": 1}
