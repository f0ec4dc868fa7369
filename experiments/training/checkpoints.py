"""Save a training's checkpoints, and stop it by a signal."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only

from experiments.training.intervals import Intervals, PerStep
from segmodels.module import SegmentationModule
from segmodels.parts.weight_files import read

BEST, LAST = "best.ckpt", "last.ckpt"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedBySignal(Exception):
    """A signal asked the run to stop; its checkpoint is written. Holds the signal's number."""


class Checkpoints(PerStep):
    """Save last.ckpt every so many optimizer steps and best.ckpt by validation mIoU.

    Each is replaced in one move, never half written. A step that is validated is saved after its
    validation: resumed from before it, Lightning would leave the validation out.
    """

    def __init__(self, folder: Path, intervals: Intervals) -> None:
        self.folder = folder
        self.intervals = intervals
        self.best = -1.0  # the highest validation mIoU
        self.best_step = 0  # and when it was
        self.signal = 0  # that asked the run to stop
        self.process = os.getpid()
        self.spent_before = {"seconds": 0.0, "cpu_seconds": 0.0}
        self.began = clocks()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, **self.spent()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
        if "best_step" in state_dict:
            self.best_step = state_dict["best_step"]
        elif (self.folder / BEST).is_file():  # a run of an earlier version
            self.best_step = read(self.folder / BEST)["global_step"]
        self.spent_before = {name: state_dict[name] for name in self.spent_before}

    def spent(self) -> dict[str, float]:
        """By all sessions of the run, so far as checkpoints know of them."""
        before, began = self.spent_before, self.began
        return {name: before[name] + now - began[name] for name, now in clocks().items()}

    def on_train_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        super().on_train_start(trainer, module)
        self.began = clocks()
        for number in SIGNALS:  # again: Lightning has put a handler of its own before ours
            signal.signal(number, self._stop)

    def on_step(self, trainer: Trainer) -> None:
        minutes = (time.perf_counter() - self.began["seconds"]) / 60
        limit = self.intervals.minutes
        late = bool(limit) and on_any_device(trainer, minutes > limit)
        # This makes Lightning validate the step.
        trainer.should_stop = late or self.step == self.intervals.steps
        if trainer.should_stop or self.step % self.intervals.validate == 0:
            return
        stop = on_any_device(trainer, bool(self.signal))
        if stop or self.step % self.intervals.save == 0:
            self.write(trainer, LAST)
        if stop:
            raise StoppedBySignal(self.signal or signal.SIGINT)

    def on_validated(self, trainer: Trainer, module: SegmentationModule) -> None:
        if module.scores["miou"] > self.best:
            self.best = module.scores["miou"]
            self.best_step = trainer.global_step
            self.write(trainer, BEST)  # before the checkpoint that knows of it
        self.write(trainer, LAST)
        if not trainer.should_stop and on_any_device(trainer, bool(self.signal)):
            raise StoppedBySignal(self.signal or signal.SIGINT)

    def write(self, trainer: Trainer, name: str) -> None:
        """Every rank takes part, since a strategy may gather; rank 0 writes."""
        partial = self.folder / f".{name}.partial"
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.replace(self.folder / name)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the run at its next checkpoint, which is written at once.

        Another Ctrl-C is a person who will not wait; another SIGTERM is none, for a scheduler and
        the launcher below it send one each.
        """
        previous = {number: signal.signal(number, self._stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        if os.getpid() != self.process:
            return  # a worker, which a terminal's Ctrl-C reaches too: the run ends it
        if self.signal:
            if number == signal.SIGINT:
                if sys.stdout.isatty():
                    os.write(sys.stdout.fileno(), b"\033[?25h")  # the progress bar hid the cursor
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.signal = number
        if rank_zero_only.rank == 0:
            with contextlib.suppress(RuntimeError):  # in the midst of another print
                print(
                    "\nstopping as soon as a checkpoint is written (another Ctrl-C stops at once)",
                    file=sys.stderr,
                    flush=True,
                )


def clocks() -> dict[str, float]:
    return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}


def on_any_device(trainer: Trainer, here: bool) -> bool:
    """True if it holds on any of the devices; all of them get the same answer."""
    if trainer.world_size == 1:
        return here
    return trainer.strategy.reduce_boolean_decision(here, all=False)
