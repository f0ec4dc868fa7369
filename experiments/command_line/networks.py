"""Parse the words that name a trained network: a run, a checkpoint, or released:NAME=FILE.

Nothing here imports torch.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from experiments.command_line.errors import UserError
from segmodels.names import nearest_name

RELEASED = "released:"
NETWORK_HELP = (
    "a run folder (its last checkpoint), a checkpoint of ours, "
    "or released:NAME=FILE (the authors' checkpoint)"
)


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """A file that a paper's authors, or another code line, released, and the name of its layout."""

    layout: str
    file: Path

    def __str__(self) -> str:
        return f"{RELEASED}{self.layout}={self.file}"


Checkpoint = Path | ReleasedCheckpoint  # a path is one of ours


def parse_network(word: str) -> Checkpoint:
    """The checkpoint that the word names. It is there, but it was not read."""
    if not word.startswith(RELEASED):
        return checkpoint_of(Path(word))
    layout, _, file = word.removeprefix(RELEASED).partition("=")
    if not (layout and file):
        raise UserError(
            f"{word} is not understood; write released:NAME=FILE, the layout's name and "
            "the authors' checkpoint, such as released:stdc1_seg=stdc1.pth"
        )
    return released_checkpoint(layout, Path(file))


def released_checkpoint(layout: str, file: Path) -> ReleasedCheckpoint:
    if file.is_dir():
        raise UserError(f"{file} is a folder; give the authors' checkpoint, a file")
    if not file.is_file():
        raise UserError(f"there is no file {file}{nearest(file)}; give the authors' checkpoint")
    return ReleasedCheckpoint(layout, file)


def checkpoint_of(path: Path) -> Path:
    """The file itself, or the last checkpoint of a run's folder or of its checkpoints/."""
    for file in (path, path / "checkpoints" / "last.ckpt", path / "last.ckpt"):
        if file.is_file():
            return file
    remedy = "give a .ckpt file or the folder of a run"
    if not path.exists():
        raise UserError(f"there is no {path}{nearest(path)}; {remedy}")
    runs = sorted(path.glob("*/checkpoints/last.ckpt"), key=os.path.getmtime)
    guess = f" (did you mean {runs[-1].parents[1]}?)" if runs else ""
    raise UserError(f"{path} holds no checkpoints/last.ckpt{guess}; {remedy}")


def nearest(path: Path) -> str:
    """ " (did you mean ...?)" for a file or folder of almost that name beside it."""
    if not path.parent.is_dir():
        return ""
    beside = [each.name for each in path.parent.iterdir() if each.name != path.name]
    name = nearest_name(path.name, beside)
    return f" (did you mean {path.parent / name}?)" if name else ""


def folder_of(checkpoint: Path) -> Path:
    """The run's folder; a checkpoint that was moved away has only the folder that it lies in."""
    folder = checkpoint.parent
    is_run = folder.name == "checkpoints" and (folder.parent / "config.json").is_file()
    return folder.parent if is_run else folder
