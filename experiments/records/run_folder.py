"""The run folder: config.json, metrics.csv, result.json, checkpoints/ and pictures/ of a run."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.command_line.errors import UserError
from experiments.command_line.files import write_json
from experiments.command_line.resolved_values import Resolved
from experiments.command_line.row_patterns import row_address, row_entry
from experiments.records.provenance import commit, versions
from segmodels.network_identity import respelled, with_current_names

SCHEMA = 1


def new_folder(runs: Path, resolved: Resolved, seed: int) -> Path:
    """Return a name that nothing has yet.

    It is decided once: processes that Lightning starts for other devices inherit it. Those of
    torchrun and SLURM each find one, and only the first one's is made: the others write nothing.
    """
    if given := os.environ.get("SEGMODELS_RUN"):
        return Path(given)
    method = f"-{resolved.semi_name}" if resolved.semi_name != "none" else ""
    row = resolved.experiment.replace("/", "-") + method
    name = f"{row}-{resolved.data_name}-s{seed}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = runs / name
    count = 0
    while folder.exists():
        count += 1
        folder = runs / f"{name}-{count}"
    return folder


def leads() -> bool:
    """True in the first process of a run.

    torchrun, SLURM, Lightning, or a person who starts one on each node number the processes.
    """
    numbers = ("RANK",) if "RANK" in os.environ else ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(number, "0") == "0" for number in numbers)


def begin(folder: Path, config: Mapping[str, Any]) -> None:
    for part in ("checkpoints", "pictures"):
        (folder / part).mkdir(parents=True)
    write_json(folder / "config.json", config)


def withdraw(folder: Path) -> None:
    """Remove a run that nothing can go on from."""
    if not any((folder / "checkpoints").glob("*.ckpt")):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def inherited(folder: Path) -> Iterator[None]:
    """Within, processes that are started for other devices find this run's folder."""
    os.environ["SEGMODELS_RUN"] = str(folder)
    try:
        yield
    finally:
        del os.environ["SEGMODELS_RUN"]


def is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(
            f"{folder} is not a run folder: it has no config.json; "
            "give the folder that the run printed"
        )
    stored = read_json(file)
    if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
        raise UserError(
            f"{file} was not written by this version of run.py; "
            "go on with the checkout that began the run, or start it again"
        )
    for group in ("data", "semi", "origins"):
        stored[group] = with_current_names(stored.get(group, {}))
    if "batch_norm" in stored["semi"]:
        stored["semi"]["batch_norm"] = respelled(stored["semi"]["batch_norm"])
    return stored


def read_json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise UserError(
            f"{file} is broken JSON ({where}); copy it anew from its run folder, or remove it"
        ) from None


def read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{file} does not exist; is {file.parent} a run folder of experiments/run.py?"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read ({error}); check its rights, or copy it anew"
        ) from None


def config(resolved: Resolved, seed: int, start: str, command: list[str]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "id": secrets.token_hex(8),  # of the run in W&B, so that a resumed run goes on there too
        "experiment": resolved.experiment,
        "data_name": resolved.data_name,
        "semi_name": resolved.semi_name,
        "seed": seed,
        "init": resolved.init,
        "starts_from": start,
        **resolved.groups(),
        "origins": resolved.origins,
        "departures": resolved.departures,
        "command": command,
        "commit": commit(),
        "versions": versions(),
    }


def resolved_from(stored: Mapping[str, Any]) -> Resolved:
    """The values of a run out of its config.json."""
    values = {each.name: stored[each.name] for each in fields(Resolved) if each.name in stored}
    return Resolved(entry=row_entry(row_address(stored["experiment"])), **values)
