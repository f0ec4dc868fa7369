"""Tests of FCN: on VGG16 against its released description and slow formulas, and on a dilated
ResNet, which equals torchvision's network layer by layer."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import segmentation

import segmodels
from segmodels.architectures.fcn import FCN, RELEASED, DilatedFCN, upsampling
from segmodels.own_checkpoints import start_from
from segmodels.paper import inference_parameters
from tests.support.networks import with_lively_norms

ROWS = ("vgg16_32s", "vgg16_16s", "vgg16_8s", "vgg16_8s_at_once")
SETTINGS = {
    "vgg16_32s": (32, False, 1e-10, 100_000),
    "vgg16_16s": (16, False, 1e-12, 100_000),
    "vgg16_8s": (8, False, 1e-14, 100_000),
    "vgg16_8s_at_once": (8, True, 1e-10, 300_000),
}


# --- VGG16


def narrow(row: str, num_classes: int = 3) -> FCN:
    return segmodels.experiment(f"fcn/{row}").but(model={"width": 4}).build(num_classes)


def drawn(row: str) -> FCN:
    """A narrow network in which every score differs from zero."""
    module = narrow(row).eval()
    for score in module.score:
        nn.init.normal_(score.weight)
        nn.init.normal_(score.bias)
    return module


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_the_released_network_and_its_solver(row: str) -> None:
    """shelhamer/fcn.berkeleyvision.org: voc-fcn*/net.py and solver.prototxt."""
    stride, at_once, rate, steps = SETTINGS[row]
    experiment = segmodels.experiment(f"fcn/{row}")
    recipe = experiment.recipe
    assert (recipe.lr, recipe.iterations) == (rate, steps)
    assert (recipe.loss, recipe.momentum, recipe.batch) == ("cross_entropy:sum", 0.99, 1)
    module = experiment.build(21, "meta")
    convs = [each for each in module.backbone.features if isinstance(each, nn.Conv2d)]
    assert [each.padding[0] for each in convs] == [100] + [1] * 12
    fc6, fc7 = module.backbone.pre_logits.fc1, module.backbone.pre_logits.fc2
    assert fc6.weight.shape == (4096, 512, 7, 7) and fc6.padding == (0, 0)
    assert fc7.weight.shape == (4096, 4096, 1, 1)
    ups = {32: [(64, 32)], 16: [(4, 2), (32, 16)], 8: [(4, 2), (4, 2), (16, 8)]}[stride]
    assert [(up.kernel_size[0], up.stride[0]) for up in module.up] == ups
    assert [score.in_channels for score in module.score] == [4096, 512, 256][: len(ups)]
    assert module.scales == ((0.01, 0.0001) if at_once else (1.0, 1.0))


@pytest.mark.parametrize("row", ROWS)
def test_biases_learn_twice_as_fast_without_decay_and_upsampling_stays(row: str) -> None:
    module = narrow(row)
    found = {}
    for group in module.parameter_groups():
        for parameter in group["params"]:
            found[id(parameter)] = (group["lr"] / SETTINGS[row][2], group["weight_decay"])
    for name, parameter in module.named_parameters():
        rate, decay = found[id(parameter)]
        if name.startswith("up."):
            assert rate == 0
        elif name.endswith("bias"):
            assert (rate, decay) == (pytest.approx(2), 0)
        else:
            assert (rate, decay) == (pytest.approx(1), 5e-4)


@pytest.mark.parametrize("factor", [2, 8])
def test_upsampling_interpolates_each_class_by_itself(factor: int) -> None:
    """Inside, torch's own by the same factor; around it the values fade out by half a kernel."""
    x = torch.randn(1, 3, 5, 6)
    side = factor // 2
    with torch.no_grad():
        ours = upsampling(3, factor)(x)
    theirs = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear")
    assert ours.shape == (1, 3, 6 * factor, 7 * factor)
    inside = ours[..., side : side + 5 * factor, side : side + 6 * factor]
    away = slice(side, -side)
    torch.testing.assert_close(inside[..., away, away], theirs[..., away, away])


@pytest.mark.parametrize("row", ROWS)
def test_scores_are_joined_where_they_are_of_the_same_pixels(row: str) -> None:
    """Cut at the offsets of the released train.prototxt: 5, 9, and 19, 27 or 31."""
    module = drawn(row)
    image = torch.randn(1, 3, 37, 50)
    scale4, scale3 = (0.01, 0.0001) if row.endswith("at_once") else (1, 1)
    with torch.no_grad():
        *_, third, fourth, _, deep = module.backbone(image)
        x = module.score[0](deep)
        if row != "vgg16_32s":
            x = module.up[0](x)
            wide, high = x.shape[3], x.shape[2]
            x = x + module.score[1](scale4 * fourth)[..., 5 : 5 + high, 5 : 5 + wide]
        if row.startswith("vgg16_8s"):
            x = module.up[1](x)
            wide, high = x.shape[3], x.shape[2]
            x = x + module.score[2](scale3 * third)[..., 9 : 9 + high, 9 : 9 + wide]
        offset = {"vgg16_32s": 19, "vgg16_16s": 27}.get(row, 31)
        x = module.up[-1](x)[..., offset : offset + 37, offset : offset + 50]
        torch.testing.assert_close(module(image), x)


def test_the_offsets_bring_the_centers_of_maps_to_those_of_pixels() -> None:
    """A pixel at the center of what a score sees gets that score most: 32i + 12.5 for fc7."""
    first = 3 * 32 + 15.5 - 99  # center of 7 cells of pool5, which begin 99 pixels before the image
    up, crop = 31.5, 19  # center of a kernel of 64, and what is cut off
    assert first == up - crop


def densely(layers: list[nn.Module], x: Tensor) -> Tensor:
    """Trade every stride for dilation of what follows, and pad nothing (section 3.2)."""
    dilation = 1
    for each in layers:
        if isinstance(each, nn.Conv2d):
            x = nn.functional.conv2d(x, each.weight, each.bias, dilation=dilation)
        elif isinstance(each, nn.MaxPool2d):
            x = nn.functional.max_pool2d(x, 2, stride=1, dilation=dilation)
            dilation *= 2
        else:
            x = each(x)
    return x


def test_the_scores_of_a_shifted_image_are_those_of_dense_evaluation() -> None:
    """Of FCN-32s before upsampling, where all 404 pixels that a score sees are of the image."""
    module = drawn("vgg16_32s")
    backbone = module.backbone
    image = torch.randn(1, 3, 440, 440)
    with torch.no_grad():
        dense = densely([*backbone.features, *backbone.pre_logits, module.score[0]], image)
        assert dense.shape == (1, 3, 37, 37)
        for down, right in ((0, 0), (5, 31), (17, 2)):
            shifted = nn.functional.pad(image, (right, 31 - right, down, 31 - down))
            scores = module.score[0](module.features(shifted).maps[0])
            # Score 7 begins to see at 7 * 32 - 189 = 35, and is centered at 7 * 32 + 12.5.
            expected = dense[..., 35 - down, 35 - right]
            torch.testing.assert_close(scores[..., 7, 7], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (33, 70)])
def test_the_padding_lets_the_network_take_images_of_any_size(size: tuple[int, int]) -> None:
    for row in ROWS:
        with torch.no_grad():
            assert drawn(row).logits(torch.randn(1, 3, *size)).shape == (1, 3, *size)


def test_scores_start_at_zero_and_values_are_dropped_behind_fc6_and_fc7() -> None:
    module = FCN(3, width=4)
    assert len(module.score) == 3  # the finest, if nothing else is said
    assert not any(each.any() for score in module.score for each in score.parameters())
    drops = [each for each in module.modules() if isinstance(each, nn.Dropout)]
    assert [each.p for each in drops] == [0.5, 0.5]


def test_a_finer_network_starts_from_a_coarser_one_whose_logits_it_has_at_first(
    tmp_path: Path,
) -> None:
    """Its new scores are zero and its upsampling is bilinear, in two steps instead of one."""
    coarse, fine = drawn("vgg16_32s"), narrow("vgg16_16s").eval()
    torch.save(coarse.state_dict(), tmp_path / "coarse.pth")
    said = start_from(fine, tmp_path / "coarse.pth")
    assert "start anew: score.1, up.0, up.1" in said and "left out" not in said
    assert torch.equal(fine.score[0].weight, coarse.score[0].weight)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        difference = (fine(image) - coarse(image)).abs().max()
        assert difference < 0.2 * coarse(image).abs().max()
    finest = narrow("vgg16_8s")
    torch.save(fine.state_dict(), tmp_path / "fine.pth")
    assert "start anew: score.2, up.1, up.2" in start_from(finest, tmp_path / "fine.pth")


def test_on_the_built_in_streets_the_loss_is_a_mean_and_the_rate_an_ordinary_one() -> None:
    for row in ROWS:
        budget = segmodels.experiment(f"fcn/{row}").budgets["streets"]
        assert budget["loss"] == "cross_entropy" and 1e-5 <= budget["lr"] <= 1e-3


# --- a dilated ResNet


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    found = segmentation.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    return with_lively_norms(found)


@pytest.fixture(scope="module")
def ours(theirs: nn.Module) -> DilatedFCN:
    return segmodels.from_released("fcn_resnet50_torchvision", theirs.state_dict())


def test_both_outputs_are_torchvisions(theirs: nn.Module, ours: DilatedFCN) -> None:
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        wanted, found = theirs.eval()(image), ours.outputs(image)
        for name, key in (("main", "out"), ("auxiliary", "aux")):
            full = nn.functional.interpolate(found[name], (65, 97), mode="bilinear")
            torch.testing.assert_close(full, wanted[key], rtol=1e-4, atol=1e-4)


def test_what_is_dropped_in_training_is_torchvisions(theirs: nn.Module, ours: DilatedFCN) -> None:
    heads = ((theirs.classifier, ours.classifier), (theirs.aux_classifier, ours.auxiliary))
    for head, own in heads:
        (drop,) = (layer for layer in head.modules() if isinstance(layer, nn.Dropout))
        (mine,) = (layer for layer in own.modules() if isinstance(layer, nn.Dropout))
        assert type(mine) is type(drop) and mine.p == drop.p


def test_the_auxiliary_head_weighs_a_half_and_is_left_out_where_it_weighs_nothing() -> None:
    """loss = losses["out"] + 0.5 * losses["aux"], in train.py of torchvision's references."""
    label = torch.randint(5, (2, 64, 96), dtype=torch.uint8)
    image = torch.randn(2, 3, 64, 96)
    main, without = (segmodels.experiment(f"fcn/{row}") for row in ("resnet50", "no_auxiliary"))
    module = main.build(5).eval()
    with torch.no_grad():
        terms, outputs = module.losses((image, label)), module.outputs(image)
        full = nn.functional.interpolate(outputs["auxiliary"], (64, 96), mode="bilinear")
        loss = nn.functional.cross_entropy(full, label.long())
    torch.testing.assert_close(terms["auxiliary"], 0.5 * loss)
    assert set(without.build(5).losses((image, label))) == {"main"}
    assert inference_parameters(main) == inference_parameters(without)


@pytest.mark.parametrize(("row", "depth"), [("resnet50", 50), ("resnet101", 101)])
def test_a_row_has_the_depth_of_its_name(row: str, depth: int) -> None:
    count = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}[depth]
    backbone = segmodels.experiment(f"fcn/{row}").build(5, "meta").backbone
    stages = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    assert [len(stage) for stage in stages] == count
    assert DilatedFCN(5).backbone.channels == (256, 512, 1024, 2048)


def test_every_layout_is_of_the_row_that_it_names() -> None:
    assert {name: layout.address for name, layout in RELEASED.items()} == {
        "fcn32s_vgg16_wkentaro": "fcn/vgg16_32s",
        "fcn8s_vgg16_wkentaro": "fcn/vgg16_8s",
        "fcn_resnet50_torchvision": "fcn/resnet50",
        "fcn_resnet101_torchvision": "fcn/resnet101",
    }


def test_names_of_caffes_layers_become_those_of_the_same_convolutions() -> None:
    """conv1_1 to conv5_3, in the order in which they see the image."""
    blocks = ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3))
    given = [f"conv{block}_{number + 1}" for block, count in blocks for number in range(count)]
    features = narrow("vgg16_8s").backbone.features
    wanted = [place for place, each in enumerate(features) if isinstance(each, nn.Conv2d)]
    state = {f"{name}.bias": torch.zeros(0) for name in given}
    found = RELEASED["fcn8s_vgg16_wkentaro"].renamed(state)
    assert list(found) == [f"backbone.features.{place}.bias" for place in wanted]


def test_images_of_the_authors_networks_are_caffes() -> None:
    """torchfcn/datasets/voc.py of wkentaro's pytorch-fcn: 0 to 255, blue first, less the mean."""
    settings = RELEASED["fcn8s_vgg16_wkentaro"].normalization
    module = narrow("vgg16_32s")
    module.normalization = settings
    pixel = torch.tensor([30, 20, 10], dtype=torch.uint8).view(1, 3, 1, 1)
    found = module.normalized(pixel).flatten()
    mean = torch.tensor([104.00698793, 116.66876762, 122.67891434])
    torch.testing.assert_close(found, torch.tensor([10.0, 20.0, 30.0]) - mean)
    assert RELEASED["fcn32s_vgg16_wkentaro"].normalization == settings
