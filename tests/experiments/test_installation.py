"""Tests of what is installed: the wheel, `segmodels COMMAND`, a Python without our packages; and
of help texts, which keep to the terminal's width."""

import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import experiments
import segmodels
from experiments import __main__ as program
from experiments.command_line import invocation
from experiments.command_line.invocation import COMMANDS, as_started
from experiments.command_line.parser import fitting_lines
from tests.support.paths import ROOT

OWN = ("segmodels", "datamodules", "experiments")
IMPORTED_AS = {
    "segmentation-models-pytorch": "segmentation_models_pytorch",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
}

# --- one name for all commands


def test_help_names_every_command_and_imports_no_torch() -> None:
    code = (
        "import sys; from experiments import __main__ as program\n"
        "try:\n program.main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert [name for name in COMMANDS if f"\n  {name} " not in shown] == []


def test_the_version_is_said_in_python_and_on_the_command_line(
    capsys: pytest.CaptureFixture,
) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"segmodels {segmodels.__version__}\n"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], "which command? there are run, evaluate, "),
        (["evalute", "runs"], "there is no command evalute; did you mean evaluate? there are"),
        (["--versoin"], "there is no option --versoin; did you mean --version?"),
        (["run", "--modle", "bisenet"], "there is no option --modle; did you mean --model?"),
        (["report", "--version"], "there is no option --version"),
    ],
)
def test_a_wrong_word_after_segmodels_is_refused_with_the_right_one(
    words: list[str], answer: str, capsys: pytest.CaptureFixture
) -> None:
    assert program.main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {answer}")


def test_a_command_gets_the_words_after_its_name(capsys: pytest.CaptureFixture) -> None:
    assert program.main(["run", "--model", "bisenet/no_arm", "--show", "recipe.lr=0.125"]) == 0
    assert "0.125" in capsys.readouterr().out


STARTED = {  # the first word of the process, the module of -m, and what is said of run.py
    "segmodels": ("/usr/bin/segmodels", None, "segmodels run"),
    "-m experiments": ("/x/__main__.py", "experiments.__main__", "python -m experiments run"),
    "-m experiments.run": ("/x/run.py", "experiments.run", "python -m experiments run"),
    "script": ("experiments/run.py", None, None),
    "pytest": ("/x/pytest/__main__.py", "pytest.__main__", None),
}


@pytest.mark.parametrize("way", STARTED)
def test_a_command_is_named_as_the_process_was_started(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    word, module, run = STARTED[way]
    spec = SimpleNamespace(name=module) if module else None
    monkeypatch.setattr(sys, "argv", [word])
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=spec))
    for text in ("go on with: python experiments/run.py --resume runs/x", "see run.py --list"):
        expected = re.sub(r"(python experiments/)?run\.py", run, text) if run else text
        assert as_started(text) == expected
        assert as_started(expected) == expected
    for text in ("scripts/run.py", "my-run.py", "rerun.py", "run.pyc"):
        assert as_started(text) == text


def test_help_speaks_of_segmodels_where_it_was_started_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(invocation, "program", lambda: "segmodels")
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            program.main([name, "--help"])
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: segmodels {name} ") and ".py" not in shown


# --- a Python without our packages


@pytest.mark.parametrize("name", COMMANDS)
def test_without_the_environment_a_command_says_what_to_do(name: str, tmp_path: Path) -> None:
    bare = [sys.executable, "-S", "-E", ROOT / "experiments" / f"{name}.py", "--help"]
    ended = subprocess.run(bare, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(
        "error: .* lacks torch, torchvision, .*; activate the environment .*\n", ended.stderr
    )


def test_every_dependency_is_looked_for() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = [re.match(r"[\w-]+", each)[0] for each in settings["project"]["dependencies"]]
    assert sorted(IMPORTED_AS.get(name, name) for name in names) == sorted(experiments.PACKAGES)


def test_a_python_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert experiments.unusable() == ""
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    assert experiments.unusable() == "is Python 3.9, and the project needs 3.11 or newer"


def test_a_script_runs_the_code_beside_it_wherever_it_is_started(tmp_path: Path) -> None:
    """Also if another copy of the project is installed, or is named before it."""
    for package in OWN:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('another copy')")
    ended = subprocess.run(
        [sys.executable, ROOT / "experiments" / "report.py", "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


# --- the wheel


@pytest.mark.slow
def test_the_wheel_holds_all_that_the_commands_read_and_nothing_else(tmp_path: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in tracked:
        copy = tmp_path / "copy" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path / "copy", check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"segmodels-{segmodels.__version__}-")
    with zipfile.ZipFile(wheel) as content:
        names = [name for name in content.namelist() if ".dist-info/" not in name]
        scripts = next(name for name in content.namelist() if name.endswith("entry_points.txt"))
        assert b"segmodels = experiments.__main__:start" in content.read(scripts)
    assert sorted(names) == sorted(name for name in tracked if name.split("/")[0] in OWN)


# --- help texts and the terminal's width

HELPS = [
    *([name] for name in COMMANDS),
    *(["benchmark", each] for each in ("infer", "loss", "crf", "data")),
]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("words", [[], *HELPS], ids=" ".join)
def test_help_keeps_to_the_terminals_width(
    words: list[str], width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit) as ended:
        program.main([*words, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if len(line) > width] == []


HELP = """\
Look at a data set before training on it: every file is read once, and whatever
is wrong is said.

heading
  python experiments/run.py --model bisenet --data folder data.root=DIR \\
    --init FILE
kinds
  ids      in the data set's own
           numbers
  overlay  colors over the image
"""


def test_lines_that_fit_stay_as_they_are() -> None:
    assert list(fitting_lines(HELP, 79)) == HELP.splitlines()


def test_what_is_too_wide_is_filled_and_a_command_goes_on_after_a_backslash() -> None:
    assert (
        "\n".join(fitting_lines(HELP, 30))
        == """\
Look at a data set before
training on it: every file is
read once, and whatever is
wrong is said.

heading
  python experiments/run.py \\
    --model bisenet \\
    --data folder \\
    data.root=DIR \\
    --init FILE
kinds
  ids      in the data set's
           own numbers
  overlay  colors over the
           image"""
    )


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_a_narrow_terminal_loses_no_word(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shown = []
    for width in ("60", "200"):
        monkeypatch.setenv("COLUMNS", width)
        with pytest.raises(SystemExit):
            importlib.import_module(f"experiments.{words[0]}").main([*words[1:], "--help"])
        shown.append(capsys.readouterr().out.replace("\\\n", "").split())
    assert shown[0] == shown[1]
