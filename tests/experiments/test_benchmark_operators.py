"""Tests of `benchmark.py operators` and `benchmark.py heads`. No time is asserted."""

import json
import math
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from experiments import benchmark
from experiments.benchmarks import heads, operators
from experiments.benchmarks.head_costs import counted
from experiments.benchmarks.operator_costs import Cost, growth, macs_of, operator_of
from experiments.command_line.row_patterns import matching_rows
from segmodels.paper import experiment, inference_parameters, macs
from tests.support.paths import ROOT

ROWS = ("nonlocalnet/common", "fcn/common")


def test_growth_is_the_power_of_the_number_of_pixels() -> None:
    sizes = [(4, 8), (8, 16), (16, 32)]
    for power in (1, 2):
        figures = [3.0 * (height * width) ** power for height, width in sizes]
        assert growth(figures, sizes) == pytest.approx(power)


def test_operators_are_measured_alone_at_every_size(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "costs.json"
    plot = tmp_path / "plot.png"
    sizes = ("--sizes", "16x16,32x32", "--rounds", "2")
    written = ("--out", str(out), "--plot", str(plot))
    assert benchmark.main(["operators", "nonlocalnet/common", *sizes, *written]) == 0
    (found,) = json.loads(out.read_text())["operators"]
    operator = operator_of("nonlocalnet/common")
    assert found["parameters"] == sum(each.numel() for each in operator.parameters())
    for pixels, count in zip((256, 1024), found["macs"], strict=True):
        convolutions = 4 * 512 * 256 * pixels
        products = 2 * 256 * pixels**2
        assert count == convolutions + products
    assert [len(times) for times in found["seconds"]] == [2, 2]
    assert found["mib"][1] > 1024**2 * 4 / 2**20  # a float for every pair of pixels
    assert "nonlocalnet" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fcn/resnet50"], "fcn/resnet50 has no operator between convolutions"),
        (["nonlocalnet/common", "--sizes", "8x8"], "between two sizes"),
        (["fcn/common"], "fcn/common has no operator"),
        (["--plot", "plot.txt"], "a plot is a file"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    assert benchmark.main(["operators", *words]) != 0
    assert said in capsys.readouterr().err


def test_figures_of_a_table_stand_under_their_heads(capsys: pytest.CaptureFixture) -> None:
    cost = Cost(
        "ccnet/common", 2_000_000, [10**9, 4 * 10**9], [2.0, 8.0], [[1.0, 3.0, 2.0], [16.0]]
    )
    conditions = {"sizes": [[8, 8], [16, 16]]}
    found = operators.cells(cost, conditions)
    assert found[:8] == ["ccnet", "2.00M", "1.0G", "2", "2.000", "4.0G", "8", "16.000"]
    assert found[8:] == ["1.00", "1.50"]
    masked = Cost("nonlocalnet/local", 1, [1, 1], [1.0, 1.0], [[1.0], [1.0]])
    assert operators.cells(masked, conditions)[0] == "nonlocalnet/local"


def test_a_head_is_what_stands_behind_the_backbone(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "heads.json"
    assert benchmark.main(["heads", *ROWS, "--size", "65x65", "--out", str(out)]) == 0
    backbone, non_local, plain = json.loads(out.read_text())["networks"]
    row = experiment(ROWS[0])
    encoder = row.build(21, "meta").encoder()
    assert backbone["parameters"] == sum(each.numel() for each in encoder.parameters())
    assert backbone["parameters"] + non_local["parameters"] == inference_parameters(row, 21)
    assert backbone["macs"] + non_local["macs"] == macs(row.build(21, "meta"), (65, 65))
    added = non_local["parameters"] - plain["parameters"]
    assert added == sum(each.numel() for each in operator_of(ROWS[0]).parameters())
    assert non_local["peak_mib"] >= plain["peak_mib"] > 0
    # the classifier's 21 logits alone at 9x9 are less than all layers
    assert non_local["layers_mib"] > plain["layers_mib"] > 4 * 21 * 81 / 2**20
    assert "in the notes" in capsys.readouterr().out


def test_all_that_layers_put_out_counts_as_float32_and_products_once() -> None:
    convolution = nn.Conv2d(3, 1024, 1)
    network = nn.Sequential(convolution, nn.ReLU()).to("meta")
    image = torch.zeros(1, 3, 16, 16, device="meta")
    macs_, mebibytes = counted(network, lambda: network(image))
    assert macs_ == 3 * 1024 * 16 * 16
    assert mebibytes == 2.0  # twice 1024 x 16 x 16 numbers of four bytes


def test_without_a_row_the_notes_heads_are_measured_and_every_operator_with_their_resnet() -> None:
    found = heads.chosen([])
    assert found[: len(heads.TABLE)] == list(heads.TABLE)
    operators_ = {head.row: head.model for head in found[len(heads.TABLE) :]}
    assert operators_ == {row: {"depth": 101} for row in matching_rows("*/common")}


def test_lines_of_linear_and_quadratic_growth_begin_at_the_lowest_figure() -> None:
    axes = Figure().add_subplot()
    operators.draw_slopes(axes, [10, 20, 40], lowest=3.0)
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn == {"linear": [3.0, 6.0, 12.0], "quadratic": [3.0, 12.0, 48.0]}


@pytest.mark.parametrize("mask", ["local", "dilated", "both"])
def test_a_mask_of_the_non_local_operator_is_an_operator_too(mask: str) -> None:
    whole, masked = (
        macs_of(f"nonlocalnet/{row}", [(16, 32), (32, 64)]) for row in ("common", mask)
    )
    assert masked[1] < whole[1]
    assert masked[1] / masked[0] < whole[1] / whole[0]


def test_every_row_of_the_notes_table_exists_with_its_options() -> None:
    for head in heads.TABLE:
        assert matching_rows(head.row) == [head.row]
        row = experiment(head.row).but(model=head.model)
        features = row.build(21, "meta").features(torch.zeros(1, 3, 65, 65, device="meta"))
        last = features[-1]
        assert math.prod(last.shape[-2:]) == 9 * 9


def test_a_head_is_measured_beside_the_notes_at_their_size_alone(
    capsys: pytest.CaptureFixture,
) -> None:
    from experiments.benchmarks.head_costs import Cost as HeadCost

    costs = [HeadCost("backbone", 1, 1, 1.0, 1.0), HeadCost("emanet/resnet101", 2, 2, 2.0, 2.0)]
    conditions = {
        "device": "a CPU",
        "device_kind": "cpu",
        "threads": 1,
        "versions": {"torch": "2"},
        "date": "2026-11-30",
    }
    for size, shown in (([513, 513], True), ([65, 65], False)):
        heads.show(costs, conditions | {"size": size}, "markdown")
        assert ("+43.1G" in capsys.readouterr().out) is shown


@pytest.mark.parametrize("subject", ["operators", "heads"])
def test_the_page_shows_the_stored_table(subject: str, capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main([subject, "--stored"]) == 0
    page = (ROOT / "docs" / "SPEED.md").read_text()
    shown = page.partition(f"<!-- {subject} -->\n")[2].partition(f"<!-- /{subject} -->")[0]
    assert shown == capsys.readouterr().out
