"""Tests of CCNet: criss-cross attention by loops, how far it reaches, and the authors' training."""

import json
import math

import pytest
import torch
from torch import Tensor, nn

import segmodels
from segmodels.architectures.ccnet import RELEASED, CCNet, CrissCross
from segmodels.released_checkpoints import layouts
from tests.support.checkpoints import misfit_of_layout
from tests.support.paths import REFERENCE
from tests.support.training_step import (
    assert_the_authors_gradients,
    prepared,
    stored,
)

CHANNELS, HEIGHT, WIDTH = 16, 4, 5


def drawn(recurrence: int) -> CrissCross:
    """With weights large enough for attention to be far from a plain mean."""
    torch.manual_seed(0)
    operator = CrissCross(CHANNELS, recurrence).double()
    for parameter in operator.parameters():
        nn.init.normal_(parameter, std=0.3)
    return operator


def drawn_map(images: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(images, CHANNELS, HEIGHT, WIDTH, generator=random, dtype=torch.float64)


# --- the operator


def cross(row: int, column: int) -> list[tuple[int, int]]:
    """The row and the column of a position, which is itself there once."""
    whole_row = [(row, j) for j in range(WIDTH)]
    rest_of_column = [(i, column) for i in range(HEIGHT) if i != row]
    return whole_row + rest_of_column


def by_loops(operator: CrissCross, x: Tensor) -> Tensor:
    """One pass on one image (1, C, h, w), position by position."""
    query, key, value = operator.query(x)[0], operator.key(x)[0], operator.value(x)[0]
    result = x.clone()
    for row in range(HEIGHT):
        for column in range(WIDTH):
            seen = cross(row, column)
            products = [query[:, row, column] @ key[:, i, j] for i, j in seen]
            total = sum(product.exp() for product in products)
            for (i, j), product in zip(seen, products):
                share = product.exp() / total
                result[0, :, row, column] += operator.gamma[0] * share * value[:, i, j]
    return result


@pytest.mark.parametrize("recurrence", [0, 1, 2, 3])
def test_each_pass_adds_the_softmax_mean_over_row_and_column(recurrence: int) -> None:
    operator, x = drawn(recurrence), drawn_map(images=2)
    with torch.no_grad():
        expected = x
        for _ in range(recurrence):
            expected = torch.cat([by_loops(operator, image[None]) for image in expected])
        torch.testing.assert_close(operator(x), expected, rtol=1e-9, atol=1e-9)


def reached(operator: CrissCross, row: int, column: int) -> set[tuple[int, int]]:
    """The positions that an output depends on, by its gradient."""
    x = drawn_map().requires_grad_()
    operator(x)[0, :, row, column].sum().backward()
    return {tuple(place) for place in x.grad[0].ne(0).any(0).nonzero().tolist()}


@pytest.mark.parametrize("row", range(HEIGHT))
@pytest.mark.parametrize("column", range(WIDTH))
def test_one_pass_reaches_row_and_column_alone_and_two_reach_everything(
    row: int, column: int
) -> None:
    everything = {(i, j) for i in range(HEIGHT) for j in range(WIDTH)}
    assert reached(drawn(1), row, column) == set(cross(row, column))
    assert reached(drawn(2), row, column) == everything


def test_it_starts_as_the_identity_with_queries_of_an_eighth_of_the_channels() -> None:
    operator = CrissCross(64)
    x = torch.randn(1, 64, 5, 6)
    assert torch.equal(operator(x), x)
    assert operator.gamma.shape == (1,)
    shapes = [(each.in_channels, each.out_channels) for each in operator.children()]
    assert shapes == [(64, 8), (64, 8), (64, 64)]
    assert all(each.bias is not None for each in operator.children())


def test_passes_share_their_weights_so_that_others_can_be_made_at_evaluation() -> None:
    assert CrissCross(CHANNELS).recurrence == 2
    once, twice = drawn(1), drawn(2)
    assert {*once.state_dict()} == {*twice.state_dict()}
    assert torch.equal(once(once(drawn_map())), twice(drawn_map()))


# --- the network


@pytest.mark.parametrize(("row", "recurrence"), [("r1", 1), ("r2", 2), ("ohem", 2)])
def test_a_row_has_its_number_of_passes(row: str, recurrence: int) -> None:
    network = segmodels.experiment(f"ccnet/{row}").build(5, "meta")
    assert network.context.operator.recurrence == recurrence
    assert network.context.operator.value.in_channels == 512


def test_all_3x3s_of_late_stages_are_dilated_and_sides_are_rounded_up() -> None:
    """networks/ccnet.py: one dilation for each block of a stage; a max-pooling with ceil_mode."""
    network = segmodels.experiment("ccnet/r2").build(5, "meta")
    for stage, dilation in ((network.backbone.layer3, 2), (network.backbone.layer4, 4)):
        assert {block.conv2.dilation for block in stage} == {(dilation, dilation)}
    assert network.logits(torch.zeros(1, 3, 64, 96, device="meta")).shape == (1, 5, 9, 13)
    stem = [layer.out_channels for layer in network.backbone.conv1 if isinstance(layer, nn.Conv2d)]
    assert stem == [64, 64, 128]
    assert network.align_corners


def test_heads_are_512_wide_drop_whole_channels_and_leak() -> None:
    """Of the convolutions in front of a norm, the auxiliary one alone has a bias."""
    network = segmodels.experiment("ccnet/r2").build(5, "meta")
    head = network.context
    layers = [head.before, head.behind, head.fusion, network.auxiliary[0]]
    inside = [2048, 512, 2048 + 512, 1024]
    assert [(layer[0].in_channels, layer[0].out_channels) for layer in layers] == [
        (each, 512) for each in inside
    ]
    assert [layer[0].bias is not None for layer in layers] == [False, False, False, True]
    assert [layer[2].negative_slope for layer in layers] == [0.01] * 4
    dropped = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout2d)]
    assert dropped == [0.1, 0.1]
    slopes = {type(each) for name, each in network.backbone.named_modules() if "relu" in name}
    assert slopes == {nn.ReLU}
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}


def test_heads_start_as_torchs_layers_do() -> None:
    torch.manual_seed(0)
    network = CCNet(50, depth=50)
    head = network.context
    convolutions = [head.before[0], head.behind[0], head.fusion[0], head.operator.value]
    for conv in (*convolutions, network.classifier[-1], network.auxiliary[-1]):
        fan = conv.weight[0].numel()
        assert conv.weight.std().item() == pytest.approx((3 * fan) ** -0.5, rel=0.05)


# --- released weights


@pytest.mark.parametrize("name", [*RELEASED, "mmseg_ccnet_r50_d8"])
def test_each_of_the_authors_tensors_has_its_place(name: str) -> None:
    assert not misfit_of_layout(name)


def test_the_release_takes_bgr_images_without_their_mean() -> None:
    """train.py: IMG_MEAN; images come from cv2 and are divided by nothing."""
    normalization = layouts()["ccnet_r101"].normalization
    assert (normalization.order, normalization.scale) == ("BGR", 1)
    assert normalization.mean == (104.00698793, 116.66876762, 122.67891434)
    assert normalization.std == (1, 1, 1)


# --- training


@pytest.mark.catalogue
def test_one_training_step_is_the_authors_in_float64() -> None:
    name = "ccnet_r101"
    module, batch = prepared(name)
    for layer in module.modules():
        if isinstance(layer, nn.Dropout2d):
            layer.p = 0.0
    loss = sum(module.losses(batch).values())
    assert loss.item() == pytest.approx(stored(name)["loss_value"], rel=1e-9)
    loss.backward()
    assert_the_authors_gradients(name, module)


@pytest.mark.parametrize("row", ["r2", "ohem"])
def test_hard_pixels_are_mined_by_the_main_loss_alone(row: str) -> None:
    """loss/criterion.py: CriterionOhemDSN."""
    module = segmodels.experiment(f"ccnet/{row}").but(model={"depth": 50}).build(3)
    torch.manual_seed(0)
    main, auxiliary = 4 * torch.randn(2, 1, 3, 9, 9)
    label = torch.randint(3, (1, 65, 65))
    terms = module.criterion({"main": main, "auxiliary": auxiliary}, label)
    plain = module.pixel_loss(auxiliary, label, "cross_entropy")
    assert terms["auxiliary"].item() == pytest.approx(0.4 * plain.item())
    difference = terms["main"] - module.pixel_loss(main, label, "cross_entropy")
    assert math.isclose(difference.item(), 0) == (row == "r2")


def test_everything_learns_at_one_rate_and_decays() -> None:
    """train.py: one group of all parameters."""
    module = segmodels.experiment("ccnet/r2").build(5, "meta")
    groups = {(group["lr"], group["weight_decay"]) for group in module.parameter_groups()}
    assert groups == {(0.01, 1e-4)}


def test_the_rate_falls_as_the_authors_does() -> None:
    case = json.loads((REFERENCE / "schedules.json").read_text())["ccnet (40000)"]
    row = segmodels.experiment("ccnet/r2").but(recipe={"iterations": case["T"]})
    schedule = row.build(5, "meta").schedule()
    for step, rate in case["lr"].items():
        assert row.recipe.lr * schedule(int(step)) == pytest.approx(rate, rel=1e-9)


def test_figures_are_the_best_of_three_runs_and_say_so() -> None:
    for row, runs in (("r1", "77.31, 77.91, 76.89"), ("ohem", "78.67, 80.00, 79.83")):
        (figure,) = segmodels.experiment(f"ccnet/{row}").published
        assert figure.source.endswith(f"best of three runs: {runs}")
        assert figure.miou == max(map(float, runs.split(", ")))
