"""Tests of Fast-SCNN: the sizes of the paper's tables, and one downsampling for both branches.

They also check which weights decay.
"""

import pytest
import torch
from torch import Tensor, nn

import segmodels
from segmodels.architectures import fastscnn
from segmodels.architectures.fastscnn import FastSCNN
from segmodels.paper import inference_parameters
from segmodels.parts.losses import cross_entropy
from tests.support.structure import kinds


def shapes(module: FastSCNN, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """(C, h, w) after each step, without memory or time."""
    image = torch.zeros(1, 3, *size, device="meta")
    steps: list[Tensor] = []
    for layer in [*module.downsample, *module.global_features, *module.classifier]:
        layer.register_forward_hook(lambda _, __, output: steps.append(output))
    module.eval().logits(image)
    return [tuple(step.shape[1:]) for step in steps]


def test_sizes_at_every_step_are_those_of_table_1() -> None:
    with torch.device("meta"):
        module = FastSCNN(19)
    downsampled = [(32, 512, 1024), (48, 256, 512), (64, 128, 256)]
    deep = 3 * [(64, 64, 128)] + 3 * [(96, 32, 64)] + 3 * [(128, 32, 64)] + [(128, 32, 64)]
    classified = 3 * [(128, 128, 256)] + [(19, 128, 256)]
    assert shapes(module, (1024, 2048)) == downsampled + deep + classified


def test_the_network_has_the_papers_one_million_parameters() -> None:
    """The paper says 1.11 million; a column of the table read wrongly (expansion, width, repetition) is tens of percent away."""
    assert inference_parameters(segmodels.experiment("fastscnn")) == pytest.approx(1.11e6, rel=0.05)


def test_both_branches_see_one_downsampling() -> None:
    module, calls = FastSCNN(3).eval(), []
    module.downsample.register_forward_hook(lambda *_: calls.append(1))
    downsampled, _, detail = module.features(torch.randn(1, 3, 64, 96))
    assert detail is downsampled
    assert len(calls) == 1
    apart = FastSCNN(3, shared=False).eval()
    downsampled, _, detail = apart.features(torch.randn(1, 3, 64, 96))
    assert not torch.equal(detail, downsampled)


def test_without_the_skip_the_detail_changes_nothing() -> None:
    fusion, deep = fastscnn.FeatureFusion(skip=False).eval(), torch.randn(1, 128, 2, 3)
    one, two = (fusion(torch.randn(1, 64, 8, 12), deep) for _ in range(2))
    assert torch.equal(one, two)
    with_skip = fastscnn.FeatureFusion(skip=True).eval()
    one, two = (with_skip(torch.randn(1, 64, 8, 12), deep) for _ in range(2))
    assert not torch.equal(one, two)


def test_a_bottleneck_adds_its_input_only_where_shapes_agree() -> None:
    for inside, outside, stride, added in (
        (64, 64, 1, True),
        (64, 64, 2, False),
        (64, 96, 1, False),
    ):
        block, x = fastscnn.Bottleneck(inside, outside, stride).eval(), torch.randn(1, inside, 8, 8)
        nn.init.zeros_(block.body[2][0].weight)  # the body gives the norm's bias: zero
        assert torch.equal(
            block(x), x if added else torch.zeros(1, outside, 8 // stride, 8 // stride)
        )


def test_nonlinearities_and_dilations_stand_where_the_tables_have_them() -> None:
    """Tables 2 and 3, as utils/layers.py of rachthree/fast_scnn has them too: the 1x1 that narrows a
    bottleneck is linear, and so are both of the fusion, whose 3x3 is dilated by what it enlarges."""
    pair = ["BatchNorm", "ReLU"]
    assert kinds(fastscnn.separable(32, 48, 2)) == ["3/2x1d", "BatchNorm", "1/1x1", *pair]
    assert kinds(fastscnn.Bottleneck(64, 96, 2)) == [
        "1/1x1", *pair, "3/2x1d", *pair, "1/1x1", "BatchNorm",
    ]  # fmt: skip
    fusion = fastscnn.FeatureFusion(skip=True)
    assert kinds(fusion.deep) == ["3/1x4d", *pair, "1/1x1", "BatchNorm"]
    assert kinds(fusion.detail) == ["1/1x1", "BatchNorm"]
    separable = ["3/1x1d", "BatchNorm", "1/1x1", *pair]
    assert kinds(FastSCNN(3).classifier) == [*separable, *separable, "Dropout", "1/1x1"]


def test_the_fusion_adds_the_enlarged_deep_map_to_the_detail_map() -> None:
    fusion = fastscnn.FeatureFusion(skip=True).eval()
    detail, deep = torch.randn(1, 64, 16, 24), torch.randn(1, 128, 4, 6)
    grown = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    with torch.no_grad():
        both = fusion.deep(grown(deep)) + fusion.detail(detail)
        torch.testing.assert_close(fusion(detail, deep), both.clamp(min=0))


def test_a_tenth_is_dropped_before_the_last_convolution_and_nowhere_else() -> None:
    """As in models/fast_scnn.py of Tramac/Fast-SCNN-pytorch; rachthree/fast_scnn drops 0.3."""
    module = FastSCNN(3)
    rates = [layer.p for layer in module.modules() if isinstance(layer, nn.Dropout)]
    assert rates == [0.1] and isinstance(module.classifier[-2], nn.Dropout)


def test_auxiliary_losses_weigh_two_fifths_and_are_taken_at_full_size() -> None:
    module = segmodels.experiment("fastscnn").build(num_classes=4).eval()
    image, label = torch.randn(2, 3, 64, 96), torch.randint(4, (2, 64, 96), dtype=torch.uint8)
    outputs, terms = module.outputs(image), module.losses((image, label))
    assert {name: tuple(x.shape[-2:]) for name, x in outputs.items()} == {
        "main": (8, 12),
        "auxiliary1": (8, 12),
        "auxiliary2": (2, 3),
    }
    for name, logits in outputs.items():
        whole = nn.functional.interpolate(logits, (64, 96), mode="bilinear", align_corners=False)
        plain = nn.functional.cross_entropy(whole, label.long())
        torch.testing.assert_close(terms[name], plain * (1.0 if name == "main" else 0.4))
        torch.testing.assert_close(cross_entropy(logits, label, align_corners=False), plain)


def test_depthwise_convolutions_norms_and_biases_are_not_decayed() -> None:
    module = segmodels.experiment("fastscnn").build()
    decay = {
        id(p): group["weight_decay"] for group in module.parameter_groups() for p in group["params"]
    }
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            assert decay[id(layer.weight)] == (0.0 if layer.groups > 1 else 4e-5)
            assert layer.bias is None or decay[id(layer.bias)] == 0.0
        elif isinstance(layer, nn.BatchNorm2d):
            assert decay[id(layer.weight)] == decay[id(layer.bias)] == 0.0
    assert len(decay) == len(list(module.parameters()))


def test_a_switch_removes_what_it_names() -> None:
    def parameters(row: str) -> int:
        return inference_parameters(segmodels.experiment(f"fastscnn/{row}"))

    main = parameters("fastscnn")
    assert main - parameters("no_skip") == 64 * 128 + 2 * 128
    assert main - parameters("no_ppm") == 4 * (128 * 32 + 2 * 32) + 256 * 128 + 2 * 128
    stem = 27 * 32 + 2 * 32 + sum(9 * a + 2 * a + a * b + 2 * b for a, b in ((32, 48), (48, 64)))
    assert parameters("separate_downsampling") - main == stem
    assert parameters("no_auxiliary") == main
    assert not segmodels.experiment("fastscnn/no_auxiliary").build(3).auxiliaries
