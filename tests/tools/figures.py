"""Print eight figures that say how the project stands; closing notes give them beside those of
before.

python -m tests.tools.figures           what is counted in seconds; the rest is "not measured"
python -m tests.tools.figures --run     also runs .ci/run and README's first command (an hour)
python -m tests.tools.figures --root TREE    of another checkout
"""

import argparse
import ast
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ("segmodels", "datamodules", "experiments")
NOT_MEASURED = "not measured"


def figures(root: Path, run: bool) -> dict[str, str]:
    """The eight, by name."""
    return {
        "layouts equal to the authors' code": layouts(root),
        "mutations that no test notices": f"{NOT_MEASURED}: there is no list of mutations yet",
        "minutes of .ci/run": ci_minutes(root) if run else NOT_MEASURED,
        "files at the top of experiments": str(commands(root)),
        "import arrows": arrows(root),
        "line width, 90th percentile": str(percentile([len(line) for line in lines(root)], 0.9)),
        "syntax nodes a line": f"{nodes(root) / len(lines(root)):.1f}",
        "mIoU of README's first command": first_command(root) if run else NOT_MEASURED,
    }


def layouts(root: Path) -> str:
    """As experiments/fidelity.py wrote them last."""
    stored = json.loads((root / "experiments/results/fidelity.json").read_text())
    equal = [each["ok"] for each in stored["layouts"]]
    return f"{sum(equal)} of {len(equal)} (measured {stored['date']})"


def commands(root: Path) -> int:
    """A command is a file at the top; libraries stand in packages below."""
    return sum(file.stem != "__init__" for file in (root / "experiments").glob("*.py"))


def ci_minutes(root: Path) -> str:
    started = time.monotonic()
    code = subprocess.run([root / ".ci/run"], cwd=root).returncode
    return (
        f"{(time.monotonic() - started) / 60:.1f}{'' if code == 0 else f' (it failed with {code})'}"
    )


def first_command(root: Path) -> str:
    """The command that README gives first, in this environment."""
    command = re.search(
        r"python (experiments/run\.py --model \w+)\n", (root / "README.md").read_text()
    )
    with tempfile.TemporaryDirectory() as runs:
        words = [sys.executable, *command[1].split(), "--runs", runs]
        subprocess.run(words, cwd=root, check=True)
        result = json.loads(next(Path(runs).glob("*/result.json")).read_text())
    return f"{100 * result['miou']:.1f} %"


# --- the code


def sources(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((root / package).rglob("*.py"))


def lines(root: Path) -> list[str]:
    """Every line that is not empty."""
    texts = [file.read_text().splitlines() for file in sources(root)]
    return [line for text in texts for line in text if line.strip()]


def nodes(root: Path) -> int:
    return sum(sum(1 for _ in ast.walk(ast.parse(file.read_text()))) for file in sources(root))


def arrows(root: Path) -> str:
    """Pairs of a file and a file of the project that it imports, and the same for packages."""
    known = {module_name(file, root) for file in sources(root)}
    found = {
        (module_name(file, root), target)
        for file in sources(root)
        for target in imported(file)
        if target in known
    }
    inside = [pair for pair in found if all(each.startswith("experiments.") for each in pair)]
    packages = {(package_of(one), package_of(other)) for one, other in found}
    between = [(one, other) for one, other in packages if one != other]
    return (
        f"{len(found)}, {len(inside)} of them within experiments; {len(between)} between packages"
    )


def package_of(module: str) -> str:
    """ "experiments.reports" of all modules in it; a file beside the packages stands for itself."""
    return ".".join(module.split(".")[:2])


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path) -> Iterator[str]:
    """Names of modules, and of what is imported from them: some of these are modules too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def percentile(values: list[int], share: float) -> int:
    return sorted(values)[int(share * len(values))]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true", help="measure what takes minutes, too")
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="another checkout (default: this one)"
    )
    args = parser.parse_args(arguments)
    for name, value in figures(args.root.resolve(), args.run).items():
        print(f"{name + ':':38} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
