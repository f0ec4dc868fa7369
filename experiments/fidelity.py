"""Every released layout against the authors' code: logits under the same weights, parameters and multiply-accumulates.

    python experiments/fidelity.py                       all of them; writes experiments/results/fidelity.json
    python experiments/fidelity.py --only bisenet        some of them; writes nothing
    python experiments/fidelity.py --stored --format markdown    the table that was written last, for the README

Weights and input are made from names alone, so no checkpoint is needed. The authors' numbers lie in tests/reference/released: their
network's logits under those weights on a CPU, and how far its float32 lies from its float64. Ours may differ by twenty times that,
or by 2e-5 of the largest logit where that is more; a wrong padding, activation or epsilon lies hundreds of times beyond.
The exit code is 1 if any layout fails.
"""

import argparse
import gzip
import json
import sys
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from experiments.command_line import Parser, Refused, refuse
from experiments.tables import console

ROOT = Path(__file__).resolve().parents[1]
RELEASED = ROOT / "tests" / "reference" / "released"
RESULT = ROOT / "experiments" / "results" / "fidelity.json"
MACS_LIMIT = 1e-3  # relative
# Layouts whose MACs differ for a reason: an operation that was rewritten and computes the same.
REWRITTEN: dict[str, str] = {}


@dataclass(frozen=True)
class Fidelity:
    """One layout; "theirs" is what the authors' code computes and holds."""

    name: str
    source: str
    commit: str
    error: float | None  # the largest difference of a logit
    limit: float | None
    parameters: tuple[int | None, int | None]  # that the logits depend on: ours, theirs
    macs: tuple[int | None, int | None]
    macs_size: tuple[int, ...]
    ok: bool
    note: str = ""


# --- one layout


def fidelity(name: str) -> Fidelity:
    """A layout that cannot be built or loaded fails with the problem as its note."""
    layout = json.loads(gzip.decompress((RELEASED / f"{name}.json.gz").read_bytes()))
    try:
        return measured(name, layout)
    except Exception as problem:
        note = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        theirs = ((None, layout["params_inference"]), (None, layout["macs_inference"]), tuple(layout["macs_resolution"]))
        return Fidelity(name, layout["source_repo"], layout["commit"], None, None, *theirs, ok=False, note=note)


def measured(name: str, layout: dict[str, Any]) -> Fidelity:
    import numpy as np

    from segmodels.paper import macs

    golden = np.load(RELEASED / f"{name}.npz")
    module = filled(name, layout)
    sample, parameters, spared = passed(module, golden)
    error, limit = np.abs(sample - golden["main"]).max(), max(20 * golden["max_abs_diff_vs_float64"], 2e-5 * np.abs(golden["main"]).max())
    size = tuple(layout["macs_resolution"])
    ours, theirs = macs(module, size), layout["macs_inference"]
    same = name in REWRITTEN or (ours is not None and abs(ours - theirs) <= MACS_LIMIT * theirs)
    note = "; ".join(filter(None, (REWRITTEN.get(name, ""), spared and f"without gradient in the authors' code too: {', '.join(spared)}")))
    return Fidelity(
        name, layout["source_repo"], layout["commit"], float(error), float(limit), (parameters, layout["params_inference"]),
        (ours, theirs), size, bool(error <= limit) and parameters == layout["params_inference"] and same, note,
    )  # fmt: skip


def filled(name: str, layout: dict[str, Any]) -> Any:
    """The module with weights made from names; that these are the authors' weights is checked first."""
    import torch

    import segmodels

    arrays = reference().fill_layout(layout)
    if reference().weights_crc(arrays.values()) != layout["weights_crc32"]:
        raise ValueError("this numpy draws other weights than the authors' network was given")
    return segmodels.from_released(name, {key: torch.from_numpy(array.copy()) for key, array in arrays.items()})


def passed(module: Any, golden: Any) -> tuple[Any, int, list[str]]:
    """Logits at the golden's pixels, how many parameters they depend on, and which of these get no gradient by the paper's design."""
    import torch

    image = torch.from_numpy(reference().make_input(str(golden["input_name"]), tuple(golden["input_shape"])))
    shape, step = tuple(golden["main_shape"]), int(golden["stride"])
    whole = len(shape) == 2 or shape[-2:] == tuple(image.shape[-2:])  # a classifier, or logits at the image's size
    logits = module(image) if whole else module.logits(image)
    if tuple(logits.shape) != shape:
        raise ValueError(f"logits are {tuple(logits.shape)}, the authors' {shape}")
    logits.sum().backward()
    without = [name for name, each in module.named_parameters() if each.grad is None]
    spared = [name for name in getattr(module, "without_gradient", ()) if name in without]
    count = sum(each.numel() for name, each in module.named_parameters() if name not in without or name in spared)
    logits = logits.detach().numpy()
    return logits[:, ::step] if logits.ndim == 2 else logits[:, :, ::step, ::step], count, spared


def reference() -> Any:
    """tests/reference/fill.py, which no package holds."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    from tests.reference import fill

    return fill


# --- tables

HEADS = ("layout", "authors' code", "largest error", "limit", "inference parameters", "MACs", "verdict")
RIGHT = (2, 3, 4, 5)


def cells(found: Fidelity) -> tuple[str, ...]:
    error, limit = ("-" if each is None else f"{each:.1e}" if each else "0" for each in (found.error, found.limit))
    size = "x".join(map(str, found.macs_size))
    verdict = "equal" if found.ok else "FAILS"
    source = f"{found.source} {found.commit[:7] if len(found.commit) == 40 else found.commit.split(' (')[0]}"
    return found.name, source, error, limit, pair(*found.parameters), f"{pair(*found.macs)} @ {size}", verdict


def pair(ours: int | None, theirs: int | None) -> str:
    """One number where both are the same, else ours and theirs."""
    shown = ["-" if each is None else f"{each:,}" for each in (ours, theirs)]
    return shown[0] if ours == theirs else f"{shown[0]} (theirs {shown[1]})"


def as_text(rows: list[Fidelity]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, head in enumerate(HEADS):
        table.add_column(head, justify="right" if index in RIGHT else "left")
    for each in rows:
        table.add_row(*map(Text, cells(each)), style=None if each.ok else "red")
    console().print(table)
    print("".join(f"{each.name}: {each.note}\n" for each in rows if each.note), end="")


def as_markdown(rows: list[Fidelity]) -> None:
    noted = [(*words, f"{verdict}; {each.note}" if each.note else verdict) for each in rows for *words, verdict in [cells(each)]]
    for line in [HEADS, ["--:" if index in RIGHT else "---" for index in range(len(HEADS))], *noted]:
        print("| " + " | ".join(word.replace("|", "/") for word in line) + " |")


def conclusion(rows: list[Fidelity]) -> str:
    failing = [each.name for each in rows if not each.ok]
    return f"{len(rows) - len(failing)} of {len(rows)} layouts equal the authors'" + (f"; not {', '.join(failing)}" if failing else "")


# --- the stored table


def write(rows: list[Fidelity], file: Path) -> None:
    from experiments import runs

    made = {"date": date.today().isoformat(), "hardware": runs.hardware(), "versions": runs.versions()}
    runs.write_json(file, made | {"layouts": [asdict(each) for each in rows]})


def stored(file: Path = RESULT) -> list[Fidelity]:
    if not file.is_file():
        raise Refused(f"there is no {file}; make it with: python experiments/fidelity.py")
    lists = ("parameters", "macs", "macs_size")  # tuples before JSON
    rows = json.loads(file.read_text())["layouts"]
    return [Fidelity(**row | {name: tuple(row[name]) for name in lists}) for row in rows]


# --- command line


def parser() -> Parser:
    made = Parser(prog="fidelity.py", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", metavar="TEXT", default="", help="layouts whose name contains TEXT; nothing is written")
    made.add_argument("--stored", action="store_true", help="the table as it was written last; computes nothing")
    made.add_argument("--format", choices=("text", "markdown"), default="text", help="text for a terminal (default), or for a file")
    return made


def names(only: str = "") -> list[str]:
    """Of the layouts that the authors' numbers are kept of."""
    known = sorted(file.name.removesuffix(".json.gz") for file in RELEASED.glob("*.json.gz"))
    if not known:
        raise Refused(f"there is nothing in {RELEASED}; run this from a checkout of the repository, which holds the authors' numbers")
    if chosen := [name for name in known if only in name]:
        return chosen
    raise Refused(f"no layout's name contains {only}; there are {', '.join(known)}")


def main(words: list[str] | None = None) -> int:
    asked = parser().parse_args(words)
    try:
        chosen = names(asked.only)
        rows = [each for each in stored() if each.name in chosen] if asked.stored else computed(chosen)
    except Refused as problem:
        return refuse(problem)
    {"text": as_text, "markdown": as_markdown}[asked.format](rows)
    print(conclusion(rows), file=sys.stderr)
    if not asked.only and not asked.stored:
        write(rows, RESULT)
    return int(not all(each.ok for each in rows))


def computed(chosen: list[str]) -> list[Fidelity]:
    """One after the other, with a line on the error stream for each: they take seconds."""
    rows = []
    for number, name in enumerate(chosen, start=1):
        print(f"{number}/{len(chosen)} {name}", file=sys.stderr, flush=True)
        rows.append(fidelity(name))
    return rows


if __name__ == "__main__":
    sys.exit(main())
