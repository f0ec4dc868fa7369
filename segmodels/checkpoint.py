"""Checkpoints that this project's runs wrote: building a module out of one, and starting another from its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segmodels.module import Normalization, SegmentationModule
from segmodels.paper import experiment
from segmodels.recipe import recipe_from
from segmodels.released import COUNTER, State, misfit, read, unwrapped


def from_checkpoint(path: str | Path) -> SegmentationModule:
    """An eval-mode module with the weights, recipe and classes that the run stored."""
    content = read(path)
    identity = content.get("segmodels")
    if not isinstance(identity, Mapping):
        raise ValueError(f"{path} was not written by a run of this project; for an authors' checkpoint see segmodels.from_released")
    row = experiment(identity["experiment"])
    module = row.network(num_classes=identity["num_classes"], **identity["model"])
    own = {key: identity[key] for key in identity if key not in ("num_classes", "recipe", "normalization")}
    own["iterations"] = content["global_step"]
    module.adopt(recipe_from(identity["recipe"]), Normalization(**identity["normalization"]), own)
    if problem := misfit(module.state_dict(), content["state_dict"]):
        raise ValueError(f"{path} does not fit {identity['experiment']} as it is written now: {problem}")
    module.load_state_dict(content["state_dict"])
    return module.eval()


def start_from(module: SegmentationModule, source: str | Path | State, called: str = "") -> str:
    """Load what fits; tensors of another shape (the heads of another class count) start anew. Says in words what happened."""
    content, called = (source, called) if isinstance(source, Mapping) else (read(source), str(source))
    found, own = unwrapped(content), module.state_dict()
    fitting = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
    anew = [name for name in own if name not in fitting and not name.endswith(COUNTER)]
    reshaped = [name for name in anew if name in found]
    if not fitting or len(anew) - len(reshaped) > len(own) // 2:
        raise ValueError(
            f"{called} holds another network: only {len(fitting)} of {len(own)} tensors fit {type(module).__name__} "
            f"({_described(content)}); start from a checkpoint of the same model"
        )
    module.load_state_dict(fitting, strict=False)
    return f"{len(fitting)} of {len(own)} tensors from {called}" + (f"; start anew: {', '.join(_layers(anew))}" if anew else "")


def _layers(names: list[str]) -> list[str]:
    return sorted({name.rsplit(".", 1)[0] for name in names})


def _described(content: Mapping[str, Any]) -> str:
    identity = content.get("segmodels")
    return f"it was trained as {identity['experiment']}" if isinstance(identity, Mapping) else "it names no experiment of this project"
