"""Look at a data set before training on it: every file is read once, and whatever is wrong is said in a sentence of its own.

  python experiments/check_data.py --data camvid data.root=DIR
  python experiments/check_data.py --data folder data.root=DIR --out check.json --page check.html
  python experiments/check_data.py --data cityscapes data.root=DIR --splits val --limit 50      a quick look

It reads folders, zips, packs and the built-in streets. The exit code is 0 where nothing is wrong, 1 where problems were found, and 2
where the check could not begin.
"""

import argparse
import html
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import command_line as words
from experiments.command_line import Parser, Refused
from experiments.page import document, embedded, swatch
from experiments.writing import check_out, write_text

EPILOG = """\
problems                                    worth a look (they do not change the exit code)
  unreadable, truncated, 16-bit, RGBA         a number of images that is not the official one
  an image or a label alone, other sizes      all or unusually much or little ignored
  ids or colors that no class has             a class without a pixel
  train ids in place of ids, renumbered       the same image twice in a split
  palettes, 255 in place of a class
  the same image in two splits
"""
SHOWN = 10  # sentences of one kind; unreadable files are all named
MARKED, SAMPLES = 24, 8  # pictures on the page: of findings in all, of others a split
UNKNOWN = (255, 255, 255)  # no data set paints a class white


def parser() -> Parser:
    made = Parser(prog="check_data.py", description=__doc__, epilog=EPILOG)
    made.add_argument("--data", metavar="NAME", required=True, help="the data set, as in run.py")
    made.add_argument(
        "--splits",
        metavar="NAME,...",
        help="default: train, val and test, where their labels are public",
    )
    made.add_argument(
        "--limit", metavar="N", type=int, help="only N images of each split, spread over it"
    )
    made.add_argument(
        "--workers",
        metavar="N",
        type=int,
        default=0,
        help="threads that read (default: one per core)",
    )
    made.add_argument("--out", metavar="FILE", type=Path, help="also write everything as JSON")
    made.add_argument(
        "--page",
        metavar="FILE",
        type=Path,
        help="also write a page of pictures (HTML, one file), suspicious ones first",
    )
    made.add_argument(
        "overrides",
        nargs="*",
        metavar="data.name=value",
        help="options of the data set, such as data.root=DIR",
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_intermixed_args(arguments)
    try:
        return check(asked)
    except Refused as problem:
        return words.refuse(problem)
    except KeyboardInterrupt:
        print("\nstopped; nothing was written", file=sys.stderr)
        return 130


def check(asked: argparse.Namespace) -> int:
    import datamodules
    from datamodules import DataError
    from datamodules.loader import cores
    from experiments.checking import compare, look
    from experiments.runs import write_json

    for name, number, least in (("--limit", asked.limit, 1), ("--workers", asked.workers, 0)):
        if number is not None and number < least:
            raise Refused(f"{name} {number}: it is a whole number from {least} up")
    for flag, file in (("--out", asked.out), ("--page", asked.page)):
        if file:
            check_out(file, flag)
    name = words.named("data set", asked.data, list(words.catalogue()["data"]))
    options = words.data_options(name, asked.overrides)
    try:
        data = getattr(datamodules, datamodules.names()[name])(**options)
        splits = opened(data, asked.splits)
    except DataError as problem:
        return words.refuse(problem)
    for split in splits:
        look(split, asked.limit, asked.workers or cores())
    compare(splits)
    findings = [finding for split in splits for finding in split.findings]
    report(data, splits, asked.limit)
    say(findings)
    if asked.out:
        write_json(
            asked.out,
            {"schema": 1, "data": name, "options": options, "limit": asked.limit} | content(splits),
        )
    if asked.page:
        write_text(asked.page, page(data, splits), errors="replace")
    problems = sum(finding.problem for finding in findings)
    print(ending(splits, problems, len(findings) - problems))
    return 1 if problems else 0


def opened(data: Any, asked: str | None) -> list[Any]:
    """The splits with their listings. One that cannot be listed is a problem of its own where another can; test need not be there."""
    from datamodules import DataError
    from experiments.checked import SPLITS, Split
    from experiments.checking import listed

    if data.layout:
        _ = data.root  # refuses here what is no folder
    names = asked.split(",") if asked else [name for name in SPLITS if name not in data.hidden]
    if unknown := [name for name in names if name not in SPLITS]:
        raise Refused(f"--splits {unknown[0]}: there are {', '.join(SPLITS)}")
    splits, failed = [], []
    for name in dict.fromkeys(names):
        try:
            splits.append(listed(data, name))
        except (DataError, OSError) as problem:
            if asked or name != "test":
                failed.append((name, problem))
    if failed and (not splits or any(name in data.hidden for name, _ in failed)):
        raise DataError(str(failed[0][1]))
    for name, problem in failed:
        splits.append(Split(name, data.labels))
        splits[-1].found("listing", str(problem))
    return splits


# --- what a person reads


def report(data: Any, splits: Sequence[Any], limit: int | None) -> None:
    from rich.table import Table

    from experiments.tables import console

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


# --- the page of pictures


STYLE = """
figure { margin: 0 0 1.2rem; max-width: 100% } figure img { max-width: 32%; height: auto; vertical-align: top }
"""


def page(data: Any, splits: Sequence[Any]) -> str:
    """Sentences, classes, and pictures, suspicious ones first."""
    return document(
        f"{data.name}: check of the data",
        [*sentences(splits), *classes(data, splits), *pictures(data, splits)],
        STYLE,
    )


def sentences(splits: Sequence[Any]) -> Iterator[str]:
    findings = sorted(
        (finding for split in splits for finding in split.findings),
        key=lambda finding: not finding.problem,
    )
    problems = sum(finding.problem for finding in findings)
    yield f"<p>{html.escape(ending(splits, problems, len(findings) - problems))}</p><ul>"
    for finding in findings[:200]:
        yield f"<li{' class=wrong' * finding.problem}>{html.escape(finding.sentence)}</li>"
    yield "</ul>" + (f"<p>and {len(findings) - 200} more</p>" if len(findings) > 200 else "")


def classes(data: Any, splits: Sequence[Any]) -> Iterator[str]:
    """Legend and frequencies in one table."""
    heads = "".join(f"<th>{split.name} %</th><th></th><th>images</th>" for split in splits)
    yield f'<h2>Classes</h2><div class="scroll"><table><tr><th>class</th><th>id</th>{heads}</tr>'
    for train_id, name in enumerate(data.labels.names):
        cells = ""
        for split in splits:
            part = share(split, train_id)
            bar = f'<span class="bar" style="width:{150 * part:.1f}px"></span>'
            cells += f'<td>{percent(part)}</td><td style="text-align:left">{bar}</td><td>{split.frequencies.images[train_id]}</td>'
        yield f"<tr><td>{swatch(data.labels.palette[train_id])}{html.escape(name)}</td><td>{data.labels.ids[train_id]}</td>{cells}</tr>"
    yield "</table></div>"
    yield f"<p>{swatch((0, 0, 0))}ignored (the overlay shows the image there) &nbsp; {swatch(UNKNOWN)}an unknown id</p>"


def pictures(data: Any, splits: Sequence[Any]) -> Iterator[str]:
    """Findings that have a picture, problems first; then samples of every split."""
    marked: dict[tuple[str, int], list[Any]] = {}
    found = [
        (split, finding)
        for split in splits
        for finding in split.findings
        if finding.index is not None
    ]
    for split, finding in sorted(found, key=lambda each: not each[1].problem):
        marked.setdefault((split.name, finding.index), []).append(finding)
    by_name = {split.name: split for split in splits}
    if marked:
        yield f"<h2>Suspicious ({min(len(marked), MARKED)} of {len(marked)})</h2>"
    for (name, index), findings in [*marked.items()][:MARKED]:
        yield figure(data, by_name[name], index, findings)
    for split in splits:
        others = [index for index in split.ignored if (split.name, index) not in marked]
        if others:
            yield f"<h2>{split.name}</h2>"
        for number in range(min(SAMPLES, len(others))):
            yield figure(data, split, others[number * len(others) // min(SAMPLES, len(others))], [])


def figure(data: Any, split: Any, index: int, findings: Sequence[Any]) -> str:
    """Image, overlay and label side by side, as far as they can be read."""
    from experiments.checked import place
    from experiments.checking import read
    from experiments.pictures import overlay

    sample = read(split.source, data.labels, index)
    shown = []
    if sample.image is not None:
        shown.append(("image", embedded(sample.image, smooth=True)))
    colors = label_colors(data, sample)
    if (
        sample.image is not None
        and sample.label is not None
        and sample.image.shape[:2] == sample.label.shape
    ):
        shown.append(
            (
                "overlay",
                embedded(overlay(sample.image, sample.label, data.labels.palette), smooth=True),
            )
        )
    if colors is not None:
        shown.append(("label", embedded(colors, smooth=False)))
    where = html.escape(f"{split.name}: {place(split.source, index)}")
    ignored = f", {split.ignored[index]:.0%} ignored" if index in split.ignored else ""
    said = "".join(
        f'<br><span class="{"wrong" if each.problem else ""}">{html.escape(each.sentence)}</span>'
        for each in findings
    )
    images = "\n".join(f'<img src="{address}" alt="{what}">' for what, address in shown)
    return f"<figure>{images}<figcaption>{where}{ignored}{said}</figcaption></figure>"


def label_colors(data: Any, sample: Any) -> Any:
    """The label in the classes' colors; what a file of unknown colors holds is shown as it is."""
    import numpy as np

    if sample.label is None:
        return sample.numbers
    colors = data.labels.color(sample.label)
    if sample.numbers is not None and sample.numbers.ndim == 2:
        unknown = np.array([value not in data.labels.known for value in range(256)])
        colors[unknown[sample.numbers]] = UNKNOWN
    return colors


if __name__ == "__main__":
    sys.exit(main())
