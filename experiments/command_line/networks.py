"""The words that name a trained network: a run, a checkpoint, or released:LAYOUT=FILE. Imports no torch."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line.errors import UserError

if TYPE_CHECKING:
    pass


NETWORK_HELP = "a run folder (its last checkpoint), a checkpoint of ours, or released:LAYOUT=FILE (the authors')"
RELEASED = "released:"


@dataclass(frozen=True)
class Authors:
    """A checkpoint that a paper's authors, or another code line, released."""

    layout: str
    file: Path

    def __str__(self) -> str:
        return f"{RELEASED}{self.layout}={self.file}"


def source_of(word: str | Path) -> Path | Authors:
    """What the word means, without reading the file; imports no torch."""
    if not str(word).startswith(RELEASED):
        return checkpoint_of(Path(word))
    name, equals, file = str(word).removeprefix(RELEASED).partition("=")
    if not (name and equals and file):
        raise UserError(
            f"{word} is not understood; write released:LAYOUT=FILE, such as released:stdc1_seg=stdc1.pth"
        )
    return authors(name, Path(file))


def authors(layout: str, file: Path) -> Authors:
    if file.is_dir():
        raise UserError(f"{file} is a folder; give the authors' checkpoint, a file")
    if not file.is_file():
        raise UserError(f"there is no file {file}{nearest(file)}; give the authors' checkpoint")
    return Authors(layout, file)


def checkpoint_of(path: Path) -> Path:
    """The file itself, or the last checkpoint of a run's folder or of its checkpoints/."""
    places = [path, path / "checkpoints" / "last.ckpt", path / "last.ckpt"]
    if file := next((each for each in places if each.is_file()), None):
        return file
    if not path.exists():
        raise UserError(
            f"there is no {path}{nearest(path)}; give a .ckpt file or the folder of a run"
        )
    runs = sorted(path.glob("*/checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime)
    guess = f" (did you mean {runs[-1].parents[1]}?)" if runs else ""
    raise UserError(
        f"{path} holds no checkpoints/last.ckpt{guess}; give a .ckpt file or the folder of a run"
    )


def nearest(path: Path) -> str:
    """ " (did you mean ...?)" for a file or folder of almost that name beside it."""
    beside = (
        [each.name for each in path.parent.iterdir() if each.name != path.name]
        if path.parent.is_dir()
        else []
    )
    match = get_close_matches(path.name, beside, n=1)
    return f" (did you mean {path.parent / match[0]}?)" if match else ""


def folder_of(checkpoint: Path) -> Path:
    """The run's folder; a checkpoint that was moved away has only the folder that it lies in."""
    inside = (
        checkpoint.parent.name == "checkpoints"
        and (checkpoint.parent.parent / "config.json").is_file()
    )
    return checkpoint.parent.parent if inside else checkpoint.parent
