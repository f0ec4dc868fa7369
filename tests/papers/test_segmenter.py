"""Tests of Segmenter: its decoders by their formulas, its rows, and its authors' training."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segmodels
from segmodels.architectures.segmenter import (
    EXPERIMENTS,
    RELEASED,
    LinearDecoder,
    MaskDecoder,
    Segmenter,
    options_of,
)
from segmodels.module import Normalization
from tests.support.checkpoints import state
from tests.support.distinct import small

TINY = "segmenter_ti_mask_ade20k"


def test_a_patch_belongs_to_the_class_whose_token_is_most_similar() -> None:
    torch.manual_seed(0)
    decoder = MaskDecoder(128, 3, blocks=2).double().eval()
    nn.init.normal_(decoder.mask_norm.weight)
    nn.init.normal_(decoder.mask_norm.bias)
    patches = torch.randn(2, 4, 128, dtype=torch.float64)
    tokens = torch.cat([decoder.proj_dec(patches), decoder.cls_emb.expand(2, -1, -1)], 1)
    for block in decoder.blocks:
        tokens = block(tokens)
    tokens = F.layer_norm(
        tokens, (128,), decoder.decoder_norm.weight, decoder.decoder_norm.bias, eps=1e-5
    )
    logits = decoder(patches)
    for image in range(2):
        for i in range(4):
            patch = tokens[image, i] @ decoder.proj_patch
            cosines = []
            for k in range(3):
                token = tokens[image, 4 + k] @ decoder.proj_classes
                cosines.append(patch @ token / (patch.norm() * token.norm()))
            row = torch.stack(cosines)
            scaled = (row - row.mean()) / (row.var(unbiased=False) + 1e-5).sqrt()
            expected = scaled * decoder.mask_norm.weight + decoder.mask_norm.bias
            torch.testing.assert_close(logits[image, i], expected)


def test_the_mask_decoder_has_dropout_and_the_encoder_dropped_paths() -> None:
    """config.yml and train.py: 0.1 of each, and 0 of the other."""
    with torch.device("meta"):
        module = Segmenter(5, size="tiny", blocks=2)
    encoder, decoder = module.backbone.blocks, module.decoder.blocks
    assert {block.attn.dropout for block in encoder} == {0.0}
    assert encoder[-1].drop_path == pytest.approx(0.1)
    assert {(block.attn.dropout, block.mlp.dropout, block.drop_path) for block in decoder} == {
        (0.1, 0.1, 0.0)
    }
    assert {block.attn.heads for block in decoder} == {3}
    norms = [each for each in module.modules() if isinstance(each, nn.LayerNorm)]
    assert {each.eps for each in norms} == {1e-5}  # torch's, not timm's


def test_decoders_are_drawn_as_by_the_authors() -> None:
    torch.manual_seed(0)
    decoder = MaskDecoder(256, 150, blocks=1)
    for matrix in (decoder.proj_patch, decoder.proj_classes):
        assert matrix.std().item() == pytest.approx(256**-0.5, rel=0.02)
    for table in (decoder.cls_emb, decoder.proj_dec.weight, LinearDecoder(256, 150).head.weight):
        assert table.std().item() == pytest.approx(0.02, rel=0.02)
    assert not decoder.proj_dec.bias.any()
    assert not LinearDecoder(256, 150).head.bias.any()


@pytest.mark.parametrize("decoder", ["mask", "linear"])
def test_logits_of_places_are_those_of_their_patches(decoder: str) -> None:
    torch.manual_seed(0)
    module = Segmenter(5, decoder, "tiny", table=4).eval()
    image = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        (tokens,) = module.backbone(image)
        expected = module.decoder(tokens[:, 1:])  # (1, 15, 5)
        torch.testing.assert_close(module.logits(image), expected.mT.reshape(1, 5, 3, 5))


def test_an_image_is_padded_to_whole_patches() -> None:
    for patch, sides in ((16, (112, 176)), (8, (104, 168))):
        with torch.device("meta"):
            module = Segmenter(5, "linear", "tiny", patch, table=4)
        padded = module.padded(torch.zeros(1, 3, 97, 161, device="meta"))
        assert tuple(padded.shape[2:]) == sides
        assert module.logits(padded).shape[2:] == tuple(side // patch for side in sides)


def test_all_parameters_have_one_rate_and_none_decays() -> None:
    groups = small(EXPERIMENTS["mask"]).build(5).parameter_groups()
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(0.01, 0.0)}


# --- weights


def test_a_distilled_token_is_kept_with_its_position() -> None:
    torch.manual_seed(0)
    module = Segmenter(5, "linear", "tiny", table=6, distilled=True)
    weights = {name: torch.randn_like(each) for name, each in module.backbone.state_dict().items()}
    weights["pos_embed"] = torch.randn(1, 2 + 9, 192)
    module.backbone.load_state_dict(module.backbone.renamed(weights))
    assert torch.equal(module.backbone.pos_embed[:, :2], weights["pos_embed"][:, :2])
    assert module.backbone.pos_embed.shape == (1, 2 + 36, 192)


def test_a_checkpoint_tells_its_blocks_and_the_side_of_its_table() -> None:
    for side, blocks, distilled in ((32, 2, False), (40, 1, True)):
        weights = {"backbone.pos_embed": torch.empty(1, side**2 + 1 + distilled, 8, device="meta")}
        if distilled:
            weights["backbone.dist_token"] = torch.empty(1, 1, 8, device="meta")
        for block in range(blocks):
            weights[f"decoder.blocks.{block}.norm1.weight"] = torch.empty(8, device="meta")
        assert options_of(weights) == {"table": side, "blocks": blocks}
    assert options_of({}) == {}


def test_a_released_network_of_one_block_more_or_less_is_loaded_as_it_is() -> None:
    weights = {
        name: each for name, each in state(TINY).items() if not name.startswith("decoder.blocks.1.")
    }
    module = segmodels.from_released(TINY, weights)
    assert len(module.decoder.blocks) == 1
    assert module.identity.model["blocks"] == 1
    with pytest.raises(ValueError, match=r"model.size=small makes another network"):
        segmodels.from_released(TINY, weights, {"size": "small"})


def test_normalization_is_that_of_the_imagenet_weights() -> None:
    halves = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for name, row in EXPERIMENTS.items():
        assert row.normalization == (Normalization() if "deit" in name else halves), name
    for layout in RELEASED.values():
        assert layout.normalization == segmodels.experiment(layout.address).normalization


def test_rows_are_the_networks_of_the_readme() -> None:
    """Parameters in millions, as printed there; with ImageNet's classifier, as they count."""
    printed = {
        "mask": 322,
        "ade20k_tiny": 7,
        "ade20k_large": 334,
        "ade20k_base_patch8": 89,
    }
    classes = {"cityscapes": 19, "ade20k": 150}
    for name, millions in printed.items():
        row = EXPERIMENTS[name]
        module = row.build(classes[row.data], "meta")
        imagenet = 1000 * (module.backbone.width + 1)
        count = sum(each.numel() for each in module.parameters()) + imagenet
        assert round(count / 1e6) == millions, name
    context = {**EXPERIMENTS["mask"].model, "table": 30, "blocks": 2}
    assert EXPERIMENTS["context_large"].model == context
    assert EXPERIMENTS["ade20k_deit"].model == {
        **EXPERIMENTS["ade20k_base"].model,
        "distilled": True,
    }
    for row in EXPERIMENTS.values():
        assert row.model["table"] * row.model["patch"] == row.recipe.crop[0] == row.recipe.crop[1]
