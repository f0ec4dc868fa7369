"""Tests of PIDNet: losses, boundary label and a training step like the authors'.

They also check the auxiliary outputs and the ablations.
"""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import segmodels
from experiments.results.reference import weights_from_names
from segmodels.architectures.pidnet import (
    EXPERIMENTS,
    PAPPM,
    LightBag,
    Pag,
    PIDNet,
    balanced_bce,
    boundaries,
    canny,
)
from segmodels.paper import inference_parameters
from segmodels.parts.class_weights import CITYSCAPES
from segmodels.parts.losses import amount
from segmodels.ports.mmseg.pidnet import PIDNetMMSeg, steps
from segmodels.recipe import Recipe, loss_settings
from tests.support import inputs_from_names, training_step

REFERENCE = training_step.REFERENCE
LOSSES = json.loads((REFERENCE / "pidnet_losses.json").read_text())
SAMPLES = np.load(REFERENCE / "pidnet_losses.npz")
BOUNDARY = [pytest.param(case, id=case["id"]) for case in LOSSES["pidnet_boundary"]]
FULL = [pytest.param(case, id=case["id"]) for case in LOSSES["pidnet_full"] if case["gradient"]]
FAILING = [
    pytest.param(case, id=case["id"]) for case in LOSSES["pidnet_full"] if not case["gradient"]
]


def plausible_edges(label: Tensor) -> Tensor:
    """The boundary maps that the stored losses were made with: the pixels around any change to the right, below or between; not Canny's."""
    padded = F.pad(label.float()[:, None], (0, 1, 0, 1), mode="replicate")[:, 0]
    here = padded[:, :-1, :-1]
    changed = (here != padded[:, :-1, 1:]) | (here != padded[:, 1:, :-1])
    diagonal = here != padded[:, 1:, 1:]
    diagonal[:, -1], diagonal[:, :, -1] = False, False
    return F.max_pool2d((changed | diagonal).double()[:, None], 3, 1, 1)[:, 0]


def made(case: dict) -> dict[str, Tensor]:
    """The inputs of a stored case; logits want a gradient."""
    inputs = {key: value for key, value in case["inputs"].items() if value["kind"] != "edges"}
    return {
        key: torch.from_numpy(x).requires_grad_(key != "label")
        for key, x in inputs_from_names.build(inputs).items()
    }


def given(outputs: dict[str, Tensor], edges: Tensor, options: dict) -> PIDNet:
    """A module whose network returns these outputs: its losses alone are at work."""
    module = PIDNet(19)
    mined = f"hrnet_ohem:{options['thres']},{options['min_kept']}"
    module.recipe = Recipe(class_weights=tuple(options["class_weights"]), loss=mined)
    module.outputs = lambda image: outputs
    module.edges = lambda label: edges
    return module


def full_losses(case: dict) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    inputs = made(case)
    outputs = {"main": inputs["logits"], "auxiliary": inputs["aux"], "boundary": inputs["boundary"]}
    edges = plausible_edges(inputs["label"])
    image = torch.zeros(2, 3, *inputs["label"].shape[-2:])
    return inputs, given(outputs, edges, case["options"]).losses((image, inputs["label"]))


def assert_gradients(group: str, case: dict, inputs: dict[str, Tensor]) -> None:
    for name, facts in case["gradient"].items():
        slope, sample = (
            inputs[name].grad,
            torch.from_numpy(SAMPLES[f"{group}/{case['id']}/{name}/sample"]),
        )
        assert (
            slope.flatten()[:: facts["stride"]] - sample
        ).abs().max() <= 1e-4 * slope.abs().max()
        assert slope.double().norm().item() == pytest.approx(facts["l2"], rel=1e-4)


# --- losses


@pytest.mark.parametrize("case", BOUNDARY)
def test_the_boundary_loss_and_its_gradient_are_the_authors(case: dict) -> None:
    inputs = made(case)
    edges = plausible_edges(inputs["label"]).float()
    loss = case["options"]["coeff_bce"] * balanced_bce(inputs["boundary"][:, 0], edges)
    assert loss.item() == pytest.approx(case["value"], rel=1e-6)
    loss.backward()
    assert_gradients("pidnet_boundary", case, inputs)


@pytest.mark.parametrize("others", [1, 7, 999_999])
def test_the_boundary_loss_is_exact_however_few_pixels_are_of_one_kind(others: int) -> None:
    """Of a million pixels, `others` are no edges; the formula in double precision."""
    edges = torch.ones(1, 1000, 1000)
    edges.view(-1)[:others] = 0
    logits = torch.linspace(-4, 3, 1_000_000).view_as(edges)
    p, share = logits.double().sigmoid(), (1_000_000 - others) / 1_000_000
    each = torch.where(edges > 0, -p.log() * (others / 1_000_000), -(1 - p).log() * share)
    assert balanced_bce(logits, edges).item() == pytest.approx(each.mean().item(), rel=1e-6)


@pytest.mark.parametrize("case", FULL)
def test_all_terms_together_and_their_gradients_are_the_authors(case: dict) -> None:
    inputs, terms = full_losses(case)
    found = {
        "semantic_0.4aux+ohem": (terms["auxiliary"] + terms["main"]).item(),
        "boundary": terms["boundary"].item(),
        "boundary_aware": terms["boundary_aware"].item(),
    }
    assert found == pytest.approx(case["terms"], rel=2e-6)
    assert sum(found.values()) == pytest.approx(case["value"], rel=2e-6)
    sum(terms.values()).backward()
    assert_gradients("pidnet_full", case, inputs)


@pytest.mark.parametrize("case", FAILING)
def test_where_the_authors_code_finds_no_pixel_near_a_boundary_that_term_is_zero(
    case: dict,
) -> None:
    inputs, terms = full_losses(case)
    assert terms["boundary_aware"].item() == 0
    assert (terms["main"].item() == 0) == (case["id"] == "all_ignored")
    sum(terms.values()).backward()
    assert all(x.grad.isfinite().all() for name, x in inputs.items() if name != "label")


def test_every_failing_case_is_one_of_the_two_known() -> None:
    assert {case.id for case in FAILING} == {"all_ignored", "no_confident_boundary"}


def test_a_boundary_aware_loss_without_boundaries_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a boundary head"):
        PIDNet(3, boundary_weight=0.0)


@pytest.mark.parametrize("option", ["variant", "lateral", "context_module", "fusion"])
def test_a_word_that_an_option_does_not_know_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option}='nothing' is not known; allowed: '"):
        PIDNet(3, **{option: "nothing"})


# --- the boundary label


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["id"]) for case in LOSSES["pidnet_edges"]]
)
def test_the_boundary_label_is_the_authors(case: dict) -> None:
    label = made(case)["label"]
    stored = np.unpackbits(SAMPLES[f"pidnet_edges/{case['id']}/packed"])[: label.numel()].reshape(
        label.shape
    )
    assert np.array_equal(boundaries(label).numpy(), stored)
    assert stored.mean() == pytest.approx(case["value"])


def odd_shapes(seed: int) -> NDArray[np.uint8]:
    """Discs, slanted stripes and single pixels of random numbers, 255 among them: every direction of a gradient, and ties."""
    draw = np.random.default_rng(seed)
    label = np.zeros((57, 83), np.uint8)
    for _ in range(12):
        row, column = int(draw.integers(57)), int(draw.integers(83))
        cv2.circle(label, (column, row), int(draw.integers(1, 14)), int(draw.integers(19)), -1)
        end, number = (
            (int(draw.integers(83)), int(draw.integers(57))),
            int(draw.choice([255, 3, 7])),
        )
        cv2.line(label, (row, column), end, number, int(draw.integers(1, 4)))
    label[draw.integers(57, size=40), draw.integers(83, size=40)] = draw.integers(19, size=40)
    return label


def test_canny_is_opencvs_on_any_label() -> None:
    for seed in range(20):
        label = odd_shapes(seed)
        assert np.array_equal(
            canny(torch.from_numpy(label)[None])[0].numpy(), cv2.Canny(label, 0.1, 0.2) > 0
        ), seed


def test_a_dilated_edge_is_opencvs() -> None:
    label = odd_shapes(99)
    edges = cv2.Canny(label, 0.1, 0.2)
    edges[:6], edges[-6:], edges[:, :6], edges[:, -6:] = 0, 0, 0, 0
    expected = cv2.dilate(edges, np.ones((4, 4), np.uint8)) > 50
    assert np.array_equal(boundaries(torch.from_numpy(label)[None])[0].numpy(), expected)


def test_mmsegs_boundary_label_knows_nothing_of_ignored_pixels() -> None:
    """Against a slow loop over pixels and their neighbors above, to the right, to the lower right and to the lower left."""
    label = odd_shapes(5)
    slow = np.zeros_like(label, dtype=bool)
    for row, column in np.ndindex(label.shape):
        for down, right in ((-1, 0), (0, 1), (1, 1), (1, -1)):
            i, j = row + down, column + right
            if 0 <= i < label.shape[0] and 0 <= j < label.shape[1]:
                pair = {int(label[row, column]), int(label[i, j])}
                slow[row, column] |= len(pair) == 2 and 255 not in pair
    assert np.array_equal(steps(torch.from_numpy(label)[None])[0].numpy(), slow)
    expected = cv2.dilate(slow.astype(np.uint8), np.ones((4, 4), np.uint8))
    assert np.array_equal(PIDNetMMSeg(3).edges(torch.from_numpy(label)[None])[0].numpy(), expected)


# --- the authors' numbers


def test_one_training_step_is_the_authors_in_float64() -> None:
    module, batch = training_step.prepared("pidnet_s")
    module.recipe = replace(module.recipe, class_weights=CITYSCAPES, loss="hrnet_ohem:0.9,4096")
    module.edges = plausible_edges
    terms = module.losses(batch)
    theirs = training_step.stored("pidnet_s")["terms"]
    found = {
        "semantic": terms["main"] + terms["auxiliary"],
        "boundary": terms["boundary"],
        "boundary_aware": terms["boundary_aware"],
    }
    training_step.assert_terms(found, {name: theirs[name] for name in found})
    sum(terms.values()).backward()
    training_step.assert_the_authors_gradients("pidnet_s", module)


def test_one_training_step_of_mmsegs_is_mmsegs_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = training_step.prepared("mmseg_pidnet_s")
    # mmseg makes the weights in the type of the logits
    monkeypatch.setattr(
        type(module), "class_weights", torch.tensor(CITYSCAPES, dtype=torch.float64)
    )
    module.edges, module.classifier[5].p = plausible_edges, 0.0
    terms = module.losses(batch)
    theirs = training_step.stored("mmseg_pidnet_s")["terms"]
    names = {"main": "sem_i", "auxiliary": "sem_p", "boundary_aware": "sem_bd"}
    training_step.assert_terms(
        {name: terms[name] for name in names},
        {ours: theirs[f"decode.loss_{name}"] for ours, name in names.items()},
    )
    boundary = theirs["decode.loss_bd"]
    assert (
        np.float32(boundary) == boundary
    )  # mmseg makes this term in float32, whatever the logits are in
    assert terms["boundary"].item() == pytest.approx(boundary, rel=1e-6)
    sum(terms.values()).backward()
    training_step.assert_the_authors_gradients("mmseg_pidnet_s", module)


@pytest.mark.parametrize(
    "name", ["pidnet_s", pytest.param("pidnet_l", marks=pytest.mark.catalogue)]
)
def test_the_outputs_of_training_are_the_authors(name: str) -> None:
    golden = np.load(REFERENCE / "released" / f"{name}.npz")
    module = segmodels.from_released(name, training_step.weights(name))
    with torch.no_grad():
        outputs = module.outputs(
            torch.from_numpy(
                weights_from_names.make_input(
                    str(golden["input_name"]), tuple(golden["input_shape"])
                )
            )
        )
    for ours, theirs in (("auxiliary", "aux1"), ("boundary", "aux2")):
        assert outputs[ours].shape == tuple(golden[f"aux/{theirs}/shape"])
        sample = golden[f"aux/{theirs}/sample"].ravel()
        found = (
            outputs[ours]
            .numpy()
            .ravel()[:: int(golden[f"aux/{theirs}/sample_flat_stride"])][: len(sample)]
        )
        assert np.abs(found - sample).max() <= max(
            20 * float(golden["max_abs_diff_vs_float64"]), 2e-5 * np.abs(sample).max()
        )


@pytest.mark.parametrize(("row", "millions"), [("s", 7.6), ("l", 36.9)])
def test_parameters_are_as_many_as_the_paper_counts(row: str, millions: float) -> None:
    assert inference_parameters(segmodels.experiment(f"pidnet/{row}")) / 1e6 == pytest.approx(
        millions, abs=0.05
    )


# --- what the switches of the ablations do


def test_pag_takes_from_context_as_much_as_both_vectors_agree() -> None:
    pag = Pag(4).eval()
    for conv in (pag.of_p[0], pag.of_i[0]):
        conv.weight.data = torch.eye(4)[
            :2, :, None, None
        ]  # only the first two channels are compared
    p, i = torch.randn(1, 4, 3, 5), torch.randn(1, 4, 3, 5)
    with torch.no_grad():
        found = pag(p, i)
    for row, column in np.ndindex(3, 5):
        one, other = p[0, :, row, column], i[0, :, row, column]
        alike = torch.sigmoid(
            one[:2] @ other[:2] / (1 + 1e-5)
        )  # the norms divide each vector by sqrt(1 + eps)
        torch.testing.assert_close(found[0, :, row, column], (1 - alike) * one + alike * other)


def test_bag_trusts_detail_at_boundaries_and_context_elsewhere() -> None:
    bag = PIDNet(3, fusion="bag").fusion.eval()
    p, i, sure = (
        torch.randn(1, 128, 4, 4),
        torch.randn(1, 128, 4, 4),
        torch.full((1, 128, 4, 4), 100.0),
    )
    with torch.no_grad():
        torch.testing.assert_close(bag(p, i, sure), bag.conv(p))
        torch.testing.assert_close(bag(p, i, -sure), bag.conv(i))


def test_the_light_bag_adds_the_other_branch_to_each_by_the_same_share() -> None:
    bag = LightBag(8).eval()
    p, i, sure = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 4, 4), torch.full((1, 8, 4, 4), 100.0)
    with torch.no_grad():
        torch.testing.assert_close(bag(p, i, sure), bag.of_p(p) + bag.of_i(i + p))
        torch.testing.assert_close(bag(p, i, -sure), bag.of_p(p + i) + bag.of_i(i))


def test_the_scales_of_pappm_do_not_see_each_other() -> None:
    pyramid = PAPPM(8, 4, 8).eval()
    own, pooled = (
        torch.randn(2, 4, 6, 6),
        [torch.randn(2, 4, 6, 6, requires_grad=True) for _ in range(4)],
    )
    _, scales = pyramid.aggregated(own, pooled)
    for n, part in enumerate(scales.chunk(4, 1)):
        slopes = torch.autograd.grad(part.sum(), pooled, retain_graph=True)
        assert [bool(slope.any()) for slope in slopes] == [n == other for other in range(4)]


@pytest.mark.parametrize("lateral", ["pag", "add", "none"])
def test_a_lateral_connection_lets_detail_see_context(lateral: str) -> None:
    stage = PIDNet(3, lateral=lateral).backbone.third
    p, _, _ = stage(*(torch.randn(2, 64, 8, 8) for _ in range(3)))
    slopes = torch.autograd.grad(p.sum(), list(stage.integral.parameters()), allow_unused=True)
    assert any(slope is not None for slope in slopes) == (lateral != "none")


@pytest.mark.parametrize(
    ("row", "terms"),
    [
        ("s", {"main", "auxiliary", "boundary", "boundary_aware"}),
        ("no_auxiliary", {"main", "boundary", "boundary_aware"}),
        ("no_boundary", {"main", "auxiliary"}),
        ("no_boundary_aware", {"main", "auxiliary", "boundary"}),
    ],
)
def test_a_term_that_is_switched_off_is_gone(row: str, terms: set[str]) -> None:
    module = PIDNet(3, **EXPERIMENTS[row].model).eval()
    with torch.no_grad():
        assert (
            set(module.losses((torch.randn(1, 3, 64, 64), torch.randint(3, (1, 64, 64))))) == terms
        )


# --- start and recipe


def test_an_imagenet_file_may_lack_what_only_segmentation_has(tmp_path: Path) -> None:
    weights = training_step.weights("pidnet_s")
    beyond = ("pag", "diff", "layer3_d", "layer4_d", "layer5_d", "seghead", "spp", "dfm", "final")
    classifier = {
        name: tensor for name, tensor in weights.items() if not name.startswith(beyond)
    } | {"linear.bias": torch.zeros(1000)}
    torch.save({"state_dict": classifier}, tmp_path / "imagenet.pth")
    module = PIDNet(5)
    said = module.load_pretrained(str(tmp_path / "imagenet.pth"))
    assert torch.equal(
        module.backbone.fourth.integral[0].residual[0][0].weight, weights["layer4.0.conv1.weight"]
    )
    assert "start fresh: third.derivative" in said and "left out: linear.bias" in said
    torch.save(
        {name: tensor for name, tensor in classifier.items() if not name.startswith("layer2")},
        tmp_path / "part.pth",
    )
    with pytest.raises(ValueError, match="tensors missing"):
        module.load_pretrained(str(tmp_path / "part.pth"))


def test_all_parameters_learn_alike_and_all_decay() -> None:
    groups = segmodels.experiment("pidnet").build().parameter_groups()
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(0.01, 5e-4)}


def test_crops_are_padded_with_black_as_in_the_authors_data_sets() -> None:
    """pad_image of datasets/base_dataset.py, called with (0.0, 0.0, 0.0) before input_transform."""
    assert {row.recipe.padding for row in EXPERIMENTS.values()} == {"black"}


def test_the_share_of_mined_pixels_is_the_authors_count_at_their_batch() -> None:
    name, (threshold, share) = loss_settings(EXPERIMENTS["s"].recipe.loss)
    assert (name, threshold) == ("hrnet_ohem", "0.9")
    assert int(amount(share) * 6 * 1024 * 1024) == 131_072
