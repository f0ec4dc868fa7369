"""Tests of BiSeNet's rows: the parts that each leaves out, and the context path as a U-shape."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segmodels
from segmodels.architectures.bisenet import EXPERIMENTS, BiSeNet, Xception39
from segmodels.paper import inference_parameters
from segmodels.parts.backbones.resnet import ResNet

PARTS = ("spatial_path", "fusion", "gates", "pooling")
ALL = {"spatial_path": True, "fusion": True, "gates": True, "pooling": True}


def built(row: str) -> BiSeNet:
    return segmodels.experiment(f"bisenet/{row}").build(3)


def parts(module: BiSeNet) -> dict[str, bool]:
    path = module.context_path
    gates = {arm.gate is not None for arm in path.arms}
    assert len(gates) == 1
    found = (module.spatial_path is not None, module.fusion is not None, *gates)
    return dict(zip(PARTS, (*found, path.pooling is not None)))


@pytest.mark.parametrize(
    ("row", "gone"),
    [
        ("resnet18", []),
        ("xception39", []),
        ("no_spatial_path", ["spatial_path", "fusion"]),
        ("no_ffm", ["fusion"]),
        ("no_arm", ["gates"]),
        ("no_global_pooling", ["pooling"]),
        ("u_shape_8", PARTS),
        ("u_shape_4", PARTS),
        # tables 2 and 3
        ("xception39_u_shape_8", PARTS),
        ("xception39_u_shape_4", PARTS),
        ("xception39_sum", ["fusion", "gates", "pooling"]),
        ("xception39_ffm", ["gates", "pooling"]),
        ("xception39_no_arm", ["gates"]),
        ("xception39_no_global_pooling", ["pooling"]),
    ],
)
def test_an_ablation_lacks_what_its_name_says(row: str, gone: list[str]) -> None:
    module = built(row)
    assert parts(module) == ALL | dict.fromkeys(gone, False)
    backbone = Xception39 if row.startswith("xception39") else ResNet
    assert isinstance(module.encoder(), backbone)


def grown(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


@pytest.mark.parametrize("backbone", ["resnet18", "xception39"])
@pytest.mark.parametrize("stride", [8, 4])
def test_a_u_shape_adds_each_finer_level_on_its_way_up(backbone: str, stride: int) -> None:
    """Figure 1b; of 128 channels, with a 3x3 at every level."""
    alone = {"spatial_path": False, "arm": False, "global_pooling": False}
    module = BiSeNet(3, backbone, **alone, context_stride=stride).eval()
    path, image = module.context_path, torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        quarter, eighth, sixteenth, deepest = path.backbone(image)
        x = path.refines[0](grown(path.arms[0].conv(deepest)))
        x = path.refines[1](grown(x + path.arms[1].conv(sixteenth)))
        if stride == 4:
            x = path.refines[2](grown(x + path.arms[2].conv(eighth)))
        found = module.features(image)
        torch.testing.assert_close(found.fused, x)
        assert found.fused.shape == (1, 128, 64 // stride, 96 // stride)
        assert quarter.shape[-2:] == (16, 24)
        heads = module.auxiliary_outputs(found)
    assert [each.shape[-2:] for each in heads.values()] == [(4, 6), (8, 12)]


def test_the_u_shape_to_a_quarter_costs_more_and_the_spatial_path_most() -> None:
    deployed = [inference_parameters(EXPERIMENTS[row]) for row in ("u_shape_8", "u_shape_4")]
    assert deployed[0] < deployed[1] < inference_parameters(EXPERIMENTS["resnet18"])
    fine = built("u_shape_4").context_path
    assert isinstance(fine.arms, nn.ModuleList) and len(fine.arms) == len(fine.refines) == 3


@pytest.mark.parametrize("options", [{"context_stride": 4}, {"context_stride": 16}])
def test_a_context_path_ends_where_something_meets_it(options: dict) -> None:
    with pytest.raises(ValueError, match=r"it must be 8, or 4 with model\.spatial_path=false"):
        BiSeNet(3, **options)


def test_rows_of_other_data_have_the_size_of_their_images_and_the_same_network() -> None:
    sizes = {"camvid32": (720, 960), "cocostuff": (640, 640)}
    rows = [row for row in EXPERIMENTS if row.endswith(("_camvid", "_cocostuff"))]
    assert len(rows) == 4
    for name in rows:
        row, like = EXPERIMENTS[name], EXPERIMENTS[name.rpartition("_")[0]]
        assert row.recipe.crop == sizes[row.data] and row.model == like.model
        assert {figure.data for figure in row.published} == {row.data}
