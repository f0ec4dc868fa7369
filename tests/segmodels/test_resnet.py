"""Tests of the ResNet of all papers against torchvision's and timm's, by name and by number."""

import pytest
import torch
from torch import Tensor, nn

from segmodels.parts.backbones.resnet import ResNet, stride_first


def same_features(ours: ResNet, theirs: list[nn.Module], state: dict[str, Tensor]) -> None:
    """Their weights under their own names; `theirs` is the stem and the four stages."""
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not missing
    assert all(name.startswith("fc.") for name in unexpected)
    stem, *stages = theirs
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        x = stem(image)
        for stage, feature in zip(stages, ours.eval()(image), strict=True):
            x = stage(x)
            torch.testing.assert_close(feature, x)


def parts(network: nn.Module) -> list[nn.Module]:
    activation = network.act1 if hasattr(network, "act1") else network.relu
    stem = nn.Sequential(network.conv1, network.bn1, activation, network.maxpool)
    return [stem, network.layer1, network.layer2, network.layer3, network.layer4]


@pytest.mark.parametrize(
    ("depth", "output_stride"), [(18, 32), (34, 32), (50, 32), (50, 16), (50, 8)]
)
def test_names_and_features_are_torchvisions(depth: int, output_stride: int) -> None:
    torchvision = pytest.importorskip("torchvision")
    dilated = {32: (False, False, False), 16: (False, False, True), 8: (False, True, True)}[
        output_stride
    ]
    options = {"replace_stride_with_dilation": dilated} if output_stride < 32 else {}
    theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None, **options).eval()
    same_features(ResNet(depth, output_stride), parts(theirs), theirs.state_dict())


@pytest.mark.parametrize(
    ("depth", "stem", "name"),
    [(50, (64, 64, 128), "resnet50s"), (50, (32, 32, 64), "resnet50c"), (26, None, "resnet26")],
)
def test_names_and_features_of_other_stems_and_depths_are_timms(
    depth: int, stem: tuple[int, int, int] | None, name: str
) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name).eval()
    same_features(ResNet(depth, stem=stem), parts(theirs), theirs.state_dict())


@pytest.mark.parametrize(
    ("depth", "output_stride", "expected"),
    [
        (18, 32, [[1, 1], [1, 1]]),
        (18, 8, [[1, 2], [2, 8]]),
        (50, 16, [[1] * 6, [1, 4, 8]]),
        (50, 8, [[1] + [2] * 5, [2, 8, 16]]),
    ],
)
def test_a_multi_grid_multiplies_the_dilation_of_the_last_stage(
    depth: int, output_stride: int, expected: list[list[int]]
) -> None:
    """All but that of a dilated stage's first block, which keeps the dilation before it."""
    with torch.device("meta"):
        backbone = ResNet(
            depth, output_stride, multi_grid=(1, 2, 4) if output_stride < 32 else (1, 1, 1)
        )
    assert [
        [block.conv2.dilation[0] for block in stage] for stage in (backbone.layer3, backbone.layer4)
    ] == expected


def test_with_strides_in_front_a_dilated_network_has_the_strided_ones_values() -> None:
    """Then a stage's first 3x3 is behind the stride, and is dilated like the others."""
    coarse = stride_first(ResNet(50, 32, width=8)).double().eval()
    fine = stride_first(ResNet(50, 8, width=8, dilated_first=True)).double().eval()
    fine.load_state_dict(coarse.state_dict())
    firsts = [stage[0] for stage in (coarse.layer2, coarse.layer3, coarse.layer4)]
    assert [(first.conv1.stride, first.conv2.stride) for first in firsts] == [((2, 2), (1, 1))] * 3
    image = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fine(image)[-1][..., ::4, ::4], coarse(image)[-1])


def test_width_scales_every_stage() -> None:
    half = ResNet(18, width=32)
    with torch.no_grad():
        features = half(torch.randn(1, 3, 64, 64))
    assert tuple(x.shape[1] for x in features) == half.channels == (32, 64, 128, 256)
    assert [64 // x.shape[-1] for x in features] == [4, 8, 16, 32]


@pytest.mark.parametrize("stride", [2, 9, 64])
def test_a_stride_that_no_stage_ends_at_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"output_stride is 4, 8, 16 or 32, not {stride}"):
        ResNet(18, output_stride=stride)
