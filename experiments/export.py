"""Write a network alone to an ONNX file: no training heads, batch norm inside its convolutions.

    python experiments/export.py runs/bisenet-... --size 512x1024 --out bisenet.onnx
    python experiments/export.py runs/bisenet-... --size any --out bisenet.onnx
    python experiments/export.py CHECKPOINT --size 512x1024 --out bisenet.onnx --uint8 --argmax
    python experiments/export.py runs/emanet-... --size 513x513 --out a.onnx model.eval_iterations=5
    python experiments/export.py --model bisenet/xception39 --size 512x1024 --check
        writes nothing
    python experiments/export.py --model "stdc/*" --check
        several rows
    python experiments/export.py --check
        every row of the catalogue

A file is kept only if onnxruntime computes from it what the module computes; it refuses every size
but its own. With --size any it takes batches of images of every size, and is compared at six odd
ones; a network that cannot do so is refused. The input "image" is batch x 3 x height x width:
floats that are normalized already, or with --uint8 the bytes of RGB images. The output is the
logits at the image's size, or with --argmax the class of each pixel. Classes and normalization
stand in the file's metadata.
"""

import argparse
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line.errors import UserError, as_user_error, command, quiet, run_main
from experiments.command_line.files import check_out, whole
from experiments.command_line.networks import NETWORK_HELP, add_checkpoint, parse_network
from experiments.command_line.overrides import model_options
from experiments.command_line.parser import Parser, by, height_by_width
from experiments.command_line.row_patterns import matching_rows, row_address
from experiments.records import trained_networks

if TYPE_CHECKING:  # torch takes seconds, and --help and a refused word must not
    from segmodels.deploy import Size, Verified
    from segmodels.module import SegmentationModule


PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CHECKED_AT = (128, 256)


class Unequal(Exception):
    """The file is not the network: it is not kept."""


def make_parser() -> Parser:
    parser = Parser(prog="export.py", description=__doc__)
    parser.add_argument("network", nargs="?", help=NETWORK_HELP)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="model.name=value",
        help="options of the network; a checkpoint's must leave its weights as they are",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--model",
        metavar="PAPER[/ROW]",
        help="a row with fresh weights instead; with --check also a pattern",
    )
    parser.add_argument(
        "--size",
        type=size_or_any,
        metavar="HEIGHTxWIDTH",
        help='the only size that the file will take, such as 512x1024; or "any"',
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="a new file, such as bisenet.onnx")
    parser.add_argument(
        "--uint8", action="store_true", help="the input is uint8 RGB, normalized inside"
    )
    parser.add_argument(
        "--argmax", action="store_true", help="the output is the class of each pixel, uint8"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="export and verify, keep no file; without a model: every row",
    )
    return parser


def size_or_any(text: str) -> "Size":
    return "any" if text == "any" else height_by_width(text)


@command(stopped="stopped; nothing was written")
def main(arguments: list[str] | None = None) -> int:
    args = make_parser().parse_intermixed_args(arguments)
    check_args(args)
    quiet()
    return check(args) if args.check else export(args)


def check_args(args: argparse.Namespace) -> None:
    """Refuse wrong words before torch is imported."""
    if args.network and args.network.startswith("model."):  # no network is named
        args.overrides.insert(0, args.network)
        args.network = None
    if args.network and args.model:
        raise UserError(f"give {args.network} or --model {args.model}, not both")
    if args.check and args.out:
        raise UserError(
            "--check keeps no file; leave out --check, which every export includes, "
            f"or --out {args.out}"
        )
    if not args.check:
        if not args.network and not args.model:
            raise UserError(
                "what is to be exported? give a run or a checkpoint, "
                "or --model paper/row for fresh weights"
            )
        if not args.size or not args.out:
            raise UserError(
                "give --size HEIGHTxWIDTH, or --size any, and --out FILE.onnx, or --check to keep "
                "no file"
            )
        check_out(args.out)
    args.size = args.size or CHECKED_AT
    if args.network:
        args.network = parse_network(args.network, args.checkpoint)
        trained_networks.check_words(args.network, None, (), args.overrides)
        args.names = [str(args.network)]
    else:
        args.names = matching_rows(args.model or "*") if args.check else [row_address(args.model)]
        for row in args.names:
            model_options(row, args.overrides)
    if lacking := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"exporting needs {', '.join(lacking)}; "
            'install the optional packages with: pip install -e ".[export]"'
        )


# --- one file


def export(args: argparse.Namespace) -> int:
    module = open_network(args, args.names[0])
    name = name_of(module, args)
    try:
        with as_user_error(), whole(args.out) as partial:
            verified = write(module, args, partial)
            if not verified.ok:
                raise Unequal(f"({verified.difference:.1e}, limit {verified.limit:.1e})")
    except Unequal as problem:
        print(f"error: onnxruntime computes something else {problem}", file=sys.stderr)
        return 1
    except RuntimeError as problem:  # a size that the network cannot take, or what ONNX lacks
        reason = str(problem).strip().splitlines()[0]
        raise UserError(f"{name} cannot be exported at {by(args.size)}: {reason}") from problem
    total = sum(each.numel() for each in module.parameters())
    what = "share of pixels of another class" if args.argmax else "largest difference of a logit"
    print(f"{name}: {verified.parameters:,} parameters of {total:,} while training, ", end="")
    print("batch norm folded")
    print(f"verified     {what} {verified.difference:.1e}, limit {verified.limit:.1e}")
    print(f"other sizes  {verified.other_sizes}")
    print(f"file         {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")
    return 0


def open_network(args: argparse.Namespace, row: str) -> "SegmentationModule":
    """The checkpoint's network, or the row's with fresh weights."""
    from segmodels.paper import experiment

    with as_user_error():
        if args.network:
            options = trained_networks.options_of(args.network, args.overrides)
            return trained_networks.trained(args.network, model=options)
        options = model_options(row, args.overrides)
        return experiment(row).but(model=options, name=row).build().eval()


def name_of(module: "SegmentationModule", args: argparse.Namespace) -> str:
    fresh = "" if args.network else " (fresh weights, untrained)"
    return " ".join([module.identity.experiment, *args.overrides]) + fresh


def write(module: "SegmentationModule", args: argparse.Namespace, file: Path) -> "Verified":
    from segmodels.deploy import export_onnx

    name = name_of(module, args)
    return export_onnx(module, file, args.size, uint8=args.uint8, argmax=args.argmax, name=name)


# --- many rows


def check(args: argparse.Namespace) -> int:
    """Print a line for each network; return 1 if any fails."""
    failed = 0
    for name in args.names:
        verdict = "FAIL"
        try:
            verified = check_network(args, name)
            line = (
                f"difference {verified.difference:.1e}, limit {verified.limit:.1e}, "
                f"{verified.parameters:,} parameters"
            )
            if verified.ok:
                verdict = "ok  "
        except UserError:
            raise
        except Exception as problem:  # one row that fails must not hide the others
            line = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        failed += verdict == "FAIL"
        print(f"{verdict} {name}: {line}", flush=True)
    print(f"{failed} failed" if failed else "all are equal to their modules")
    return int(failed > 0)


def check_network(args: argparse.Namespace, name: str) -> "Verified":
    from segmodels.deploy import settle_batch_norm

    module = open_network(args, name)
    if not args.network:
        settle_batch_norm(module, CHECKED_AT if args.size == "any" else args.size)
    with tempfile.TemporaryDirectory() as folder:
        return write(module, args, Path(folder) / "check.onnx")


if __name__ == "__main__":
    sys.exit(run_main(main))
