"""Tests of the limits of every number of a run.

A senseless value is refused in one sentence, before anything is built.
"""

import math
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

import segmodels
from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError
from experiments.command_line.resolved_values import Machine, resolve
from segmodels.recipe import Recipe
from segmodels.semisup_method import check_options

NUMBERS = ("int", "float")
IMPOSSIBLE = (math.nan, math.inf, -math.inf, -1)


def numeric(hint: Any) -> bool:
    """Whether a field of this type may hold a number; True and False are none."""
    return hint in (int, float) or any(map(numeric, get_args(hint)))


def fields(kind: type) -> list[str]:
    return [name for name, hint in get_type_hints(kind).items() if numeric(hint)]


def options() -> Iterator[tuple[str, str, str]]:
    """(paper, option, kind) of every number of a network."""
    for paper, entry in catalogue()["papers"].items():
        known = entry["rows"][entry["main"]]["options"]
        for name, each in known.items():
            if each["kind"] in NUMBERS:
                yield paper, name, each["kind"]


def refused(model: str, data: str | None, word: str) -> str:
    with pytest.raises(UserError) as refusal:
        resolve(model, data, [word])
    sentence = str(refusal.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("value", IMPOSSIBLE)
@pytest.mark.parametrize("name", fields(Recipe))
def test_no_number_of_a_recipe_may_be_infinite_or_below_its_range(name: str, value: float) -> None:
    several = isinstance(getattr(Recipe(), name), tuple)
    with pytest.raises(ValueError, match=rf"^recipe\.{name} is .*; it must be "):
        Recipe(**{name: (1, value) if several else value})


def test_these_fields_were_looked_at() -> None:
    """The tests above and below find fields by their types: of none they would hold nothing."""
    assert {"lr", "crop", "scales", "batch", "class_weights"} <= set(fields(Recipe))
    assert not {"loss", "sync_bn", "optimizer"} & set(fields(Recipe))
    assert {"accumulate", "max_minutes"} <= set(fields(Machine))
    assert {("emanet", "bases", "int"), ("stdc", "detail_strides", "int")} <= set(options())


@pytest.mark.parametrize("name", fields(Machine))
def test_no_number_of_the_machine_may_be_below_its_range(name: str) -> None:
    assert f"trainer.{name} is -" in refused("bisenet", None, f"trainer.{name}=-1")


def test_no_number_of_a_network_may_be_infinite_or_negative() -> None:
    for paper, name, kind in options():
        for value in (0, -1) if kind == "int" else (-1, math.nan, math.inf):
            sentence = refused(paper, None, f"model.{name}={value}")
            assert f"model.{name} is" in sentence and "it must be a number from" in sentence


def test_no_number_of_a_data_set_may_be_infinite_or_negative() -> None:
    for data, entry in catalogue()["data"].items():
        for name, each in entry["options"].items():
            if each["kind"] in NUMBERS:
                values = (-1,) if each["kind"] == "int" else (-1, math.nan, math.inf)
                for value in values:
                    assert f"data.{name} is" in refused("bisenet", data, f"data.{name}={value}")


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("recipe.scales=2,0.5", "recipe.scales is (2.0, 0.5); it must be positive numbers that"),
        ("recipe.min_lr=5", "recipe.min_lr is 5.0; it must be no more than recipe.lr, 0.002"),
        ("recipe.momentum=1", "recipe.momentum is 1.0; it must be from 0 to below 1"),
        ("recipe.warmup_from=7", "recipe.warmup_from is 7.0; it must be a share of recipe.lr"),
        ("recipe.lr=inf", "recipe.lr is inf; it must be above 0, and finite"),
        ("recipe.head_lr=0", "recipe.head_lr is 0.0; it must be above 0"),
        ("recipe.loss=hrnet_ohem:7,1/16", "a threshold is a probability"),
        ("recipe.loss=stdc_ohem:0.7,5/4", "a share of the pixels at most 1"),
        ("trainer.devices=banana", "trainer.devices is banana; it must be auto, how many"),
        ("trainer.devices=0", "trainer.devices is 0; it must be auto, how many"),
        ("trainer.max_minutes=nan", "trainer.max_minutes is nan; it must be a number of minutes"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_with_what_can(word: str, words: str) -> None:
    assert words in refused("bisenet", None, word)


@pytest.mark.parametrize("devices", ["auto", "1", "8", "0,3", "2,"])
def test_devices_are_counted_or_named(devices: str) -> None:
    assert resolve("bisenet", None, [f"trainer.devices={devices}"]).trainer["devices"] == devices


def test_a_geometric_warm_up_has_to_begin_above_zero() -> None:
    with pytest.raises(ValueError, match=r"recipe\.warmup_from is 0, which a geometric warm-up"):
        Recipe(warmup=10, warmup_shape="geometric")
    assert Recipe(warmup=10).warmup_from == Recipe(warmup_shape="geometric").warmup_from == 0


@pytest.mark.parametrize(
    ("row", "option", "value", "words"),
    [
        ("fcn", "depth", 51, "there is no ResNet of depth 51; take 14, 18, 26, 34, 50, 101, 152"),
        ("bisenet", "backbone_width", 0.0, "model.backbone_width is 0.0; it must be at least 1/8"),
        ("bisenetv2", "alpha", 0.0, "model.alpha is 0.0"),
        ("bisenetv2", "semantic_ratio", 0.01, "model.semantic_ratio 0.01"),
    ],
)
def test_a_network_that_would_have_no_channels_is_refused(
    row: str, option: str, value: float, words: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        segmodels.experiment(row).but(model={option: value}).build(device="meta")
    assert words in str(refusal.value)


def test_a_methods_weight_may_not_be_infinite_either() -> None:
    with pytest.raises(ValueError, match=r"semi\.weight=inf; it must be at least 0"):
        check_options({"weight": (0, math.inf)}, weight=math.inf)
