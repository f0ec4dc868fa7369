"""Parse the words that name a trained network: a run, a checkpoint, or released:NAME=FILE.

Nothing here imports torch.
"""

import os
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from experiments.command_line.errors import UserError
from segmodels.nearest_names import nearest_name

RELEASED = "released:"
NETWORK_HELP = (
    "a run folder (its best checkpoint; see --checkpoint), a checkpoint of ours, "
    "or released:NAME=FILE (the authors' checkpoint)"
)
OF_A_RUN = ("best", "last")  # the checkpoints of a run; earlier versions left the last one alone


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """A file that a paper's authors, or another code line, released, and the name of its layout."""

    layout: str
    file: Path

    def __str__(self) -> str:
        return f"{RELEASED}{self.layout}={self.file}"


Checkpoint = Path | ReleasedCheckpoint  # a path is one of ours


def add_checkpoint(parser: ArgumentParser) -> None:
    """The option that chooses among the checkpoints of a run folder."""
    parser.add_argument(
        "--checkpoint",
        choices=OF_A_RUN,
        help="of a run folder: best (default), the highest mIoU of its validations, or last, whose "
        "score is in the run's result.json",
    )


def parse_network(word: str, which: str | None = None) -> Checkpoint:
    """The checkpoint that the word names, and of a run `which`; the best one by default. It is
    there, but it was not read."""
    if which and (word.startswith(RELEASED) or Path(word).is_file()):
        raise UserError(f"{word} is a file, not a run folder; leave out --checkpoint {which}")
    if not word.startswith(RELEASED):
        return checkpoint_of(Path(word), which)
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


def checkpoint_of(path: Path, which: str | None = None) -> Path:
    """The file itself, or a checkpoint of a run's folder or of its checkpoints/."""
    names = [which] if which else OF_A_RUN
    files = [path / place / f"{name}.ckpt" for name in names for place in ("checkpoints", "")]
    for file in (path, *files):
        if file.is_file():
            return file
    remedy = "give a .ckpt file or the folder of a run"
    if not path.exists():
        raise UserError(f"there is no {path}{nearest(path)}; {remedy}")
    runs = sorted(path.glob("*/checkpoints/last.ckpt"), key=os.path.getmtime)
    guess = f" (did you mean {runs[-1].parents[1]}?)" if runs else ""
    raise UserError(f"{path} holds no checkpoints/{names[-1]}.ckpt{guess}; {remedy}")


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
