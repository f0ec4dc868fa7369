"""One training step of a whole model in float64, compared with the authors'.

It compares loss terms, every gradient and batch-norm statistics.
"""

import gzip
import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

import segmodels
from experiments.results.reference import weights_from_names
from segmodels.module import SegmentationModule
from segmodels.released_checkpoints import layouts
from tests.support import inputs_from_names
from tests.support.paths import REFERENCE


def weights(name: str) -> dict[str, Tensor]:
    """The state dict of a released layout, drawn from its names."""
    layout = json.loads(gzip.decompress((REFERENCE / "released" / f"{name}.json.gz").read_bytes()))
    arrays = weights_from_names.fill_layout(layout)
    assert weights_from_names.weights_crc(arrays.values()) == layout["weights_crc32"]
    return {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}


def stored(name: str) -> dict:
    return json.loads((REFERENCE / "steps" / f"{name}.json").read_text())


def prepared(name: str) -> tuple[SegmentationModule, tuple[Tensor, Tensor]]:
    """The module with the weights of the case, in training mode, and the case's batch; both in
    float64.
    """
    case, state = stored(name), weights(name)
    for key, amount in case.get("added_to_weights_after_fill", {}).items():
        state[key] = state[key] + amount
    image = weights_from_names.make_input(
        case["inputs"]["image"]["name"], tuple(case["inputs"]["image"]["shape"])
    )
    label = inputs_from_names.build({"label": case["inputs"]["label"]})["label"]
    module = segmodels.from_released(name, state).double().train()
    exact = layouts()[name].renamed({key: value.double() for key, value in state.items()})
    module.load_state_dict(exact, strict=False)  # what is converted is not rounded before
    return module, (torch.from_numpy(image).double(), torch.from_numpy(label))


def assert_the_authors_gradients(name: str, module: SegmentationModule) -> None:
    """After backward: samples to 1e-6 of the largest entry, the norm of every parameter that does
    not vanish, and the running averages.
    """
    case, golden = stored(name), np.load(REFERENCE / "steps" / f"{name}.npz")
    for theirs, facts in case["gradients"].items():
        gradient = (
            module.get_parameter(ours(name, theirs)).grad.flatten()[:: facts["stride"]].numpy()
        )
        np.testing.assert_allclose(
            gradient, golden[f"grad/{theirs}/sample"].ravel(), rtol=0, atol=1e-6 * facts["max_abs"]
        )
    norms = dict(zip(golden["param_names"].tolist(), golden["param_grad_norms"].tolist()))
    assert len(norms) == len(list(module.parameters()))
    for theirs, norm in norms.items():
        if theirs not in case["vanishing_gradient"]:
            assert module.get_parameter(ours(name, theirs)).grad.norm().item() == pytest.approx(
                norm, rel=2e-6
            ), theirs
    for theirs, facts in case["batchnorm"].items():
        for kind in ("running_mean", "running_var"):
            average = module.get_buffer(ours(name, f"{theirs}.{kind}"))[:: facts["stride"]].numpy()
            np.testing.assert_allclose(average, golden[f"bn/{theirs}/{kind}"], rtol=1e-6, atol=1e-7)


def ours(name: str, theirs: str) -> str:
    (renamed,) = layouts()[name].renamed({theirs: torch.empty(0)})
    return renamed


def assert_terms(terms: Mapping[str, Tensor], expected: Mapping[str, float]) -> None:
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-9)
