"""Tests of timm's networks as encoders: their maps, weights and names, in each paper that takes one."""

import argparse
import json
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from experiments import export, run
from experiments.command_line.resolved_values import resolve
from experiments.evaluation.score import published_of
from experiments.results.reference import weights_from_names
from segmodels.architectures.unet import PaddedUNet
from segmodels.deploy import settle_batch_norm
from segmodels.folding import fast_form
from segmodels.module import SegmentationModule
from segmodels.own_checkpoints import from_checkpoint
from segmodels.paper import check_options, experiment
from segmodels.parts.backbones.timm_encoder import TimmEncoder
from segmodels.parts.pretrained import load_encoder
from tests.support.extras import onnx
from tests.support.runs import CPU, SCENES, STEPS, assert_one_sentence, only

CLASSES = 5
ROWS = ["unet/padded", "deeplabv3plus/resnet50", "pspnet", "sfnet", "upernet"]
NAMES = ["resnet34", "efficientnet_b0", "mobilenetv3_large_100", "convnext_tiny"]
# Small networks of the same kinds: plain norms, norms with activations, patches
SMALL = ["resnet10t", "mobilenetv3_small_050", "convnext_atto"]


def filled(network: nn.Module) -> dict[str, Tensor]:
    """A state dict drawn from its names, so that no two tensors are alike."""
    return {
        name: torch.from_numpy(weights_from_names.fill(name, each.shape, "float32", 1.0).copy())
        for name, each in network.state_dict().items()
    }


def classifier(name: str) -> nn.Module:
    network = timm.create_model(name)
    network.load_state_dict(filled(network))
    return network.eval()


# --- the encoder


@pytest.mark.parametrize(
    "name", [*SMALL, *(pytest.param(name, marks=pytest.mark.catalogue) for name in NAMES)]
)
def test_with_timms_weights_the_maps_are_those_inside_timms_classifier(name: str) -> None:
    network = classifier(name)
    encoder = TimmEncoder(name, half=True).eval()
    said = load_encoder(encoder, network.state_dict(), called=name)
    count = sum("num_batches" not in each for each in encoder.state_dict())
    assert said.startswith(f"{count} of {count} backbone tensors from {name}; left out: ")
    image = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        maps = encoder(image)
        inside = network.forward_intermediates(image, intermediates_only=True)
    assert [tuple(each.shape) for each in maps] == [
        (1, channels, 96 // stride, 64 // stride)
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert encoder.strides == ((4, 8, 16, 32) if "convnext" in name else (2, 4, 8, 16, 32))
    torch.testing.assert_close(maps[-1], inside[-1], rtol=0, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_stride_is_traded_for_dilation_and_no_weight_changes(name: str) -> None:
    whole = TimmEncoder(name)
    for stride in (16, 8):
        dilated = TimmEncoder(name, stride)
        assert dilated.strides == tuple(min(each, stride) for each in (4, 8, 16, 32))
        dilated.load_state_dict(whole.state_dict())
        with torch.no_grad():
            maps = dilated.eval()(torch.randn(1, 3, 64, 96))
        assert [64 // each.shape[2] for each in maps] == list(dilated.strides)


def test_corners_are_aligned_where_convolutions_are_padded_and_not_where_patches_are_taken() -> (
    None
):
    for name, aligned, multiple in (
        ("resnet10t", True, 1),
        ("convnext_atto", False, 32),
        ("vgg11_bn", False, 32),
        ("hrnet_w18_small", False, 32),
    ):
        encoder = TimmEncoder(name)
        assert (encoder.aligned, encoder.multiple) == (aligned, multiple), name
    assert TimmEncoder("convnext_atto", 8).multiple == 8


def test_norms_that_are_synchronized_between_devices_keep_the_activation_behind_them() -> None:
    encoder = TimmEncoder("mobilenetv3_small_050").eval()
    load_encoder(encoder, filled(timm.create_model("mobilenetv3_small_050")))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = encoder(image)
        synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(encoder)
        assert any(isinstance(each, nn.SyncBatchNorm) for each in synchronized.modules())
        torch.testing.assert_close(synchronized(image), maps)


@pytest.mark.parametrize(
    ("name", "stride", "words"),
    [
        ("resnet33x", 32, "timm has no network called resnet33x; did you mean resnet33ts?"),
        ("resnet34.foo", 32, "no weights called resnet34.foo; there are resnet34.a1_in1k, "),
        ("vgg11", 16, "cannot trade the stride of vgg11 for dilation: .* needs 1/16"),
        (
            "vit_tiny_patch16_224",
            32,
            "has maps at strides 16, 16, 16; an encoder needs 4, 8, 16, 32",
        ),
        ("swin_tiny_patch4_window7_224", 32, "takes images of one size alone"),
    ],
)
def test_a_network_that_cannot_be_an_encoder_is_refused_with_the_reason(
    name: str, stride: int, words: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        TimmEncoder(name, stride)


# --- in the papers


def crops(size: tuple[int, int] = (64, 96)) -> tuple[Tensor, Tensor]:
    label = torch.randint(CLASSES, (2, *size), dtype=torch.uint8)
    label[:, :5] = 255
    return torch.randn(2, 3, *size), label


def check_contract(module: SegmentationModule) -> None:
    """Any size, a gradient for every parameter, no loss and finite gradients without a label."""
    image, label = crops()
    sum(module.losses((image, label)).values()).backward()
    assert [name for name, each in module.named_parameters() if each.grad is None] == []
    loss = sum(module.losses((image, torch.full_like(label, 255))).values())
    loss.backward()
    assert loss.item() == 0
    assert all(each.grad.isfinite().all() for each in module.parameters())
    module.eval()
    with torch.no_grad():
        for size in ((75, 101), (33, 47)):
            logits = module(torch.randint(256, (1, 3, *size), dtype=torch.uint8))
            assert logits.shape == (1, CLASSES, *size)
            assert logits.isfinite().all()


# Each row with patches and with padded convolutions
PAIRS = [(row, "convnext_tiny") for row in ROWS] + list(zip(ROWS, NAMES[:3] * 2))


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("unet/padded", "convnext_atto"),
        ("pspnet", "mobilenetv3_small_050"),
        *(pytest.param(*pair, marks=pytest.mark.catalogue) for pair in PAIRS),
        pytest.param("unet/padded_bilinear", "resnet34", marks=pytest.mark.catalogue),
    ],
)
def test_a_row_keeps_the_contract_with_another_encoder(row: str, name: str) -> None:
    check_contract(experiment(row).but(model={"encoder": name}).build(CLASSES))


@onnx
@pytest.mark.catalogue
@pytest.mark.parametrize(("row", "name"), list(zip(ROWS, [*NAMES, "convnext_tiny"])))
def test_a_row_with_another_encoder_goes_to_onnx(row: str, name: str) -> None:
    asked = argparse.Namespace(
        network=None, overrides=[f"model.encoder={name}"], size=(64, 128), uint8=False, argmax=False
    )
    assert export.check_network(asked, row).ok


def test_norms_of_an_encoder_are_folded_where_a_cpu_evaluates() -> None:
    module = experiment("pspnet").but(model={"encoder": "mobilenetv3_small_050"}).build(CLASSES)
    settle_batch_norm(module, (64, 64))
    module.double()
    image = torch.randn(1, 3, 75, 45, dtype=torch.float64)
    fast = fast_form(module)
    with torch.no_grad():
        torch.testing.assert_close(fast(image), module(image))
    norms = [each for each in fast.backbone.modules() if isinstance(each, nn.BatchNorm2d)]
    assert norms and not any(each._buffers for each in norms)


def test_networks_that_dilate_nothing_pad_images_to_the_patches_of_the_encoder() -> None:
    for row in ("sfnet", "upernet"):
        for name, valid in (("resnet10t", 65), ("convnext_atto", 96)):
            module = experiment(row).but(model={"encoder": name}).build(CLASSES, "meta")
            assert module.valid_side(65) == valid
            assert row != "sfnet" or module.classifier[-1].in_channels == 128


@pytest.mark.parametrize(("name", "aligned"), [("resnet10t", True), ("convnext_atto", False)])
def test_dilated_networks_align_corners_where_the_encoder_does(name: str, aligned: bool) -> None:
    for row, stride in (("pspnet", 8), ("deeplabv3plus/resnet50", 16)):
        module = experiment(row).but(model={"encoder": name}).build(CLASSES, "meta")
        assert module.align_corners is aligned
        assert [module.valid_side(side) for side in (64, 65)] == (
            [65, 65] if aligned else [64, 64 + stride]
        )
        if row == "pspnet":
            assert module.context.align_corners is aligned


def test_a_unet_keeps_its_own_levels_above_the_encoders_finest_map() -> None:
    """Above 1/2 of a ResNet one, above 1/4 of patches two; each step joins the map of its level."""
    for name, own in (("resnet10t", [4]), ("convnext_atto", [4, 8])):
        for bilinear in (False, True):
            network = PaddedUNet(3, bilinear, width=4, encoder=name).eval()
            assert [network.valid_side(side) for side in (1, 64, 65)] == [32, 64, 96]
            with torch.no_grad():
                levels = network.features(torch.randn(1, 3, 64, 96))
                ascent = network.ascent(levels)
            widths = [*own, *network.backbone.channels]
            assert [each.shape[1:] for each in levels] == [
                (width, 64 // 2**level, 96 // 2**level) for level, width in enumerate(widths)
            ]
            outside = [widths[0], *widths[:-2]] if bilinear else widths[:-1]
            assert [each.shape[1:] for each in reversed(ascent)] == [
                (width, 64 // 2**level, 96 // 2**level) for level, width in enumerate(outside)
            ]


def test_flow_alignment_without_a_flow_is_bilinear_enlargement() -> None:
    row = experiment("deeplabv3plus/resnet50_flow")
    flow = row.build(CLASSES, seed=0).eval()
    plain = row.but(model={"alignment": "bilinear"}).build(CLASSES, seed=1).eval()
    missing, left = plain.load_state_dict(flow.state_dict(), strict=False)
    assert missing == []
    assert left and all(name.startswith("alignment.") for name in left)
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        moved = flow.logits(image)
        flow.alignment.flow.weight.zero_()
        still = flow.logits(image)
        torch.testing.assert_close(still, plain.logits(image), rtol=1e-4, atol=1e-5)
    assert (moved - still).abs().max() > 1e-3 * still.abs().max()


# --- where they start


def test_an_encoder_brings_its_start_and_its_normalization() -> None:
    row = experiment("pspnet")
    other = row.but(model={"encoder": "xception65"})
    assert (other.starts_from, other.normalization.mean) == ("xception65", (0.5, 0.5, 0.5))
    assert other.published == ()
    assert other.but(recipe={"lr": 0.1}).starts_from == "xception65"
    assert row.but(model={"encoder": None}).starts_from == row.starts_from
    for changed in (other, other.but(model={"encoder": "resnet34"})):
        back = changed.but(model={"encoder": None})
        assert (back.starts_from, back.normalization) == (row.starts_from, row.normalization)
        again = back.but(model={"encoder": "xception65"})
        assert (again.starts_from, again.normalization) == (other.starts_from, other.normalization)
    assert other.build(3, "meta").normalization == other.normalization
    assert other.but(model={"encoder": "resnet34.tv_in1k"}).starts_from == "resnet34.tv_in1k"


def test_an_encoder_is_a_word_or_none() -> None:
    network = experiment("pspnet").network
    check_options(network, {"encoder": None})
    with pytest.raises(ValueError, match="encoder is 3; it takes a word, or None"):
        check_options(network, {"encoder": 3})


def test_on_the_command_line_it_is_a_departure_with_the_weights_that_it_starts_from() -> None:
    resolved = resolve("pspnet", "cityscapes", ["model.encoder=resnet34"])
    assert resolved.start == "imagenet"
    assert resolved.title == "pspnet/resnet50 with timm's resnet34 on cityscapes"
    assert resolved.departures == [
        "start ImageNet -> timm's resnet34, with its normalization (command line)",
        "model.encoder None -> resnet34 (command line)",
    ]
    unet = resolve("unet/padded", "cityscapes", ["model.encoder=resnet34"])
    assert unet.departures[0].startswith("start scratch -> timm's resnet34, ")
    assert resolve("pspnet", "streets", ["model.encoder=resnet34"]).start == "scratch"
    assert resolve("pspnet", "cityscapes", ["model.encoder=none"]).departures == []


def test_no_figure_of_the_paper_stands_beside_a_result_with_another_encoder() -> None:
    row = experiment("pspnet")
    assert len(published_of(row.build(3, "meta"))) == len(row.published) > 0
    assert published_of(row.but(model={"encoder": None}).build(3, "meta"))
    assert published_of(row.but(model={"encoder": "resnet10t"}).build(3, "meta")) == []


def test_an_encoder_that_timm_does_not_have_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--model", "pspnet", "--runs", str(tmp_path / "runs"), "model.encoder=resnet33x"]
    for more in ([], ["--show"]):
        assert run.main([*words, *more]) == 2
        assert_one_sentence(capsys.readouterr().err, "did you mean resnet33ts?")
    assert not (tmp_path / "runs").exists()


def test_a_run_starts_from_a_file_of_timms_and_its_checkpoint_is_opened_with_the_encoder(
    tmp_path: Path,
) -> None:
    network = timm.create_model("mobilenetv3_small_050")
    torch.save(network.state_dict(), tmp_path / "small.pth")
    words = [
        "model.encoder=mobilenetv3_small_050",
        "model.width=4",
        "--init",
        str(tmp_path / "small.pth"),
    ]
    command = ["--model", "unet/padded", "--data", "streets", *SCENES, *STEPS, *CPU]
    assert (
        run.main([*command, *words, "recipe.iterations=2", "--runs", str(tmp_path / "runs")]) == 0
    )
    folder = only(tmp_path / "runs")
    config = json.loads((folder / "config.json").read_text())
    assert "backbone tensors from" in config["starts_from"]
    assert "start scratch -> small.pth (command line)" in config["departures"]
    module = from_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert module.backbone.channels == TimmEncoder("mobilenetv3_small_050", half=True).channels
    assert module.normalization.mean == tuple(network.default_cfg["mean"])
    with pytest.raises(ValueError, match="makes another network than the one in"):
        from_checkpoint(folder / "checkpoints" / "last.ckpt", model={"encoder": "resnet10t"})
