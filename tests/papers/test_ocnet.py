"""Tests of OCNet: object context by loops, both of its modules, and the authors' settings."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segmodels
from segmodels.architectures.ocnet import RELEASED, AspOC, BaseOC, OCNet, object_context
from segmodels.families.openseg import SelfAttention
from segmodels.parts.class_weights import CITYSCAPES
from segmodels.released_checkpoints import layouts
from tests.support.checkpoints import misfit_of_layout
from tests.support.paths import REFERENCE


def drawn(module: nn.Module) -> nn.Module:
    """With random weights, among them those that start at zero."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double().eval()


def by_loops(attention: SelfAttention, x: Tensor) -> Tensor:
    """Object context of one image (1, C, h, w), pair by pair."""
    query, key, value = (
        each(x)[0].flatten(1) for each in (attention.query, attention.key, attention.value)
    )
    mean = torch.zeros_like(value)
    for n in range(query.shape[1]):
        products = [query[:, n] @ key[:, m] / len(query) ** 0.5 for m in range(query.shape[1])]
        total = sum(product.exp() for product in products)
        for m, product in enumerate(products):
            mean[:, n] += product.exp() / total * value[:, m]
    return attention.out(mean.unflatten(1, x.shape[2:])[None])


def test_base_oc_joins_the_map_with_means_by_similarity() -> None:
    operator = drawn(BaseOC(8))
    x = torch.randn(1, 8, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        context = by_loops(operator.context, x)
        expected = operator.fusion(torch.cat([context, x], 1))
        torch.testing.assert_close(operator(x), expected, rtol=1e-9, atol=1e-9)
        assert context.abs().max() > 0.1


def test_asp_oc_sees_objects_at_half_the_size_beside_four_convolutions() -> None:
    """Max-pooling drops the last one of an odd number of rows."""
    operator = drawn(AspOC(8))
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        before = operator.before(x)
        pooled = torch.stack(
            [
                torch.stack([before[0, :, i : i + 2, j : j + 2].amax((1, 2)) for j in (0, 2, 4)], 1)
                for i in (0, 2)
            ],
            1,
        )
        context = by_loops(operator.context, pooled[None])
        context = F.interpolate(context, (5, 6), mode="bilinear", align_corners=True)
        views = [operator.norm(context), *(conv(x) for conv in operator.convs)]
        expected = operator.fusion(torch.cat(views, 1))
        torch.testing.assert_close(operator(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("operator", [BaseOC(16), AspOC(16)])
def test_there_is_no_context_at_first(operator: nn.Module) -> None:
    x = torch.randn(1, 8 if isinstance(operator, AspOC) else 16, 4, 4)
    assert not operator.context(x).any()


def test_widths_of_queries_keys_and_values_are_the_authors() -> None:
    """Key and value have 256 channels of 512 in Base-OC, and 128 of 256 in ASP-OC."""
    base, asp = BaseOC(512), AspOC(512)
    for attention, channels in ((base.context, 512), (asp.context, 256)):
        width = channels // 2
        for part in (attention.query, attention.key):
            sizes = [(layer[0].in_channels, layer[0].out_channels) for layer in part]
            assert sizes == [(channels, width), (width, width)]
        assert (attention.value.in_channels, attention.value.out_channels) == (channels, width)
        assert (attention.out.in_channels, attention.out.out_channels) == (width, channels)
        convolutions = [each for each in attention.modules() if isinstance(each, nn.Conv2d)]
        assert all(each.bias is not None for each in convolutions)
    assert base.fusion[0].bias is not None
    assert asp.before[0].bias is not None
    shapes = [tuple(conv[0].weight.shape) for conv in asp.convs]
    assert shapes == [(256, 512, 1, 1)] + [(256, 512, 3, 3)] * 3
    assert [conv[0].dilation[0] for conv in asp.convs] == [1, 12, 24, 36]
    assert all(conv[0].bias is None for conv in (*asp.convs, asp.fusion))
    assert asp.fusion[0].weight.shape == (512, 5 * 256, 1, 1)
    assert [type(each) for each in asp.norm] == [nn.BatchNorm2d, nn.ReLU]


def test_its_attention_is_that_of_objects() -> None:
    attention = object_context(8, 4, leaky=True)
    assert attention.query[0][2].negative_slope == 0.01
    assert not attention.out.bias.any()


# --- the network


def leaks(network: OCNet, part: str) -> set[float]:
    layers = network.get_submodule(part).modules()
    kinds = (nn.ReLU, nn.LeakyReLU)
    return {getattr(layer, "negative_slope", 0.0) for layer in layers if isinstance(layer, kinds)}


@pytest.mark.parametrize(
    ("row", "operator", "dropout", "slope"),
    [
        ("base", BaseOC, 0.05, 0.01),
        ("base_relu", BaseOC, 0.05, 0.0),
        ("asp", AspOC, 0.1, 0.01),
        ("asp_relu", AspOC, 0.1, 0.0),
    ],
)
def test_rows_differ_in_module_dropout_and_in_place_abn(
    row: str, operator: type[nn.Module], dropout: float, slope: float
) -> None:
    """lib/models/nets/ocnet.py; no channel is dropped in the auxiliary head."""
    network = segmodels.experiment(f"ocnet/{row}").build(5, "meta")
    assert type(network.context[1]) is operator
    dropped = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout2d)]
    assert dropped == [dropout, 0.0]
    assert leaks(network, "context") == leaks(network, "auxiliary") == {slope}
    assert leaks(network, "backbone") == {0.0}


def test_nothing_leaks_in_the_common_network() -> None:
    assert leaks(segmodels.experiment("ocnet/common").build(5, "meta"), "context") == {0.0}


def test_an_operator_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"operator.*asp"):
        OCNet(5, operator="pyramid")


def test_heads_are_the_authors() -> None:
    network = segmodels.experiment("ocnet/base").build(5, "meta")
    for layer, inside in ((network.context[0], 2048), (network.auxiliary[0], 1024)):
        assert layer[0].weight.shape == (512, inside, 3, 3)
        assert layer[0].bias is not None
    assert network.auxiliary_weight == 0.4
    assert network.align_corners
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}


@pytest.mark.parametrize("name", RELEASED)
def test_each_of_the_authors_tensors_has_its_place(name: str) -> None:
    assert not misfit_of_layout(name)
    assert layouts()[name].normalization == layouts()["ocrnet_r101_openseg"].normalization


# --- training


def test_everything_learns_at_one_rate_and_decays_by_weights_of_classes() -> None:
    """configs/cityscapes/R_101_D_8.json; main.py: nbb_mult 1.0."""
    row = segmodels.experiment("ocnet/base")
    groups = row.build(5, "meta").parameter_groups()
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(0.01, 5e-4)}
    assert row.budgets == {"cityscapes": {"class_weights": CITYSCAPES}}


def test_the_rate_falls_as_the_authors_does() -> None:
    case = json.loads((REFERENCE / "schedules.json").read_text())["openseg R101 (40000)"]
    row = segmodels.experiment("ocnet/base")
    assert (row.recipe.iterations, row.recipe.lr) == (case["T"], case["base"])
    schedule = row.build(5, "meta").schedule()
    for step, rate in case["lr"].items():
        assert row.recipe.lr * schedule(int(step)) == pytest.approx(rate, rel=1e-9)
