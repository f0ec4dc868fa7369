"""What is special to Fast-SCNN: the sizes of the paper's tables, one downsampling for both branches, which weights are decayed."""

import pytest
import torch
from torch import Tensor, nn

import segmodels
from segmodels.architectures import fastscnn
from segmodels.architectures.fastscnn import FastSCNN
from segmodels.paper import inference_parameters
from segmodels.parts.losses import cross_entropy


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


def test_no_nonlinearity_stands_between_the_two_convolutions_of_a_separable_one() -> None:
    kinds = [
        type(layer).__name__
        for layer in fastscnn.separable(32, 48, 2).modules()
        if not isinstance(layer, nn.Sequential)
    ]
    assert kinds == ["Conv2d", "BatchNorm2d", "Conv2d", "BatchNorm2d", "ReLU"]


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
