"""Write a network alone to an ONNX file: one image size, no training heads, batch norm inside its convolutions.

    python experiments/export.py runs/bisenet-... --size 512x1024 --out bisenet.onnx
    python experiments/export.py CHECKPOINT --size 512x1024 --out bisenet.onnx --uint8 --argmax
    python experiments/export.py runs/emanet-... --size 512x1024 --out emanet.onnx model.eval_iterations=5
    python experiments/export.py --model bisenet/xception39 --size 512x1024 --check     writes nothing
    python experiments/export.py --model "stdc/*" --check                               several rows
    python experiments/export.py --check                                                every row of the catalogue

A file is kept only if onnxruntime computes from it what the module computes; it refuses every size but its own. The input "image" is
1 x 3 x height x width: floats that are normalized already, or with --uint8 the bytes of an RGB image. The output is the logits at the
image's size, or with --argmax the class of each pixel. Classes and normalization stand in the file's metadata.
"""

import argparse
import re
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.files import check_out, whole
from experiments.command_line.networks import NETWORK_HELP, parse_network
from experiments.command_line.overrides import model_options
from experiments.command_line.parser import Parser, by
from experiments.command_line.row_patterns import matching_rows, row_address
from experiments.records import trained_networks

if TYPE_CHECKING:  # torch takes seconds, and --help and a refused word must not
    from torch import Tensor

    from segmodels.module import SegmentationModule
    from segmodels.paper import Experiment


PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CHECKED_AT = (128, 256)


class Unequal(Exception):
    """The file is not the network: it is not kept."""


@dataclass(frozen=True)
class Verified:
    """How far the file is from the module, on an image of noise."""

    difference: float  # of a logit; with argmax: the share of pixels of another class
    limit: float
    parameters: int
    refusal: str  # what the file says to another size

    @property
    def ok(self) -> bool:
        return self.difference <= self.limit and bool(self.refusal)


def parser() -> Parser:
    made = Parser(prog="export.py", description=__doc__)
    made.add_argument(
        "checkpoint",
        nargs="?",
        metavar="network",
        help=NETWORK_HELP,
    )
    made.add_argument(
        "overrides",
        nargs="*",
        metavar="model.name=value",
        help="options of the network; a checkpoint's must leave its weights as they are",
    )
    made.add_argument(
        "--model",
        metavar="PAPER[/ROW]",
        help="a row with fresh weights instead; with --check also a pattern",
    )
    made.add_argument(
        "--size",
        metavar="HEIGHTxWIDTH",
        help="the only size that the file will take, such as 512x1024",
    )
    made.add_argument("--out", metavar="FILE", type=Path, help="a new file, such as bisenet.onnx")
    made.add_argument(
        "--uint8", action="store_true", help="the input is uint8 RGB, normalized inside"
    )
    made.add_argument(
        "--argmax", action="store_true", help="the output is the class of each pixel, uint8"
    )
    made.add_argument(
        "--check",
        action="store_true",
        help="export and verify, keep no file; without a model: every row",
    )
    return made


@command(stopped="stopped; nothing was written")
def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_intermixed_args(arguments)
    check_words(asked)
    from experiments.command_line.errors import quiet

    quiet()
    return check(asked) if asked.check else export(asked)


# --- words


def check_words(asked: argparse.Namespace) -> None:
    """Everything that can be refused before torch is there."""
    if asked.checkpoint and asked.checkpoint.startswith("model."):  # no network is named
        asked.overrides.insert(0, asked.checkpoint)
        asked.checkpoint = None
    if asked.checkpoint and asked.model:
        raise UserError(f"give {asked.checkpoint} or --model {asked.model}, not both")
    if not asked.check:
        if not asked.checkpoint and not asked.model:
            raise UserError(
                "what is to be exported? give a run or a checkpoint, or --model paper/row for fresh weights"
            )
        if not asked.size or not asked.out:
            raise UserError(
                "give --size HEIGHTxWIDTH and --out FILE.onnx, or --check to keep no file"
            )
        check_out(asked.out)
    if asked.check and asked.out:
        raise UserError(
            f"--check keeps no file; leave out --check, which every export includes, or --out {asked.out}"
        )
    asked.size = size_of(asked.size) if asked.size else CHECKED_AT
    asked.checkpoint = asked.checkpoint and parse_network(asked.checkpoint)
    asked.rows = [] if asked.checkpoint else rows_of(asked.model, asked.check)
    if asked.checkpoint:
        trained_networks.check_words(asked.checkpoint, None, (), asked.overrides)
    for row in asked.rows:
        model_options(row, asked.overrides)
    if lacking := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(
            f'exporting needs {", ".join(lacking)}; install the optional packages with: pip install -e ".[export]"'
        )


def rows_of(pattern: str | None, several: bool) -> list[str]:
    """The rows to check, all where none is named; or the only one to export."""
    return matching_rows(pattern or "*") if several else [row_address(pattern)]


def size_of(text: str) -> tuple[int, int]:
    if not (match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise UserError(f"--size {text}: it takes height x width in pixels, such as 512x1024")
    return int(match[1]), int(match[2])


# --- one file


def export(asked: argparse.Namespace) -> int:
    module, says = opened(asked)
    try:
        with whole(asked.out) as partial:
            verified = written(module, asked, partial, says)
            if not verified.ok:
                raise Unequal(
                    f"onnxruntime computes something else ({verified.difference:.1e}, limit {verified.limit:.1e})"
                )
    except Unequal as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except (
        RuntimeError
    ) as problem:  # a size that the network cannot take, an operation that ONNX lacks
        size, reason = by(asked.size), str(problem).strip().splitlines()[0]
        raise UserError(f"{says['model']} cannot be exported at {size}: {reason}") from problem
    total = sum(each.numel() for each in module.parameters())
    what = "share of pixels of another class" if asked.argmax else "largest difference of a logit"
    print(
        f"{says['model']}: {verified.parameters:,} parameters of {total:,} while training, batch norm folded"
    )
    print(f"verified     {what} {verified.difference:.1e}, limit {verified.limit:.1e}")
    print(f"other sizes  {verified.refusal}")
    print(f"file         {asked.out} ({asked.out.stat().st_size / 1e6:.1f} MB)")
    return 0


def opened(asked: argparse.Namespace) -> tuple["SegmentationModule", dict[str, Any]]:
    """The module, and what the file will say of it."""
    from experiments.command_line.errors import as_user_error

    given = asked.overrides
    with as_user_error():
        module = (
            trained_networks.trained(
                asked.checkpoint, model=trained_networks.options_of(asked.checkpoint, given)
            )
            if asked.checkpoint
            else changed_row(asked.rows[0], given).build().eval()
        )
    fresh = "" if asked.checkpoint else " (fresh weights, untrained)"
    return module, {
        "model": " ".join([module.identity.experiment, *given]) + fresh,
        "classes": list(module.identity.classes or ()),
        "input": "uint8 RGB" if asked.uint8 else "normalized floats",
        "output": "class of each pixel" if asked.argmax else "logits",
        "normalization": asdict(module.normalization),
    }


def changed_row(row: str, overrides: list[str]) -> "Experiment":
    """The row with options of the command line."""
    from segmodels.paper import experiment

    return experiment(row).but(model=model_options(row, overrides), name=row)


def written(
    module: "SegmentationModule", asked: argparse.Namespace, file: Path, says: dict[str, Any]
) -> Verified:
    from segmodels import deploy

    network = deploy.deployed(module, asked.size, uint8=asked.uint8, argmax=asked.argmax)
    deploy.write_onnx(network, file, says)
    return verified(
        module, deploy.Runtime(file), asked, sum(each.numel() for each in network.parameters())
    )


def verified(
    module: "SegmentationModule", runtime: Any, asked: argparse.Namespace, parameters: int
) -> Verified:
    import torch

    from segmodels import deploy

    image = torch.randint(
        256, (1, 3, *asked.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    image = image if asked.uint8 else module.normalized(image)
    with torch.no_grad():
        logits = module(image)
    output, limit = runtime(image), deploy.LIMIT * max(1.0, logits.abs().max().item())
    difference = difference_of(logits, output, limit)
    if difference > (0.0 if asked.argmax else limit):  # float64 takes seconds
        limit = max(limit, 20 * rounding(module, image, logits))
        difference = difference_of(logits, output, limit)
    return Verified(difference, 0.0 if asked.argmax else limit, parameters, refusal(runtime, image))


def rounding(module: "SegmentationModule", image: "Tensor", logits: "Tensor") -> float:
    """How far the module's own float32 lies from its float64; iterations like EMANet's amplify it, in every runtime."""
    import copy

    import torch

    with torch.no_grad():
        return (
            (copy.deepcopy(module).double()(module.normalized(image).double()) - logits)
            .abs()
            .max()
            .item()
        )


def difference_of(logits: "Tensor", output: "Tensor", limit: float) -> float:
    """The largest one of a logit; where classes come out, the share of pixels with a clear error."""
    if output.is_floating_point():
        return (output - logits).abs().max().item()
    from segmodels import deploy

    return deploy.clear_errors(logits, output, limit)


def refusal(runtime: Any, image: "Tensor") -> str:
    """What the file says to an image of half the height; empty where it takes it."""
    try:
        runtime(image[:, :, : max(1, image.shape[2] // 2)])
    except ValueError as problem:
        return f"refused: {problem}"
    return ""


# --- many rows


def check(asked: argparse.Namespace) -> int:
    """One line for each; 1 if any fails."""
    failed = []
    for name in [str(asked.checkpoint)] if asked.checkpoint else asked.rows:
        asked.rows = [name]
        try:
            found = checked(asked)
            line = f"difference {found.difference:.1e}, limit {found.limit:.1e}, {found.parameters:,} parameters"
            ok = found.ok
        except UserError:
            raise
        except Exception as problem:  # one row that fails must not hide the others
            ok, line = False, f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        failed += [] if ok else [name]
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {line}", flush=True)
    print(f"{len(failed)} failed" if failed else "all are equal to their modules")
    return int(bool(failed))


def checked(asked: argparse.Namespace) -> Verified:
    from segmodels import deploy

    module, says = opened(asked)
    if not asked.checkpoint:
        deploy.settled(module, asked.size)
    with tempfile.TemporaryDirectory() as folder:
        return written(module, asked, Path(folder) / "check.onnx", says)


if __name__ == "__main__":
    sys.exit(run_main(main))
