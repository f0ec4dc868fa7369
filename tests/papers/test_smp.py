"""Tests of segmentation-models-pytorch's networks: they are computed in its own two steps."""

import pytest
import segmentation_models_pytorch as library
import torch

from segmodels.architectures.smp import SMP

ENCODERS = {"segformer": "mit_b0", "dpt": "tu-vit_tiny_patch16_224"}  # others take a ResNet


@pytest.mark.parametrize("architecture", library.MODEL_ARCHITECTURES_MAPPING)
def test_features_and_decode_are_one_pass_of_the_library(architecture: str) -> None:
    encoder = ENCODERS.get(architecture, "resnet18")
    torch.manual_seed(0)
    module = SMP(3, architecture, encoder).eval()
    image = torch.randn(1, 3, 224, 224)  # the one size that a ViT takes
    with torch.no_grad():
        assert torch.equal(module.logits(image), module.network(image))


def test_a_size_that_the_library_refuses_is_refused_in_its_own_words() -> None:
    with pytest.raises(RuntimeError, match="divisible by 32"):
        SMP(3, "linknet", "resnet18").features(torch.randn(1, 3, 64, 90))


def test_any_other_size_is_padded_to_the_next_multiple_of_32() -> None:
    module = SMP(3, "linknet", "resnet18").eval()
    with torch.no_grad():
        assert module.padded(torch.zeros(1, 3, 65, 96)).shape[-2:] == (96, 96)
        assert module(torch.randn(1, 3, 65, 90)).shape == (1, 3, 65, 90)
