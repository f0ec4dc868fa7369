"""Tests of ViT: its parts by their formulas, the whole by timm's network, and what a table of
positions becomes at another size."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.architectures.vit import EXPERIMENTS, Tokens, VisionTransformer
from segmodels.parts.backbones.vit import (
    SIZES,
    Attention,
    AxisTables,
    Block,
    LinearPatches,
    Patches,
    Sines,
    Stem,
    ViT,
    initialize,
    resized_table,
)
from segmodels.parts.pretrained import load_encoder
from tests.support.structure import Constant

NAMES = {"tiny": "vit_tiny_patch16_224", "small": "vit_small_patch16_224"}


def timm_network(name: str = "vit_tiny_patch16_224", **options: object) -> nn.Module:
    """With numbers that the constructor does not draw: norms of ones and zeros would hide a swap."""
    network = timm.create_model(name, dynamic_img_size=True, **options).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network


def seeded(side: int = 4, **options: object) -> ViT:
    torch.manual_seed(0)
    return ViT("tiny", side, **options).eval()


# --- the whole


@pytest.mark.parametrize("size", NAMES)
def test_tokens_are_those_of_timms_vision_transformer(size: str) -> None:
    theirs = timm_network(NAMES[size])
    ours = ViT(size, 14).eval()
    said = load_encoder(ours, theirs.state_dict(), called="timm's")
    assert "150 of 150 backbone tensors" in said
    assert said.endswith("left out: head.bias, head.weight")
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(image)[0], theirs.forward_features(image))


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_timms(size: str) -> None:
    with torch.device("meta"):
        ours = ViT(size, 14).state_dict()
        theirs = timm.create_model(f"vit_{size}_patch16_224", num_classes=0).state_dict()
    assert {name: each.shape for name, each in ours.items()} == {
        name: each.shape for name, each in theirs.items()
    }
    assert ViT("tiny", 14).blocks[0].attn.heads == 3
    assert SIZES[size][0] // SIZES[size][2] == 64  # channels of a head


def test_a_distilled_classifier_gives_both_of_its_tokens_or_one() -> None:
    theirs = timm_network("deit_tiny_distilled_patch16_224")
    image = torch.randn(1, 3, 224, 224)
    both = ViT("tiny", 14, tokens=("cls_token", "dist_token")).eval()
    load_encoder(both, theirs.state_dict(), called="DeiT")
    one = ViT("tiny", 14).eval()
    load_encoder(one, theirs.state_dict(), called="DeiT")
    with torch.no_grad():
        torch.testing.assert_close(both(image)[0], theirs.forward_features(image))
    table = theirs.pos_embed
    torch.testing.assert_close(one.pos_embed, torch.cat([table[:, :1], table[:, 2:]], 1))


def test_a_classifier_without_a_token_gives_the_whole_table_to_patches() -> None:
    theirs = timm_network(class_token=False, global_pool="avg")
    ours = ViT("tiny", 14, tokens=()).eval()
    weights = theirs.state_dict()
    weights |= {"norm.weight": weights["fc_norm.weight"], "norm.bias": weights["fc_norm.bias"]}
    load_encoder(ours, weights, called="timm's")
    torch.testing.assert_close(ours.pos_embed, theirs.pos_embed)


def test_blocks_are_taken_by_their_numbers_and_the_norm_may_be_a_heads() -> None:
    backbone = seeded(taken=(2, 12))
    image = torch.randn(1, 3, 64, 64)
    bare = seeded(taken=(2, 12), final_norm=False)
    with torch.no_grad():
        x = backbone.embedded(image)
        seen = []
        for block in backbone.blocks:
            x = block(x)
            seen.append(x)
        expected = [backbone.norm(seen[1]), backbone.norm(seen[11])]
        torch.testing.assert_close(backbone(image), expected)
        torch.testing.assert_close(bare(image), [seen[1], seen[11]])


# --- a block


def test_attention_is_the_formula_head_by_head() -> None:
    torch.manual_seed(0)
    attention = Attention(12, heads=3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    query, key, value = attention.qkv(x).split(12, dim=2)
    expected = torch.zeros_like(x)
    for image in range(2):
        for head in range(3):
            own = slice(4 * head, 4 * head + 4)
            for i in range(5):
                scores = [query[image, i, own] @ key[image, j, own] / 2 for j in range(5)]
                weights = torch.stack(scores).softmax(0)
                expected[image, i, own] = weights @ value[image, :, own]
    torch.testing.assert_close(attention(x), attention.proj(expected))


def test_a_block_is_two_shortcuts_around_normed_parts() -> None:
    torch.manual_seed(0)
    block = Block(12, heads=3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    y = x + block.attn(F.layer_norm(x, (12,), eps=1e-6))
    hidden = block.mlp.fc1(F.layer_norm(y, (12,), eps=1e-6))
    assert hidden.shape[2] == 48
    gelu = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    torch.testing.assert_close(block(x), y + block.mlp.fc2(gelu))


@pytest.mark.parametrize("branch", ["attn", "mlp"])
def test_a_dropped_path_leaves_whole_images_out_and_keeps_the_mean(branch: str) -> None:
    torch.manual_seed(0)
    block = Block(12, heads=3, drop_path=0.25)
    for name in ("attn", "mlp"):  # one gives 1 everywhere, the other nothing
        setattr(block, name, Constant(1.0 if name == branch else 0.0))
    x = torch.zeros(4000, 2, 12)
    kept = block.train()(x)
    assert kept.flatten(1).std(1).max() == 0
    assert sorted(set(kept.flatten().tolist())) == [0.0, pytest.approx(1 / 0.75)]
    assert kept.mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(block.eval()(x), x + 1)


def test_dropping_rises_linearly_with_the_depth() -> None:
    rates = [block.drop_path for block in ViT("tiny", 4, drop_path=0.1).blocks]
    assert rates == pytest.approx([0.1 * number / 11 for number in range(12)])


def test_a_backbone_drops_nothing_if_it_is_not_asked_to_and_has_timms_epsilon() -> None:
    backbone = seeded()
    assert {block.drop_path for block in backbone.blocks} == {0.0}
    assert {block.attn.dropout for block in backbone.blocks} == {0.0}
    norms = [layer for layer in backbone.modules() if isinstance(layer, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {timm_network().norm.eps}


def test_dropout_is_in_training_alone_and_in_four_places() -> None:
    torch.manual_seed(0)
    block = Block(12, heads=3, dropout=0.5)
    x = torch.randn(1, 5, 12)
    assert torch.equal(block.eval()(x), block(x))
    assert not torch.equal(block.train()(x), block(x))
    assert block.attn.dropout == block.mlp.dropout == 0.5
    # what the last dropout leaves out is 0, the rest is doubled
    zeros = (block.mlp(x) == 0).float().mean()
    assert 0.2 < zeros < 0.8
    assert 0.2 < (block.attn(x) == 0).float().mean() < 0.8


def test_linear_layers_are_drawn_as_by_timm() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(300, 300))
    initialize(layer)
    assert layer[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not layer[0].bias.any()
    backbone = seeded(24)
    assert backbone.pos_embed.std().item() == pytest.approx(0.02, rel=0.02)
    assert backbone.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert backbone.blocks[3].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    tables = seeded(24, positions="learned_2d").positions
    for table in (tables.rows, tables.columns):
        assert table.std().item() == pytest.approx(0.02, rel=0.1)


# --- patches


def test_the_linear_layer_of_patches_is_the_convolution_under_its_weights() -> None:
    torch.manual_seed(0)
    convolution = seeded(embedding="convolution")
    linear = seeded(embedding="linear")
    load_encoder(linear, convolution.state_dict(), called="ours")
    image = torch.randn(1, 3, 64, 48)
    assert isinstance(convolution.patch_embed, Patches)
    assert isinstance(linear.patch_embed, LinearPatches)
    with torch.no_grad():
        torch.testing.assert_close(linear(image), convolution(image))


def test_patches_are_in_the_order_of_lines() -> None:
    embedding = Patches(16, 8)
    image = torch.randn(1, 3, 32, 48)
    second_line = image[:, :, 16:32, 16:32]
    torch.testing.assert_close(embedding(image)[0, :, 1, 1], embedding(second_line)[0, :, 0, 0])


def test_the_stem_halves_as_often_as_a_patch_does() -> None:
    stem = Stem(16, 64)
    assert [layer[0].out_channels for layer in stem.layers] == [8, 16, 32, 64]
    assert stem(torch.randn(2, 3, 64, 96)).shape == (2, 64, 4, 6)


# --- positions


def test_sines_are_the_formulas_of_numbers_or_of_rows_and_columns() -> None:
    like = torch.zeros(1, 8, 2, 3, dtype=torch.float64)

    def waves(place: int, channels: int) -> list[float]:
        angles = [place / 10_000 ** (2 * i / channels) for i in range(channels // 2)]
        return [*map(math.sin, angles), *map(math.cos, angles)]

    one, two = Sines(8, axes=1)(like), Sines(8, axes=2)(like)
    for row in range(2):
        for column in range(3):
            place = (0, slice(None), row, column)
            number = torch.tensor(waves(3 * row + column, 8), dtype=torch.float64)
            torch.testing.assert_close(one[place], number, rtol=0, atol=1e-6)
            halves = [*waves(row, 4), *waves(column, 4)]
            expected = torch.tensor(halves, dtype=torch.float64)
            torch.testing.assert_close(two[place], expected, rtol=0, atol=1e-6)


def test_tables_of_axes_have_rows_in_one_half_and_columns_in_the_other() -> None:
    tables = AxisTables(4, 8)
    positions = tables(torch.zeros(1, 8, 4, 4))
    for row in range(4):
        for column in range(4):
            expected = torch.cat([tables.rows[0, :, row], tables.columns[0, :, column]])
            torch.testing.assert_close(positions[0, :, row, column], expected)
    assert tables(torch.zeros(1, 8, 3, 7)).shape == (1, 8, 3, 7)
    # of twice the rows and columns, a quarter of the way to the next one
    enlarged = tables(torch.zeros(1, 8, 8, 8))[0, :, 2, 2]
    rows, columns = tables.rows[0], tables.columns[0]
    expected = [0.75 * each[:, 1] + 0.25 * each[:, 0] for each in (rows, columns)]
    torch.testing.assert_close(enlarged, torch.cat(expected))


def test_a_table_is_resized_as_the_map_that_it_is() -> None:
    torch.manual_seed(0)
    table = torch.randn(1, 16, 2)
    assert torch.equal(resized_table(table, (4, 4)), table)
    enlarged = resized_table(table, (8, 4)).view(8, 4, 2)
    own = table.view(4, 4, 2)
    # half a place beyond the center of a line, three quarters are the nearest one's
    torch.testing.assert_close(enlarged[2], 0.75 * own[1] + 0.25 * own[0])
    torch.testing.assert_close(enlarged[0], own[0])


def test_the_tokens_position_stays_at_any_size_and_other_kinds_give_it_none() -> None:
    backbone = seeded()
    positions = backbone.positions_of(torch.zeros(1, 192, 5, 7))
    assert positions.shape == (1, 36, 192)
    assert torch.equal(positions[:, 0], backbone.pos_embed[:, 0])
    sines = seeded(positions="sines_2d").positions_of(torch.zeros(1, 192, 5, 7))
    assert sines.shape == (1, 36, 192)
    assert not sines[:, 0].any()
    assert sines[:, 1].any()


@pytest.mark.parametrize(("positions", "axes"), [("sines", 1), ("sines_2d", 2)])
def test_sines_are_those_of_one_number_or_of_two(positions: str, axes: int) -> None:
    patches = torch.zeros(1, 192, 5, 7)
    found = seeded(positions=positions).positions_of(patches)[:, 1:]
    assert torch.equal(found, Sines(192, axes)(patches).flatten(2).mT)


def test_patches_become_a_map_whether_or_not_a_token_is_in_front_of_them() -> None:
    image = torch.zeros(1, 3, 32, 48)
    patches = torch.arange(6.0).view(1, 6, 1)
    expected = torch.arange(6.0).view(1, 1, 2, 3)
    assert torch.equal(seeded(token_attends=False).as_map(patches, image), expected)
    behind = F.pad(patches, (0, 0, 1, 0), value=9.0)
    assert torch.equal(seeded().as_map(behind, image), expected)


@pytest.mark.parametrize("positions", ["learned", "learned_2d", "sines", "sines_2d"])
def test_positions_are_added_or_concatenated_and_without_them_patches_may_change_places(
    positions: str,
) -> None:
    image = torch.randn(1, 3, 32, 32)
    swapped = image.roll(16, dims=3)

    def image_token(**options: object) -> list[Tensor]:
        backbone = seeded(**options)
        with torch.no_grad():
            return [backbone(each)[0][:, 0] for each in (image, swapped)]

    torch.testing.assert_close(*image_token(positions="none"))
    for joined in ("sum", "concatenation"):
        one, other = image_token(positions=positions, joined=joined)
        assert (one - other).abs().max() > 1e-4, joined
    backbone = seeded(positions=positions, joined="concatenation")
    content = backbone.patch_embed(image).flatten(2).mT
    torch.testing.assert_close(backbone.embedded(image)[:, 1:, :96], content)


# --- the classifier as a segmenter


def test_logits_are_the_classifiers_of_a_patch_plus_the_image() -> None:
    torch.manual_seed(0)
    for token in ("class", "mean"):
        module = VisionTransformer(5, "tiny", token=token).eval()
        assert not module.classifier.weight.any()
        nn.init.normal_(module.classifier.weight)
        image = torch.randn(1, 3, 48, 32)
        with torch.no_grad():
            (tokens,) = module.backbone(image)
            patches = tokens[:, 1:] if token == "class" else tokens
            of_image = tokens[:, 0] if token == "class" else patches.mean(1)
            logits = module.logits(image)
            for row in range(3):
                for column in range(2):
                    both = patches[:, 2 * row + column] + of_image
                    expected = both @ module.classifier.weight[:, :, 0, 0].mT
                    torch.testing.assert_close(logits[:, :, row, column], expected)
            assert isinstance(module.features(image), Tokens)


def test_images_are_padded_to_whole_patches_and_normalized_as_timms_weights_ask() -> None:
    for name in ("base", "large"):
        row = EXPERIMENTS[name]
        module = row.build(5, "meta")
        assert module.multiple == module.backbone.patch == 16
        asked = timm.get_pretrained_cfg(row.starts_from)
        assert (row.normalization.mean, row.normalization.std) == (asked.mean, asked.std)
        assert module.backbone.table == asked.input_size[1] // 16


def test_tables_tokens_and_norms_have_no_decay_by_the_recipes_rule() -> None:
    row = EXPERIMENTS["learned_2d"].but(model={"size": "tiny"}, recipe={"weight_decay": 0.1})
    module = row.build(5)
    decayed = {
        name for name, parameter in module.named_parameters() if module.decays(name, parameter)
    }
    layers = {
        f"{name}.weight"
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    assert decayed == layers


def test_rows_are_one_difference_each() -> None:
    base = {"size": "base"}
    differences = {name: dict(row.model) for name, row in EXPERIMENTS.items()}
    assert differences == {
        "base": base,
        "large": {"size": "large"},
        "from_scratch": base,
        "linear": {**base, "embedding": "linear"},
        "stem": {**base, "embedding": "stem"},
        "mean_token": {**base, "token": "mean"},
        "no_positions": {**base, "positions": "none"},
        "learned_2d": {**base, "positions": "learned_2d"},
        "sines": {**base, "positions": "sines"},
        "sines_2d": {**base, "positions": "sines_2d"},
        "concatenated": {**base, "joined": "concatenation"},
    }
