"""Tests of U-Net: tiles that fit together, the weights of equation 2, and the padded variant."""

import json
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import segmodels
from experiments import run
from segmodels import deploy, inference_modes
from segmodels.architectures.unet import EXPERIMENTS, PaddedUNet, UNet, border_weights, dice_loss
from segmodels.network_identity import Identity
from segmodels.ports.mmseg.unet import UNetMMSeg
from tests.support import inputs_from_names, training_step
from tests.support.extras import onnx

REFERENCE = training_step.REFERENCE
DICE = json.loads((REFERENCE / "unet_losses.json").read_text())["unet_milesial"]
SAMPLES = np.load(REFERENCE / "unet_losses.npz")


def narrow(num_classes: int = 3) -> UNet:
    return UNet(num_classes, width=4).eval()


# --- sizes and tiles


@pytest.mark.parametrize(
    ("side", "valid"), [(1, 188), (188, 188), (189, 204), (572, 572), (573, 588)]
)
def test_a_side_is_valid_where_every_pooling_meets_an_even_one(side: int, valid: int) -> None:
    assert narrow().valid_side(side) == valid
    left = valid
    for level in range(4):
        left -= 4
        assert left % 2 == 0 and left > 0, level
        left //= 2


def test_crops_are_of_valid_sides_with_every_data_set() -> None:
    main = segmodels.experiment("unet")
    crops = [main.recipe.crop, *(budget["crop"] for budget in main.budgets.values())]
    assert all(narrow().valid_side(side) == side for crop in crops for side in crop)


def test_572_pixels_give_388() -> None:
    """The parameters are those of the paper's network (counted elsewhere for gray images), with two more colors."""
    with torch.device("meta"):
        network = UNet(2)
    assert network.logits(torch.zeros(1, 3, 572, 572, device="meta")).shape == (1, 2, 388, 388)
    assert sum(each.numel() for each in network.parameters()) == 31_030_658 + 2 * 64 * 9


@pytest.mark.parametrize("mode", ["whole", "tiles:388x388", "tiles:100x200"])
def test_tiles_say_what_the_whole_mirrored_image_says(mode: str) -> None:
    """Seams included: a tile of 388 begins 384 behind the last, since the poolings have a grid of 16."""
    network, image = narrow(), torch.randn(1, 3, 700, 1000)
    below, beside = (network.valid_side(side + 184) - side - 184 for side in (700, 1000))
    framed = F.pad(image, (92, 92 + beside, 92, 92 + below), mode="reflect")
    with torch.no_grad():
        expected = network.logits(framed)[..., :700, :1000]
        found = inference_modes.mode(mode)(network, image).full()
    assert found.shape == (1, 3, 700, 1000)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_one_tile_beside_the_other_would_have_seams() -> None:
    """What the step of 384 is for: the poolings of a tile that begins at 388 meet other pixels."""
    network, image = narrow(), torch.randn(1, 3, 572, 572 + 388)
    with torch.no_grad():
        whole = network.logits(F.pad(image, (0, 12)))[..., 388:776]
        second = network.logits(image[..., 388:])
    assert (whole - second).abs().max() > 0.01 * whole.abs().max()


@pytest.mark.parametrize("mode", ["whole", "tiles:388x388", "tiles:20x20"])
def test_an_image_smaller_than_the_margin_is_mirrored_again_and_again(mode: str) -> None:
    network, image = narrow(), torch.randn(1, 3, 50, 70)
    below, beside = (network.valid_side(side + 184) - side - 184 for side in (50, 70))
    framed = np.pad(image[0].numpy(), ((0, 0), (92, 92 + below), (92, 92 + beside)), mode="reflect")
    with torch.no_grad():
        expected = network.logits(torch.from_numpy(framed)[None])[..., :50, :70]
        found = inference_modes.mode(mode)(network, image).full()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_up_convolutions_start_as_wide_as_the_numbers_that_flow_in_ask_for() -> None:
    network = UNet(2, width=32)
    up = network.expansive[0].up
    assert up.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    conv = network.contracting[3][2]
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
    drops = [isinstance(level[-1], nn.Dropout) for level in network.contracting]
    assert drops == [False, False, False, True, True]


@pytest.mark.slow
@onnx
@pytest.mark.parametrize("size", [(64, 96), (50, 71)])
def test_the_valid_network_goes_to_onnx_with_its_mirrors(
    size: tuple[int, int], tmp_path: pytest.TempPathFactory
) -> None:
    network, image = narrow(), torch.randn(1, 3, *size)
    file = tmp_path / "unet.onnx"
    deploy.write_onnx(deploy.deployed(network, size), file, {"classes": ["a", "b", "c"]})
    with torch.no_grad():
        expected = network(image)
    assert (
        deploy.Runtime(file)(image) - expected
    ).abs().max() <= deploy.LIMIT * expected.abs().max()


def test_a_crop_that_the_network_cannot_take_is_refused_with_the_nearest_that_it_can(
    tmp_path: pytest.TempPathFactory, capsys: pytest.CaptureFixture
) -> None:
    words = ["--model", "unet", "--smoke", "--runs", str(tmp_path), "model.width=4"]
    assert run.main([*words, "recipe.crop=512x572"]) == 2
    said = capsys.readouterr().err
    assert "unet/valid cannot take crops of 512x572: it loses 92 pixels on every side" in said
    assert "take recipe.crop=508x572 or 524x572" in said
    assert run.main([*words, "recipe.crop=100x204"]) == 2
    assert "take recipe.crop=188x204\n" in capsys.readouterr().err


# --- weights and loss


def slow_border_weights(label: NDArray) -> NDArray:
    """Cells by flooding, distances one by one."""
    cells = []
    seen = np.zeros(label.shape, bool)
    for start in zip(*np.nonzero((label != 0) & (label != 255))):
        if seen[start]:
            continue
        cell, queue = [], deque([start])
        seen[start] = True
        while queue:
            row, column = queue.popleft()
            cell.append((row, column))
            for there in (
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            ):
                inside = 0 <= there[0] < label.shape[0] and 0 <= there[1] < label.shape[1]
                if inside and not seen[there] and label[there] == label[start]:
                    seen[there] = True
                    queue.append(there)
        cells.append(cell)
    weights = np.zeros(label.shape)
    for row, column in zip(*np.nonzero(label == 0)):
        distances = []
        for cell in cells:
            distances.append(min(np.hypot(row - r, column - c) for r, c in cell))
        if len(distances) > 1:
            d1, d2 = sorted(distances)[:2]
            weights[row, column] = 10 * np.exp(-((d1 + d2) ** 2) / (2 * 5**2))
    return weights


def cells_of(classes: int) -> NDArray:
    """Patches of the classes, some of them touching, with an ignored corner."""
    draw = np.random.default_rng(classes)
    label = np.zeros((33, 47), np.uint8)
    for _ in range(9):
        top, left = draw.integers(0, 28), draw.integers(0, 42)
        height, width = draw.integers(2, 9, 2)
        label[top : top + height, left : left + width] = draw.integers(1, classes)
    label[:4, :6] = 255
    return label


@pytest.mark.parametrize("classes", [2, 4])
def test_border_weights_are_those_of_every_pixel_and_every_cell_one_by_one(classes: int) -> None:
    label = cells_of(classes)
    weights, expected = border_weights(label), slow_border_weights(label)
    assert expected.max() > 1
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)


def test_border_weights_have_the_same_bits_for_any_number_of_opencvs_threads(
    opencv_threads: Callable[[int], None],
) -> None:
    label = np.kron(cells_of(4), np.ones((6, 6), np.uint8))
    found = []
    for threads in (0, 2):
        opencv_threads(threads)
        found.append(border_weights(label))
    assert np.array_equal(*found)


def test_cells_far_apart_give_no_weight_and_near_ones_nearly_w0() -> None:
    label = np.zeros((40, 400), np.uint8)
    label[10:20, 10:20] = label[10:20, 390:] = 1
    assert border_weights(label).max() < 1e-12
    label[10:20, 21:30] = 1  # one pixel between: distances 1 and 1
    assert border_weights(label)[15, 20] == pytest.approx(10 * np.exp(-4 / 50))
    assert border_weights(np.zeros_like(label)).max() == 0


def batch_of(side: int = 204) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """An image, a label of cells with an ignored stripe, and the maps of that label."""
    smooth = F.interpolate(
        torch.randn(2, 1, 40, 40), (side, side), mode="bicubic", align_corners=False
    )
    label = (smooth[:, 0] > 0.5).to(torch.uint8)
    label[:, 100:104] = 255
    made = [border_weights(each) for each in label.numpy()]
    return torch.randn(2, 3, side, side), label, {"border": torch.from_numpy(np.stack(made))}


def adopted(class_weights: tuple[float, ...]) -> UNet:
    module = UNet(2, width=4).eval()
    row = EXPERIMENTS["valid"].but(recipe={"class_weights": class_weights})
    module.adopt(row.recipe, row.normalization, Identity())
    return module


@pytest.mark.parametrize("class_weights", [(), (0.4, 3.0)])
def test_the_energy_is_the_cross_entropy_under_w_c_and_the_border(
    class_weights: tuple[float, ...],
) -> None:
    module, (image, label, maps) = adopted(class_weights), batch_of()
    with torch.no_grad():
        loss = module.losses((image, label, maps))["main"]
        log_p = module.logits(image).log_softmax(1)
    energy, w_c = 0.0, class_weights or (1.0, 1.0)
    for image_of in range(2):
        for row in range(20):
            for column in range(20):
                there = image_of, row + 92, column + 92
                true = int(label[there])
                if true != 255:
                    w = w_c[true] + maps["border"][there].item()
                    energy -= w * log_p[image_of, true, row, column].item()
    assert maps["border"][:, 92:-92, 92:-92].max() > 1
    assert loss.item() == pytest.approx(energy / (2 * 20 * 20), rel=1e-5)


def test_what_lies_in_the_margin_trains_nothing() -> None:
    module, (image, label, maps) = adopted(()), batch_of()
    elsewhere, border = torch.ones_like(label), torch.full_like(maps["border"], 7.0)
    elsewhere[:, 92:-92, 92:-92] = label[:, 92:-92, 92:-92]
    border[:, 92:-92, 92:-92] = maps["border"][:, 92:-92, 92:-92]
    with torch.no_grad():
        losses = module.losses((image, label, maps))
        assert losses == module.losses((image, elsewhere, {"border": border}))
        assert losses != module.losses((image, label))


# --- the padded variant


@pytest.mark.parametrize("case", DICE, ids=lambda case: case["id"])
def test_cross_entropy_and_dice_have_the_value_and_gradient_of_the_code_line(case: dict) -> None:
    inputs = {
        name: torch.from_numpy(x) for name, x in inputs_from_names.build(case["inputs"]).items()
    }
    logits = inputs["logits"].requires_grad_()
    module = PaddedUNet(case["options"]["classes"], width=2)
    terms = module.criterion({"main": logits}, inputs["label"])
    assert terms["main"].item() == pytest.approx(case["terms"]["ce"], rel=1e-5)
    assert terms["dice"].item() == pytest.approx(case["terms"]["dice"], rel=1e-5)
    sum(terms.values()).backward()
    facts, slope = case["gradient"]["logits"], logits.grad
    sample = torch.from_numpy(SAMPLES[f"unet_milesial/{case['id']}/logits/sample"])
    assert slope.double().norm().item() == pytest.approx(facts["l2"], rel=1e-4)
    difference = slope.flatten()[:: facts["stride"]] - sample.flatten()
    assert difference.abs().max() <= 1e-4 * slope.abs().max()


def test_dice_counts_labeled_pixels_alone() -> None:
    logits, label = torch.randn(2, 3, 8, 10), torch.randint(3, (2, 8, 10))
    ignored = label.clone()
    ignored[:, 4:] = 255
    torch.testing.assert_close(
        dice_loss(logits, ignored), dice_loss(logits[:, :, :4], label[:, :4])
    )
    assert dice_loss(logits, torch.full_like(label, 255)) == 0


@pytest.mark.catalogue
def test_one_training_step_of_the_padded_variant_is_that_of_the_code_line_in_float64() -> None:
    module, batch = training_step.prepared("unet_milesial")
    terms = module.losses(batch)
    expected = training_step.stored("unet_milesial")["terms"]
    training_step.assert_terms(terms, {"main": expected["ce"], "dice": expected["dice"]})
    sum(terms.values()).backward()
    training_step.assert_the_authors_gradients("unet_milesial", module)


@pytest.mark.parametrize("bilinear", [False, True])
def test_the_padded_variant_takes_any_size_from_sixteen_up(bilinear: bool) -> None:
    network = PaddedUNet(3, bilinear, width=4).eval()
    assert [network.valid_side(side) for side in (3, 16, 17, 75)] == [16, 16, 17, 75]
    for size in ((16, 16), (17, 31), (75, 101), (3, 5)):
        with torch.no_grad():
            assert network(torch.randn(1, 3, *size)).shape == (1, 3, *size)


def test_the_padded_variant_has_the_parameters_of_the_code_line() -> None:
    rows = [segmodels.experiment(f"unet/{row}") for row in ("padded", "padded_bilinear")]
    with torch.device("meta"):
        networks = [*(row.build(2, "meta") for row in rows), PaddedUNet(2)]
    counts = [sum(each.numel() for each in network.parameters()) for network in networks]
    assert counts == [31_037_698, 17_263_042, 31_037_698]


@pytest.mark.parametrize("bilinear", [False, True])
def test_a_step_upward_doubles_the_sides(bilinear: bool) -> None:
    x = torch.linspace(0, 1, 3)[:, None].expand(1, 32 if bilinear else 64, 3, 4)
    with torch.no_grad():
        found = PaddedUNet(3, bilinear, width=4).expansive[0].up(x)
    assert found.shape == (1, 32, 6, 8)
    if bilinear:  # and keeps even slopes even, from corner to corner
        torch.testing.assert_close(found[0, 0, :, 0], torch.linspace(0, 1, 6))


def test_mmsegmentation_divides_by_all_pixels_and_weighs_its_auxiliary_head() -> None:
    module = UNetMMSeg(3)
    logits, label = torch.randn(1, 3, 8, 8), torch.randint(3, (1, 8, 8))
    label[:, :4] = 255
    terms = module.criterion({"main": logits, "auxiliary": logits}, label)
    expected = F.cross_entropy(logits, label, ignore_index=255, reduction="sum").item() / 64
    found = {name: term.item() for name, term in terms.items()}
    assert found == pytest.approx({"main": expected, "auxiliary": 0.4 * expected}, rel=1e-5)


def test_the_weight_of_borders_is_an_option_and_without_it_no_map_is_made() -> None:
    label = np.zeros((40, 40), np.uint8)
    label[5:18, 5:35] = label[20:35, 5:35] = 1
    full = segmodels.experiment("unet").build(2, "meta").label_maps(label)["border"]
    assert np.array_equal(full, border_weights(label)) and full.max() > 5
    half = UNet(2, width=4, border_weight=5.0).label_maps(label)["border"]
    np.testing.assert_allclose(half, full / 2, rtol=1e-6)
    assert segmodels.experiment("unet/no_border_weights").build(2, "meta").label_maps is None
