"""Tests of predict(): the class of each pixel, by the network's own mode and precision.

The image may be of any kind.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate

import segmodels
from datamodules.labels import CAMVID
from segmodels.deploy import clear_errors, limit_of
from segmodels.module import SegmentationModule
from segmodels.prediction import choose_device, prepared
from tests.support.checkpoints import built


@pytest.fixture(scope="module")
def module() -> SegmentationModule:
    return built(labels=CAMVID)


def noise(height: int = 75, width: int = 101) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)


def by_hand(module: SegmentationModule, image: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]  # (H, W, 3) -> (1, 3, H, W)
    with torch.no_grad():
        return module(pixels).argmax(1)[0].numpy()


def test_a_prediction_is_the_largest_logit_of_each_pixel(module: SegmentationModule) -> None:
    image = noise()
    label = segmodels.predict(module, image)
    assert label.dtype == np.uint8 and label.shape == (75, 101)
    assert np.array_equal(label, by_hand(module, image))
    assert len(np.unique(label)) > 1


def test_the_recipes_mode_is_computed(module: SegmentationModule) -> None:
    image = noise()
    module.recipe, before = replace(module.recipe, inference="whole+flip"), module.recipe
    flipped = segmodels.predict(module, image)
    module.recipe = before
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]  # (H, W, 3) -> (1, 3, H, W)
    with torch.no_grad():
        shares = module(pixels).softmax(1) + module(pixels.flip(3)).softmax(1).flip(3)
    assert np.array_equal(flipped, shares.argmax(1)[0].numpy())


def test_a_prepared_network_predicts_the_same_but_for_ties(module: SegmentationModule) -> None:
    image = noise()
    fast = prepared(module)
    label = torch.from_numpy(segmodels.predict(fast, image))[None]
    assert fast is not module and len(label.unique()) > 1
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]  # (H, W, 3) -> (1, 3, H, W)
    with torch.no_grad():
        logits = module(pixels)
    assert clear_errors(logits, label, limit_of(logits)) == 0


def test_the_recipes_precision_is_computed(module: SegmentationModule) -> None:
    image = noise()
    module.recipe, before = replace(module.recipe, precision="bf16-mixed"), module.recipe
    half = segmodels.predict(module, image)
    module.recipe = before
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(half, by_hand(module, image))
    assert not np.array_equal(half, by_hand(module, image))


def test_every_form_of_an_image_is_the_same_image(
    module: SegmentationModule, tmp_path: Path
) -> None:
    image = noise()
    file = tmp_path / "street.png"
    Image.fromarray(image).save(file)
    transparent = Image.fromarray(image).convert("RGBA")
    tensor = torch.from_numpy(image).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    wanted = segmodels.predict(module, image)
    for form in (file, str(file), Image.fromarray(image), transparent, tensor):
        assert np.array_equal(segmodels.predict(module, form), wanted)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (noise().astype(np.float32), "float32 pixels of shape"),
        (noise()[..., 0], "are no image; give uint8 RGB"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "is no image"),
        (torch.zeros(3, 8, 8), "float32 pixels"),
        (Image.new("I;16", (8, 8)), "mode I;16 has no 8-bit pixels"),
    ],
)
def test_what_is_no_image_is_refused(module: SegmentationModule, image: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        segmodels.predict(module, image)


@pytest.mark.parametrize(
    ("there", "wanted", "chosen"),
    [
        ((), "auto", "cpu"),
        (("mps",), "auto", "mps"),
        (("cuda", "mps"), "auto", "cuda"),
        (("cuda",), "cpu", "cpu"),
        (("mps",), "mps", "mps"),
        (("mps",), "cuda", "sees no CUDA device; give --device cpu"),
        ((), "mps", "sees no MPS device; give --device cpu"),
    ],
)
def test_the_device_is_the_one_named_or_cuda_then_mps_then_cpu(
    there: tuple[str, ...], wanted: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    if "sees no" in chosen:
        with pytest.raises(ValueError, match=chosen):
            choose_device(wanted)
    else:
        assert choose_device(wanted) == chosen
    assert choose_device("auto", gpus=("cuda",)) == ("cuda" if "cuda" in there else "cpu")


class WithoutFloat64(TorchDispatchMode):
    """Refuse every float64 tensor, as Apple's GPU does."""

    def __torch_dispatch__(
        self, function: object, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        made = function(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
        assert all(each.dtype != torch.float64 for each in tensors), function
        return made


@pytest.mark.parametrize("row", ["bisenet", "pidnet", "stdc"])
def test_losses_gradients_and_a_validation_need_no_float64(row: str) -> None:
    module = segmodels.experiment(row).build(num_classes=4)
    image = torch.from_numpy(np.stack([noise(64, 128), noise(64, 128)])).permute(0, 3, 1, 2)
    label = (image[:, 0] // 64).contiguous()  # (B, 3, H, W) -> (B, H, W), of 4 classes
    maps = []
    if module.label_maps:
        maps = [default_collate([module.label_maps(each.numpy()) for each in label])]
    module.fast = (module.evaluated,)  # as on a GPU: only a CPU folds, which it does in float64
    with WithoutFloat64():
        sum(module.train().losses((image, label, *maps)).values()).backward()
        with torch.no_grad():
            module.eval().validation_step((image, label), 0)
    assert module.confusion.confmat.sum() == label.numel()
