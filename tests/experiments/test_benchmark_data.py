"""Tests of `benchmark.py data`: equal work is compared, in turns, and stored with its conditions.

No time is asserted.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import benchmark
from experiments.benchmarks import data_loading
from experiments.benchmarks.alternation import take_turns
from tests.support import trees

pytest.importorskip("zstandard")


@pytest.fixture
def city(tmp_path: Path) -> Path:
    trees.cityscapes(tmp_path / "city", {"train": 3, "val": 1}, (96, 192))
    return tmp_path / "city"


def words(city: Path, *more: str) -> list[str]:
    return [
        "data",
        "--root",
        str(city),
        "--images",
        "3",
        "--crop",
        "64x64",
        "--samples",
        "2",
        "--rounds",
        "2",
        "--workers",
        "1",
        "--batch",
        "2",
        *more,
    ]


def test_every_source_is_measured_in_every_round_and_stored_with_its_conditions(
    city: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "data_speed.json"
    assert benchmark.main(words(city, "--cold", "--out", str(out))) == 0
    said = capsys.readouterr().out
    assert "at most" in said and "0 labels apart" in said
    found = json.loads(out.read_text())
    alone = found["milliseconds"]["one process"]
    assert next(iter(alone)) == "torchvision + albumentations" and {
        "PNG files",
        "the zips",
        "packs of tiles",
        "raw packs",
    } <= set(alone)
    alike = {
        f"both {kind}{color}" for kind in ("uint8", "floats") for color in ("", ", color jitter")
    }
    assert set(found["milliseconds"]) == {"one process", *alike, "1 workers", "cold, wall time"}
    assert all(
        len(laps) == 2 and min(laps) > 0
        for rows in found["milliseconds"].values()
        for laps in rows.values()
    )
    assert {"crop", "scales", "hardware", "versions", "decoder", "load", "commit", "date"} <= set(
        found["conditions"]
    )
    assert found["apart"][0] <= 1 and found["apart"][1] == 0
    assert benchmark.main(words(city, "--out", str(out))) == 2


def test_both_hand_over_what_they_say(city: Path) -> None:
    with data_loading.every_form(benchmark.make_parser().parse_args(words(city))) as folders:
        rows = data_loading.samples_of(folders, (64, 64))
        image, label = rows["torchvision + albumentations"].sample(0)
        assert (
            image.shape == (3, 64, 64)
            and image.dtype == torch.float32
            and label.dtype == torch.int64
        )
        plain = {
            name: rows[name].sample(1)
            for name in ("PNG files", "the zips", "packs of tiles", "raw packs")
        }
        assert all(
            torch.equal(one, other)
            for pair in plain.values()
            for one, other in zip(pair, plain["PNG files"])
        )
        alike = data_loading.like_for_like(folders, (64, 64))
        for how, group in alike.items():
            kinds = (torch.float32, torch.int64) if "floats" in how else (torch.uint8, torch.uint8)
            for each in group.values():
                image, label = each.sample(1)
                assert (image.shape, label.shape) == ((3, 64, 64), (64, 64))
                assert (image.dtype, label.dtype) == kinds
        mean, std = (
            torch.tensor(each).view(3, 1, 1)
            for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        for color in ("", ", color jitter"):
            floats, numbers = alike[f"both floats{color}"]["raw packs"].sample(1)
            image, label = alike[f"both uint8{color}"]["raw packs"].sample(1)
            assert torch.allclose(floats, (image / 255 - mean) / std, rtol=0, atol=1e-6)
            assert torch.equal(numbers, label.long())
        jittered = alike["both uint8, color jitter"]
        assert not torch.equal(jittered["raw packs"].sample(1)[0], plain["raw packs"][0])
        peers = (
            alike["both uint8"]["torchvision + albumentations"],
            jittered["torchvision + albumentations"],
        )
        assert not torch.equal(*(each.sample(0)[0].double().std((1, 2)) for each in peers))


def test_turns_go_forth_and_back() -> None:
    order: list[tuple[str, int]] = []
    times = take_turns(
        dict(zip("abc", "ABC")), range(3), lambda *of: order.append(of) or len(order)
    )
    assert order == [*zip("ABC", [0] * 3), *zip("CBA", [1] * 3), *zip("ABC", [2] * 3)]
    assert times == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_windows_that_differ_are_not_timed(
    city: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from datamodules.sampling import samples

    exact = samples.cut
    monkeypatch.setattr(
        "datamodules.sampling.samples.cut",
        lambda *given: tuple(np.roll(each, 1, 0) for each in exact(*given)),
    )
    assert benchmark.main(words(city)) == 2
    assert "not the same samples, so nothing was timed" in capsys.readouterr().err


def test_work_that_is_lost_in_what_starting_costs_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Starting costs 5 s once and 3 s later; a batch costs a quarter of a second: 7 batches less 1
    would come out at -0.5 s.
    """
    clock, started, taken = [0.0], [], []

    def start_loader(samples: data_loading.Samples, order: list[range], workers: int) -> range:
        started.append(len(order))
        clock[0] += 5 if len(started) == 1 else 3
        return range(len(order))

    def now() -> float:
        return clock[0] + 0.25 * sum(started)

    monkeypatch.setattr("datamodules.sampling.loader.Loader", start_loader)
    monkeypatch.setattr(data_loading, "total_cpu_time", now)
    samples = data_loading.Samples(taken.append)
    milliseconds = data_loading.worker_time(samples, workers=1, batch=2, stock=False)
    assert started == [1, 7, 14] and milliseconds == pytest.approx(1000 * 0.25 * 7 / (7 * 2))
