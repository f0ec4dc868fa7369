"""Tests of DANet: both attentions pair by pair, the sum of three losses, training as the authors'."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segmodels
from segmodels.architectures.danet import ChannelAttention, DANet, DualAttention, PositionAttention
from segmodels.ports.mmseg.danet import DANetMMSeg
from segmodels.released_checkpoints import layouts
from tests.support.checkpoints import misfit_of_layout
from tests.support.inputs_from_names import build
from tests.support.paths import REFERENCE
from tests.support.training_step import (
    assert_terms,
    assert_the_authors_gradients,
    prepared,
    stored,
)

LOSSES = json.loads((REFERENCE / "danet_losses.json").read_text())["cases"]
SAMPLES = np.load(REFERENCE / "danet_losses.npz")
OUTPUTS = {"logits": "main", "aux1": "position", "aux2": "channel"}


# --- the formulas


def softmax(values: list[float]) -> list[float]:
    exponents = [math.exp(value) for value in values]
    return [each / sum(exponents) for each in exponents]


def drawn(block: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block.double().requires_grad_(False)


def test_a_position_is_a_mean_over_positions_weighted_by_query_and_key() -> None:
    block = drawn(PositionAttention(16))
    x = torch.randn(1, 16, 3, 4, dtype=torch.float64)
    query, key, value = (layer(x).flatten(2)[0] for layer in (block.query, block.key, block.value))
    assert (len(query), len(key), len(value)) == (2, 2, 16)
    expected = x.flatten(2)[0].clone()
    for i in range(12):
        shares = softmax([float(query[:, i] @ key[:, j]) for j in range(12)])
        for j, share in enumerate(shares):
            expected[:, i] += block.gamma[0] * share * value[:, j]
    torch.testing.assert_close(block(x), expected.view_as(x), rtol=1e-10, atol=1e-10)


def test_a_channel_looks_at_those_that_are_least_like_it() -> None:
    block = drawn(ChannelAttention())
    x = torch.randn(1, 5, 3, 4, dtype=torch.float64)
    rows = x.flatten(2)[0]  # (C, N)
    expected = rows.clone()
    for c in range(5):
        products = [float(rows[c] @ rows[d]) for d in range(5)]
        shares = softmax([max(products) - product for product in products])
        for d, share in enumerate(shares):
            expected[c] += block.gamma[0] * share * rows[d]
    torch.testing.assert_close(block(x), expected.view_as(x), rtol=1e-10, atol=1e-10)


def test_attention_starts_as_the_identity_and_the_common_operator_is_the_sum_of_both() -> None:
    x = torch.randn(2, 16, 3, 4)
    dual = DualAttention(16)
    assert torch.equal(dual.position(x), x)
    assert torch.equal(dual.channel(x), x)
    dual = drawn(dual)
    x = x.double()
    assert torch.equal(dual(x), dual.position(x) + dual.channel(x))


# --- the network


@pytest.mark.parametrize(("row", "blocks"), [("resnet101", 23), ("resnet50", 6)])
def test_the_last_stage_is_dilated_by_4_8_and_16(row: str, blocks: int) -> None:
    """--multi-dilation 4 8 16; the first block of stage 3 is not dilated."""
    backbone = segmodels.experiment(f"danet/{row}").build(5, "meta").backbone
    assert [block.conv2.dilation[0] for block in backbone.layer3] == [1] + [2] * (blocks - 1)
    assert [block.conv2.dilation[0] for block in backbone.layer4] == [4, 8, 16]
    assert backbone.conv1.weight.shape == (64, 3, 7, 7)


def small() -> DANet:
    torch.manual_seed(0)
    return DANet(3, depth=50).eval()


def test_the_sum_is_classified_and_each_map_by_itself() -> None:
    network = small()
    assert network.align_corners
    image = torch.randn(1, 3, 33, 41)
    position, channel = network.features(image)
    deep = network.backbone(image)[-1]
    assert torch.equal(position, network.branches["position"](deep))
    outputs = network.outputs(image)
    assert list(outputs) == ["main", "position", "channel"]
    assert torch.equal(outputs["main"], network.classifier(position + channel))
    assert torch.equal(outputs["position"], network.heads["position"](position))
    assert torch.equal(outputs["channel"], network.heads["channel"](channel))


@pytest.mark.parametrize("name", ["position", "channel"])
def test_a_row_of_one_attention_has_one_output(name: str) -> None:
    network = segmodels.experiment(f"danet/{name}").build(3, "meta")
    kinds = {"position": PositionAttention, "channel": ChannelAttention}
    assert [type(branch[1]) for branch in network.branches.values()] == [kinds[name]]
    assert list(network.outputs(torch.zeros(1, 3, 33, 41, device="meta"))) == ["main"]


@pytest.mark.parametrize("name", ["danet_r101", "mmseg_danet_r50_d8"])
def test_each_of_the_authors_tensors_has_its_place(name: str) -> None:
    assert not misfit_of_layout(name)


# --- training


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case["id"])
def test_the_loss_is_the_authors_sum_of_three(case: dict) -> None:
    """SegmentationMultiLosses: means over labeled pixels, each with a weight of 1."""
    made = {name: torch.from_numpy(x) for name, x in build(case["inputs"]).items()}
    outputs = {ours: made[theirs].requires_grad_() for theirs, ours in OUTPUTS.items()}
    module = segmodels.experiment("danet").build(19, "meta")
    terms = module.criterion(outputs, made["label"].to(torch.uint8))
    theirs = {"main": "fusion"}
    for name, term in terms.items():
        assert term.item() == pytest.approx(case["terms"][theirs.get(name, name)], rel=1e-6)
    loss = sum(terms.values())
    assert loss.item() == pytest.approx(case["value"], rel=1e-6)
    loss.backward()
    for name, facts in case["gradient"].items():
        slope = made[name].grad
        sample = torch.from_numpy(SAMPLES[f"{case['id']}/{name}/sample"])
        difference = (slope.flatten()[:: facts["stride"]] - sample).abs().max()
        assert difference < 2e-6 * slope.abs().max()
        reached = slope.ne(0).any(1).flatten().numpy()
        assert (np.packbits(reached) == SAMPLES[f"{case['id']}/{name}/pixels"]).all()


@pytest.mark.catalogue
def test_one_training_step_is_the_authors_in_float64() -> None:
    """Loss terms, gradients and batch-norm statistics."""
    name = "danet_r101"
    module, batch = prepared(name)
    for layer in module.modules():
        if isinstance(layer, nn.Dropout2d):
            layer.p = 0.0
    authors = stored(name)["terms"]
    terms = module.losses(batch)
    expected = {"main": authors["fusion"], **{k: authors[k] for k in ("position", "channel")}}
    assert_terms(terms, expected)
    sum(terms.values()).backward()
    assert_the_authors_gradients(name, module)


def test_dropout_of_whole_channels_stands_in_front_of_three_classifiers() -> None:
    network = segmodels.experiment("danet").build(5, "meta")
    heads = [network.classifier, *network.heads.values()]
    assert [type(head[0]) for head in heads] == [nn.Dropout2d] * 3
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout2d)] == [0.1] * 3


def test_heads_learn_at_ten_times_the_rate_and_everything_decays() -> None:
    """danet/train.py: model.pretrained at lr, model.head at ten times that; no other groups."""
    module = segmodels.experiment("danet").build(5, "meta")
    ours = {}
    for group in module.parameter_groups():
        for parameter in group["params"]:
            ours[parameter] = group["lr"], group["weight_decay"]
    for name, parameter in module.named_parameters():
        expected = 0.003 if name.startswith("backbone.") else 0.03
        assert ours.pop(parameter) == pytest.approx((expected, 1e-4)), name
    assert not ours


def test_the_rate_is_the_authors_over_240_epochs() -> None:
    """LR_Scheduler with mode poly: lr (1 - T / N)^0.9, N = 240 epochs of 371 batches."""
    recipe = segmodels.experiment("danet").recipe
    assert recipe.iterations == 240 * 371
    schedule = segmodels.experiment("danet").build(5, "meta").schedule()
    for step in (0, 1, 999, 44_520, 89_039):
        rate = 0.003 * (1 - step / 89_040) ** 0.9
        assert recipe.lr * schedule(step) == pytest.approx(rate, rel=1e-9)


def test_layers_of_the_heads_start_as_torchs_do() -> None:
    """encoding/models/danet.py initializes nothing: 1 / sqrt(3 fan-in) on average."""
    network = small()
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and not name.startswith("backbone"):
            spread = (3 * layer.weight[0].numel()) ** -0.5
            assert layer.weight.std().item() == pytest.approx(spread, rel=0.1), name


# --- mmsegmentation's


def test_mmsegs_layers_start_as_its_own() -> None:
    """Before a norm He's by fan-out; of the classifiers those named conv_seg small, not pam's and
    cam's."""
    torch.manual_seed(0)
    network = DANetMMSeg(50)
    seen = 0
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d) or name.startswith("backbone"):
            continue
        spread = (3 * layer.weight[0].numel()) ** -0.5
        if layer.bias is None:
            spread = (2 / (layer.out_channels * 9)) ** 0.5
        if name in ("classifier.1", "auxiliary.2"):
            spread = 0.01
            seen += 1
            assert not layer.bias.any()
        assert layer.weight.std().item() == pytest.approx(spread, rel=0.05), name
    assert seen == 2
    assert [block.conv2.dilation[0] for block in network.backbone.layer4] == [2, 4, 4]


def test_mmseg_weighs_the_loss_of_stage_3_by_two_fifths() -> None:
    with torch.device("meta"):
        network = DANetMMSeg(5)
    assert network.recipe.loss == "cross_entropy:all"
    assert not network.align_corners
    logits: Tensor = torch.randn(1, 5, 4, 4)
    label = torch.randint(5, (1, 8, 8), dtype=torch.uint8)
    label[:, :4] = 255
    names = ["main", "position", "channel", "auxiliary"]
    terms = network.criterion(dict.fromkeys(names, logits), label)
    full = nn.functional.interpolate(logits, (8, 8), mode="bilinear", align_corners=False)
    summed = nn.functional.cross_entropy(full, label.long(), ignore_index=255, reduction="sum")
    mean = summed.item() / 64
    expected = [mean, mean, mean, 0.4 * mean]
    assert [terms[name].item() for name in names] == pytest.approx(expected, rel=1e-5)


def test_gammas_of_mmseg_are_tensors_of_one_entry_here() -> None:
    """Scale there holds a number."""
    name = "decode_head.pam.gamma.scale"
    renamed = layouts()["mmseg_danet_r50_d8"].renamed({name: torch.tensor(0.5)})
    assert list(renamed) == ["branches.position.1.gamma"]
    assert torch.equal(renamed["branches.position.1.gamma"], torch.tensor([0.5]))
