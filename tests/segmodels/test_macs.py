"""Tests of multiply-accumulates against the authors' code and a count by hand.

They also check networks that cannot be counted.
"""

import gzip
import json
from dataclasses import replace

import pytest
from torch import Tensor, nn

from experiments.command_line.catalogue import counted_at
from experiments.reports.terminal_tables import macs_shown
from segmodels.paper import experiment, macs
from segmodels.released_checkpoints import layouts
from tests.support.paths import REFERENCE

RELEASED = REFERENCE / "released"


def layout(name: str) -> dict:
    return json.loads(gzip.decompress((RELEASED / f"{name}.json.gz").read_bytes()))


# Of every other layout by the command that makes the table of them (tests/test_fidelity.py)
@pytest.mark.parametrize("name", ["bisenet_x39_torchseg", "stdcnet813", "sfnet_lite_r18"])
def test_a_released_network_multiplies_as_often_as_the_authors(name: str) -> None:
    stored = layout(name)
    shape = next(shape for entry, shape, _ in stored["entries"] if entry == layouts()[name].classes)
    ours = macs(layouts()[name].build(shape[0], "meta"), tuple(stored["macs_resolution"]))
    assert ours == pytest.approx(stored["macs_inference"], rel=1e-3)


def test_a_convolution_is_counted_as_its_formula_says_and_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 1, stride=2, groups=2),
    )
    assert macs(module, (10, 12)) == 10 * 12 * 3 * 8 * 9 + 5 * 6 * 8 * 4 // 2
    assert module.training
    assert not next(module.parameters()).is_meta


def test_a_network_that_asks_for_numbers_is_not_counted() -> None:
    class Asking(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image * float(image.max())

    assert macs(Asking(), (8, 8)) is None
    assert macs_shown({"macs": None, "macs_size": [8, 8]}) == "not counted"


def test_heads_that_only_training_uses_cost_nothing() -> None:
    assert macs(experiment("bisenet"), (64, 96)) == macs(
        experiment("bisenet/no_auxiliary"), (64, 96)
    )


@pytest.mark.parametrize(
    ("data", "inference", "size"),
    [
        ("cityscapes", "whole", (1024, 2048)),
        ("cityscapes", "resized:0.75", (768, 1536)),
        ("cityscapes", "flip+resized:0.5", (512, 1024)),
        ("cityscapes", "slide:769x769", (1024, 2048)),
        ("camvid", "whole", (360, 480)),
        ("voc", "whole", (768, 1536)),
    ],
)
def test_macs_are_counted_at_what_the_network_sees_of_one_image(
    data: str, inference: str, size: tuple[int, int]
) -> None:
    row = experiment("bisenet").but(recipe={"inference": inference, "crop": (768, 1536)})
    assert counted_at(replace(row, data=data)) == size
