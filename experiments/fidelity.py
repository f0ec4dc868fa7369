"""Every released layout against the authors' code: outputs under the same weights, parameters and multiply-accumulates.

    python experiments/fidelity.py                       all of them; writes experiments/results/fidelity.json
    python experiments/fidelity.py --only bisenet        some of them; writes nothing
    python experiments/fidelity.py --stored --format markdown    the table that was written last, for the README

Weights and input are made from names alone, so no checkpoint is needed. The authors' numbers lie in experiments/results/reference/released: their
network's logits and auxiliary outputs under those weights on a CPU, at 128x256 (NAME.npz) and at a size that fewer strides divide
(NAME__b.npz), and how far its float32 lies from its float64. Ours may differ by twenty times that, or by 2e-5 of the largest number where
that is more; a wrong padding, activation or epsilon lies hundreds of times beyond. NAME.json.gz says which of our outputs each auxiliary
one is, and which parameters of the authors' are not here because nothing uses them. The exit code is 1 if any layout fails.
"""

import gzip
import json
import sys
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.parser import Parser
from experiments.reports.terminal import console

ROOT = Path(__file__).resolve().parents[1]
RELEASED = ROOT / "experiments" / "results" / "reference" / "released"
RESULT = ROOT / "experiments" / "results" / "fidelity.json"
MACS_LIMIT = 1e-3  # relative
# Layouts whose MACs differ for a reason: an operation that was rewritten and computes the same.
REWRITTEN: dict[str, str] = {}


@dataclass(frozen=True)
class Difference:
    """The largest one and what is allowed; `output` is the image's size for logits, else our name and (theirs)."""

    output: str
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        return self.error <= self.limit  # so not where a number is missing

    @property
    def share(self) -> float:
        return self.error / self.limit


@dataclass(frozen=True)
class Fidelity:
    """One layout; "theirs" is what the authors' code computes and holds."""

    name: str
    source: str
    commit: str
    logits: Difference | None
    other_size: Difference | None  # of the logits too
    auxiliary: (
        Difference | None
    )  # of all auxiliary outputs, at both sizes, the one that is nearest to its limit
    parameters: tuple[int | None, int | None]  # that the logits depend on: ours, theirs
    total: tuple[int | None, int | None]  # with auxiliary heads; theirs without what nothing uses
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
        theirs = {
            "parameters": layout["params_inference"],
            "total": used(layout),
            "macs": layout["macs_inference"],
        }
        sizes = {"macs_size": tuple(layout["macs_resolution"])} | {
            what: (None, number) for what, number in theirs.items()
        }
        return Fidelity(
            name,
            layout["source_repo"],
            layout["commit"],
            None,
            None,
            None,
            ok=False,
            note=note,
            **sizes,
        )


def measured(name: str, layout: dict[str, Any]) -> Fidelity:
    import numpy as np
    import torch

    from segmodels.paper import macs

    golden, other = (np.load(RELEASED / f"{name}{which}.npz") for which in ("", "__b"))
    module = filled(name, layout)
    logits = logits_of(module, golden)
    parameters, spared = reached(module, logits)
    with torch.no_grad():
        main, other_size = sampled(logits, golden), sampled(logits_of(module, other), other)
        auxiliary = [
            each
            for at_size in (golden, other)
            for each in auxiliaries(module, at_size, layout["aux_names"])
        ]
    total = sum(each.numel() for each in module.parameters())
    size = tuple(layout["macs_resolution"])
    ours, theirs = macs(module, size), layout["macs_inference"]
    same = name in REWRITTEN or (ours is not None and abs(ours - theirs) <= MACS_LIMIT * theirs)
    equal = parameters == layout["params_inference"] and total == used(layout)
    return Fidelity(
        name, layout["source_repo"], layout["commit"], main, other_size, max(auxiliary, key=lambda each: each.share, default=None),
        (parameters, layout["params_inference"]), (total, used(layout)), (ours, theirs), size,
        ok=all(each.ok for each in (main, other_size, *auxiliary)) and equal and same, note=notes(name, layout, spared),
    )  # fmt: skip


def used(layout: dict[str, Any]) -> int:
    """The authors' parameters without those that nothing uses."""
    return layout["params_total"] - sum(count for count, _ in layout["unused"].values())


def notes(name: str, layout: dict[str, Any], spared: list[str]) -> str:
    reasons: dict[str, list[str]] = {}
    for part, (count, reason) in layout["unused"].items():
        reasons.setdefault(reason, []).append(f"{part} ({count:,})")
    unused = [f"not here: {', '.join(parts)}, {reason}" for reason, parts in reasons.items()]
    without = f"without gradient in the authors' code too: {', '.join(spared)}" if spared else ""
    return "; ".join(filter(None, (REWRITTEN.get(name, ""), without, *unused)))


def filled(name: str, layout: dict[str, Any]) -> Any:
    """The module with weights made from names; that these are the authors' weights is checked first."""
    import torch

    import segmodels

    arrays = reference().fill_layout(layout)
    if reference().weights_crc(arrays.values()) != layout["weights_crc32"]:
        raise ValueError("this numpy draws other weights than the authors' network was given")
    return segmodels.from_released(
        name, {key: torch.from_numpy(array.copy()) for key, array in arrays.items()}
    )


def logits_of(module: Any, golden: Any) -> Any:
    image, shape = image_of(golden), tuple(golden["main_shape"])
    whole = len(shape) == 2 or shape[-2:] == tuple(
        image.shape[-2:]
    )  # a classifier, or logits at the image's size
    logits = module(image) if whole else enlarged(module.logits(image), shape, module.align_corners)
    if tuple(logits.shape) != shape:
        raise ValueError(f"logits are {tuple(logits.shape)}, the authors' {shape}")
    return logits


def reached(module: Any, logits: Any) -> tuple[int, list[str]]:
    """How many parameters the logits depend on, and which of these get no gradient by the paper's design."""
    logits.sum().backward()
    without = [name for name, each in module.named_parameters() if each.grad is None]
    spared = [name for name in getattr(module, "without_gradient", ()) if name in without]
    return sum(
        each.numel()
        for name, each in module.named_parameters()
        if name not in without or name in spared
    ), spared


def sampled(logits: Any, golden: Any) -> Difference:
    step, logits = int(golden["stride"]), logits.detach().numpy()
    sample = logits[:, ::step] if logits.ndim == 2 else logits[:, :, ::step, ::step]
    return difference(
        "x".join(str(side) for side in golden["input_shape"][2:]), sample, golden["main"], golden
    )


def auxiliaries(module: Any, golden: Any, names: dict[str, str]) -> list[Difference]:
    """Every auxiliary output of the authors' against ours, enlarged as theirs is; there may be none of ours that they do not have."""
    theirs = sorted({key.split("/")[1] for key in golden.files if key.startswith("aux/")})
    if theirs != sorted(names):
        raise ValueError(
            f"the authors' auxiliary outputs are {', '.join(theirs)}, their stored names {', '.join(sorted(names))}"
        )
    if not hasattr(module, "outputs"):  # a classifier
        return []
    outputs = module.outputs(image_of(golden))
    if extra := set(outputs) - {"main"} - set(names.values()):
        raise ValueError(f"the authors have no auxiliary output {', '.join(sorted(extra))}")
    outputs["log_softmax(main)"] = enlarged(
        outputs["main"], tuple(golden["main_shape"]), module.align_corners
    ).log_softmax(1)
    found = []
    for name in theirs:
        shape, step = (
            tuple(golden[f"aux/{name}/shape"]),
            int(golden[f"aux/{name}/sample_flat_stride"]),
        )
        flat, want = (
            enlarged(outputs[names[name]], shape, module.align_corners).flatten(),
            golden[f"aux/{name}/sample"],
        )
        found.append(
            difference(f"{names[name]} ({name})", flat[::step][: len(want)].numpy(), want, golden)
        )
    return found


def image_of(golden: Any) -> Any:
    import torch

    return torch.from_numpy(
        reference().make_input(str(golden["input_name"]), tuple(golden["input_shape"]))
    )


def enlarged(logits: Any, shape: tuple[int, ...], align_corners: bool) -> Any:
    """Some of the authors' networks enlarge their logits by a whole factor, which at an odd size is not the image's size."""
    import torch.nn.functional as F

    if tuple(logits.shape[-2:]) == shape[-2:]:
        return logits
    return F.interpolate(logits, shape[-2:], mode="bilinear", align_corners=align_corners)


def difference(output: str, ours: Any, theirs: Any, golden: Any) -> Difference:
    import numpy as np

    limit = max(20 * golden["max_abs_diff_vs_float64"], 2e-5 * np.abs(theirs).max())
    return Difference(output, float(np.abs(ours - theirs).max()), float(limit))


def reference() -> Any:
    """experiments/results/reference/fill.py, which no package holds."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    from experiments.results.reference import fill

    return fill


# --- tables

HEADS = (
    "layout", "authors' code", "logits: error < limit", "another size", "auxiliary outputs", "inference parameters", "all parameters",
    "MACs", "verdict",
)  # fmt: skip
RIGHT = range(2, 8)
VERDICTS = {True: "equal", False: "FAILS"}


def cells(found: Fidelity) -> tuple[str, ...]:
    source = f"{found.source} {found.commit[:7] if len(found.commit) == 40 else found.commit.split(' (')[0]}"
    logits, other, auxiliary = map(compared, (found.logits, found.other_size, found.auxiliary))
    if found.other_size:
        other += f" @ {found.other_size.output}"
    macs = f"{pair(*found.macs)} @ {'x'.join(map(str, found.macs_size))}"
    return (
        found.name,
        source,
        logits,
        other,
        auxiliary,
        pair(*found.parameters),
        pair(*found.total),
        macs,
        VERDICTS[found.ok],
    )


def compared(found: Difference | None) -> str:
    if found is None:
        return "-"
    return f"{f'{found.error:.1e}' if found.error else '0'} {'<' if found.ok else '>'} {found.limit:.1e}"


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
    noted = [
        (*words, f"{verdict}; {each.note}" if each.note else verdict)
        for each in rows
        for *words, verdict in [cells(each)]
    ]
    for line in [
        HEADS,
        ["--:" if index in RIGHT else "---" for index in range(len(HEADS))],
        *noted,
    ]:
        print("| " + " | ".join(word.replace("|", "/") for word in line) + " |")


def conclusion(rows: list[Fidelity]) -> str:
    failing = [each.name for each in rows if not each.ok]
    return f"{len(rows) - len(failing)} of {len(rows)} layouts equal the authors'" + (
        f"; not {', '.join(failing)}" if failing else ""
    )


# --- the stored table


def write(rows: list[Fidelity], file: Path) -> None:
    from experiments.command_line import files
    from experiments.records import provenance

    made = {
        "date": date.today().isoformat(),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
    }
    files.write_json(file, made | {"layouts": [asdict(each) for each in rows]})


def stored(file: Path = RESULT) -> list[Fidelity]:
    if not file.is_file():
        raise UserError(f"there is no {file}; make it with: python experiments/fidelity.py")
    return [from_json(row) for row in json.loads(file.read_text())["layouts"]]


def from_json(row: dict[str, Any]) -> Fidelity:
    lists = {name: tuple(row[name]) for name in ("parameters", "total", "macs", "macs_size")}
    differences = {
        name: Difference(**row[name]) for name in ("logits", "other_size", "auxiliary") if row[name]
    }
    return Fidelity(**row | lists | differences)


# --- command line


def parser() -> Parser:
    made = Parser(prog="fidelity.py", description=__doc__)
    made.add_argument(
        "--only",
        metavar="TEXT",
        default="",
        help="layouts whose name contains TEXT; nothing is written",
    )
    made.add_argument(
        "--stored", action="store_true", help="the table as it was written last; computes nothing"
    )
    made.add_argument(
        "--format",
        choices=("text", "markdown"),
        default="text",
        help="text for a terminal (default), or for a file",
    )
    return made


def names(only: str = "") -> list[str]:
    """Of the layouts that the authors' numbers are kept of."""
    known = sorted(file.name.removesuffix(".json.gz") for file in RELEASED.glob("*.json.gz"))
    if not known:
        raise UserError(
            f"there is nothing in {RELEASED}; run this from a checkout of the repository, which holds the authors' numbers"
        )
    if chosen := [name for name in known if only in name]:
        return chosen
    raise UserError(f"no layout's name contains {only}; there are {', '.join(known)}")


@command(stopped="stopped; nothing was written")
def main(words: list[str] | None = None) -> int:
    asked = parser().parse_args(words)
    chosen = names(asked.only)
    rows = [each for each in stored() if each.name in chosen] if asked.stored else computed(chosen)
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
    sys.exit(run_main(main))
