"""Compare two evaluations of the same images: by class, by image, and against chance."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.command_line.errors import UserError
from experiments.records.results import Result, read_result
from experiments.reports.number_formats import between, percent, printed_text
from experiments.reports.protocol_names import protocol_name
from experiments.reports.published_figures import model_words, name_of

if TYPE_CHECKING:
    from experiments.records.image_records import Examined
    from segmodels.metrics.bootstrap import Comparison

DRAWS = 10_000
WORST = 5  # images that are named
READING = (
    "Scores are in percent, differences (A - B) in percentage points. [ ] holds 95 % of {draws} "
    "bootstrap draws of images. p is the share of\n{draws} random swaps (seed {seed}), image by "
    "image, of the two networks' predictions that give a difference as large; p of the classes is\n"
    "corrected by Holm for {classes} classes at once. An image's own mIoU is over the classes that "
    "its truth shows. All this is the chance of\nimages: that of training shows only in several "
    "seeds."
)


points = partial(percent, sign="+")  # a difference of fractions


@dataclass(frozen=True)
class Evaluation:
    """A result and what it kept of every image."""

    file: Path
    result: Result
    records: "Examined"


def compare(first: Path, second: Path) -> str:
    """The comparison as text; what cannot be compared is refused."""
    a, b = read_evaluation(first), read_evaluation(second)
    check_same_images(a, b)
    from segmodels.metrics.bootstrap import paired

    try:
        comparison = paired(a.records.confusions, b.records.confusions, draws=DRAWS)
    except ValueError as problem:
        raise UserError(f"{a.file} and {b.file} cannot be compared: {problem}") from None
    return as_text(a, b, comparison)


# --- reading


def read_evaluation(file: Path) -> Evaluation:
    """A result with the records beside it."""
    from experiments.records.image_records import load

    file = file / "result.json" if file.is_dir() else file
    result = read_result(file)
    records = file.parent / result.records if result.records else file.with_suffix(".npz")
    if not records.is_file():
        raise UserError(
            f"{file} has no {records.name} beside it, which says what each image gave; "
            "evaluate it again"
        )
    try:
        with records.open("rb") as stored:
            return Evaluation(file, result, load(stored))
    except (BadZipFile, ValueError, OSError, KeyError, TypeError) as problem:
        raise UserError(
            f"{records} cannot be read ({problem}); evaluate the checkpoint again"
        ) from None


def check_same_images(a: Evaluation, b: Evaluation) -> None:
    """Only the same images with the same classes can be paired."""
    both = f"{a.file} and {b.file}"
    for name in ("data", "split"):
        values = [getattr(each.result, name) for each in (a, b)]
        if values[0] != values[1]:
            raise UserError(
                f"{both} are of different {name} {' and '.join(values)}; "
                "evaluate both on the same one"
            )
    ours, theirs = a.records, b.records
    if list(ours.classes) != list(theirs.classes):
        raise UserError(
            f"{both} have different classes; compare networks that were trained on the same ones"
        )
    if list(ours.names) != list(theirs.names):
        common = len(set(ours.names) & set(theirs.names))
        counts = f"{len(ours.names)} and {len(theirs.names)}, {common} in common"
        raise UserError(
            f"{both} saw different images ({counts}); evaluate both on the same copy of the data"
        )


def warnings(a: Result, b: Result) -> list[str]:
    """What beside the networks may make the difference."""
    pairs = {
        "protocol": [protocol_name(each.protocol, a.data) for each in (a, b)],
        "precision": [a.precision, b.precision],
        "option": [model_words(each.model) or "as trained" for each in (a, b)],
    }
    return [
        f"careful: the {name}s differ (A {first}, B {second}), "
        "so a difference is not the networks' alone"
        for name, (first, second) in pairs.items()
        if first != second
    ]


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's correction (Scandinavian Journal of Statistics, 1979).

    None stays None and is not counted.
    """
    known = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, (p, index) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        corrected[index] = least
    return corrected


# --- as text


def as_text(a: Evaluation, b: Evaluation, comparison: "Comparison") -> str:
    out = Console(file=io.StringIO(), width=160, highlight=False)
    ours, theirs = scores_of(a), scores_of(b)
    heading = [
        f"A        {described(a)}",
        f"B        {described(b)}",
        f"on       {len(a.records.names)} images of {a.result.data} {a.result.split}",
        f"mIoU     A {percent(ours['miou'])}, B {percent(theirs['miou'])}, "
        f"A - B {points(comparison.difference)} {between(comparison.interval, sign='+')}, "
        f"p {comparison.p:.4f}",
        f"images   A is better on {comparison.wins}, B on {comparison.losses}, "
        f"alike on {comparison.ties}",
    ]
    for line in [*heading, *warnings(a.result, b.result), ""]:
        out.print(line, markup=False, soft_wrap=True)
    classes = zip(
        a.records.classes,
        map(percent, ours["iou"]),
        map(percent, theirs["iou"]),
        map(points, comparison.class_differences),
        (between(each, sign="+") for each in comparison.class_intervals),
        ("-" if p is None else f"{p:.4f}" for p in holm(comparison.class_ps)),
    )
    heads = ("class", "IoU of A", "IoU of B", "A - B", "95 % interval", "p (Holm)")
    out.print(score_table(heads, classes), "")
    heads = (f"the {WORST} images that differ most", "mIoU of A", "mIoU of B", "A - B")
    out.print(score_table(heads, worst_images(a, b, comparison)), "")
    counted = sum(p is not None for p in comparison.class_ps)
    words = READING.format(draws=comparison.draws, seed=comparison.seed, classes=counted)
    out.print(words, markup=False, soft_wrap=True)
    return printed_text(out)


def worst_images(a: Evaluation, b: Evaluation, comparison: "Comparison") -> list[Sequence[str]]:
    """Name, both scores and their difference, of the images with the largest differences."""
    from segmodels.metrics.bootstrap import image_scores

    ours, theirs = image_scores(a.records.confusions), image_scores(b.records.confusions)
    images = zip(comparison.image_differences, a.records.names, ours, theirs)
    known = [image for image in images if image[0] is not None]
    known.sort(key=lambda image: -abs(image[0]))
    return [
        (name, percent(one), percent(other), points(difference))
        for difference, name, one, other in known[:WORST]
    ]


def described(evaluation: Evaluation) -> str:
    result = evaluation.result
    seed = "" if result.released else f", seed {result.seed}"
    protocol = protocol_name(result.protocol, result.data)
    return f"{name_of(result)}{seed}, {protocol}, {result.precision} ({evaluation.file})"


def scores_of(evaluation: Evaluation) -> dict[str, Any]:
    """mIoU, IoU by class and more, out of the records themselves."""
    import torch

    from segmodels.metrics import scores

    return scores(torch.from_numpy(evaluation.records.confusion))


def score_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(heads[0], overflow="fold")
    for head in heads[1:]:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
