"""Train every row that a pattern names, with every seed, and make one table of the runs.

python experiments/run.py --model "stdc/*" --data camvid data.root=DIR --seeds 0,1,2

Each run is a process of its own, `run.py` with one row: a crash ends no other, and its memory is
given back. Runs are known by their config.json, not by names of folders: a finished run stands, an
unfinished one goes on, so the same command continues a sweep that was ended.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from experiments.command_line.errors import UserError
from experiments.command_line.resolved_values import Resolved
from experiments.reports.number_formats import plural
from experiments.reports.paper_table import grouped
from experiments.sweep.plan import FINISHED, NEW, UNFINISHED, Run, digest, plan, refuse_together
from experiments.sweep.table import conclude, show, write_table
from segmodels.recipe import Recipe

if TYPE_CHECKING:
    from datamodules.module import SegmentationData

PROGRAM = Path(__file__).parents[1] / "run.py"
NOT_HANDED_ON = ("model", "seed", "seeds", "runs", "overrides", "resume", "list", "show")


# --- before the first training


def rehearse(new: Sequence[Run]) -> None:
    """Meet every refusal that a training would meet after hours: of data, networks and machine."""
    rows = grouped(new, attrgetter("resolved.experiment"))
    if not rows:
        return
    print(f"checking {plural(len(rows), 'row')} before the first training begins", flush=True)
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is this process's to tell of
    # a process of its own: this one stays small and never touches the GPU
    with ProcessPoolExecutor(1, get_context("spawn"), signal.signal, ignore) as process:
        first = [(runs[0].resolved, runs[0].seed) for runs in rows.values()]
        try:
            refused = process.submit(refusals, first).result()
        except BrokenProcessPool:
            print("the check was ended, perhaps for want of memory; the training goes on")
            return
    refuse_together(refused)


def refusals(rows: Sequence[tuple[Resolved, int]]) -> dict[str, str]:
    """The rows whose training would be refused, and why.

    What is no refusal but a fault of the program is told at once, by its traceback.
    """
    from datamodules import DataError
    from experiments.command_line.errors import as_user_error, quiet
    from experiments.training import build, train

    quiet()
    opened: dict[str, SegmentationData] = {}
    refused = {}
    for resolved, seed in rows:
        seen = Recipe(**resolved.recipe).data_options()
        place = json.dumps([resolved.data_name, resolved.data, seen])
        try:
            with as_user_error():
                data = opened[place] = opened.get(place) or build.open_data(resolved, seed)
                module, _ = build.build(resolved, data, seed, new=True)
                trainer = train.make_trainer(resolved, Path(), callbacks=[])
                train.check_run(resolved, module, data, trainer.world_size)
        except (UserError, DataError) as problem:
            refused[resolved.experiment] = str(problem)
        except Exception as fault:
            fault.add_note(f"this happened while {resolved.experiment} was being checked")
            raise
    return refused


# --- one after another


class Stop:
    """Remember a signal, after which no further run begins.

    Ctrl-C reaches the run as it reaches us, who share its terminal; SIGTERM is handed on.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal
        self.process: subprocess.Popen | None = None

    def __call__(self, number: int, frame: Any) -> None:
        self.number = number
        if number == signal.SIGTERM and self.process:
            self.process.send_signal(number)

    def hand_on_to(self, process: subprocess.Popen) -> None:
        self.process = process
        if self.number == signal.SIGTERM:  # it came while the process was being started
            process.send_signal(signal.SIGTERM)

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        previous = {
            number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def sweep(args: Namespace) -> int:
    """Make all runs and their table.

    The exit code is 0 if every run is finished, else that of the first that failed.
    """
    planned = plan(args)
    if args.show:
        return show(planned, args)
    folder = args.runs / folder_name(args.model, planned)
    waiting = [run for run in planned if run.state != FINISHED]
    states = [run.state for run in planned]
    print(
        f"{len(planned)} runs: {states.count(FINISHED)} finished before, "
        f"{states.count(UNFINISHED)} to go on with, {states.count(NEW)} new"
    )
    for run in planned:
        if run.state == FINISHED:
            print(f"  finished before: {run.name} ({run.folder})")
    rehearse([run for run in waiting if run.state == NEW])
    folder.mkdir(parents=True, exist_ok=True)
    codes = []
    with Stop().listening() as stop:
        for number, run in enumerate(waiting, 1):
            codes.append(train_one(args, run, stop, f"[{number}/{len(waiting)}]"))
            write_table(planned, folder, args)
    for run in planned:  # what another process made meanwhile counts
        run.look_for(args.runs)
        run.reason = "" if run.state == FINISHED else run.reason
    conclude(planned, folder, args)
    if stop.number:
        print("stopped; the same command goes on from here", flush=True)
        return 128 + stop.number
    return next(filter(None, codes), 0)


def train_one(args: Namespace, run: Run, stop: Stop, place: str) -> int:
    """One run, unless the sweep was stopped; returns its exit code."""
    if stop.number:
        run.reason = "not run: the sweep was stopped"
        return 0
    with alone(args.runs, run) as lock:
        run.look_for(args.runs)  # another sweep may have made it meanwhile
        if lock is None:
            run.reason = "another process is running it"
            print(f"\n{place} {run.name}: {run.reason}", flush=True)
            return 0
        if run.state == FINISHED:
            print(f"\n{place} {run.name}: finished meanwhile", flush=True)
            return 0
        print(f"\n{place} {run.name}", flush=True)
        code, last_lines = process(command(args, run), stop, lock)
        run.look_for(args.runs)
    run.reason = "" if run.state == FINISHED else why(code, last_lines, stop)
    return code


def command(args: Namespace, run: Run) -> list[str]:
    """The arguments of a single run: as they came, or to go on with what it has."""
    if run.state == UNFINISHED:
        return ["--resume", str(run.folder)]
    options = []
    for name, value in vars(args).items():
        if name in NOT_HANDED_ON or value is None or value is False:
            continue
        options += [f"--{name}", *([] if value is True else [str(value)])]
    own = ["--model", run.resolved.experiment, "--seed", str(run.seed), "--runs", str(args.runs)]
    return [*own, *options, *args.overrides]


def process(arguments: Sequence[str], stop: Stop, lock: int) -> tuple[int, list[str]]:
    """The exit code as a shell tells it, and the last lines of the error stream.

    All that the process prints passes through.
    """
    paths = [str(PROGRAM.parents[1]), os.environ.get("PYTHONPATH", "")]  # the same checkout as ours
    child = subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        pass_fds=[lock] if lock >= 0 else [],
    )
    stop.hand_on_to(child)
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


def why(code: int, last_lines: Sequence[str], stop: Stop) -> str:
    """In words, why a run that has ended is not finished."""
    if code == 0:
        return "unfinished: trainer.max_minutes ended it; the same command goes on"
    if stop.number:
        return "stopped; the same command goes on"
    if code > 128 and code - 128 in set(signal.Signals):
        number = signal.Signals(code - 128)
        memory = " (out of memory?)" if number == signal.SIGKILL else ""
        return f"failed: ended by {number.name}{memory}"
    lines = [line.strip() for line in last_lines if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return f"failed: {[f'exit code {code}', *lines, *errors][-1]}"


@contextmanager
def alone(folder: Path, run: Run) -> Iterator[int | None]:
    """Lock this run, so that no second sweep goes on with what still trains; None if another has.

    The run's process inherits the lock.
    """
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


def folder_name(pattern: str, planned: Sequence[Run]) -> str:
    """The same for the same runs, so that a sweep which goes on writes the same table."""
    slug = re.sub(r"\W+", "-", pattern).strip("-")[:40] or "all"
    return f"sweep-{slug}-{planned[0].resolved.data_name}-{digest([run.wanted for run in planned])}"
