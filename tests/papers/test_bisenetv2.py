"""Tests of BiSeNet, BiSeNetV2 and other code lines of both.

They check training steps, parameter groups, schedules and ablations.
"""

import gzip
import json

import numpy as np
import pytest
import torch
from torch import nn

import segmodels
from experiments.results.reference import weights_from_names
from segmodels.architectures import bisenetv2
from segmodels.module import SegmentationModule
from segmodels.paper import paper
from segmodels.parts.losses import torchseg_rule
from segmodels.released_checkpoints import layouts
from tests.support import inputs_from_names
from tests.support.paths import REFERENCE
from tests.support.structure import kinds

# by the layout: our terms and theirs
TERMS = {
    "bisenetv1_coincheung": {"main": "main", "auxiliary2": "aux1", "auxiliary1": "aux2"},
    "bisenetv2_coincheung": {"main": "main"} | {f"booster{n + 1}": f"aux{n}" for n in range(1, 5)},
    "mmseg_bisenetv2": {"main": "decode.loss_ce"}
    | {f"booster{n + 2}": f"aux_{n}.loss_ce" for n in range(4)},
}
# and our outputs and theirs
GOLDEN = TERMS | {"mmseg_bisenetv2": {f"booster{n + 2}": f"auxiliary_head.{n}" for n in range(4)}}
# configs/bisenetv1_city.py and configs/bisenetv2_city.py; color, batch and mining are the trainer's
COINCHEUNG = {
    "bisenetv1_coincheung": {"crop": (1024, 1024), "scales": (0.75, 2.0), "iterations": 80_000},
    "bisenetv2_coincheung": {"crop": (512, 1024), "scales": (0.25, 2.0), "iterations": 150_000},
}
TRAINER = {
    "continuous": True,
    "flip": 0.5,
    "jitter": 0.4,
    "batch": 16,
    "loss": "coincheung_ohem:0.7",
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
}


def packed(path: str) -> dict:
    return json.loads(gzip.decompress((REFERENCE / path).read_bytes()))


def released(name: str) -> SegmentationModule:
    layout = packed(f"released/{name}.json.gz")
    return segmodels.from_released(
        name,
        {
            key: torch.from_numpy(np.array(value))
            for key, value in weights_from_names.fill_layout(layout).items()
        },
    )


def trained_one_step(name: str) -> tuple[SegmentationModule, dict, dict]:
    """The module after one backward in float64 without dropout, its loss terms, and the reference."""
    case = json.loads((REFERENCE / "steps" / f"{name}.json").read_text())
    module = released(name).double().train()
    for layer in module.modules():
        if isinstance(layer, (nn.Dropout, nn.Dropout2d)):
            layer.p = 0
    label = inputs_from_names.build({"label": case["inputs"]["label"]})["label"]
    image = weights_from_names.make_input(
        case["inputs"]["image"]["name"], tuple(case["inputs"]["image"]["shape"])
    )
    terms = module.losses((torch.from_numpy(image).double(), torch.from_numpy(label)))
    sum(terms.values()).backward()
    return module, terms, case


@pytest.mark.parametrize("name", TERMS)
def test_one_training_step_is_that_of_the_code_line_in_float64(name: str) -> None:
    """Loss terms, the norm of every gradient, samples of some, and batch-norm statistics: what an evaluation cannot see."""
    module, terms, case = trained_one_step(name)
    golden = np.load(REFERENCE / "steps" / f"{name}.npz")
    assert set(terms) == set(TERMS[name])
    for mine, theirs in TERMS[name].items():
        assert terms[mine].item() == pytest.approx(case["terms"][theirs], rel=1e-9)
    rename = layouts()[name].renamed
    norms = dict(zip(golden["param_names"].tolist(), golden["param_grad_norms"].tolist()))
    assert len(norms) == len(list(module.parameters()))
    for theirs, norm in norms.items():
        (mine,) = rename({theirs: torch.empty(0)})
        assert module.get_parameter(mine).grad.norm().item() == pytest.approx(
            norm, rel=1e-6, abs=1e-6 * case["grad_norm"]
        )
    for theirs, facts in case["gradients"].items():
        (mine,) = rename({theirs: torch.empty(0)})
        gradient = module.get_parameter(mine).grad.flatten()[:: facts["stride"]].numpy()
        np.testing.assert_allclose(
            gradient, golden[f"grad/{theirs}/sample"].ravel(), rtol=0, atol=1e-6 * facts["max_abs"]
        )
    for theirs, facts in case["batchnorm"].items():
        for statistic in ("running_mean", "running_var"):
            (mine,) = rename({f"{theirs}.{statistic}": torch.empty(0)})
            found = module.get_buffer(mine).flatten()[:: facts["stride"]].numpy()
            np.testing.assert_allclose(
                found, golden[f"bn/{theirs}/{statistic}"].ravel(), rtol=1e-6, atol=1e-7
            )


@pytest.mark.parametrize("name", TERMS)
def test_auxiliary_outputs_are_those_of_the_code_line(name: str) -> None:
    golden = np.load(REFERENCE / "released" / f"{name}.npz")
    wanted = {mine: theirs for mine, theirs in GOLDEN[name].items() if mine != "main"}
    assert set(wanted) == set(TERMS[name]) - {"main"}
    module = released(name)
    image = torch.from_numpy(
        weights_from_names.make_input(str(golden["input_name"]), tuple(golden["input_shape"]))
    )
    with torch.no_grad():
        outputs = module.outputs(image)
    assert set(outputs) == {"main", *wanted}
    for mine, theirs in wanted.items():
        # Stored at the image's size, or at the output's own.
        size = tuple(golden[f"aux/{theirs}/shape"][-2:].tolist())
        logits = nn.functional.interpolate(
            outputs[mine], size, mode="bilinear", align_corners=False
        )
        sample = golden[f"aux/{theirs}/sample"]
        found = logits.flatten()[:: int(golden[f"aux/{theirs}/sample_flat_stride"])].numpy()[
            : sample.size
        ]
        assert np.abs(found - sample).max() <= 2e-5 * np.abs(logits.numpy()).max()


@pytest.mark.parametrize("name", COINCHEUNG)
def test_parameter_groups_and_schedule_are_those_of_coincheungs_code(name: str) -> None:
    reference, module = packed(f"steps/{name}_training.json.gz"), released(name)
    recipe = module.recipe
    assert recipe.lr == reference["base_lr"]
    theirs = COINCHEUNG[name] | TRAINER
    assert {field: getattr(recipe, field) for field in theirs} == theirs
    facts = {
        id(p): (round(group["lr"] / recipe.lr), group["weight_decay"])
        for group in module.parameter_groups()
        for p in group["params"]
    }
    mine = {key: facts[id(parameter)] for key, parameter in module.named_parameters()}
    theirs = {
        next(iter(layouts()[name].renamed({key: torch.empty(0)}))): (
            group["lr_multiplier"],
            group["weight_decay"],
        )
        for group in reference["groups"]
        for key in group["params"]
    }
    assert mine == theirs
    schedule = module.schedule()
    for step, rate in reference["schedule"]["lr"].items():
        assert recipe.lr * schedule(int(step)) == pytest.approx(rate, rel=1e-9)


def test_every_head_of_the_paper_stands_on_the_stage_its_name_says() -> None:
    module = segmodels.experiment("bisenetv2").build(5).eval()
    with torch.no_grad():
        outputs = module.outputs(torch.randn(1, 3, 128, 192))
    strides = {name: 128 // logits.shape[-2] for name, logits in outputs.items()}
    assert strides == {"main": 8, "booster2": 4, "booster3": 8, "booster4": 16, "booster5": 32}


def test_boosters_only_teach() -> None:
    """With and without them the deployed network is the same, and weight 0 leaves none in the module."""
    rows = paper("bisenetv2").rows
    whole, bare = rows["no_ohem"].build(5, "meta"), rows["no_boosters"].build(5, "meta").eval()
    assert {
        name for name, _ in whole.named_parameters() if not name.startswith("boosters.")
    } == set(dict(bare.named_parameters()))
    assert not rows["bilateral"].but(model={"booster_weight": 0.0}).build(5, "meta").boosters


def test_an_override_of_one_option_leaves_a_network_that_trains() -> None:
    main, batch = (
        segmodels.experiment("bisenetv2"),
        (torch.randn(2, 3, 64, 64), torch.randint(5, (2, 64, 64), dtype=torch.uint8)),
    )
    assert set(main.but(model={"branches": "detail"}).build(5).losses(batch)) == {"main"}
    assert set(main.but(model={"branches": "semantic"}).build(5).losses(batch)) == {
        "main",
        "booster2",
        "booster3",
        "booster4",
        "booster5",
    }
    with pytest.raises(ValueError, match="stage 2, 3, 4 or 5"):
        main.but(model={"boosters": (1,)}).build(5)


def test_a_booster_is_weighted_and_the_main_loss_is_not() -> None:
    batch = torch.randn(2, 3, 64, 96), torch.randint(5, (2, 64, 96), dtype=torch.uint8)
    main = segmodels.experiment("bisenetv2/no_ohem")
    torch.manual_seed(0)
    full = main.build(5).eval()
    torch.manual_seed(0)
    half = main.but(model={"booster_weight": 0.5}).build(5).eval()
    with torch.no_grad():
        whole, halved = full.losses(batch), half.losses(batch)
    assert halved["main"].item() == pytest.approx(whole["main"].item())
    assert all(
        halved[name].item() == pytest.approx(0.5 * whole[name].item())
        for name in whole
        if name != "main"
    )


def test_the_main_row_mines_hard_pixels_and_the_ablation_takes_all() -> None:
    batch = torch.randn(2, 3, 64, 96), torch.randint(5, (2, 64, 96), dtype=torch.uint8)
    module = segmodels.experiment("bisenetv2").build(5).eval()
    with torch.no_grad():
        logits = nn.functional.interpolate(
            module.logits(batch[0]), (64, 96), mode="bilinear", align_corners=False
        )
        pixels = nn.functional.cross_entropy(logits, batch[1].long(), reduction="none")
        mined = (torchseg_rule(0.7, 1 / 16)(pixels, batch[1], None) * pixels).sum()
        assert module.losses(batch)["main"].item() == pytest.approx(mined.item(), rel=1e-5)
        module.recipe = segmodels.experiment("bisenetv2/no_ohem").recipe
        assert module.losses(batch)["main"].item() == pytest.approx(pixels.mean().item(), rel=1e-5)
    assert mined > pixels.mean()


@pytest.mark.parametrize(
    ("row", "channels"),
    [
        ("bilateral", (16, 32, 64, 128)),
        ("half_ratio", (32, 64, 64, 128)),
        ("sixteenth_ratio", (4, 8, 64, 128)),
        ("wide", (32, 64, 128, 256)),
    ],
)
def test_lambda_narrows_the_first_stages_and_alpha_widens_all(
    row: str, channels: tuple[int, ...]
) -> None:
    module = segmodels.experiment(f"bisenetv2/{row}").build(5, "meta").eval()
    assert module.semantic.channels == channels
    stages, aggregated = module.features(torch.zeros(1, 3, 64, 64, device="meta"))
    assert tuple(stage.shape[1] for stage in stages) == channels
    assert aggregated.shape[1] == channels[-1]


def test_the_large_network_is_twice_as_wide_and_three_times_as_deep() -> None:
    module = segmodels.experiment("bisenetv2/large").build(5, "meta").eval()
    assert [len(stage) for stage in module.detail] == [2, 7, 7]
    assert [len(stage) for stage in module.semantic.stages[1:]] == [4, 4, 10]
    assert module.classifier[0][0].in_channels == 256


def test_nonlinearities_stand_where_the_figures_have_them() -> None:
    """Both ports, which are held to their code lines, have a ReLU more in four places: they cannot
    tell."""
    norm, relu = "BatchNorm", "ReLU"
    for stride, expand in ((1, ["3/1x1d", norm]), (2, ["3/2x1d", norm, "3/1x1d", norm])):
        block = bisenetv2.GatherExpansion(16, 32 if stride == 2 else 16, stride)
        assert kinds(block.gather) == ["3/1x1", norm, relu]
        assert kinds(block.expand) == expand
        assert kinds(block.project) == ["1/1x1", norm]
    assert kinds(block.shortcut) == ["3/2x1d", norm, "1/1x1", norm]
    context = bisenetv2.ContextEmbedding(8)
    assert kinds(context.context) == ["1/1x1", norm, relu] and kinds(context.last) == ["3/1x1"]
    guided = bisenetv2.GuidedAggregation(8)
    assert kinds(guided.detail_keep) == kinds(guided.semantic_keep) == ["3/1x1d", norm, "1/1x1"]
    assert kinds(guided.detail_down) == ["3/2x1", norm, "AvgPool"]
    assert kinds(guided.semantic_up) == kinds(guided.fuse) == ["3/1x1", norm]


@pytest.mark.parametrize(("row", "activated"), [("bilateral", False), ("activated", True)])
def test_one_row_alone_has_the_relus_of_the_re_implementations(row: str, activated: bool) -> None:
    module = segmodels.experiment(f"bisenetv2/{row}").build(5, "meta")
    blocks = [each for each in module.modules() if isinstance(each, bisenetv2.GatherExpansion)]
    ends = [*(block.expand[-1] for block in blocks), module.aggregation.fuse[-1]]
    assert len(ends) > 8 and {isinstance(end, nn.ReLU) for end in ends} == {activated}


def test_a_branch_begins_with_two_channels_at_least() -> None:
    narrow = {"semantic_ratio": 1.0, "alpha": 2 / 64}
    row = segmodels.experiment("bisenetv2")
    assert row.but(model=narrow).build(5, "meta").semantic.channels[0] == 2
    with pytest.raises(ValueError, match="which must leave two"):
        row.but(model=narrow | {"alpha": 0.0312}).build(5, "meta")


def test_no_convolution_of_branches_and_aggregation_has_a_bias() -> None:
    """As in bisenetv2.py of CoinCheung/BiSeNet, where classifiers alone have one."""
    module = segmodels.experiment("bisenetv2").build(5, "meta")
    inside = (module.detail, module.semantic, module.aggregation)
    found = [each for part in inside for each in part.modules() if isinstance(each, nn.Conv2d)]
    assert len(found) > 40 and all(each.bias is None for each in found)


def test_heads_are_as_wide_as_departures_say_and_one_layer_deep() -> None:
    module = segmodels.experiment("bisenetv2").build(5, "meta")
    for head, width in (
        (module.classifier, 1024),
        *((each, 128) for each in module.boosters.values()),
    ):
        assert kinds(head) == ["3/1x1", "BatchNorm", "ReLU", "1/1x1"]
        assert head[0][0].out_channels == width


def test_guided_aggregation_is_the_two_gated_products_of_figure_6() -> None:
    module = bisenetv2.GuidedAggregation(4).eval()
    detail, semantic = torch.randn(1, 4, 16, 24), torch.randn(1, 4, 4, 6)
    grown = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    with torch.no_grad():
        fine = module.detail_keep(detail) * torch.sigmoid(grown(module.semantic_up(semantic)))
        coarse = grown(module.detail_down(detail) * torch.sigmoid(module.semantic_keep(semantic)))
        torch.testing.assert_close(module(detail, semantic), module.fuse(fine + coarse))


def test_plain_aggregations_enlarge_the_semantics_and_the_semantic_branch_alone_as_well() -> None:
    detail, semantic = torch.randn(1, 4, 16, 24), torch.randn(1, 4, 4, 6)
    grown = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    added, joined = bisenetv2.Sum(4).eval(), bisenetv2.Concatenation(4).eval()
    alone = segmodels.experiment("bisenetv2/semantic_only").build(5).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted = added.fuse(detail + grown(semantic))
        torch.testing.assert_close(added(detail, semantic), wanted)
        wanted = joined.fuse(torch.cat([detail, grown(semantic)], 1))
        torch.testing.assert_close(joined(detail, semantic), wanted)
        _, last = alone.semantic(image)
        torch.testing.assert_close(alone.features(image).aggregated, grown(last))


@pytest.mark.parametrize(
    "layout",
    ["bisenetv1_coincheung", "bisenetv2_coincheung", "mmseg_bisenetv1_r18", "mmseg_bisenetv2"],
)
def test_a_port_takes_sizes_that_its_code_line_refuses(layout: str) -> None:
    module = layouts()[layout].build(3).eval()
    with torch.no_grad():
        for height, width in ((64, 97), (161, 256)):
            assert module(torch.randn(1, 3, height, width)).shape == (1, 3, height, width)


@pytest.mark.parametrize(
    "layout",
    ["bisenetv1_coincheung", "bisenetv2_coincheung", "mmseg_bisenetv1_r18", "mmseg_bisenetv2"],
)
def test_crops_without_a_label_give_a_port_zero_loss_and_every_parameter_a_gradient(
    layout: str,
) -> None:
    module = layouts()[layout].build(3).train()
    loss = sum(
        module.losses(
            (torch.randn(2, 3, 64, 64), torch.full((2, 64, 64), 255, dtype=torch.uint8))
        ).values()
    )
    loss.backward()
    assert loss.item() == 0
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in module.parameters()
    )


def test_coincheungs_images_are_normalized_by_the_statistics_of_cityscapes() -> None:
    module = layouts()["bisenetv2_coincheung"].build(3)
    image = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    expected = -torch.tensor([0.3257, 0.3690, 0.3223]) / torch.tensor([0.2112, 0.2148, 0.2115])
    torch.testing.assert_close(module.normalized(image).flatten(), expected)


def test_a_label_stride_supervises_every_eighth_pixel_of_label_and_maps() -> None:
    """The authors' "_speed": label and weights are thinned out, logits stay where they are."""
    module = paper("bisenet").rows["resnet18"].but(model={"label_stride": 8}).build(5)
    outputs = {"main": torch.randn(2, 5, 8, 12)}
    label, weights = torch.randint(5, (2, 64, 96)), torch.rand(2, 64, 96)
    (term,) = module.criterion(outputs, label, weights=weights).values()
    pixels = nn.functional.cross_entropy(outputs["main"], label[:, ::8, ::8], reduction="none")
    thinned = weights[:, ::8, ::8]
    torch.testing.assert_close(term, (pixels * thinned).sum() / thinned.sum())


def test_the_three_ways_of_speeding_a_network_up_cost_less() -> None:
    rows = paper("bisenet").rows
    sizes = {
        row: sum(p.numel() for p in rows[row].build(19, "meta").parameters())
        for row in ("resnet18", "thin_channels", "no_last_stage")
    }
    assert sizes["thin_channels"] < 0.5 * sizes["resnet18"]
    assert sizes["no_last_stage"] < 0.5 * sizes["resnet18"]
    small, main = rows["small_input"].recipe, rows["resnet18"].recipe
    shrunk = small.crop[0] / main.crop[0]
    assert small.scales == pytest.approx([scale * shrunk for scale in main.scales])
    assert float(small.inference.removeprefix("resized:")) == pytest.approx(
        shrunk * float(main.inference.removeprefix("resized:"))
    )
