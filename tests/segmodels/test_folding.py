"""Tests of folded batch norm: a fast form has its network's logits, and evaluations use it."""

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segmodels import deploy
from segmodels.folding import fast_form, fold
from segmodels.inference_modes import mode
from segmodels.module import SegmentationModule
from segmodels.semisup_method import Method
from tests.support import checkpoints
from tests.support.networks import Tiny, Valid, images

SIZE = (75, 101)


def with_statistics(module: SegmentationModule) -> SegmentationModule:
    deploy.settle_batch_norm(module, (32, 48))
    return module


class Scaled(nn.BatchNorm2d):
    """A norm that does more than normalize."""

    def forward(self, image: Tensor) -> Tensor:
        return 2 * super().forward(image)


class Small(SegmentationModule):
    """Convolution and norm in an arrangement of the test's choosing."""

    def __init__(self, arrangement: str) -> None:
        super().__init__(num_classes=4)
        self.arrangement = arrangement
        kind = Scaled if arrangement == "more than a norm" else nn.BatchNorm2d
        bias = arrangement not in ("without bias", "an unused twin")
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        self.classifier = nn.Conv2d(4, 4, 3, padding=1)
        of_the_batch = arrangement == "of the batch"
        self.norm = kind(
            4, eps=1e-2, affine=arrangement != "plain", track_running_stats=not of_the_batch
        )
        if not of_the_batch:
            self.norm.running_mean.uniform_(-1, 1)
            self.norm.running_var.uniform_(0.5, 2)
        if arrangement == "two names":
            self.again = nn.Sequential(self.norm)
        if arrangement == "an unused twin":
            self.twin = nn.Conv2d(3, 4, 3, bias=False)
            self.twin.weight = self.conv.weight

    def logits(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        norm = self.again[0] if self.arrangement == "two names" else self.norm
        normed = norm(x.relu() if self.arrangement == "apart" else x)
        if self.arrangement == "twice":
            normed = self.norm(self.conv(normed[:, :3]))
        if self.arrangement == "twice, once without the norm":
            normed = self.conv(normed[:, :3])
        if self.arrangement == "behind two convolutions":
            normed = self.norm(self.classifier(normed))
        if self.arrangement == "weight read":
            normed = normed * self.conv.weight.sum()
        if self.arrangement == "a flat view":
            flat = normed.view(len(normed), -1)
            normed = (flat - flat.mean(1, keepdim=True)).view_as(normed)
        return self.classifier(normed + x if self.arrangement == "shortcut" else normed)


@pytest.mark.parametrize(
    ("arrangement", "folded"),
    [
        ("straight", 1),
        ("without bias", 1),
        ("plain", 1),
        ("two names", 1),
        ("a flat view", 1),
        ("twice", 1),
        ("twice, once without the norm", 0),
        ("behind two convolutions", 0),
        ("apart", 0),
        ("shortcut", 0),
        ("weight read", 0),
        ("an unused twin", 0),
        ("of the batch", 0),
        ("more than a norm", 0),
    ],
)
def test_a_norm_is_folded_where_it_alone_reads_a_convolution_and_knows_its_statistics(
    arrangement: str, folded: int
) -> None:
    module = Small(arrangement).double().eval()
    image = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    fast = fast_form(module)
    with torch.no_grad():
        torch.testing.assert_close(fast(image), module(image), rtol=0, atol=1e-12)
        assert fold(module, image) == folded
        torch.testing.assert_close(fast(image), module(image), rtol=0, atol=1e-12)


def test_nothing_is_folded_of_a_network_that_trains() -> None:
    module = Small("straight")
    assert fold(module.train(), torch.randn(2, 3, *SIZE)) == 0
    assert fold(module.eval(), torch.randn(2, 3, *SIZE)) == 1


@pytest.mark.parametrize(
    "inference", ["whole", "resized:0.5", "slide:24x24", "tiles:24x24", "multiscale:1,1.5+flip"]
)
def test_a_fast_form_takes_every_size_and_mode(inference: str) -> None:
    module = with_statistics(Valid())
    fast = fast_form(module)
    for size in ((32, 48), (45, 61)):
        image = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
        with torch.inference_mode():
            full = mode(inference)(module, image).full()
            difference = (mode(inference)(fast, image).full() - full).abs().max()
        assert difference <= deploy.limit_of(full)


def test_labels_of_a_fast_form_are_the_networks_own_but_for_ties() -> None:
    module = checkpoints.built()
    image = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    with torch.inference_mode():
        logits = module(image)
        fast = fast_form(module)(image)
    limit = deploy.limit_of(logits)
    assert 0 < (fast - logits).abs().max() <= limit
    assert deploy.clear_errors(logits, fast.argmax(1), limit) == 0


def test_a_fast_form_is_in_channels_last_and_leaves_its_network_and_all_draws_as_they_were() -> (
    None
):
    module = checkpoints.built().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    draws = torch.get_rng_state()
    fast = fast_form(module)
    assert torch.equal(torch.get_rng_state(), draws)
    assert module.training and not fast.training
    wide = [each for each in fast.parameters() if each.ndim == 4]
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in wide)
    for value in fast.state_dict().values():
        value.zero_()
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_fast_form_of_half_precision_differs_by_its_rounding() -> None:
    """bfloat16 has 8 bits: the folded weights are rounded to it as the weights were."""
    module = checkpoints.built()
    image = torch.randint(256, (1, 3, 64, 128), dtype=torch.uint8)
    with torch.inference_mode():
        exact = module(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = module(image)
            fast = fast_form(module)(image)
    rounding = (half - exact).abs().max()
    assert 0 < (fast - exact).abs().max() < 2 * rounding


# --- evaluations


def batches(count: int = 3) -> DataLoader:
    label = torch.randint(3, (4, 32, 48), dtype=torch.uint8)
    return DataLoader([(images()[0], label) for _ in range(count)], batch_size=None)


def evaluated(module: SegmentationModule, loader: DataLoader) -> list[list[int]]:
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.validate(module, loader, verbose=False)
    return module.scores["confusion"]


def confusion_by_hand(module: SegmentationModule, loader: DataLoader) -> list[list[int]]:
    module.eval()
    module.confusion.reset()
    for image, label in loader:
        with torch.no_grad():
            module.confusion.update(module(image).argmax(1), label)
    counts = module.confusion.confmat.tolist()
    module.confusion.reset()
    return counts


def test_an_evaluation_uses_the_weights_of_its_time_and_keeps_no_copy() -> None:
    module = with_statistics(Tiny())
    loader = batches()
    names = list(module.state_dict())
    first = evaluated(module, loader)
    assert first == confusion_by_hand(module, loader)
    with torch.no_grad():
        module.classifier.weight.neg_()
    second = evaluated(module, loader)
    assert second == confusion_by_hand(module, loader) != first
    assert module.fast == () and list(module.state_dict()) == names


def test_no_copy_is_among_a_networks_parts_while_it_is_evaluated() -> None:
    module = Tiny()
    parts = [name for name, _ in module.named_modules()]
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    label = torch.zeros(1, 16, 16, dtype=torch.uint8)
    for _ in range(2):
        module.begin_evaluation()
        module.validation_step((image, label), 0)
        assert [name for name, _ in module.named_modules()] == parts
        assert module.fast[0] is not module and module.fast[0].fast == ()


class Pair(Method):
    networks = ("used", "other")
    evaluated_beside = ("other",)


def test_each_network_of_a_method_is_evaluated_by_its_own_weights() -> None:
    module = Pair(with_statistics(Valid()), with_statistics(Tiny()))
    loader = batches()
    first = evaluated(module, loader)
    other = module.scores["others"]["other"]["confusion"]
    assert first == confusion_by_hand(module.used, loader)
    assert other == confusion_by_hand(module.other, loader) != first


def test_the_fast_form_is_what_an_evaluation_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = with_statistics(Tiny())
    other = with_statistics(Tiny())
    loader = batches(1)
    plain = evaluated(module, loader)
    monkeypatch.setattr(module, "fast_form", lambda: other)
    assert evaluated(module, loader) == confusion_by_hand(other, loader) != plain
