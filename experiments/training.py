"""From resolved values to a trained network: builds data, module and trainer, fits, and writes what came of it."""

import os
import sys
from pathlib import Path
from types import MethodType
from typing import Any, TypeVar

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException

import datamodules
from datamodules import DataError
from experiments import runs, saving, watching
from experiments.command_line import PLACES, STARTS, Refused, Resolved, departures, refuse
from experiments.door import door, quiet
from experiments.judging import result_of
from experiments.mirror import WandB, wandb_mode
from experiments.rhythm import Rhythm
from experiments.tables import class_table, published_lines
from segmodels.checkpoint import start_from
from segmodels.method import Method
from segmodels.module import SegmentationModule
from segmodels.paper import blueprint, experiment
from segmodels.parts.pretrained import load_encoder
from segmodels.recipe import Recipe
from segmodels.released import read, unwrapped
from segmodels.semisup import method

# What of a recipe the data module needs.
SEEN = (
    "crop",
    "scales",
    "continuous",
    "flip",
    "jitter",
    "hue",
    "cat_max_ratio",
    "class_uniform",
    "rotation",
    "rotation_chance",
    "shift",
    "elastic",
    "blur",
    "blur_chance",
    "padding",
    "batch",
    "iterations",
)
Kind = TypeVar("Kind", bound=Callback)


def train(resolved: Resolved, *, seed: int, folders: Path, resumed: Path | None = None) -> int:
    quiet()
    try:
        if resumed and runs.finished(resumed):
            return nothing_left(resumed)
        with door():
            stored = runs.read_config(resumed) if resumed else None
            data = open_data(resolved, seed)
            module, start = build(resolved, data, seed, new=not stored)
            folder = resumed or runs.new_folder(folders, resolved, seed)
            config = stored or runs.config(resolved, seed, start, sys.argv[1:])
            config |= class_weights(resolved, data)
            trainer = prepare(resolved, module, data, folder, config, new=not stored)
        with runs.inherited(folder):
            return fit(trainer, module, data, resolved, folder, resume=bool(stored))
    except (Refused, DataError) as problem:
        return refuse(problem)
    except KeyboardInterrupt:
        print("stopped before training began; nothing was written", file=sys.stderr)
        return 130


def nothing_left(folder: Path) -> int:
    result = runs.finished(folder)
    print(
        f"{folder} is finished: mIoU {100 * result['miou']:.1f} % after {result['iterations']} steps; there is nothing to go on with"
    )
    return 0


# --- building


def open_data(resolved: Resolved, seed: int) -> Any:
    kind = getattr(datamodules, datamodules.names()[resolved.data_name])
    recipe = Recipe(**resolved.recipe)  # a run of before has the default of what came later
    seen = {name: getattr(recipe, name) for name in SEEN}
    semi = resolved.semi_name != "none"
    data = kind(
        **resolved.data, **seen, accumulate=resolved.trainer["accumulate"], seed=seed, semi=semi
    )
    data.setup("fit")
    data.part(labelled=True)  # refuses a part that cannot be had
    return data


def settle_precision(resolved: Resolved) -> None:
    """ "auto" is bfloat16 where the hardware computes in it, else float32. A network that is compiled
    for a CPU computes in float32: in bfloat16 torch 2.15 gives BiSeNet gradients that are no numbers."""
    if resolved.recipe["precision"] == "auto":
        accelerator, compiled = resolved.trainer["accelerator"], resolved.trainer["compile"]
        half = computes_bfloat16(accelerator) and not (compiled and on_cpu(accelerator))
        resolved.recipe["precision"] = "bf16-mixed" if half else "32-true"
        resolved.departures = departures(resolved)


def on_cpu(accelerator: str) -> bool:
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return accelerator == "cpu" or (accelerator == "auto" and not gpu)


def computes_bfloat16(accelerator: str) -> bool:
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    info = Path("/proc/cpuinfo")
    return (
        accelerator in ("auto", "cpu")
        and info.exists()
        and any(flag in info.read_text() for flag in ("avx512_bf16", "amx_bf16"))
    )


def class_weights(resolved: Resolved, data: Any) -> dict[str, tuple[float, ...]]:
    """The numbers that a rule comes to in these labels, for the recipe and for config.json; nothing where a recipe has no rule."""
    rule = resolved.recipe["class_weights"]
    return {"class_weights": data.class_weights(rule)} if isinstance(rule, str) else {}


def build(resolved: Resolved, data: Any, seed: int, new: bool) -> tuple[SegmentationModule, str]:
    """The module, and what its weights start from in words; those of a resumed run come from its
    checkpoint later. The departures of a new one know what a file held."""
    settle_precision(resolved)
    seed_everything(seed, verbose=False)
    row = experiment(resolved.experiment).but(model=resolved.model)
    recipe = Recipe(**resolved.recipe | class_weights(resolved, data))
    known = identity(resolved, data, seed)
    starts: list[tuple[str, str]] = []

    def make() -> SegmentationModule:
        """Draw a network of the row, and start it; a method may ask for several."""
        network = row.build(num_classes=len(data.class_names))
        network.adopt(recipe, row.normalization, known)
        network.seed = seed
        starts.append(initialize(network, resolved) if new else ("", ""))
        if resolved.trainer["channels_last"]:
            network.to(memory_format=torch.channels_last)
        if resolved.trainer["compile"]:
            compile_parts(network)
        return network

    if resolved.semi_name == "none":
        module = make()
    else:
        module = method(resolved.semi_name)(make, **resolved.semi)
        module.seed = seed
    data.label_maps = module.label_maps
    words, start = starts[0]
    if new:
        resolved.departures = known["departures"] = departures(resolved, start)
    return module, words


def compile_parts(network: SegmentationModule) -> None:
    """Compile what training, evaluation and every method call. As methods of this network, so that
    its copies compute with weights of their own."""
    for name in ("features", "decode", "auxiliary_outputs"):
        function = torch.compile(getattr(type(network), name))
        setattr(network, name, MethodType(function, network))


def identity(resolved: Resolved, data: Any, seed: int) -> dict[str, Any]:
    """What a checkpoint carries besides weights and recipe: enough to build, name and compare the network without its run folder."""
    changed = {
        name: resolved.value(name)
        for name, origin in resolved.origins.items()
        if origin == "command line" and "trainer." not in name
    }
    semi = {}
    if resolved.semi_name != "none":
        changed["semi"] = resolved.semi_name
        semi = {
            "semi": {"method": resolved.semi_name} | resolved.semi,
            "networks": list(method(resolved.semi_name).networks),
        }
    return semi | {
        "experiment": resolved.experiment,
        "model": resolved.model,
        "data": resolved.data_name,
        "classes": list(data.class_names),
        "palette": [list(color) for color in data.palette],
        "seed": seed,
        "labelled": data.share_of_labels(),
        "departures": resolved.departures,
        "overrides": {
            name: value
            for name, value in changed.items()
            if name not in {f"data.{place}" for place in PLACES}
        }
        | start_named(resolved.init),
        "smoke": "--smoke" in resolved.origins.values(),
    }


def start_named(init: str | None) -> dict[str, str]:
    """What was asked for by --init, without the folders of this machine."""
    if init is None:
        return {}
    return {"init": init.partition("=")[0] if init.startswith("released:") else Path(init).name}


def initialize(module: SegmentationModule, resolved: Resolved) -> tuple[str, str]:
    """What the weights start from, in words, and as departures call it."""
    starts_from, init = resolved.entry["starts_from"], resolved.start
    if init == "scratch":
        return "scratch" + hint(resolved), init
    if init == "imagenet":
        if starts_from in (None, "scratch"):
            raise Refused(
                f"{resolved.experiment} starts from scratch: no ImageNet weights are named for it"
            )
        return module.load_pretrained(starts_from), "ImageNet"
    if init.startswith("released:"):
        words, backbone = released(module, init.removeprefix("released:"))
    else:
        words, backbone = from_file(module, init)
    return words, "ImageNet" if backbone else start_named(init)["init"]


def hint(resolved: Resolved) -> str:
    """How to start as the paper does, where scratch is not its way."""
    starts_from = resolved.entry["starts_from"]
    if not resolved.entry["pretrained"]:
        return ""
    if starts_from:
        return f" (the paper starts from ImageNet: --init imagenet loads timm's {starts_from})"
    return (
        " (the paper starts from ImageNet, by weights that no library has: --init FILE loads them)"
    )


def from_file(module: SegmentationModule, file: str) -> tuple[str, bool]:
    """A checkpoint of this network; or the ImageNet weights of its backbone, none of whose names is
    the network's. In words, and whether they are the backbone's alone."""
    content, own = read(file), module.state_dict()
    alike = any(name in own for name in unwrapped(content))
    if "segmodels" in content or alike or module.encoder() is None:
        return start_from(module, file), False
    try:
        return module.load_pretrained(file), True
    except ValueError as problem:
        raise Refused(
            f"{problem}; the authors' weights of a whole network are given as --init released:NAME=FILE"
        ) from None


def released(module: SegmentationModule, word: str) -> tuple[str, bool]:
    """The authors' weights of a whole network, or of the ImageNet classifier that theirs started
    from. In words, and whether they are the backbone's alone."""
    from segmodels import from_released

    name, equals, file = word.partition("=")
    if not equals:
        raise Refused(
            f"--init released:{word}: write released:NAME=FILE, the layout's name and the authors' checkpoint"
        )
    other = from_released(name, file)
    if isinstance(other, SegmentationModule):
        return start_from(module, other.state_dict(), f"{file} ({name})"), False
    return load_encoder(module.encoder(), other.state_dict(), called=f"{file} ({name})"), True


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
        raise Refused(
            f"this machine cannot train so: {words}; see trainer.accelerator and trainer.devices"
        ) from None
    check_crop(resolved, module)
    check_batch(resolved, module, trainer.world_size)
    check_images(len(data.open("val")), trainer.world_size)
    if trainer.is_global_zero and not os.environ.get("SEGMODELS_RUN"):
        begin(folder, config) if new else rewind(folder, trainer)
    return trainer


def begin(folder: Path, config: dict[str, Any]) -> None:
    runs.begin(folder, config)
    print(f"starts from {config['starts_from']}")
    for departure in config["departures"]:  # what a file holds was not known at the beginning
        if departure.startswith("start ") and config["init"] not in (None, *STARTS):
            print(f"not as in the paper: {departure}")
    print(f"run folder {folder}", flush=True)


def rewind(folder: Path, trainer: Trainer) -> None:
    """What metrics.csv holds beyond the checkpoint will be logged again."""
    step = read(folder / "checkpoints" / "last.ckpt")["global_step"]
    one(trainer, watching.Numbers).metrics.drop_after(step)
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
    raise Refused(
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
            raise Refused(
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
        raise Refused(
            f"{resolved.experiment} normalizes over the batch after global pooling, so it needs at least 2 images per device and step; "
            f"{name}={count} over {parts} leaves 1: take {name}={2 * parts} or more"
        ) from None


def check_images(count: int, world: int) -> None:
    """A process without an image to judge would leave the others waiting for it."""
    if count < world:
        raise Refused(
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
    numbers = watching.Numbers(runs.Metrics(folder / "metrics.csv"), timing, mirror)
    title = f"{resolved.experiment}{f' with {resolved.semi_name}' if resolved.semi_name != 'none' else ''} on {resolved.data_name}"
    return [
        numbers,
        watching.Pictures(folder / "pictures", machine["pictures"], title, mirror),
        *(
            [watching.Previews(folder / "pictures", machine["pictures"], title, mirror)]
            if resolved.semi_name != "none"
            else []
        ),
        *([saving.Average(decay=average)] if average else []),
        saving.Checkpoints(folder / "checkpoints", timing),
        watching.Bar(timing, numbers),
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
        one(trainer, saving.Checkpoints),
        one(trainer, watching.Numbers),
        folder / "checkpoints" / "last.ckpt",
    )
    try:
        with numbers.mirrored(), checkpoints.listening():
            trainer.fit(
                module, datamodule=data, ckpt_path=last if resume else None, weights_only=True
            )
            if module.scores.get("step") != trainer.global_step:  # resumed after its last step
                trainer.validate(module, datamodule=data, verbose=False)
    except saving.Stopped as stop:
        say(trainer, f"stopped after step {trainer.global_step}; {go_on(folder)}")
        return 128 + stop.number
    except (DataError, torch.OutOfMemoryError) as problem:
        words = str(problem) if isinstance(problem, DataError) else TOO_LARGE
        raise Refused(
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
    return trainer.is_global_zero and runs.withdraw(folder)


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
    runs.write_json(folder / "result.json", result)
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
