"""The tables and sentences that a data check prints."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules.module import SegmentationData
    from experiments.data_check.findings import Finding, Split

SHOWN = 10  # sentences of one kind; unreadable files are all named


def print_report(data: "SegmentationData", splits: "Sequence[Split]", limit: int | None) -> None:
    of = f", {limit} images of a split" if limit else ""
    heads = ("split", "images", "official", "read", "size", "ignored", "mean (0 to 1)", "std")
    rows = []
    for split in splits:
        count = "?" if split.source is None else len(split.source)
        colors = ["", ""]
        if split.pixels:
            colors = [" ".join(f"{value:.3f}" for value in values) for values in split.colors]
        ignored = percent(split.ignored_share)
        official = split.official or ""
        rows.append((split.name, count, official, split.checked, sizes(split), ignored, *colors))
    print_table(heads, rows, f"{data.name}{of}")
    heads = ["class", "id"]
    rows = [*zip(data.labels.names, data.labels.ids)]
    for split in splits:
        heads += [f"{split.name} %", "images"]
        numbers = zip(map(percent, split.shares()), split.frequencies.images)
        rows = [(*row, *cells) for row, cells in zip(rows, numbers)]
    print_table(heads, rows, right=range(2, len(heads)))
    for line in ids_and_weights(splits, limit):
        print(line)


def print_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[object]],
    title: str | None = None,
    right: Sequence[int] = (),
) -> None:
    """`right` are the columns that are set to the right."""
    from rich.table import Table
    from rich.text import Text

    from experiments.reports.formats import console

    table = Table(title=title, box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number in right else "left")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console().print(table)


def ids_and_weights(splits: "Sequence[Split]", limit: int | None) -> Iterator[str]:
    for split in splits:
        total = max(int(split.values.sum()), 1)
        for kind, values in (("ignored", split.void), ("unknown", split.unknown)):
            if values:
                shares = [
                    f"{value} ({percent(count / total)} %)" for value, count in values.items()
                ]
                yield f"{split.name}: {kind} ids {', '.join(shares)}"
    first = splits[0]
    if first.name == "train" and first.ignored:
        weights = first.weights()
        part = f" (of {first.checked} images)" if limit else ""
        yield f"\nmedian-frequency weights{part}:\n  {override(weights['median_frequency'])}"
        yield f"1 / ln(1.1 + share), as ERFNet{part}:\n  {override(weights['inverse_log'])}"


def override(weights: Sequence[float]) -> str:
    """The words that run.py takes."""
    return "recipe.class_weights=" + ",".join(f"{weight:.4g}" for weight in weights)


def percent(share: float) -> str:
    """Nothing at all is told from very little."""
    return f"{100 * share:.2f}" if share else "-"


def sizes(split: "Split") -> str:
    """Height x width, the most frequent first."""
    counts = [
        f"{height}x{width}" + (f" ({count})" if len(split.sizes) > 1 else "")
        for (height, width), count in split.sizes.most_common(3)
    ]
    if len(split.sizes) > 3:
        by_area = sorted(split.sizes, key=lambda size: size[0] * size[1])
        least, most = ("{}x{}".format(*size) for size in (by_area[0], by_area[-1]))
        counts.append(f"{len(split.sizes) - 3} more from {least} to {most}")
    return ", ".join(counts)


def print_findings(findings: "Sequence[Finding]") -> None:
    """Every sentence; of one kind only the first ones, but for files that cannot be read."""
    groups: dict[tuple[bool, str, str], list[str]] = {}
    for finding in sorted(findings, key=lambda finding: finding.problem):
        group = (finding.problem, finding.split, finding.kind)
        groups.setdefault(group, []).append(finding.sentence)
    for (problem, split, kind), sentences in groups.items():
        head = "problem" if problem else "look"
        shown = len(sentences) if kind == "file" else SHOWN
        for sentence in sentences[:shown]:
            print(f"{head}: {sentence}")
        if len(sentences) > shown:
            more = len(sentences) - shown
            print(f"{head}: {more} more of this kind in {split}; --out FILE names them all")


def summary_line(splits: "Sequence[Split]") -> str:
    read = " + ".join(f"{split.checked} {split.name}" for split in splits)
    findings = [finding for split in splits for finding in split.findings]
    problems = sum(finding.problem for finding in findings)
    others = len(findings) - problems
    looks = f", {plural(others, 'thing')} to look at" if others else ""
    return f"{read} images read: {plural(problems, 'problem') if problems else 'no problem'}{looks}"


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
