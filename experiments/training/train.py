"""From resolved values to a trained network: builds data, module and trainer, fits, and writes what came of it."""

import os
import sys
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException

from datamodules import DataError
from experiments.command_line import files
from experiments.command_line.errors import UserError, as_user_error, quiet
from experiments.command_line.values import STARTS, Resolved
from experiments.evaluation.score import result_of
from experiments.records import run_folder
from experiments.reports.terminal import class_table, published_lines
from experiments.training import checkpoints as checkpoints_module
from experiments.training import pictures, progress
from experiments.training.build import build, class_weights, open_data
from experiments.training.intervals import Rhythm
from experiments.training.wandb_mirror import WandB, wandb_mode
from segmodels.method import Method
from segmodels.module import SegmentationModule
from segmodels.paper import blueprint, experiment
from segmodels.parts.weights import read
from segmodels.recipe import Recipe

Kind = TypeVar("Kind", bound=Callback)


def train(resolved: Resolved, *, seed: int, folders: Path, resumed: Path | None = None) -> int:
    quiet()
    if resumed and run_folder.finished(resumed):
        return nothing_left(resumed)
    with as_user_error():
        stored = run_folder.read_config(resumed) if resumed else None
        data = open_data(resolved, seed)
        module, start = build(resolved, data, seed, new=not stored)
        folder = resumed or run_folder.new_folder(folders, resolved, seed)
        config = stored or run_folder.config(resolved, seed, start, sys.argv[1:])
        config |= class_weights(resolved, data)
        trainer = prepare(resolved, module, data, folder, config, new=not stored)
    with run_folder.inherited(folder):
        return fit(trainer, module, data, resolved, folder, resume=bool(stored))


def nothing_left(folder: Path) -> int:
    result = run_folder.finished(folder)
    print(
        f"{folder} is finished: mIoU {100 * result['miou']:.1f} % after {result['iterations']} steps; there is nothing to go on with"
    )
    return 0


def prepare(
    resolved: Resolved,
    module: SegmentationModule,
    data: Any,
    folder: Path,
    config: dict[str, Any],
    new: bool,
) -> Trainer:
    """The trainer; and, by the first of all processes alone, the run folder as it must be at the start. SEGMODELS_RUN says that it is."""
    try:
        trainer = make_trainer(resolved, folder, config)
    except MisconfigurationException as problem:
        words = " ".join(str(problem).split())
        raise UserError(
            f"this machine cannot train so: {words}; see trainer.accelerator and trainer.devices"
        ) from None
    check_crop(resolved, module)
    check_batch(resolved, module, trainer.world_size)
    check_images(len(data.open("val")), trainer.world_size)
    if trainer.is_global_zero and not os.environ.get("SEGMODELS_RUN"):
        begin(folder, config) if new else rewind(folder, trainer)
    return trainer


def begin(folder: Path, config: dict[str, Any]) -> None:
    run_folder.begin(folder, config)
    print(f"starts from {config['starts_from']}")
    for departure in config["departures"]:  # what a file holds was not known at the beginning
        if departure.startswith("start ") and config["init"] not in (None, *STARTS):
            print(f"not as in the paper: {departure}")
    print(f"run folder {folder}", flush=True)


def rewind(folder: Path, trainer: Trainer) -> None:
    """What metrics.csv holds beyond the checkpoint will be logged again."""
    step = read(folder / "checkpoints" / "last.ckpt")["global_step"]
    one(trainer, progress.Numbers).metrics.drop_after(step)
    print(f"resuming after step {step}", flush=True)


def one(trainer: Trainer, kind: type[Kind]) -> Kind:
    return next(each for each in trainer.callbacks if isinstance(each, kind))


def check_crop(resolved: Resolved, module: SegmentationModule) -> None:
    """Images are mirrored to a size that a network with a margin takes; a crop has to have one."""
    network = module.evaluated
    if not network.margin:
        return
    crop = resolved.recipe["crop"]
    nearest = [valid_sides(network, side) for side in crop]
    if all(side in sides for side, sides in zip(crop, nearest)):
        return
    larger = "x".join(str(max(sides)) for sides in nearest)
    smaller = "x".join(str(min(sides)) for sides in nearest)
    near = " or ".join(dict.fromkeys((smaller, larger)))
    raise UserError(
        f"{resolved.experiment} cannot take crops of {crop[0]}x{crop[1]}: it loses {network.margin} pixels on every "
        f"side, and what is left has to fit its poolings; take recipe.crop={near}"
    )


def valid_sides(network: SegmentationModule, side: int) -> list[int]:
    """The side itself where the network takes it; else the nearest below, where there is one, and above."""
    above = network.valid_side(side)
    below = [
        each for each in range(2 * network.margin + 1, side) if network.valid_side(each) == each
    ]
    return [side] if above == side > 2 * network.margin else [*below[-1:], above]


def check_batch(resolved: Resolved, module: SegmentationModule, world: int) -> None:
    """A method may need several images at a time. Batch norm after global pooling sees one value
    per image: with one it cannot normalize."""
    parts = world * resolved.trainer["accumulate"]
    images = {"recipe.batch": resolved.recipe["batch"]}
    if isinstance(module, Method):
        images["data.unlabelled"] = resolved.data["unlabelled"] or resolved.recipe["batch"]
        if images["data.unlabelled"] < parts * module.min_unlabelled:
            least = module.min_unlabelled
            raise UserError(
                f"{module.why_unlabelled}, so it needs at least {least} unlabelled ones per device "
                f"and step: take data.unlabelled={least * parts} or more"
            )
    synchronized = resolved.recipe["sync_bn"] and world > 1 and torch.cuda.is_available()
    name, count = min(images.items(), key=lambda item: item[1])
    if count != parts or synchronized:
        return
    network = blueprint(experiment(resolved.experiment).but(model=resolved.model)).train()
    try:
        network.outputs(
            torch.zeros(1, 3, *resolved.recipe["crop"], device=next(network.parameters()).device)
        )
    except ValueError:
        raise UserError(
            f"{resolved.experiment} normalizes over the batch after global pooling, so it needs at least 2 images per device and step; "
            f"{name}={count} over {parts} leaves 1: take {name}={2 * parts} or more"
        ) from None


def check_images(count: int, world: int) -> None:
    """A process without an image to judge would leave the others waiting for it."""
    if count < world:
        raise UserError(
            f"{count} validation images cannot be shared by {world} processes; take trainer.devices={count} or more images"
        )


def make_trainer(resolved: Resolved, folder: Path, config: dict[str, Any]) -> Trainer:
    recipe, machine = Recipe(**resolved.recipe), resolved.trainer
    timing = rhythm(recipe, machine)
    return Trainer(
        accelerator=machine["accelerator"],
        devices=int(machine["devices"]) if machine["devices"].isdecimal() else machine["devices"],
        num_nodes=machine["nodes"],
        strategy=strategy(machine),
        precision=recipe.precision,
        max_epochs=1,
        max_steps=recipe.iterations,
        val_check_interval=min(timing.validate, recipe.iterations) * machine["accumulate"],
        accumulate_grad_batches=machine["accumulate"],
        gradient_clip_val=recipe.clip or None,
        deterministic="warn" if machine["deterministic"] else None,
        sync_batchnorm=recipe.sync_bn
        and torch.cuda.is_available()
        and machine["accelerator"] in ("auto", "gpu"),
        use_distributed_sampler=False,
        num_sanity_val_steps=2,
        logger=False,
        callbacks=watchers(resolved, timing, folder, config),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )


def strategy(machine: dict[str, Any]) -> str:
    return "auto" if machine["devices"] in ("1", "auto") and machine["nodes"] == 1 else "ddp"


def rhythm(recipe: Recipe, machine: dict[str, Any]) -> Rhythm:
    validate = machine["validate_every"] or min(4000, max(1, recipe.iterations // 5))
    save = machine["checkpoint_every"] or min(1000, validate)
    return Rhythm(
        recipe.iterations,
        validate,
        save,
        min(machine["log_every"], recipe.iterations),
        machine["max_minutes"],
    )


def watchers(
    resolved: Resolved, timing: Rhythm, folder: Path, config: dict[str, Any]
) -> list[Callback]:
    """In the order that matters: numbers before the checkpoint that counts on them, pictures while the average stands in."""
    machine, average = resolved.trainer, resolved.recipe["ema"]
    mode = wandb_mode() if machine["wandb"] == "auto" else machine["wandb"]
    mirror = None if mode == "disabled" else WandB(mode, folder, config)
    numbers = progress.Numbers(run_folder.Metrics(folder / "metrics.csv"), timing, mirror)
    title = f"{resolved.experiment}{f' with {resolved.semi_name}' if resolved.semi_name != 'none' else ''} on {resolved.data_name}"
    return [
        numbers,
        pictures.Pictures(folder / "pictures", machine["pictures"], title, mirror),
        *(
            [pictures.Previews(folder / "pictures", machine["pictures"], title, mirror)]
            if resolved.semi_name != "none"
            else []
        ),
        *([checkpoints_module.Average(decay=average)] if average else []),
        checkpoints_module.Checkpoints(folder / "checkpoints", timing),
        progress.Bar(timing, numbers),
    ]


# --- running


def fit(
    trainer: Trainer,
    module: SegmentationModule,
    data: Any,
    resolved: Resolved,
    folder: Path,
    resume: bool,
) -> int:
    checkpoints, numbers, last = (
        one(trainer, checkpoints_module.Checkpoints),
        one(trainer, progress.Numbers),
        folder / "checkpoints" / "last.ckpt",
    )
    try:
        with numbers.mirrored(), checkpoints.listening():
            trainer.fit(
                module, datamodule=data, ckpt_path=last if resume else None, weights_only=True
            )
            if module.scores.get("step") != trainer.global_step:  # resumed after its last step
                trainer.validate(module, datamodule=data, verbose=False)
    except checkpoints_module.Stopped as stop:
        say(trainer, f"stopped after step {trainer.global_step}; {go_on(folder)}")
        return 128 + stop.number
    except (DataError, torch.OutOfMemoryError) as problem:
        words = str(problem) if isinstance(problem, DataError) else TOO_LARGE
        raise UserError(
            words
            if withdrawn(trainer, folder) or not folder.exists()
            else f"{words}; then {go_on(folder)}"
        ) from None
    if trainer.is_global_zero:
        conclude(trainer, module, data, resolved, folder, checkpoints.spent())
    return 0


TOO_LARGE = "the device's memory is too small for this: take trainer.accumulate=2 (the same batch in two parts, of which batch norm sees one at a time) or a smaller recipe.crop"


def say(trainer: Trainer, words: str) -> None:
    if trainer.is_global_zero:
        print(words, flush=True)


def go_on(folder: Path) -> str:
    return f"go on with: python experiments/run.py --resume {folder}"


def withdrawn(trainer: Trainer, folder: Path) -> bool:
    return trainer.is_global_zero and run_folder.withdraw(folder)


def conclude(
    trainer: Trainer,
    module: SegmentationModule,
    data: Any,
    resolved: Resolved,
    folder: Path,
    spent: dict[str, float],
) -> None:
    """The last weights' score, on disk and on the screen."""
    result = result_of(module, data, resolved.data_name, "val", trainer.global_step)
    result |= {key: round(value, 1) for key, value in spent.items()} | {
        "checkpoint": "checkpoints/last.ckpt"
    }
    files.write_json(folder / "result.json", result)
    class_table(result)
    for line in (*published_lines(result), data.caution):
        print(line) if line else None
    if trainer.global_step < resolved.recipe["iterations"]:
        print(
            f"trainer.max_minutes ended it after step {trainer.global_step} of {resolved.recipe['iterations']}; {go_on(folder)}"
        )
    say_where(folder)


def say_where(folder: Path) -> None:
    for what, name in (("result", "result.json"), ("curves", "metrics.csv"), ("pictures", "pictures/contact_sheet.png"),
                       ("", "pictures/semi.png"), ("checkpoints", "checkpoints/"), ("W&B", "wandb/")):  # fmt: skip
        if (folder / name).exists():
            print(f"{what:12} {folder / name}")
