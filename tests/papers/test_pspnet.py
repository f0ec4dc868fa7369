"""Tests of PSPNet: it is trained and evaluated as by the authors' code."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segmodels
from segmodels.parts.layers import AdaptiveMaxPool
from segmodels.released_checkpoints import layouts
from tests.support.checkpoints import misfit_of_layout
from tests.support.paths import REFERENCE
from tests.support.training_step import (
    assert_terms,
    assert_the_authors_gradients,
    prepared,
    stored,
    weights,
)

SCHEDULES = REFERENCE / "schedules.json"


@pytest.mark.parametrize(
    ("row", "parts", "channels"),
    [
        ("resnet50", (1, 2, 3, 6), [512] * 4),
        ("one_mean", (1,), [2048]),
        ("maxima", (1, 2, 3, 6), [512] * 4),
        ("not_reduced", (1, 2, 3, 6), [2048] * 4),
    ],
)
def test_the_rows_of_table_1_pool_other_parts_and_keep_other_channels(
    row: str, parts: tuple[int, ...], channels: list[int]
) -> None:
    context = segmodels.experiment(f"pspnet/{row}").build(5, "meta").context
    x = torch.zeros(1, 2048, 12, 12, device="meta")
    pooled = [level.eval()(x) for level in context.levels]
    assert [each.shape[-1] for each in pooled] == list(parts)
    assert [each.shape[1] for each in pooled] == channels
    assert context.fusion[0].in_channels == 2048 + sum(channels)
    assert context.fusion[0].out_channels == 512


def test_maxima_are_the_largest_numbers_of_every_part() -> None:
    level = segmodels.experiment("pspnet/maxima").build(5).context.levels[1]
    x = torch.randn(1, 2048, 6, 10)
    expected = x.unflatten(2, (2, 3)).unflatten(4, (2, 5)).amax((3, 5))  # (1, C, 2, 2)
    assert torch.equal(level[0](x), expected)


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(6, 10), (7, 13), (23, 9)])
def test_maxima_are_exported_as_what_they_are(parts: int, size: tuple[int, int]) -> None:
    pool = AdaptiveMaxPool(parts)
    x = torch.randn(2, 3, *size)
    exported = torch.export.export(pool, (x,))
    assert "adaptive_max_pool2d" not in exported.graph_module.code
    assert torch.equal(exported.module()(x), pool(x))


def test_the_authors_tensors_have_their_places_and_all_3x3s_of_late_stages_are_dilated() -> None:
    """model/pspnet.py sets every conv2 of stages 3 and 4, the first one's too."""
    assert not misfit_of_layout("pspnet_r50_semseg")
    backbone = segmodels.experiment("pspnet/resnet50").build(5, "meta").backbone
    for stage, dilation in ((backbone.layer3, 2), (backbone.layer4, 4)):
        assert {block.conv2.dilation for block in stage} == {(dilation, dilation)}


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
    assert segmodels.experiment("pspnet/no_auxiliary").build(5, device="meta").auxiliary is None


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
