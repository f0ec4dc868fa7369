"""Tests of networks in onnxruntime: the logits of torch in every inference mode, or an error."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segmodels import onnx_form
from segmodels.deploy import limit_of, settle_batch_norm
from segmodels.inference_modes import mode
from segmodels.onnx_form import use_onnxruntime
from segmodels.prediction import predict, prepared
from tests.support.extras import onnx
from tests.support.networks import Valid

pytestmark = onnx


def network() -> Valid:
    module = Valid()
    settle_batch_norm(module, (32, 48))
    return module


@pytest.mark.parametrize(
    "inference",
    [
        "whole",
        pytest.param("tiles:24x24", marks=pytest.mark.slow),
        pytest.param("multiscale:1,1.5+flip", marks=pytest.mark.slow),
    ],
)
def test_onnxruntime_computes_every_mode(inference: str) -> None:
    module = network()
    module.recipe = replace(module.recipe, inference=inference)
    image = torch.randint(256, (1, 3, 45, 61), dtype=torch.uint8)
    label = predict(module, image[0])
    use_onnxruntime(module)
    form = prepared(module)
    assert module.computes_on == "cpu" and form.logits is not module.logits
    with torch.inference_mode():
        full = mode(inference)(module, image).full()
        difference = (mode(inference)(form, image).full() - full).abs().max()
    assert difference <= limit_of(full)
    assert (predict(form, image[0]) == label).mean() > 0.999


def test_a_size_is_exported_once_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_form, "KEPT", 2)
    module = network()
    use_onnxruntime(module)
    exported = []

    def noted(logits: onnx_form.OnnxLogits, image: Tensor) -> Callable[[Tensor], Tensor]:
        exported.append(image.shape[-1])
        return module.logits

    monkeypatch.setattr(onnx_form.OnnxLogits, "exported", noted)
    for width in (32, 40, 32, 48, 32, 40):
        with torch.inference_mode():
            module.fast_form().logits(torch.randn(1, 3, 32, width))
    assert exported == [32, 40, 48, 40]


def test_what_onnxruntime_computes_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = network()

    def wrong(image: Tensor) -> Tensor:
        return module.logits(image) + 0.1

    monkeypatch.setattr(onnx_form, "write_onnx", lambda *_: None)
    monkeypatch.setattr(onnx_form, "graph_of", lambda *_: None)
    monkeypatch.setattr(onnx_form, "Runtime", lambda file: wrong)
    use_onnxruntime(module)
    with pytest.raises(ValueError, match=r"at 40x56 onnxruntime computes other logits .*1\.0e-01"):
        module.fast_form().logits(torch.randn(1, 3, 40, 56))


def test_half_precision_is_refused() -> None:
    module = network()
    module.recipe = replace(module.recipe, precision="bf16-mixed")
    with pytest.raises(ValueError, match="32-true, and this network in bf16-mixed; give"):
        use_onnxruntime(module)
