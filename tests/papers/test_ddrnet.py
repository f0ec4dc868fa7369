"""Tests of DDRNet: a training step like the authors', and the auxiliary output.

They also check the ablations, the ImageNet file and the recipe.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segmodels
from experiments.results.reference import weights_from_names
from segmodels.architectures.ddrnet import EXPERIMENTS, FUSIONS, Classifier, DDRNet
from segmodels.paper import inference_parameters
from segmodels.parts import schedules
from segmodels.parts.class_weights import CITYSCAPES
from segmodels.parts.dual_resolution import DAPPM
from segmodels.parts.losses import amount
from segmodels.recipe import loss_settings
from tests.support import training_step

RELEASED = training_step.REFERENCE / "released"


def image(height: int = 64, width: int = 128) -> Tensor:
    return torch.randn(2, 3, height, width)


# --- the authors' numbers


def test_one_training_step_is_the_authors_in_float64() -> None:
    module, batch = training_step.prepared("ddrnet23_slim")
    module.recipe = replace(module.recipe, class_weights=CITYSCAPES, loss="hrnet_ohem:0.9,4096")
    terms = module.losses(batch)
    theirs = training_step.stored("ddrnet23_slim")["terms"]
    training_step.assert_terms(
        terms, {"main": theirs["main_ohem"], "auxiliary": 0.4 * theirs["aux_unweighted"]}
    )
    sum(terms.values()).backward()
    training_step.assert_the_authors_gradients("ddrnet23_slim", module)


def test_one_training_step_of_mmsegs_is_mmsegs_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = training_step.prepared("mmseg_ddrnet23_slim")
    # mmseg makes the weights in the type of the logits
    monkeypatch.setattr(
        type(module), "class_weights", torch.tensor(CITYSCAPES, dtype=torch.float64)
    )
    terms = module.losses(batch)
    theirs = training_step.stored("mmseg_ddrnet23_slim")["terms"]
    training_step.assert_terms(
        terms, {"main": theirs["decode.loss_context"], "auxiliary": theirs["decode.loss_spatial"]}
    )
    sum(terms.values()).backward()
    training_step.assert_the_authors_gradients("mmseg_ddrnet23_slim", module)


@pytest.mark.parametrize(
    "name", ["ddrnet23_slim", pytest.param("ddrnet39", marks=pytest.mark.catalogue)]
)
def test_the_auxiliary_output_is_the_authors(name: str) -> None:
    golden = np.load(RELEASED / f"{name}.npz")
    module = segmodels.from_released(name, training_step.weights(name))
    with torch.no_grad():
        given = torch.from_numpy(
            weights_from_names.make_input(str(golden["input_name"]), tuple(golden["input_shape"]))
        )
        auxiliary = module.outputs(given)["auxiliary"].numpy()
    assert auxiliary.shape == tuple(golden["aux/aux1/shape"])
    sample = golden["aux/aux1/sample"].ravel()
    ours = auxiliary.ravel()[:: int(golden["aux/aux1/sample_flat_stride"])][: len(sample)]
    assert np.abs(ours - sample).max() <= max(
        20 * float(golden["max_abs_diff_vs_float64"]), 2e-5 * np.abs(sample).max()
    )


@pytest.mark.parametrize(("row", "millions"), [("23_slim", 5.7), ("23", 20.1), ("39", 32.4)])
def test_parameters_are_as_many_as_the_paper_counts(row: str, millions: float) -> None:
    assert inference_parameters(segmodels.experiment(f"ddrnet/{row}")) / 1e6 == pytest.approx(
        millions, abs=0.05
    )


@pytest.mark.parametrize("row", ["23_slim", "23", "39"])
def test_a_variant_has_the_high_branch_at_an_eighth_and_two_or_three_exchanges(row: str) -> None:
    backbone = segmodels.experiment(f"ddrnet/{row}").build().eval().backbone
    with torch.no_grad():
        middle, high, low = backbone(image(64, 128))
    assert middle.shape[-2:] == high.shape[-2:] == (8, 16)
    assert low.shape[-2:] == (1, 2)
    assert len(backbone.third) == (2 if row == "39" else 1)


def test_a_criterion_that_is_stored_beside_the_network_is_dropped_by_name() -> None:
    state = training_step.weights("ddrnet23_slim") | {"loss.criterion.weight": torch.ones(19)}
    assert segmodels.from_released("ddrnet23_slim", state).num_classes == 19


# --- what the switches of the ablations do


def reaches(output: Tensor, part: nn.Module | None) -> bool:
    return part is not None and any(
        g is not None
        for g in torch.autograd.grad(output.sum(), list(part.parameters()), allow_unused=True)
    )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_fusion_lets_one_branch_see_the_other(fusion: str) -> None:
    to_high, to_low = FUSIONS[fusion]
    both = DDRNet(3, fusion=fusion).backbone.third[0]
    for source, seen, switched_on in ((both.low, 0, to_high), (both.high, 1, to_low)):
        high, low = torch.randn(1, 64, 16, 32), torch.randn(1, 64, 16, 32)
        assert reaches(both(high, low)[seen], source) == switched_on


def test_every_scale_of_dappm_sees_those_before_it_and_none_behind() -> None:
    pyramid = DAPPM(8, 4, 8)
    own, pooled = (
        torch.randn(2, 4, 6, 6, requires_grad=True),
        [torch.randn(2, 4, 6, 6, requires_grad=True) for _ in range(4)],
    )
    maps = pyramid.aggregated(own, pooled)
    given = [own, *pooled]
    seen = [
        [
            g is not None
            for g in torch.autograd.grad(x.sum(), given, retain_graph=True, allow_unused=True)
        ]
        for x in maps
    ]
    assert seen == [[n <= position for n in range(5)] for position in range(5)]


@pytest.mark.parametrize("context", ["ppm", "none"])
def test_branches_are_refused_where_there_is_no_dappm(context: str) -> None:
    row = segmodels.experiment("ddrnet").but(model={"context_module": context, "branches": 3})
    with pytest.raises(ValueError, match=f"only DAPPM has .* model.context_module is {context}"):
        row.build()


@pytest.mark.parametrize(("row", "kernels"), [("three_branches", [5]), ("four_branches", [5, 9])])
def test_fewer_branches_leave_out_the_largest_pools_and_keep_the_global_one(
    row: str, kernels: list[int]
) -> None:
    context = segmodels.experiment(f"ddrnet/{row}").build(3).context.eval()
    *pools, whole = context.pools
    assert [pool.kernel_size for pool in pools] == kernels and whole.output_size == 1
    assert [pool.stride for pool in pools] == [side // 2 for side in kernels]
    x = torch.randn(1, 512, 16, 16)
    maps = [context.scales[0](x)]
    for scale, process, pool in zip(context.scales[1:], context.processes, context.pools):
        small = nn.functional.interpolate(scale(pool(x)), (16, 16), mode="bilinear")
        maps.append(process(small + maps[-1]))
    assert len(maps) == len(kernels) + 2
    wanted = context.compression(torch.cat(maps, 1)) + context.shortcut(x)
    torch.testing.assert_close(context(x), wanted)


@pytest.mark.parametrize("branches", [2, 6])
def test_a_number_of_branches_that_dappm_cannot_have_is_refused(branches: int) -> None:
    with pytest.raises(ValueError, match=f"model.branches is {branches}; DAPPM has from 3 to 5"):
        DDRNet(3, branches=branches)


@pytest.mark.parametrize("row", ["ppm", "no_context"])
def test_context_modules_take_the_same_map_and_give_the_same_width(row: str) -> None:
    module, main = DDRNet(3, **EXPERIMENTS[row].model), DDRNet(3)
    x = torch.randn(2, 512, 2, 4)
    assert module.context(x).shape == main.context(x).shape == (2, 128, 2, 4)
    assert sum(p.numel() for p in module.context.parameters()) < sum(
        p.numel() for p in main.context.parameters()
    )


def test_without_mining_the_main_loss_is_the_mean_over_labeled_pixels() -> None:
    module = segmodels.experiment("ddrnet/no_ohem").build(4).double().eval()
    label = torch.randint(4, (2, 64, 128), dtype=torch.uint8)
    label[:, :9] = 255
    given = image().double()
    with torch.no_grad():
        full = nn.functional.interpolate(
            module.logits(given), (64, 128), mode="bilinear", align_corners=False
        )
        expected = nn.functional.cross_entropy(full, label.long(), ignore_index=255)
        assert module.losses((given, label))["main"].item() == pytest.approx(
            expected.item(), rel=1e-12
        )


def test_sizes_beside_multiples_of_8_are_padded_and_cropped() -> None:
    module = DDRNet(3).eval()
    given = image(61, 123)
    with torch.no_grad():
        whole = module(nn.functional.pad(given, (0, 5, 0, 3)))
        assert torch.equal(module(given), whole[..., :61, :123])


@pytest.mark.parametrize("option", ["variant", "context_module", "fusion"])
def test_a_word_that_an_option_does_not_know_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option}='nothing' is not known; allowed: '"):
        DDRNet(3, **{option: "nothing"})


# --- start and recipe


def test_the_imagenet_file_of_the_authors_fills_the_backbone(tmp_path: Path) -> None:
    weights = training_step.weights("ddrnet23_slim_imagenet")
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}},
        tmp_path / "imagenet.pth",
    )
    module = DDRNet(5)
    said = module.load_pretrained(str(tmp_path / "imagenet.pth"))
    classifier = segmodels.from_released("ddrnet23_slim_imagenet", weights)
    assert isinstance(classifier, Classifier)
    own, theirs = module.backbone.state_dict(), classifier.backbone.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert "left out: classifier" in said
    with pytest.raises(ValueError, match="does not fit this backbone"):
        DDRNet(5, variant="23").load_pretrained(str(tmp_path / "imagenet.pth"))


# The rates of HRNet's trainer (484 epochs of 247 batches); it sets a rate behind the step, so its step k runs at ours of k - 1.
RATES = {
    1: 0.01,
    2: 0.009999924716400406,
    1000: 0.009924760194941644,
    59774: 0.005358947999544434,
    119547: 5.025032936562562e-07,
}


def test_the_rate_is_that_of_hrnets_trainer_one_step_earlier() -> None:
    recipe = EXPERIMENTS["23_slim"].recipe
    schedule = schedules.poly(recipe.iterations, recipe.power)
    assert {step: recipe.lr * schedule(step - 1) for step in RATES} == pytest.approx(
        RATES, rel=1e-9
    )


def test_all_parameters_learn_alike_and_all_decay() -> None:
    groups = segmodels.experiment("ddrnet").build().parameter_groups()
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(0.01, 5e-4)}


def test_crops_are_padded_with_black_as_in_hrnets_data_sets() -> None:
    """pad_image of lib/datasets/base_dataset.py, called with (0.0, 0.0, 0.0) before input_transform."""
    assert {row.recipe.padding for row in EXPERIMENTS.values()} == {"black"}


def test_the_share_of_mined_pixels_is_the_usual_count_at_the_papers_batch() -> None:
    name, (threshold, share) = loss_settings(EXPERIMENTS["23_slim"].recipe.loss)
    assert (name, threshold) == ("hrnet_ohem", "0.9")
    assert int(amount(share) * 6 * 1024 * 1024) == 131_072
