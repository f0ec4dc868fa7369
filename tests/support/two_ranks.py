"""Two processes that train together (gloo), and how both are killed; test_sources.py starts this
and looks at what they leave.

    python -m tests.support.two_ranks pairs OUT ROOT...     small trainings on each root, in forks,
        which saves importing everything for each of them
    python -m tests.support.two_ranks run OUT WORDS...      a run of experiments/run.py that Lightning
        starts twice; at step 3 it waits to be killed
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, distributed, nn

from datamodules import Cityscapes
from experiments import run
from experiments.training import checkpoints
from tests.support.children import after
from tests.support.data import QUIET
from tests.support.patience import until

SETTINGS = {"crop": (64, 96), "scales": (0.5, 1.5), "continuous": True, "batch": 4, "iterations": 6}
STOP = 3  # steps after which what is to be killed waits for it; its last checkpoint is of step 2


class Keeper(lightning.LightningModule):
    """Keeps every batch on disk; its weight depends on all pixels of all ranks."""

    def __init__(self, out: Path, stops: bool) -> None:
        super().__init__()
        self.out, self.stops = out, stops
        self.weight = nn.Parameter(torch.zeros(3))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        torch.save(batch, self.out / f"{self.global_rank}-{self.global_step}.pt")
        if self.stops and self.global_step == STOP:
            wait_to_be_killed(self.out)
        means = batch[0].float().mean((0, 2, 3)) / 255
        return ((self.weight - means) ** 2).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def wait_to_be_killed(out: Path) -> None:
    (out / f"waits-{os.getpid()}").touch()
    time.sleep(600)


def waiting(out: Path) -> bool:
    """Whether both processes have come to where they are to be killed."""
    return len(list(out.glob("waits-*"))) == 2


def train(out: Path, root: Path, checkpoint: Path | None, stops: bool) -> None:
    torch.set_num_threads(1)
    meet(out / "meeting")
    keeps = ModelCheckpoint(out, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    trainer = lightning.Trainer(
        **QUIET | {"devices": 2},
        strategy="ddp",
        max_steps=6,
        limit_val_batches=0,
        callbacks=[keeps],
    )
    trainer.fit(
        Keeper(out, stops),
        datamodule=Cityscapes(root, workers=1, **SETTINGS),
        ckpt_path=checkpoint,
        weights_only=True,
    )


def meet(place: Path) -> None:
    """By a file: a port that is free when it is looked for may be another process's when it is
    opened.
    """
    distributed.init_process_group(
        "gloo", init_method=f"file://{place}", rank=int(os.environ["LOCAL_RANK"]), world_size=2
    )


# --- two forks as the two ranks


def pair(out: Path, root: Path, checkpoint: Path | None = None, stops: bool = False) -> None:
    """Both ranks of one training; `status` says how they ended."""
    out.mkdir()
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        "NODE_RANK": "0",
        "WORLD_SIZE": "2",
    }
    ranks = [
        forked(lambda: train(out, root, checkpoint, stops), {"LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    if stops:
        until(lambda: waiting(out))
        for process in ranks:
            os.kill(process, signal.SIGKILL)
    (out / "status").write_text(
        " ".join(str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])) for process in ranks)
    )


def forked(act: Callable[[], None], environment: dict[str, str]) -> int:
    process = os.fork()
    if process:
        return process
    os.environ |= environment
    try:
        act()
        os._exit(0)
    finally:
        sys.excepthook(*sys.exc_info()) if sys.exc_info()[0] else None
        os._exit(1)


def pairs(out: Path, roots: Sequence[Path]) -> None:
    """On the first root a training that nothing interrupts; on each one that is killed, and what
    goes on from its checkpoint.
    """
    pair(out / "straight", roots[0])
    for root in roots:
        pair(out / f"{root.name} killed", root, stops=True)
        pair(
            out / f"{root.name} resumed",
            root,
            checkpoint=out / f"{root.name} killed" / "step=2.ckpt",
        )


if __name__ == "__main__":
    what, place, *words = sys.argv[1:]
    if what == "pairs":
        pairs(Path(place), [Path(root) for root in words])
    else:
        after(
            checkpoints.Checkpoints,
            "on_step",
            lambda self: wait_to_be_killed(Path(place)) if self.step == STOP else None,
        )
        sys.exit(run.main(words))
