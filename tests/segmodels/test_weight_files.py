"""Tests of reading weights: every reader opens every file, with any wrapper or prefix."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import segmodels
from segmodels.own_checkpoints import start_from
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.pretrained import load_encoder
from segmodels.parts.weight_files import COUNTER, PREFIXES, WRAPPERS, best_named, without_prefixes
from segmodels.released_checkpoints import from_released
from tests.support import training_step
from tests.support.checkpoints import ROW, built

FORMS = [("", ""), *((key, "") for key in WRAPPERS), *(("", prefix) for prefix in PREFIXES)]
FORMS += [("state_dict", "module."), ("model", "module.model."), ("module", "module.backbone.")]


def wrapped(state: dict[str, Tensor], key: str, prefix: str, file: Path) -> str:
    named = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    torch.save({key: named, "epoch": 3} if key else named, file)
    return str(file)


def assert_holds(module: torch.nn.Module, state: dict[str, Tensor]) -> None:
    own = module.state_dict()
    names = [name for name in state if not name.endswith(COUNTER)]
    assert names and all(torch.equal(own[name], state[name]) for name in names)


@pytest.mark.parametrize(("key", "prefix"), FORMS)
def test_a_wrapped_file_of_a_whole_network_starts_a_run(
    key: str, prefix: str, tmp_path: Path
) -> None:
    other = built()
    file = wrapped(other.state_dict(), key, prefix, tmp_path / "other.pth")
    module = segmodels.experiment(ROW).build()
    start_from(module, file)
    assert_holds(module, other.state_dict())


@pytest.mark.parametrize(("key", "prefix"), FORMS)
def test_a_wrapped_file_of_an_authors_network_is_opened(
    key: str, prefix: str, tmp_path: Path
) -> None:
    weights = training_step.weights("bisenet_x39_torchseg")
    plain = from_released("bisenet_x39_torchseg", weights)
    file = wrapped(weights, key, prefix, tmp_path / "authors.pth")
    assert_holds(from_released("bisenet_x39_torchseg", file), plain.state_dict())


@pytest.mark.parametrize(("key", "prefix"), FORMS)
def test_a_wrapped_file_of_a_classifier_fills_a_backbone(
    key: str, prefix: str, tmp_path: Path
) -> None:
    other, backbone = ResNet(18), ResNet(18)
    file = wrapped(other.state_dict(), key, prefix, tmp_path / "imagenet.pth")
    assert load_encoder(backbone, file) == f"100 of 100 backbone tensors from {file}"
    assert_holds(backbone, other.state_dict())


def test_a_prefix_goes_only_where_names_are_known_without_it() -> None:
    state = {"model.a": torch.zeros(1), "loss.b": torch.zeros(1)}
    variants = without_prefixes(state)
    assert list(best_named(variants, {"a"})) == ["a", "loss.b"]
    assert list(best_named(variants, {"model.a"})) == list(state)
    assert list(best_named(variants, {"c"})) == list(state)
