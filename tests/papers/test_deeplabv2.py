"""Tests of DeepLab v2: rates side by side, three scales and their maximum, labels at the strides of
the scores, norms that stay as they start, and what differs in the port."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import segmodels
from segmodels.architectures.deeplabv2 import AtrousBranches, AtrousScores, DeepLabV2
from segmodels.parts.backbones.vgg import VGG16
from segmodels.ports.kazuto.deeplabv2 import RELEASED, DeepLabV2Kazuto


@pytest.fixture(scope="module")
def network() -> DeepLabV2:
    return segmodels.experiment("deeplabv2").build(5)


def on_meta(**options: object) -> DeepLabV2:
    with torch.device("meta"):
        return DeepLabV2(5, **options)


# --- what it is made of


def convolved(x: Tensor, conv: nn.Conv2d, rate: int) -> Tensor:
    """A 3x3 at a rate, by loops over its taps: (C, h, w) -> (classes, h, w)."""
    _, height, width = x.shape
    found = conv.bias[:, None, None].expand(-1, height, width).clone()
    for y in range(height):
        for x_ in range(width):
            for row in range(3):
                for column in range(3):
                    above, left = y + rate * (row - 1), x_ + rate * (column - 1)
                    if 0 <= above < height and 0 <= left < width:
                        found[:, y, x_] += conv.weight[:, :, row, column] @ x[:, above, left]
    return found


def test_scores_are_the_sum_of_3x3s_at_each_rate() -> None:
    scores = AtrousScores(3, 2, (1, 2, 4)).double()
    x = torch.randn(1, 3, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        for conv in scores:
            nn.init.normal_(conv.bias)
        wanted = sum(convolved(x[0], conv, rate) for conv, rate in zip(scores, (1, 2, 4)))
        torch.testing.assert_close(scores(x)[0], wanted)


def test_without_rates_there_is_a_1x1() -> None:
    (conv,) = on_meta(rates=()).classifier
    assert conv.kernel_size == (1, 1) and conv.bias is not None


def test_classifiers_are_drawn_with_a_deviation_of_a_hundredth_and_no_bias(
    network: DeepLabV2,
) -> None:
    vgg = DeepLabV2(5, "vgg16", scales=())
    for layer in [*network.classifier, vgg.classifier]:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not layer.bias.any()


def test_resnet_strides_in_the_first_1x1_and_dilates_whole_stages(network: DeepLabV2) -> None:
    backbone = network.backbone
    stages = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    assert [len(stage) for stage in stages] == [3, 4, 23, 3]
    assert [stage[0].conv1.stride for stage in stages] == [(1, 1), (2, 2), (1, 1), (1, 1)]
    assert {block.conv2.stride for stage in stages for block in stage} == {(1, 1)}
    dilations = [{block.conv2.dilation[0] for block in stage} for stage in stages]
    assert dilations == [{1}, {1}, {2}, {4}]


def test_the_branches_of_vgg16_read_pool5_at_their_rates_and_are_classified_together() -> None:
    network = on_meta(backbone="vgg16", rates=(2, 4, 8, 12), scales=())
    branches = network.backbone.pre_logits
    assert [branch.fc1.dilation[0] for branch in branches] == [2, 4, 8, 12]
    assert [branch.fc1.padding[0] for branch in branches] == [2, 4, 8, 12]
    assert {branch.fc1.weight.shape for branch in branches} == {(1024, 512, 3, 3)}
    assert {branch.fc2.weight.shape for branch in branches} == {(1024, 1024, 1, 1)}
    (deep,) = network.features(torch.zeros(1, 3, 65, 97, device="meta"))
    assert deep.shape == (1, 4096, 9, 13)
    assert network.decode([deep]).shape == (1, 5, 9, 13)
    pools = [each for each in network.backbone.features if isinstance(each, nn.MaxPool2d)]
    assert {pool.kernel_size for pool in pools} == {3}


def test_a_branch_of_vgg16_has_its_own_part_of_the_joined_map() -> None:
    branches = AtrousBranches(4, (1, 2)).eval()
    x = torch.randn(1, 4, 5, 6)
    with torch.no_grad():
        joined = branches(x)
        torch.testing.assert_close(joined[:, :1024], branches[0](x))
        torch.testing.assert_close(joined[:, 1024:], branches[1](x))


def test_imagenet_weights_of_vgg16_start_every_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight filters every second one, and rows and columns 0, 3, 6 of fc6's seven."""
    monkeypatch.setattr(AtrousBranches, "width", 4)
    state = {name: torch.randn_like(each) for name, each in VGG16().state_dict().items()}
    state |= {
        "pre_logits.fc1.weight": torch.randn(8, 512, 7, 7),
        "pre_logits.fc1.bias": torch.randn(8),
        "pre_logits.fc2.weight": torch.randn(8, 8, 1, 1),
        "pre_logits.fc2.bias": torch.randn(8),
        "head.fc.weight": torch.randn(3, 8),
    }
    torch.save(state, tmp_path / "vgg16.pth")
    network = DeepLabV2(3, "vgg16", rates=(6, 12), scales=())
    said = network.load_pretrained(str(tmp_path / "vgg16.pth"))
    assert said.startswith("34 of 34 backbone tensors")
    first = network.backbone.features[0].weight
    assert torch.equal(first, state["features.0.weight"])
    for branch in network.backbone.pre_logits:
        assert torch.equal(branch.fc1.weight, state["pre_logits.fc1.weight"][::2, :, ::3, ::3])
        assert torch.equal(branch.fc1.bias, state["pre_logits.fc1.bias"][::2])
        assert torch.equal(branch.fc2.weight, state["pre_logits.fc2.weight"][::2, ::2])
        assert torch.equal(branch.fc2.bias, state["pre_logits.fc2.bias"][::2])


# --- scales


def test_scales_of_a_crop_are_those_of_the_authors_file() -> None:
    """Of 321 pixels 241 and 161, and scores of 41, 31 and 21."""
    network = on_meta()
    image = torch.zeros(1, 3, 321, 321, device="meta")
    sizes = [network.resized(image, scale).shape[-1] for scale in network.scales]
    assert sizes == [241, 161]
    features = network.features(image)
    assert [each.shape[-1] for each in features] == [41, 31, 21]
    assert network.decode(features).shape == (1, 5, 41, 41)
    assert len(on_meta(scales=()).features(image)) == 1


def sampled(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Blend the four neighbors of each place, where corners lie on corners: (C, h, w)."""
    _, height, width = x.shape
    found = torch.zeros(len(x), *size, dtype=x.dtype)
    for row in range(size[0]):
        for column in range(size[1]):
            y = row * (height - 1) / (size[0] - 1)
            z = column * (width - 1) / (size[1] - 1)
            top, left = min(int(y), height - 2), min(int(z), width - 2)
            down, right = y - top, z - left
            upper = (1 - right) * x[:, top, left] + right * x[:, top, left + 1]
            lower = (1 - right) * x[:, top + 1, left] + right * x[:, top + 1, left + 1]
            found[:, row, column] = (1 - down) * upper + down * lower
    return found


def test_a_smaller_copy_of_the_image_keeps_its_corners() -> None:
    image = torch.randn(1, 3, 33, 9, dtype=torch.float64)
    copy = on_meta().resized(image, Fraction(3, 4))
    torch.testing.assert_close(copy[0], sampled(image[0], (25, 7)))


def test_logits_are_the_maximum_over_scales_for_each_class(network: DeepLabV2) -> None:
    classifier, network.classifier = network.classifier, nn.Identity()
    maps = [torch.randn(1, 5, *size, dtype=torch.float64) for size in ((5, 9), (4, 7), (3, 5))]
    logits = network.decode(maps)
    wanted = torch.stack([sampled(each[0], (5, 9)) for each in maps]).amax(0)
    outputs = network.auxiliary_outputs(maps)
    network.classifier = classifier
    torch.testing.assert_close(logits[0], wanted)
    assert list(outputs) == ["scale_1", "scale_0.75", "scale_0.5"]
    assert all(torch.equal(output, each) for output, each in zip(outputs.values(), maps))


def test_one_scale_has_no_auxiliary_output() -> None:
    network = on_meta(scales=())
    assert set(network.outputs(torch.zeros(1, 3, 33, 33, device="meta"))) == {"main"}


@pytest.mark.parametrize("scales", [(1.0,), (0.75, 0.0), (1.5,)])
def test_a_scale_that_is_not_smaller_is_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"above 0 and below 1, such as 0\.75,0\.5"):
        on_meta(scales=scales)


@pytest.mark.parametrize(
    ("scales", "valid"),
    [
        ((0.75, 0.5), [33, 33, 65, 321, 513]),
        ((), [9, 33, 41, 321, 505]),
        ((0.5,), [17, 33, 49, 321, 513]),
    ],
)
def test_images_are_padded_so_that_every_scale_has_sides_of_8k_plus_1(
    scales: tuple[float, ...], valid: list[int]
) -> None:
    network = on_meta(scales=scales)
    assert [network.valid_side(side) for side in (2, 33, 34, 321, 500)] == valid
    crop = segmodels.experiment("deeplabv2").budgets["streets"]["crop"]
    assert tuple(map(network.valid_side, crop)) == crop


# --- losses


def test_each_output_is_compared_with_labels_at_its_stride() -> None:
    """1/16 for scale 0.5; 1/8 for the others, to which scale 0.75 is enlarged."""
    network = on_meta()
    sizes = {"main": (9, 13), "scale_1": (9, 13), "scale_0.75": (7, 10), "scale_0.5": (5, 7)}
    outputs = {name: torch.randn(2, 5, *size) for name, size in sizes.items()}
    label = torch.randint(5, (2, 65, 97), dtype=torch.uint8)
    label[:, :20] = 255
    terms = network.criterion(outputs, label)
    assert list(terms) == list(sizes)
    for name, scores in outputs.items():
        step = 16 if name == "scale_0.5" else 8
        true = label[:, ::step, ::step].long()
        full = torch.stack([sampled(each, tuple(true.shape[1:])) for each in scores])
        wanted = F.cross_entropy(full, true, ignore_index=255)
        torch.testing.assert_close(terms[name], wanted)


def test_labels_fit_the_scores_at_any_size(network: DeepLabV2) -> None:
    """Crops need not be 32k + 1: n pixels become ceil(n / 8) scores."""
    image = torch.zeros(1, 3, 96, 90, device="meta")
    with torch.device("meta"):
        outputs = DeepLabV2(5).outputs(image)
    assert outputs["main"].shape[-2:] == (12, 12) == (-(-96 // 8), -(-90 // 8))
    assert outputs["scale_0.5"].shape[-2:] == (6, 6) == (-(-96 // 16), -(-90 // 16))


# --- what learns


def test_norms_stay_as_they_start_in_training_too(network: DeepLabV2) -> None:
    network.train()
    norm = network.backbone.layer1[0].bn1
    before = norm.running_mean.clone()
    network.losses((torch.randn(2, 3, 33, 33), torch.zeros(2, 33, 33, dtype=torch.uint8)))
    assert torch.equal(norm.running_mean, before)
    assert network.training and network.classifier.training and not norm.training
    row = segmodels.experiment("deeplabv2")
    fresh = row.build(5, "meta")
    assert fresh.training and not fresh.backbone.bn1.training  # before anybody asks for a mode
    assert row.but(model={"frozen_norms": False}).build(5, "meta").backbone.bn1.training


def rates(network: DeepLabV2) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in network.parameter_groups()
        for parameter in group["params"]
    }


def test_rates_of_resnet_are_those_of_the_authors_file() -> None:
    """lr_mult 1 and 0 for norms, 10 and 20 for the classifier, whose biases do not decay."""
    for name, (lr, decay) in rates(segmodels.experiment("deeplabv2").build(5, "meta")).items():
        layer, _, kind = name.rpartition(".")
        if layer.startswith("classifier."):
            wanted = (2.5e-3, 5e-4) if kind == "weight" else (5e-3, 0.0)
            assert (lr, decay) == pytest.approx(wanted), name
        elif "bn" in layer or layer.endswith("downsample.1"):
            assert lr == 0, name
        else:
            assert (lr, decay) == (2.5e-4, 5e-4), name


def test_trained_norms_learn_at_the_rate_of_the_backbone() -> None:
    row = segmodels.experiment("deeplabv2").but(model={"frozen_norms": False})
    found = rates(row.build(5, "meta"))
    assert found["backbone.bn1.weight"] == (2.5e-4, 5e-4)


def test_biases_of_vgg16_learn_at_twice_the_rate_and_do_not_decay() -> None:
    found = rates(segmodels.experiment("deeplabv2/vgg16_aspp_l").build(5, "meta"))
    assert found.pop("classifier.weight") == pytest.approx((1e-2, 5e-4))
    assert found.pop("classifier.bias") == pytest.approx((2e-2, 0.0))
    for name, pair in found.items():
        assert pair == ((2e-3, 0.0) if name.endswith("bias") else (1e-3, 5e-4)), name


# --- rows


@pytest.mark.parametrize(
    ("row", "backbone", "rates", "scales"),
    [
        ("resnet101", "resnet101", (6, 12, 18, 24), 2),
        ("resnet101_large_fov", "resnet101", (12,), 2),
        ("resnet101_1x1", "resnet101", (1,), 2),
        ("resnet101_1x1_unscaled", "resnet101", (1,), 2),
        ("resnet101_1x1_one_scale", "resnet101", (1,), 0),
        ("resnet101_one_scale", "resnet101", (6, 12, 18, 24), 0),
        ("vgg16_aspp_l", "vgg16", (6, 12, 18, 24), 0),
        ("vgg16_aspp_s", "vgg16", (2, 4, 8, 12), 0),
        ("vgg16_large_fov", "vgg16", (12,), 0),
    ],
)
def test_a_row_is_what_the_papers_tables_3_and_4_say(
    row: str, backbone: str, rates: tuple[int, ...], scales: int
) -> None:
    network = segmodels.experiment(f"deeplabv2/{row}").build(21, "meta")
    vgg = isinstance(network.backbone, VGG16)
    assert vgg == (backbone == "vgg16")
    convs = [each.fc1 for each in network.backbone.pre_logits] if vgg else network.classifier
    assert tuple(conv.dilation[0] for conv in convs) == rates
    assert len(network.scales) == scales


# --- kazuto's port


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_network_has_caffes_pooling_and_takes_all_sizes(name: str) -> None:
    network = RELEASED[name].build(21, "meta")
    assert network.backbone.maxpool.ceil_mode and not network.align_corners
    assert network.valid_side(500) == 500
    scores = network.logits(torch.zeros(1, 3, 128, 496, device="meta"))
    assert scores.shape == (1, 21, 17, 63)  # without Caffe's rounding 16 x 62
    assert bool(network.scales) == ("msc" in name)
    normalization = network.normalization
    assert (normalization.order, normalization.scale) == ("BGR", 1.0)


def test_labels_of_the_port_are_pils_nearest_at_the_size_of_each_output() -> None:
    with torch.device("meta"):
        network = DeepLabV2Kazuto(5)
    sizes = {"main": (10, 13), "scale_1": (10, 13), "scale_0.75": (7, 10), "scale_0.5": (5, 7)}
    outputs = {name: torch.randn(2, 5, *size) for name, size in sizes.items()}
    label = torch.randint(5, (2, 70, 97), dtype=torch.uint8)
    label[:, :20] = 255
    terms = network.criterion(outputs, label)
    for name, scores in outputs.items():
        height, width = sizes[name]
        resized = [
            np.asarray(Image.fromarray(each.numpy()).resize((width, height), Image.NEAREST))
            for each in label
        ]
        true = torch.from_numpy(np.stack(resized)).long()
        torch.testing.assert_close(terms[name], F.cross_entropy(scores, true, ignore_index=255))


def test_the_ports_recipe_is_that_of_its_configuration() -> None:
    """configs/voc12.yaml, and the groups of main.py."""
    recipe = DeepLabV2Kazuto.recipe
    assert (recipe.crop, recipe.scales) == ((321, 321), (0.5, 0.75, 1.0, 1.25, 1.5))
    assert (recipe.batch, recipe.iterations) == (5 * 2, 20_000)
    assert (recipe.lr, recipe.head_lr, recipe.power) == (2.5e-4, 10.0, 0.9)
    assert (recipe.momentum, recipe.weight_decay) == (0.9, 5e-4)
