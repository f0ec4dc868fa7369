"""Write checkpoints as runs do, without a training, and files that are none with their errors."""

import gzip
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.labels import CITYSCAPES, LabelSet
from experiments.results.reference import weights_from_names
from segmodels.module import Normalization, SegmentationModule
from segmodels.network_identity import Identity
from segmodels.paper import experiment
from segmodels.parts.weight_files import misfit
from segmodels.released_checkpoints import layouts
from tests.support.paths import REFERENCE

ROW = "bisenet/xception39"


def lively(module: SegmentationModule) -> SegmentationModule:
    """Running statistics of noise and of flat colors: an untrained network would see one class
    everywhere.
    """
    module.train()
    with torch.no_grad():
        for _ in range(4):
            module.logits(torch.randn(2, 3, 1, 1) + torch.randn(2, 3, 64, 96))
    return module.eval()


def content_of(module: SegmentationModule, steps: int = 7) -> dict[str, Any]:
    content: dict[str, Any] = {"state_dict": module.state_dict(), "global_step": steps}
    module.on_save_checkpoint(content)
    return content


def built(
    address: str = ROW, labels: LabelSet = CITYSCAPES, data: str = "streets", **recipe: Any
) -> SegmentationModule:
    """A module with everything that a run lets its checkpoints say."""
    row = experiment(address)
    module = row.build(len(labels.names))
    identity = Identity(
        experiment=address,
        model=dict(row.model),
        data=data,
        classes=list(labels.names),
        palette=[list(color) for color in labels.palette],
        seed=3,
        departures=[],
        overrides={},
        smoke=False,
    )
    recipe = replace(row.recipe, **{"inference": "whole"} | recipe)
    module.adopt(recipe, Normalization(), identity)
    return lively(module)


def written(file: Path, **settings: Any) -> SegmentationModule:
    """The module whose checkpoint now lies in `file`."""
    module = built(**settings)
    torch.save(content_of(module), file)
    return module


# --- what is no checkpoint


class Code:
    """Unpickled by a careless reader, it would leave a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable, tuple]:
        return Path.touch, (self.trace,)


def changed(file: Path, changes: Mapping[str, Any], drops: Sequence[str] = ()) -> None:
    """A checkpoint whose identity is another, as an older or newer code would have written it."""
    content = content_of(built())
    content["segmodels"] = {
        key: value for key, value in (content["segmodels"] | changes).items() if key not in drops
    }
    torch.save(content, file)


def truncated(file: Path) -> None:
    written(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def reshaped(file: Path) -> None:
    content = content_of(built())
    content["state_dict"]["classifier.1.weight"] = torch.zeros(5, 64, 1, 1)
    torch.save(content, file)


# name -> (who writes the file, what the refusal must say beside the file's name)
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (
        lambda file: file.write_text("weights"),
        "is not a checkpoint: it is damaged or another kind of file",
    ),
    "empty": (
        lambda file: file.touch(),
        "is not a checkpoint: it is damaged or another kind of file",
    ),
    "truncated": (truncated, "is not a checkpoint: it is damaged or another kind of file"),
    "code": (
        lambda file: torch.save({"segmodels": Code(file.with_name("trace"))}, file),
        "holds more than tensors and plain values",
    ),
    "pickle": (
        lambda file: file.write_bytes(pickle.dumps(Code(file.with_name("trace")), 2)),
        "is not",
    ),
    "list": (lambda file: torch.save([1, 2], file), "holds a list, not a checkpoint"),
    "authors": (
        lambda file: torch.save({"model": {"heads.2.conv_1x1.bias": torch.zeros(19)}}, file),
        "see segmodels.from_released",
    ),
    "bare weights": (
        lambda file: torch.save(built().state_dict(), file),
        "see segmodels.from_released",
    ),
    "other paper": (
        lambda file: changed(file, {"experiment": "bisenett/x"}),
        "was trained as bisenett/x, which cannot be built now",
    ),
    "other row": (
        lambda file: changed(file, {"experiment": "bisenet/xception40"}),
        "did you mean xception39",
    ),
    "other option": (
        lambda file: changed(file, {"model": {"boosters": 4}}),
        "unexpected keyword argument 'boosters'",
    ),
    "other recipe": (
        lambda file: changed(file, {"recipe": {"momentun": 0.9}}),
        "a recipe has no field momentun",
    ),
    "other tensors": (reshaped, "does not fit bisenet/xception39 as it is written now"),
}


def layout(name: str) -> dict:
    return json.loads(gzip.decompress((REFERENCE / "released" / f"{name}.json.gz").read_bytes()))


def state(name: str) -> dict[str, torch.Tensor]:
    arrays = weights_from_names.fill_layout(layout(name))
    assert weights_from_names.weights_crc(arrays.values()) == layout(name)["weights_crc32"]
    return {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}


def misfit_of_layout(name: str) -> str:
    """What the authors' tensors, by names and shapes, lack or have too much in our network."""
    released = layouts()[name]
    entries = layout(name)["entries"]
    theirs = {key: torch.empty(shape, device="meta") for key, shape, _ in entries}
    ours = released.build(len(theirs[released.classes]), "meta")
    return misfit(ours.state_dict(), released.renamed(theirs))
