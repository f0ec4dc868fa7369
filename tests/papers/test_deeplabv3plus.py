"""Tests of DeepLabV3+: one set of weights at two strides, backbones, a training step, recipe."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segmodels
from experiments.results.reference import weights_from_names
from segmodels.architectures.deeplabv3plus import DeepLabV3Plus, Xception65, separable_conv
from segmodels.paper import experiment, macs
from segmodels.ports.kazuto.deeplabv3plus import DeepLabV3PlusKazuto
from segmodels.ports.vainf.backbones import MobileNetV2, Xception
from segmodels.ports.vainf.deeplab import DeepLabVainF
from tests.support import training_step
from tests.support.checkpoints import lively, written

# --- output strides


def dilations(module: nn.Module) -> list[int]:
    """Of the 3x3 convolutions, in their order."""
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return [layer.dilation[0] for layer in convolutions if layer.kernel_size[0] == 3]


@pytest.mark.parametrize("backbone", ["xception65", "resnet50"])
def test_both_strides_hold_the_same_parameters(backbone: str) -> None:
    coarse, fine = (
        experiment(f"deeplabv3plus/{backbone}")
        .but(model={"output_stride": stride})
        .build(5, "meta")
        for stride in (16, 8)
    )
    shapes = [
        {name: tensor.shape for name, tensor in module.state_dict().items()}
        for module in (coarse, fine)
    ]
    assert shapes[0] == shapes[1]
    assert dilations(coarse.context)[-3:] == [6, 12, 18]
    assert dilations(fine.context)[-3:] == [12, 24, 36]


def test_xception_trades_its_last_strides_for_dilation() -> None:
    with torch.device("meta"):
        coarse, fine = dilations(Xception65(16)), dilations(Xception65(8))
    stem, entry, middle, last, exit_ = 2, 9, 48, 3, 3
    assert coarse == [1] * (stem + entry + middle + last) + [2] * exit_
    assert fine == [1] * (stem + entry) + [2] * (middle + last) + [4] * exit_


@pytest.mark.parametrize(
    "make",
    [
        Xception65,
        lambda stride: DeepLabV3Plus(2, "resnet50", stride).backbone,
        lambda stride: DeepLabVainF(2, "resnet50", stride).backbone,
    ],
    ids=["xception65", "resnet50", "vainf"],
)
def test_every_second_value_at_stride_8_is_a_value_at_stride_16(make: type[nn.Module]) -> None:
    """The hole algorithm: what was learned at one stride means the same at the other."""
    coarse, fine = make(16).double().eval(), make(8).double().eval()
    fine.load_state_dict(coarse.state_dict())
    with torch.no_grad():
        image = torch.randn(1, 3, 65, 97, dtype=torch.float64)
        deep, dense = coarse(image)[-1], fine(image)[-1]
    assert (deep.shape[2:], dense.shape[2:]) == ((5, 7), (9, 13))
    torch.testing.assert_close(dense[..., ::2, ::2], deep)


@pytest.mark.parametrize(
    ("backbone", "sides"), [(MobileNetV2, (32, 8, 16)), (Xception, (31, 4, 4))]
)
def test_vainfs_backbones_take_both_strides(
    backbone: type[nn.Module], sides: tuple[int, int, int]
) -> None:
    """Of 129 pixels: at 1/4, at 1/16 and at 1/8, as the authors' code pads them."""
    coarse, fine = backbone(16).eval(), backbone(8).eval()
    fine.load_state_dict(coarse.state_dict())
    with torch.no_grad():
        image = torch.randn(1, 3, 129, 129)
        low, deep = coarse(image)
        same, dense = fine(image)
    torch.testing.assert_close(low, same)
    assert (low.shape[1], deep.shape[1]) == backbone.channels
    assert tuple(each.shape[-1] for each in (low, deep, dense)) == sides


def test_a_checkpoint_of_one_stride_is_evaluated_at_the_other(tmp_path: Path) -> None:
    written(tmp_path / "last.ckpt", address="deeplabv3plus/resnet50", data="streets")
    coarse = segmodels.from_checkpoint(tmp_path / "last.ckpt").double()
    fine = segmodels.from_checkpoint(tmp_path / "last.ckpt", model={"output_stride": 8}).double()
    assert fine.identity.evaluated_with == {"output_stride": 8}
    with torch.no_grad():
        image = torch.randn(1, 3, 65, 97, dtype=torch.float64)
        deep, dense = coarse.features(image)[-1], fine.features(image)[-1]
    torch.testing.assert_close(dense[..., ::2, ::2], deep)
    with pytest.raises(ValueError, match=r"model.output_stride is 4; it must be 16"):
        segmodels.from_checkpoint(tmp_path / "last.ckpt", model={"output_stride": 4})


def test_one_released_state_gives_the_authors_numbers_at_both_strides() -> None:
    state = training_step.weights("deeplabv3plus_r101_vainf")
    for name in ("deeplabv3plus_r101_vainf", "deeplabv3plus_r101_vainf_os8"):
        golden = np.load(training_step.REFERENCE / "released" / f"{name}__b.npz")
        image = weights_from_names.make_input(
            str(golden["input_name"]), tuple(golden["input_shape"])
        )
        with torch.no_grad():
            logits = segmodels.from_released(name, state)(torch.from_numpy(image))
        step = int(golden["stride"])
        error = np.abs(logits[..., ::step, ::step].numpy() - golden["main"]).max()
        assert error <= 20 * float(golden["max_abs_diff_vs_float64"])


# --- what the network is made of


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_names_and_features_of_xception_are_timms(output_stride: int) -> None:
    """Whose weights are the authors', converted."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("xception65", output_stride=output_stride)
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    ours = Xception65(output_stride)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert (missing, unexpected) == ([], ["head.fc.weight", "head.fc.bias"])
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        features = ours.eval()(image)
        final, (_, *taps, _) = theirs.eval().forward_intermediates(image)
    torch.testing.assert_close(features[-1], final)
    for feature, tap in zip(features[:-1], taps, strict=True):
        torch.testing.assert_close(feature.relu(), tap)  # the authors' decoder reads in front of it
        assert feature.min() < 0
    assert tuple(feature.shape[1] for feature in features) == Xception65.channels


def test_imagenet_weights_fit_by_name(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("xception65").state_dict()
    torch.save(theirs, tmp_path / "xception65.pth")
    module = experiment("deeplabv3plus").build(5)
    said = module.load_pretrained(str(tmp_path / "xception65.pth"))
    count = len([name for name in theirs if "num_batches" not in name]) - 2
    assert said.startswith(f"{count} of {count} backbone tensors")
    assert torch.equal(module.backbone.stem[0].conv.weight, theirs["stem.0.conv.weight"])


@pytest.mark.parametrize("rate", [1, 3])
def test_an_atrous_separable_convolution_is_the_papers_sum(rate: int) -> None:
    """Equation 1 for each channel, then a 1x1; norms without effect."""
    layer = separable_conv(2, 3, dilation=rate).eval()
    x = torch.rand(1, 2, 7, 8)
    depthwise, pointwise = layer[0].weight.detach().abs(), layer[3].weight.detach()
    layer[0].weight.data = depthwise  # so that the ReLU between them has no effect either
    padded = F.pad(x, (rate,) * 4)
    filtered = torch.zeros(1, 2, 7, 8)
    for row in range(3):
        for column in range(3):
            there = padded[..., row * rate : row * rate + 7, column * rate : column * rate + 8]
            filtered += there * depthwise[None, :, 0, row, column, None, None]
    wanted = torch.einsum("oc,bchw->bohw", pointwise[..., 0, 0], filtered).relu()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)


def small(**options: object) -> DeepLabV3Plus:
    return DeepLabV3Plus(4, backbone="resnet50", **options)


def test_logits_come_at_a_quarter_and_corners_stay_corners() -> None:
    module = lively(small(separable=False))
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        fine, *_, deep = module.features(image)
        low, context = module.low(fine), module.context(deep)
        joined = module.joined(low, context)
        assert module.logits(image).shape == (1, 4, 17, 25)
        whole = module(image)
    assert joined.shape == (1, 256 + 48, 17, 25)
    assert torch.equal(joined[:, 256:], low)
    torch.testing.assert_close(joined[:, :256, ::4, ::4], context)
    torch.testing.assert_close(whole[..., ::4, ::4], module.logits(image))


@pytest.mark.parametrize(
    ("row", "low", "layers"),
    [
        ("resnet101", 48, [(304, 256, 3), (256, 256, 3)]),
        *((f"low_{low}", low, [(256 + low, 256, 3)]) for low in (8, 16, 32, 64)),
        ("one_3x3", 48, [(304, 256, 3)]),
        ("three_3x3", 48, [(304, 256, 3), (256, 256, 3), (256, 256, 3)]),
        ("one_3x3_128", 48, [(304, 128, 3)]),
        ("one_1x1", 48, [(304, 256, 1)]),
        ("conv3_too", 48, [(304, 256, 3)]),
    ],
)
def test_decoders_are_those_of_tables_1_and_2(
    row: str, low: int, layers: list[tuple[int, int, int]]
) -> None:
    module = experiment(f"deeplabv3plus/{row}").build(21, "meta")
    *refined, classifier = module.classifier
    found = [(each[0].in_channels, each[0].out_channels, *each[0].kernel_size) for each in refined]
    assert found == [(*layer, layer[-1]) for layer in layers]
    assert (module.low[0].in_channels, module.low[0].out_channels) == (256, low)
    assert (classifier.in_channels, classifier.kernel_size) == (layers[-1][1], (1, 1))
    assert len(module.middle) == (2 if row == "conv3_too" else 0)


def test_with_conv3_the_decoder_takes_a_step_at_an_eighth_first() -> None:
    module = lively(small(separable=False, early="both", convolutions=(256,)))
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        conv2, conv3, *_, deep = module.features(image)
        reduce, refine = module.middle
        assert (conv3.shape, reduce(conv3).shape) == ((1, 512, 9, 13), (1, 48, 9, 13))
        x = refine(torch.cat([enlarged(module.context(deep), (9, 13)), reduce(conv3)], 1))
        x = torch.cat([enlarged(x, (17, 25)), module.low(conv2)], 1)
        torch.testing.assert_close(module.logits(image), module.classifier(x))


def enlarged(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def test_without_a_decoder_the_pyramids_map_is_classified() -> None:
    module = lively(small(early="none", alignment="flow"))
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        logits = module.logits(image)
        pyramid = module.context(module.features(image)[-1])
    (classifier,) = module.classifier
    assert logits.shape == (1, 4, 5, 7)
    assert torch.equal(logits, classifier(pyramid))
    assert (module.low, module.alignment, len(module.middle)) == (None, None, 0)


@pytest.mark.parametrize(
    ("side", "valid"),
    [(1, 1), (2, 17), (16, 17), (375, 385), (513, 513), (1024, 1025), (2048, 2049)],
)
def test_sides_are_sixteen_k_and_one(side: int, valid: int) -> None:
    with torch.device("meta"):
        assert small().valid_side(side) == valid


def test_both_backbones_keep_corners_on_corners() -> None:
    with torch.device("meta"):
        assert DeepLabV3Plus(4, "xception65").align_corners and small().align_corners


@pytest.mark.parametrize(
    ("row", "size", "billions"),
    [("xception65", (513, 513), 54.17), ("xception65_cityscapes", (1025, 2049), 418.64)],
)
def test_multiply_adds_are_those_of_the_authors_model_zoo(
    row: str, size: tuple[int, int], billions: float
) -> None:
    """Theirs count a little more than convolutions."""
    assert macs(experiment(f"deeplabv3plus/{row}"), size) / 1e9 == pytest.approx(billions, rel=3e-3)


# --- how it is trained


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("deeplabv3plus_r50_vainf", {"main": "main"}),
        pytest.param(
            "mmseg_deeplabv3plus_r50_d8",
            {"main": "decode.loss_ce", "auxiliary": "aux.loss_ce"},
            marks=pytest.mark.catalogue,
        ),
    ],
)
def test_one_training_step_is_the_authors_in_float64(name: str, terms: dict[str, str]) -> None:
    module, batch = training_step.prepared(name)
    for layer in module.modules():
        if isinstance(layer, (nn.Dropout, nn.Dropout2d)):
            layer.p = 0.0
    found, case = module.losses(batch), training_step.stored(name)
    training_step.assert_terms(
        found, {ours: case["terms"][theirs] for ours, theirs in terms.items()}
    )
    sum(found.values()).backward()
    training_step.assert_the_authors_gradients(name, module)


def norms(module: nn.Module) -> set[tuple[float, float]]:
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    return {(layer.eps, layer.momentum) for layer in layers}


def test_norms_have_the_epsilon_and_the_pace_of_their_code() -> None:
    with torch.device("meta"):
        xception, resnet = DeepLabV3Plus(4), small()
        vainf, kazuto = DeepLabVainF(4), DeepLabV3PlusKazuto(4)
    assert norms(xception.backbone) == {(1e-3, 3e-4)}
    assert norms(resnet.backbone) == {(1e-5, 0.05)}
    for head in (xception.context, xception.low, xception.classifier, resnet.context):
        assert norms(head) == {(1e-5, 3e-4)}
    assert norms(vainf.backbone) == {(1e-5, 0.01)}
    assert norms(vainf.context) == norms(vainf.classifier) == {(1e-5, 0.1)}
    assert norms(kazuto) == {(1e-5, 0.9997)}


def test_new_layers_are_drawn_as_the_authors_draw_them() -> None:
    module = DeepLabV3Plus(21)
    cut = 0.8796  # the deviation that is left of a normal one, cut off at two deviations
    separable = module.context.convs[1]
    for weight, deviation in (
        (separable[0].weight, 0.33),
        (separable[3].weight, 0.06),
        (module.classifier[0][0].weight, 0.33),
        (module.classifier[1][3].weight, 0.06),
        (module.classifier[-1].weight, 0.01),
    ):
        assert weight.std().item() == pytest.approx(cut * deviation, rel=0.05)
        assert weight.abs().max().item() <= 2 * deviation
    for convolution in (module.context.convs[0][0], module.context.projection[0], module.low[0]):
        outside, inside = convolution.weight.shape[:2]
        bound = (6 / (inside + outside)) ** 0.5
        assert bound * 0.99 < convolution.weight.abs().max().item() <= bound
    assert not module.classifier[-1].bias.any()
    pointwise = module.backbone.blocks[5].stack.conv1.conv_pw.weight
    assert pointwise.std().item() == pytest.approx(0.09, rel=0.05)


def test_groups_spare_norms_and_depthwise_convolutions_and_the_bias_learns_twice_as_fast() -> None:
    module = experiment("deeplabv3plus").build(5, "meta")
    found = {}
    for group in module.parameter_groups():
        for parameter in group["params"]:
            found[parameter] = (group["lr"], group["weight_decay"])
    for name, parameter in module.named_parameters():
        if name == "classifier.2.bias":
            assert found[parameter] == (2 * 0.007, 0.0)
        elif "conv_dw" in name or (parameter.ndim == 4 and parameter.shape[1] == 1):
            assert found[parameter] == (0.007, 0.0), name
        else:
            assert found[parameter] == (0.007, 4e-5 if parameter.ndim == 4 else 0.0), name


def test_vainfs_backbone_learns_at_a_tenth_of_the_rate() -> None:
    with torch.device("meta"):
        module = DeepLabVainF(4, "resnet50")
    slow = set(module.backbone.parameters())
    for group in module.parameter_groups():
        assert group["weight_decay"] == 1e-4
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(0.001 if parameter in slow else 0.01)


def test_the_recipe_is_the_papers_and_its_codes() -> None:
    """Rate, policy and crop: section 4; scales, decay and steps: train.py; then cityscapes.md."""
    row = experiment("deeplabv3plus")
    recipe = row.recipe
    assert (recipe.lr, recipe.schedule, recipe.power, recipe.crop) == (
        0.007,
        "poly",
        0.9,
        (513, 513),
    )
    assert recipe.scales == tuple(0.5 + 0.25 * step for step in range(7)) and not recipe.continuous
    assert (recipe.batch, recipe.iterations, recipe.momentum) == (16, 30_000, 0.9)
    assert (recipe.weight_decay, recipe.decay_norms, recipe.loss) == (4e-5, False, "cross_entropy")
    assert (row.data, row.model["output_stride"]) == ("voc", 16)
    assert (row.normalization.mean, row.normalization.std) == ((0.5,) * 3, (0.5,) * 3)
    cityscapes = experiment("deeplabv3plus/xception65_cityscapes")
    assert (cityscapes.recipe.crop, cityscapes.recipe.iterations) == ((769, 769), 90_000)
    assert experiment("deeplabv3plus/resnet101").recipe.weight_decay == 1e-4
