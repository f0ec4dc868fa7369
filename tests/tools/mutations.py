"""Change one constant of a file at a time and see which change no test notices.

    python -m tests.tools.mutations fastscnn                      a paper
    python -m tests.tools.mutations segmodels/parts/losses.py     any file
    python -m tests.tools.mutations stdc --lines 270:300          some of its lines
    python -m tests.tools.mutations stdc --tests tests/papers/test_stdc.py
    tests/segmodels/test_losses.py

Numbers become a quarter smaller, whole numbers larger by one, True becomes False; of words such as
"stdc_ohem:0.7,1/16" the first number is changed. All of it happens in a copy of the tree. The tests
are those named like the file, or those that import it; of a paper those over all rows too, as far
as they are about it. Each change is printed with the test that fails; the exit code is 1 if one
survives.
"""

import argparse
import ast
import multiprocessing
import os
import queue
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.support.paths import ROOT

PAPERS = Path("segmodels/architectures")
OVER_ALL_ROWS = ("mining", "recipes", "figures")  # tests that every paper has a part in
SETTINGS = re.compile(r"\w+:[\d.][\w.,/:+]*")  # "stdc_ohem:0.7,1/16", "resized:0.5"
SECONDS = 600  # in which a mutant's tests have to end
# A process for each mutant, copied from one that has read the libraries.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["albumentations", "lightning", "pytest", "timm", "torch", "wandb"]
)


class Mutant(NamedTuple):
    line: int
    before: str
    after: str
    source: str  # of the whole file

    def __str__(self) -> str:
        return f"{self.line}: {self.before} -> {self.after}"


# --- mutants


def mutants(source: str) -> Iterator[Mutant]:
    """The source with one of its constants changed, each in turn; places within an index stay."""
    tree = ast.parse(source)
    apart = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    apart += [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    left_out = {id(inner) for node in apart for inner in ast.walk(node)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    for node in sorted(found, key=lambda node: (node.lineno, node.col_offset)):
        after = other(node.value)
        if after is None or id(node) in left_out:
            continue
        lines = source.splitlines(keepends=True)
        line = lines[node.lineno - 1].encode()  # offsets are in bytes
        start, end = node.col_offset, node.end_col_offset
        lines[node.lineno - 1] = (line[:start] + after.encode() + line[end:]).decode()
        yield Mutant(node.lineno, line[start:end].decode(), after, "".join(lines))


def other(value: object) -> str | None:
    """What stands in for a constant; None where it is left alone."""
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int):
        return str(value + 1)
    if isinstance(value, float):
        return repr(float(f"{0.75 * value:.6g}") or 0.5)
    if isinstance(value, str) and SETTINGS.fullmatch(value):
        return repr(
            re.sub(r"\d+(\.\d+)?", lambda match: f"{0.75 * float(match[0]):g}", value, count=1)
        )
    return None


# --- tests


def file_of(root: Path, word: str) -> Path:
    """A paper's file, or the file itself, from the root of the tree."""
    file = PAPERS / f"{word}.py" if (root / PAPERS / f"{word}.py").is_file() else Path(word)
    if not (root / file).is_file():
        raise SystemExit(f"there is no paper and no file {word}")
    return file


def tests_of(root: Path, file: Path) -> list[str]:
    """Those named like the file, else those that import it; of a paper those over all rows too."""
    named = sorted(root.glob(f"tests/**/test_{file.stem}.py"))
    module = re.compile(rf"{file.parent.name}(\.| import .*\b){file.stem}\b")
    importing = (
        test for test in root.glob("tests/**/test_*.py") if module.search(test.read_text())
    )
    tests = named or sorted(importing)
    if file.parent == PAPERS:  # those over all rows take less time
        tests = [*(root / "tests/papers" / f"test_{name}.py" for name in OVER_ALL_ROWS), *tests]
    return [str(test.relative_to(root)) for test in tests if test.is_file()]


def failing(tree: Path, tests: list[str], words: list[str]) -> str | None:
    """The first test that fails there; None if all pass."""
    command = ["-x", "-q", "-p", "no:cacheprovider", *words, *tests]
    command += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # some plugins are there already
    said = tree / "said"
    child = PROCESSES.Process(target=tested, args=(tree, command, said))
    child.start()
    child.join(SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join()
        return f"no end after {SECONDS} s"
    if child.exitcode == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise SystemExit(f"{' '.join(tests)}: no test is about this file, name others with --tests")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said.read_text(), flags=re.MULTILINE)
    return (failed or [f"pytest ends with {child.exitcode}"])[0] if child.exitcode else None


def tested(tree: Path, command: list[str], said: Path) -> None:
    """Run pytest on the tree's own files, in a process that has their libraries already."""
    os.chdir(tree)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True  # a file written twice within a second has the form of before
    for name in list(sys.modules):
        if (tree / name.partition(".")[0]).is_dir():  # read from the original, or its tests
            del sys.modules[name]
    os.environ["PYTHONPATH"] = str(tree)
    torch.set_num_threads(1)
    sys.exit(int(pytest.main(command)))


# --- all of them


def survivors(
    root: Path,
    file: Path,
    tests: list[str],
    words: list[str],
    jobs: int = 1,
    lines: range | None = None,
) -> list[Mutant]:
    """Print what becomes of every mutant, and return those that no test notices."""
    chosen = [
        each for each in mutants((root / file).read_text()) if not lines or each.line in lines
    ]
    trees: queue.Queue[Path] = queue.Queue()

    def tried(mutant: Mutant) -> str | None:
        tree = trees.get()
        (tree / file).write_text(mutant.source)
        test = failing(tree, tests, words)
        trees.put(tree)
        return test

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        for number in range(jobs):
            tree = Path(folder) / str(number)
            shutil.copytree(root, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs"))
            trees.put(tree)
        if test := failing(tree, tests, words):
            raise SystemExit(f"{test} fails without any change")
        left = []
        for mutant, test in zip(chosen, pool.map(tried, chosen)):
            print(f"{file}:{mutant}: {test or 'SURVIVED'}", flush=True)
            left += [] if test else [mutant]
    print(f"{len(left)} of {len(chosen)} survived")
    return left


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", help="a paper, or a file from the root of the tree")
    parser.add_argument("--tests", nargs="+", metavar="FILE", help="instead of those that know it")
    parser.add_argument(
        "--lines", metavar="FIRST:LAST", help="change constants in these lines alone"
    )
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are tried at once")
    args = parser.parse_args(arguments)
    file = file_of(ROOT, args.what)
    first, _, last = (args.lines or "").partition(":")
    lines = range(int(first), int(last) + 1) if args.lines else None
    words = [] if args.tests else ["-k", file.stem] if file.parent == PAPERS else []
    tests = args.tests or tests_of(ROOT, file)
    if not tests:
        parser.error(f"no test imports {file}: name some with --tests")
    return int(bool(survivors(ROOT, file, tests, words, args.jobs, lines)))


if __name__ == "__main__":
    sys.exit(main())
