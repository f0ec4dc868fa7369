"""Tests of class weights by a rule.

They are counted in the training labels, replace the rule's name, and equal those of check_data.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import segmodels
from datamodules import DataError
from datamodules.labels import LabelSet
from datamodules.module import SegmentationData
from datamodules.reading.sources import Memory
from experiments import check_data, run
from experiments.command_line.catalogue import kind_of
from experiments.command_line.errors import UserError
from experiments.command_line.resolved_values import resolve
from segmodels.recipe import ClassWeights, Recipe, recipe_from
from tests.support import trees
from tests.support.runs import only, run_tiny

RULE = "recipe.class_weights=median_frequency"
NAMES = ("a", "b", "c", "d")  # no label shows d


class Uneven(SegmentationData):
    """Six images of which some lack a class, and some pixels are ignored."""

    name = "uneven"
    labels = LabelSet(NAMES, tuple((each, 0, 0) for each in range(4)), (0, 1, 2, 3))
    shown = ((0, 1, 255), (0, 2), (0, 1, 2), (0,), (1, 255), (2, 255))

    def source(self, split: str) -> Memory:
        return Memory([trees.noise((20 + k, 30), ids, seed=k) for k, ids in enumerate(self.shown)])


def by_hand(labels: list[np.ndarray]) -> list[float]:
    """Pixel by pixel."""
    frequencies = []
    for number in range(len(NAMES)):
        own = beside = 0
        for label in labels:
            values = label.ravel().tolist()
            if number in values:
                own += values.count(number)
                beside += len(values)
        frequencies.append(own / beside if beside else 0.0)
    middle = np.median([each for each in frequencies if each])
    return [middle / each if each else 0.0 for each in frequencies]


def test_weights_are_the_median_of_the_frequencies_over_the_classes_own() -> None:
    data = Uneven(crop=(8, 8))
    labels = [data.source("train").label(index) for index in range(6)]
    weights = data.class_weights("median_frequency")
    assert weights == pytest.approx(by_hand(labels))
    assert weights[3] == 0 and sorted(weights)[2] == 1  # the median of three is one of them


def test_only_labels_that_training_may_see_are_counted() -> None:
    data = Uneven(crop=(8, 8), labeled="3/6")
    part = data.part(labeled=True)
    labels = [part.label(index) for index in range(len(part))]
    assert data.class_weights("median_frequency") == pytest.approx(by_hand(labels))
    assert data.class_weights("median_frequency") != Uneven(crop=(8, 8)).class_weights(
        "median_frequency"
    )


def test_labels_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data, read = Uneven(crop=(8, 8)), []
    label = Memory.label
    data.open("train")
    monkeypatch.setattr(Memory, "label", lambda *its: read.append(its[1]) or label(*its))
    first = data.class_weights("median_frequency")
    assert sorted(read) == list(range(6))
    assert data.class_weights("median_frequency") == first and len(read) == 6


def test_labels_without_a_class_are_refused_in_a_sentence() -> None:
    class Void(Uneven):
        shown = ((255,), (255,))

    with pytest.raises(DataError, match="no training label shows one: give a number per class"):
        Void(crop=(8, 8)).class_weights("median_frequency")
    with pytest.raises(DataError, match="mean_frequency is none of median_frequency"):
        Uneven(crop=(8, 8)).class_weights("mean_frequency")


def test_check_data_prints_the_weights_that_a_run_takes(tmp_path: Path) -> None:
    from datamodules import CamVid

    trees.camvid(tmp_path / "camvid", {"train": 4, "val": 2, "test": 2})
    words = ["--data", "camvid", f"data.root={tmp_path / 'camvid'}"]
    check_data.main([*words, "--out", str(tmp_path / "check.json")])
    printed = json.loads((tmp_path / "check.json").read_text())["weights"]["median_frequency"]
    data = CamVid(tmp_path / "camvid", crop=(8, 8))
    assert list(data.class_weights("median_frequency")) == printed


# --- the word in a recipe and on a command line


def test_a_recipe_keeps_the_word_on_its_way_to_json_and_back() -> None:
    recipe = Recipe(class_weights="median_frequency")
    assert recipe_from(json.loads(json.dumps(asdict(recipe)))) == recipe
    assert recipe_from({"class_weights": [1.0, 2.0]}).class_weights == (1.0, 2.0)
    with pytest.raises(ValueError, match=r"one number per class, median_frequency, or \(\)"):
        Recipe(class_weights="mean_frequency")


def test_the_command_line_takes_numbers_or_the_word() -> None:
    kind = kind_of(tuple[float, ...] | ClassWeights)
    assert kind == {"kind": "float", "length": 0, "words": ["median_frequency"]}
    assert kind_of(str | None) == {"kind": "text", "optional": True}
    assert resolve("bisenet", "streets", [RULE]).recipe["class_weights"] == "median_frequency"
    found = resolve("bisenet", "streets", ["recipe.class_weights=1,2.5"])
    assert found.recipe["class_weights"] == [1.0, 2.5]


@pytest.mark.parametrize("word", ["median_freq", "median-frequency", "1,median_frequency"])
def test_a_wrong_word_is_refused_with_what_is_allowed(word: str) -> None:
    with pytest.raises(UserError) as refusal:
        resolve("bisenet", "streets", [f"recipe.class_weights={word}"])
    assert "it takes a number, or median_frequency" in str(refusal.value)


def test_a_network_that_was_not_given_the_numbers_says_where_they_come_from() -> None:
    row = segmodels.experiment("bisenet").but(recipe={"class_weights": "median_frequency"})
    module = row.build(num_classes=3)
    batch = torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.uint8)
    with pytest.raises(ValueError, match="median_frequency are counted in the training labels"):
        module.eval().losses(batch)


# --- a run


def test_a_run_keeps_the_word_and_stores_the_numbers(tmp_path: Path) -> None:
    assert run_tiny(tmp_path, RULE, "recipe.iterations=2", "trainer.pictures=0") == 0
    folder = only(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"]["class_weights"] == "median_frequency"
    assert "recipe.class_weights () -> median_frequency (command line)" in config["departures"]

    from datamodules import Streets

    data = Streets(height=64, width=128, train=8, val=3, crop=(64, 128))
    weights = data.class_weights("median_frequency")
    assert config["class_weights"] == list(weights)
    module = segmodels.from_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert module.recipe.class_weights == weights
    assert torch.equal(module.class_weights, torch.tensor(weights))


def test_a_resumed_run_counts_the_same_numbers(tmp_path: Path) -> None:
    words = (RULE, "recipe.iterations=4", "trainer.pictures=0", "trainer.validate_every=2")
    assert run_tiny(tmp_path / "straight", *words) == 0
    assert run_tiny(tmp_path / "halted", *words, "trainer.max_minutes=0.000001") == 0
    halted = only(tmp_path / "halted")
    config = json.loads((halted / "config.json").read_text())
    config["trainer"]["max_minutes"] = 0.0
    (halted / "config.json").write_text(json.dumps(config))
    assert run.main(["--resume", str(halted)]) == 0
    straight = only(tmp_path / "straight")
    one, two = (torch.load(each / "checkpoints" / "last.ckpt") for each in (straight, halted))
    assert one["segmodels"]["recipe"] == two["segmodels"]["recipe"]
    for name, tensor in one["state_dict"].items():
        assert torch.equal(tensor, two["state_dict"][name]), name
