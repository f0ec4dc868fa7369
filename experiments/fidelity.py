"""Compare every released layout with the authors' code: outputs under the same weights, parameters,
multiply-accumulates.

    python experiments/fidelity.py
        all of them; writes experiments/results/fidelity.json
    python experiments/fidelity.py --only bisenet
        some of them; writes nothing
    python experiments/fidelity.py --stored --format markdown
        the table that was written last, for docs/FIDELITY.md

Weights and input are made from names alone, so no checkpoint is needed. The authors' numbers lie in
experiments/results/reference/released: their network's logits and auxiliary outputs under those
weights on a CPU, at 128x256 (NAME.npz) and at a size that fewer strides divide (NAME__b.npz), and
how far its float32 lies from its float64. Ours may differ by twenty times that, or by 2e-5 of the
largest number where that is more; a wrong padding, activation or epsilon differs by hundreds of
times as much. NAME.json.gz says which of our outputs each auxiliary one is, and which parameters of
the authors' are not here because nothing uses them. The exit code is 1 if any layout fails.
"""

import gzip
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.files import write_json
from experiments.command_line.parser import Parser, by
from experiments.records import provenance
from experiments.reports.number_formats import print_markdown, print_table

if TYPE_CHECKING:  # torch takes seconds, and the stored table must not wait for it
    import numpy as np
    from torch import Tensor, nn

RESULTS = Path(__file__).resolve().parent / "results"
RELEASED = RESULTS / "reference" / "released"
RESULT = RESULTS / "fidelity.json"
MACS_LIMIT = 1e-3  # relative

Layout = dict[str, Any]  # NAME.json.gz
Pair = tuple[int | None, int | None]  # ours, theirs


@dataclass(frozen=True)
class Difference:
    """The largest difference of an output, and the largest that is allowed."""

    output: str  # the image's size for logits, else our name and (theirs)
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        return self.error <= self.limit  # so not where a number is missing

    def __str__(self) -> str:
        error = f"{self.error:.1e}" if self.error else "0"
        return f"{error} {'<' if self.ok else '>'} {self.limit:.1e}"


@dataclass(frozen=True)
class Fidelity:
    """One layout, beside what the authors' code computes and holds."""

    name: str
    source: str
    commit: str
    logits: Difference | None
    other_size: Difference | None  # of the logits too
    auxiliary: Difference | None  # at both sizes, the one that is nearest to its limit
    parameters: Pair  # that the logits depend on
    total: Pair  # with auxiliary heads; theirs without what nothing uses
    macs: Pair
    macs_size: tuple[int, ...]
    ok: bool
    note: str = ""


# --- one layout


def compare(name: str) -> Fidelity:
    """Compare a layout. One that cannot be built or loaded fails, with the problem as its note."""
    layout = json.loads(gzip.decompress((RELEASED / f"{name}.json.gz").read_bytes()))
    unused = sum(count for count, _ in layout["unused"].values())
    smaller = elements_less(layout)
    row = Fidelity(
        name,
        layout["source_repo"],
        layout["commit"],
        logits=None,
        other_size=None,
        auxiliary=None,
        parameters=(None, layout["params_inference"] - smaller),
        total=(None, layout["params_total"] - smaller - unused),
        macs=(None, layout["macs_inference"]),
        macs_size=tuple(layout["macs_resolution"]),
        ok=False,
    )
    try:
        return with_ours(row, layout)
    except Exception as problem:
        text = " ".join(str(problem).split())[:200]
        return replace(row, note=f"{type(problem).__name__}: {text}")


def elements_less(layout: Layout) -> int:
    """Count what tables of a size of images have less at the size of the authors' numbers."""
    shapes = {name: shape for name, shape, _ in layout["entries"]}
    made = layout.get("golden_shapes", {})
    return sum(math.prod(shapes[name]) - math.prod(shape) for name, shape in made.items())


def with_ours(row: Fidelity, layout: Layout) -> Fidelity:
    """Fill in our half of a row."""
    import numpy as np
    import torch

    from segmodels.paper import macs

    module = build(row.name, layout)
    first = np.load(RELEASED / f"{row.name}.npz")
    other = np.load(RELEASED / f"{row.name}__b.npz")
    logits = logits_of(module, first)
    reached, without_gradient = count_reached(module, logits)
    with torch.no_grad():
        main = compare_logits(logits.detach(), first)
        other_size = compare_logits(logits_of(module, other), other)
        auxiliary = [
            *compare_auxiliary(module, first, layout["aux_names"]),
            *compare_auxiliary(module, other, layout["aux_names"]),
        ]
    parameters = (reached, row.parameters[1])
    total = (sum(each.numel() for each in module.parameters()), row.total[1])
    ours = macs(module, row.macs_size, int(first["input_shape"][1]))
    theirs = row.macs[1]
    return replace(
        row,
        logits=main,
        other_size=other_size,
        auxiliary=max(auxiliary, key=share_of_limit, default=None),
        parameters=parameters,
        total=total,
        macs=(ours, theirs),
        note=note_of(layout, without_gradient),
        ok=all(each.ok for each in (main, other_size, *auxiliary))
        and len({*parameters}) == len({*total}) == 1
        and ours is not None
        and abs(ours - theirs) <= MACS_LIMIT * theirs,
    )


def note_of(layout: Layout, without_gradient: list[str]) -> str:
    notes = []
    if without_gradient:
        notes.append(f"without gradient in the authors' code too: {', '.join(without_gradient)}")
    for name, shape in layout.get("golden_shapes", {}).items():
        notes.append(f"counted with {name} of {by(shape)}")
    parts_of: dict[str, list[str]] = {}
    for part, (count, reason) in layout["unused"].items():
        parts_of.setdefault(reason, []).append(f"{part} ({count:,})")
    notes += [f"not here: {', '.join(parts)}, {reason}" for reason, parts in parts_of.items()]
    return "; ".join(notes)


def build(name: str, layout: Layout) -> "nn.Module":
    """Build the module with weights made from names, which are first checked to be the authors'."""
    import torch

    import segmodels
    from experiments.results.reference import weights_from_names

    arrays = weights_from_names.fill_layout(layout)
    if weights_from_names.weights_crc(arrays.values()) != layout["weights_crc32"]:
        raise ValueError("this numpy draws other weights than the authors' network was given")
    state = {key: torch.from_numpy(array.copy()) for key, array in arrays.items()}
    return segmodels.from_released(name, state)


def image_of(golden: "np.lib.npyio.NpzFile") -> "Tensor":
    import torch

    from experiments.results.reference import weights_from_names

    return torch.from_numpy(
        weights_from_names.make_input(str(golden["input_name"]), golden["input_shape"])
    )


def logits_of(module: "nn.Module", golden: "np.lib.npyio.NpzFile") -> "Tensor":
    image = image_of(golden)
    shape = tuple(golden["main_shape"])
    is_classifier = len(shape) == 2
    if is_classifier or shape[-2:] == image.shape[-2:]:
        logits = module(image)
    else:
        logits = enlarged(module.logits(image), shape, module.align_corners)
    if logits.shape != shape:
        raise ValueError(f"logits are {tuple(logits.shape)}, the authors' {shape}")
    return logits


def count_reached(module: "nn.Module", logits: "Tensor") -> tuple[int, list[str]]:
    """Count the parameters that the logits depend on, those without a gradient by the paper's
    design included, which are named.
    """
    from segmodels.paper import gradient_leaves

    reached = gradient_leaves(logits)
    unreached = {name for name, each in module.named_parameters() if each not in reached}
    spared = [name for name in getattr(module, "without_gradient", ()) if name in unreached]
    unreached -= {*spared}
    counts = [each.numel() for name, each in module.named_parameters() if name not in unreached]
    return sum(counts), spared


def compare_logits(logits: "Tensor", golden: "np.lib.npyio.NpzFile") -> Difference:
    step = int(golden["stride"])
    sample = logits[:, ::step] if logits.ndim == 2 else logits[:, :, ::step, ::step]
    return difference(by(golden["input_shape"][2:]), sample, golden["main"], golden)


def compare_auxiliary(
    module: "nn.Module", golden: "np.lib.npyio.NpzFile", ours: dict[str, str]
) -> list[Difference]:
    """Compare every auxiliary output of the authors', enlarged as theirs is.

    `ours` are our names of theirs; we may have no others.
    """
    from segmodels.paper import on_meta

    if not hasattr(module, "outputs"):  # a classifier
        return []
    image = image_of(golden)
    # Where nothing is to be compared but names, nothing is computed.
    outputs = module.outputs(image) if ours else on_meta(module).outputs(image.to("meta"))
    if extra := set(outputs) - {"main"} - set(ours.values()):
        raise ValueError(f"the authors have no auxiliary output {', '.join(sorted(extra))}")
    if not ours:
        return []
    main = enlarged(outputs["main"], tuple(golden["main_shape"]), module.align_corners)
    outputs["log_softmax(main)"] = main.log_softmax(1)
    differences = []
    for name in sorted(ours):
        sample = golden[f"aux/{name}/sample"]
        step = int(golden[f"aux/{name}/sample_flat_stride"])
        shape = tuple(golden[f"aux/{name}/shape"])
        output = enlarged(outputs[ours[name]], shape, module.align_corners).flatten()
        label = f"{ours[name]} ({name})"
        differences.append(difference(label, output[::step][: len(sample)], sample, golden))
    return differences


def enlarged(logits: "Tensor", shape: tuple[int, ...], align_corners: bool) -> "Tensor":
    """Logits at the authors' size: some enlarge theirs by a whole factor, so that at an odd size of
    the image they have another one.
    """
    import torch.nn.functional as F

    return F.interpolate(logits, shape[-2:], mode="bilinear", align_corners=align_corners)


def share_of_limit(difference: Difference) -> float:
    return difference.error / difference.limit


def difference(
    output: str, ours: "Tensor", theirs: "np.ndarray", golden: "np.lib.npyio.NpzFile"
) -> Difference:
    error = abs(ours.detach().numpy() - theirs).max()
    limit = max(20 * golden["max_abs_diff_vs_float64"], 2e-5 * abs(theirs).max())
    return Difference(output, float(error), float(limit))


# --- tables

COLUMNS = {
    "layout": "left",
    "authors' code": "left",
    "logits: error < limit": "right",
    "another size": "right",
    "auxiliary outputs": "right",
    "inference parameters": "right",
    "all parameters": "right",
    "MACs": "right",
    "verdict": "left",
}


def cells(row: Fidelity) -> list[str]:
    """A row's cells, in the order of COLUMNS."""
    is_hash = len(row.commit) == 40
    commit = row.commit[:7] if is_hash else row.commit.split(" (")[0]
    other_size = f"{row.other_size} @ {row.other_size.output}" if row.other_size else "-"
    return [
        row.name,
        f"{row.source} {commit}",
        str(row.logits or "-"),
        other_size,
        str(row.auxiliary or "-"),
        in_words(row.parameters),
        in_words(row.total),
        f"{in_words(row.macs)} @ {by(row.macs_size)}",
        "equal" if row.ok else "FAILS",
    ]


def in_words(pair: Pair) -> str:
    """One number where both are the same, else ours and theirs."""
    ours, theirs = ("-" if number is None else f"{number:,}" for number in pair)
    return ours if ours == theirs else f"{ours} (theirs {theirs})"


def print_rows(rows: list[Fidelity], markdown: bool) -> None:
    failed = [row.name for row in rows if not row.ok]
    table = [cells(row) for row in rows]
    if markdown:
        for row, line in zip(rows, table):
            line[-1] += f"; {row.note}" if row.note else ""
        print_markdown(COLUMNS, table)
    else:
        print_table(COLUMNS, table, failed)
        for row in rows:
            if row.note:
                print(f"{row.name}: {row.note}")
    not_equal = f"; not {', '.join(failed)}" if failed else ""
    equal = len(rows) - len(failed)
    print(f"{equal} of {len(rows)} layouts equal the authors'{not_equal}", file=sys.stderr)


# --- the stored table


def write(rows: list[Fidelity], file: Path) -> None:
    content = {
        "date": date.today().isoformat(),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "layouts": [asdict(row) for row in rows],
    }
    write_json(file, content)


def read(file: Path) -> list[Fidelity]:
    from pydantic import TypeAdapter

    if not file.is_file():
        raise UserError(f"there is no {file}; make it with: python experiments/fidelity.py")
    return TypeAdapter(list[Fidelity]).validate_python(json.loads(file.read_text())["layouts"])


# --- command line


def make_parser() -> Parser:
    parser = Parser(prog="fidelity.py", description=__doc__)
    parser.add_argument(
        "--only",
        metavar="TEXT",
        default="",
        help="layouts whose name contains TEXT; nothing is written",
    )
    parser.add_argument(
        "--stored", action="store_true", help="the table as it was written last; computes nothing"
    )
    parser.add_argument(
        "--format",
        choices=("text", "markdown"),
        default="text",
        help="text for a terminal (default), or for a file",
    )
    return parser


def layout_names(only: str) -> list[str]:
    """The layouts that the authors' numbers are kept of."""
    known = sorted(file.name.removesuffix(".json.gz") for file in RELEASED.glob("*.json.gz"))
    names = [name for name in known if only in name]
    if not names:
        raise UserError(f"no layout's name contains {only}; there are {', '.join(known)}")
    return names


@command(stopped="stopped; nothing was written")
def main(arguments: list[str] | None = None) -> int:
    args = make_parser().parse_args(arguments)
    names = layout_names(args.only)
    if args.stored:
        rows = [row for row in read(RESULT) if row.name in names]
    else:
        rows = []
        for number, name in enumerate(names, start=1):  # each takes seconds
            print(f"{number}/{len(names)} {name}", file=sys.stderr, flush=True)
            rows.append(compare(name))
    print_rows(rows, markdown=args.format == "markdown")
    if not args.only and not args.stored:
        write(rows, RESULT)
    return int(not all(row.ok for row in rows))


if __name__ == "__main__":
    sys.exit(run_main(main))
