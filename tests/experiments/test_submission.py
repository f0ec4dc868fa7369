"""Tests of an interrupted evaluate.py --submit.

The folder is complete or absent, and the same command continues.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from experiments import evaluate
from experiments.evaluation import submission
from tests.support import trees
from tests.support.checkpoints import written
from tests.support.paths import ROOT

IMAGES = 4


@pytest.fixture
def streets(tmp_path: Path) -> list[str]:
    """The words of a submission into "new", of a small network on official-looking images."""
    trees.cityscapes(tmp_path / "Cityscapes", {"train": 1, "val": 1, "test": IMAGES}, size=(64, 96))
    written(tmp_path / "last.ckpt", data="cityscapes")
    place = [f"data.root={tmp_path / 'Cityscapes'}", "data.workers=0"]
    return [
        str(tmp_path / "last.ckpt"),
        "--split",
        "test",
        "--submit",
        str(tmp_path / "new"),
        *place,
    ]


def stopped(words: list[str], problem: BaseException, name: str = "predict") -> int:
    """The exit code where the third call of that function meets the problem."""
    right, calls = getattr(submission, name), []

    def third(*given: object) -> object:
        calls.append(given)
        if len(calls) == 3:
            raise problem
        return right(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submission, name, third)
        return evaluate.main(words)


def counted(words: list[str]) -> tuple[int, int]:
    """The exit code, and how many images the network was asked about."""
    right, calls = submission.predict, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submission, "predict", lambda *given: calls.append(given) or right(*given))
        return evaluate.main(words), len(calls)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix == ".png"}


def elsewhere(words: list[str]) -> dict[str, bytes]:
    """The files of a submission that nothing stopped."""
    other = Path(words[words.index("--submit") + 1]).with_name("other")
    assert evaluate.main([str(other) if Path(word).name == "new" else word for word in words]) == 0
    return files(other)


STOPS = [
    (KeyboardInterrupt(), "predict", 130, "stopped; the same command goes on from here"),
    (KeyboardInterrupt(), "save", 130, "stopped"),
    (
        OSError(errno.ENOSPC, "No space left on device", "a.png"),
        "save",
        2,
        "error: a.png: No space left on device; mend that, and the same",
    ),
]


@pytest.mark.parametrize(
    ("problem", "where", "code", "said"), STOPS, ids=["Ctrl-C", "Ctrl-C while saving", "full disk"]
)
def test_what_was_stopped_is_absent_and_goes_on(
    problem: BaseException,
    where: str,
    code: int,
    said: str,
    streets: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    assert stopped(streets, problem, where) == code
    assert said in capsys.readouterr().err and not (tmp_path / "new").exists()
    assert counted(streets) == (0, IMAGES - 2)
    assert f"2 of {IMAGES} label files are there already" in capsys.readouterr().out
    assert files(tmp_path / "new") == elsewhere(streets)
    with zipfile.ZipFile(tmp_path / "new" / "submission.zip") as archive:
        assert archive.testzip() is None and len(archive.namelist()) == IMAGES
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == sorted(
        [*files(tmp_path / "new"), "submission.zip"]
    )
    assert not list(tmp_path.glob(".*"))


def test_the_device_is_the_one_asked_for(
    streets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # a GPU that could compute nothing, were it asked to
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert counted([*streets, "--device", "cpu"]) == (0, IMAGES)


KILLED = """
import os, signal, sys, zipfile
from experiments import evaluate

zipfile.ZipFile.write = lambda *given: os.kill(os.getpid(), signal.SIGKILL)  # the archive is open by then
evaluate.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_kill_while_packing_leaves_no_folder_and_the_next_try_makes_it(
    streets: list[str], tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *streets], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob("**/submission.zip"))
    assert counted(streets) == (0, 0)
    with zipfile.ZipFile(tmp_path / "new" / "submission.zip") as archive:
        assert archive.testzip() is None and len(archive.namelist()) == IMAGES
    assert not list(tmp_path.glob(".*"))


def test_another_network_or_option_does_not_go_on_with_it(
    streets: list[str], tmp_path: Path
) -> None:
    assert stopped(streets, KeyboardInterrupt()) == 130
    (begun,) = tmp_path.glob(".new.*.partial")
    before = files(begun / "files")
    for words in ([*streets, "--inference", "flip"], [*streets, "--precision", "bf16-mixed"]):
        assert stopped(words, KeyboardInterrupt()) == 130
    written(tmp_path / "last.ckpt", data="cityscapes", inference="flip")
    assert stopped([*streets, "--inference", "whole"], KeyboardInterrupt()) == 130
    assert len(list(tmp_path.glob(".new.*.partial"))) == 4 and files(begun / "files") == before
    assert counted([*streets, "--inference", "whole"]) == (0, IMAGES - 2)
    assert not list(tmp_path.glob(".*")) and len(files(tmp_path / "new")) == IMAGES


def test_a_stopped_check_against_the_labels_goes_on_without_the_network(
    streets: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [word.replace("test", "val") if word == "test" else word for word in streets]
    with monkeypatch.context() as patch:
        patch.setattr(
            submission, "official_scores", lambda pairs: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert evaluate.main(words) == 130
    assert not (tmp_path / "new").exists()
    assert counted(words) == (0, 0)
    assert "mIoU of the files on val: " in capsys.readouterr().out
    assert len(list((tmp_path / "new").iterdir())) == 2 and not list(tmp_path.glob(".*"))


def test_what_can_be_refused_is_refused_before_the_network_is_read(
    streets: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        submission, "open_network", lambda *given: pytest.fail("the network was read")
    )
    assert evaluate.main([*streets, "--data", "camvid"]) == 2
    assert "camvid has another; leave out --data" in capsys.readouterr().err
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "new"
    assert (
        evaluate.main([str(below) if word == str(tmp_path / "new") else word for word in streets])
        == 2
    )
    assert (
        f"{below} cannot be written to (Not a directory); give --submit another folder"
        in capsys.readouterr().err
    )
    (tmp_path / "new").mkdir()
    assert evaluate.main(streets) == 2
    assert (
        f"{tmp_path / 'new'} exists and is not overwritten; give another --submit"
        in capsys.readouterr().err
    )


def test_a_checkpoint_in_a_folder_that_cannot_be_written_to_is_submitted_elsewhere(
    streets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "free").mkdir()
    monkeypatch.setattr(os, "access", lambda folder, how: folder != tmp_path)
    words = [
        str(tmp_path / "free" / "new") if Path(word).name == "new" else word for word in streets
    ]
    assert evaluate.main(words) == 0 and len(files(tmp_path / "free" / "new")) == IMAGES


# --- a page, and pictures of shifts


@pytest.mark.parametrize(
    ("problem", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(errno.ENOSPC, "No space left"), 2, "written (No space left); make room"),
    ],
    ids=["Ctrl-C", "full disk"],
)
def test_a_page_that_is_stopped_is_absent_and_its_result_is_there(
    problem: BaseException,
    code: int,
    said: str,
    streets: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    right, split = Path.write_text, streets.index("--split")
    words = [
        *streets[:split],
        *streets[split + 4 :],
        "--page",
        str(tmp_path / "page.html"),
        "--out",
        str(tmp_path / "found.json"),
    ]

    def half(file: Path, text: str, **how: object) -> int:
        if "page.html" not in file.name:
            return right(file, text, **how)
        right(file, text[: len(text) // 2], **how)
        raise problem

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        assert evaluate.main(words) == code
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*page*")) and not list(tmp_path.glob(".*"))
    assert (
        json.loads((tmp_path / "found.json").read_text())["records"] == "found.npz"
        and (tmp_path / "found.npz").is_file()
    )


@pytest.mark.parametrize(
    ("asked", "shown"),
    [("4", [4]), ("1,5", [1, 5]), ("1,2,3,4,5", [1, 3, 5]), ("2,3,4,5", [2, 4, 5])],
)
def test_a_sheet_of_shifts_shows_severities_that_were_judged(asked: str, shown: list[int]) -> None:
    from experiments.evaluation.robustness import shown_severities

    assert shown_severities([int(each) for each in asked.split(",")]) == shown
