"""The steps at which a training logs, validates and saves; steps are the optimizer's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning import Callback, Trainer

from segmodels.module import SegmentationModule


@dataclass(frozen=True)
class Intervals:
    """The optimizer steps of a run, and after how many of them it validates, saves and logs."""

    steps: int
    validate: int
    save: int
    log: int
    minutes: float = 0.0  # of this session; 0 is without end


def intervals(steps: int, machine: Mapping[str, Any]) -> Intervals:
    validate = machine["validate_every"] or min(4000, max(1, steps // 5))
    return Intervals(
        steps=steps,
        validate=validate,
        save=machine["checkpoint_every"] or min(1000, validate),
        log=min(machine["log_every"], steps),
        minutes=machine["max_minutes"],
    )


class PerStep(Callback):
    """Call `on_step` once per optimizer step, however many micro-batches make it up, and
    `on_validated` after each validation but the trial of its first images."""

    step = 0

    def on_train_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: SegmentationModule, *unused: Any
    ) -> None:
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            self.on_step(trainer)

    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.on_validated(trainer, module)

    def on_step(self, trainer: Trainer) -> None:
        """Nothing, unless a subclass does something."""

    def on_validated(self, trainer: Trainer, module: SegmentationModule) -> None:
        """Nothing, unless a subclass does something."""
