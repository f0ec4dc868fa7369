"""Show a training's progress in the terminal."""

import time
from collections.abc import Iterator, Sequence
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

from experiments.training.intervals import Intervals, PerStep
from experiments.training.metrics_writer import MetricsWriter, logged
from segmodels.module import SegmentationModule


class ProgressPanel(Progress):
    """A bar, and below it the numbers, which wrap between each other and never within."""

    numbers: Sequence[str] = ()

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Columns(self.numbers, padding=(0, 3))


class ProgressBar(PerStep):
    """Show step, losses, learning rate, mIoU, images per second and the time that is left.

    Where there is no terminal it prints plain lines instead.
    """

    def __init__(self, intervals: Intervals, writer: MetricsWriter) -> None:
        self.intervals = intervals
        self.writer = writer
        self.panel: ProgressPanel | None = None
        self.miou: float | None = None
        self.printed_at = 0.0

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        super().on_train_start(trainer, module)
        self.printed_at = time.monotonic()
        console = Console()
        if console.is_terminal:
            self.panel = ProgressPanel(
                TextColumn("{task.description:18}"),
                BarColumn(20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                speed_estimate_period=600,
            )
            steps = self.intervals.steps
            self.task = self.panel.add_task("training", total=steps, completed=self.step)
            self.panel.start()

    @rank_zero_only
    def on_step(self, trainer: Trainer) -> None:
        steps = self.intervals.steps
        if self.panel:
            self.panel.update(self.task, completed=self.step, description="training")
            if self.step % self.intervals.log == 0 or not self.panel.numbers:
                self.panel.numbers = self.numbers(trainer)
        elif self.step % max(1, steps // 10) == 0 or time.monotonic() - self.printed_at > 60:
            self.printed_at = time.monotonic()
            print(f"step {self.step}/{steps}  {'  '.join(self.numbers(trainer))}", flush=True)

    def numbers(self, trainer: Trainer) -> list[str]:
        losses = logged(trainer, "train/")
        numbers = [f"{name.removeprefix('train/')} {loss:.3f}" for name, loss in losses.items()]
        numbers.append(f"lr {trainer.callback_metrics['lr']:.2g}")
        if self.miou is not None:
            numbers.append(f"mIoU {100 * self.miou:.1f} %")
        if self.writer.speed:
            numbers.append(f"{self.writer.speed:.1f} images/s")
        return numbers

    @rank_zero_only
    def on_validation_batch_end(
        self, trainer: Trainer, module: SegmentationModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if self.panel:
            count = trainer.num_val_batches[0]
            self.panel.update(self.task, description=f"validating {index + 1}/{count}")

    @rank_zero_only
    def on_validated(self, trainer: Trainer, module: SegmentationModule) -> None:
        self.miou = module.scores["miou"]
        if self.panel:
            self.panel.update(self.task, description="training")
            self.panel.numbers = self.numbers(trainer)
        else:
            where = f"step {self.step}/{self.intervals.steps}"
            print(f"{where}  validation mIoU {100 * self.miou:.1f} %", flush=True)

    def on_train_end(self, *unused: Any) -> None:
        if self.panel:
            self.panel.stop()
            self.panel = None

    on_exception = on_train_end
