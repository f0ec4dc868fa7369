"""Tests of runs whose processes are started by torchrun or SLURM.

One process makes and writes the run folder, and a SIGTERM that comes twice stops them once.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.records import run_folder
from tests.support.launched import STOP
from tests.support.paths import ROOT
from tests.support.runs import ROWS, only, rows


@pytest.fixture(
    scope="module", params=["torchrun", pytest.param("slurm", marks=pytest.mark.catalogue)]
)
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two processes that were sent SIGTERM twice, and of the two that went on."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork a process")
    out = tmp_path_factory.mktemp("job")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.launched", request.param, str(out)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_processes_of_one_job_share_one_run_folder_and_one_of_them_speaks(job: Path) -> None:
    said = (job / "stopped.txt").read_text()
    assert said.count("run folder") == said.count("bisenet/xception39 on streets") == 1
    assert f"run folder {only(job / 'runs')}\n" in said
    later = (job / "resumed.txt").read_text()
    assert (
        later.count(f"resuming after step {STOP}\n")
        == later.count("bisenet/xception39 on streets")
        == later.count("class   ")
        == 1
    )
    assert [
        (int(row["step"]), "val" if row["val/mIoU"] else "train")
        for row in rows(only(job / "runs"))
    ] == ROWS


@pytest.mark.slow
def test_two_sigterms_end_a_run_at_the_step_that_it_had_reached(job: Path) -> None:
    said = (job / "stopped.txt").read_text()
    assert (job / "stopped").read_text() == "143 143", said
    assert (
        said.count("stopping as soon as")
        == said.count(f"stopped after step {STOP}; go on with:")
        == 1
        and "Traceback" not in said
    )
    assert (job / "resumed").read_text() == "0 0", (job / "resumed.txt").read_text()


@pytest.mark.parametrize(
    ("numbers", "leads"),
    [
        ({}, True),
        (
            {"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "1"},
            True,
        ),  # torchrun within SLURM: which node is first is torchrun's to say
        ({"RANK": "2", "LOCAL_RANK": "0", "SLURM_PROCID": "0"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"NODE_RANK": "0", "LOCAL_RANK": "1"}, False),
    ],
)
def test_the_first_process_is_told_by_the_numbers_it_was_given(
    numbers: dict[str, str], leads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, number in numbers.items():
        monkeypatch.setenv(name, number)
    assert run_folder.leads() == leads
