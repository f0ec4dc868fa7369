"""Two processes of one job, started as torchrun and as SLURM start them: with numbers in their
environment and nothing else in common.

`python -m tests.support.launched KIND OUT`: both are sent SIGTERM twice in step 5, and then go on.
Forks save importing everything four times.
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import run
from segmodels.module import SegmentationModule
from tests.support.children import after
from tests.support.runs import TINY
from tests.support.two_ranks import forked

STOP = 5
KINDS = {
    "torchrun": ["trainer.devices=2"],
    "slurm": ["trainer.devices=1", "trainer.nodes=2"],
}


def numbered(kind: str, rank: int) -> dict[str, str]:
    """What tells one process from the other, under torchrun on one machine, and under SLURM on two
    nodes.
    """
    if kind == "torchrun":
        said = {
            "TORCHELASTIC_RUN_ID": "none",
            "RANK": rank,
            "LOCAL_RANK": rank,
            "GROUP_RANK": 0,
            "WORLD_SIZE": 2,
            "LOCAL_WORLD_SIZE": 2,
        }
    else:
        job = {
            "SLURM_JOB_ID": 1,
            "SLURM_JOB_NAME": "train",
            "SLURM_NTASKS": 2,
            "SLURM_NTASKS_PER_NODE": 1,
            "SLURM_NNODES": 2,
        }
        said = job | {"SLURM_PROCID": rank, "SLURM_NODEID": rank, "SLURM_LOCALID": 0}
    return {name: str(value) for name, value in said.items()}


def launch(kind: str, output: Path, words: Sequence[str], stops: bool) -> str:
    """How both ended; what both print is in one file."""

    def act() -> None:
        for number in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        if stops:
            after(
                SegmentationModule,
                "training_step",
                lambda module: terminate_twice() if module.global_step == STOP - 1 else None,
            )
        os._exit(run.main(list(words)))

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [forked(act, numbered(kind, rank)) for rank in range(2)]
    return " ".join(str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])) for process in ranks)


def free_port() -> int:
    """Below those that the system gives to whoever asks for any, so that nobody is given it before
    both processes are there.
    """
    first = 20_000 + os.getpid() % 10_000
    return next(port for port in range(first, 32_000) if is_free(port))


def is_free(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) != 0


def terminate_twice() -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)


def stop_and_go_on(kind: str, out: Path) -> None:
    words = [*TINY, "--runs", str(out / "runs"), "trainer.checkpoint_every=100", *KINDS[kind]]
    (out / "stopped").write_text(launch(kind, out / "stopped.txt", words, stops=True))
    folder = min((out / "runs").iterdir())
    (out / "resumed").write_text(
        launch(kind, out / "resumed.txt", ["--resume", str(folder)], stops=False)
    )


if __name__ == "__main__":
    stop_and_go_on(sys.argv[1], Path(sys.argv[2]))
