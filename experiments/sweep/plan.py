"""The runs that a sweep's words name: each row with each seed, what is there of it already, and what tells it from its paper's main row."""

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError
from experiments.command_line.overrides import as_text
from experiments.command_line.row_patterns import is_pattern, matching_rows
from experiments.command_line.values import PLACES, Resolved, resolve
from experiments.records import run_folder

BESIDE = (
    "schema",
    "id",
    "starts_from",
    "origins",
    "departures",
    "command",
    "commit",
    "versions",
    "trainer",
    "class_weights",
)  # decide no score, or follow from what does
FINISHED, UNFINISHED, NEW = "finished", "unfinished", "new"


@dataclass
class Run:
    """One row with one seed, and what is there of it."""

    resolved: Resolved
    seed: int
    wanted: dict[str, Any]  # what a run must share to be this one
    folder: Path | None = None
    state: str = NEW
    reason: str = ""  # why it is not finished

    @property
    def name(self) -> str:
        return f"{self.resolved.experiment}, seed {self.seed}"

    def look(self, folder: Path) -> None:
        """What the folder of runs holds of it now: a finished run before an unfinished one, and the newest of several."""
        found = [run for run, config in configs(folder) if same_run(self.wanted, config)]
        done = [run for run in found if is_finished(run)]
        begun = [run for run in found if (run / "checkpoints" / "last.ckpt").is_file()]
        self.state = FINISHED if done else UNFINISHED if begun else NEW
        self.folder = max(
            done or begun or [None],
            key=lambda run: (run / "config.json").stat().st_mtime if run else 0,
        )


# --- which runs


def several(asked: Namespace) -> bool:
    """Whether the words name more than one run."""
    return asked.seeds is not None or is_pattern(asked.model)


def seeds_of(asked: Namespace) -> list[int]:
    if asked.seeds is None:
        return [asked.seed]
    if asked.seed:
        raise UserError(
            f"--seed {asked.seed} and --seeds {asked.seeds} say two things; give one of them"
        )
    parts = [part.strip() for part in asked.seeds.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(
            f"--seeds {asked.seeds}: write whole numbers from 0 up, separated by commas, such as --seeds 0,1,2"
        )
    return list(dict.fromkeys(map(int, parts)))


def plan(asked: Namespace) -> list[Run]:
    """Every run that is asked for; all words that any row refuses are refused here."""
    found, refused = [], {}
    seeds = seeds_of(asked)
    for address in matching_rows(asked.model):
        try:
            resolved = resolve(
                address, asked.data, asked.overrides, asked.smoke, asked.semi, asked.init
            )
        except UserError as problem:
            refused.setdefault(str(problem), []).append(address)
            continue
        found += [
            Run(resolved, seed, identity(run_folder.config(resolved, seed, "", [])))
            for seed in seeds
        ]
    refuse_together(refused)
    for run in found:
        run.look(asked.runs)
    return found


def refuse_together(refused: Mapping[str, list[str]]) -> None:
    """One sentence for all rows: each reason once, with the rows that it holds for."""
    if refused:
        reasons = [f"{reason} (for {', '.join(rows)})" for reason, rows in refused.items()]
        more = f"; and {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
        raise UserError("; ".join(reasons[:3]) + more + "; nothing was trained")


# --- what is there already


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a run's score, out of its config.json; where the data lies counts, how it is read does not."""
    kept = {name: value for name, value in config.items() if name not in BESIDE}
    data = {
        name: value
        for name, value in config["data"].items()
        if name == "root" or name not in PLACES
    }
    if data.get("root") and "://" not in data["root"]:
        data["root"] = str(Path(data["root"]).expanduser().resolve())
    parts = config["trainer"]["accumulate"]  # the rest of the machine decides no score
    smoke = "--smoke" in config["origins"].values()
    return json.loads(json.dumps(kept | {"data": data, "accumulate": parts, "smoke": smoke}))


def same_run(wanted: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """A run stores the precision that "auto" came to."""
    there = identity(config)
    if wanted["recipe"]["precision"] == "auto":
        there["recipe"]["precision"] = (
            "auto"
            if config["origins"]["recipe.precision"] != "command line"
            else there["recipe"]["precision"]
        )
    return there == wanted


def configs(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The readable run folders in a folder."""
    for file in sorted(folder.glob("*/config.json")):
        with suppress(UserError):
            yield file.parent, run_folder.read_config(file.parent)


def is_finished(folder: Path) -> bool:
    with suppress(ValueError, KeyError, UserError):  # a damaged result is none
        return run_folder.finished(folder) is not None
    return False


def digest(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


# --- what differs from the paper's main row


def differences(resolved: Resolved, main: Resolved) -> list[str]:
    """Between two rows as they are resolved, the same overrides on both."""
    found = []
    for group in ("model", "recipe"):
        ours, theirs = resolved.groups()[group], main.groups()[group]
        for name in dict.fromkeys([*theirs, *ours]):
            was, now = theirs.get(name), ours.get(name)
            if plain(was) != plain(now):
                found.append(f"{group}.{name} {as_text(was)} -> {as_text(now)}")
    start, theirs = start_of(resolved), start_of(main)
    return found + ([f"starts from {theirs} -> {start}"] if start != theirs else [])


def start_of(resolved: Resolved) -> str:
    """What --init says, with the name of ImageNet weights."""
    named = resolved.start == "imagenet"
    return (resolved.entry["starts_from"] or "scratch") if named else resolved.start


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def main_of(run: Run) -> str:
    return f"{run.resolved.paper}/{catalogue()['papers'][run.resolved.paper]['main']}"


def rows_of(planned: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by row, main rows before their paper's others."""
    rows: dict[str, list[Run]] = {}
    for run in sorted(
        planned, key=lambda run: (run.resolved.paper, run.resolved.experiment != main_of(run))
    ):
        rows.setdefault(run.resolved.experiment, []).append(run)
    return rows


def differs(run: Run, asked: Namespace) -> list[str]:
    main = main_of(run)
    return differences(
        run.resolved,
        resolve(main, run.resolved.data_name, asked.overrides, asked.smoke, asked.semi, asked.init),
    )
