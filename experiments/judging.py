"""Scoring a checkpoint: the same code that validates during training, on any split and in any inference mode."""

from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

from lightning import Trainer

import datamodules
from datamodules import DataError
from experiments import callbacks, runs
from experiments.command_line import Refused, catalogue, named, refuse
from experiments.door import door, quiet
from experiments.evaluate import data_options
from experiments.tables import class_table, published_lines
from segmodels.checkpoint import from_checkpoint
from segmodels.module import SegmentationModule
from segmodels.paper import experiment, inference_parameters
from segmodels.paper import paper as find_paper


def judge(checkpoint: Path, asked: Any) -> int:
    quiet()
    try:
        with door():
            module = from_checkpoint(checkpoint)
            name = named("data set", asked.data or module.identity["data"], list(catalogue()["data"]))
            data = open_data(name, data_options(name, asked.overrides), asked.split, checkpoint, module)
            changes = {"inference": asked.inference, "precision": asked.precision}
            module.recipe = replace(module.recipe, **{key: value for key, value in changes.items() if value})
        result = score(module, data, name, asked.split)
    except (Refused, DataError) as problem:
        return refuse(problem)
    class_table(result)
    print("\n".join(published_lines(result)))
    file = asked.out or fresh(checkpoint.parent, f"{name}-{asked.split}-{result['protocol']}")
    runs.write_json(file, result)
    print(f"result       {file}")
    return 0


def open_data(name: str, options: dict[str, Any], split: str, checkpoint: Path, module: SegmentationModule) -> Any:
    """The split, opened; its classes must be the checkpoint's."""
    data = getattr(datamodules, datamodules.names()[name])(**options)
    data.open(split)
    trained = module.identity.get("classes", [])
    if list(data.class_names) != list(trained):
        raise Refused(
            f"{checkpoint} tells {len(trained)} classes apart ({', '.join(trained[:3])}, ...) and {name} has {len(data.class_names)} "
            f"({', '.join(data.class_names[:3])}, ...); evaluate it on the data set it was trained on ({module.identity.get('data')})"
        )
    return data


def score(module: SegmentationModule, data: Any, name: str, split: str) -> dict[str, Any]:
    trainer = Trainer(
        precision=module.recipe.precision, devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[callbacks.JudgingBar(len(data.open(split)))],
    )  # fmt: skip
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
        "miou": scores["miou"],
        "pixel_accuracy": scores["pixel_accuracy"],
        "iou": dict(zip(data.class_names, scores["iou"])),
        "images": len(data.open(split)),
        "pixels": scores["pixels"],
        "seed": identity["seed"],
        "iterations": iterations,
        "parameters": sum(each.numel() for each in module.parameters()),
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


def fresh(folder: Path, stem: str) -> Path:
    """A name that nothing has yet: evaluations are never overwritten."""
    stem = "evaluation-" + "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in stem)
    file, count = folder / f"{stem}.json", 1
    while file.exists():
        file, count = folder / f"{stem}-{count}.json", count + 1
    return file
