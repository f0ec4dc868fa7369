"""Processes that are killed while they run, in forks of a process that has imported everything."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.paths import ROOT


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(kind: type, method: str, then: Callable[[Any], None]) -> None:
    """From now on, the method is followed by something else, which is given its self."""
    original = getattr(kind, method)

    def both(self: Any, *arguments: Any, **options: Any) -> Any:
        result = original(self, *arguments, **options)
        then(self)
        return result

    setattr(kind, method, both)


def bring_up(children: Mapping[str, Callable[[Path], int]], folder: Path) -> None:
    """Each in a fork of this process, which has imported everything and computed nothing: that
    saves seconds a child.
    """
    for name, child in children.items():
        place = folder / name
        place.mkdir()
        if not (pid := os.fork()):
            for number in (1, 2):
                os.dup2(
                    os.open(place / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number
                )
            os._exit(child(place / "runs"))
        (place / "status").write_text(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


def brought_up(children: str, folder: Path, *names: str) -> Path:
    """A folder of each child's `runs`, `output.txt` and `status`; `children` is where to import
    them from, all of them or those named.
    """
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork a process")
    module, _, name = children.rpartition(".")
    code = "import sys; from pathlib import Path; from tests.support.children import bring_up; "
    code += f"from {module} import {name} as children; "
    code += (
        "bring_up({name: children[name] for name in sys.argv[2:] or children}, Path(sys.argv[1]))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(folder), *names],
        cwd=ROOT,
        env=environment,
        check=True,
        timeout=3000,
    )
    return folder


def status(child: Path) -> int:
    return int((child / "status").read_text())
