"""Tests of SETR: its decoders by their formulas, which blocks are read, and its training."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segmodels
from segmodels.architectures.setr import (
    AUXILIARY,
    EXPERIMENTS,
    LARGE,
    RELEASED,
    SETR,
    Aggregation,
    Head,
    MapNorm,
    MultiLevelDecoder,
    ProgressiveUpsampling,
    options_of,
)
from segmodels.parts.pretrained import load_encoder
from tests.support.checkpoints import layout
from tests.support.distinct import small

DECODERS = ("naive", "pup", "mla")


def drawn(module: nn.Module) -> nn.Module:
    """In float64 and with numbers that the constructor does not draw, in norms too."""
    torch.manual_seed(0)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif tensor.is_floating_point():
            nn.init.normal_(tensor, std=0.3)
    return module.double().eval()


def a_map(width: int, height: int = 3, across: int = 5) -> Tensor:
    return torch.randn(1, width, height, across, dtype=torch.float64)


def at(x: Tensor, factor: int, align_corners: bool = False) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=align_corners)


def normed(x: Tensor, norm: MapNorm) -> Tensor:
    """Place by place."""
    y = torch.empty_like(x)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            token = x[0, :, row, column]
            scaled = (token - token.mean()) / (token.var(unbiased=False) + 1e-6).sqrt()
            y[0, :, row, column] = scaled * norm.weight + norm.bias
    return y


# --- decoders


@pytest.mark.parametrize(("kernel", "factor"), [(1, 1), (3, 4)])
def test_a_head_classifies_what_a_convolution_makes_of_normed_tokens(
    kernel: int, factor: int
) -> None:
    """The authors enlarge before the 1x1: the same, since the shares of a pixel add up to 1."""
    head = drawn(Head(8, 4, kernel, factor))
    x = a_map(8)
    mixed = head.mixed(normed(x, head.norm))
    assert mixed.shape[1] == 256
    assert head.mixed[0].kernel_size == (kernel, kernel)
    assert head.mixed[0].bias is not None
    enlarged = mixed if factor == 1 else at(mixed, factor)
    torch.testing.assert_close(head(x), head.classifier(enlarged))


def test_pup_doubles_its_map_between_four_convolutions() -> None:
    decoder = drawn(ProgressiveUpsampling(8, 4))
    x = a_map(8)
    first, second, third, fourth = decoder.layers
    y = first(normed(x, decoder.norm))
    y = fourth(at(third(at(second(at(y, 2)), 2)), 2))
    torch.testing.assert_close(decoder(x), decoder.classifier(y))
    assert decoder(x).shape[2:] == (24, 40)
    assert [layer[0].out_channels for layer in decoder.layers] == [256] * 4
    assert all(layer[0].bias is not None for layer in decoder.layers)


def test_mla_adds_all_deeper_maps_and_puts_four_streams_side_by_side() -> None:
    aggregation, decoder = drawn(Aggregation(8)), drawn(MultiLevelDecoder(4))
    maps = [a_map(8) for _ in range(4)]
    parts = zip(aggregation.norms, aggregation.reduced, maps)
    reduced = [layer(normed(each, norm)) for norm, layer, each in parts]
    expected = []
    for number, smoothed in enumerate(aggregation.smoothed):
        expected.append(smoothed(sum(reduced[number:])))
    torch.testing.assert_close(aggregation(maps), expected)
    streams = [at(branch(each), 4, True) for branch, each in zip(decoder.branches, expected)]
    logits = F.conv2d(
        torch.cat(streams, 1), decoder.classifier.weight, decoder.classifier.bias, padding=1
    )
    torch.testing.assert_close(decoder(expected), logits)
    for layers in (aggregation.norms, aggregation.reduced, aggregation.smoothed, decoder.branches):
        assert len(layers) == 4
    assert aggregation.reduced[0][0].kernel_size == (1, 1)
    assert [branch[1][0].out_channels for branch in decoder.branches] == [128] * 4


# --- the network


def test_blocks_with_a_head_are_those_of_the_authors_configurations() -> None:
    """in_index counts from 0; MLA's heads read what is made of its four blocks, mla_index."""
    assert {key: tuple(number - 1 for number in blocks) for key, blocks in AUXILIARY.items()} == {
        ("naive", 24): (9, 14, 19),  # SETR_Naive_768x768_80k_cityscapes_bs_8.py
        ("naive", 12): (2, 5, 8),  # SETR_Naive_Base_..., SETR_Naive_DeiT_...
        ("pup", 24): (9, 14, 19, 23),  # SETR_PUP_...
        ("pup", 12): (4, 7, 9, 11),  # SETR_PUP_DeiT_...
        ("mla", 24): (5, 11, 17, 23),  # SETR_MLA_...
        ("mla", 12): (2, 5, 8, 11),  # SETR_MLA_DeiT_...
    }


@pytest.mark.parametrize("decoder", DECODERS)
def test_heads_read_their_blocks_and_the_decoder_the_last_one(decoder: str) -> None:
    torch.manual_seed(0)
    module = SETR(5, decoder, "tiny", table=4).eval()
    image = torch.randn(1, 3, 48, 80)
    x = module.backbone.embedded(image)
    if decoder == "mla":  # the class token is not among those that attend
        x = x[:, 1:]
    maps = []
    for block in module.backbone.blocks:
        x = block(x)
        maps.append(x[:, -15:].mT.reshape(1, 192, 3, 5))
    outputs = module.outputs(image)
    depths = AUXILIARY[decoder, 12]
    assert list(outputs) == ["main", *(f"block{depth}" for depth in depths)]
    read = [maps[depth - 1] for depth in depths]
    if decoder == "mla":
        read = module.aggregation(read)
        main = module.decoder(read)
    else:
        main = module.decoder(maps[-1])
    torch.testing.assert_close(outputs["main"], main)
    for depth, head, each in zip(depths, module.auxiliary, read):
        torch.testing.assert_close(outputs[f"block{depth}"], head(each))


def test_logits_have_the_resolutions_of_the_decoders() -> None:
    image = torch.zeros(1, 3, 48, 80, device="meta")
    sides = {}
    for decoder in DECODERS:
        with torch.device("meta"):
            module = SETR(5, decoder, "tiny", table=4)
        outputs = module.outputs(image)
        sides[decoder] = [
            tuple(outputs[name].shape[2:])
            for name in ("main", "block3", "block5")
            if name in outputs
        ]
    assert sides == {
        "naive": [(3, 5), (3, 5)],
        "pup": [(24, 40), (12, 20)],
        "mla": [(12, 20), (3, 5)],
    }


def test_an_image_is_padded_to_whole_patches_and_mlas_heads_have_no_bias() -> None:
    with torch.device("meta"):
        module = SETR(5, "mla", "tiny", table=4)
    assert module.padded(torch.zeros(1, 3, 49, 80, device="meta")).shape == (1, 3, 64, 80)
    assert [head.bias for head in module.auxiliary] == [None] * 4


def test_auxiliary_losses_weigh_four_tenths_and_ignored_pixels_count() -> None:
    module = small(EXPERIMENTS["pup"]).build(5)
    image, label = torch.randn(1, 3, 32, 32), torch.randint(5, (1, 32, 32))
    label[:, :16] = 255
    terms = module.eval().losses((image, label))
    outputs = module.outputs(image)
    for name, weight in {"main": 1.0, "block5": 0.4, "block8": 0.4}.items():
        full = F.interpolate(outputs[name], (32, 32), mode="bilinear", align_corners=False)
        loss = F.cross_entropy(full, label, ignore_index=255, reduction="none").mean()
        torch.testing.assert_close(terms[name], weight * loss)


def test_heads_learn_ten_times_as_fast_and_what_mla_sums_up_does_not() -> None:
    module = small(EXPERIMENTS["mla"]).build(5)
    rates = Counter()
    for group in module.parameter_groups():
        assert group["weight_decay"] == 0
        rates[round(group["lr"], 9)] += sum(each.numel() for each in group["params"])
    parts = (module.decoder, module.auxiliary)
    heads = sum(each.numel() for part in parts for each in part.parameters())
    assert rates == {0.002: sum(each.numel() for each in module.parameters()) - heads, 0.02: heads}


def test_decoders_are_drawn_as_torch_draws_convolutions() -> None:
    """The authors' heads initialize linear layers and layer norms alone."""
    torch.manual_seed(0)
    convolution = SETR(5, "pup", "tiny", table=4).decoder.layers[1][0]
    bound = (256 * 9) ** -0.5
    assert convolution.weight.abs().max() <= bound
    assert convolution.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize("name", RELEASED)
def test_batch_norm_and_layer_norm_have_the_authors_settings(name: str) -> None:
    module = RELEASED[name].build(19, "meta")
    layers = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    assert {(each.eps, each.momentum) for each in layers} == {(1e-5, 0.1)}
    norms = [each for each in module.modules() if isinstance(each, nn.LayerNorm)]
    assert {each.eps for each in norms} == {1e-6}
    assert not [each for each in module.modules() if "Dropout" in type(each).__name__]


# --- weights


def test_imagenet_weights_of_another_size_fit_and_their_head_is_left_out() -> None:
    torch.manual_seed(0)
    module = small(EXPERIMENTS["naive_base"]).but(model={"table": 8}).build(5)
    weights = {name: torch.randn_like(each) for name, each in module.backbone.state_dict().items()}
    grid = torch.randn(1, 192, 4, 4)
    token = torch.randn(1, 1, 192)
    given = weights | {
        "pos_embed": torch.cat([token, grid.flatten(2).mT], 1),
        "norm.weight": torch.ones(192),
        "head.weight": torch.ones(1000, 192),
    }
    said = load_encoder(module.backbone, given, called="timm's")
    assert said.endswith("left out: head.weight, norm.weight")
    enlarged = F.interpolate(grid, (8, 8), mode="bilinear", align_corners=False)
    expected = torch.cat([token, enlarged.flatten(2).mT], 1)
    torch.testing.assert_close(module.backbone.pos_embed, expected)


def test_a_released_table_of_any_side_is_taken_as_it_is() -> None:
    for side in (16, 32, 48):
        table = torch.empty(1, side**2 + 1, 8, device="meta")
        assert options_of({"backbone.pos_embed": table}) == {"table": side}
    assert options_of({}) == {}


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_checkpoint_has_the_table_of_its_rows_crop(name: str) -> None:
    row = segmodels.experiment(RELEASED[name].address)
    shapes = {entry: shape for entry, shape, _ in layout(name)["entries"]}
    assert shapes["backbone.pos_embed"] == [1, (row.recipe.crop[0] // 16) ** 2 + 1, 1024]
    assert row.model["table"] == 48


def test_rows_differ_in_what_the_readme_tabulates() -> None:
    main = EXPERIMENTS["pup"]
    found = {}
    for name, row in EXPERIMENTS.items():
        assert row.starts_from != LARGE or row.model["size"] == "large"
        found[name] = (row.model["decoder"], row.model["size"], row.recipe.iterations // 1000)
        assert row.recipe.lr == (0.002 if row.model["decoder"] == "mla" else 0.01)
        assert (row.data, row.normalization) == (main.data, main.normalization)
    assert found == {
        "pup": ("pup", "large", 80),
        "naive": ("naive", "large", 80),
        "mla": ("mla", "large", 80),
        "pup_40k": ("pup", "large", 40),
        "naive_40k": ("naive", "large", 40),
        "mla_40k": ("mla", "large", 40),
        "naive_base": ("naive", "base", 80),
        "naive_deit": ("naive", "base", 80),
        "pup_deit": ("pup", "base", 80),
        "mla_deit": ("mla", "base", 80),
    }
