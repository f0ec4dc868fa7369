"""Tiny runs of run.py on the built-in streets, and their files."""

import csv
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments import run

CPU = [
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.wandb=disabled",
    "trainer.log_every=1",
]

SCENES = ["data.height=64", "data.width=128", "data.train=8", "data.val=3"]

STEPS = [
    "recipe.crop=64x128",
    "recipe.batch=4",
    "recipe.iterations=6",
    "recipe.warmup=1",
    "recipe.precision=32-true",
]

INTERVALS = ["trainer.validate_every=3", "trainer.checkpoint_every=2", "trainer.pictures=1"]

TINY = ["--model", "bisenet/xception39", "--data", "streets", *SCENES, *STEPS, *INTERVALS, *CPU]

ROWS = [
    (1, "train"),
    (2, "train"),
    (3, "train"),
    (3, "val"),
    (4, "train"),
    (5, "train"),
    (6, "train"),
    (6, "val"),
]


def run_tiny(folder: Path, *words: str) -> int:
    return run.main([*TINY, "--runs", str(folder), *words])


def only(runs: Path) -> Path:
    (folder,) = runs.iterdir()
    return folder


def content(file: Path) -> dict[str, Any]:
    return torch.load(file, map_location="cpu", weights_only=True)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of nested dicts and lists, by its path."""
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, (list, tuple))
        else None
    )
    if pairs is None:
        return {name: value}
    return {path: leaf for key, each in pairs for path, leaf in flat(each, f"{name}/{key}").items()}


def assert_same_state(one: Path, other: Path, data: str = "Streets") -> None:
    """Bit for bit: weights, their average, the optimizer, the schedule, and where the data stands."""
    keys = (
        "state_dict",
        "current_model_state",
        "averaging_state",
        "optimizer_states",
        "lr_schedulers",
        "global_step",
        data,
    )
    left, right = (
        flat({key: found[key] for key in keys if key in found})
        for found in (content(one), content(other))
    )
    assert left.keys() == right.keys() and {"/global_step", f"/{data}/consumed"} <= left.keys()
    different = [name for name, value in left.items() if not same(value, right[name])]
    assert not different, f"{len(different)} of {len(left)} differ, such as {different[:3]}"


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


CLOCKS = ("images_per_second", "data_wait")


def without_speed(folder: Path) -> list[dict[str, str]]:
    return [
        {name: value for name, value in row.items() if name not in CLOCKS} for row in rows(folder)
    ]


def comparable(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    return {
        name: value
        for name, value in result.items()
        if name not in ("seconds", "cpu_seconds", "date", "commit")
    }


def assert_one_sentence(printed: str, *words: str) -> None:
    assert printed.startswith("error: ") and printed.count("\n") == 1, printed
    assert all(word in printed for word in words), printed
