"""Tests of `benchmark.py infer`: what is timed, in which order, refusals and stored conditions.

No time is asserted.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments import benchmark
from experiments.benchmarks import network_timing
from experiments.benchmarks.alternation import take_turns
from segmodels import deploy
from segmodels.architectures.bisenet import BiSeNet
from segmodels.paper import Experiment, PublishedSpeed, experiment, papers
from segmodels.recipe import Recipe
from tests.support.checkpoints import written
from tests.support.paths import ROOT

QUICK = ["--size", "64x128", "--rounds", "2", "--seconds", "0.01", "--device", "cpu"]
ROWS = ["fastscnn", "bisenetv2"]


def measured(*words: str, out: Path, code: int = 0) -> dict:
    assert benchmark.main(["infer", *words, *QUICK, "--out", str(out)]) == code
    return json.loads(out.read_text())


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        code = benchmark.main(["infer", *words])
    except SystemExit as left:  # argparse's own
        code = left.code
    said = capsys.readouterr()
    assert (
        code == 2
        and said.out == ""
        and said.err.startswith("error: ")
        and said.err.count("\n") == 1
    ), said
    return said.err


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return measured(*ROWS, out=tmp_path_factory.mktemp("plain") / "speed.json")


def asked(**changes: object) -> argparse.Namespace:
    words = dict(
        what="logits",
        batch=1,
        precision="32-true",
        folded=False,
        channels_last=False,
        compile=False,
        rounds=2,
        seconds=0.01,
    )
    return argparse.Namespace(**words | changes)


def network(
    name: str, size: tuple[int, int] = (64, 64), **settings: object
) -> network_timing.Network:
    return network_timing.Network(name, size, **settings)


def time_in_turns(networks: list[network_timing.Network], rounds: int) -> None:
    take_turns(dict(enumerate(networks)), range(rounds), partial(network_timing.time_turn, "cpu"))


# --- what is stored


def test_every_condition_and_figure_is_stored(plain: dict) -> None:
    said = plain["conditions"]
    assert {
        "input",
        "what",
        "timed",
        "argmax",
        "batch",
        "size",
        "precision",
        "folded",
        "channels_last",
        "compile",
        "rounds",
        "seconds",
    } <= {*said}
    assert {
        "warm_up",
        "clock",
        "device",
        "device_kind",
        "threads",
        "tf32",
        "cudnn",
        "versions",
        "date",
        "commit",
        "limit",
    } <= {*said}
    assert (said["what"], said["argmax"], said["size"], said["device_kind"]) == (
        "logits",
        False,
        [64, 128],
        "cpu",
    )
    assert [each["name"] for each in plain["networks"]] == [
        "fastscnn/fastscnn",
        "bisenetv2/bilateral",
    ]
    for each in plain["networks"]:
        assert (
            each["problem"] is None
            and each["peak_mib"] is None
            and len(each["round_medians_ms"]) == 2
        )
        assert each["passes"] >= 2 and each["warm_up"] > network_timing.WARM_UP
        assert (
            each["fps"] == pytest.approx(1000 / each["median_ms"])
            and 0 < each["median_ms"] <= each["p95_ms"]
        )


def test_the_ratio_is_to_the_first_network_and_round_by_round(plain: dict) -> None:
    first, second = (each["round_medians_ms"] for each in plain["networks"])
    assert plain["networks"][0]["ratio"] == 1
    assert plain["networks"][1]["ratio"] == pytest.approx(
        sum(a / b for a, b in zip(first, second)) / 2
    )


def test_published_figures_are_stored_with_hardware_and_source_beside_ours(plain: dict) -> None:
    figure = plain["networks"][0]["published"][0]
    assert (figure["fps"], figure["size"], figure["device"]) == (
        123.5,
        [1024, 2048],
        "Titan Xp",
    ) and "0.0081 s" in figure["source"]


def test_figures_of_known_laps() -> None:
    slow = network("a", rounds=[[4.0, 8.0], [40.0, 60.0]])
    fast = network("b", rounds=[[3.0], [5.0]])
    figures = network_timing.figures_of(fast, slow, batch=2)
    assert (figures["median_ms"], figures["p95_ms"]) == (4.0, 5.0)
    assert (figures["fps"], figures["passes"]) == (500.0, 2)
    assert figures["ratio"] == (6 / 3 + 50 / 5) / 2
    hundred = network("c", rounds=[[float(each) for each in range(100, 0, -1)]])
    assert network_timing.figures_of(hundred, hundred, batch=1)["p95_ms"] == 95


# --- in which order


def test_networks_take_turns_in_every_round() -> None:
    calls = []
    networks = [
        network(name, work=lambda name=name: calls.append(name), passes=n)
        for name, n in (("a", 2), ("b", 1), ("c", 1))
    ]
    time_in_turns(networks, 2)
    assert calls == ["a", "a", "b", "c", "c", "b", "a", "a"]
    assert [[len(turn) for turn in each.rounds] for each in networks] == [[2, 2], [1, 1], [1, 1]]


def test_a_network_that_fails_in_its_turn_is_named_and_the_others_go_on() -> None:
    def fails() -> None:
        raise RuntimeError("out of memory")

    bad, good = network("a", work=fails, passes=1), network("b", work=lambda: None, passes=1)
    time_in_turns([bad, good], 3)
    assert "out of memory" in bad.problem and not bad.rounds
    assert good.problem is None and len(good.rounds) == 3


def test_the_clock_is_read_around_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(network_timing.time, "perf_counter", lambda: now[0])
    steps = iter((0.25, 0.5, 1.0))
    times = network_timing.time_passes(lambda: now.__setitem__(0, now[0] + next(steps)), 3, "cpu")
    assert times == [250, 500, 1000]


# --- what is timed


@pytest.mark.parametrize("what", ["logits", "full", "label"])
def test_what_is_timed_is_what_the_module_computes(what: str) -> None:
    module, image = (
        network_timing.fresh(experiment("emanet/resnet50" if what == "logits" else "stdc/stdc1")),
        torch.randn(1, 3, 65, 97),
    )
    with torch.no_grad():
        found, full = deploy.Deployed(module, what)(image), module(image)
        expected = {
            "logits": module.logits(module.padded(image)),
            "full": full,
            "label": full.argmax(1).to(torch.uint8),
        }[what]
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if what == "label":
        assert (found != expected).float().mean() < 1e-3
    else:
        assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_a_folded_network_holds_no_batch_norm_and_takes_the_batch_that_was_asked_for() -> None:
    module = network_timing.fresh(experiment("fastscnn")).requires_grad_(False)
    assert any("auxiliar" in name for name, _ in module.named_parameters())
    graph = deploy.folded_logits(module, image := torch.randn(2, 3, 64, 128))
    assert not any(node.target is torch.ops.aten.batch_norm.default for node in graph.graph.nodes)
    assert not any("auxiliar" in name for name, _ in graph.named_parameters())
    assert torch.allclose(graph(image), module.logits(image), atol=1e-4)


def test_fast_forms_are_shown_to_be_equal_and_the_difference_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(
        "fastscnn",
        "--folded",
        "--channels-last",
        "--precision",
        "bf16-mixed",
        "--argmax",
        "--batch",
        "2",
        out=tmp_path / "x.json",
    )
    said, network = found["conditions"], found["networks"][0]
    assert (said["folded"], said["channels_last"], said["argmax"], said["what"], said["batch"]) == (
        True,
        True,
        True,
        "label",
        2,
    )
    assert network["difference"] == network["limit"] == 0 and network["fps"] == pytest.approx(
        2000 / network["median_ms"]
    )
    assert "difference" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["logits", "label"])
def test_a_folded_network_that_differs_is_not_timed(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded = deploy.folded_logits

    class Off(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.network(image).roll(1, dims=1)

    monkeypatch.setattr(
        network_timing, "folded_logits", lambda module, image: Off(folded(module, image))
    )
    found = measured("fastscnn", "--folded", "--what", what, out=tmp_path / "x.json", code=1)[
        "networks"
    ][0]
    assert (
        found["difference"] > found["limit"]
        and "differs from the plain network" in found["problem"]
        and "fps" not in found
    )


def test_logits_that_are_not_numbers_are_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = network_timing.fresh

    def spoiled(row: Experiment) -> nn.Module:
        module = fresh(row)
        if row.name.startswith("fastscnn"):
            next(module.parameters()).fill_(float("nan"))
        return module

    with torch.no_grad():
        monkeypatch.setattr(network_timing, "fresh", spoiled)
        bad, good = measured(*ROWS, out=tmp_path / "x.json", code=1)["networks"]
    assert "not finite" in bad["problem"] and "fps" not in bad
    assert good["problem"] is None and good["ratio"] == 1  # the first that could be timed
    assert "fastscnn/fastscnn: not timed" in capsys.readouterr().out


def test_a_network_that_cannot_run_is_named_with_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(module: nn.Module, image: torch.Tensor) -> nn.Module:
        raise RuntimeError("output size is too small")

    monkeypatch.setattr(network_timing, "folded_logits", too_deep)
    failed = network("fastscnn/fastscnn", size=(64, 128))
    network_timing.prepare(failed, asked(folded=True), "cpu")
    problem = "cannot run at 64x128: RuntimeError: output size is too small"
    assert failed.problem == problem and failed.work is None


# --- which networks


def test_each_is_timed_at_its_papers_size_unless_one_is_given() -> None:
    sizes = [
        each.size
        for each in network_timing.open_networks(
            ["stdc/stdc1", "bisenet/resnet18", "ddrnet/23_slim"], None
        )
    ]
    assert sizes == [(512, 1024), (768, 1536), (1024, 2048)]
    assert network_timing.open_networks(["stdc/stdc1"], (64, 96))[0].size == (64, 96)


def test_a_checkpoint_of_ours_is_a_network_too(tmp_path: Path) -> None:
    written(file := tmp_path / "last.ckpt")
    found = measured(str(file), out=tmp_path / "x.json")["networks"][0]
    assert str(file) in found["name"] and found["problem"] is None


def test_a_pattern_gives_every_row_of_a_paper() -> None:
    from experiments.benchmarks.network_speed import sources

    assert sources("fastscnn/*") == [f"fastscnn/{row}" for row in papers()["fastscnn"].rows]
    assert sources("stdc") == ["stdc/stdc1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bisnet"], "did you mean bisenet?"),
        (["bisenet/resnet81"], "did you mean bisenet/resnet18?"),
        (["missing.ckpt"], "there is no missing.ckpt"),
        (["released:stdc1_seg"], "released:NAME=FILE"),
        (["released:stdc1_seg=missing.pth"], "there is no file missing.pth"),
        (["fastscnn", "--size", "8x8"], "32x32"),
        (["fastscnn", "--size", "wide"], "HEIGHTxWIDTH"),
        (["fastscnn", "--rounds", "0"], "whole number from 1"),
        (["fastscnn", "--seconds", "nan"], "above 0"),
        (["fastscnn", "--precision", "8-true"], "8-true"),
        (["fastscnn", "--folds"], "did you mean --folded?"),
        (["fastscnn", "--device", "cpu", "--precision", "16-mixed"], "give bf16-mixed"),
        (["fastscnn", "--out", "pyproject.toml"], "not overwritten"),
    ],
)
def test_a_wrong_word_is_refused_in_one_sentence_before_anything_is_built(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Experiment, "build", lambda *_: pytest.fail("a network was built"))
    monkeypatch.chdir(ROOT)
    assert said in refused(capsys, *words)


def test_a_file_that_is_no_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.ckpt").write_text("not a checkpoint")
    assert "damaged or another kind of file" in refused(
        capsys, "fastscnn", str(tmp_path / "notes.ckpt")
    )


# --- what the papers claim


def test_published_speeds_have_hardware_and_a_source_and_ablations_claim_none() -> None:
    claims = [
        (row, each)
        for paper in papers().values()
        for row in paper.rows.values()
        for each in row.published_speed
    ]
    assert len(claims) > 20
    for row, each in claims:
        assert 1 < each.fps < 1000 and each.device and each.source and min(each.size) >= 256, (
            row.name
        )
    speed = PublishedSpeed(9.0, (64, 64), "a device", "a table")
    main = Experiment(BiSeNet, Recipe(), published_speed=(speed,))
    assert main.but(model={"arm": False}).published_speed == ()


# --- losses


def test_losses_of_small_images_are_compared_as_well(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Fewer than fifty pixels may lie behind the last that is hard."""
    assert (
        benchmark.main(
            ["loss", "--size", "128x128", "--rounds", "1", "--json", str(tmp_path / "loss.json")]
        )
        == 0
    )
    assert set(json.loads((tmp_path / "loss.json").read_text())["rows"]) == {
        "cross-entropy",
        "mining, threshold",
        "mining, top-k",
    }
    assert "profiler" not in capfd.readouterr().err.lower()  # torch's own remarks are no reader's


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--size", "1x1", "--batch", "1"],
            "these sizes do not reach both branches of mining; try --size",
        ),
        (
            ["--json", "nowhere/loss.json"],
            "there is no folder nowhere for loss.json; make it, or give another --json",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_work(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(["loss", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
