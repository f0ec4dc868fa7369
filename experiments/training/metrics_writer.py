"""Write a training's numbers to metrics.csv and W&B."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only

from experiments.records.metrics import Metrics
from experiments.training.intervals import Intervals, PerStep
from experiments.training.wandb_mirror import WandB
from segmodels.module import SegmentationModule

REMEDY = (
    "pack the data set (experiments/pack.py), keep it in memory (data.resident=memory), "
    "or give it more data.workers"
)
SMALLER = (
    "nothing is learned any more; stop, and try a smaller recipe.lr, a longer recipe.warmup, or "
    "recipe.precision=32-true"
)


class MetricsWriter(PerStep):
    """Write losses, learning rate, speed and the scores of validations to metrics.csv and W&B.

    Beside the speed stands the share of time in which training waited for its data.
    """

    def __init__(self, metrics: Metrics, intervals: Intervals, mirror: WandB) -> None:
        self.metrics = metrics
        self.intervals = intervals
        self.mirror = mirror
        self.speed = 0.0  # images per second
        self.images = 0  # since the clock was started
        self.since: float | None = None  # when the clock was started; None while it stands still
        self.waited = 0.0  # seconds for data, before the clock was started
        self.finite = True  # every loss so far
        self.waiting = 0  # how many intervals in a row were mostly waiting

    def start_clock(self, trainer: Trainer, since: float | None) -> None:
        self.images = 0
        self.since = since
        self.waited = trainer.datamodule.train_loader.waited

    def on_train_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        super().on_train_start(trainer, module)
        if trainer.is_global_zero:
            self.mirror.start()
        self.start_clock(trainer, time.perf_counter())

    def on_train_batch_start(self, *unused: Any) -> None:
        self.since = self.since or time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: SegmentationModule, *unused: Any
    ) -> None:
        data = trainer.datamodule
        self.images += (data.micro_batch + data.micro_unlabeled) * trainer.world_size
        super().on_train_batch_end(trainer, module)

    def on_step(self, trainer: Trainer) -> None:
        if self.step % self.intervals.log:
            return
        values = logged(trainer, "train/", "lr")
        seconds = time.perf_counter() - self.since
        self.speed = self.images / seconds
        wait = min((trainer.datamodule.train_loader.waited - self.waited) / seconds, 1.0)
        self.start_clock(trainer, time.perf_counter())
        self.add(trainer, values | {"images_per_second": self.speed, "data_wait": wait})
        if not math.isfinite(values["train/loss"]) and self.finite and trainer.is_global_zero:
            self.finite = False
            print(
                f"the loss of step {self.step} is {values['train/loss']}: {SMALLER}",
                file=sys.stderr,
            )
        self.waiting = self.waiting + 1 if wait > 0.5 else 0
        if self.waiting == 3 and trainer.is_global_zero:
            sentence = f"training waits for its data {wait:.0%} of the time: {REMEDY}"
            print(sentence, file=sys.stderr, flush=True)

    def on_validated(self, trainer: Trainer, module: SegmentationModule) -> None:
        self.start_clock(trainer, None)
        values = logged(trainer, "val/")
        for name in logged(trainer, "val/IoU/"):
            if math.isnan(values[name]):  # no image holds the class
                del values[name]
        self.add(trainer, values)

    @rank_zero_only
    def add(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        self.metrics.add(trainer.global_step, values)
        self.mirror.log(values, trainer.global_step)

    @contextlib.contextmanager
    def closing_mirror(self) -> Iterator[None]:
        """Tell W&B in the end whether training ended well."""
        code = 1
        try:
            yield
            code = 0
        finally:
            self.mirror.finish(code)


def logged(trainer: Trainer, *beginnings: str) -> dict[str, float]:
    """The latest values that the module logged under names with such beginnings."""
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(beginnings)
    }
