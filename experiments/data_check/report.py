"""The tables and sentences that a data check prints."""

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from experiments.command_line.parser import by
from experiments.reports.number_formats import bare_table, console, plural
from experiments.reports.paper_table import grouped

if TYPE_CHECKING:
    from datamodules.labels import LabelSet
    from datamodules.module import SegmentationData
    from experiments.data_check.findings import Finding, Split

SHOWN = 10  # sentences of one kind; unreadable files are all named


def print_report(data: "SegmentationData", splits: "Sequence[Split]", limit: int | None) -> None:
    heads = ("split", "images", "official", "read", "size", "ignored", "mean (0 to 1)", "std")
    table = bare_table(*heads)
    table.title = f"{data.name}, {limit} images of a split" if limit else data.name
    for split in splits:
        count = "?" if split.source is None else len(split.source)
        colors = map(decimals, split.mean_and_std()) if split.digests else ("", "")
        ignored = percent(split.ignored_share)
        official = split.official or ""
        cells = (split.name, count, official, split.checked, sizes(split), ignored, *colors)
        table.add_row(*map(str, cells))
    console().print(table)
    print_classes(data, splits)
    print_ids(splits)
    print_weights(splits, limit)


def print_classes(data: "SegmentationData", splits: "Sequence[Split]") -> None:
    from rich.text import Text

    heads, rows = class_table(data.labels, splits)
    table = bare_table(*heads[:2])
    for head in heads[2:]:
        table.add_column(head, justify="right")
    for cells in rows:
        table.add_row(*map(Text, cells))
    console().print(table)


def class_table(
    labels: "LabelSet", splits: "Sequence[Split]"
) -> tuple[list[str], list[Sequence[str]]]:
    """Heads, and a row of cells for each class."""
    heads = ["class", "id"]
    columns = [labels.names, map(str, labels.ids)]
    for split in splits:
        heads += [f"{split.name} %", "images"]
        columns += [map(percent, split.shares()), map(str, split.frequencies.images)]
    return heads, [*zip(*columns)]


def print_ids(splits: "Sequence[Split]") -> None:
    for split in splits:
        total = max(int(split.values.sum()), 1)
        for kind, values in (("ignored", split.void), ("unknown", split.unknown)):
            shares = [f"{value} ({percent(count / total)} %)" for value, count in values.items()]
            if shares:
                print(f"{split.name}: {kind} ids {', '.join(shares)}")


def print_weights(splits: "Sequence[Split]", limit: int | None) -> None:
    from experiments.data_check.findings import weighed

    if train := weighed(splits):
        weights = train.weights()
        part = f" (of {train.checked} images)" if limit else ""
        print(f"\nmedian-frequency weights{part}:\n  {override(weights['median_frequency'])}")
        print(f"1 / ln(1.1 + share), as ERFNet{part}:\n  {override(weights['inverse_log'])}")


def override(weights: Sequence[float]) -> str:
    """The option that run.py takes."""
    return "recipe.class_weights=" + ",".join(f"{weight:.4g}" for weight in weights)


def decimals(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def percent(share: float) -> str:
    """A share in percent; none at all is "-", so that it differs from a very small one."""
    return f"{100 * share:.2f}" if share else "-"


def sizes(split: "Split") -> str:
    """Height x width, the most frequent first."""
    if len(split.sizes) == 1:
        return by(*split.sizes)
    counts = [f"{by(size)} ({count})" for size, count in split.sizes.most_common(3)]
    if len(split.sizes) > 3:
        smallest, *_, largest = sorted(split.sizes, key=math.prod)
        counts.append(f"{len(split.sizes) - 3} more from {by(smallest)} to {by(largest)}")
    return ", ".join(counts)


def print_findings(findings: "Sequence[Finding]") -> None:
    """Every sentence; of one kind only the first ones, but for files that cannot be read."""
    by_kind = grouped(findings, attrgetter("problem", "split", "kind"))
    for (problem, split, kind), same in sorted(by_kind.items(), key=lambda group: group[0][0]):
        head = "problem" if problem else "look"
        shown = len(same) if kind == "file" else SHOWN
        for finding in same[:shown]:
            print(f"{head}: {finding.sentence}")
        if len(same) > shown:
            more = len(same) - shown
            print(f"{head}: {more} more of this kind in {split}; --out FILE names them all")


def summary_line(splits: "Sequence[Split]") -> str:
    read = " + ".join(f"{split.checked} {split.name}" for split in splits)
    certain = [finding.problem for finding in findings_of(splits)]
    problems = plural(certain.count(True), "problem") if any(certain) else "no problem"
    sentence = f"{read} images read: {problems}"
    if all(certain):
        return sentence
    return f"{sentence}, {plural(certain.count(False), 'thing')} to look at"


def findings_of(splits: "Sequence[Split]") -> "list[Finding]":
    return [finding for split in splits for finding in split.findings]
