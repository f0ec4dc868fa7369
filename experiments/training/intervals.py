"""How often a training logs, validates and saves, counted in optimizer steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning import Callback, Trainer

from segmodels.module import SegmentationModule
from segmodels.recipe import Recipe


@dataclass(frozen=True)
class Intervals:
    """How many optimizer steps a run has, and after how many it validates, saves and logs."""

    steps: int
    validate: int
    save: int
    log: int
    minutes: float = 0.0  # of this session; 0 is without end


def intervals(recipe: Recipe, machine: Mapping[str, Any]) -> Intervals:
    validate = machine["validate_every"] or min(4000, max(1, recipe.iterations // 5))
    return Intervals(
        steps=recipe.iterations,
        validate=validate,
        save=machine["checkpoint_every"] or min(1000, validate),
        log=min(machine["log_every"], recipe.iterations),
        minutes=machine["max_minutes"],
    )


class PerStep(Callback):
    """Call `on_step` once per optimizer step, however many micro-batches make it up."""

    step = 0

    def on_train_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: SegmentationModule, *unused: Any
    ) -> None:
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            self.on_step(trainer, module)

    def on_step(self, trainer: Trainer, module: SegmentationModule) -> None:
        raise NotImplementedError


def in_training(trainer: Trainer) -> bool:
    """Whether this validation belongs to a training and is no trial of its first images."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking
