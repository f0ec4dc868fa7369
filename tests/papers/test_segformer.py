"""Tests of SegFormer: its attention, feed-forward network and decoder against their formulas.

What released weights cannot tell is held against the authors' code: epsilons, dropout, stochastic
depth, initialization, rates and decay.
"""

import gzip
import json
import math

import pytest
import torch
from torch import Tensor, nn

import segmodels
from segmodels.architectures.segformer import (
    EXPERIMENTS,
    Attention,
    Block,
    MixFFN,
    MixTransformer,
    SegFormer,
    Stage,
)
from segmodels.parts.pretrained import load_encoder
from segmodels.released_checkpoints import layouts
from tests.support.paths import REFERENCE
from tests.support.structure import Constant
from tests.support.training_step import weights

SIZES = tuple(EXPERIMENTS)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return torch.einsum("...c,dc->...d", x, layer.weight) + layer.bias


def normed(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    deviation = (centered.square().mean(-1, keepdim=True) + layer.eps).sqrt()
    return centered / deviation * layer.weight + layer.bias


def lively(module: nn.Module) -> nn.Module:
    """In float64, with norms and biases that say something."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.2, 0.5)
    return module.double()


# --- the operators


@pytest.mark.parametrize("reduction", [1, 2])
def test_attention_is_a_weighted_mean_of_values_for_every_pixel_and_head(reduction: int) -> None:
    channels, heads, height, width = 6, 2, 4, 6
    layer = lively(Attention(channels, heads, reduction))
    x = torch.randn(2, height, width, channels, dtype=torch.float64)
    coarse = x
    if reduction > 1:
        patches = x.unflatten(1, (-1, reduction)).unflatten(3, (-1, reduction))
        kernel = layer.reduction.weight
        coarse = torch.einsum("bhywxc,dcyx->bhwd", patches, kernel) + layer.reduction.bias
        coarse = normed(layer.norm, coarse)
    seen = coarse.reshape(2, -1, channels)
    expected = torch.zeros_like(x)
    size = channels // heads
    for image in range(2):
        for row in range(height):
            for column in range(width):
                mixed = []
                for head in range(heads):
                    part = slice(head * size, (head + 1) * size)
                    query = linear(layer.query, x[image, row, column])[part]
                    keys = linear(layer.key, seen[image])[:, part]
                    values = linear(layer.value, seen[image])[:, part]
                    scores = ((keys @ query) / math.sqrt(size)).exp()
                    mixed.append(scores @ values / scores.sum())
                expected[image, row, column] = linear(layer.projection, torch.cat(mixed))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-10)


def test_mix_ffn_looks_at_the_neighbors_of_a_pixel_with_zeros_beyond_the_border() -> None:
    layer = lively(MixFFN(3))
    x = torch.randn(1, 4, 5, 3, dtype=torch.float64)
    wide = linear(layer.expand, x)
    assert wide.shape[-1] == 12
    mixed = torch.zeros_like(wide)
    for row in range(4):
        for column in range(5):
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    inside = 0 <= row + down < 4 and 0 <= column + right < 5
                    if inside:
                        kernel = layer.depthwise.weight[:, 0, down + 1, right + 1]
                        mixed[0, row, column] += kernel * wide[0, row + down, column + right]
    mixed += layer.depthwise.bias
    gelu = mixed * (1 + torch.erf(mixed / math.sqrt(2))) / 2
    torch.testing.assert_close(layer(x), linear(layer.shrink, gelu), rtol=0, atol=1e-10)


def test_a_block_adds_attention_and_mix_ffn_each_behind_a_norm() -> None:
    block = lively(Block(4, 2, 2, drop=0.5)).eval()
    x = torch.randn(1, 4, 4, 4, dtype=torch.float64)
    y = x + block.attention(normed(block.norm1, x))
    y = y + block.ffn(normed(block.norm2, y))
    torch.testing.assert_close(block(x), y, rtol=0, atol=1e-10)


def test_a_stage_is_patches_blocks_and_a_norm() -> None:
    stage = lively(Stage(5, 4, 2, 2, [0.0])).eval()
    x = torch.randn(1, 5, 7, 8, dtype=torch.float64)
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    windows = padded.unfold(2, 3, 2).unfold(3, 3, 2)  # -> (B, C, H/2, W/2, 3, 3)
    y = torch.einsum("bchwyx,dcyx->bhwd", windows, stage.patches.weight) + stage.patches.bias
    y = normed(stage.norm, stage.blocks[0](normed(stage.patch_norm, y)))
    torch.testing.assert_close(stage(x), y.permute(0, 3, 1, 2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("branch", ["attention", "ffn"])
def test_a_branch_is_left_out_for_some_images_and_counts_more_for_the_others(branch: str) -> None:
    block = Block(4, 2, 1, drop=0.25).train()
    for name in ("attention", "ffn"):  # one gives 1 everywhere, the other nothing
        setattr(block, name, Constant(1.0 if name == branch else 0.0))
    torch.manual_seed(0)
    x = torch.zeros(4000, 2, 2, 4)
    factors = block(x)
    per_image = factors[:, 0, 0, 0]
    assert torch.equal(factors, per_image[:, None, None, None].expand_as(factors))
    assert set(per_image.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert per_image.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(block.eval()(x), x + 1)


@pytest.mark.parametrize("size", SIZES)
def test_the_chance_rises_evenly_from_the_first_block_to_the_last(size: str) -> None:
    with torch.device("meta"):
        backbone = MixTransformer(size)
    drops = [block.drop for stage in backbone.stages for block in stage.blocks]
    expected = [0.1 * number / (len(drops) - 1) for number in range(len(drops))]
    assert drops == pytest.approx(expected, abs=1e-7)


# --- the network


def test_the_decoder_stacks_embedded_maps_at_the_size_of_the_finest() -> None:
    module = SegFormer(3, channels=8).double().eval()
    widths = module.backbone.channels
    given = [torch.randn(1, n, 12 >> k, 16 >> k).double() for k, n in enumerate(widths)]
    large = []
    for x, embed in zip(given, module.embeddings, strict=True):
        y = linear(embed, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        large.append(nn.functional.interpolate(y, (12, 16), mode="bilinear"))
    conv, norm = module.fusion[:2]
    stacked = torch.cat(large[::-1], 1)
    mixed = torch.einsum("bchw,dc->bdhw", stacked, conv.weight[:, :, 0, 0])
    mixed = (mixed / (1 + norm.eps) ** 0.5).relu()
    head = module.classifier[1]
    logits = torch.einsum("bchw,dc->bdhw", mixed, head.weight[:, :, 0, 0])
    logits = logits + head.bias[:, None, None]
    torch.testing.assert_close(module.decode(given), logits, rtol=0, atol=1e-10)


def test_the_smallest_image_gives_every_stage_something_to_attend_to() -> None:
    module = SegFormer(3).eval()
    side = module.valid_side(1)
    assert module.valid_side(side) == side and module.valid_side(37) == 37
    with torch.no_grad():
        assert module.logits(torch.randn(1, 3, side, side)).isfinite().all()
        with pytest.raises(RuntimeError, match=r"[Kk]ernel size"):
            module.logits(torch.randn(1, 3, side - 1, side - 1))


def released_shapes(name: str) -> dict[str, torch.Size]:
    """The shapes of a layout's tensors, under our names."""
    layout = json.loads(gzip.decompress((REFERENCE / "released" / f"{name}.json.gz").read_bytes()))
    state = {key: torch.empty(shape, device="meta") for key, shape, _ in layout["entries"]}
    renamed = layouts()[name].renamed(state)
    return {key: tensor.shape for key, tensor in renamed.items()}


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_the_released_stages_and_widths(size: str) -> None:
    own = segmodels.experiment(f"segformer/{size}").build(19, "meta").state_dict()
    shapes = {key: tensor.shape for key, tensor in own.items()}
    assert shapes == released_shapes(f"segformer_{size}")
    assert shapes == released_shapes(f"segformer_{size}_transformers")


def test_heads_are_those_of_the_authors_code() -> None:
    """mit_b0 to mit_b5: 1, 2, 5 and 8."""
    for size in SIZES:
        with torch.device("meta"):
            stages = MixTransformer(size).stages
        for stage, heads in zip(stages, (1, 2, 5, 8), strict=True):
            assert {block.attention.heads for block in stage.blocks} == {heads}


def test_rows_differ_in_size_and_in_the_decoders_width() -> None:
    for name, row in EXPERIMENTS.items():
        wide = name not in ("b0", "b1")
        assert row.model == {"size": name, "channels": 768 if wide else 256}
        assert row.recipe == EXPERIMENTS["b0"].recipe


# --- what weights do not tell


def epsilons(module: nn.Module) -> dict[str, float]:
    return {n: each.eps for n, each in module.named_modules() if isinstance(each, nn.LayerNorm)}


def test_epsilons_are_those_of_each_code_line() -> None:
    """The authors give theirs to the norms of blocks and stages alone; the other lines have one."""
    with torch.device("meta"):
        own = epsilons(SegFormer(3))
    named = {n for n, value in own.items() if value == 1e-5}
    assert named == {n for n in own if n.endswith(("patch_norm", "attention.norm"))}
    assert {own[n] for n in own.keys() - named} == {1e-6}
    for name, value in (("mmseg_segformer_b0", 1e-6), ("segformer_b0_transformers", 1e-5)):
        assert set(epsilons(layouts()[name].build(3, "meta")).values()) == {value}


def test_dropout_takes_maps_but_for_transformers_which_takes_numbers() -> None:
    kinds = {"segformer_b0": nn.Dropout2d, "mmseg_segformer_b0": nn.Dropout2d}
    for name, kind in (kinds | {"segformer_b0_transformers": nn.Dropout}).items():
        layer = layouts()[name].build(3, "meta").classifier[0]
        assert type(layer) is kind and layer.p == 0.1


def test_losses_average_over_all_pixels_but_for_transformers() -> None:
    """Half of the pixels are ignored, and so the one loss is twice the other."""
    label = torch.zeros(1, 32, 32, dtype=torch.uint8)
    label[:, 16:] = 255
    terms = {}
    for name in ("mmseg_segformer_b0", "segformer_b0_transformers"):
        module = layouts()[name].build(3)
        logits = torch.ones(1, 3, 8, 8) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
        terms[name] = module.criterion({"main": logits}, label)["main"].item()
    assert terms["segformer_b0_transformers"] == pytest.approx(
        math.log(1 + math.e + math.e**2), rel=1e-5
    )
    assert terms["mmseg_segformer_b0"] == pytest.approx(
        terms["segformer_b0_transformers"] / 2, rel=1e-5
    )
    row = segmodels.experiment("segformer/b0")
    assert row.recipe.loss == layouts()["mmseg_segformer_b0"].network.recipe.loss


def test_layers_are_drawn_as_the_authors_draw_them() -> None:
    torch.manual_seed(0)
    module = SegFormer(3)
    for name, layer in module.backbone.named_modules():
        if isinstance(layer, nn.Linear):
            deviation = 0.02
        elif isinstance(layer, nn.Conv2d):
            outputs = layer.out_channels * layer.kernel_size[0] ** 2 / layer.groups
            deviation = math.sqrt(2 / outputs)
        else:
            continue
        tolerance = 5 / math.sqrt(2 * layer.weight.numel())  # five standard errors
        assert layer.weight.std().item() == pytest.approx(deviation, rel=tolerance), name
        assert not layer.bias.any(), name
    conv = module.fusion[0]
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.01)
    for layer in (*module.embeddings, module.classifier[1]):  # torch's own
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert 0.95 * bound < layer.weight.abs().max() <= bound


def test_rates_and_decay_are_the_authors_by_their_names() -> None:
    """Of the keys that a name holds, their optimizer takes "head" before "norm"."""
    state = weights("segformer_b0")
    expected = {}
    for theirs in state:
        for name in layouts()["segformer_b0"].renamed({theirs: state[theirs]}):
            in_head = "head" in theirs
            is_norm = not in_head and "norm" in theirs
            expected[name] = (10.0 if in_head else 1.0, 0.0 if is_norm else 0.01)
    module = segmodels.experiment("segformer/b0").build()
    names = {parameter: name for name, parameter in module.named_parameters()}
    for group in module.parameter_groups():
        for parameter in group["params"]:
            found = (pytest.approx(group["lr"] / 6e-5), group["weight_decay"])
            assert expected[names.pop(parameter)] == found
    assert not names


def test_the_rate_is_the_authors_but_for_where_its_fall_begins() -> None:
    """Theirs falls while it warms up, too."""
    module = segmodels.experiment("segformer/b0").build(device="meta")
    schedule = module.schedule()
    for step in (0, 1, 700, 1499, 1500, 20_000, 100_000, 159_999):
        theirs = 1 - step / 160_000
        if step < 1500:
            theirs *= 1 - (1 - step / 1500) * (1 - 1e-6)
        assert 1 - 1e-9 <= schedule(step) / theirs <= 160_000 / 158_500 + 1e-9


# --- weights by file


def imagenet(name: str) -> dict[str, Tensor]:
    """The backbone of a layout as its code line stores one that was trained on ImageNet."""
    backbone = {}
    for key, tensor in weights(name).items():
        if not key.startswith("decode_head."):
            backbone[key.removeprefix("backbone.")] = tensor
    classifier = "classifier" if name.endswith("transformers") else "head"
    backbone[f"{classifier}.weight"] = torch.zeros(1000, 256)
    backbone[f"{classifier}.bias"] = torch.zeros(1000)
    return backbone


@pytest.mark.parametrize(
    "name", ["segformer_b0", "segformer_b0_transformers", "mmseg_segformer_b0"]
)
def test_imagenet_weights_load_under_the_names_of_three_code_lines(name: str) -> None:
    module = SegFormer(19)
    said = load_encoder(module.encoder(), imagenet(name), called="a file")
    assert said.startswith("192 of 192 backbone tensors from a file; left out: ")
    expected = segmodels.from_released(name, weights(name)).backbone.state_dict()
    for key, tensor in module.backbone.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


def test_query_key_and_value_come_out_of_one_tensor_in_the_authors_order() -> None:
    state = weights("segformer_b0")
    module = segmodels.from_released("segformer_b0", state)
    both = state["backbone.block2.1.attn.kv.weight"]
    attention = module.backbone.stages[1].blocks[1].attention
    assert torch.equal(attention.key.weight, both[:64])
    assert torch.equal(attention.value.weight, both[64:])
