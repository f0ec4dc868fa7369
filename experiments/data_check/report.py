"""What a check of a data set prints."""

from collections.abc import Iterator, Sequence
from typing import Any

SHOWN = 10  # sentences of one kind; unreadable files are all named


# --- what a person reads


def report(data: Any, splits: Sequence[Any], limit: int | None) -> None:
    from rich.table import Table

    from experiments.reports.terminal import console

    heads = ("split", "images", "official", "read", "size", "ignored", "mean (0 to 1)", "std")
    table = Table(
        *heads,
        title=f"{data.name}{f', {limit} images of a split' if limit else ''}",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for split in splits:
        count = "?" if split.source is None else str(len(split.source))
        colors = [
            " ".join(f"{value:.3f}" for value in values) if split.pixels else ""
            for values in (split.mean, split.std)
        ]
        table.add_row(
            split.name,
            count,
            str(split.official or ""),
            str(split.checked),
            sizes(split),
            percent(split.ignored_share()),
            *colors,
        )
    console().print(table)
    table = Table("class", "id", box=None, pad_edge=False, header_style="bold")
    for split in splits:
        table.add_column(f"{split.name} %", justify="right")
        table.add_column("images", justify="right")
    for train_id, name in enumerate(data.labels.names):
        cells = [
            cell
            for split in splits
            for cell in (percent(share(split, train_id)), str(split.frequencies.images[train_id]))
        ]
        table.add_row(plain(name), str(data.labels.ids[train_id]), *cells)
    console().print(table)
    for line in lines(data, splits, limit):
        print(line)


def lines(data: Any, splits: Sequence[Any], limit: int | None) -> Iterator[str]:
    for split in splits:
        total = max(int(split.values.sum()), 1)
        for kind, values in (("ignored", split.void), ("unknown", split.unknown)):
            if values:
                yield f"{split.name}: {kind} ids " + ", ".join(
                    f"{value} ({percent(pixels / total)} %)" for value, pixels in values.items()
                )
    first = splits[0]
    if first.name == "train" and first.ignored:
        part = f" (of {first.checked} images)" if limit else ""
        yield f"\nmedian-frequency weights{part}:\n  {pasted(first.median_frequency())}"
        yield f"1 / ln(1.1 + share), as ERFNet{part}:\n  {pasted(first.inverse_log())}"


def pasted(weights: Sequence[float]) -> str:
    """As run.py takes them."""
    return "recipe.class_weights=" + ",".join(f"{weight:.4g}" for weight in weights)


def share(split: Any, train_id: int) -> float:
    return split.labelled[train_id] / max(split.labelled.sum(), 1)


def percent(part: float) -> str:
    """Nothing at all is told from very little."""
    return f"{100 * part:.2f}" if part else "-"


def plain(name: str) -> str:
    from rich.markup import escape

    return escape(name)


def sizes(split: Any) -> str:
    """Height x width, the most frequent first."""
    shown = [
        f"{height}x{width}" + (f" ({count})" if len(split.sizes) > 1 else "")
        for (height, width), count in split.sizes.most_common(3)
    ]
    if len(split.sizes) > 3:
        least, most = (pick(split.sizes, key=lambda size: size[0] * size[1]) for pick in (min, max))
        shown.append(
            f"{len(split.sizes) - 3} more from {least[0]}x{least[1]} to {most[0]}x{most[1]}"
        )
    return ", ".join(shown)


def say(findings: Sequence[Any]) -> None:
    """Every sentence; of one kind only the first ones, but for files that cannot be read."""
    for problem, head in ((False, "look"), (True, "problem")):
        groups: dict[tuple[str, str], list[str]] = {}
        for finding in findings:
            if finding.problem == problem:
                groups.setdefault((finding.split, finding.kind), []).append(finding.sentence)
        for (split, kind), sentences in groups.items():
            shown = sentences if kind == "file" else sentences[:SHOWN]
            print("\n".join(f"{head}: {sentence}" for sentence in shown))
            if len(sentences) > len(shown):
                print(
                    f"{head}: {len(sentences) - len(shown)} more of this kind in {split}; --out FILE names them all"
                )


def ending(splits: Sequence[Any], problems: int, others: int) -> str:
    read = " + ".join(f"{split.checked} {split.name}" for split in splits)
    looks = f", {counted(others, 'thing')} to look at" if others else ""
    return (
        f"{read} images read: {counted(problems, 'problem') if problems else 'no problem'}{looks}"
    )


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def content(splits: Sequence[Any]) -> dict[str, Any]:
    """For other programs."""
    from dataclasses import asdict

    train = next((split for split in splits if split.name == "train" and split.ignored), None)
    findings = [asdict(finding) for split in splits for finding in split.findings]
    return {
        "splits": {split.name: split.summary() for split in splits},
        "weights": {
            "median_frequency": train.median_frequency(),
            "inverse_log": train.inverse_log(),
        }
        if train
        else None,
        "problems": [each for each in findings if each["problem"]],
        "look": [each for each in findings if not each["problem"]],
    }
