"""Tests of STDC: the label of its detail head, parameter groups and ablations.

Its training step equals the authors' and mmsegmentation's.
"""

import gzip
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import segmodels
from experiments.results.reference import weights_from_names
from segmodels.architectures import stdc
from segmodels.architectures.stdc import STDC, Classifier, detail_label, dice_loss
from segmodels.module import SegmentationModule
from segmodels.own_checkpoints import start_from
from segmodels.paper import inference_parameters
from segmodels.released_checkpoints import layouts
from tests.support import inputs_from_names
from tests.support.paths import REFERENCE

DETAIL = {
    case["id"]: case for case in json.loads((REFERENCE / "stdc_detail.json").read_text())["cases"]
}
STORED = np.load(REFERENCE / "stdc_detail.npz")
TRAINER = json.loads(
    gzip.decompress((REFERENCE / "steps" / "stdc1_seg_groups.json.gz").read_bytes())
)
TERMS = {
    "stdc1_seg": {"main": "out", "auxiliary8": "out16", "auxiliary16": "out32", "detail_bce": "detail_bce", "detail_dice": "detail_dice"},
    "mmseg_stdc1": {
        "main": "decode.loss_ce", "auxiliary8": "aux_0.loss_ce", "auxiliary16": "aux_1.loss_ce",
        "detail_bce": "aux_2.loss_ce", "detail_dice": "aux_2.loss_dice",
    },
}  # fmt: skip


def state(name: str) -> dict[str, Tensor]:
    layout = json.loads(gzip.decompress((REFERENCE / "released" / f"{name}.json.gz").read_bytes()))
    return {
        key: torch.from_numpy(np.array(value))
        for key, value in weights_from_names.fill_layout(layout).items()
    }


def random_label(*shape: int, classes: int = 19) -> Tensor:
    label = torch.randint(classes + 1, shape, dtype=torch.uint8)
    return label.masked_fill(label == classes, 255)


# --- the detail label


@pytest.mark.parametrize("name", DETAIL)
def test_the_detail_label_and_each_of_its_levels_are_the_authors(name: str) -> None:
    label = torch.from_numpy(
        inputs_from_names.build({"label": DETAIL[name]["inputs"]["label"]})["label"]
    )
    levels = {"target": (1, 2, 4), "level1": (1,), "level2_up": (2,), "level4_up": (4,)}
    for level, strides in levels.items():
        theirs = np.unpackbits(STORED[f"{name}/{level}/packed"])[: label.numel()].astype(bool)
        assert np.array_equal(detail_label(label, strides).numpy().ravel(), theirs), level


@pytest.mark.parametrize("name", DETAIL)
def test_the_detail_losses_and_their_gradient_are_the_authors(name: str) -> None:
    case = DETAIL[name]
    made = inputs_from_names.build(case["inputs"])
    logits = torch.from_numpy(made["boundary"]).requires_grad_()
    terms = STDC(2).detail_terms(logits, detail_label(torch.from_numpy(made["label"])))
    assert terms["detail_bce"].item() == pytest.approx(case["terms"]["bce"], rel=1e-6)
    assert terms["detail_dice"].item() == pytest.approx(case["terms"]["dice"], rel=1e-6)
    sum(terms.values()).backward()
    sample = logits.grad.flatten()[:: int(STORED[f"{name}/grad/boundary/stride"])].numpy()
    np.testing.assert_allclose(
        sample,
        STORED[f"{name}/grad/boundary/sample"],
        rtol=0,
        atol=1e-5 * case["gradient"]["boundary"]["max_abs"],
    )


def test_an_edge_stands_on_the_side_of_the_larger_number_as_a_slow_loop_finds_it() -> None:
    label = random_label(1, 11, 14, classes=3)
    number = np.pad(label[0].numpy().astype(int), 1)
    for stride in (1, 2, 4):
        small = np.zeros((-(-11 // stride), -(-14 // stride)), bool)
        for row, column in np.ndindex(small.shape):
            window = number[row * stride : row * stride + 3, column * stride : column * stride + 3]
            small[row, column] = 9 * window[1, 1] > window.sum()
        rows, columns = (np.arange(side) * of // side for side, of in zip((11, 14), small.shape))
        assert np.array_equal(detail_label(label, (stride,))[0, 0].numpy(), small[rows][:, columns])


def test_stride_4_decides_nothing_and_stride_2_does() -> None:
    """A departure that the paper's file states: 0.1 is not above 0.1."""
    label = random_label(2, 7, 9).repeat_interleave(9, 1).repeat_interleave(9, 2)
    whole, two, one, alone = (
        detail_label(label, strides) for strides in ((1, 2, 4), (1, 2), (1,), (4,))
    )
    assert torch.equal(whole, two)
    assert (two & ~one).any()
    assert (alone & ~whole).any()


def test_half_precision_finds_the_same_edges() -> None:
    label = random_label(2, 40, 50)
    with torch.autocast("cpu", torch.bfloat16):
        half = detail_label(label)
    assert torch.equal(half, detail_label(label))


def test_the_two_forms_of_dice_are_the_two_formulas() -> None:
    p, edge = torch.rand(2, 1, 3, 5).double(), (torch.rand(2, 1, 3, 5) > 0.5).double()
    sums, squares = [], []
    for each, true in zip(p.flatten(1).tolist(), edge.flatten(1).tolist()):
        shared = 2 * sum(a * b for a, b in zip(each, true)) + 1
        sums.append(1 - shared / (sum(each) + sum(true) + 1))
        squares.append(1 - shared / (sum(a * a for a in each) + sum(b * b for b in true) + 1))
    assert dice_loss(p, edge, "sums").item() == pytest.approx(sum(sums) / 2)
    assert dice_loss(p, edge, "squares").item() == pytest.approx(sum(squares) / 2)


# --- one training step


def in_float64(name: str) -> SegmentationModule:
    """Weights are converted in float64, as the references were made."""
    layout, weights = layouts()[name], state(name)
    module = layout.build(19).double().train()
    missing, beyond = module.load_state_dict(
        layout.renamed({key: value.double() for key, value in weights.items()}), strict=False
    )
    assert not [key for key in (*missing, *beyond) if not key.endswith("num_batches_tracked")]
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout2d):
            layer.p = 0.0
    return module


def edges_of_other_kernels(label: Tensor, strides: tuple[int, ...]) -> Tensor:
    """mmsegmentation's step was made with its Laplacian and its shares filled like weights, because its state dict holds them."""
    given = state("mmseg_stdc1")
    laplacian, shares = (
        given[f"auxiliary_head.2.{kernel}_kernel"].double() for kernel in ("laplacian", "fusion")
    )
    levels = [
        (F.conv2d(label[:, None].double(), laplacian, stride=stride, padding=1) > 0.1).double()
        for stride in strides
    ]
    return (
        F.conv2d(
            torch.cat(
                [F.interpolate(level, label.shape[-2:], mode="nearest") for level in levels], 1
            ),
            shares,
        )
        > 0.1
    )


@pytest.mark.parametrize("name", TERMS)
def test_one_training_step_is_the_released_code_lines_in_float64(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss terms, the gradient of every parameter, and batch-norm statistics."""
    if name == "mmseg_stdc1":
        monkeypatch.setattr(stdc, "detail_label", edges_of_other_kernels)
    case = json.loads((REFERENCE / "steps" / f"{name}.json").read_text())
    golden = np.load(REFERENCE / "steps" / f"{name}.npz")
    module, renamed = in_float64(name), layouts()[name].renamed
    label = torch.from_numpy(inputs_from_names.build({"label": case["inputs"]["label"]})["label"])
    image = torch.from_numpy(
        weights_from_names.make_input(
            case["inputs"]["image"]["name"], tuple(case["inputs"]["image"]["shape"])
        )
    ).double()
    terms = module.losses((image, label))
    assert set(terms) == set(TERMS[name])
    for ours, theirs in TERMS[name].items():
        single = (
            name == "mmseg_stdc1" and "detail" in ours
        )  # mmsegmentation computes parts of these two in float32
        assert terms[ours].item() == pytest.approx(
            case["terms"][theirs], rel=6e-8 if single else 1e-9
        )
    sum(terms.values()).backward()
    norms = dict(
        zip(golden["param_names"].tolist(), golden["param_grad_norms"].tolist(), strict=True)
    )
    assert len(norms) == len(list(module.parameters()))
    for theirs, norm in norms.items():
        (ours,) = renamed({theirs: torch.empty(0)})
        assert module.get_parameter(ours).grad.norm().item() == pytest.approx(norm, rel=1e-6)
    for theirs, facts in case["gradients"].items():
        (ours,) = renamed({theirs: torch.empty(0)})
        gradient = module.get_parameter(ours).grad.flatten()[:: facts["stride"]].numpy()
        np.testing.assert_allclose(
            gradient, golden[f"grad/{theirs}/sample"].ravel(), rtol=0, atol=1e-6 * facts["max_abs"]
        )
    for theirs, facts in case["batchnorm"].items():
        for statistic in ("running_mean", "running_var"):
            for ours in renamed({f"{theirs}.{statistic}": torch.empty(0)}):
                sample = module.get_buffer(ours)[:: facts["stride"]].numpy()
                np.testing.assert_allclose(
                    sample, golden[f"bn/{theirs}/{statistic}"].ravel(), rtol=1e-6, atol=1e-6
                )


# --- released weights


def test_the_auxiliary_outputs_are_the_authors_too() -> None:
    golden = np.load(REFERENCE / "released" / "stdc1_seg.npz")
    module = segmodels.from_released("stdc1_seg", state("stdc1_seg"))
    image = torch.from_numpy(
        weights_from_names.make_input(str(golden["input_name"]), tuple(golden["input_shape"]))
    )
    with torch.no_grad():
        outputs = module.outputs(image)
    for ours, theirs in {"auxiliary8": "aux1", "auxiliary16": "aux2", "detail": "aux3"}.items():
        found = outputs[ours]
        if ours != "detail":
            found = F.interpolate(found, image.shape[-2:], mode="bilinear", align_corners=True)
        assert list(found.shape) == golden[f"aux/{theirs}/shape"].tolist()
        sample, want = (
            found.flatten()[:: int(golden[f"aux/{theirs}/sample_flat_stride"])].numpy(),
            golden[f"aux/{theirs}/sample"],
        )
        assert np.abs(sample[: len(want)] - want).max() <= 2e-5 * np.abs(want).max()


def test_the_scales_of_in_place_abn_act_by_their_size() -> None:
    given = state("stdc1_seg")
    straight = segmodels.from_released("stdc1_seg", given).state_dict()
    abn = [
        name
        for name in given
        if name.endswith(("bn.weight", "bn_atten.weight")) and ".backbone." not in name
    ]
    mirrored = segmodels.from_released(
        "stdc1_seg", given | {name: -given[name] for name in abn}
    ).state_dict()
    assert len(abn) == 15
    assert all(torch.equal(straight[name], mirrored[name]) for name in straight)
    torch.testing.assert_close(
        straight["fusion.conv.1.weight"],
        given["ffm.convblk.bn.weight"].abs() + 1e-5,
        rtol=0,
        atol=0,
    )
    assert torch.equal(
        straight["backbone.stem.0.1.weight"], given["cp.backbone.features.0.bn.weight"]
    )


@pytest.mark.parametrize(("depth", "millions"), [("stdc1", 8.44), ("stdc2", 12.47)])
def test_a_classifier_has_the_parameters_of_the_papers_table(depth: str, millions: float) -> None:
    with torch.device("meta"):
        module = Classifier(depth)
    assert round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 2) == millions


def test_a_released_classifier_starts_a_segmenter() -> None:
    classifier = segmodels.from_released("stdcnet813", state("stdcnet813"))
    module = segmodels.experiment("stdc").build(num_classes=7)
    said = start_from(module, classifier.state_dict(), "the classifier")
    assert "start anew" in said
    ours = module.backbone.state_dict()
    assert all(
        torch.equal(ours[name], value) for name, value in classifier.backbone.state_dict().items()
    )


def test_a_classifier_of_the_other_depth_is_told_apart() -> None:
    with pytest.raises(ValueError, match="it looks like stdcnet1446"):
        segmodels.from_released("stdcnet813", state("stdcnet1446"))


# --- training as the authors train


def test_the_rate_is_the_authors_at_every_step_they_list() -> None:
    module = segmodels.experiment("stdc").build()
    assert module.recipe.iterations == TRAINER["T"]
    (share, *_) = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas
    for step, rate in TRAINER["lr"].items():
        assert module.recipe.lr * share(int(step)) == pytest.approx(rate, rel=1e-9)


def test_the_parameter_groups_are_those_of_the_authors_code() -> None:
    """What their optimizer does not hold learns at rate 0."""
    module = segmodels.experiment("stdc").build()
    names = {parameter: name for name, parameter in module.named_parameters()}
    ours = {
        names[p]: (round(group["lr"] / 0.01), group["weight_decay"])
        for group in module.parameter_groups()
        for p in group["params"]
    }
    groups = [
        *TRAINER["groups"],
        {"lr_multiplier": 0, "weight_decay": 0, "params": TRAINER["not_in_optimizer"]},
    ]
    renamed = layouts()["stdc1_seg"].renamed
    theirs = {
        name: (g["lr_multiplier"], g["weight_decay"])
        for g in groups
        for name in renamed(dict.fromkeys(g["params"], torch.empty(0)))
    }
    assert ours == theirs


@pytest.mark.parametrize(("row", "moves"), [("stdc1", False), ("trained_norms", True)])
def test_the_norms_of_the_backbone_move_only_where_they_are_trained(row: str, moves: bool) -> None:
    module = segmodels.experiment(f"stdc/{row}").build(num_classes=3).train()
    optimizer = module.configure_optimizers()["optimizer"]
    norm, conv = module.backbone.stem[0][1], module.backbone.stem[0][0].weight.clone()
    before = norm.weight.clone()
    sum(
        module.losses((torch.randn(2, 3, 64, 64), random_label(2, 64, 64, classes=3))).values()
    ).backward()
    optimizer.step()
    assert torch.equal(before, norm.weight) != moves
    assert not torch.equal(conv, module.backbone.stem[0][0].weight)
    assert norm.running_mean.any()


# --- rows


def test_seg50_and_seg75_are_protocols_of_one_training() -> None:
    for row in ("stdc1", "stdc2"):
        figures = segmodels.experiment(f"stdc/{row}").published
        for split in ("val", "test"):
            assert {figure.protocol for figure in figures if figure.split == split} == {
                "resized:0.5",
                "resized:0.75",
            }
        assert len({figure.source for figure in figures if figure.split == "val"}) == 2


@pytest.mark.parametrize("depth", ["stdc1", "stdc2"])
def test_the_study_notes_own_training_stands_apart_from_the_papers_row(depth: str) -> None:
    """One device, twice the steps. They timed the released weights too, which are the paper's row."""
    row, paper = (segmodels.experiment(f"stdc/{name}") for name in (f"{depth}_notes", depth))
    assert (row.recipe.batch, row.recipe.iterations) == (16, 2 * paper.recipe.iterations)
    assert row.model == paper.model
    assert not any("study notes" in each.source for each in paper.published)
    assert all("their own" in each.source for each in (*row.published, *row.published_speed))
    timed = [each for each in paper.published_speed if "study notes" in each.source]
    assert [each.size for each in timed] == [each.size for each in row.published_speed]


def test_detail_guidance_costs_no_parameter_that_is_deployed() -> None:
    main, without = (segmodels.experiment(f"stdc/{row}") for row in ("stdc1", "no_detail"))
    assert inference_parameters(main) == inference_parameters(without) == 8_275_104
    terms = without.build(3).losses((torch.randn(2, 3, 64, 64), random_label(2, 64, 64, classes=3)))
    assert set(terms) == {"main", "auxiliary8", "auxiliary16"}


def test_a_spatial_path_takes_the_place_of_stage_3() -> None:
    module = segmodels.experiment("stdc/spatial_path").build(3).eval()
    stage3 = module.backbone(torch.zeros(1, 3, 64, 64))[0]
    assert module.spatial_path(torch.zeros(1, 3, 64, 64)).shape == (1, 128, *stage3.shape[-2:])
    assert module.fusion.conv[0].in_channels == 128 + 128
    assert module.detail is None


def test_the_rows_of_the_ablation_differ_in_their_detail_label_or_its_dice() -> None:
    strides = {
        row: segmodels.experiment(f"stdc/{row}").build(3).detail_strides
        for row in ("detail_1x", "detail_1x_2x", "stdc1")
    }
    assert strides == {"detail_1x": (1,), "detail_1x_2x": (1, 2), "stdc1": (1, 2, 4)}
    squares, sums = (
        segmodels.experiment(f"stdc/{row}").build(3) for row in ("dice_of_squares", "stdc1")
    )
    logits, edge = torch.randn(2, 1, 8, 8), detail_label(random_label(2, 64, 64))
    assert (
        squares.detail_terms(logits, edge)["detail_dice"]
        < sums.detail_terms(logits, edge)["detail_dice"]
    )  # squares are smaller


def test_a_fourth_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="at most three strides"):
        STDC(3, detail_strides=(1, 2, 4, 8))
