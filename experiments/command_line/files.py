"""Check output paths before the work; write files atomically."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.command_line.errors import UserError

# --- before the work


def check_out(file: Path, flag: str = "--out") -> None:
    """Refuse a file that exists or cannot be written."""
    if file.exists():
        raise UserError(f"{file} exists and is not overwritten; give another {flag}")
    if not file.parent.is_dir():
        raise UserError(
            f"there is no folder {file.parent} for {file.name}; make it, or give another {flag}"
        )
    check_writable(file.parent, f"give {flag} FILE in another folder")


def check_writable(folder: Path, remedy: str) -> None:
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written to; {remedy}")


def check_makeable(folder: Path, flag: str) -> None:
    """Refuse a folder that does not exist and cannot be made, or cannot be written to."""
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        with TemporaryDirectory(dir=place):
            pass
    except OSError as problem:
        raise UserError(
            f"{folder} cannot be written to ({problem.strerror}); give {flag} another folder"
        ) from None


# --- whole or absent


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """The name to write under: it becomes `file` in one move at the end, and is removed where the
    work fails.

    A link stays a link, and what is no file to begin with, such as /dev/stdout, is written to
    directly.
    """
    if file.exists() and not file.is_file():
        yield file
        return
    target = file.resolve()
    partial = target.with_name(f".{target.name}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_text(file: Path, text: str, errors: str = "strict") -> None:
    with whole(file) as partial:
        partial.write_text(text, encoding="utf-8", errors=errors)


def write_json(file: Path, content: Any) -> None:
    """Write the file in one move: a reader never meets half of it."""
    write_text(file, json.dumps(content, indent=1) + "\n")
