"""Write a data set into packs, one file per split, from which crops are read many times faster than
from PNG files. Nothing is lost.

  python experiments/pack.py --data cityscapes data.root=DIR --out PACKS
  python experiments/run.py --model bisenet --data cityscapes data.root=PACKS
  python experiments/pack.py --verify PACKS
      every byte against its checksum

An interrupted run goes on where it stopped when the same command is given again, and writes the
same bytes.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.files import check_makeable, write_text
from experiments.command_line.names import known_name
from experiments.command_line.overrides import data_options
from experiments.command_line.parser import Parser, count

if TYPE_CHECKING:
    from datamodules.reading.sources import Files

EPILOG = """\
forms
  tiles   lossless, about 1.1 times the bytes of Cityscapes' PNGs; needs the package zstandard where
          it is written and read
  raw     plain pixels through a memory map, 3.8 times the bytes: the fastest, for those who have
          the disk

packs are read out of a bucket too, if you copy them there: data.root=s3://BUCKET/PREFIX, with
data.cache=DIR data.cache_gb=50 to keep what was read; needs the package obstore
"""


def make_parser() -> Parser:
    parser = Parser(prog="pack.py", description=__doc__, epilog=EPILOG)
    parser.add_argument("--data", metavar="NAME", help="the data set, as in run.py")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="where the packs go; later it is data.root"
    )
    parser.add_argument("--form", choices=("tiles", "raw"), default="tiles", help="default: tiles")
    parser.add_argument(
        "--splits", metavar="NAME,...", default="train,val", help="default: train,val"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=count,
        default=0,
        help="threads that read and compress (default: one per core)",
    )
    parser.add_argument(
        "--verify", metavar="DIR|FILE", type=Path, help="check packs that are there; writes nothing"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="data.name=value",
        help="options of the data set, such as data.root=DIR",
    )
    return parser


@command(stopped="stopped; the same command goes on from here")
def main(arguments: list[str] | None = None) -> int:
    args = make_parser().parse_intermixed_args(arguments)
    if args.verify:
        return verify(args.verify)
    if not args.data or not args.out:
        raise UserError(
            "what, and where to? for example: --data cityscapes data.root=DIR --out PACKS"
        )
    check_makeable(args.out, "--out")
    return pack(args)


def pack(args: argparse.Namespace) -> int:
    import datamodules
    from datamodules.reading.sources import Files

    name = known_name("data set", args.data, list(catalogue()["data"]))
    data = datamodules.dataset(name)(**data_options(name, args.overrides))
    args.out.mkdir(parents=True, exist_ok=True)
    for split in args.splits.split(","):
        if split not in ("train", "val", "test"):
            raise UserError(f"--splits {split}: there are train, val and test")
        source = data.open(split)
        if not isinstance(source, Files):
            raise UserError(f"{name} {split} is not read from files, so there is nothing to pack")
        options = data.own_options()
        description = {"data": name, "split": split, "options": options, "form": args.form}
        pack_split(description, source, args)
    if name == "folder":
        write_text(args.out / "classes.yaml", data.classes_yaml())
    print(f"train with: --data {name} data.root={args.out}")
    return 0


def pack_split(description: dict[str, Any], source: "Files", args: argparse.Namespace) -> None:
    from datamodules.packs import format
    from datamodules.progress import with_progress
    from datamodules.thread_pools import cores, prefetch

    file = args.out / f"{description['data']}-{description['split']}.pack"
    if file.exists():
        there = format.Pack(file, source.labels)
        same = all(there.description[key] == value for key, value in description.items())
        if there.names != tuple(source.names) or not same:
            raise UserError(
                f"{file} holds other images, labels or another form; "
                "remove it, or give another --out"
            )
        print(f"{file} is there already: {len(there)} images")
        return

    def records(first: int) -> Iterator[bytes]:
        indices = range(first, len(source))
        made = prefetch(partial(record, source, args.form), indices, args.workers or cores())
        return with_progress(made, f"packing {description['split']}", len(source), first)

    format.write(file, description, source.names, records)
    size = file.stat().st_size
    try:
        before = sum(Path(path).stat().st_size for pair in source.pairs for path in pair)
        ratio = f", {size / before:.2f} times the files'"
    except OSError:  # they lie in a zip, or one file holds all polygons
        ratio = ""
    print(f"{file}: {len(source)} images, {size / 2**20:.1f} MiB{ratio}")


def record(source: "Files", form: str, index: int) -> bytes:
    """A record with the numbers of the label file: their meaning may change, files do not."""
    from datamodules.packs import format

    numbers = source.numbers(index)
    if numbers.ndim == 3:  # painted in the palette's colors
        numbers = source.labels.decode(source.labels.encode_colors(numbers, source.names[index]))
    return format.record(source.names[index], source.image(index), numbers, form)


# --- checking packs


def verify(place: Path) -> int:
    """Name, each in a sentence, all that is wrong with a pack or with the packs of a folder."""
    from datamodules import DataError
    from datamodules.packs.format import Pack
    from datamodules.progress import with_progress

    files = sorted(place.glob("*.pack")) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise UserError(
            f"{place} holds no .pack file; give the folder that pack.py wrote, or one pack"
        )
    problems = []
    for file in files:
        try:
            content = Pack(file)
        except DataError as problem:
            problems.append(str(problem))
            continue
        damaged = content.verify(with_progress(range(len(content)), f"checking {file.name}"))
        print(f"{file}: {len(content)} images, {len(damaged)} damaged")
        problems += [f"{file} is damaged in {name}: pack this split again" for name in damaged]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
