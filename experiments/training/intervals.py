"""When something happens beside training: after which optimizer steps, and in which validations."""

from dataclasses import dataclass
from typing import Any

from lightning import Callback, Trainer

from segmodels.module import SegmentationModule


@dataclass(frozen=True)
class Rhythm:
    """After how many optimizer steps things happen."""

    steps: int
    validate: int
    save: int
    log: int
    minutes: float = 0.0  # of this session; 0 is without end


class PerStep(Callback):
    """Calls `on_step` once per optimizer step, however many micro-batches make it up."""

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
    """Whether the validation that is going on belongs to a training and is no trial of its first images."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking
