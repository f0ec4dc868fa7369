"""What is seen of a training while it goes on: numbers on disk and in W&B, pictures, and a bar."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.records.run_folder import Metrics
from experiments.training.intervals import PerStep, Rhythm, in_training
from experiments.training.wandb_mirror import WandB
from segmodels.module import SegmentationModule

# --- numbers


REMEDY = "pack the data set (experiments/pack.py), keep it in memory (data.resident=memory or device), or give it more data.workers"


class Numbers(PerStep):
    """Losses, rate, speed and the share of time spent waiting for data every so many steps, and the scores of each validation: into
    metrics.csv, and mirrored."""

    def __init__(self, metrics: Metrics, rhythm: Rhythm, mirror: WandB | None) -> None:
        self.metrics, self.rhythm, self.mirror = metrics, rhythm, mirror
        self.images, self.since, self.speed = 0, 0.0, 0.0
        self.waited, self.slow = (
            0.0,
            0,
        )  # seconds for data before this stretch; stretches that were mostly waiting

    def on_train_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        super().on_train_start(trainer, module)
        if self.mirror and trainer.is_global_zero:
            self.mirror.start()
        self.images, self.since, self.waited = (
            0,
            time.perf_counter(),
            trainer.datamodule.feed.waited,
        )

    def on_train_batch_start(self, *unused: Any) -> None:
        self.since = self.since or time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: SegmentationModule, outputs: Any, batch: Any, index: int
    ) -> None:
        data = trainer.datamodule
        self.images += (data.micro_batch + data.micro_unlabelled) * trainer.world_size
        super().on_train_batch_end(trainer, module)

    def on_step(self, trainer: Trainer, module: SegmentationModule) -> None:
        if self.step % self.rhythm.log:
            return
        values = logged(trainer, "train/", "lr")
        seconds, feed = time.perf_counter() - self.since, trainer.datamodule.feed
        self.speed, wait = self.images / seconds, min((feed.waited - self.waited) / seconds, 1.0)
        self.images, self.since, self.waited = 0, time.perf_counter(), feed.waited
        self.add(trainer, values | {"images_per_second": self.speed, "data_wait": wait})
        self.slow = self.slow + 1 if wait > 0.5 else 0
        if self.slow == 3 and trainer.is_global_zero:
            print(
                f"training waits for its data {wait:.0%} of the time: {REMEDY}",
                file=sys.stderr,
                flush=True,
            )

    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        if not in_training(trainer):
            return
        self.images, self.since, self.waited = (
            0,
            0.0,
            trainer.datamodule.feed.waited,
        )  # training's clock stands still
        self.add(trainer, logged(trainer, "val/"))
        if self.mirror and trainer.is_global_zero:
            self.mirror.log_classes(
                trainer.datamodule.class_names, module.scores["iou"], trainer.global_step
            )

    @rank_zero_only
    def add(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        self.metrics.add(trainer.global_step, values)
        if self.mirror:
            self.mirror.log(values, trainer.global_step)

    @contextlib.contextmanager
    def mirrored(self) -> Iterator[None]:
        """Closes the mirror at the end, whatever the end."""
        code = 1
        try:
            yield
            code = 0
        finally:
            if self.mirror:
                self.mirror.finish(code)


def logged(trainer: Trainer, *beginnings: str) -> dict[str, float]:
    """What the module logged under such names, as it is now."""
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(beginnings)
    }


# --- progress


class Board(Progress):
    """A bar, and below it the numbers, which wrap between each other and never within."""

    numbers: tuple[str, ...] = ()

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Columns(self.numbers, padding=(0, 3))


class Bar(PerStep):
    """Step, losses, learning rate, mIoU, images per second, time left; plain lines where there is no terminal."""

    def __init__(self, rhythm: Rhythm, numbers: Numbers) -> None:
        self.rhythm, self.numbers, self.board, self.miou, self.said = (
            rhythm,
            numbers,
            None,
            None,
            0.0,
        )
        self.console = Console()

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        super().on_train_start(trainer, module)
        self.said = time.monotonic()
        if self.console.is_terminal:
            columns = (TextColumn("{task.description:18}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
                       TimeRemainingColumn())  # fmt: skip
            self.board = Board(*columns, console=self.console, speed_estimate_period=600)
            self.task = self.board.add_task(
                "training", total=self.rhythm.steps, completed=self.step
            )
            self.board.start()

    @rank_zero_only
    def on_step(self, trainer: Trainer, module: SegmentationModule) -> None:
        if self.board:
            self.board.update(self.task, completed=self.step, description="training")
            if self.step % self.rhythm.log == 0 or not self.board.numbers:
                self.board.numbers = tuple(self._words(trainer))
        elif self.step % max(1, self.rhythm.steps // 10) == 0 or time.monotonic() - self.said > 60:
            self.said = time.monotonic()
            print(
                f"step {self.step}/{self.rhythm.steps}  {'  '.join(self._words(trainer))}",
                flush=True,
            )

    def _words(self, trainer: Trainer) -> Iterator[str]:
        for name, value in logged(trainer, "train/").items():
            yield f"{name.removeprefix('train/')} {value:.3f}"
        yield f"lr {logged(trainer, 'lr')['lr']:.2g}"
        if self.miou is not None:
            yield f"mIoU {100 * self.miou:.1f} %"
        if self.numbers.speed:
            yield f"{self.numbers.speed:.1f} images/s"

    @rank_zero_only
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: SegmentationModule,
        outputs: Any,
        batch: Any,
        index: int,
        *unused: Any,
    ) -> None:
        if self.board:
            self.board.update(
                self.task, description=f"validating {index + 1}/{trainer.num_val_batches[0]}"
            )

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        if not in_training(trainer):
            return
        self.miou = module.scores["miou"]
        if self.board:
            self.board.update(self.task, description="training")
            self.board.numbers = tuple(self._words(trainer))
        else:
            print(
                f"step {self.step}/{self.rhythm.steps}  validation mIoU {100 * self.miou:.1f} %",
                flush=True,
            )

    @rank_zero_only
    def on_train_end(self, *unused: Any) -> None:
        self._close()

    @rank_zero_only
    def on_exception(self, *unused: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self.board:
            self.board.stop()
            self.board = None
