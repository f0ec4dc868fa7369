"""Tests of PSANet: maps cut out entry by entry, means pair by pair, training as the authors'."""

import json
import math

import pytest
import torch
from torch import Tensor, nn

import segmodels
from segmodels.architectures.psanet import (
    EXPERIMENTS,
    Collect,
    Distribute,
    Joined,
    PointwiseAttention,
    PSANet,
    cut,
    halved,
)
from segmodels.parts.layers import resized_with_corners
from segmodels.ports.mmseg.psanet import PSANetMMSeg, enlarged_mmseg, halved_mmseg
from segmodels.released_checkpoints import layouts
from tests.support.checkpoints import misfit_of_layout
from tests.support.paths import REFERENCE
from tests.support.training_step import weights

RELEASED = ["psanet_r50_semseg", "psanet_r101_semseg", "mmseg_psanet_r50_d8"]
LAST = "attention.3.weight"  # of the convolution that predicts over-complete maps


# --- the formula


def said(over_complete: Tensor, side: int, p: tuple[int, int], q: tuple[int, int]) -> float:
    """What position p of one over-complete map (side * side, h, w) says of position q."""
    middle = (side - 1) // 2
    row = q[0] - p[0] + middle
    column = q[1] - p[1] + middle
    if not (0 <= row < side and 0 <= column < side):
        return 0.0
    return over_complete[row * side + column, p[0], p[1]].item()


@pytest.mark.parametrize("side", [1, 3, 5, 7, 11])
@pytest.mark.parametrize("size", [(3, 4), (4, 3), (1, 5), (1, 1)])
def test_maps_are_cut_by_displacement_and_are_zero_where_they_do_not_reach(
    side: int, size: tuple[int, int]
) -> None:
    """Maps that are smaller than the image's, as large, and larger."""
    over_complete = torch.randn(2, side * side, *size)
    places = [(y, x) for y in range(size[0]) for x in range(size[1])]
    found = cut(over_complete, side)
    for image in range(2):
        rows = [[said(over_complete[image], side, p, q) for q in places] for p in places]
        assert torch.equal(found[image], torch.tensor(rows))


def test_a_map_of_twice_the_image_less_one_is_used_to_its_last_entry() -> None:
    """Each entry is taken as often as two positions lie so far apart; nothing is filled up."""
    over_complete = torch.ones(1, 7 * 5, 4, 3).view(1, 7, 5, 4, 3)
    square = nn.functional.pad(over_complete, (0, 0, 0, 0, 1, 1)).reshape(1, 49, 4, 3)
    square.requires_grad_()
    found = cut(square, 7)
    assert found.min() == 1
    found.sum().backward()
    taken = square.grad.view(7, 7, 12).sum(2)[:, 1:6]
    rows, columns = torch.tensor([1, 2, 3, 4, 3, 2, 1]), torch.tensor([1, 2, 3, 2, 1])
    assert torch.equal(taken, (rows[:, None] * columns).float())


def test_places_of_large_maps_do_not_overflow() -> None:
    """Of a map of 97x97 for 4096 positions; as many entries are taken as pairs are near enough."""
    found = cut(torch.ones(1, 97 * 97, 16, 256, dtype=torch.uint8), 97)
    places = torch.arange(256)
    near = ((places[:, None] - places).abs() <= 48).sum().item()
    assert found.sum().item() == 16 * 16 * near


@pytest.mark.parametrize("kind", [Collect, Distribute])
@pytest.mark.parametrize("side", [3, 9])
def test_positions_collect_and_distribute_as_the_formulas_say(
    kind: type[Collect], side: int
) -> None:
    torch.manual_seed(0)
    branch = kind(6, 4, side, halved).double().eval().requires_grad_(False)
    branch.attention[3].weight.mul_(9)  # far from a plain mean
    x = torch.randn(1, 6, 5, 7, dtype=torch.float64)
    inside = halved(branch.reduce(x))
    height, width = inside.shape[2:]
    over_complete = branch.attention(inside)
    places = [(y, x) for y in range(height) for x in range(width)]
    m = {(p, q): math.exp(said(over_complete[0], side, p, q)) for p in places for q in places}
    expected = torch.zeros_like(inside)
    for one in places:
        for other in places:
            if kind is Collect:  # `one` collects from `other`
                share = m[one, other] / sum(m[one, q] for q in places)
            else:  # `other` distributes to `one`
                share = m[other, one] / sum(m[p, one] for p in places)
            expected[0, :, one[0], one[1]] += share * inside[0, :, other[0], other[1]]
    torch.testing.assert_close(branch(x), expected, rtol=1e-10, atol=1e-10)


def test_both_directions_are_projected_together_and_brought_back_to_the_maps_size() -> None:
    torch.manual_seed(0)
    attention = PointwiseAttention(6, 5).eval()
    x = torch.randn(2, 6, 7, 9)
    collected, distributed = (attention.branches[name](x) for name in ("collect", "distribute"))
    assert collected.shape == (2, 512, 4, 5)
    joined = attention.projection(torch.cat([collected, distributed], 1))
    assert torch.equal(attention(x), resized_with_corners(joined, x))


def test_what_attention_brings_is_put_beside_the_map() -> None:
    joined = Joined(4, 3, nn.Identity()).eval()
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(joined(x), joined.fusion(torch.cat([x, x], 1)))


def test_a_map_is_halved_corner_on_corner() -> None:
    x = torch.randn(1, 1, 9, 6)
    found = halved(x)
    assert found.shape == (1, 1, 5, 3)
    torch.testing.assert_close(halved(x[..., :5]), x[..., ::2, :5:2])
    torch.testing.assert_close(found[..., [0, -1]], x[:, :, ::2, [0, -1]])


# --- the network


def test_maps_reach_across_a_crop_from_every_position() -> None:
    """tool/train.py: 2 * ((train_h - 1) // (8 * shrink_factor) + 1) - 1."""
    for row in ("resnet50", "resnet101", "collect", "distribute"):
        experiment = EXPERIMENTS[row]
        side = 2 * ((experiment.recipe.crop[0] - 1) // 16 + 1) - 1
        assert experiment.model["mask"] == side == 89


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("resnet50", ["collect", "distribute"]),
        ("collect", ["collect"]),
        ("distribute", ["distribute"]),
        ("common", ["collect", "distribute"]),
    ],
)
def test_rows_have_the_directions_that_they_name(row: str, names: list[str]) -> None:
    network = segmodels.experiment(f"psanet/{row}").build(5, "meta")
    attention = network.context.operator if row == "common" else network.context.attention
    kinds = {"collect": Collect, "distribute": Distribute}
    assert {name: type(branch) for name, branch in attention.branches.items()} == {
        name: kinds[name] for name in names
    }
    channels = 512 if row == "common" else 2048
    assert attention.projection[0].weight.shape == (channels, 512 * len(names), 1, 1)
    for branch in attention.branches.values():
        assert branch.reduce[0].weight.shape == (512, channels, 1, 1)
        assert branch.attention[0].weight.shape == (512, 512, 1, 1)
        assert branch.attention[3].weight.shape[0] == (97**2 if row == "common" else 89**2)


def test_images_are_padded_to_the_next_size_of_16k_plus_1() -> None:
    """Twice halved: the authors' network takes no other size, and 709 is none."""
    network = segmodels.experiment("psanet").build(5, "meta")
    assert network.align_corners
    for side in range(1, 60):
        assert network.valid_side(side) == next(n for n in range(side, side + 16) if n % 16 == 1)
    assert network.valid_side(705) == 705 < network.valid_side(709)


def test_a_map_without_a_middle_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.mask is 88; it must be odd"):
        segmodels.experiment("psanet").but(model={"mask": 88}).build(5, "meta")


@pytest.mark.parametrize("depth", [50, 101])
def test_all_3x3s_of_late_stages_are_dilated(depth: int) -> None:
    """model/psanet.py sets every conv2 of stages 3 and 4, the first one's too."""
    backbone = PSANet(5, depth).backbone if depth == 50 else None
    backbone = backbone or segmodels.experiment("psanet/resnet101").build(5, "meta").backbone
    assert len(backbone.layer3) == {50: 6, 101: 23}[depth]
    for stage, dilation in ((backbone.layer3, 2), (backbone.layer4, 4)):
        assert {block.conv2.dilation for block in stage} == {(dilation, dilation)}


# --- released weights


@pytest.mark.parametrize("name", RELEASED)
def test_each_of_the_authors_tensors_has_its_place(name: str) -> None:
    assert not misfit_of_layout(name)


@pytest.mark.catalogue
@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("psanet_r50_semseg", "psa.attention{}.3.weight"),
        ("mmseg_psanet_r50_d8", "decode_head.attention{}.1.weight"),
    ],
)
def test_the_size_of_maps_is_read_from_the_checkpoint(name: str, prefix: str) -> None:
    """Of crops of 465 pixels, as for ADE20K: 59 x 59."""
    state = weights(name)
    for branch in ("", "_p"):
        state[prefix.format(branch)] = state[prefix.format(branch)][: 59 * 59]
    module = segmodels.from_released(name, state)
    branches = module.context.attention.branches
    assert {branch.side for branch in branches.values()} == {59}
    if name == "psanet_r50_semseg":
        assert module.identity.model["mask"] == 59
        with pytest.raises(ValueError, match=r"model\.mask=89 makes another network"):
            segmodels.from_released(name, state, model={"mask": 89})


def test_a_state_without_maps_says_nothing_of_their_size() -> None:
    assert layouts()["psanet_r50_semseg"].options_of({}) == {}


# --- training


def test_dropout_of_whole_channels_stands_in_front_of_both_classifiers() -> None:
    network = segmodels.experiment("psanet").build(5, "meta")
    for head in (network.classifier, network.auxiliary):
        assert isinstance(head[-2], nn.Dropout2d)
        assert head[-2].p == 0.1
    assert sum(isinstance(layer, nn.Dropout2d) for layer in network.modules()) == 2
    assert {layer.momentum for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)} == {
        0.1
    }


def test_heads_learn_at_ten_times_the_rate_and_everything_decays() -> None:
    """tool/train.py: five groups of layers at base_lr, psa, cls and aux at ten times that."""
    module = segmodels.experiment("psanet/resnet50").build(5, "meta")
    ours = {}
    for group in module.parameter_groups():
        for parameter in group["params"]:
            ours[parameter] = group["lr"], group["weight_decay"]
    for name, parameter in module.named_parameters():
        expected = 0.01 if name.startswith("backbone.") else 0.1
        assert ours.pop(parameter) == pytest.approx((expected, 1e-4)), name
    assert not ours
    assert module.auxiliary_weight == 0.4


def test_the_rate_is_the_authors_over_200_epochs() -> None:
    cases = json.loads((REFERENCE / "schedules.json").read_text())
    case = cases["semseg PSPNet/PSANet (200 epochs of 185)"]
    recipe = segmodels.experiment("psanet").recipe
    assert (recipe.iterations, recipe.lr) == (case["T"], case["base"])
    schedule = segmodels.experiment("psanet").build(5, "meta").schedule()
    for step, rate in case["lr"].items():
        assert recipe.lr * schedule(int(step)) == pytest.approx(rate, rel=1e-9)


def test_layers_of_the_head_start_as_torchs_do() -> None:
    """model/psanet.py initializes nothing: uniform numbers, 1 / sqrt(3 fan-in) on average."""
    torch.manual_seed(0)
    network = PSANet(5, mask=5)
    for part in (network.context, network.classifier, network.auxiliary):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                spread = (3 * layer.weight[0].numel()) ** -0.5
                assert layer.weight.std().item() == pytest.approx(spread, rel=0.1)


# --- mmsegmentation's


def test_mmseg_aligns_corners_where_both_sides_are_odd() -> None:
    """PSAHead.forward; the outputs compared are of maps with two even sides and with two odd ones."""
    for height, width in ((7, 9), (9, 7)):
        x = torch.randn(1, 1, height, width)
        assert torch.equal(halved_mmseg(x), halved(x))
        assert torch.equal(enlarged_mmseg(halved(x), x), resized_with_corners(halved(x), x))
    for height, width in ((8, 6), (7, 6), (10, 9)):
        x = torch.randn(1, 1, height, width)
        size = (height // 2, width // 2)
        small = nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
        assert torch.equal(halved_mmseg(x), small)
        large = nn.functional.interpolate(
            small, (height, width), mode="bilinear", align_corners=False
        )
        assert torch.equal(enlarged_mmseg(small, x), large)


def test_mmsegs_layers_start_as_its_own() -> None:
    """Before a norm He's by fan-out, the convolution of maps as torch's, classifiers small."""
    torch.manual_seed(0)
    network = PSANetMMSeg(50, mask=21)
    assert network.context.attention.projection[0].padding == (1, 1)
    maps = {name for name, _ in network.named_parameters() if name.endswith(LAST)}
    assert len(maps) == 2
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d) or name.startswith("backbone"):
            continue
        spread = (2 / (layer.out_channels * layer.weight[0, 0].numel())) ** 0.5
        if layer.out_channels == 50:
            spread = 0.01
        if f"{name}.weight" in maps:
            spread = (3 * layer.in_channels) ** -0.5
        assert layer.weight.std().item() == pytest.approx(spread, rel=0.05), name
    assert network.recipe.loss == "cross_entropy:all"
    assert not network.align_corners
