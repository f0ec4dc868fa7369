"""Tests of atomic files: results are complete or absent, however the work ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import benchmark, check_data, evaluate, export, pack, predict, report, run
from experiments.command_line.files import check_makeable, whole, write_text
from segmodels.module import SegmentationModule
from tests.support import trees
from tests.support.paths import ROOT
from tests.support.pictures import picture
from tests.support.runs import SCENES, TINY

KILLED = """
import os, signal, sys
from pathlib import Path

import numpy as np

out = Path(sys.argv[1])


def half(name):
    \"\"\"It begins to write, and is killed.\"\"\"
    file = name if hasattr(name, "write") else open(name, "wb")
    file.write(b"the first half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)


Path.write_text = lambda file, *content, **how: half(file)
np.savez_compressed = lambda file, **content: half(file)
"""
WRITERS = {
    "a report": "from experiments import report; report.main(['--out', str(out)])",
    "a result": "from experiments.command_line.files import write_json; write_json(out, {'miou': 0.5})",
    "records": "from experiments.records.image_records import Examined; Examined('', ['a'], [(0, 0, 0)], [], ['b'], np.ones((1, 1, 1))).save(out)",
    "a picture": "from matplotlib.figure import Figure\nFigure.savefig = lambda figure, file, **how: half(file)\n"
    "from experiments.reports.speed_plot import save; save(Figure(), out)",
}


@pytest.mark.parametrize("there", [False, True], ids=["new", "over an old one"])
@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_killed_while_writing_leaves_the_old_file_or_none(
    kind: str, there: bool, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    if there:
        out.write_text("the old one")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED + WRITERS[kind], str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert out.exists() == there and (not there or out.read_text() == "the old one")
    assert [file.read_text() for file in tmp_path.glob(".*")] == ["the first half"]
    write_text(out, "whole")  # the next try is not in the way of what was left
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"] and out.read_text() == "whole"


@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError, SystemExit])
def test_what_fails_while_writing_leaves_nothing(
    problem: type[BaseException], tmp_path: Path
) -> None:
    with pytest.raises(problem), whole(tmp_path / "new.txt") as partial:
        partial.write_text("half")
        raise problem
    assert not list(tmp_path.iterdir())


def test_a_link_stays_one_and_a_device_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "far" / "file.txt")
    for text in ("first", "second"):
        write_text(tmp_path / "link.txt", text)
        assert (tmp_path / "link.txt").is_symlink() and (
            tmp_path / "far" / "file.txt"
        ).read_text() == text
    with whole(Path(os.devnull)) as place:
        assert place == Path(os.devnull)
    write_text(Path(os.devnull), "text")
    assert Path(os.devnull).is_char_device()


def test_a_folder_that_can_be_made_is_not_made_yet(tmp_path: Path) -> None:
    check_makeable(tmp_path / "a" / "b", "--runs")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["bisenet", "bisenet/*"])
def test_runs_that_cannot_be_written_are_refused_before_anything_else(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A file stands for every folder that lets nothing be made in it, /proc among them."""
    (tmp_path / "file").touch()
    runs = tmp_path / "file" / "runs"
    assert run.main(["--model", model, "--smoke", "--runs", str(runs)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == (
        f"error: {runs} cannot be written to (Not a directory); give --runs another folder\n"
    )
    assert run.main(["--model", model, "--show", "--runs", str(runs)]) == 0


def test_packs_that_cannot_be_written_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "packs"
    assert pack.main(["--data", "camvid", f"data.root={tmp_path}", "--out", str(out)]) == 2
    assert capsys.readouterr().err.endswith("(Not a directory); give --out another folder\n")


def test_several_results_in_a_folder_that_cannot_be_written_to_get_advice_that_can_be_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--out names one file, so --protocols refuses it."""
    (tmp_path / "last.ckpt").touch()
    monkeypatch.setattr(
        os, "access", lambda folder, how: folder != tmp_path
    )  # permissions do not stop root
    for words, remedy in (
        ([], "give --out FILE in another folder"),
        (["--protocols"], "copy the checkpoint to another folder"),
    ):
        assert evaluate.main([str(tmp_path / "last.ckpt"), *words]) == 2
        assert f"{tmp_path} cannot be written to; {remedy}" in capsys.readouterr().err


def test_a_page_that_exists_is_refused_by_its_own_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "page.html").write_text("mine")
    for program, words in (
        (check_data, ["--data", "streets"]),
        (evaluate, [str(tmp_path / "page.html")]),
    ):
        assert program.main([*words, "--page", str(tmp_path / "page.html")]) == 2
        assert (
            f"{tmp_path / 'page.html'} exists and is not overwritten; give another --page"
            in capsys.readouterr().err
        )
    assert (tmp_path / "page.html").read_text() == "mine"


# --- where nothing can be written

SMALL = ["--data", "streets", *SCENES, "data.test=1"]
WRITES = {  # a command, and the words for what stands in TREE and is written below PLACE
    "run": (run, [*TINY, "--runs", "PLACE/runs"]),
    "evaluate": (evaluate, ["NETWORK", "--out", "PLACE/result.json"]),
    "predict": (predict, ["NETWORK", "TREE/picture.png", "--out", "PLACE/out"]),
    "export": (export, ["bisenet", "--size", "64x128", "--out", "PLACE/bisenet.onnx"]),
    "report": (report, ["--out", "PLACE/report.md"]),
    "pack": (pack, ["--data", "cityscapes", "data.root=TREE", "--out", "PLACE/packs"]),
    "check_data": (check_data, [*SMALL, "--out", "PLACE/check.json"]),
    "check_data --page": (check_data, [*SMALL, "--page", "PLACE/check.html"]),
    "benchmark infer": (benchmark, ["infer", "bisenet", "--out", "PLACE/speed.json"]),
    "benchmark data": (benchmark, ["data", "--out", "PLACE/speed.json"]),
}
AT_THE_END = ("run", "predict", "report", "pack", "check_data", "check_data --page")


def assert_refused(
    command: str,
    place: Path,
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    """The command must answer a place that nothing can be written to with one sentence."""
    trees.cityscapes(tmp_path, {"train": 1, "val": 1, "test": 1})
    picture(tmp_path / "picture.png")
    values = {"PLACE": str(place), "TREE": str(tmp_path), "NETWORK": str(network[0])}
    program, words = WRITES[command]
    for name, value in values.items():
        words = [word.replace(name, value) for word in words]
    assert program.main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("error: ")]) == 1
    assert said[-1].startswith("error: ") and str(place) in said[-1]
    assert "Errno" not in said[-1]  # but a sentence of ours


@pytest.mark.parametrize("command", WRITES)
def test_a_place_below_a_file_is_answered_with_one_sentence(
    command: str,
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    place = tmp_path / "file"
    place.write_text("mine")
    assert_refused(command, place, network, tmp_path, capsys)
    assert place.read_text() == "mine"


@pytest.mark.parametrize("command", AT_THE_END)
def test_a_folder_without_rights_is_answered_with_one_sentence(
    command: str,
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o555)
    if os.access(place, os.W_OK):  # permissions do not stop root, but nobody adds to this one
        place = Path("/sys/kernel")
        if not place.is_dir():
            pytest.skip("this system has no folder that root cannot write to")
    assert_refused(command, place, network, tmp_path, capsys)
