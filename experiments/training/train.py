"""Train one network: build data, module and trainer, fit, and write the result."""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException

from datamodules import DataError
from datamodules.module import SegmentationData
from experiments.command_line import files
from experiments.command_line.errors import UserError, as_user_error, quiet
from experiments.command_line.invocation import as_started
from experiments.command_line.parser import by
from experiments.command_line.resolved_values import STARTS, Resolved
from experiments.evaluation.score import result_of
from experiments.records import run_folder
from experiments.records.metrics import Metrics
from experiments.records.results import BestWeights, Result, finished_result
from experiments.reports.number_formats import percent
from experiments.reports.terminal_tables import class_table, published_lines
from experiments.training.build import build, class_weights, open_data
from experiments.training.checkpoints import (
    BEST,
    LAST,
    Checkpoints,
    StoppedBySignal,
)
from experiments.training.intervals import intervals
from experiments.training.metrics_writer import MetricsWriter
from experiments.training.pictures import Pictures, Previews
from experiments.training.progress_bar import ProgressBar
from experiments.training.wandb_mirror import WandB, wandb_mode
from segmodels.averaged_weights import AveragedWeights
from segmodels.module import SegmentationModule
from segmodels.paper import experiment, meta_network
from segmodels.parts.weight_files import read
from segmodels.recipe import Recipe
from segmodels.semisup_method import Method

Kind = TypeVar("Kind", bound=Callback)
TOO_LARGE = (
    "the device's memory is too small for this: take trainer.accumulate=2 (the same batch in two "
    "parts, of which batch norm sees one at a time) or a smaller recipe.crop"
)


def train(resolved: Resolved, *, seed: int, folders: Path, resumed: Path | None = None) -> int:
    """Begin a run, or go on with one, and train it to its end; the exit code."""
    quiet()
    if resumed and (result := finished_result(resumed)):
        print(
            f"{resumed} is finished: mIoU {100 * result.miou:.1f} % after "
            f"{result.iterations} steps; there is nothing to go on with"
        )
        return 0
    with as_user_error():
        stored = run_folder.read_config(resumed) if resumed else None
        data = open_data(resolved, seed)
        module, start = build(resolved, data, seed, new=not stored)
        folder = resumed or run_folder.new_folder(folders, resolved, seed)
        config = stored or run_folder.config(resolved, seed, start, sys.argv[1:])
        config |= class_weights(resolved, data)
        trainer = make_trainer(resolved, folder, callbacks(resolved, folder, config))
        check_run(resolved, module, data, trainer.world_size)
        # SEGMODELS_RUN says that another process, which started this one, has done it.
        if trainer.is_global_zero and not os.environ.get("SEGMODELS_RUN"):
            rewind(folder, trainer) if stored else begin(folder, config)
    with run_folder.inherited(folder):
        return fit(trainer, module, data, resolved, folder, resume=bool(stored))


def begin(folder: Path, config: Mapping[str, Any]) -> None:
    """Make the run folder."""
    run_folder.begin(folder, config)
    print(f"starts from {config['starts_from']}")
    for departure in config["departures"]:  # what a file holds was not known at the beginning
        if departure.startswith("start ") and config["init"] not in (None, *STARTS):
            print(f"not as in the paper: {departure}")
    print(f"run folder {folder}", flush=True)


def rewind(folder: Path, trainer: Trainer) -> None:
    """Drop what metrics.csv holds beyond the checkpoint: it will be logged again."""
    step = read(folder / "checkpoints" / LAST)["global_step"]
    callback(trainer, MetricsWriter).metrics.drop_after(step)
    print(f"resuming after step {step}", flush=True)


# --- what can be trained


def check_run(
    resolved: Resolved, module: SegmentationModule, data: SegmentationData, world: int
) -> None:
    """Refuse what would fail in the middle of a training by `world` processes. Writes no file."""
    check_crop(resolved, module.evaluated)
    parts = world * resolved.trainer["accumulate"]
    synchronized = resolved.recipe["sync_bn"] and world > 1 and torch.cuda.is_available()
    if isinstance(module, Method):
        check_unlabeled(resolved, module, parts)
    if not synchronized and resolved.recipe["batch"] == parts:
        check_single(resolved, "recipe.batch", parts)
    elif not synchronized and resolved.data.get("unlabeled") == parts:
        check_single(resolved, "data.unlabeled", parts)
    count = len(data.open("val"))
    if count < world:  # a process without an image would leave the others waiting for it
        raise UserError(
            f"{count} validation images cannot be shared by {world} processes; "
            f"take trainer.devices={count} or more images"
        )


def check_crop(resolved: Resolved, network: SegmentationModule) -> None:
    """Images are mirrored to a size that a network with a margin takes; a crop has to have one."""
    crop = resolved.recipe["crop"]
    margin = network.margin
    if not margin:
        return
    larger = [network.valid_side(side) for side in crop]
    if larger != list(crop):
        smaller = [network.valid_side_within(side) for side in crop]
        sizes = " or ".join(dict.fromkeys([by(smaller), by(larger)]))
        raise UserError(
            f"{resolved.experiment} cannot take crops of {by(crop)}: it loses {margin} pixels on "
            "every side, and what is left has to fit its poolings; "
            f"take recipe.crop={sizes}"
        )


def check_unlabeled(resolved: Resolved, method: Method, parts: int) -> None:
    """A method may need several images at a time."""
    least = method.min_unlabeled
    if (resolved.data["unlabeled"] or resolved.recipe["batch"]) < parts * least:
        raise UserError(
            f"{method.why_unlabeled}, so it needs at least {least} unlabeled ones per device "
            f"and step: take data.unlabeled={least * parts} or more"
        )


def check_single(resolved: Resolved, option: str, count: int) -> None:
    """Batch norm after global pooling sees one value per image, and cannot normalize one alone."""
    network = meta_network(experiment(resolved.experiment).but(model=resolved.model)).train()
    device = next(network.parameters()).device
    try:
        network.outputs(torch.zeros(1, 3, *resolved.recipe["crop"], device=device))
    except ValueError:
        raise UserError(
            f"{resolved.experiment} normalizes over the batch after global pooling, so it needs "
            f"at least 2 images per device and step; {option}={count} over {count} leaves 1: "
            f"take {option}={2 * count} or more"
        ) from None


# --- the trainer


def make_trainer(resolved: Resolved, folder: Path, callbacks: list[Callback]) -> Trainer:
    recipe = Recipe(**resolved.recipe)
    machine = resolved.trainer
    devices = machine["devices"]
    accumulate = machine["accumulate"]
    one_process = devices in ("1", "auto") and machine["nodes"] == 1
    on_gpu = torch.cuda.is_available() and machine["accelerator"] in ("auto", "gpu")
    validate = min(intervals(recipe.iterations, machine).validate, recipe.iterations)
    try:
        return Trainer(
            accelerator=machine["accelerator"],
            devices=int(devices) if devices.isdecimal() else devices,
            num_nodes=machine["nodes"],
            strategy="auto" if one_process else "ddp",
            precision=recipe.precision,
            max_epochs=1,
            max_steps=recipe.iterations,
            val_check_interval=validate * accumulate,
            accumulate_grad_batches=accumulate,
            gradient_clip_val=recipe.clip or None,
            deterministic="warn" if machine["deterministic"] else None,
            sync_batchnorm=recipe.sync_bn and on_gpu,
            use_distributed_sampler=False,
            num_sanity_val_steps=2,
            logger=False,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
    except MisconfigurationException as problem:
        reason = " ".join(str(problem).split())
        raise UserError(
            f"this machine cannot train so: {reason}; see trainer.accelerator and trainer.devices"
        ) from None


def callbacks(resolved: Resolved, folder: Path, config: Mapping[str, Any]) -> list[Callback]:
    """In the order that matters: the numbers of a step are written before its checkpoint, and
    pictures are drawn while the averaged weights stand in."""
    machine = resolved.trainer
    every = intervals(resolved.recipe["iterations"], machine)
    mode = wandb_mode() if machine["wandb"] == "auto" else machine["wandb"]
    mirror = WandB(mode, folder, config, resolved)
    writer = MetricsWriter(Metrics(folder / "metrics.csv"), every, mirror)
    drawn = (folder / "pictures", machine["pictures"], resolved.title, mirror)
    result = [writer, Pictures(*drawn)]
    if resolved.semi_name != "none":
        result.append(Previews(*drawn))
    if decay := resolved.recipe.get("ema"):
        result.append(AveragedWeights(decay=decay))
    return [*result, Checkpoints(folder / "checkpoints", every), ProgressBar(every, writer)]


def callback(trainer: Trainer, kind: type[Kind]) -> Kind:
    """The trainer's callback of this kind."""
    return next(each for each in trainer.callbacks if isinstance(each, kind))


# --- training


def fit(
    trainer: Trainer,
    module: SegmentationModule,
    data: SegmentationData,
    resolved: Resolved,
    folder: Path,
    resume: bool,
) -> int:
    last = folder / "checkpoints" / LAST if resume else None
    writer = callback(trainer, MetricsWriter)
    checkpoints = callback(trainer, Checkpoints)
    try:
        with writer.closing_mirror():
            with checkpoints.listening():
                trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
                if module.scores.get("step") != trainer.global_step:  # resumed after its last step
                    trainer.validate(module, datamodule=data, verbose=False)
            if trainer.is_global_zero:
                conclude(trainer, resolved, folder)
    except StoppedBySignal as stop:
        if trainer.is_global_zero:
            print(f"stopped after step {trainer.global_step}; {how_to_resume(folder)}", flush=True)
        return 128 + stop.args[0]
    except (DataError, torch.OutOfMemoryError) as problem:
        sentence = str(problem) if isinstance(problem, DataError) else TOO_LARGE
        if trainer.is_global_zero:
            run_folder.withdraw(folder)
        then = f"; then {how_to_resume(folder)}" if folder.exists() else ""
        raise UserError(f"{sentence}{then}") from None
    return 0


def how_to_resume(folder: Path) -> str:
    return f"go on with: {as_started('python experiments/run.py')} --resume {folder}"


def conclude(trainer: Trainer, resolved: Resolved, folder: Path) -> None:
    """Write the scores of the last and the best weights, and print them."""
    step = trainer.global_step
    data = trainer.datamodule
    result = result_of(trainer.lightning_module, data, resolved.data_name, "val", step)
    checkpoints = callback(trainer, Checkpoints)
    seconds = {name: round(value, 1) for name, value in checkpoints.spent().items()}
    best = None
    if checkpoints.best >= 0:  # else no validation has met a labeled pixel
        best = BestWeights(checkpoints.best, checkpoints.best_step, f"checkpoints/{BEST}")
    result = replace(result, checkpoint=f"checkpoints/{LAST}", best=best, **seconds)
    files.write_json(folder / "result.json", result.as_dict())
    class_table(result)
    for line in filter(None, (*published_lines(result), data.caution)):
        print(line)
    steps = resolved.recipe["iterations"]
    if step < steps:
        go_on = how_to_resume(folder)
        print(f"trainer.max_minutes ended it after step {step} of {steps}; {go_on}")
    say_where(folder)
    say_checkpoints(folder, result)
    mirror = callback(trainer, MetricsWriter).mirror
    mirror.conclude(result, trainer.lightning_module.scores["confusion"])


def say_where(folder: Path) -> None:
    """Print the places of what the run has left."""
    for title, name in (
        ("result", "result.json"),
        ("curves", "metrics.csv"),
        ("pictures", "pictures/contact_sheet.png"),
        ("", "pictures/semi.png"),
    ):
        if (folder / name).exists():
            print(f"{title:12} {folder / name}")


def say_checkpoints(folder: Path, result: Result) -> None:
    """Print the places and scores of the last and the best weights."""
    last = f"{percent(result.miou, 1)} % after step {result.iterations}"
    print(f"last         {folder / result.checkpoint}: mIoU {last}")
    if best := result.best:
        score = f"{percent(best.miou, 1)} % after step {best.step}"
        note = "chosen on these images; evaluate, predict and export take it"
        print(f"best         {folder / best.checkpoint}: mIoU {score} ({note})")
