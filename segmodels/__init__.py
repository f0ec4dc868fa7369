"""Semantic-segmentation papers, one readable file each.

`papers()` lists them; `experiment("bisenet/resnet18").build(num_classes=19)` makes a network.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import numpy as np
    from torch import Tensor

    from segmodels.module import SegmentationModule
    from segmodels.paper import Experiment, Paper
    from segmodels.prediction import Picture

__version__ = "0.1.0"


# The imports are inside because torch takes seconds, and the command line's --help must not.
def papers() -> "dict[str, Paper]":
    """Return every paper by name, each with its rows."""
    from segmodels import paper

    return paper.papers()


def experiment(address: str) -> "Experiment":
    """Return the row "paper/row", or the main row of "paper"."""
    from segmodels import paper

    return paper.experiment(address)


def from_released(
    layout: str, weights: "str | dict[str, Tensor]", model: "dict[str, Any] | None" = None
) -> "SegmentationModule":
    """Load an authors' checkpoint, a path or a state dict, as a module in eval mode.

    `model` holds options that replace the row's own, such as {"output_stride": 8}.
    """
    from segmodels.released_checkpoints import from_released

    return from_released(layout, weights, model)


def from_checkpoint(
    path: str, network: str | None = None, model: "dict[str, Any] | None" = None
) -> "SegmentationModule":
    """Load a checkpoint that a run of this project wrote, as a module in eval mode.

    `network` names one of several. `model` holds options that replace those of the training, such
    as {"output_stride": 8}.
    """
    from segmodels.own_checkpoints import from_checkpoint

    return from_checkpoint(path, network, model)


def start_from(module: "SegmentationModule", path: str, classes: "Sequence[str]" = ()) -> str:
    """Load the tensors of a checkpoint of ours that fit into a new module; the text says which.

    `classes` are the module's, such as data.class_names: its heads take over those that the
    checkpoint names too.
    """
    from dataclasses import replace

    from segmodels.own_checkpoints import start_from

    if classes:
        module.identity = replace(module.identity, classes=list(classes))
    return start_from(module, path)


def predict(module: "SegmentationModule", image: "Picture") -> "np.ndarray":
    """Predict the class of each pixel, uint8 (H, W), by the network's inference mode and precision.

    The image is a file, a PIL image, a uint8 RGB array (H, W, 3) or a uint8 RGB tensor (3, H, W).
    """
    from segmodels.prediction import predict

    return predict(module, image)
