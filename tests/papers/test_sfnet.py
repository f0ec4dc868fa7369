"""Tests of SFNet: its flows, the loss of each level, the authors' training step.

They also check the ablations.
"""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segmodels
from experiments.results.reference import weights_from_names
from segmodels.architectures import sfnet
from segmodels.own_checkpoints import built
from segmodels.paper import inference_parameters
from segmodels.parts.losses import amount, ohem, torchseg_rule
from segmodels.recipe import loss_settings
from segmodels.released_checkpoints import layouts
from tests.support import inputs_from_names
from tests.support.paths import REFERENCE

STEPS = {
    "sfnet_r18": 10_000,
    "sfnet_lite_r18": 100_000,
}  # the pixels that the authors' scripts keep at least
LAYOUTS = [
    "sfnet_r18",
    "sfnet_lite_r18",
    *(
        pytest.param(f"sfnet_{n}", marks=pytest.mark.catalogue)
        for n in ("r50", "r101", "dfv1", "dfv2")
    ),
]


def layout(name: str) -> dict:
    return json.loads(gzip.decompress((REFERENCE / "released" / f"{name}.json.gz").read_bytes()))


def filled(name: str) -> dict[str, Tensor]:
    return {
        key: torch.from_numpy(np.array(value))
        for key, value in weights_from_names.fill_layout(layout(name)).items()
    }


def test_without_a_flow_alignment_is_bilinear_upsampling() -> None:
    fine, coarse, align = torch.randn(2, 8, 13, 17), torch.randn(2, 8, 5, 6), sfnet.FlowAlignment(8)
    nn.init.zeros_(align.flow.weight)
    torch.testing.assert_close(
        align(fine, coarse), sfnet.Upsampling(8)(fine, coarse), rtol=0, atol=1e-5
    )


def test_a_gate_of_one_half_is_the_mean_of_both_displaced_maps() -> None:
    fine, coarse, align = (
        torch.randn(2, 8, 12, 16),
        torch.randn(2, 8, 3, 4),
        sfnet.GatedDualFlowAlignment(8),
    )
    nn.init.zeros_(align.gate.weight)
    up, down = align.flows(fine, coarse).split(2, 1)
    torch.testing.assert_close(
        align(fine, coarse), (sfnet.displaced(coarse, up) + sfnet.displaced(fine, down)) / 2
    )


def test_flow_fields_are_in_pixels_of_their_own_level() -> None:
    """A constant flow moves what is read: the field says by how much, against a ramp whose value is its column."""
    module = segmodels.experiment("sfnet").build(num_classes=3).eval()
    for align in module.neck.aligns:
        nn.init.zeros_(align.flow.weight)
        align.flow.bias = nn.Parameter(torch.tensor([3.0, -2.0]))
    fields = module.flow_fields(torch.randint(256, (1, 3, 97, 161), dtype=torch.uint8))
    assert {name: field.shape for name, field in fields.items()} == {
        "fpn1": (1, 2, 25, 41),
        "fpn2": (1, 2, 13, 21),
        "fpn3": (1, 2, 7, 11),
    }
    for field in fields.values():
        height, width = field.shape[-2:]
        columns = torch.arange(width, dtype=torch.float32).expand(1, 1, height, width)
        rows = torch.arange(height, dtype=torch.float32)[:, None].expand(1, 1, height, width)
        flow = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, height, width)
        moved = torch.cat([sfnet.displaced(ramp, flow) - ramp for ramp in (columns, rows)], 1)
        torch.testing.assert_close(
            field[..., 2:-2, 2:-2], moved[..., 2:-2, 2:-2], rtol=0, atol=1e-4
        )


def test_the_lite_network_gives_a_flow_for_each_of_its_two_maps() -> None:
    module = segmodels.experiment("sfnet/lite_resnet18").build(num_classes=3).eval()
    fields = module.flow_fields(torch.randn(1, 3, 64, 96))
    assert {name: field.shape for name, field in fields.items()} == {
        "coarse": (1, 2, 16, 24),
        "fine": (1, 2, 16, 24),
    }


def test_a_network_without_flow_says_so() -> None:
    with pytest.raises(ValueError, match="alignment='flow'"):
        segmodels.experiment("sfnet/bilinear").build(num_classes=3).flow_fields(
            torch.randn(1, 3, 64, 64)
        )


@pytest.mark.parametrize("option", [{"alignment": "flwo"}, {"backbone": "resnet81"}])
def test_an_unknown_option_is_answered_with_the_nearest(option: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"did you mean (flow|resnet18)"):
        sfnet.SFNet(3, **option)


@pytest.mark.parametrize("name", STEPS)
def test_one_training_step_is_the_authors_in_float64(name: str) -> None:
    case = json.loads((REFERENCE / "steps" / f"{name}.json").read_text())
    golden = np.load(REFERENCE / "steps" / f"{name}.npz")
    module = segmodels.from_released(name, filled(name)).double().train()
    rule, (threshold, _) = loss_settings(module.recipe.loss)
    module.recipe = replace(module.recipe, loss=f"{rule}:{threshold},{STEPS[name]}")
    for layer in module.modules():
        if isinstance(layer, nn.Dropout2d):
            assert layer.p == 0.1
            layer.p = 0.0
    label = torch.from_numpy(inputs_from_names.build({"label": case["inputs"]["label"]})["label"])
    image = torch.from_numpy(
        weights_from_names.make_input(
            case["inputs"]["image"]["name"], tuple(case["inputs"]["image"]["shape"])
        )
    ).double()
    terms = module.losses((image, label))
    assert list(terms) == ["main"]
    assert terms["main"].item() == pytest.approx(case["loss_value"], rel=1e-9)
    terms["main"].backward()
    renamed = layouts()[name].renamed
    for theirs, facts in case["gradients"].items():
        (ours,) = renamed({theirs: torch.empty(0)})
        gradient = module.get_parameter(ours).grad.flatten()[:: facts["stride"]].numpy()
        np.testing.assert_allclose(
            gradient, golden[f"grad/{theirs}/sample"].ravel(), rtol=0, atol=1e-6 * facts["max_abs"]
        )
    for theirs, facts in case["batchnorm"].items():
        (ours,) = renamed({f"{theirs}.weight": torch.empty(0)})
        layer = module.get_submodule(ours.removesuffix(".weight"))
        for statistic in ("running_mean", "running_var"):
            stored = golden[f"bn/{theirs}/{statistic}"]
            np.testing.assert_allclose(
                getattr(layer, statistic)[:: facts["stride"]].numpy(), stored, rtol=1e-6, atol=1e-6
            )


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_parameter_of_a_layout_is_here_but_those_that_no_code_runs(name: str) -> None:
    facts = layout(name)
    unused = sum(int(np.prod(shape)) for key, shape, _ in facts["entries"] if "running" not in key and "tracked" not in key and (
        key.startswith("head.dsn.") or (name == "sfnet_lite_r18" and key.startswith("head.fpn_in.2."))))  # fmt: skip
    module = layouts()[name].build(19, "meta")
    assert all(parameter.is_meta for parameter in module.parameters())
    assert (
        sum(parameter.numel() for parameter in module.parameters())
        == facts["params_total"] - unused
        == facts["params_inference"]
    )


def test_a_checkpoint_with_supervision_heads_loads_without_them() -> None:
    state, plain = filled("sfnet_r18"), filled("sfnet_r18")
    for level in range(3):
        state[f"head.dsn.{level}.0.weight"] = torch.zeros(128, 128, 3, 3)
    one, two = (
        segmodels.from_released("sfnet_r18", state),
        segmodels.from_released("sfnet_r18", plain),
    )
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values())
    )


def test_a_released_module_names_the_row_and_options_that_build_it_again() -> None:
    module = layouts()["sfnet_dfv1"].build(7)
    identity = {
        **module.identity.as_dict(),
        "num_classes": 7,
        "recipe": vars(module.recipe),
        "normalization": vars(module.normalization),
    }
    assert identity["experiment"] == "sfnet/df1_code"
    assert built(identity).state_dict().keys() == module.state_dict().keys()


def test_each_level_is_supervised_at_full_size_with_its_weight() -> None:
    module = (
        segmodels.experiment("sfnet")
        .but(model={"supervision": 0.5}, recipe={"loss": "torchseg_ohem:0.7,50"})
        .build(num_classes=4)
        .train()
    )
    module.eval()  # dropout off: two passes agree
    image, label = torch.randn(2, 3, 64, 96), torch.randint(4, (2, 64, 96), dtype=torch.uint8)
    outputs, terms = module.outputs(image), module.losses((image, label))
    assert {name: tuple(logits.shape[-2:]) for name, logits in outputs.items()} == {
        "main": (16, 24), "fpn1": (16, 24), "fpn2": (8, 12), "fpn3": (4, 6),
    }  # fmt: skip
    for name, logits in outputs.items():
        whole = nn.functional.interpolate(logits, (64, 96), mode="bilinear", align_corners=True)
        plain = ohem(whole, label, align_corners=True, rule=torchseg_rule(0.7, 50))
        torch.testing.assert_close(terms[name], plain * (1.0 if name == "main" else 0.5))


@pytest.mark.parametrize("row", ["resnet18", "resnet50", "df1_code", "df2_code"])
def test_a_level_counts_as_much_as_the_main_output(row: str) -> None:
    """CriterionSFNet of the authors' loss.py adds each with aux_weight=1.0."""
    module = segmodels.experiment(f"sfnet/{row}").build(4, device="meta")
    logits, label = torch.randn(1, 4, 8, 12), torch.randint(4, (1, 64, 96), dtype=torch.uint8)
    outputs = {"main": logits} | {f"fpn{n}": logits for n in range(1, len(module.heads) + 1)}
    terms = module.criterion(outputs, label)
    assert len(terms) >= 3 and terms["main"] > 0
    assert all(torch.equal(term, terms["main"]) for term in terms.values())


@pytest.mark.parametrize(
    ("row", "count"), [("resnet18_code", 10_000), ("df1_code", 100_000), ("lite_resnet18", 100_000)]
)
def test_the_share_of_mined_pixels_is_the_authors_count_on_one_of_their_devices(
    row: str, count: int
) -> None:
    _, (_, share) = loss_settings(segmodels.experiment(f"sfnet/{row}").recipe.loss)
    assert amount(share) * 2 * 1024 * 1024 == count


def test_every_backbone_gives_the_strides_that_the_paper_names() -> None:
    strides = {"resnet18": (4, 8, 16, 32), "df1": (16, 32, 32), "df2": (8, 16, 32)}
    for name, expected in strides.items():
        module = sfnet.SFNet(3, backbone=name)
        with torch.no_grad():
            assert (
                tuple(64 // x.shape[-1] for x in module.backbone(torch.randn(1, 3, 64, 64)))
                == expected
            )


def test_a_switch_removes_what_it_names() -> None:
    def difference(row: str) -> int:
        return inference_parameters(segmodels.experiment("sfnet")) - inference_parameters(
            segmodels.experiment(f"sfnet/{row}")
        )

    flow = 3 * (2 * 128 * 64 + 9 * 128 * 2)
    pooling = (
        4 * (512 * 128 + 2 * 128) + 4 * 128 * 128
    )  # the branches and their share of the 1x1 after them
    assert difference("bilinear") == flow
    assert difference("deconvolution") == flow - 3 * 16 * 128 * 128
    assert difference("no_ppm") == pooling
    assert difference("fpn") == flow + pooling
    assert difference("no_supervision") == 0
    assert not segmodels.experiment("sfnet/no_supervision").build(3).heads


def test_all_parameters_learn_at_one_rate_with_one_decay_as_in_the_authors_code() -> None:
    module = segmodels.experiment("sfnet/resnet18_code").build()
    assert {(group["lr"], group["weight_decay"]) for group in module.parameter_groups()} == {
        (0.01, 1e-4)
    }


def test_crops_are_colored_and_blurred_where_the_authors_scripts_do_it() -> None:
    """`--color_aug 0.25`, which is the hue's share too (datasets/__init__.py), and `--gblur`, which
    draws 0.15 + 1.15 r for every crop; the first code and the paper name neither."""
    for row, experiment in segmodels.papers()["sfnet"].rows.items():
        recipe, scripted = experiment.recipe, row.endswith("_code") or row == "lite_resnet18"
        assert (recipe.jitter, recipe.hue, recipe.blur) == (
            (0.25, 0.25, "sigma:0.15,1.3") if scripted else (0, 0, "none")
        )
        assert recipe.blur_chance == 1
        assert recipe.padding == ("black" if scripted else "mean")  # RandomCrop's pad_color


def test_imagenet_weights_of_a_deep_stem_fit_the_backbones_that_start_from_them() -> None:
    timm = pytest.importorskip("timm")
    for row in ("resnet50", "resnet101"):
        experiment = segmodels.experiment(f"sfnet/{row}")
        with torch.device("meta"):
            theirs = timm.create_model(experiment.starts_from, pretrained=False).state_dict()
        ours = experiment.build(device="meta").encoder().state_dict()
        assert all(
            name in theirs and theirs[name].shape == tensor.shape for name, tensor in ours.items()
        )


@pytest.mark.catalogue
def test_df1_learns_two_crops_by_heart_in_sixty_steps() -> None:
    """Its finest level is at 1/16, 4 x 6 positions for a crop of 64 x 96: it needs more than the dozen steps that suffice for others."""
    label = (
        torch.randint(5, (2, 4, 6))
        .repeat_interleave(16, 1)
        .repeat_interleave(16, 2)
        .to(torch.uint8)
    )
    colors = torch.linspace(-2, 2, 5)[label.long()]
    batch = torch.stack([colors, -colors, colors**2], 1) + 0.1 * torch.randn(2, 3, 64, 96), label
    module = segmodels.experiment("sfnet/df1").build(num_classes=5).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    main = []
    for _ in range(60):
        terms = module.losses(batch)
        main.append(terms["main"].item())
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert main[-1] < 0.5 * main[0]
