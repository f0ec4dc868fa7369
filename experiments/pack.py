"""Write a data set into packs, one file per split, from which crops are read many times faster than from PNG files. Nothing is lost.

  python experiments/pack.py --data cityscapes data.root=DIR --out PACKS
  python experiments/run.py  --model bisenet --data cityscapes data.root=PACKS
  python experiments/pack.py --verify PACKS                     every byte against its checksum
  python experiments/pack.py --stream PACKS --out STREAMS       for an object store; then copy STREAMS there and give data.root=s3://...

An interrupted run goes on where it stopped when the same command is given again, and writes the same bytes.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.progress import with_progress
from datamodules.sampling.threads import prefetch
from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.files import whole
from experiments.command_line.names import known_name
from experiments.command_line.overrides import data_options
from experiments.command_line.parser import Parser

EPILOG = """\
forms
  tiles   lossless, about 1.1 times the bytes of Cityscapes' PNGs; needs the package zstandard where it is written and read
  raw     plain pixels through a memory map, 3.8 times the bytes: the fastest, for those who have the disk

streams hold what the packs hold, need the package litdata, and are read with data.cache=DIR data.cache_gb=50 to keep what was read
"""


def parser() -> Parser:
    made = Parser(prog="pack.py", description=__doc__, epilog=EPILOG)
    made.add_argument("--data", metavar="NAME", help="the data set, as in run.py")
    made.add_argument(
        "--out", metavar="DIR", type=Path, help="where the packs go; later it is data.root"
    )
    made.add_argument("--form", choices=("tiles", "raw"), default="tiles", help="default: tiles")
    made.add_argument(
        "--splits", metavar="NAME,...", default="train,val", help="default: train,val"
    )
    made.add_argument(
        "--workers",
        metavar="N",
        type=int,
        default=0,
        help="threads that read and compress (default: one per core)",
    )
    made.add_argument(
        "--verify", metavar="DIR|FILE", type=Path, help="check packs that are there; writes nothing"
    )
    made.add_argument(
        "--stream",
        metavar="DIR",
        type=Path,
        help="packs that are there, to be written as streams into --out",
    )
    made.add_argument(
        "overrides",
        nargs="*",
        metavar="data.name=value",
        help="options of the data set, such as data.root=DIR",
    )
    return made


@command(stopped="stopped; the same command goes on from here")
def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_intermixed_args(arguments)
    if asked.verify:
        return verify(asked.verify)
    if asked.stream:
        return stream(asked.stream, asked.out)
    if not asked.data or not asked.out:
        raise UserError(
            "what, and where to? for example: --data cityscapes data.root=DIR --out PACKS"
        )
    return pack(asked)


def pack(asked: argparse.Namespace) -> int:
    import datamodules
    from datamodules.reading.sources import Files

    known = catalogue()["data"]
    name = known_name("data set", asked.data, list(known))
    data = datamodules.dataset(name)(**data_options(name, asked.overrides))
    asked.out.mkdir(parents=True, exist_ok=True)
    for split in asked.splits.split(","):
        if split not in ("train", "val", "test"):
            raise UserError(f"--splits {split}: there are train, val and test")
        source = data.open(split)
        if not isinstance(source, Files):
            raise UserError(f"{name} {split} is not read from files, so there is nothing to pack")
        described = {"data": name, "split": split, "options": data.own_options()}
        pack_split(described, source, asked)
    if (listed := data.root / "classes.yaml").is_file():
        with whole(asked.out / listed.name) as partial:
            partial.write_bytes(listed.read_bytes())
    print(f"train with: --data {name} data.root={asked.out}")
    return 0


def stream(place: Path, out: Path | None) -> int:
    """Smallest first, because that is the order in which a cache is filled: validation images are read most often."""
    from datamodules.packs.format import Pack
    from datamodules.packs.stream import write

    if not out:
        raise UserError("where to? for example: --stream PACKS --out STREAMS")
    out.mkdir(parents=True, exist_ok=True)
    before = 0
    for file in sorted(packs_in(place), key=lambda file: file.stat().st_size):
        target = out / f"{file.stem}.stream"
        if target.exists():
            raise UserError(f"{target} is there already; remove it, or give another --out")
        found = Pack(file)
        before += write(
            found,
            target,
            before,
            lambda images, name=file.stem: with_progress(images, f"streaming {name}"),
        )
        print(
            f"{target}: {len(found)} images, {sum(each.stat().st_size for each in target.iterdir()) / 2**20:.1f} MiB"
        )
    print(
        f"copy {out} to an object store and train with data.root=s3://BUCKET/PREFIX data.cache=DIR, or here with data.root={out}"
    )
    return 0


def pack_split(described: dict[str, Any], source: Any, asked: argparse.Namespace) -> None:
    from datamodules.packs import format
    from datamodules.sampling.loader import cores

    file = asked.out / f"{described['data']}-{described['split']}.pack"
    if file.exists():
        there = format.Pack(file, source.labels)
        same = all(there.description[key] == value for key, value in described.items())
        if there.names != tuple(source.names) or there.form != asked.form or not same:
            raise UserError(
                f"{file} holds other images, labels or another form; remove it, or give another --out"
            )
        print(f"{file} is there already: {len(there)} images")
        return

    def records(first: int) -> Iterator[bytes]:
        found = prefetch(
            partial(made, source, asked.form), range(first, len(source)), asked.workers or cores()
        )
        return with_progress(found, f"packing {described['split']}", len(source), first)

    format.write(file, described | {"form": asked.form}, source.names, records)
    print(
        f"{file}: {len(source)} images, {file.stat().st_size / 2**20:.1f} MiB{share(source, file)}"
    )


def share(source: Any, file: Path) -> str:
    """Of the original files' bytes, where they are files."""
    try:
        before = sum(Path(path).stat().st_size for pair in source.pairs for path in pair)
    except (AttributeError, OSError):
        return ""
    return f", {file.stat().st_size / before:.2f} times the files'"


def made(source: Any, form: str, index: int) -> bytes:
    """A record, with the numbers that the label file holds: the meaning of numbers may change, files do not."""
    from datamodules.packs.format import record

    numbers = source.numbers(index)
    if numbers.ndim == 3:  # painted in the palette's colors
        numbers = source.labels.decode(source.labels.encode_colors(numbers, source.names[index]))
    return record(source.names[index], source.image(index), numbers, form)


# --- what a person sees


def packs_in(place: Path) -> list[Path]:
    files = sorted(place.glob("*.pack")) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise UserError(
            f"{place} holds no .pack file; give the folder that pack.py wrote, or one pack"
        )
    return files


def verify(place: Path) -> int:
    files = packs_in(place)
    damaged = [line for file in files for line in verified(file)]
    for line in damaged:
        print(f"error: {line}", file=sys.stderr)
    return 2 if damaged else 0


def verified(file: Path) -> list[str]:
    """What is wrong with it, in sentences."""
    from datamodules import DataError
    from datamodules.packs import format

    try:
        found = format.Pack(file)
    except DataError as problem:
        return [str(problem)]
    wrong = found.verify(lambda images: with_progress(images, f"checking {file.name}"))
    print(f"{file}: {len(found)} images, {len(wrong)} damaged")
    return [f"{file} is damaged in {name}: pack this split again" for name in wrong]


if __name__ == "__main__":
    sys.exit(run_main(main))
