"""The authors' checkpoints: read safely, renamed by the paper's file, loaded strictly."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segmodels.module import Normalization

if TYPE_CHECKING:
    from segmodels.paper import Experiment, Published

State = dict[str, Tensor]
COUNTER = "num_batches_tracked"  # older checkpoints lack them, inference does not read them: they are never loaded


@dataclass(frozen=True)
class Released:
    """Which network an authors' checkpoint is, and what its names are here.

    The network is a row ("paper/row"); for a port or a classifier, which have none, whatever makes the module from a class count.
    """

    network: str | Callable[[int], nn.Module]
    classes: str  # the tensor, by the authors' name, whose first dimension counts the classes
    renames: tuple[
        tuple[str, str | Callable[[re.Match], str]], ...
    ]  # (pattern, replacement), applied in turn to every name
    drops: tuple[str, ...] = ()  # patterns of tensors that the network has no use for
    normalization: Normalization = Normalization()
    convert: Callable[[State], State] | None = (
        None  # where a tensor's meaning differs, not only its name
    )
    row: str = ""  # "paper/row" where the network is none itself: the row that a port computes in its own way
    data: str = ""  # what it was trained on, where that is not the row's own data
    names: tuple[str, ...] = ()  # of the classes, where no data set of ours has them
    published: tuple["Published", ...] = ()  # of a port: what its own code line claims

    @property
    def address(self) -> str:
        """The row that the checkpoint belongs to; empty for a classifier."""
        return self.network if isinstance(self.network, str) else self.row

    @property
    def port(self) -> bool:
        """Another code line than the authors': the row's published figures are not its own."""
        return ".ports." in getattr(getattr(self.network, "func", self.network), "__module__", "")

    def renamed(self, state: State) -> State:
        kept = {
            name: tensor
            for name, tensor in state.items()
            if not any(re.search(drop, name) for drop in self.drops)
        }
        for pattern, replacement in self.renames:
            kept = {re.sub(pattern, replacement, name): tensor for name, tensor in kept.items()}
        return self.convert(kept) if self.convert else kept

    def row_of(self, name: str, options: Iterable[str]) -> "Experiment":
        """The row that the layout `name` is; what is none takes no options."""
        from segmodels.paper import experiment  # a paper's file imports this one

        if not isinstance(self.network, str):
            words = ", ".join(f"model.{option}" for option in options)
            raise ValueError(f"{name} is no row of a paper and takes no options; leave out {words}")
        return experiment(self.network)

    def build(
        self, num_classes: int, device: str = "cpu", model: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """`model` are a row's options in place of its own."""
        from segmodels.paper import experiment  # a paper's file imports this one

        if isinstance(self.network, str):
            row = experiment(self.network)
            row = row if model is None else replace(row, model=model)
            module = row.build(num_classes, device)
        else:
            with torch.device(device):
                module = self.network(num_classes)
        module.normalization = self.normalization
        return module


def layouts() -> dict[str, Released]:
    """Every released layout that a paper's file or a port names."""
    import importlib

    here = Path(__file__).parent
    paths = [
        *sorted((here / "architectures").glob("*.py")),
        *sorted((here / "ports").rglob("*.py")),
    ]
    names = [
        ".".join(path.relative_to(here.parent).with_suffix("").parts)
        for path in paths
        if path.stem != "__init__"
    ]
    files = [importlib.import_module(name) for name in names]
    return {
        name: layout for file in files for name, layout in getattr(file, "RELEASED", {}).items()
    }


def from_released(
    name: str, weights: str | Path | Mapping[str, Tensor], model: Mapping[str, Any] | None = None
) -> nn.Module:
    """An eval-mode module; the class count is read from the tensors, and nothing may be missing or left over.

    `model` are options to evaluate a row's network with in place of the row's own.
    """
    from segmodels.paper import unknown

    known = layouts()
    if name not in known:
        raise ValueError(unknown("released layout", name, sorted(known)))
    origin = "the given state" if isinstance(weights, Mapping) else str(weights)
    layout = known[name]
    state = unwrapped(weights if isinstance(weights, Mapping) else read(weights), layout.drops)
    if layout.classes not in state:
        raise ValueError(
            f"{origin} is not a {name} checkpoint: it has no {layout.classes}{_nearest(state, known)}"
        )
    classes = len(state[layout.classes])
    renamed = layout.renamed(state)
    with ConstantInitialization():
        module = layout.build(classes)
    if problem := misfit(module.state_dict(), renamed):
        raise ValueError(f"{origin} is not a {name} checkpoint: {problem}{_nearest(state, known)}")
    if model:
        row, with_options = layout.row_of(name, model), partial(layout.build, classes, "cpu")
        module = built_with(with_options, origin, row.network, row.model, model, renamed)
    module.load_state_dict(renamed, strict=False)  # strict but for the counters, as misfit has seen
    return module.eval()


class ConstantInitialization(TorchDispatchMode):
    """New weights are filled with one number instead of random ones: drawing those of a ResNet-101
    takes a second, and a checkpoint's replace them."""

    DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """A distribution's mean, or its lower end: trunc_normal_ repeats a draw out of bounds."""
        if function in self.DRAWS:
            return args[0].fill_(args[1] if len(args) > 1 else 0.0)
        return function(*args, **kwargs or {})


def built_with(
    build: Callable[[Mapping[str, Any]], nn.Module],
    origin: str,
    network: type[nn.Module],
    own: Mapping[str, Any],
    given: Mapping[str, Any],
    weights: State,
) -> nn.Module:
    """The network that `build` makes of its own options and the given ones.

    It is refused where `weights` do not fit that network.
    """
    from segmodels.paper import changed, check_options  # a paper's file imports this one

    words = ", ".join(f"model.{name}={value}" for name, value in given.items())
    try:
        check_options(network, given)
        with ConstantInitialization():
            module = build({**own, **given})
    except (KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"{origin} cannot be evaluated with {words}: {problem}") from problem
    if problem := misfit(module.state_dict(), weights):
        raise ValueError(
            f"{words} makes another network than the one in {origin}: {problem}; "
            "give options that leave its weights as they are, or train that network"
        )
    evaluated_with = changed(network, own, given)
    module.identity = replace(module.identity, evaluated_with=evaluated_with)
    return module


def read(path: str | Path) -> dict:
    """A checkpoint's content, tensors and plain values only: a file that would run code is refused."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        if re.search("unsupported (global|class)", str(problem), re.IGNORECASE):
            raise ValueError(
                f"{path} holds more than tensors and plain values, so it is not read; save its state dict alone"
            ) from None
        raise ValueError(
            f"{path} is not a checkpoint: it is damaged or another kind of file"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a checkpoint or a state dict"
        )
    return dict(content)


def unwrapped(content: Mapping, drops: tuple[str, ...] = ()) -> State:
    """The state dict inside the usual wrappers, without what is dropped and the prefixes that data-parallel training leaves."""
    for key in ("state_dict", "model", "model_state", "module"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    state = {
        name: tensor
        for name, tensor in content.items()
        if isinstance(tensor, Tensor) and not name.endswith(COUNTER)
    }
    state = {
        name: tensor
        for name, tensor in state.items()
        if not any(re.search(drop, name) for drop in drops)
    }
    for prefix in ("module.", "model."):
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def misfit(expected: State, found: State) -> str:
    """What keeps `found` from being loaded, in words; empty when nothing does."""
    missing = [name for name in expected if name not in found and not name.endswith(COUNTER)]
    extra = [name for name in found if name not in expected]
    reshaped = [
        name for name in found if name in expected and found[name].shape != expected[name].shape
    ]
    problems = {
        "lacks": missing,
        "has beyond the network's": extra,
        "has in another shape": reshaped,
    }
    return "; ".join(
        f"it {verb} {len(names)} tensors ({', '.join(names[:2])}, ...)"
        for verb, names in problems.items()
        if names
    )


def _nearest(state: State, known: Mapping[str, Released]) -> str:
    """ ", it looks like X" for the layout that shares most names and shapes, if one shares nearly all."""
    shares = {}
    for name, layout in known.items():
        if layout.classes in state:
            expected, found = (
                layout.build(len(state[layout.classes]), "meta").state_dict(),
                layout.renamed(state),
            )
            expected = {
                key: tensor for key, tensor in expected.items() if not key.endswith(COUNTER)
            }
            same = sum(
                key in expected and expected[key].shape == tensor.shape
                for key, tensor in found.items()
            )
            shares[name] = same / max(len(expected), len(found))
    best = max(shares, key=shares.get, default=None)
    return f"; it looks like {best}" if best and shares[best] > 0.9 else "; no known layout fits it"
