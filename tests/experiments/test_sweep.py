"""Tests of many runs from one command: which ones, refusals, skipped runs, and their table."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from experiments import run
from experiments.command_line import files, row_patterns
from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError
from experiments.command_line.resolved_values import resolve
from experiments.records import run_folder
from experiments.records.results import read_results
from experiments.reports.paper_table import table
from experiments.sweep import plan, sweep
from tests.support.paths import ROOT
from tests.support.patience import until
from tests.support.results import result

PAIR = "stdc/stdc1,stdc/no_detail"
SCORES = {"stdc/stdc1": 0.5, "stdc/no_detail": 0.4, "stdc/stdc2": 0.6}


def asked(*given: str, folder: Path = Path("runs")) -> Namespace:
    return run.make_parser().parse_intermixed_args([*given, "--runs", str(folder)])


class Trainings:
    """Stands in for the processes: leaves what a run of these words would leave, at once."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.codes: dict[str, int] = {}  # row -> how its process ends; 0 where nothing is said
        self.stops_in = ""

    def __call__(self, arguments: list[str], stop: sweep.Stop, lock: int) -> tuple[int, list[str]]:
        self.commands.append(arguments)
        given = run.make_parser().parse_intermixed_args(arguments)
        folder = given.resume or self.begin(given)
        config = run_folder.read_config(folder)
        row, seed = config["experiment"], config["seed"]
        (folder / "checkpoints" / "last.ckpt").touch()
        if row == self.stops_in:
            stop(signal.SIGINT, None)
            return 130, []
        if code := self.codes.get(row, 0):
            return code, ["a warning\n", "error: the device's memory is too small\n", "\n"]
        steps, smoke = config["recipe"]["iterations"], "--smoke" in config["origins"].values()
        score = SCORES[row] + 0.01 * seed
        files.write_json(
            folder / "result.json",
            result(row, miou=score, seed=seed, iterations=steps, smoke=smoke),
        )
        (folder / "metrics.csv").write_text(f"step,val/mIoU\n1,{score + 0.1}\n2,{score}\n")
        return 0, []

    def begin(self, given: Namespace) -> Path:
        resolved = resolve(
            given.model, given.data, given.overrides, given.smoke, given.semi, given.init
        )
        folder = run_folder.new_folder(given.runs, resolved, given.seed)
        resolved.recipe["precision"] = resolved.recipe["precision"].replace(
            "auto", "bf16-mixed"
        )  # as training settles it
        run_folder.begin(folder, run_folder.config(resolved, given.seed, "scratch", []))
        return folder

    def rows(self) -> list[str]:
        return [command[1] for command in self.commands]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    made = Trainings()
    monkeypatch.setattr(sweep, "process", made)
    monkeypatch.setattr(sweep, "rehearse", lambda *unused: None)
    return made


@pytest.fixture
def start(trainings: Trainings, tmp_path: Path) -> Callable[..., int]:
    return lambda *given: run.main([*given, "--runs", str(tmp_path)])


def table_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The one sweep's rows, by address."""
    (file,) = folder.glob("sweep-*/table.json")
    return {row["row"]: row for row in json.loads(file.read_text())["rows"]}


# --- which rows


def test_a_pattern_names_rows_each_once_and_a_paper_alone_its_main_row() -> None:
    known = catalogue()["papers"]
    assert row_patterns.matching_rows("stdc/*") == [f"stdc/{row}" for row in known["stdc"]["rows"]]
    assert row_patterns.matching_rows("stdc/no_*, stdc, stdc/stdc[12]") == [
        "stdc/no_detail",
        "stdc/stdc1",
        "stdc/stdc2",
    ]
    having = [f"{name}/resnet101" for name in sorted(known) if "resnet101" in known[name]["rows"]]
    assert row_patterns.matching_rows("*/resnet101") == having
    assert {"emanet/resnet101", "fcn/resnet101", "sfnet/resnet101"} <= set(having)


@pytest.mark.parametrize(
    ("words_given", "answer"),
    [
        (["--model", "stdcc/*"], "no row matches stdcc/*; did you mean stdc/*?"),
        (["--model", "stdc/x*"], "no row matches stdc/x*; stdc has stdc1, stdc2"),
        (["--model", "stdc/*,bisenett"], "no paper bisenett; did you mean bisenet"),
        (["--model", ","], "',' names no row"),
        (["--model", "stdc", "--seeds", "0,x"], "--seeds 0,x: write whole numbers"),
        (
            ["--model", "stdc", "--seeds", "0,1", "--seed", "2"],
            "--seed 2 and --seeds 0,1 say two things",
        ),
        (
            ["--model", "stdc/stdc1,bisenet,fcn", "model.dice=sums"],
            "(for bisenet/resnet18); there is no field model.dice",
        ),
        (["--model", "stdc/*", "recipe.crop=5"], "(for stdc/stdc1, stdc/stdc2, stdc/no_detail,"),
        (
            ["--resume", "somewhere", "--seeds", "0,1"],
            "--resume goes on exactly as the run began, so it stands alone; leave out seeds",
        ),
    ],
)
def test_what_any_row_refuses_is_refused_before_the_first(
    words_given: list[str],
    answer: str,
    start: Callable[..., int],
    trainings: Trainings,
    capsys: pytest.CaptureFixture,
) -> None:
    assert start(*words_given) == 2
    said = capsys.readouterr().err
    assert answer in said and said.count("\n") == 1
    assert trainings.commands == []


def test_what_only_networks_and_data_refuse_is_found_without_leaving_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = plan.plan(
        asked(
            "--model",
            "bisenet/xception39,fcn",
            "--smoke",
            "recipe.batch=1",
            "trainer.accelerator=cpu",
            folder=tmp_path,
        )
    )
    found = sweep.refusals([(each.resolved, 0) for each in rows])
    assert list(found) == ["bisenet/xception39"]
    assert "needs at least 2 images" in found["bisenet/xception39"]
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_the_program_is_told_at_once_and_with_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.training import build

    def faulty(*given: Any, **more: Any) -> None:
        raise KeyError("no such layer")

    monkeypatch.setattr(build, "build", faulty)
    (row,) = plan.plan(asked("--model", "fcn", "--seeds", "0", "--smoke", folder=tmp_path))
    with pytest.raises(KeyError, match="no such layer") as raised:
        sweep.refusals([(row.resolved, 0)])
    assert raised.value.__notes__ == [
        f"this happened while {row.resolved.experiment} was being checked"
    ]


def test_show_says_what_would_run_and_what_differs_without_torch(tmp_path: Path) -> None:
    code = "import sys; from experiments import run; run.main(sys.argv[1:]); "
    code += "print('torch' in sys.modules, file=sys.stderr)"
    given = ["--model", "stdc/*", "--seeds", "3,4", "--show", "--runs", str(tmp_path)]
    told = subprocess.run(
        [sys.executable, "-c", code, *given], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = {line.split()[0]: line for line in told.stdout.splitlines() if line.startswith("stdc/")}
    assert list(lines) == row_patterns.matching_rows("stdc/*") and "(main)" in lines["stdc/stdc1"]
    assert (
        "model.detail_strides (1, 2, 4) -> ()" in lines["stdc/no_detail"]
        and "seed 3 new, seed 4 new" in lines["stdc/no_detail"]
    )
    assert told.stderr == "False\n" and list(tmp_path.iterdir()) == []


# --- one after another


def test_every_run_gets_the_words_as_they_came(
    start: Callable[..., int], trainings: Trainings, tmp_path: Path
) -> None:
    assert (
        start(
            "--model",
            PAIR,
            "--seeds",
            "0,1",
            "--smoke",
            "--init",
            "scratch",
            "--data",
            "streets",
            "recipe.lr=0.01",
        )
        == 0
    )
    common = [
        "--data",
        "streets",
        "--semi",
        "none",
        "--init",
        "scratch",
        "--smoke",
        "recipe.lr=0.01",
    ]
    runs_asked = [(row, seed) for row in PAIR.split(",") for seed in "01"]
    assert trainings.commands == [
        ["--model", row, "--seed", seed, "--runs", str(tmp_path), *common]
        for row, seed in runs_asked
    ]


def test_a_failure_ends_no_other_run_and_stands_in_the_table(
    start: Callable[..., int], trainings: Trainings, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trainings.codes["stdc/stdc1"] = 7
    assert start("--model", PAIR) == 7
    assert trainings.rows() == PAIR.split(",")
    rows = table_of(tmp_path)
    assert rows["stdc/stdc1"]["miou"] is None and rows["stdc/no_detail"]["miou"] == pytest.approx(
        40
    )
    assert rows["stdc/no_detail"]["difference"] is None
    line = "stdc/stdc1, seed 0: failed: the device's memory is too small"
    assert (
        line in capsys.readouterr().out
        and line in next(tmp_path.glob("sweep-*/table.md")).read_text()
    )


def test_the_same_command_skips_what_is_finished_and_goes_on_with_the_rest(
    start: Callable[..., int], trainings: Trainings, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trainings.stops_in = "stdc/no_detail"
    assert start("--model", f"{PAIR},stdc/stdc2") == 130
    assert trainings.rows() == PAIR.split(",")
    assert "stdc/stdc2, seed 0: not run" in capsys.readouterr().out
    (begun,) = tmp_path.glob("stdc-no_detail-*")
    trainings.stops_in, trainings.commands = "", []
    assert start("--model", f"{PAIR},stdc/stdc2") == 0
    assert trainings.commands[0] == ["--resume", str(begun)] and trainings.rows()[1:] == [
        "stdc/stdc2"
    ]
    assert "finished before: stdc/stdc1, seed 0" in capsys.readouterr().out
    trainings.commands = []
    assert start("--model", f"{PAIR},stdc/stdc2") == 0 and trainings.commands == []
    assert [row["miou"] for row in table_of(tmp_path).values()] == pytest.approx([50, 40, 60])


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (["trainer.log_every=3", "data.workers=1"], True),
        (["trainer.accumulate=2"], False),
        (["recipe.lr=0.02"], False),
        (["recipe.precision=bf16-mixed"], True),
        (["recipe.precision=32-true"], False),
        (["data.scene_seed=1"], False),
        (["model.dice=squares"], False),
        (["--seed", "1"], False),
        (["--init", "scratch"], False),
        (["--smoke"], False),
        (["--semi", "mean_teacher"], False),
    ],
)
def test_a_run_is_known_by_all_that_decides_its_score(
    other: list[str], same: bool, start: Callable[..., int], trainings: Trainings
) -> None:
    assert start("--model", PAIR) == 0
    trainings.commands = []
    assert start("--model", PAIR, *other) == 0
    assert len(trainings.commands) == (0 if same else 2)


def test_a_run_that_another_process_makes_is_left_to_it(
    start: Callable[..., int], trainings: Trainings, tmp_path: Path
) -> None:
    first, _ = plan.plan(asked("--model", PAIR, folder=tmp_path))
    with sweep.alone(tmp_path, first) as lock:
        assert lock is not None
        assert start("--model", PAIR) == 0
    assert trainings.rows() == ["stdc/no_detail"]
    assert table_of(tmp_path)["stdc/stdc1"]["runs"][0]["reason"] == "another process is running it"


def program(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "program.py").write_text(f"import os, signal, sys, time\n{text}\n")
    monkeypatch.setattr(sweep, "PROGRAM", folder / "program.py")


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        (
            "print('error: no such folder', file=sys.stderr); sys.exit(2)",
            2,
            "failed: no such folder",
        ),
        ("raise ValueError('odd')", 1, "failed: ValueError: odd"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "failed: ended by SIGKILL (out of memory?)"),
        ("sys.exit(3)", 3, "failed: exit code 3"),
    ],
)
def test_how_a_process_ended_is_told_and_its_errors_pass_through(
    text: str,
    code: int,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    program(tmp_path, text, monkeypatch)
    ended, said = sweep.process([], stop := sweep.Stop(), -1)
    assert (ended, sweep.why(ended, said, stop)) == (code, reason)
    assert capsys.readouterr().err == "".join(said)


def test_sigterm_is_handed_on_to_the_run_and_the_lock_is_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(
        tmp_path,
        "signal.signal(signal.SIGTERM, lambda *unused: sys.exit(143))\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "for _ in range(3000): time.sleep(0.1)",
        monkeypatch,
    )
    lock = (tmp_path / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)

    def once_ready() -> None:
        try:
            assert until((tmp_path / "ready").exists)
            lock.close()  # ours is gone; the run still holds it
            with (tmp_path / "lock").open("w") as second, pytest.raises(BlockingIOError):
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.append(True)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    held: list[bool] = []
    other = threading.Thread(target=once_ready)
    other.start()
    with sweep.Stop().listening() as stop:
        code, _ = sweep.process([], stop, lock.fileno())
        other.join()  # within, for nobody else would take its SIGTERM
    assert (code, stop.number, held) == (143, signal.SIGTERM, [True])


def test_sigterm_while_the_run_is_being_started_is_handed_on_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "time.sleep(60)", monkeypatch)
    start, stop = subprocess.Popen, sweep.Stop()

    def interrupted(*given: Any, **more: Any) -> subprocess.Popen:
        child = start(*given, **more)
        stop(signal.SIGTERM, None)
        return child

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    assert sweep.process([], stop, -1)[0] == 128 + signal.SIGTERM


# --- the table


def test_the_table_has_means_and_spreads_over_seeds_and_the_difference_to_the_main_row(
    start: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        start(
            "--model",
            "stdc/no_detail,stdc",
            "--seeds",
            "0,1,4",
            "recipe.lr=0.1",
            "trainer.pictures=0",
            "trainer.accumulate=2",
        )
        == 0
    )
    main, other = table_of(tmp_path).values()
    percent = [50, 51, 54]
    assert (main["row"], main["main"], main["seeds"]) == ("stdc/stdc1", True, [0, 1, 4])
    assert (main["miou"], main["spread"]) == pytest.approx((fmean(percent), stdev(percent)))
    assert (main["best"], main["best_spread"]) == pytest.approx(
        (fmean(percent) + 10, stdev(percent))
    )
    assert other["difference"] == pytest.approx(-10) and main["difference"] is None
    assert other["differs"] == ["model.detail_strides (1, 2, 4) -> ()"] and main["differs"] == []
    text = next(tmp_path.glob("sweep-*/table.md")).read_text()
    assert (
        "| stdc/no_detail | model.detail_strides (1, 2, 4) -> () "
        "| 41.67 ± 2.08 | 51.67 ± 2.08 | -10.00 |" in text
    )
    assert "- on every row: recipe.lr=0.1 trainer.accumulate=2\n" in text
    assert "41.67 ± 2.08" in capsys.readouterr().out


def test_what_evaluate_said_later_of_a_run_is_no_run_of_the_sweep(
    start: Callable[..., int], tmp_path: Path
) -> None:
    words = ("--model", PAIR)
    assert start(*words) == 0
    before = table_of(tmp_path)
    run = tmp_path / before["stdc/stdc1"]["runs"][0]["folder"]
    files.write_json(
        run / "checkpoints" / "evaluation-last-flip.json",
        result("stdc/stdc1", miou=0.9, protocol="flip"),
    )
    assert start(*words) == 0 and table_of(tmp_path) == before


def test_a_recipe_a_start_and_an_override_that_levels_rows_are_told_in_the_differences() -> None:
    def told(row: str, main: str, *overrides: str) -> list[str]:
        return plan.differences(
            *(resolve(f"bisenet/{each}", "cityscapes", overrides) for each in (row, main))
        )

    assert "starts from resnet18.tv_in1k -> scratch" in told("xception39", "resnet18")
    assert told("xception39_speed", "resnet18_speed")[0] == "model.backbone resnet18 -> xception39"
    assert "recipe.lr 0.025 -> 0.01" in told("resnet18_accuracy", "resnet18")
    assert told("no_arm", "resnet18", "model.arm=false") == []


def test_the_report_shows_the_runs_of_a_sweep_alone(
    start: Callable[..., int], tmp_path: Path
) -> None:
    assert start("--model", "stdc/stdc2,stdc/stdc1") == start("--model", PAIR) == 0
    (sweep_folder,) = tmp_path.glob("sweep-stdc-stdc1-stdc-no_detail-*")
    rows = table(read_results([sweep_folder]))
    assert [row.experiment for row in rows] == ["stdc/no_detail", "stdc/stdc1"]
    assert len(read_results([tmp_path])) == len(read_results(list(tmp_path.glob("s*")))) == 3
    (sweep_folder / "table.json").write_text("{}")
    with pytest.raises(UserError, match="is no table of a sweep"):
        read_results([sweep_folder])


@pytest.mark.slow
def test_two_rows_are_really_trained_judged_and_set_side_by_side(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """One of them before, by a command of its own."""
    given = [
        "--smoke",
        "--runs",
        str(tmp_path),
        "trainer.accelerator=cpu",
        "trainer.pictures=0",
        "recipe.iterations=2",
    ]
    assert run.main(["--model", "fastscnn/no_skip", *given]) == 0
    assert run.main(["--model", "fastscnn/no_skip,fastscnn", *given]) == 0
    said = capfd.readouterr()
    assert (
        "2 runs: 1 finished before, 0 to go on with, 1 new" in said.out
        and "finished before: fastscnn/no_skip, seed 0" in said.out
    )
    assert (
        "checking 1 row before the first training begins" in said.out
        and "[1/1] fastscnn/fastscnn, seed 0" in said.out
    )
    assert "error" not in said.err
    rows = table_of(tmp_path)
    assert list(rows) == ["fastscnn/fastscnn", "fastscnn/no_skip"] and rows["fastscnn/no_skip"][
        "differs"
    ] == ["model.skip True -> False"]
    for row in rows.values():
        (made,) = row["runs"]
        left = json.loads((tmp_path / made["folder"] / "result.json").read_text())
        with (tmp_path / made["folder"] / "metrics.csv").open(newline="") as lines:
            best = max(
                float(line["val/mIoU"]) for line in csv.DictReader(lines) if line["val/mIoU"]
            )
        assert (row["miou"], row["best"], row["parameters"]) == pytest.approx(
            (100 * left["miou"], 100 * best, left["parameters"])
        )
    assert run.main(["--model", "fastscnn/no_skip,fastscnn", *given]) == 0
    assert "2 runs: 2 finished before, 0 to go on with, 0 new" in capfd.readouterr().out


def test_a_value_that_is_refused_in_the_rehearsal_ends_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert run.main(["--model", PAIR, "--runs", str(tmp_path), "data.root=nowhere"]) == 2
    said = capfd.readouterr()
    assert (
        "drop data.root=nowhere" in said.err
        and "(for stdc/stdc1, stdc/no_detail); nothing was trained" in said.err
    )
    assert list(tmp_path.iterdir()) == []


def test_rows_of_no_interest_to_a_sweep_are_single_runs() -> None:
    assert not plan.several(asked("--model", "stdc/no_detail"))
    assert plan.several(asked("--model", "stdc", "--seeds", "1")) and plan.several(
        asked("--model", "stdc,fcn")
    )
    with pytest.raises(UserError, match="no row matches"):
        plan.plan(asked("--model", "nothing*"))
