"""Tests of unknown names in Python: the nearest known one, as on the command line."""

import re
import subprocess
import sys

import pytest

import segmodels
from segmodels.nearest_names import nearest_name, squeezed
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("difference", "answer"),
    [
        (
            {"recipe": {"learning_rate": 1}},
            "no field of a recipe is called learning_rate; did you mean lr? there are crop, ",
        ),
        (
            {"recipe": {"iteratoins": 1}},
            "no field of a recipe is called iteratoins; did you mean iterations? there are",
        ),
        (
            {"model": {"armm": False}},
            "no option of BiSeNet is called armm; did you mean arm? there are backbone, ",
        ),
        ({"model": {"arm": 3}}, "model.arm is 3; it takes True or False"),
        ({"recipe": {"zebra": 1}}, "no field of a recipe is called zebra; there are crop"),
    ],
)
def test_a_row_changed_by_an_unknown_name_or_value_says_what_is_known(
    difference: dict, answer: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}"):
        segmodels.experiment("bisenet").but(**difference)


@pytest.mark.parametrize(
    ("word", "known", "name"),
    [
        ("Weight-Decay", ["decay_norms", "weight_decay"], "weight_decay"),
        ("epochs", ["power", "iterations"], "iterations"),
        ("epochs", ["epochs_", "iterations"], "epochs_"),  # what is called so comes first
        ("cuda", ["auto", "cpu", "gpu"], "gpu"),
        ("cuda", ["auto", "cpu"], ""),
        ("learning_rate", ["min_lr"], ""),
        ("deeplabv3+", ["deeplabv3", "deeplabv3plus"], "deeplabv3plus"),
        ("amr", ["arm", "ffm"], "arm"),
    ],
)
def test_the_nearest_name_is_the_same_one_then_a_synonym_then_one_like_it(
    word: str, known: list[str], name: str
) -> None:
    assert nearest_name(word, known) == name


def test_capitals_hyphens_and_underscores_do_not_count() -> None:
    assert squeezed("DeepLab-v3+") == squeezed("deeplab_v3_plus") == "deeplabv3plus"


def test_names_import_no_torch() -> None:
    code = "import sys, segmodels.nearest_names; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
