"""Tests of DeepLab v1: fc6 with holes, labels at 1/8, MSc at training and at evaluation, rates."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segmodels
from segmodels.architectures.deeplabv1 import DeepLabV1, fully_connected
from segmodels.parts import schedules
from segmodels.parts.backbones.vgg import VGG16
from tests.support.structure import kinds


def on_meta(**options: object) -> DeepLabV1:
    with torch.device("meta"):
        return DeepLabV1(21, **options)


def small(**options: object) -> DeepLabV1:
    """In float64 and without dropout, with scores that differ from place to place."""
    network = DeepLabV1(3, filters=16, width=8, **options).double().eval()
    for branch in network.branches:
        for layer in branch[::3]:
            nn.init.normal_(layer.weight, std=0.3)
            nn.init.normal_(layer.bias)
    return network


# --- the field of view


@pytest.mark.parametrize(("kernel", "rate"), [(3, 12), (4, 4), (4, 8), (7, 4)])
def test_fc6_reads_its_kernel_at_a_rate_around_each_place(kernel: int, rate: int) -> None:
    layer = fully_connected(8, 4, kernel, rate).fc1
    x = torch.randn(1, 8, 30, 31)
    with torch.no_grad():
        found = layer(x)
    assert found.shape == (1, 4, 30, 31)
    y, z = 14, 17
    wanted = layer.bias.detach().clone()
    for row in range(kernel):
        for column in range(kernel):
            above = y + int(rate * (row - (kernel - 1) / 2))
            left = z + int(rate * (column - (kernel - 1) / 2))
            if 0 <= above < 30 and 0 <= left < 31:
                wanted += layer.weight.detach()[:, :, row, column] @ x[0, :, above, left]
    torch.testing.assert_close(found[0, :, y, z], wanted, rtol=1e-4, atol=1e-4)


def test_a_rate_that_would_shift_the_map_is_refused() -> None:
    with pytest.raises(ValueError, match="is 5; for a kernel of 4x4 it must be even"):
        fully_connected(512, 16, 4, 5)
    assert on_meta(rate=5).backbone.pre_logits.fc1.dilation == (5, 5)


def test_only_large_fov_averages_in_front_of_fc6() -> None:
    rest = ["1/1x1", "ReLU", "Dropout"]
    assert kinds(on_meta().backbone.pre_logits) == ["AvgPool", "3/1x12", "ReLU", "Dropout", *rest]
    wide = on_meta(kernel=7, rate=4, filters=4096).backbone.pre_logits
    assert kinds(wide) == ["7/1x4", "ReLU", "Dropout", *rest]
    x = torch.randn(1, 2, 4, 5)
    mean = F.conv2d(F.pad(x, (1,) * 4), torch.full((2, 1, 3, 3), 1 / 9), groups=2)
    torch.testing.assert_close(fully_connected(2, 4, 3, 12).pool5a(x), mean)


@pytest.mark.parametrize(
    ("row", "millions"), [("large_fov", 20.5), ("deeplab", 65.1), ("4x4", 65.1), ("7x7", 134.3)]
)
def test_a_row_has_as_many_parameters_as_the_papers_table_2_says(row: str, millions: float) -> None:
    network = segmodels.experiment(f"deeplabv1/{row}").build(21, "meta")
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("row", "kernel", "rate", "msc"),
    [
        ("large_fov", 3, 12, False),
        ("msc_large_fov", 3, 12, True),
        ("deeplab", 4, 4, False),
        ("msc", 4, 4, True),
        ("4x4", 4, 8, False),
        ("7x7", 7, 4, False),
        ("large_fov_poly_20k_batch10", 3, 12, False),
    ],
)
def test_a_row_is_what_the_papers_tables_say(row: str, kernel: int, rate: int, msc: bool) -> None:
    network = segmodels.experiment(f"deeplabv1/{row}").build(21, "meta")
    fc6 = network.backbone.pre_logits.fc1
    assert (fc6.kernel_size[0], fc6.dilation[0], bool(network.branches)) == (kernel, rate, msc)
    assert fc6.out_channels == (1024 if kernel == 3 else 4096)
    assert not network.dense


def test_scores_come_at_an_eighth() -> None:
    network = on_meta(msc=True)
    assert network.logits(torch.zeros(1, 3, 321, 321, device="meta")).shape == (1, 21, 41, 41)
    assert network.logits(torch.zeros(1, 3, 96, 90, device="meta")).shape == (1, 21, 12, 12)
    assert [network.valid_side(side) for side in (1, 2, 9, 321, 500)] == [1, 9, 9, 321, 505]
    crop = segmodels.experiment("deeplabv1").budgets["streets"]["crop"]
    assert tuple(map(network.valid_side, crop)) == crop
    pools = [each for each in network.backbone.features if isinstance(each, nn.MaxPool2d)]
    assert [(pool.kernel_size, pool.stride) for pool in pools] == [(3, 2)] * 3 + [(3, 1)] * 2


def test_every_eighth_logit_of_an_image_is_one_of_the_networks() -> None:
    network = small()
    image = torch.randn(1, 3, 33, 41, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(image)[..., ::8, ::8], network.logits(image))


# --- multi-scale prediction


def test_a_branch_is_a_3x3_a_1x1_and_scores_with_dropout_of_half() -> None:
    for branch, stride in zip(on_meta(msc=True).branches, (8, 4, 2, 1, 1), strict=True):
        stack = [f"3/{stride}x1", "ReLU", "Dropout", "1/1x1", "ReLU", "Dropout", "1/1x1"]
        assert kinds(branch) == stack
        assert [layer.p for layer in branch if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
        assert [layer.out_channels for layer in branch[::3]] == [128, 128, 21]
    inside = [branch[0].in_channels for branch in on_meta(msc=True).branches]
    assert inside == [3, 64, 128, 256, 512]


def test_new_layers_are_drawn_as_in_the_authors_files() -> None:
    network = DeepLabV1(21, filters=512, msc=True)
    layers = [(network.classifier, 0.01)]
    for branch in network.branches:
        layers += zip(branch[::3], (0.001, 0.001, 0.01))
    for layer, deviation in layers:
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.1)
        assert not layer.bias.any()


def test_logits_of_msc_are_the_sum_of_six_scores() -> None:
    network = small(msc=True)
    image = torch.randn(1, 3, 33, 41, dtype=torch.float64)
    with torch.no_grad():
        first, second, third, fourth, _, deep = network.backbone(image)
        wanted = network.classifier(deep)
        for branch, x in zip(network.branches, (image, first, second, third, fourth)):
            wanted = wanted + branch(x)
        torch.testing.assert_close(network.logits(image), wanted)


def test_every_eighth_logit_of_the_dense_form_is_the_strided_ones() -> None:
    """So the loss of one is the loss of the other."""
    strided, dense = small(msc=True), small(msc=True, dense=True)
    dense.load_state_dict(strided.state_dict())
    image = torch.randn(2, 3, 33, 41, dtype=torch.float64)
    label = torch.randint(3, (2, 33, 41))
    with torch.no_grad():
        coarse, fine = strided.logits(image), dense.logits(image)
        assert fine.shape == (2, 3, 33, 41)
        torch.testing.assert_close(fine[..., ::8, ::8], coarse)
        between = F.interpolate(coarse, (33, 41), mode="bilinear", align_corners=True)
        assert (fine - between).abs().max() > 0.01  # it sees more than the strided form
        (term,) = dense.criterion({"main": fine}, label).values()
    torch.testing.assert_close(term, F.cross_entropy(fine, label))


def test_without_msc_there_is_nothing_to_look_at_more_densely() -> None:
    image = torch.zeros(1, 3, 33, 41, device="meta")
    assert on_meta(dense=True).logits(image).shape == (1, 21, 5, 6)
    assert len(on_meta().features(image)) == 1


def test_msc_holds_all_tensors_of_the_network_that_it_is_put_on() -> None:
    before, after = on_meta().state_dict(), on_meta(msc=True).state_dict()
    assert before.keys() < after.keys()
    assert all(name.startswith("branches.") for name in after.keys() - before.keys())


# --- training


def test_labels_are_subsampled_by_eight() -> None:
    network = on_meta()
    scores, label = torch.randn(2, 21, 9, 12), torch.randint(21, (2, 66, 89))
    label[:, :20] = 255
    (term,) = network.criterion({"main": scores}, label).values()
    wanted = F.cross_entropy(scores, label[:, ::8, ::8], ignore_index=255)
    torch.testing.assert_close(term, wanted)


def rates(row: str) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter."""
    network = segmodels.experiment(f"deeplabv1/{row}").build(5, "meta")
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in network.parameter_groups()
        for parameter in group["params"]
    }


def test_rates_are_those_of_the_authors_file() -> None:
    """blobs_lr 1 and 2, of fc8 10 and 20; biases do not decay."""
    found = rates("large_fov")
    assert found.pop("classifier.weight") == pytest.approx((1e-2, 5e-4))
    assert found.pop("classifier.bias") == pytest.approx((2e-2, 0.0))
    for name, pair in found.items():
        assert pair == ((2e-3, 0.0) if name.endswith("bias") else (1e-3, 5e-4)), name


def test_msc_changes_nothing_but_its_branches() -> None:
    for name, (lr, _) in rates("msc_large_fov").items():
        own = 2e-3 if name.endswith("bias") else 1e-3
        assert lr == (own if name.startswith("branches.") else 0.0), name


def test_the_rate_falls_to_a_tenth_every_2000_steps() -> None:
    schedule = segmodels.experiment("deeplabv1").build(5, "meta").schedule()
    steps = (0, 1999, 2000, 3999, 4000, 5999, 6000)
    wanted = (1, 1, 0.1, 0.1, 0.01, 0.01, 0.01)
    assert [schedule(step) for step in steps] == pytest.approx(wanted)
    assert [schedules.step(3, floor=0.05)(k) for k in range(3)] == pytest.approx([1, 0.1, 0.05])


def test_imagenet_weights_are_thinned(tmp_path: Path) -> None:
    """Of 64 filters every fourth one, and rows and columns 0, 2, 4, 6 of fc6's seven."""
    state = {name: torch.randn_like(each) for name, each in VGG16().state_dict().items()}
    state |= {
        "pre_logits.fc1.weight": torch.randn(64, 512, 7, 7),
        "pre_logits.fc1.bias": torch.randn(64),
        "pre_logits.fc2.weight": torch.randn(64, 64, 1, 1),
        "pre_logits.fc2.bias": torch.randn(64),
    }
    torch.save(state, tmp_path / "vgg16.pth")
    network = DeepLabV1(3, kernel=4, rate=4, filters=16)
    said = network.load_pretrained(str(tmp_path / "vgg16.pth"))
    assert said.startswith("30 of 30 backbone tensors")
    fc6, fc7 = network.backbone.pre_logits.fc1, network.backbone.pre_logits.fc2
    assert torch.equal(fc6.weight, state["pre_logits.fc1.weight"][::4, :, ::2, ::2])
    assert torch.equal(fc7.weight, state["pre_logits.fc2.weight"][::4, ::4])
    assert torch.equal(fc7.bias, state["pre_logits.fc2.bias"][::4])


def changed(before: Tensor, after: Tensor) -> bool:
    return not torch.equal(before, after)


def test_a_place_of_the_map_sees_the_field_of_view_of_the_papers_table() -> None:
    """LargeFOV's fc6 reaches as far as the 7x7's: 12 places to each side, at 1/8."""
    for kernel, rate in ((3, 12), (7, 4)):
        network = fully_connected(8, 4, kernel, rate).eval()
        x = torch.zeros(1, 8, 27, 27)
        moved = x.clone()
        moved[..., 0, 0] = 1.0
        with torch.no_grad():
            before, after = network.fc1(x), network.fc1(moved)
        assert changed(before[..., 12, 12], after[..., 12, 12])
        assert not changed(before[..., 13:, 13:], after[..., 13:, 13:])
