"""Many runs from one command, and one table of them: every row that a pattern names, for every seed.

python experiments/run.py --model "stdc/*" --data camvid data.root=DIR --seeds 0,1,2

Each run is a process of its own, `run.py` with one row: a crash ends no other, and its memory is given back. What is there already
is told by config.json, not by names of folders: a finished run stands, an unfinished one goes on, so the same command continues a
sweep that was ended.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TextIO

from rich.table import Table
from rich.text import Text

from experiments import command_line as words
from experiments import report, runs
from experiments.command_line import Refused, Resolved, shown
from experiments.tables import console, millions

PROGRAM = Path(__file__).with_name("run.py")
OWN = ("model", "seed", "seeds", "runs", "overrides", "resume", "list", "show")  # words that a single run is not given as they came
BESIDE = ("schema", "id", "starts_from", "origins", "departures", "command", "commit", "versions", "trainer")  # decide no score
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
        self.folder = max(done or begun or [None], key=lambda run: (run / "config.json").stat().st_mtime if run else 0)


# --- which runs


def several(asked: Any) -> bool:
    """Whether the words name more than one run."""
    return asked.seeds is not None or any(sign in asked.model for sign in "*?[,")


def matching(pattern: str) -> list[str]:
    """The addresses that the comma-separated words name; a paper alone is its main row, as everywhere."""
    known = words.catalogue()
    every = [f"{paper}/{row}" for paper, entry in known["papers"].items() for row in entry["rows"]]
    found: list[str] = []
    for word in filter(None, (part.strip() for part in pattern.split(","))):
        wild = any(sign in word for sign in "*?[")
        named = [address for address in every if fnmatchcase(address, word)] if wild else ["/".join(words.named_row(known, word))]
        if not named:
            raise Refused(nothing_matches(word, known))
        found += named
    if not found:
        raise Refused(f"--model {pattern} names no row; write rows or patterns with commas between them, such as 'stdc/*'")
    return list(dict.fromkeys(found))


def nothing_matches(word: str, known: Mapping[str, Any]) -> str:
    paper, _, row = word.partition("/")
    if paper in known["papers"]:
        return f"no row matches {word}; {paper} has {', '.join(known['papers'][paper]['rows'])}"
    near = get_close_matches(paper.rstrip("*"), list(known["papers"]), n=1, cutoff=0.4)
    guess = f"did you mean {near[0]}/{row or '*'}? " if near else ""
    return f"no row matches {word}; {guess}there are the papers {', '.join(known['papers'])}"


def seeds_of(asked: Any) -> list[int]:
    if asked.seeds is None:
        return [asked.seed]
    if asked.seed:
        raise Refused(f"--seed {asked.seed} and --seeds {asked.seeds} say two things; give one of them")
    parts = [part.strip() for part in asked.seeds.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise Refused(f"--seeds {asked.seeds}: write whole numbers from 0 up, separated by commas, such as --seeds 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


def plan(asked: Any) -> list[Run]:
    """Every run that is asked for; all words that any row refuses are refused here."""
    found, refused = [], {}
    seeds = seeds_of(asked)
    for address in matching(asked.model):
        try:
            resolved = words.resolve(address, asked.data, asked.overrides, asked.smoke, asked.semi)
        except Refused as problem:
            refused.setdefault(str(problem), []).append(address)
            continue
        found += [Run(resolved, seed, identity(runs.config(resolved, seed, asked.init, "", []))) for seed in seeds]
    refuse_together(refused)
    for run in found:
        run.look(asked.runs)
    return found


def refuse_together(refused: Mapping[str, list[str]]) -> None:
    """One sentence for all rows: each reason once, with the rows that it holds for."""
    if refused:
        reasons = [f"{reason} (for {', '.join(rows)})" for reason, rows in refused.items()]
        more = f"; and {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
        raise Refused("; ".join(reasons[:3]) + more + "; nothing was trained")


# --- what is there already


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a run's score, out of its config.json; where the data lies counts, how it is read does not."""
    kept = {name: value for name, value in config.items() if name not in BESIDE}
    data = {name: value for name, value in config["data"].items() if name == "root" or name not in words.PLACES}
    if data.get("root") and "://" not in data["root"]:
        data["root"] = str(Path(data["root"]).expanduser().resolve())
    return json.loads(json.dumps(kept | {"data": data, "smoke": "--smoke" in config["origins"].values()}))


def same_run(wanted: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """A run stores the precision that "auto" came to."""
    there = identity(config)
    if wanted["recipe"]["precision"] == "auto":
        there["recipe"]["precision"] = "auto" if config["origins"]["recipe.precision"] != "command line" else there["recipe"]["precision"]
    return there == wanted


def configs(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The readable run folders in a folder."""
    for file in sorted(folder.glob("*/config.json")):
        with suppress(Refused):
            yield file.parent, runs.read_config(file.parent)


def is_finished(folder: Path) -> bool:
    with suppress(ValueError, KeyError, Refused):  # a damaged result is none
        return runs.finished(folder) is not None
    return False


# --- before the first training


def rehearse(asked: Any, new: Sequence[Run]) -> None:
    """Meet every refusal that a training would meet after hours, with data, networks and machine as they will be."""
    first: dict[str, Run] = {}
    for run in new:
        first.setdefault(run.resolved.experiment, run)
    if not first:
        return
    print(f"checking {len(first)} row{'s' * (len(first) > 1)} before the first training begins", flush=True)
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is this process's to tell of
    # a process of its own: this one stays small and never touches the GPU
    with ProcessPoolExecutor(1, get_context("spawn"), signal.signal, ignore) as process, suppress(BrokenProcessPool):
        found = process.submit(refusals, [(run.resolved, run.seed) for run in first.values()], asked.init).result()
        refused: dict[str, list[str]] = {}
        for address, reason in zip(first, found, strict=True):
            refused.setdefault(reason, []).append(address) if reason else None
        refuse_together(refused)


def refusals(rows: Sequence[tuple[Resolved, int]], init: str | None) -> list[str]:
    """Why a training would be refused, for each row; empty where it would begin."""
    from datamodules import DataError
    from experiments import training
    from experiments.door import door, quiet

    quiet()
    opened: dict[str, Any] = {}
    found = []
    for resolved, seed in rows:
        place = json.dumps([resolved.data_name, resolved.data, [resolved.recipe[name] for name in training.SEEN]])
        try:
            with door(), runs.inherited(Path("rehearsal")):  # inside a run that exists, no folder is made
                data = opened[place] = opened.get(place) or training.open_data(resolved, seed)
                module, _ = training.build(resolved, data, init, seed, new=True)
                training.prepare(resolved, module, data, Path("rehearsal"), {}, new=True)
            found.append("")
        except (Refused, DataError) as problem:
            found.append(str(problem))
        except Exception:  # no refusal but a fault, which ends its own run alone and is told there
            found.append("")
    return found


# --- one after another


class Stop:
    """Ctrl-C reaches the run as it reaches us, who share its terminal; SIGTERM is handed on. Either way no further run begins."""

    def __init__(self) -> None:
        self.asked, self.process = 0, None

    def __call__(self, number: int, frame: Any) -> None:
        self.asked = number
        if number == signal.SIGTERM and self.process:
            self.process.send_signal(number)

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        previous = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def sweep(asked: Any) -> int:
    """All runs and their table; the exit code is 0 if every run is finished, else that of the first that failed."""
    planned = plan(asked)
    if asked.show:
        return show(planned, asked)
    folder = asked.runs / folder_name(asked.model, planned)
    waiting = [run for run in planned if run.state != FINISHED]
    count = {state: sum(run.state == state for run in planned) for state in (FINISHED, UNFINISHED, NEW)}
    print(f"{len(planned)} runs: {count[FINISHED]} finished before, {count[UNFINISHED]} to go on with, {count[NEW]} new")
    for run in planned:
        print(f"  finished before: {run.name} ({run.folder}{other_commit(run)})") if run.state == FINISHED else None
    try:
        rehearse(asked, [run for run in waiting if run.state == NEW])
    except KeyboardInterrupt:
        print("stopped before training began; nothing was written", file=sys.stderr)
        return 130
    folder.mkdir(parents=True, exist_ok=True)
    with Stop().listening() as stop:
        codes = [each(asked, run, stop, f"[{number}/{len(waiting)}]", planned, folder) for number, run in enumerate(waiting, 1)]
    for run in planned:  # what another process made meanwhile counts
        run.look(asked.runs)
        run.reason = "" if run.state == FINISHED else run.reason
    conclude(planned, folder, asked)
    if stop.asked:
        print("stopped; the same command goes on from here", flush=True)
        return 128 + stop.asked
    return next(filter(None, codes), 0)


def each(asked: Any, run: Run, stop: Stop, place: str, planned: Sequence[Run], folder: Path) -> int:
    """One run, unless the sweep was asked to stop; the table is written anew after it."""
    if stop.asked:
        run.reason = "not run: the sweep was stopped"
        return 0
    with alone(asked.runs, run) as lock:
        run.look(asked.runs)  # another sweep may have made it meanwhile
        if lock is None:
            run.reason = "another process is running it"
            print(f"\n{place} {run.name}: {run.reason}", flush=True)
            return 0
        if run.state == FINISHED:
            print(f"\n{place} {run.name}: finished meanwhile", flush=True)
            return 0
        print(f"\n{place} {run.name}", flush=True)
        code, said = process(command(asked, run), stop, lock)
        run.look(asked.runs)
    run.reason = "" if run.state == FINISHED else why(code, said, stop)
    write_table(planned, folder, asked)
    return code


def command(asked: Any, run: Run) -> list[str]:
    """The words of a single run: as they came, or to go on with what it has."""
    if run.state == UNFINISHED:
        return ["--resume", str(run.folder)]
    given = {name: value for name, value in vars(asked).items() if name not in OWN and value is not None and value is not False}
    options = [word for name, value in given.items() for word in (f"--{name}", *([] if value is True else [str(value)]))]
    return ["--model", run.resolved.experiment, "--seed", str(run.seed), "--runs", str(asked.runs), *options, *asked.overrides]


def process(arguments: Sequence[str], stop: Stop, lock: int) -> tuple[int, list[str]]:
    """The exit code as a shell tells it, and the last lines of the error stream, all of which passes through."""
    paths = [str(PROGRAM.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]  # the same checkout as ours
    child = subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        pass_fds=[lock] if lock >= 0 else [],
    )
    stop.process = child
    last: deque[str] = deque(maxlen=50)
    reader = threading.Thread(target=pass_through, args=(child.stderr, last), daemon=True)
    reader.start()
    code = child.wait()
    stop.process = None
    reader.join(2)  # no longer: a process that the run left behind may hold the stream open
    return (128 - code if code < 0 else code), list(last)


def pass_through(stream: TextIO, last: deque[str]) -> None:
    with stream:
        for line in stream:
            last.append(line)
            print(line, end="", file=sys.stderr, flush=True)


def why(code: int, said: Sequence[str], stop: Stop) -> str:
    """In words, why a run that has ended is not finished."""
    if code == 0:
        return "unfinished: trainer.max_minutes ended it; the same command goes on"
    if stop.asked:
        return "stopped; the same command goes on"
    lines = [line.strip() for line in said if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
    if code > 128 and code - 128 in set(signal.Signals):
        number = signal.Signals(code - 128)
        return f"failed: ended by {number.name}{' (out of memory?)' if number == signal.SIGKILL else ''}"
    return f"failed: {told[-1] if told else f'exit code {code}'}"


@contextmanager
def alone(folder: Path, run: Run) -> Iterator[int | None]:
    """A lock on this run that its process inherits, so that no second sweep goes on with what still trains; None where another has it."""
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield -1
        return
    locks = folder / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / digest(run.wanted)).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        except OSError:  # a file system without locks
            yield -1
        else:
            yield file.fileno()


def other_commit(run: Run) -> str:
    made, now = runs.read_config(run.folder)["commit"], runs.commit()
    return "" if made == now else f", made at commit {made}, now it is {now}"


def folder_name(pattern: str, planned: Sequence[Run]) -> str:
    """The same for the same runs, so that a sweep which goes on writes the same table."""
    slug = re.sub(r"\W+", "-", pattern).strip("-")[:40] or "all"
    return f"sweep-{slug}-{planned[0].resolved.data_name}-{digest([run.wanted for run in planned])}"


def digest(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


# --- what differs from the paper's main row


def differences(resolved: Resolved, main: Resolved, init: str | None) -> list[str]:
    """Between two rows as they are resolved, the same overrides on both."""
    found = []
    for group in ("model", "recipe"):
        ours, theirs = resolved.groups()[group], main.groups()[group]
        for name in dict.fromkeys([*theirs, *ours]):
            was, now = theirs.get(name), ours.get(name)
            if plain(was) != plain(now):
                found.append(f"{group}.{name} {shown(was)} -> {shown(now)}")
    start, theirs = (each.entry["starts_from"] or "scratch" for each in (resolved, main))
    published = init is None and resolved.data_name == resolved.entry["data"] and "--smoke" not in resolved.origins.values()
    return found + ([f"starts from {theirs} -> {start}"] if start != theirs and (published or init == "imagenet") else [])


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def main_of(run: Run) -> str:
    return f"{run.resolved.paper}/{words.catalogue()['papers'][run.resolved.paper]['main']}"


def rows_of(planned: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by row, main rows before their paper's others."""
    rows: dict[str, list[Run]] = {}
    for run in sorted(planned, key=lambda run: (run.resolved.paper, run.resolved.experiment != main_of(run))):
        rows.setdefault(run.resolved.experiment, []).append(run)
    return rows


def differs(run: Run, asked: Any) -> list[str]:
    main = main_of(run)
    return differences(run.resolved, words.resolve(main, run.resolved.data_name, asked.overrides, asked.smoke, asked.semi), asked.init)


# --- the table


@dataclass
class Row:
    """One row of the table: means over the seeds that are finished, in percent."""

    row: str
    main: bool
    differs: list[str]
    protocol: str
    iterations: int
    parameters: int
    inference_parameters: int | None
    asked_seeds: list[int]
    seeds: list[int] = field(default_factory=list)
    miou: float | None = None
    spread: float | None = None
    best: float | None = None
    best_spread: float | None = None
    difference: float | None = None
    pixel_accuracy: float | None = None
    seconds: float | None = None
    commit: list[str] = field(default_factory=list)
    hardware: list[str] = field(default_factory=list)
    precision: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)


def table(planned: Sequence[Run], asked: Any) -> list[Row]:
    rows = [row_of(each, asked) for each in rows_of(planned).values()]
    mains = {row.row.partition("/")[0]: row.miou for row in rows if row.main}
    for row in rows:
        main = mains.get(row.row.partition("/")[0])
        row.difference = None if row.main or None in (row.miou, main) else row.miou - main
    return rows


def row_of(made: Sequence[Run], asked: Any) -> Row:
    resolved, entry = made[0].resolved, made[0].resolved.entry
    row = Row(
        resolved.experiment, resolved.experiment == main_of(made[0]), differs(made[0], asked), resolved.recipe["inference"],
        resolved.recipe["iterations"], entry["parameters"], entry["inference_parameters"], [run.seed for run in made],
    )  # fmt: skip
    results = [(run, measured(run)) for run in made]
    row.runs = [
        {"seed": run.seed, "folder": run.folder and run.folder.name, "state": run.state, "reason": run.reason} | (found or {})
        for run, found in results
    ]
    found = [each for _, each in results if each]
    if not found:
        return row
    row.seeds = [run.seed for run, each in results if each]
    row.miou, row.spread = mean_and_spread(found, "miou")
    row.best, row.best_spread = mean_and_spread(found, "best")
    row.pixel_accuracy, _ = mean_and_spread(found, "pixel_accuracy")
    row.seconds, _ = mean_and_spread(found, "seconds")
    row.parameters, row.inference_parameters = found[-1]["parameters"], found[-1]["inference_parameters"]
    row.commit, row.hardware, row.precision = (sorted({str(each[name]) for each in found}) for name in ("commit", "hardware", "precision"))
    return row


def measured(run: Run) -> dict[str, Any] | None:
    """The figures of a finished run, shares in percent; best is the highest of the validations during training."""
    if run.state != FINISHED:
        return None
    try:
        (result,) = report.read_results([run.folder / "result.json"])  # beside it may lie what evaluate.py said later
        _, validations = report.curve(report.read_metrics(run.folder), "val/mIoU")
    except report.ReportError as problem:
        run.reason = f"unreadable: {problem}"
        return None
    percent = {name: None if result[name] is None else 100 * result[name] for name in ("miou", "pixel_accuracy")}
    same = {name: result[name] for name in ("parameters", "inference_parameters", "seconds", "commit", "hardware", "precision")}
    return percent | {"best": 100 * max(validations) if validations else None} | same


def mean_and_spread(found: Sequence[Mapping[str, Any]], name: str) -> tuple[float | None, float | None]:
    """Over seeds, with the sample standard deviation; one seed has none."""
    values = [each[name] for each in found if each[name] is not None]
    return fmean(values) if values else None, stdev(values) if len(values) > 1 else None


COLUMNS: dict[str, Callable[[Row], str]] = {
    "row": lambda row: row.row + (" (main)" if row.main else ""),
    "differs from the main row": lambda row: "; ".join(row.differs) or ("-" if row.main else "in nothing"),
    "mIoU": lambda row: figure(row.miou, row.spread),
    "best": lambda row: figure(row.best, row.best_spread),
    "to main": lambda row: "-" if row.difference is None else f"{row.difference:+.2f}",
    "pixel accuracy": lambda row: figure(row.pixel_accuracy, None),
    "parameters": lambda row: millions(row.parameters),
    "inference": lambda row: "-" if row.inference_parameters is None else millions(row.inference_parameters),
    "seconds": lambda row: "-" if row.seconds is None else f"{row.seconds:.0f}",
}
RIGHT = ("mIoU", "best", "to main", "pixel accuracy", "parameters", "inference", "seconds")


def figure(value: float | None, spread: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" + ("" if spread is None else f" ± {spread:.2f}")


def notes(rows: Sequence[Row], planned: Sequence[Run], asked: Any) -> list[str]:
    """What the figures are of, and every run that is missing."""
    data, smoke = planned[0].resolved.data_name, any(run.wanted["smoke"] for run in planned)
    protocols, steps = (", ".join(dict.fromkeys(f"{getattr(row, name)}" for row in rows)) for name in ("protocol", "iterations"))
    asked_seeds = list(dict.fromkeys(run.seed for run in planned))
    seeds = f"seed{'s' * (len(asked_seeds) > 1)} {', '.join(map(str, asked_seeds))}"
    lines = [
        f"mIoU in percent of the last weights on {data} val ({protocols}) after {steps} iterations, {seeds}",
        "to main: the difference to the paper's main row, in points; inference: the parameters that remain",
        "best: the highest validation during training, chosen on these same images" + ("; ± over seeds" if several_seeds(rows) else ""),
    ]
    made = {name: sorted({word for row in rows for word in getattr(row, name)}) for name in ("commit", "hardware", "precision")}
    lines += ["; ".join(f"{name} {', '.join(found)}" for name, found in made.items())] if any(row.seeds for row in rows) else []
    given = [f"--{name} {value}" for name, value in (("semi", asked.semi), ("init", asked.init)) if value not in (None, "none")]
    given += [word for word in asked.overrides if not word.startswith(("data.root=", "trainer."))]
    lines += [f"on every row: {' '.join(given)}"] if given else []
    lines += ["--smoke: a few tiny steps, whose figures mean nothing"] if smoke else []
    return lines + [f"{run.name}: {run.reason or run.state}" for run in planned if run.state != FINISHED or run.reason]


def several_seeds(rows: Sequence[Row]) -> bool:
    return any(len(row.seeds) > 1 for row in rows)


def conclude(planned: Sequence[Run], folder: Path, asked: Any) -> None:
    rows = write_table(planned, folder, asked)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for head in COLUMNS:
        grid.add_column(head, justify="right" if head in RIGHT else "left", overflow="fold", no_wrap=head == "row")
    for row in rows:
        grid.add_row(*(Text(cell(row)) for cell in COLUMNS.values()), style="" if row.seeds else "dim")
    out = console()
    print()
    out.print(grid)
    out.print()
    for line in (*notes(rows, planned, asked), f"table        {folder / 'table.md'}"):
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    out.print(f"paper / ours python experiments/report.py {folder}", highlight=False, markup=False, soft_wrap=True)


def write_table(planned: Sequence[Run], folder: Path, asked: Any) -> list[Row]:
    """table.md to read and table.json for programs; `report.py` finds the runs by the latter."""
    rows = table(planned, asked)
    heads = [report.markdown_line(COLUMNS), report.markdown_line("--:" if head in RIGHT else "---" for head in COLUMNS)]
    lines = [report.markdown_line(report.plain(cell(row)) for cell in COLUMNS.values()) for row in rows]
    title = f"# {report.plain(asked.model)} on {planned[0].resolved.data_name}"
    text = "\n".join([title, "", *heads, *lines, "", *(f"- {report.plain(note)}" for note in notes(rows, planned, asked)), ""])
    content = {"model": asked.model, "overrides": asked.overrides, "rows": [vars(row) for row in rows]}
    for name, words_in_it in (("table.md", text), ("table.json", json.dumps(content, indent=1) + "\n")):
        partial = folder / f".{name}.{os.getpid()}.partial"  # two sweeps may share the work
        partial.write_text(words_in_it, encoding="utf-8")
        partial.replace(folder / name)
    return rows


def show(planned: Sequence[Run], asked: Any) -> int:
    """Which rows would run, and what differs; trains nothing."""
    grid = Table("row", "differs from the main row", "iterations", "parameters", "runs", box=None, pad_edge=False, header_style="bold")
    for address, made in rows_of(planned).items():
        main, resolved = address == main_of(made[0]), made[0].resolved
        there = ", ".join(f"seed {run.seed} {run.state}" + (f" ({run.folder})" if run.folder else "") for run in made)
        told = "; ".join(differs(made[0], asked)) or ("-" if main else "in nothing")
        name, size = address + (" (main)" if main else ""), millions(resolved.entry["parameters"])
        grid.add_row(*map(Text, (name, told, f"{resolved.recipe['iterations']}", size, there)))
    console().print(grid)
    print(f"\n{len(planned)} runs on {planned[0].resolved.data_name}; --model PAPER/ROW --show prints every value of one")
    return 0
