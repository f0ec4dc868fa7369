"""Tests of predict(): the class of each pixel, by the network's own mode and precision.

The image may be of any kind.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segmodels
from datamodules.labels import CAMVID
from segmodels.module import SegmentationModule
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
