"""From resolved values to a trained network: builds data, module and trainer, fits, and writes what came of it."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything

import datamodules
from datamodules import DataError
from experiments import callbacks, runs
from experiments.command_line import Refused, Resolved, refuse
from experiments.door import door, quiet
from experiments.judging import result_of
from experiments.tables import class_table, console, published_lines
from segmodels.checkpoint import start_from
from segmodels.module import SegmentationModule
from segmodels.paper import experiment
from segmodels.recipe import Recipe

SEEN = ("crop", "scales", "continuous", "flip", "jitter", "batch", "iterations")  # what of a recipe the data module needs


def train(resolved: Resolved, *, seed: int, init: str | None, folders: Path, resumed: Path | None = None) -> int:
    quiet()
    try:
        with door():
            data = open_data(resolved, seed)
            data.setup("fit")
            settle_precision(resolved)
            seed_everything(seed, verbose=False)
            module, start = build(resolved, data, init, seed)
            folder = resumed or runs.new_folder(folders, resolved, seed)
            trainer = prepare(resolved, seed, start, init, folder, new=resumed is None)
        with runs.inherited(folder):
            return fit(trainer, module, data, resolved, folder, resume=resumed is not None)
    except (Refused, DataError) as problem:
        return refuse(problem)


# --- building


def open_data(resolved: Resolved, seed: int) -> Any:
    kind = getattr(datamodules, datamodules.names()[resolved.data_name])
    seen = {name: resolved.recipe[name] for name in SEEN}
    return kind(**resolved.data, **seen, accumulate=resolved.trainer["accumulate"], seed=seed)


def settle_precision(resolved: Resolved) -> None:
    """ "auto" is bfloat16 where the hardware computes in it, else float32."""
    if resolved.recipe["precision"] == "auto":
        resolved.recipe["precision"] = "bf16-mixed" if computes_bfloat16(resolved.trainer["accelerator"]) else "32-true"


def computes_bfloat16(accelerator: str) -> bool:
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    info = Path("/proc/cpuinfo")
    return accelerator in ("auto", "cpu") and info.exists() and any(flag in info.read_text() for flag in ("avx512_bf16", "amx_bf16"))


def build(resolved: Resolved, data: Any, init: str | None, seed: int) -> tuple[SegmentationModule, str]:
    row = experiment(resolved.experiment).but(model=resolved.model)
    module = row.build(num_classes=len(data.class_names))
    module.adopt(Recipe(**resolved.recipe), row.normalization, identity(resolved, data, init, seed))
    module.seed = seed
    start = initialize(module, init, resolved)
    if resolved.trainer["channels_last"]:
        module.to(memory_format=torch.channels_last)
    if resolved.trainer["compile"]:
        module.outputs, module.logits = torch.compile(module.outputs), torch.compile(module.logits)
    return module, start


def identity(resolved: Resolved, data: Any, init: str | None, seed: int) -> dict[str, Any]:
    """What a checkpoint carries besides weights and recipe: enough to build, name and compare the network without its run folder."""
    changed = {
        name: resolved.value(name) for name, origin in resolved.origins.items() if origin == "command line" and "trainer." not in name
    }
    return {
        "experiment": resolved.experiment,
        "model": resolved.model,
        "data": resolved.data_name,
        "classes": list(data.class_names),
        "palette": [list(color) for color in data.palette],
        "seed": seed,
        "departures": resolved.departures,
        "overrides": {name: value for name, value in changed.items() if name != "data.root"} | ({"init": init} if init else {}),
        "smoke": "--smoke" in resolved.origins.values(),
    }


def initialize(module: SegmentationModule, init: str | None, resolved: Resolved) -> str:
    """What the weights start from, in words. Unless told, ImageNet on the row's own data set and nothing elsewhere."""
    starts_from = resolved.entry["starts_from"]
    if init is None:
        init = "imagenet" if starts_from and resolved.data_name == resolved.entry["data"] else "scratch"
    if init == "scratch":
        return "scratch" + (f" (the paper starts from ImageNet: --init imagenet loads timm's {starts_from})" if starts_from else "")
    if init == "imagenet":
        if not starts_from:
            raise Refused(f"{resolved.experiment} starts from scratch: no ImageNet weights are named for it")
        return module.load_pretrained(starts_from)
    if init.startswith("released:"):
        return released(module, init.removeprefix("released:"))
    return start_from(module, init)


def released(module: SegmentationModule, word: str) -> str:
    from segmodels import from_released

    name, equals, file = word.partition("=")
    if not equals:
        raise Refused(f"--init released:{word}: write released:NAME=FILE, the layout's name and the authors' checkpoint")
    other = from_released(name, file)
    return start_from(module, other.state_dict(), f"{file} ({name})")


def prepare(resolved: Resolved, seed: int, start: str, init: str | None, folder: Path, new: bool) -> Trainer:
    config = runs.config(resolved, seed, init, start, sys.argv[1:])
    if new and not os.environ.get("SEGMODELS_RUN"):
        runs.write_json(folder / "config.json", config)
        print(f"starts from {start}\nrun folder {folder}", flush=True)
    trainer = make_trainer(resolved, folder, config)
    check_batch(resolved, trainer.world_size)
    return trainer


def check_batch(resolved: Resolved, world: int) -> None:
    """Batch norm after global pooling sees one value per image: with one image per device it cannot normalize."""
    parts = world * resolved.trainer["accumulate"]
    synchronized = resolved.recipe["sync_bn"] and world > 1 and torch.cuda.is_available()
    if resolved.recipe["batch"] // parts != 1 or synchronized:
        return
    network = experiment(resolved.experiment).but(model=resolved.model).build(device="meta").train()
    try:
        network.outputs(torch.empty(1, 3, *resolved.recipe["crop"], device="meta"))
    except ValueError:
        raise Refused(
            f"{resolved.experiment} normalizes over the batch after global pooling, so it needs at least 2 images per device and step; "
            f"recipe.batch={resolved.recipe['batch']} over {parts} leaves 1: take recipe.batch={2 * parts} or more"
        ) from None


def make_trainer(resolved: Resolved, folder: Path, config: dict[str, Any]) -> Trainer:
    recipe, machine = Recipe(**resolved.recipe), resolved.trainer
    every = machine["validate_every"] or min(4000, max(1, recipe.iterations // 5))
    saving = machine["checkpoint_every"] or min(1000, every)
    speed = callbacks.Speed()
    watching = [
        callbacks.Checkpoints(folder / "checkpoints", saving),
        callbacks.Pictures(folder / "pictures", machine["pictures"], f"{resolved.experiment} on {resolved.data_name}"),
        speed,
        callbacks.Bar(recipe.iterations, speed),
    ]
    if recipe.ema:
        from lightning.pytorch.callbacks import EMAWeightAveraging

        watching.insert(0, EMAWeightAveraging(decay=recipe.ema))
    return Trainer(
        accelerator=machine["accelerator"],
        devices=int(machine["devices"]) if machine["devices"].isdecimal() else machine["devices"],
        num_nodes=machine["nodes"],
        strategy=strategy(machine),
        precision=recipe.precision,
        max_epochs=1,
        max_steps=recipe.iterations,
        max_time={"minutes": machine["max_minutes"]} if machine["max_minutes"] else None,
        val_check_interval=min(every, recipe.iterations) * machine["accumulate"],
        accumulate_grad_batches=machine["accumulate"],
        gradient_clip_val=recipe.clip or None,
        deterministic="warn" if machine["deterministic"] else None,
        sync_batchnorm=recipe.sync_bn and torch.cuda.is_available() and machine["accelerator"] in ("auto", "gpu"),
        use_distributed_sampler=False,
        num_sanity_val_steps=2,
        log_every_n_steps=machine["log_every"],
        logger=loggers(machine, folder, config),
        callbacks=watching,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )


def strategy(machine: dict[str, Any]) -> str:
    return "auto" if machine["devices"] in ("1", "auto") and machine["nodes"] == 1 else "ddp"


def loggers(machine: dict[str, Any], folder: Path, config: dict[str, Any]) -> list[Any]:
    made = [callbacks.Numbers(runs.Metrics(folder / "metrics.csv"))]
    mode = machine["wandb"]
    if mode == "auto":
        mode = "online" if callbacks.logged_in() else "offline"
    return made if mode == "disabled" else [*made, callbacks.WandB(mode, folder, config)]


# --- running


def fit(trainer: Trainer, module: SegmentationModule, data: Any, resolved: Resolved, folder: Path, resume: bool) -> int:
    last = folder / "checkpoints" / "last.ckpt"
    if resume:
        rewind(trainer, last)
    began, cpu = time.perf_counter(), time.process_time()
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last if resume else None, weights_only=True)
    except callbacks.Stopped:
        print(f"stopped at step {trainer.global_step}; go on with\n  python experiments/run.py --resume {folder}")
        return 130
    finally:
        restore_signals(trainer)
    if module.scores.get("step") != trainer.global_step:
        trainer.validate(module, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        conclude(trainer, module, data, resolved, folder, spent)
    return 0


def rewind(trainer: Trainer, checkpoint: Path) -> None:
    """What metrics.csv holds beyond the checkpoint will be logged again."""
    step = torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"]
    for logger in trainer.loggers:
        if isinstance(logger, callbacks.Numbers):
            logger.metrics.drop_after(step - 1)
    print(f"resuming at step {step}", flush=True)


def restore_signals(trainer: Trainer) -> None:
    for each in trainer.callbacks:
        if isinstance(each, callbacks.Checkpoints):
            each.restore_signals()


def conclude(trainer: Trainer, module: SegmentationModule, data: Any, resolved: Resolved, folder: Path, spent: dict[str, float]) -> None:
    """The last weights' score, on disk and on the screen."""
    result = result_of(module, data, resolved.data_name, "val", trainer.global_step)
    result |= {key: round(value, 1) for key, value in spent.items()} | {"checkpoint": "checkpoints/last.ckpt"}
    runs.write_json(folder / "result.json", result)
    class_table(result)
    for line in (*published_lines(result), data.caution):
        print(line) if line else None
    say_where(folder)


def say_where(folder: Path) -> None:
    out = console()
    for what, name in (("result", "result.json"), ("curves", "metrics.csv"), ("pictures", "pictures/contact_sheet.png"),
                       ("checkpoints", "checkpoints/"), ("W&B", "wandb/")):  # fmt: skip
        if (folder / name).exists():
            out.print(f"{what:12} {folder / name}", highlight=False, soft_wrap=True)
