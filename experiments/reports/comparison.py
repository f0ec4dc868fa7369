"""Two judgements of the same images: which network is better, on which classes and images, and whether that could be chance."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from experiments.command_line.errors import UserError
from experiments.records.results import check_result, read_json
from experiments.reports.protocols import protocol_name
from experiments.reports.table_rows import model_words, name_of

DRAWS = 10_000
WORST = 5  # images that are named
READING = """\
Scores are in percent, differences (A - B) in percentage points. [ ] holds 95 % of {draws} bootstrap draws of images. p is the share of
{draws} random swaps (seed {seed}), image by image, of the two networks' predictions that give a difference as large; p of the classes is
corrected by Holm for {classes} classes at once. An image's own mIoU is over the classes that its truth shows. All this is the chance of
images: that of training shows only in several seeds.
"""


@dataclass(frozen=True)
class Judged:
    """An evaluation and what it kept of every image."""

    file: Path
    result: dict
    records: Any  # experiments.examined.Examined


def compare(first: Path, second: Path) -> str:
    """The comparison as text; what cannot be compared is refused."""
    a, b = judged(first), judged(second)
    check_alike(a, b)
    from segmodels.metrics.comparison import paired

    try:
        found = paired(a.records.confusions, b.records.confusions, draws=DRAWS)
    except ValueError as problem:
        raise UserError(f"{a.file} and {b.file} cannot be compared: {problem}") from None
    return as_text(a, b, found)


# --- reading


def judged(file: Path) -> Judged:
    """An evaluation with the records beside it."""
    from experiments.records.image_records import load

    file = file / "result.json" if file.is_dir() else file
    result = read_json(file)
    check_result(result, file)
    records = file.parent / result["records"] if result.get("records") else file.with_suffix(".npz")
    if not records.is_file():
        raise UserError(
            f"{file} has no {records.name} beside it, which says what each image gave; judge it again with evaluate.py"
        )
    try:
        with records.open("rb") as stored:
            return Judged(file, result, load(stored))
    except (BadZipFile, ValueError, OSError, KeyError, TypeError) as problem:
        raise UserError(
            f"{records} cannot be read ({problem}); judge the checkpoint again with evaluate.py"
        ) from None


def check_alike(a: Judged, b: Judged) -> None:
    """Only the same images with the same classes can be paired."""
    for what in ("data", "split"):
        if a.result[what] != b.result[what]:
            kind = f"{what} {a.result[what]} and {b.result[what]}"
            raise UserError(
                f"{a.file} and {b.file} are of different {kind}; judge both on the same one with evaluate.py"
            )
    if list(a.records.classes) != list(b.records.classes):
        raise UserError(
            f"{a.file} and {b.file} tell different classes apart; compare networks that were trained on the same ones"
        )
    if list(a.records.names) != list(b.records.names):
        counts = f"{len(a.records.names)} and {len(b.records.names)}, {len(set(a.records.names) & set(b.records.names))} in common"
        raise UserError(
            f"{a.file} and {b.file} saw different images ({counts}); judge both on the same copy of the data"
        )


def warnings(a: Judged, b: Judged) -> list[str]:
    """What beside the networks may make the difference."""
    pairs = {what: (a.result[what], b.result[what]) for what in ("protocol", "precision")}
    pairs["protocol"] = tuple(protocol_name(each, a.result["data"]) for each in pairs["protocol"])
    pairs["option"] = tuple(model_words(each.result) or "as trained" for each in (a, b))
    return [
        f"careful: the {what}s differ (A {first}, B {second}), so a difference is not the networks' alone"
        for what, (first, second) in pairs.items()
        if first != second
    ]


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's correction (Scandinavian Journal of Statistics, 1979); None stays None and is not counted."""
    order = sorted(
        (index for index, p in enumerate(ps) if p is not None), key=lambda index: ps[index]
    )
    corrected: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * ps[index]))
        corrected[index] = least
    return corrected


# --- words


def as_text(a: Judged, b: Judged, found: Any) -> str:
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=160, highlight=False)
    for line in [*heading(a, b, found), *warnings(a, b), ""]:
        console.print(line, markup=False, soft_wrap=True)
    console.print(class_table(a, b, found), "", image_table(a, b, found), "")
    known = sum(p is not None for p in found.class_ps)
    console.print(
        READING.format(draws=found.draws, seed=found.seed, classes=known).strip(),
        markup=False,
        soft_wrap=True,
    )
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def heading(a: Judged, b: Judged, found: Any) -> list[str]:
    (ours, _), (theirs, _) = scored(a), scored(b)
    difference = f"{signed(found.difference)} {between(found.interval)}"
    return [
        *(f"{letter}        {described(each)}" for letter, each in (("A", a), ("B", b))),
        f"on       {len(a.records.names)} images of {a.result['data']} {a.result['split']}",
        f"mIoU     A {percent(ours)}, B {percent(theirs)}, A - B {difference}, p {found.p:.4f}",
        f"images   A is better on {found.wins}, B on {found.losses}, alike on {found.ties}",
    ]


def described(each: Judged) -> str:
    result = each.result
    seed = "" if result.get("released") else f", seed {result['seed']}"
    return f"{name_of(result)}{seed}, {protocol_name(result['protocol'], result['data'])}, {result['precision']} ({each.file})"


def scored(each: Judged) -> tuple[float, list[float | None]]:
    """mIoU and IoU by class, out of the records themselves."""
    import torch

    from segmodels.metrics import scores

    found = scores(torch.from_numpy(each.records.confusion))
    return found["miou"], found["iou"]


def class_table(a: Judged, b: Judged, found: Any) -> Any:
    table = frame("class", "IoU of A", "IoU of B", "A - B", "95 % interval", "p (Holm)")
    columns = (
        scored(a)[1],
        scored(b)[1],
        found.class_differences,
        found.class_intervals,
        holm(found.class_ps),
    )
    for name, ours, theirs, difference, interval, p in zip(a.records.classes, *columns):
        figures = (percent(ours), percent(theirs), signed(difference), between(interval))
        table.add_row(*cells(name, *figures, "-" if p is None else f"{p:.4f}"))
    return table


def image_table(a: Judged, b: Judged, found: Any) -> Any:
    from segmodels.metrics.comparison import image_scores

    table = frame(f"the {WORST} images that differ most", "mIoU of A", "mIoU of B", "A - B")
    scores = list(
        zip(
            a.records.names,
            image_scores(a.records.confusions),
            image_scores(b.records.confusions),
            found.image_differences,
        )
    )
    known = [each for each in scores if each[3] is not None]
    for name, ours, theirs, difference in sorted(known, key=lambda each: -abs(each[3]))[:WORST]:
        table.add_row(*cells(name, percent(ours), percent(theirs), signed(difference)))
    return table


def frame(first: str, *others: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold")
    for head in others:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def cells(*words: str) -> list[Any]:
    from rich.text import Text

    return [Text(word) for word in words]


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def between(interval: tuple[float, float] | None) -> str:
    return f"[{signed(interval[0])}, {signed(interval[1])}]" if interval else "-"


def signed(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.2f}"
