"""Compare what every row, released layout and method computes at two commits, under the same seed.

    python -m tests.tools.compare_commits main~5          a commit with the working tree
    python -m tests.tools.compare_commits main~5 main     two commits
    python -m tests.tools.compare_commits main~5 --only stdc
    python -m tests.tools.compare_commits main~5 --save old.pt    its numbers, to be given as OLD
    again

Of each network it compares the terms of the loss, the norm of every gradient, outputs, logits, what
changes in a training step outside the gradient, and the groups of the optimizer, to the last bit.
Where a network draws dropout masks in another order, it is compared with dropout switched off. The
exit code is 1 if anything differs that stands in both commits.
"""

import argparse
import hashlib
import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 5
CROP = (64, 96)  # of which every network of the first edition takes the whole
ODD = (75, 101)
OF_EACH = ("initial weights", "gradients", "state after a step", "groups")  # parameter
SAMPLE = 256  # numbers that are kept of a larger tensor
METHODS = ("bisenet/resnet18", "fcn/resnet50")  # the rows that methods are tried on

Numbers = dict[str, Any]  # tensors, or plain values, by what they are


# --- one commit: runs inside that commit's tree, so it may use nothing but the names that must hold


def snapshot(only: str, file: Path) -> None:
    """Write the numbers of every network of the tree that this process imports from."""
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    found: dict[str, Numbers | str] = {}
    for name, make in subjects():
        if only not in name:
            continue
        try:
            found[name] = condensed(numbers(make))
        except Exception as problem:
            found[name] = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        print(name, file=sys.stderr, flush=True)
    torch.save(found, file)


def subjects() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every row, layout and method by name, each with a function that makes its module."""
    import segmodels
    from segmodels.released_checkpoints import layouts
    from segmodels.semisup import names

    for paper, entry in segmodels.papers().items():
        for row, experiment in entry.rows.items():
            yield f"{paper}/{row}", lambda experiment=experiment: experiment.build(CLASSES)
    for layout, released in layouts().items():
        yield f"released {layout}", lambda released=released: released.build(CLASSES)
    for method in names():
        for row in METHODS:
            yield f"{method} around {row}", lambda method=method, row=row: around(method, row)


def around(method: str, row: str) -> Any:
    """A method around a network of the row; methods were given the network itself once."""
    import segmodels
    from segmodels.semisup import method as named

    kind = named(method)
    experiment = segmodels.experiment(row)
    wants_maker = "make" in inspect.signature(kind.__init__).parameters
    return (
        kind(lambda: experiment.build(CLASSES)) if wants_maker else kind(experiment.build(CLASSES))
    )


def numbers(make: Callable[[], Any]) -> Numbers:
    import torch
    from torch import nn

    torch.manual_seed(0)
    module = make()
    found: Numbers = {"initial weights": by_name(module, tensors(module))}
    found["names"] = [name for name, _ in module.named_parameters()]
    image, label = batch(*crop_of(module))
    without_rules(module)
    if not hasattr(module, "losses"):  # a classifier
        with torch.no_grad():
            return found | {"logits": module.eval()(image.float() / 255)}
    data = (
        ((image, label), (image.flip(-1), torch.zeros_like(label)))
        if is_method(module)
        else (image, label)
    )
    module.train()
    with kept(module):
        found["terms with dropout"] = terms(module, data)
    drops = [
        layer for layer in module.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)
    ]
    for layer in drops:
        layer.p = 0.0
    with kept(module):
        found["terms"] = terms(module, data)
        found["gradients"] = by_name(module, gradients(module))
    with kept(module):
        module.after_step()
        found["state after a step"] = by_name(module, tensors(module))
    weighted(module)
    with kept(module):
        found["terms with class weights"] = terms(module, data)
    module.eval()
    floats = module.normalized(image)
    with torch.no_grad():
        found |= {f"output {name}": each for name, each in module.outputs(floats).items()}
        found["logits"] = module.logits(floats)
        found["logits at the image's size"] = module(batch(*ODD)[0])
        found["judged at the image's size"] = module.strips(batch(*ODD)[0]).full()
    return found | groups(module)


def crop_of(module: Any) -> tuple[int, int]:
    """The smallest crop, no smaller than CROP inside its margin, that the network takes."""
    network = getattr(module, "evaluated", module)
    if not hasattr(network, "valid_side"):  # a classifier, or a commit of before
        return CROP
    height, width = (network.valid_side(side + 2 * network.margin) for side in CROP)
    return height, width


def without_rules(module: Any) -> None:
    """No class weights where they would have to be counted in a data set."""
    for network in module.modules():
        recipe = getattr(network, "recipe", None)
        if recipe and isinstance(recipe.class_weights, str):
            recipe = replace(recipe, class_weights=())
            network.adopt(recipe, network.normalization, network.identity)


def condensed(content: Any) -> Any:
    """Large tensors as a digest of their bytes and a sample: all networks together would take
    gigabytes.
    """
    import torch

    if isinstance(content, dict):
        return {key: condensed(each) for key, each in content.items()}
    if isinstance(content, list):
        return [condensed(each) for each in content]
    if not torch.is_tensor(content) or content.numel() <= SAMPLE:
        return content
    flat = content.detach().contiguous().flatten()
    digest = hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
    return {
        "digest": digest,
        "shape": list(content.shape),
        "sample": flat[:: flat.numel() // SAMPLE].clone(),
    }


def is_method(module: Any) -> bool:
    return hasattr(module, "networks")


def batch(height: int, width: int) -> tuple[Any, Any]:
    """Two images of patches, whose labels have an ignored border."""
    import torch

    generator = torch.Generator().manual_seed(1)
    image = torch.randint(256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
    coarse = torch.randint(CLASSES, (2, height // 8 + 1, width // 8 + 1), generator=generator)
    label = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width].clone()
    label[:, :3] = 255
    return image, label.to(torch.uint8)


def by_name(module: Any, values: list[Any]) -> dict[str, Any]:
    """Of every parameter, and of every buffer too where there are so many."""
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    return dict(zip(names, values))


def tensors(module: Any) -> list[Any]:
    """A copy of every parameter and buffer, in order."""
    return [*(each.detach().clone() for each in (*module.parameters(), *module.buffers()))]


@contextmanager
def kept(module: Any) -> Iterator[None]:
    """Within, numbers may move; afterwards the module is as it was."""
    import torch

    before = tensors(module)
    yield
    with torch.no_grad():
        for now, then in zip((*module.parameters(), *module.buffers()), before):
            now.copy_(then)


def terms(module: Any, data: Any) -> dict[str, Any]:
    """The terms of the loss; their gradients stay in the parameters."""
    import torch

    torch.manual_seed(2)
    module.zero_grad()
    found = module.losses(data)
    sum(found.values()).backward()
    return {name: each.detach().clone() for name, each in found.items()}


def gradients(module: Any) -> list[Any]:
    return [
        None if each.grad is None else each.grad.double().norm() for each in module.parameters()
    ]


def weighted(module: Any) -> None:
    """Class weights, ten times the rate outside the encoder and spared norms: what a row may say."""
    from segmodels.module import SegmentationModule

    words = {
        "class_weights": tuple(0.5 + 0.3 * number for number in range(CLASSES)),
        "head_lr": 10.0,
        "decay_norms": False,
        "weight_decay": 5e-4,
    }
    for network in module.modules():
        if isinstance(network, SegmentationModule):
            recipe = replace(network.recipe, **words)
            network.adopt(recipe, network.normalization, network.identity)


def groups(module: Any) -> Numbers:
    """Which rate and decay each parameter has; one without a group has none."""
    place = {parameter: index for index, parameter in enumerate(module.parameters())}
    settings: list[Any] = [None] * len(place)
    for group in module.configure_optimizers()["optimizer"].param_groups:
        for parameter in group["params"]:
            if group["lr"]:
                settings[place[parameter]] = (group["initial_lr"], group["weight_decay"])
    return {"groups": by_name(module, settings)}


# --- two commits


def compare(old: dict[str, Any], new: dict[str, Any]) -> int:
    """Print every network of both with what differs; how many do."""
    changed = 0
    for name in [name for name in old if name in new]:
        said = difference(old[name], new[name])
        changed += bool(said)
        print(f"{name}: {'; '.join(said) if said else told(old[name], new[name])}")
    for what, names in (("new", set(new) - set(old)), ("gone", set(old) - set(new))):
        if names:
            print(f"{what}: {', '.join(sorted(names))}")
    both = len(set(old) & set(new))
    print(f"{both - changed} of {both} equal")
    return changed


def told(old: Any, new: Any) -> str:
    """ "equal", and what beside the numbers is another."""
    if isinstance(old, str):
        return f"fails alike: {old}"
    notes = []
    if old.get("terms with dropout") and not same(
        old["terms with dropout"], new["terms with dropout"]
    ):
        notes.append("dropout draws its masks in another order")
    renamed = sum(theirs != ours for theirs, ours in zip(old["names"], new["names"]))
    if renamed:
        notes.append(f"{renamed} parameters have new names")
    return "; ".join(["equal", *notes])


def difference(old: Any, new: Any) -> list[str]:
    """What differs, each with the largest relative difference; names and the draws of dropout do
    not count.
    """
    if isinstance(old, str) or isinstance(new, str):
        return [] if old == new else [f"was {said(old)}, is {said(new)}"]
    found = []
    for key in dict.fromkeys([*old, *new]):
        if key in ("names", "terms with dropout"):
            continue
        if key not in old or key not in new:
            found.append(f"{key} is {'new' if key in new else 'gone'}")
            continue
        one, other = old[key], new[key]
        if key in OF_EACH and one.keys() != other.keys():  # renamed: compared in their order
            one, other = list(one.values()), list(other.values())
        if not same(one, other):
            found.append(f"{key} differ{amount(one, other)}")
    return found


def said(content: Any) -> str:
    return content if isinstance(content, str) else "computed"


def same(old: Any, new: Any) -> bool:
    import torch

    if torch.is_tensor(old) and torch.is_tensor(new):
        return old.shape == new.shape and torch.equal(old.nan_to_num(7e7), new.nan_to_num(7e7))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(same(old[key], new[key]) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(same, old, new))
    return type(old) is type(new) and old == new


def amount(old: Any, new: Any) -> str:
    """ " by at most 3e-7 of the largest number", where both have the same form."""
    import torch

    pairs = list(zip(leaves(old), leaves(new)))
    if len(list(leaves(old))) != len(list(leaves(new))):
        return " in form"
    if not all(
        torch.is_tensor(one) and torch.is_tensor(other) and one.shape == other.shape
        for one, other in pairs
    ):
        return f" in {sum(not same(one, other) for one, other in pairs)} of {len(pairs)}"
    shares = [share(one.double(), other.double()) for one, other in pairs if one.numel()]
    return f" by at most {max(shares):.1e} of the largest number"


def share(one: Any, other: Any) -> float:
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-30))


def leaves(content: Any) -> Iterator[Any]:
    """Every number or tensor; of a large one its sample."""
    if isinstance(content, dict) and "digest" in content:
        content = content["sample"]
    if isinstance(content, dict):
        content = [content[key] for key in sorted(content)]
    if isinstance(content, list):
        for each in content:
            yield from leaves(each)
    else:
        yield content


# --- command line


@contextmanager
def tree_of(commit: str | None) -> Iterator[Path]:
    """A checkout of the commit that is gone afterwards; the working tree where none is named."""
    if commit is None:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", tree, commit], cwd=ROOT, check=True
        )
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def numbers_of(commit: str | None, only: str) -> dict[str, Any]:
    """The numbers of a commit, of the working tree, or out of a file that --save wrote."""
    import torch

    if commit and commit.endswith(".pt"):
        stored = torch.load(commit, weights_only=True)
        return {name: each for name, each in stored.items() if only in name}
    with tree_of(commit) as tree, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "snapshot.pt"
        words = [sys.executable, Path(__file__).resolve(), "--only", only, "--snapshot", file]
        subprocess.run(words, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, check=True)
        return torch.load(file, weights_only=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", nargs="?", help="a commit, or a file that --save wrote")
    parser.add_argument("new", nargs="?", help="another (default: the working tree)")
    parser.add_argument("--only", default="", metavar="TEXT", help="networks whose name holds TEXT")
    parser.add_argument(
        "--save", metavar="FILE", type=Path, help="write OLD's numbers and compare nothing"
    )
    parser.add_argument("--snapshot", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.snapshot:
        snapshot(args.only, args.snapshot)
        return 0
    if not args.old:
        parser.error("name the commit to compare with, such as main~1")
    if args.save:
        import torch

        torch.save(numbers_of(args.old, args.only), args.save)
        return 0
    return int(compare(numbers_of(args.old, args.only), numbers_of(args.new, args.only)) > 0)


if __name__ == "__main__":
    sys.exit(main())
