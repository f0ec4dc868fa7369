"""The runs of a sweep: each row with each seed, and what is on disk of it."""

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from typing import Any

from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError, as_user_error
from experiments.command_line.overrides import as_text
from experiments.command_line.resolved_values import PLACES, Resolved, resolve
from experiments.command_line.row_patterns import is_pattern, matching_rows
from experiments.records import run_folder
from experiments.records.metrics import curve, read_metrics
from experiments.records.results import Result, finished_result
from experiments.reports.paper_table import grouped

# fields of config.json that decide no score, or follow from those that do
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
)
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
    result: Result | None = None
    best: float | None = None  # the highest validation during training, in percent

    @property
    def name(self) -> str:
        return f"{self.resolved.experiment}, seed {self.seed}"

    def look_for(self, folder: Path) -> None:
        """Find it in a folder of runs: finished before unfinished, and the newest of several."""
        same = [run for run, config in configs(folder) if same_run(self.wanted, config)]
        results = {run: result for run in same if (result := result_of(run))}
        begun = [run for run in same if (run / "checkpoints" / "last.ckpt").is_file()]
        self.state = NEW
        if results or begun:
            self.state = FINISHED if results else UNFINISHED
        self.folder = max(results or begun, key=begun_at, default=None)
        self.result = results.get(self.folder)
        self.best = highest_validation(self.folder) if self.result else None


def result_of(run: Path) -> Result | None:
    with suppress(UserError):  # a damaged result is none
        return finished_result(run)


def highest_validation(run: Path) -> float | None:
    with suppress(UserError):
        _, validations = curve(read_metrics(run), "val/mIoU")
        return max((100 * share for share in validations), default=None)


def begun_at(run: Path) -> float:
    return (run / "config.json").stat().st_mtime


# --- which runs


def several(args: Namespace) -> bool:
    """The command names more than one run."""
    return args.seeds is not None or is_pattern(args.model)


def seeds_of(args: Namespace) -> list[int]:
    if args.seeds is None:
        return [args.seed]
    if args.seed:
        raise UserError(
            f"--seed {args.seed} and --seeds {args.seeds} say two things; give one of them"
        )
    parts = [part.strip() for part in args.seeds.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(
            f"--seeds {args.seeds}: write whole numbers from 0 up, separated by commas, "
            "such as --seeds 0,1,2"
        )
    return list(dict.fromkeys(map(int, parts)))


def plan(args: Namespace) -> list[Run]:
    """Every run of the sweep; values that any row refuses are refused here."""
    runs: list[Run] = []
    refused: dict[str, str] = {}
    seeds = seeds_of(args)
    for address in matching_rows(args.model):
        try:
            resolved = resolve_row(address, args.data, args)
        except UserError as problem:
            refused[address] = str(problem)
            continue
        for seed in seeds:
            wanted = identity(run_folder.config(resolved, seed, "", []))
            runs.append(Run(resolved, seed, wanted))
    refuse_together(refused)
    for run in runs:
        run.look_for(args.runs)
    return runs


def resolve_row(address: str, data: str | None, args: Namespace) -> Resolved:
    given = (args.overrides, args.smoke, args.semi, args.init, args.recipe)
    resolved = resolve(address, data, *given)
    check_encoder(resolved)
    return settled(resolved)


def check_encoder(resolved: Resolved) -> None:
    """Refuse a timm network that cannot be the encoder, before anything is made."""
    if resolved.encoder:
        from experiments.training.build import check_network  # takes torch

        with as_user_error():
            check_network(resolved)


def settled(resolved: Resolved) -> Resolved:
    """With what --recipe derives from the images, which have to be there."""
    if resolved.preset == "finetune":
        from experiments.training.build import settle_finetuning  # takes torch

        with as_user_error():
            settle_finetuning(resolved)
    return resolved


def refuse_together(refused: Mapping[str, str]) -> None:
    """Refuse rows in one sentence: each reason once, with the rows that it holds for."""
    if not refused:
        return
    rows_by_reason = grouped(refused, refused.get)
    reasons = [f"{reason} (for {', '.join(rows)})" for reason, rows in rows_by_reason.items()]
    more = f"; and {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
    raise UserError("; ".join(reasons[:3]) + more + "; nothing was trained")


# --- what is there already


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a run's score, out of its config.json.

    Where the data lies counts, how it is read does not.
    """
    decisive = {name: value for name, value in config.items() if name not in BESIDE}
    data = {
        name: value
        for name, value in config["data"].items()
        if name == "root" or name not in PLACES
    }
    if data.get("root") and "://" not in data["root"]:
        data["root"] = str(Path(data["root"]).expanduser().resolve())
    decisive["data"] = data
    decisive["accumulate"] = config["trainer"]["accumulate"]  # the only part of the trainer
    decisive["smoke"] = "--smoke" in config["origins"].values()
    return json.loads(json.dumps(decisive))  # tuples become lists, as config.json has them


def same_run(wanted: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """A run stores the precision that "auto" came to."""
    there = identity(config)
    automatic = config["origins"]["recipe.precision"] != "command line"
    if automatic and wanted["recipe"]["precision"] == "auto":
        there["recipe"]["precision"] = "auto"
    return there == wanted


def configs(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The readable run folders in a folder."""
    for file in sorted(folder.glob("*/config.json")):
        with suppress(UserError):
            yield file.parent, run_folder.read_config(file.parent)


def digest(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


# --- what differs from the paper's main row


def main_of(run: Run) -> str:
    return f"{run.resolved.paper}/{catalogue()['papers'][run.resolved.paper]['main']}"


def is_main(run: Run) -> bool:
    return run.resolved.experiment == main_of(run)


def runs_by_row(planned: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each row, main rows before their paper's others."""
    in_order = sorted(planned, key=lambda run: (run.resolved.paper, not is_main(run)))
    return grouped(in_order, attrgetter("resolved.experiment"))


def differences_to_main(run: Run, args: Namespace) -> list[str]:
    main = resolve_row(main_of(run), run.resolved.data_name, args)
    return differences(run.resolved, main)


def differences(resolved: Resolved, main: Resolved) -> list[str]:
    """Between two rows as they are resolved, the same overrides on both."""
    lines = []
    for group in ("model", "recipe"):
        ours = resolved.groups()[group]
        theirs = main.groups()[group]
        for name in dict.fromkeys([*theirs, *ours]):
            was = theirs.get(name)
            now = ours.get(name)
            if was != now:
                lines.append(f"{group}.{name} {as_text(was)} -> {as_text(now)}")
    if start_of(resolved) != start_of(main):
        lines.append(f"starts from {start_of(main)} -> {start_of(resolved)}")
    return lines


def start_of(resolved: Resolved) -> str:
    """The value of --init, with the name of ImageNet weights."""
    if resolved.start != "imagenet":
        return resolved.start
    return resolved.starts_from or "scratch"
