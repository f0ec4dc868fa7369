"""Tests of PSPNet: its pyramid is means over parts of the map.

It is trained and evaluated as by the authors' code.
"""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segmodels
from segmodels.architectures.pspnet import PyramidPooling
from segmodels.released_checkpoints import layouts
from tests.support.paths import REFERENCE
from tests.support.training_step import (
    assert_terms,
    assert_the_authors_gradients,
    prepared,
    stored,
    weights,
)

SCHEDULES = REFERENCE / "schedules.json"

# --- pyramid pooling


def means(x: Tensor, parts: int) -> Tensor:
    """(C, h, w) -> (C, parts, parts) by loops; parts overlap where they do not divide a side."""
    channels, height, width = x.shape
    found = torch.zeros(channels, parts, parts, dtype=x.dtype)
    for row in range(parts):
        for column in range(parts):
            top, bottom = row * height // parts, math.ceil((row + 1) * height / parts)
            left, right = column * width // parts, math.ceil((column + 1) * width / parts)
            found[:, row, column] = x[:, top:bottom, left:right].mean((1, 2))
    return found


def at(small: Tensor, place: float, side: int, align_corners: bool) -> tuple[int, int, float]:
    """The two neighbors of a pixel of the large map along one side, and the share of the second."""
    length = small.shape[-1]
    position = place * (length - 1) / (side - 1)
    if not align_corners:
        position = max((place + 0.5) * length / side - 0.5, 0)
    first = min(int(position), length - 1)
    return first, min(first + 1, length - 1), position - first


def enlarged(small: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    found = torch.zeros(len(small), height, width, dtype=small.dtype)
    for y in range(height):
        up, down, lower = at(small, y, height, align_corners)
        for x in range(width):
            left, right, later = at(small, x, width, align_corners)
            above = (1 - later) * small[:, up, left] + later * small[:, up, right]
            below = (1 - later) * small[:, down, left] + later * small[:, down, right]
            found[:, y, x] = (1 - lower) * above + lower * below
    return found


@pytest.mark.parametrize("align_corners", [True, False])
def test_the_pyramid_puts_means_over_1_4_9_and_36_parts_beside_the_map(
    align_corners: bool,
) -> None:
    pyramid = PyramidPooling(8, 3, align_corners=align_corners).double().eval()
    x = torch.randn(1, 8, 7, 10, dtype=torch.float64)
    seen = [x[0]]
    for parts, level in zip((1, 2, 3, 6), pyramid.levels, strict=True):
        projected = level[1](means(x[0], parts)[None])[0]
        assert projected.shape == (2, parts, parts)
        seen.append(enlarged(projected, 7, 10, align_corners))
    expected = pyramid.fusion(torch.cat(seen)[None])
    torch.testing.assert_close(pyramid(x), expected, rtol=0, atol=1e-12)


# --- sizes


def test_images_are_padded_to_the_next_size_of_8k_plus_1() -> None:
    network = segmodels.experiment("pspnet").build(5, device="meta")
    for side in range(1, 40):
        assert network.valid_side(side) == next(n for n in range(side, side + 8) if n % 8 == 1)


def test_an_image_of_another_size_is_judged_as_the_padded_one() -> None:
    """With the mean, on the right and at the bottom; logits of a valid size are met every 8 pixels."""
    network = segmodels.experiment("pspnet").build(5).double().eval()
    image = torch.randn(1, 3, 60, 70, dtype=torch.float64)
    with torch.no_grad():
        whole = network(F.pad(image, (0, 3, 0, 5)))
        torch.testing.assert_close(network(image), whole[..., :60, :70])
        small = network.logits(F.pad(image, (0, 3, 0, 5)))
    torch.testing.assert_close(whole[..., ::8, ::8], small)


# --- training


@pytest.mark.catalogue
def test_one_training_step_is_the_authors_in_float64() -> None:
    """Loss terms, gradients and batch-norm statistics."""
    name = "pspnet_r50_semseg"
    module, batch = prepared(name)
    for layer in module.modules():
        if isinstance(layer, nn.Dropout2d):
            assert layer.p == 0.1
            layer.p = 0.0
    authors = stored(name)["terms"]
    terms = module.losses(batch)
    assert_terms(terms, {"main": authors["main"], "auxiliary": 0.4 * authors["aux"]})
    sum(terms.values()).backward()
    assert_the_authors_gradients(name, module)


def test_dropout_of_whole_channels_stands_in_front_of_both_classifiers() -> None:
    network = segmodels.experiment("pspnet").build(5, device="meta")
    for head in (network.classifier, network.auxiliary):
        assert isinstance(head[-2], nn.Dropout2d)
        assert isinstance(head[-1], nn.Conv2d)


def test_heads_learn_at_ten_times_the_rate_and_everything_decays() -> None:
    """tool/train.py: five groups of layers at base_lr, three of the head at ten times that."""
    module = segmodels.experiment("pspnet/resnet50").build()
    ours = {}
    for group in module.parameter_groups():
        for parameter in group["params"]:
            ours[parameter] = group["lr"], group["weight_decay"]
    renamed = layouts()["pspnet_r50_semseg"].renamed
    for theirs, value in weights("pspnet_r50_semseg").items():
        if theirs.endswith(("weight", "bias")):
            (name,) = renamed({theirs: value})
            expected = 0.01 if theirs.startswith("layer") else 0.1
            assert ours.pop(module.get_parameter(name)) == pytest.approx((expected, 1e-4))
    assert not ours


def test_the_rate_is_the_authors_over_200_epochs() -> None:
    case = json.loads(SCHEDULES.read_text())["semseg PSPNet/PSANet (200 epochs of 185)"]
    recipe = segmodels.experiment("pspnet").recipe
    assert (recipe.iterations, recipe.lr) == (case["T"], case["base"])
    schedule = segmodels.experiment("pspnet").build(5, device="meta").schedule()
    for step, rate in case["lr"].items():
        assert recipe.lr * schedule(int(step)) == pytest.approx(rate, rel=1e-9)


def test_the_recipe_is_that_of_the_authors_configuration() -> None:
    """config/cityscapes/cityscapes_pspnet50.yaml, and the chances that util/transform.py has."""
    theirs = {
        "crop": (713, 713),
        "scales": (0.5, 2.0),
        "continuous": True,
        "rotation": 10.0,
        "rotation_chance": 0.5,
        "blur": "kernel:5",
        "blur_chance": 0.5,
        "flip": 0.5,
        "batch": 16,
        "power": 0.9,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "loss": "cross_entropy",
    }
    recipe = segmodels.experiment("pspnet").recipe
    assert {name: getattr(recipe, name) for name in theirs} == theirs
    assert segmodels.experiment("pspnet").build(5, device="meta").auxiliary_weight == 0.4
