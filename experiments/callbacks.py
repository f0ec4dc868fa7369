"""What happens beside training: checkpoints, pictures, progress, numbers on disk and in W&B, a clean stop."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.pictures import contact_sheet, overlay, save
from experiments.runs import Metrics
from segmodels.module import SegmentationModule


class Stopped(Exception):
    """The user asked the run to stop, and its checkpoint is written."""


class Checkpoints(Callback):
    """last.ckpt every so many optimizer steps, best.ckpt by validation mIoU; each replaced in one move, never half written."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self.best, self.saved_at, self.stopping = -1.0, -1, False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        self.saved_at = trainer.global_step
        self.previous = {name: signal.signal(name, self._stop) for name in (signal.SIGINT, signal.SIGTERM)}

    def _stop(self, number: int, frame: Any) -> None:
        if self.stopping:  # asked twice: at once
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.stopping = True
        print("\nstopping after this step (again to stop at once)", file=sys.stderr)

    def restore_signals(self) -> None:
        for name, handler in getattr(self, "previous", {}).items():
            signal.signal(name, handler)

    def on_train_batch_end(self, trainer: Trainer, module: SegmentationModule, *unused: Any) -> None:
        step = trainer.global_step
        if step == self.saved_at or trainer.fit_loop.epoch_loop._should_accumulate():  # only between optimizer steps
            return
        stop = trainer.strategy.reduce_boolean_decision(self.stopping, all=False) if trainer.world_size > 1 else self.stopping
        if stop or step % self.every == 0:
            self.write(trainer, "last.ckpt")
        if stop:
            raise Stopped

    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        if trainer.sanity_checking or (not trainer.training and trainer.state.fn != "fit"):
            return
        better = module.scores["miou"] > self.best
        self.best = max(self.best, module.scores["miou"])
        self.write(trainer, "last.ckpt")
        if better:
            self.write(trainer, "best.ckpt")

    def write(self, trainer: Trainer, name: str) -> None:
        """Every rank takes part, since a strategy may gather; rank 0 writes."""
        partial = self.folder / f".{name}.partial"
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.replace(self.folder / name)
        self.saved_at = trainer.global_step


class Pictures(Callback):
    """The same few validation images at each validation, as overlays on disk and in W&B; at the end a contact sheet."""

    def __init__(self, folder: Path, count: int, title: str) -> None:
        self.folder, self.count, self.title = folder, count, title

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        if trainer.sanity_checking or not self.count:
            return
        source, labels = trainer.datamodule.sources["val"], trainer.datamodule.labels
        chosen = np.linspace(0, len(source) - 1, min(self.count, len(source))).round().astype(int).tolist()
        rows = [(source.names[index], *predicted(trainer, module, *source.window(index))) for index in chosen]
        for name, image, guess, _ in rows:
            save(overlay(image, guess, labels.palette), self.folder / f"val_{Path(name).stem}_{trainer.global_step:06d}.png")
        title = f"{self.title}, step {trainer.global_step}: mIoU {100 * module.scores['miou']:.1f} %"
        save(contact_sheet([row[1:] for row in rows], labels.palette, title), self.folder / "contact_sheet.png")
        self._mirror(trainer, rows, labels.names)

    def _mirror(self, trainer: Trainer, rows: list, names: tuple[str, ...]) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandB):
                logger.log_overlays(rows, names, trainer.global_step)


def predicted(
    trainer: Trainer, module: SegmentationModule, image: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(module.device)
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        return image, module.label_map(pixels)[0].cpu().numpy(), label


class Numbers(Logger):
    """metrics.csv, as a Lightning logger."""

    name, version = "csv", None

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self.metrics = metrics

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics.add(step or 0, {name: value for name, value in metrics.items() if name != "epoch"})

    def log_hyperparams(self, *unused: Any, **also: Any) -> None:
        """config.json has them."""


class WandB(Logger):
    """A mirror of the run folder; trainer/global_step is the axis, and no call passes W&B's own step."""

    name = "wandb"

    def __init__(self, mode: str, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.mode, self.folder, self.config, self.run = mode, folder, config, None

    @property
    def version(self) -> str | None:
        return self.run.id if self.run else None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self.run is None:
            self.run = start_wandb(self.mode, self.folder, self.config)
            self.run.define_metric("trainer/global_step")
            self.run.define_metric("*", step_metric="trainer/global_step")
        return self.run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log({**{name: value for name, value in metrics.items() if name != "epoch"}, "trainer/global_step": step})

    def log_hyperparams(self, *unused: Any, **also: Any) -> None:
        """The whole config went in at the start."""

    def log_overlays(self, rows: list, names: tuple[str, ...], step: int) -> None:
        import wandb

        classes = dict(enumerate(names)) | {255: "ignored"}

        def picture(name: str, image: np.ndarray, guess: np.ndarray, label: np.ndarray) -> Any:
            masks = {"prediction": {"mask_data": guess, "class_labels": classes}, "truth": {"mask_data": label, "class_labels": classes}}
            return wandb.Image(image, masks=masks, caption=f"{name}, step {step}")

        self.experiment.log({"val/pictures": [picture(*row) for row in rows], "trainer/global_step": step})

    def log_classes(self, names: tuple[str, ...], iou: list[float | None], step: int) -> None:
        import wandb

        table = wandb.Table(columns=["class", "IoU"], data=[[name, value] for name, value in zip(names, iou)])
        self.experiment.log({"val/IoU": table, "trainer/global_step": step})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self.run is not None and status != "success":
            self.run.finish(exit_code=1)


def start_wandb(mode: str, folder: Path, config: Mapping[str, Any]) -> Any:
    """The mode is always explicit; where W&B cannot be reached within 20 seconds the run goes on offline."""
    import wandb

    how = {
        "project": "segmodels", "name": folder.name, "dir": str(folder), "config": dict(config), "group": config["experiment"],
        "settings": wandb.Settings(console="off", silent=True, init_timeout=20),
    }  # fmt: skip
    if mode == "online":
        try:
            return wandb.init(mode="online", **how)
        except Exception as problem:
            print(
                f"W&B cannot be reached ({type(problem).__name__}): this run is logged offline; upload it later with `wandb sync`",
                file=sys.stderr,
            )
    return wandb.init(mode="offline", **how)


def logged_in() -> bool:
    """Whether a W&B key is at hand, found without asking anybody."""
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
    base = os.environ.get("WANDB_BASE_URL", "")
    return any("wandb" in host or host in base for host in hosts)


class Classes(Callback):
    """IoU per class into metrics.csv and W&B at each validation."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        if trainer.sanity_checking:
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandB):
                logger.log_classes(self.names, module.scores["iou"], trainer.global_step)


class Speed(Callback):
    """Images per second over the last logging interval, counted over all devices, without validation time."""

    def __init__(self) -> None:
        self.images, self.since, self.rate = 0, None, 0.0

    def on_train_batch_start(self, *unused: Any) -> None:
        self.since = self.since or time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: SegmentationModule, outputs: Any, batch: Any, index: int) -> None:
        self.images += len(batch[0]) * trainer.world_size
        if (index + 1) % trainer.log_every_n_steps == 0:
            self.rate = self.images / (time.perf_counter() - self.since)
            module.log("images_per_second", self.rate)
            self.images, self.since = 0, None

    def on_validation_start(self, *unused: Any) -> None:
        self.images, self.since = 0, None


class Bar(Callback):
    """Step, losses, learning rate, mIoU, images per second, time left; plain lines where there is no terminal."""

    def __init__(self, steps: int, speed: Speed) -> None:
        self.steps, self.speed, self.progress, self.miou, self.shown = steps, speed, None, None, 0.0
        self.console = Console()

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        self.shown = time.monotonic()
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
                       TimeRemainingColumn(), TextColumn("{task.fields[words]}"))  # fmt: skip
            self.progress = Progress(*columns, console=self.console)
            self.task = self.progress.add_task("training", total=self.steps, completed=trainer.global_step, words="")
            self.progress.start()

    @rank_zero_only
    def on_train_batch_end(self, trainer: Trainer, module: SegmentationModule, *unused: Any) -> None:
        step = trainer.global_step
        if self.progress:
            self.progress.update(self.task, completed=step, words=self._words(trainer), description="training")
        elif step and (step % max(1, self.steps // 10) == 0 or time.monotonic() - self.shown > 60) and step != getattr(self, "said", None):
            self.said, self.shown = step, time.monotonic()
            print(f"step {step}/{self.steps}  {self._words(trainer)}", flush=True)

    def _words(self, trainer: Trainer) -> str:
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        words = [f"{name.removeprefix('train/')} {value:.3f}" for name, value in values.items()]
        words.append(f"lr {trainer.optimizers[0].param_groups[0]['lr']:.2g}")
        words += [f"mIoU {100 * self.miou:.1f} %"] if self.miou is not None else []
        words += [f"{self.speed.rate:.1f} images/s"] if self.speed.rate else []
        return "  ".join(words)

    @rank_zero_only
    def on_validation_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        if self.progress:
            self.progress.update(self.task, description="validating")

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        if trainer.sanity_checking:
            return
        self.miou = module.scores["miou"]
        if not self.progress and trainer.training:
            print(f"validated at step {trainer.global_step}: mIoU {100 * self.miou:.1f} %", flush=True)

    def close(self) -> None:
        if self.progress:
            self.progress.stop()

    @rank_zero_only
    def on_train_end(self, *unused: Any) -> None:
        self.close()

    @rank_zero_only
    def on_exception(self, *unused: Any) -> None:
        self.close()


class JudgingBar(Callback):
    """Images judged so far, where there is a terminal."""

    def __init__(self, images: int) -> None:
        self.images, self.progress = images, None

    def _start(self) -> None:
        columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
        self.progress = Progress(*columns, transient=True, disable=not sys.stdout.isatty())
        self.task = self.progress.add_task("", total=self.images)
        self.progress.start()

    def on_validation_start(self, *unused: Any) -> None:
        self._start()

    def on_validation_batch_end(self, *unused: Any) -> None:
        self.progress.advance(self.task)

    def on_validation_end(self, *unused: Any) -> None:
        self.progress.stop()

    on_test_start, on_test_batch_end, on_test_end = on_validation_start, on_validation_batch_end, on_validation_end
