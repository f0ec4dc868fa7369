"""Tests of `benchmark.py structures`: every figure is of the network and of the size that it names.

No time is asserted.
"""

import json
from pathlib import Path

import pytest
import torch

import segmodels
from experiments import benchmark
from experiments.benchmarks import structure_costs, structures
from experiments.benchmarks.memory import peak_mebibytes
from experiments.command_line.row_patterns import matching_rows
from segmodels.paper import inference_parameters, macs

SMALL = ("--size", "64x128", "--crop", "64x64", "--rounds", "2")
ROWS = ("fastscnn/fastscnn", "bisenet/u_shape_4", "bisenet/resnet18")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("structures") / "costs.json"
    assert benchmark.main(["structures", *ROWS, *SMALL, "--out", str(out)]) == 0
    return json.loads(out.read_text())


def cost(name: str, **changes: object) -> structure_costs.Cost:
    figures = {
        "structure": "",
        "parameters": 4,
        "macs": 8,
        "inference_mib": 2.0,
        "training_mib": 6.0,
        "inference_seconds": [1.0, 2.0, 4.0],
        "training_seconds": [2.0, 2.0, 2.0],
    }
    return structure_costs.Cost(name=name, **figures | changes)


def test_each_row_stands_with_its_structure_its_size_and_a_time_of_every_round(
    measured: dict,
) -> None:
    assert [each["name"] for each in measured["networks"]] == list(ROWS)
    places = [each["structure"] for each in measured["networks"]]
    assert places == ["", "encoder-decoder", "two paths"]
    for each in measured["networks"]:
        row = segmodels.experiment(each["name"])
        assert each["parameters"] == inference_parameters(row)
        assert each["macs"] == macs(row, (64, 128))
        assert len(each["inference_seconds"]) == len(each["training_seconds"]) == 2
        assert min(each["inference_seconds"] + each["training_seconds"]) > 0
    conditions = measured["conditions"]
    assert conditions["size"] == [64, 128] and conditions["crop"] == [64, 64]
    assert (conditions["batch"], conditions["rounds"], conditions["classes"]) == (2, 2, 19)


def test_memory_of_training_holds_at_least_the_gradients(measured: dict) -> None:
    for each in measured["networks"]:
        module = segmodels.experiment(each["name"]).build(19)
        gradients = 4 * sum(one.numel() for one in module.parameters()) / 2**20
        image = 4 * 3 * 64 * 128 / 2**20
        assert each["training_mib"] > gradients
        assert image < each["inference_mib"] < each["training_mib"]


def test_the_peak_is_of_what_is_held_at_one_time() -> None:
    def work() -> None:
        for _ in range(3):  # one after another: each is freed before the next but one
            kept = torch.zeros(2**18)  # 1 MiB
        kept.add_(1)

    assert peak_mebibytes(work) == pytest.approx(2, abs=0.01)


def test_a_network_with_label_maps_and_counted_class_weights_is_measured_too(
    tmp_path: Path,
) -> None:
    out = tmp_path / "costs.json"
    small = ("--size", "32x32", "--crop", "32x32", "--rounds", "1")
    assert benchmark.main(["structures", "unet/valid", "segnet", *small, "--out", str(out)]) == 0
    assert len(json.loads(out.read_text())["networks"]) == 2


def test_sentences_stand_beside_the_ratios_of_both_their_rows() -> None:
    dearer, cheaper = structures.SENTENCES[1].dearer, structures.SENTENCES[1].cheaper
    slow = cost(dearer, parameters=8, macs=24, inference_mib=5.0, training_mib=9.0)
    slow.inference_seconds, slow.training_seconds = [2.0, 8.0, 4.0], [3.0, 5.0, 8.0]
    (line,) = structures.sentences({dearer: slow, cheaper: cost(cheaper)})
    assert structures.SENTENCES[1].text in line
    assert line.endswith(
        "parameters 2.00x, MACs 3.00x, memory in inference 2.50x, time in inference 2.00x, "
        "memory in training 1.50x, time in training 2.50x"
    )
    assert structures.sentences({dearer: slow}) == []


def test_every_row_of_the_structures_exists_and_every_sentence_has_its_rows_there() -> None:
    listed = [row for rows in structures.STRUCTURES.values() for row in rows]
    assert structures.chosen([]) == {
        row: structure for structure, rows in structures.STRUCTURES.items() for row in rows
    }
    assert [matching_rows(row) for row in listed] == [[row] for row in listed]
    for each in structures.SENTENCES:
        assert each.dearer in listed and each.cheaper in listed
