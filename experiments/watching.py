"""What is seen of a training while it goes on: numbers on disk and in W&B, pictures, and a bar."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
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

from experiments.mirror import WandB
from experiments.pictures import contact_sheet, overlay, preview_sheet, save
from experiments.rhythm import PerStep, Rhythm, in_training
from experiments.runs import Metrics
from segmodels.method import Method
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


# --- pictures


class Pictures(Callback):
    """The same few validation images at each validation, as overlays on disk and in W&B; at the end a contact sheet."""

    def __init__(self, folder: Path, count: int, title: str, mirror: WandB | None) -> None:
        self.folder, self.count, self.title, self.mirror = folder, count, title, mirror

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        if in_training(trainer) and self.count:
            self.draw(trainer, module)

    def draw(self, trainer: Trainer, module: SegmentationModule) -> None:
        source, labels = trainer.datamodule.sources["val"], trainer.datamodule.labels
        chosen = (
            np.linspace(0, len(source) - 1, min(self.count, len(source)))
            .round()
            .astype(int)
            .tolist()
        )
        rows = [
            (source.names[index], *predicted(trainer, module, *source.window(index)))
            for index in chosen
        ]
        for name, image, guess, _ in rows:
            save(
                overlay(image, guess, labels.palette),
                self.folder / f"val_{Path(name).stem}_{trainer.global_step:06d}.png",
            )
        title = (
            f"{self.title}, step {trainer.global_step}: mIoU {100 * module.scores['miou']:.1f} %"
        )
        save(
            contact_sheet([row[1:] for row in rows], labels.palette, title),
            self.folder / "contact_sheet.png",
        )
        if self.mirror:
            self.mirror.log_overlays(rows, labels.names, trainer.global_step)


def predicted(
    trainer: Trainer, module: SegmentationModule, image: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(module.device)
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        return image, module.label_map(pixels)[0].cpu().numpy(), label


class Previews(Pictures):
    """What a method asks of unlabelled images: the same few crops at each validation, as one sheet."""

    def draw(self, trainer: Trainer, module: Method) -> None:
        data = trainer.datamodule
        count = max(self.count, module.min_unlabelled)
        image, padding = (each.to(module.device) for each in data.unlabelled_crops(count))
        with (
            torch.no_grad(),
            torch.random.fork_rng(),
            trainer.precision_plugin.val_step_context(),
        ):
            torch.manual_seed(0)
            shown = module.preview((image, padding))
        columns = {head: as_array(each[: self.count]) for head, each in shown.items()}
        title = f"{self.title}, step {trainer.global_step}"
        sheet = preview_sheet(columns, data.palette, title)
        save(sheet, self.folder / "semi.png")
        if self.mirror:
            self.mirror.log_sheet("train/semi", sheet, trainer.global_step)


def as_array(column: torch.Tensor) -> np.ndarray:
    """An image's channels come last; half precision, which numpy lacks, becomes float32."""
    column = column.permute(0, 2, 3, 1) if column.ndim == 4 else column
    column = column.float() if column.is_floating_point() else column
    return column.cpu().numpy()


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
