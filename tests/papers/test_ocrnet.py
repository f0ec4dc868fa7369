"""Tests of OCRNet: regions and attention against slow formulas, and what its code lines differ in.

It is trained as by the authors' code.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from segmodels.architectures.ocrnet import (
    EXPERIMENTS,
    RELEASED,
    ObjectAttention,
    OCRNet,
    region_representations,
)
from segmodels.parts.backbones.hrnet import joined
from segmodels.parts.class_weights import CITYSCAPES
from segmodels.parts.layers import resized, resized_with_corners
from segmodels.parts.weight_files import norms_of_abn
from segmodels.ports.mmseg.hrnet import ExchangeMMSeg, HRNetMMSeg, OCRNetMMSeg
from segmodels.released_checkpoints import layouts
from tests.support.checkpoints import misfit_of_layout
from tests.support.training_step import (
    assert_terms,
    assert_the_authors_gradients,
    prepared,
    stored,
)

# --- object-contextual representations


def test_a_region_is_a_mean_of_pixels_by_the_softmax_of_its_logits_over_all_pixels() -> None:
    pixels = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    regions = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    found = region_representations(pixels, regions)
    assert found.shape == (2, 4, 6, 1)
    for image in range(2):
        for k in range(6):
            total = regions[image, k].exp().sum()
            mean = torch.zeros(4, dtype=torch.float64)
            for row in range(3):
                for column in range(5):
                    share = regions[image, k, row, column].exp() / total
                    mean += share * pixels[image, :, row, column]
            torch.testing.assert_close(found[image, :, k, 0], mean, rtol=0, atol=1e-12)


def test_each_pixel_looks_at_the_objects_by_the_softmax_of_scaled_products() -> None:
    attention = ObjectAttention(8, 4).double().eval()
    pixels = torch.randn(1, 8, 2, 3, dtype=torch.float64)
    objects = torch.randn(1, 8, 5, 1, dtype=torch.float64)
    query, key, value = attention.phi(pixels), attention.psi(objects), attention.delta(objects)
    context = torch.zeros(1, 4, 2, 3, dtype=torch.float64)
    for row in range(2):
        for column in range(3):
            products = [query[0, :, row, column] @ key[0, :, k, 0] / 4**0.5 for k in range(5)]
            total = sum(product.exp() for product in products)
            for k, product in enumerate(products):
                context[0, :, row, column] += product.exp() / total * value[0, :, k, 0]
    expected = attention.rho(context)
    torch.testing.assert_close(attention(pixels, objects), expected, rtol=0, atol=1e-12)


def test_the_transforms_of_pixels_and_objects_are_two_layers_and_the_others_one() -> None:
    attention = ObjectAttention(8, 4)
    for part in (attention.phi, attention.psi):
        assert [(layer[0].in_channels, layer[0].out_channels) for layer in part] == [(8, 4), (4, 4)]
        for layer in part:
            assert [type(each) for each in layer] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert (attention.delta[0].out_channels, attention.rho[0].out_channels) == (4, 8)
    assert len(attention.delta) == len(attention.rho) == 3


# --- the network


def narrow(row: str, num_classes: int = 3) -> OCRNet:
    return EXPERIMENTS[row].but(model={"width": 8}).build(num_classes).eval()


def outputs(network: OCRNet, image: Tensor) -> tuple[Tensor, ...]:
    """Its parts, put together as the drawing has them: the coarse map, the deep one, logits."""
    maps = network.backbone(image)
    assert [x.shape[1] for x in maps] == list(network.backbone.channels)
    coarse, deep = maps[-2:]
    pixels = network.pixels(deep)
    context = network.attention(pixels, region_representations(pixels, network.regions(coarse)))
    return coarse, deep, network.classifier(network.fusion(torch.cat([context, pixels], 1)))


@pytest.mark.parametrize("row", ["hrnet_w48", "resnet101"])
def test_regions_are_an_output_of_training_and_part_of_the_logits(row: str) -> None:
    network, image = narrow(row), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found = network.outputs(image)
        coarse, _, logits = outputs(network, image)
    assert set(found) == {"main", "regions"}
    torch.testing.assert_close(found["main"], logits, rtol=0, atol=0)
    torch.testing.assert_close(found["regions"], network.regions(coarse), rtol=0, atol=0)


def test_on_hrnet_both_maps_are_its_branches_joined_with_aligned_corners() -> None:
    network, image = narrow("hrnet_w48"), torch.randn(1, 3, 72, 104)
    maps = super(type(network.backbone), network.backbone).forward(image)
    coarse, deep, logits = outputs(network, image)
    expected = joined(maps, resized_with_corners)
    assert torch.equal(coarse, expected)
    assert torch.equal(deep, expected)
    assert not torch.equal(joined(maps, resized), expected)
    assert logits.shape == (1, 3, 18, 26)
    assert network.backbone.stage3[0].resize is resized_with_corners


def test_on_resnet_regions_read_stage_3_and_sides_are_rounded_up() -> None:
    """A max-pooling with ceil_mode: 64 x 96 pixels make 9 x 13."""
    network = narrow("resnet101")
    maps = network.backbone(torch.randn(1, 3, 64, 96))
    assert [x.shape[1:] for x in maps[2:]] == [(128, 9, 13), (256, 9, 13)]
    dilations = [
        [block.conv2.dilation[0] for block in stage][:2]
        for stage in (network.backbone.layer3, network.backbone.layer4)
    ]
    assert dilations == [[1, 2], [2, 4]]
    assert [
        layer.out_channels for layer in network.backbone.conv1 if isinstance(layer, nn.Conv2d)
    ] == [8 * 8, 64, 128]


def test_the_sizes_are_the_authors() -> None:
    """512 channels of a pixel, 256 of keys and values; batch norm forgets as torch's does."""
    for row, channels in (("hrnet_w48", 15 * 8), ("resnet101", 8 * 4 * 8)):
        network = narrow(row)
        kernels = [network.pixels[0], network.attention.phi[1][0], network.fusion[0]]
        shapes = [tuple(conv.weight.shape) for conv in kernels]
        assert shapes == [(512, channels, 3, 3), (256, 256, 1, 1), (512, 1024, 1, 1)]
        assert network.align_corners
        norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert {norm.momentum for norm in norms} == {0.1}


@pytest.mark.parametrize(
    ("row", "kernel", "dropped", "biased"),
    [("hrnet_w48", 1, [0.05], {"pixels", "regions"}), ("resnet101", 3, [0.05, 0.05], None)],
)
def test_heads_differ_between_the_two_repositories(
    row: str, kernel: int, dropped: list[float], biased: set[str] | None
) -> None:
    """Which convolutions have a bias before a norm, and where whole channels are dropped."""
    network = narrow(row)
    assert network.regions[0].kernel_size == (kernel, kernel)
    assert network.regions[0].out_channels == (15 * 8 if kernel == 1 else 512)
    found = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout2d)]
    assert found == dropped
    assert isinstance(network.fusion[-1], nn.Dropout2d)
    for name, layer in network.named_modules():
        part = name.partition(".")[0]
        if isinstance(layer, nn.Conv2d) and part != "backbone":
            last = layer.out_channels == network.num_classes
            expected = last or biased is None or part in biased
            assert (layer.bias is not None) == expected, name


@pytest.mark.parametrize(
    ("row", "slope"), [("hrnet_w48", 0.0), ("resnet101", 0.01), ("resnet101_relu", 0.0)]
)
def test_in_place_abn_leaks_in_the_heads_alone(row: str, slope: float) -> None:
    network = narrow(row)
    kinds = {"backbone": set(), "heads": set()}
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.ReLU, nn.LeakyReLU)):
            where = "backbone" if name.startswith("backbone") else "heads"
            kinds[where].add(getattr(layer, "negative_slope", 0.0))
    assert kinds == {"backbone": {0.0}, "heads": {slope}}


def test_scales_of_in_place_abn_are_made_positive() -> None:
    state = {"a.weight": torch.tensor([-2.0, 0.0, 1.0]), "a.bias": torch.tensor([-1.0])}
    state |= {"b.weight": torch.full((1, 1), -1.0), "c.weight": torch.tensor([-3.0])}
    found = norms_of_abn(state, but=("c.",))
    torch.testing.assert_close(found["a.weight"], torch.tensor([2.00001, 0.00001, 1.00001]))
    for name in ("a.bias", "b.weight", "c.weight"):
        assert torch.equal(found[name], state[name])
    assert norms_of_abn(state)["c.weight"].item() == pytest.approx(3.00001)
    assert layouts()["ocrnet_r101_openseg_abn"].convert is norms_of_abn
    assert layouts()["ocrnet_r101_openseg"].convert is None


@pytest.mark.parametrize("name", RELEASED)
def test_each_of_the_authors_tensors_has_its_place(name: str) -> None:
    assert not misfit_of_layout(name)


@pytest.mark.parametrize("name", ["ocrnet_r101_openseg", "ocrnet_r101_openseg_abn"])
def test_released_resnets_take_bgr_images_without_their_mean(name: str) -> None:
    """configs/cityscapes/R_101_D_8.json: div_value 1.0, mean, std; input_mode BGR."""
    normalization = layouts()[name].normalization
    assert (normalization.order, normalization.scale) == ("BGR", 1)
    assert normalization.mean == (102.9801, 115.9465, 122.7717)
    assert normalization.std == (1, 1, 1)


@pytest.mark.parametrize("row", ["hrnet_w18", "hrnet_w48"])
def test_an_hrnet_starts_from_weights_of_its_width(row: str) -> None:
    assert row == f"hrnet_w{EXPERIMENTS[row].model['width']}"
    assert EXPERIMENTS[row].starts_from.startswith(f"{row}.")


def test_backbones_convolutions_start_small_and_those_of_heads_as_torchs() -> None:
    """init_weights of seg_hrnet_ocr.py leaves out what is called cls, aux or ocr."""
    torch.manual_seed(0)
    network = narrow("hrnet_w48")
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.weight[0].numel()
            std = 0.001 if name.startswith("backbone") else (3 * fan) ** -0.5
            assert layer.weight.std().item() == pytest.approx(std, rel=0.25), name


# --- mmsegmentation's networks


@pytest.mark.parametrize("network", [HRNetMMSeg, OCRNetMMSeg])
def test_mmsegs_heads_have_no_bias_and_no_dropout_and_start_as_its_own(
    network: type[HRNetMMSeg] | type[OCRNetMMSeg],
) -> None:
    torch.manual_seed(0)
    module = network(19, width=8)
    assert not module.align_corners
    assert module.recipe.loss == "cross_entropy:all"
    assert type(module.backbone.stage2[0]) is ExchangeMMSeg
    assert not any(isinstance(layer, nn.Dropout2d) for layer in module.modules())
    for name, layer in module.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.momentum == 0.1
        if not isinstance(layer, nn.Conv2d) or name.startswith("backbone"):
            continue
        fan = layer.out_channels * layer.kernel_size[0] ** 2
        classifies = layer.out_channels == 19
        std = 0.01 if classifies else (2 / fan) ** 0.5
        assert layer.weight.std().item() == pytest.approx(std, rel=0.1), name
        assert (layer.bias is not None) == classifies
        assert not classifies or layer.bias.abs().max() == 0


# --- training


@pytest.mark.catalogue
def test_one_training_step_is_the_authors_in_float64() -> None:
    name = "hrnetv2_w48_ocr"
    module, batch = prepared(name)
    module.recipe = replace(module.recipe, class_weights=CITYSCAPES)
    module.fusion[-1].p = 0.0
    authors = stored(name)["terms"]
    terms = module.losses(batch)
    assert_terms(terms, {"main": authors["main"], "regions": 0.4 * authors["aux"]})
    sum(terms.values()).backward()
    assert_the_authors_gradients(name, module)


@pytest.mark.catalogue
def test_one_training_step_of_mmsegs_is_mmsegs_in_float64() -> None:
    name = "mmseg_ocrnet_hr18"
    module, batch = prepared(name)
    theirs = stored(name)["terms"]
    terms = module.losses(batch)
    expected = {"main": theirs["decode_1.loss_ce"], "regions": theirs["decode_0.loss_ce"]}
    assert_terms(terms, expected)
    sum(terms.values()).backward()
    assert_the_authors_gradients(name, module)


def test_without_supervision_the_regions_learn_from_the_pixels_loss_alone() -> None:
    network = narrow("no_region_supervision").train()
    batch = torch.randn(2, 3, 32, 64), torch.randint(3, (2, 32, 64))
    terms = network.losses(batch)
    assert set(terms) == {"main"}
    terms["main"].backward()
    assert network.regions[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("row", EXPERIMENTS)
def test_the_loss_of_the_regions_weighs_two_fifths_where_there_is_one(row: str) -> None:
    weight = narrow(row).auxiliary_weight
    assert weight == (0.0 if row == "no_region_supervision" else 0.4)


@pytest.mark.parametrize("row", ["hrnet_w48", "resnet101"])
def test_everything_learns_at_one_rate_and_decays(row: str) -> None:
    """tools/train.py of HRNet without NONBACKBONE_KEYWORDS; main.py of openseg: nbb_mult 1.0."""
    module = narrow(row)
    for name, parameter in list(module.named_parameters())[::40]:
        assert module.lr_scale(name, parameter) == 1
        assert module.decays(name, parameter)
