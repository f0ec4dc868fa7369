"""Tests of EncNet: its encoding by loops over positions and codewords, and its presence loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segmodels
from segmodels.architectures.encnet import (
    ContextEncoding,
    EncNet,
    Encoding,
    classes_shown,
    presence_loss,
)
from segmodels.ports.mmseg.encnet import EncNetMMSeg
from segmodels.released_checkpoints import layouts
from tests.support.training_step import (
    assert_terms,
    assert_the_authors_gradients,
    prepared,
    stored,
    weights,
)

CHANNELS, HEIGHT, WIDTH = 6, 3, 4


@pytest.fixture
def encoding() -> Encoding:
    """With codewords among the positions, and shares far from equal."""
    torch.manual_seed(0)
    encoding = Encoding(CHANNELS).double()
    nn.init.normal_(encoding.codewords)
    return encoding


def by_loops(encoding: Encoding, image: Tensor) -> Tensor:
    """The paper's equation 1, of one image (C, h, w)."""
    codewords, scale = encoding.codewords, encoding.scale
    sums = torch.zeros_like(codewords)
    for position in image.flatten(1).T:
        residuals = [position - codeword for codeword in codewords]
        exponents = [(s * (r @ r)).exp() for s, r in zip(scale, residuals)]
        for k, residual in enumerate(residuals):
            sums[k] += exponents[k] / sum(exponents) * residual
    return sums


def test_an_encoding_sums_the_residuals_of_all_positions_from_each_codeword(
    encoding: Encoding,
) -> None:
    x = torch.randn(2, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([by_loops(encoding, image) for image in x])
        torch.testing.assert_close(encoding(x), expected, rtol=0, atol=1e-10)


def test_codewords_and_scales_start_as_the_authors_do() -> None:
    """encoding/nn/encoding.py: within 1 / sqrt(K C) and from -1 to 0; 32 codewords."""
    torch.manual_seed(0)
    encoding = Encoding(512)
    bound = 1 / math.sqrt(32 * 512)
    assert encoding.codewords.shape == (32, 512)
    assert bound * 0.99 < encoding.codewords.max() <= bound
    assert -bound <= encoding.codewords.min() < -bound * 0.99
    assert -1 <= encoding.scale.min() < -0.8
    assert -0.2 < encoding.scale.max() <= 0


def test_channels_are_weighted_by_the_mean_of_normalized_encodings() -> None:
    torch.manual_seed(0)
    context = ContextEncoding(CHANNELS).double().eval()
    context.norm.running_mean.normal_()
    context.norm.running_var.uniform_(0.5, 1.5)
    x = torch.randn(2, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        codes = context.encoding(context.projection(x))  # (B, K, C)
        norm = context.norm
        for k in range(32):
            deviation = (norm.running_var[k] + 1e-5).sqrt()
            codes[:, k] = (codes[:, k] - norm.running_mean[k]) / deviation
        encoded = codes.clamp(min=0).sum(1) / 32
        factors = torch.sigmoid(encoded @ context.factors.weight.T + context.factors.bias)
        expected = torch.einsum("bchw,bc->bchw", x, 1 + factors).clamp(min=0)
        torch.testing.assert_close(context(x), expected, rtol=0, atol=1e-10)


# --- presence of classes


def test_a_class_is_shown_if_it_has_a_pixel() -> None:
    label = torch.full((3, 4, 5), 255, dtype=torch.uint8)
    label[0, 1, 2] = 3
    label[0, 2] = 0
    label[1] = 4
    expected = [[1, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    assert classes_shown(label, 5).tolist() == expected
    assert classes_shown(label.long(), 5).tolist() == expected


def test_its_loss_is_the_mean_over_classes_and_images_and_skips_what_has_no_label() -> None:
    torch.manual_seed(0)
    label = torch.randint(5, (3, 4, 5))
    label[0] = 2
    logits = torch.randn(3, 5)
    shown = classes_shown(label, 5)
    chances = logits.sigmoid()
    each = -(shown * chances.log() + (1 - shown) * (1 - chances).log())
    torch.testing.assert_close(presence_loss(logits, label), each.mean())
    torch.testing.assert_close(presence_loss(logits[:1], label[:1]), each[0].mean())
    label[1] = 255
    torch.testing.assert_close(presence_loss(logits, label), each[[0, 2]].mean())


@pytest.fixture(scope="module")
def network() -> EncNet:
    return segmodels.experiment("encnet").build(5)


def test_the_auxiliary_and_the_presence_loss_have_a_fifth_of_the_weight(network: EncNet) -> None:
    """experiments/segmentation/train.py: aux_weight and se_weight are 0.2."""
    torch.manual_seed(0)
    outputs = {
        "main": torch.randn(2, 5, 8, 8),
        "auxiliary": torch.randn(2, 5, 8, 8),
        "presence": torch.randn(2, 5, 1, 1),
    }
    label = torch.randint(5, (2, 8, 8))
    terms = network.criterion(outputs, label)
    assert list(terms) == ["main", "auxiliary", "presence"]
    torch.testing.assert_close(terms["main"], F.cross_entropy(outputs["main"], label))
    auxiliary = 0.2 * F.cross_entropy(outputs["auxiliary"], label)
    torch.testing.assert_close(terms["auxiliary"], auxiliary)
    expected = 0.2 * presence_loss(outputs["presence"].flatten(1), label)
    torch.testing.assert_close(terms["presence"], expected)


# --- the authors' code


STEPS = {
    "encnet_r50_encoding": {"main": "main", "auxiliary": "aux", "presence": "se"},
    "mmseg_encnet_r50_d8": {
        "main": "decode.loss_ce",
        "auxiliary": "aux.loss_ce",
        "presence": "decode.loss_se",
    },
}


@pytest.mark.catalogue
@pytest.mark.parametrize("name", STEPS)
def test_one_training_step_is_the_authors_in_float64(name: str) -> None:
    """Loss terms, gradients and batch-norm statistics, those of the codewords' norm too."""
    module, batch = prepared(name)
    for layer in module.modules():
        if isinstance(layer, (nn.Dropout, nn.Dropout2d)):
            layer.p = 0.0
    theirs = stored(name)["terms"]
    terms = module.losses(batch)
    assert_terms(terms, {own: theirs[each] for own, each in STEPS[name].items()})
    sum(terms.values()).backward()
    assert_the_authors_gradients(name, module)


def dropouts(network: nn.Module) -> list[tuple[type[nn.Module], float]]:
    found = (each for each in network.modules() if "Dropout" in type(each).__name__)
    return [(type(each), each.p) for each in found]


def test_dropout_is_of_single_numbers_and_of_channels_in_mmsegmentation(network: EncNet) -> None:
    assert dropouts(network) == [(nn.Dropout, 0.1)] * 2
    with torch.device("meta"):
        assert dropouts(EncNetMMSeg(5)) == [(nn.Dropout2d, 0.1)] * 2


def test_heads_learn_at_ten_times_the_rate_and_everything_decays() -> None:
    """experiments/segmentation/train.py: three groups, pretrained, head and auxlayer."""
    module = segmodels.experiment("encnet/resnet50").build(59)
    ours = {}
    for group in module.parameter_groups():
        for parameter in group["params"]:
            ours[parameter] = group["lr"], group["weight_decay"]
    renamed = layouts()["encnet_r50_encoding"].renamed
    theirs = weights("encnet_r50_encoding")
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    for name in [each for each in theirs if not each.endswith(buffers)]:
        (own,) = renamed({name: theirs[name]})
        rate = 0.001 if name.startswith("pretrained") else 0.01
        assert ours.pop(module.get_parameter(own)) == pytest.approx((rate, 1e-4))
    assert not ours


def test_the_rate_falls_to_nothing_over_80_epochs_without_the_last_part_of_each() -> None:
    """4998 images in batches of 16, of which the loader drops the rest; power 0.9."""
    module = segmodels.experiment("encnet").build(5, "meta")
    assert module.recipe.iterations == 80 * 312
    schedule = module.schedule()
    for step in (0, 1, 1000, 24_959):
        assert schedule(step) == pytest.approx((1 - step / 24_960) ** 0.9)


def test_mmsegmentations_heads_start_as_its_others_do() -> None:
    torch.manual_seed(0)
    network = EncNetMMSeg(19)
    he = math.sqrt(2 / (512 * 9))
    assert network.reduction[0].weight.std().item() == pytest.approx(he, rel=0.01)
    he = math.sqrt(2 / 512)
    assert network.context.projection[0].weight.std().item() == pytest.approx(he, rel=0.01)
    for last in (network.classifier[-1], network.auxiliary[-1]):
        assert last.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not last.bias.any()


# --- rows


def test_rows_differ_by_depth_by_the_stages_that_they_join_and_by_the_presence_loss() -> None:
    """encoding/models/sseg/encnet.py: lateral is of data sets that begin with a p, and of COCO."""
    rows = {
        name: segmodels.experiment(f"encnet/{name}").build(5, "meta")
        for name in ("resnet50", "resnet101", "resnet50_ade20k", "no_presence_loss")
    }
    assert [len(each.backbone.layer3) for each in rows.values()] == [6, 23, 6, 6]
    assert [hasattr(each, "fusion") for each in rows.values()] == [True, True, False, True]
    assert [each.presence is not None for each in rows.values()] == [True, True, True, False]
    assert all(each.align_corners for each in rows.values())
    stem = [layer for layer in rows["resnet50"].backbone.conv1 if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in stem] == [64, 64, 128]
    sides = [side[0] for side in rows["resnet50"].sides]
    assert [side.in_channels for side in sides] == [512, 1024]


def test_without_a_presence_loss_there_is_neither_its_output_nor_its_term() -> None:
    module = segmodels.experiment("encnet/no_presence_loss").build(5)
    image = torch.randn(2, 3, 32, 64)
    assert set(module.outputs(image)) == {"main", "auxiliary"}
    label = torch.randint(5, (2, 32, 64))
    assert set(module.losses((image, label))) == {"main", "auxiliary"}
