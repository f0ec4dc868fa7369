"""Results as run.py writes them, typed by hand."""

from pathlib import Path
from typing import Any

from experiments.records.results import Result

LR = "recipe.lr 0.025 -> 0.002 (streets)"


def published(
    miou: float = 74.8,
    data: str = "cityscapes",
    split: str = "val",
    protocol: str = "whole",
    source: str = "Table 6",
    **measured_with: dict,
) -> dict:
    place = {"data": data, "split": split, "protocol": protocol}
    return {"miou": miou, **place, "source": source, **measured_with}


def result(experiment: str = "bisenet/resnet18", **changes: Any) -> dict:
    """The content of a finished run's result.json."""
    paper, row = experiment.split("/")
    named = {
        "schema": 1,
        "experiment": experiment,
        "paper": paper,
        "row": row,
        "title": f"{paper}: a title",
    }
    place = {
        "data": "streets",
        "split": "val",
        "protocol": "whole",
        "images": 100,
        "seed": 0,
        "iterations": 250,
    }
    figures = {
        "miou": 0.379,
        "pixel_accuracy": 0.868,
        "iou": {"road": 0.92, "car": 0.5, "train": None},
    }
    size = {
        "parameters": 13275539,
        "inference_parameters": 12894163,
        "seconds": 163.0,
        "cpu_seconds": 300.0,
    }
    made = {
        "hardware": "2 cores CPU",
        "precision": "bf16-mixed",
        "commit": "abc1234",
        "versions": {},
        "date": "2026-11-20",
    }
    state = {
        "departures": [LR],
        "overrides": {},
        "published": [published()],
        "finished": True,
        "checkpoint": "checkpoints/best.ckpt",
    }
    return {**named, **place, **figures, **size, **made, **state, **changes}


def as_read(content: dict) -> Result:
    """A result.json as reports read it."""
    return Result.from_dict(content, Path("result.json"))
