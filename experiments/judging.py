"""Scoring a checkpoint: the same code that validates during training, on any split and in any inference mode."""

from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

import datamodules
from datamodules import DataError
from experiments import callbacks, runs
from experiments.command_line import PLACES, Refused, catalogue, data_options, named, refuse
from experiments.door import door, quiet
from experiments.networks import trained
from experiments.tables import class_table, published_lines
from segmodels.module import SegmentationModule
from segmodels.paper import experiment, inference_parameters
from segmodels.paper import paper as find_paper


def judge(checkpoint: Path, asked: Any) -> int:
    quiet()
    try:
        with door():
            module = trained(checkpoint, asked.network)
            name = named("data set", asked.data or module.identity["data"], list(catalogue()["data"]))
            given = data_options(name, asked.overrides)
            data = open_data(name, stored_options(checkpoint, module, name) | given, asked.split, checkpoint, module)
            settle(module, asked.inference, asked.precision)
        result = score(module, data, name, asked.split)
    except (Refused, DataError) as problem:
        return refuse(problem)
    result["overrides"] = result["overrides"] | {f"data.{key}": given[key] for key in given if key not in PLACES}
    if asked.network and asked.network != module.identity["networks"][0]:
        result["overrides"]["network"] = asked.network  # another network than the method's own choice
    result["checkpoint"] = str(checkpoint.relative_to(folder_of(checkpoint)))
    class_table(result)
    for line in (*published_lines(result), data.caution):
        print(line) if line else None
    stem = "-".join(filter(None, (checkpoint.stem, asked.network)))
    file = asked.out or fresh(checkpoint.parent, f"{stem}-{name}-{asked.split}-{result['protocol']}")
    runs.write_json(file, result)
    print(f"result       {file}")
    return 0


def folder_of(checkpoint: Path) -> Path:
    """The run's folder; a checkpoint that was moved away has only the folder that it lies in."""
    inside = checkpoint.parent.name == "checkpoints" and (checkpoint.parent.parent / "config.json").is_file()
    return checkpoint.parent.parent if inside else checkpoint.parent


def stored_options(checkpoint: Path, module: SegmentationModule, name: str) -> dict[str, Any]:
    """The run's own options (root, sizes, ...), if it is evaluated on its own data set and its config.json is still beside it."""
    if name != module.identity["data"]:
        return {}
    stored = {key.removeprefix("data."): value for key, value in module.identity["overrides"].items() if key.startswith("data.")}
    if (folder_of(checkpoint) / "config.json").is_file():
        config = runs.read_config(folder_of(checkpoint))
        stored = config["data"] if config.get("experiment") == module.identity["experiment"] else stored
    known = catalogue()["data"][name]["options"]
    return {key: value for key, value in stored.items() if key in known}


def open_data(name: str, options: dict[str, Any], split: str, checkpoint: Path, module: SegmentationModule) -> Any:
    """The split, opened; its classes must be the checkpoint's."""
    data = getattr(datamodules, datamodules.names()[name])(**options)
    ours, theirs = list(module.identity["classes"]), list(data.class_names)
    if ours != theirs:
        raise Refused(
            f"{checkpoint} tells {len(ours)} classes apart ({', '.join(ours[:3])}, ...) and {name} has {len(theirs)} "
            f"({', '.join(theirs[:3])}, ...); evaluate it on the data set it was trained on ({module.identity['data']})"
        )
    data.open(split)
    return data


def settle(module: SegmentationModule, inference: str | None, precision: str | None) -> None:
    """What was asked for over what the run stored; float16 needs a GPU, and a CPU takes bfloat16 instead."""
    inference, precision = inference or module.recipe.inference, precision or module.recipe.precision
    if precision == "16-mixed" and not torch.accelerator.is_available():
        print("16-mixed is not computed on a CPU; bf16-mixed takes its place")
        precision = "bf16-mixed"
    module.recipe = replace(module.recipe, inference=inference, precision=precision)


def score(module: SegmentationModule, data: Any, name: str, split: str) -> dict[str, Any]:
    trainer = Trainer(
        precision=module.recipe.precision, devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[callbacks.JudgingBar(len(data.open(split)))],
    )  # fmt: skip
    print(
        f"{module.identity['experiment']} after {module.identity['iterations']} steps, on {len(data.open(split))} images of {name} {split} "
        f"({module.recipe.inference}, {module.recipe.precision})",
        flush=True,
    )
    (trainer.validate if split == "val" else trainer.test)(module, dataloaders=data.judging(split), verbose=False)
    return result_of(module, data, name, split, module.identity["iterations"])


def result_of(module: Any, data: Any, data_name: str, split: str, iterations: int) -> dict[str, Any]:
    """result.json: the score with everything that a comparison needs to know, out of a module that has just been judged."""
    identity, scores, row = module.identity, module.scores, experiment(module.identity["experiment"])
    paper, _, name = identity["experiment"].partition("/")
    return {
        "schema": runs.SCHEMA,
        "experiment": identity["experiment"],
        "paper": paper,
        "row": name,
        "title": find_paper(paper).title,
        "data": data_name,
        "split": split,
        "protocol": module.recipe.inference,
        **judged(data, scores),
        "images": len(data.open(split)),
        "pixels": scores["pixels"],
        "semi": identity.get("semi"),
        "network": identity.get("network") or next(iter(identity.get("networks", [])), None),
        "others": {each: judged(data, found) for each, found in scores.get("others", {}).items()},
        "labelled": identity.get("labelled"),
        "seed": identity["seed"],
        "iterations": iterations,
        "parameters": sum(each.numel() for each in getattr(module, "student", module).parameters()),
        "inference_parameters": inference_parameters(row.but(model=identity["model"]), module.num_classes),
        "hardware": runs.hardware(),
        "precision": module.recipe.precision,
        "commit": runs.commit(),
        "versions": runs.versions(),
        "date": date.today().isoformat(),
        "departures": identity["departures"],
        "overrides": identity["overrides"],
        "published": [asdict(figure) for figure in row.published],
        "checkpoint": None,
        "seconds": None,
        "cpu_seconds": None,
        "smoke": identity["smoke"],
        "finished": not identity["smoke"] and iterations >= module.recipe.iterations,
    }


def judged(data: Any, scores: dict[str, Any]) -> dict[str, Any]:
    return {
        "miou": scores["miou"],
        "pixel_accuracy": scores["pixel_accuracy"],
        "iou": dict(zip(data.class_names, scores["iou"])),
    }


def fresh(folder: Path, stem: str) -> Path:
    """A name that nothing has yet: evaluations are never overwritten."""
    stem = "evaluation-" + "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in stem)
    file, count = folder / f"{stem}.json", 1
    while file.exists():
        file, count = folder / f"{stem}-{count}.json", count + 1
    return file
