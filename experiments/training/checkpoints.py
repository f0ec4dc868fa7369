"""What a training keeps: its checkpoints, the one at which a signal ends it, and the running average of its weights."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities import rank_zero_only

from experiments.training.intervals import PerStep, Rhythm, in_training
from segmodels.module import SegmentationModule


class Stopped(Exception):
    """The user asked the run to stop by a signal of this number, and its checkpoint is written."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Average(EMAWeightAveraging):
    """The running average of weights stands in for them from the start of a validation to its end, pictures included."""

    def on_validation_epoch_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        """Done already, in on_validation_start."""

    def on_validation_epoch_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        """Not yet, but in on_validation_end."""

    def on_validation_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        super().on_validation_epoch_start(trainer, module)

    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        super().on_validation_epoch_end(trainer, module)


class Checkpoints(PerStep):
    """last.ckpt every so many optimizer steps, best.ckpt by validation mIoU; each replaced in one move, never half written.

    A step that is validated is saved after its validation: resumed from before it, Lightning would leave the validation out.
    """

    def __init__(self, folder: Path, rhythm: Rhythm) -> None:
        self.folder, self.rhythm = folder, rhythm
        self.best, self.asked, self.process = -1.0, 0, os.getpid()
        self.before, self.began = (
            {"seconds": 0.0, "cpu_seconds": 0.0},
            (time.perf_counter(), time.process_time()),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, **self.spent()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
        self.before = {name: state_dict[name] for name in self.before}

    def spent(self) -> dict[str, float]:
        """By all sessions of the run, so far as checkpoints know of them."""
        now = {
            "seconds": time.perf_counter() - self.began[0],
            "cpu_seconds": time.process_time() - self.began[1],
        }
        return {name: self.before[name] + value for name, value in now.items()}

    def on_train_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        super().on_train_start(trainer, module)
        self.began = time.perf_counter(), time.process_time()
        self._listen()  # again: Lightning has put a handler of its own before ours

    def on_step(self, trainer: Trainer, module: SegmentationModule) -> None:
        late = self.rhythm.minutes and agreed(
            trainer, time.perf_counter() - self.began[0] > 60 * self.rhythm.minutes
        )
        trainer.should_stop = (
            bool(late) or self.step == self.rhythm.steps
        )  # makes Lightning validate this step
        if trainer.should_stop or self.step % self.rhythm.validate == 0:
            return
        stop = agreed(trainer, bool(self.asked))
        if stop or self.step % self.rhythm.save == 0:
            self.write(trainer, "last.ckpt")
        if stop:
            raise Stopped(self.asked or signal.SIGINT)

    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        if not in_training(trainer):
            return
        if module.scores["miou"] > self.best:
            self.best = module.scores["miou"]
            self.write(trainer, "best.ckpt")  # before the checkpoint that knows of it
        self.write(trainer, "last.ckpt")
        if not trainer.should_stop and agreed(trainer, bool(self.asked)):
            raise Stopped(self.asked or signal.SIGINT)

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
        """Within, Ctrl-C and SIGTERM end the run at its next checkpoint, which is written at once. Another Ctrl-C is a person who will not
        wait; another SIGTERM is none, for a scheduler and the launcher below it send one each."""
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._listen()
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        if (
            os.getpid() != self.process
        ):  # a worker, which a terminal's Ctrl-C reaches too: the run ends it
            return
        if self.asked and number == signal.SIGINT:
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), b"\033[?25h")  # the progress bar hid the cursor
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        first, self.asked = not self.asked, self.asked or number
        if first and rank_zero_only.rank == 0:
            with contextlib.suppress(RuntimeError):  # in the midst of another print
                print(
                    "\nstopping as soon as a checkpoint is written (another Ctrl-C stops at once)",
                    file=sys.stderr,
                    flush=True,
                )


def agreed(trainer: Trainer, wish: bool) -> bool:
    """Whether any device wishes it."""
    return (
        trainer.strategy.reduce_boolean_decision(wish, all=False)
        if trainer.world_size > 1
        else wish
    )
