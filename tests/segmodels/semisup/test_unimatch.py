"""Tests of UniMatch and FixMatch against their formulas, on a network small enough for it."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.parts.image_mixing import random_box
from segmodels.semisup.unimatch import UniMatch, part

STILL = {"color": 0.0, "hue": 0.0, "gray": 0.0, "blur": 0.0}


class Pooled(NamedTuple):
    maps: Tensor
    places: Tensor


class Tiny(SegmentationModule):
    """Three classes from one layer at half resolution."""

    def __init__(self) -> None:
        super().__init__(num_classes=3)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Conv2d(8, 3, 1)

    def features(self, image: Tensor) -> Tensor:
        return self.body(image)


def batch() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    image, unlabeled = torch.randint(256, (2, 2, 3, 24, 32), dtype=torch.uint8)
    label = torch.randint(3, (2, 24, 32), dtype=torch.uint8)
    label[:, :2] = 255
    padding = torch.zeros_like(label)
    padding[0, :, -5:] = 255
    return (image, label), (unlabeled, padding)


def enlarged(logits: Tensor) -> Tensor:
    return F.interpolate(logits, (24, 32), mode="bilinear", align_corners=False)


def sure(logits: Tensor, padding: Tensor, threshold: float) -> Tensor:
    """The class of each pixel by itself, 255 where it is not sure."""
    confidence, label = enlarged(logits).softmax(1).max(1)
    return label.masked_fill((confidence < threshold) | (padding == 255), 255)


def asked(logits: Tensor, label: Tensor, padding: Tensor) -> Tensor:
    """The authors' form: a sum over sure pixels, divided by the pixels that show an image."""
    per_pixel = F.cross_entropy(enlarged(logits), label, ignore_index=255, reduction="none")
    return per_pixel.sum() / (padding != 255).sum()


def test_fixmatch_is_half_supervised_and_half_what_the_network_is_sure_of() -> None:
    method = UniMatch(Tiny, threshold=0.4, streams=1, dropped=0.0, cutmix=0.0, **STILL).train()
    (image, label), (unlabeled, padding) = batch()
    terms = method.losses(((image, label), (unlabeled, padding)))
    student = method.student
    weak = student.normalized(unlabeled)
    said = student.logits(torch.cat([student.normalized(image), weak]))
    taught = sure(said[2:], padding, 0.4)
    assert 0 < (taught != 255).float().mean() < 1  # so that the threshold decides something
    supervised = F.cross_entropy(enlarged(said[:2]), label.long(), ignore_index=255)
    expected = {"main": supervised / 2, "strong1": asked(student.logits(weak), taught, padding) / 2}
    torch.testing.assert_close(terms, expected)


def test_a_box_shows_the_next_image_and_asks_for_what_evaluation_mode_says_of_it() -> None:
    method = UniMatch(Tiny, threshold=0.4, dropped=0.0, **STILL).train()
    for _ in range(3):  # running statistics other than a batch's
        method.student(torch.randint(256, (2, 3, 24, 32), dtype=torch.uint8))
    box = torch.zeros(2, 24, 32, dtype=torch.bool)
    box[0, 3:15, 4:20] = True
    method.boxes = lambda image, chance: box
    (image, label), (unlabeled, padding) = batch()
    student = method.student
    student.eval()
    beside = sure(student.logits(student.normalized(unlabeled)), padding, 0.4)
    student.train()
    terms = method.losses(((image, label), (unlabeled, padding)))
    weak = student.normalized(unlabeled)
    said = student.logits(torch.cat([student.normalized(image), weak]))
    taught, hidden = sure(said[2:], padding, 0.4), padding.clone()
    shown = weak.clone()
    for own, other in ((shown, weak), (taught, beside), (hidden, padding)):
        own[0][..., 3:15, 4:20] = other[1][..., 3:15, 4:20]
    strong = student.logits(torch.cat([shown, shown]))
    torch.testing.assert_close(terms["strong1"], asked(strong[:2], taught, hidden) / 4)
    torch.testing.assert_close(terms["strong2"], asked(strong[2:], taught, hidden) / 4)


def test_with_dropped_features_the_four_terms_have_the_authors_weights() -> None:
    method = UniMatch(Tiny, threshold=0.0, cutmix=0.0, **STILL).train()
    found = method.losses(batch())
    assert list(found) == ["main", "features", "strong1", "strong2"]
    method.distance = lambda logits, taught, beyond: torch.tensor(1.0)
    weights = {name: term for name, term in method.losses(batch()).items() if name != "main"}
    assert {name: term.item() for name, term in weights.items()} == {
        "features": 0.25,
        "strong1": 0.125,
        "strong2": 0.125,
    }


def test_whole_channels_are_dropped_and_places_of_a_pooling_are_not() -> None:
    method = UniMatch(Tiny, dropped=0.5)
    maps = torch.rand(3, 40, 4, 5) + 1
    places = torch.arange(3 * 40 * 20).view(3, 40, 4, 5)
    twice = method.with_a_perturbed_copy(maps)
    assert torch.equal(twice[:3], maps)
    channels = twice[3:] / maps
    flat = channels.flatten(2)
    assert torch.equal(flat.amin(2), flat.amax(2))
    assert set(flat.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(method.with_a_perturbed_copy(places), torch.cat([places, places]))
    assert method.with_a_perturbed_copy((24, 32)) == (24, 32)
    some = part(Pooled(maps, places), slice(1, 2))
    assert torch.equal(some.maps, maps[1:2]) and torch.equal(some.places, places[1:2])


def test_a_network_with_a_margin_is_asked_inside_it_alone() -> None:
    class Valid(Tiny):
        margin = 4

        def features(self, image: Tensor) -> Tensor:
            return self.body(image)[..., 2:-2, 2:-2]

    method = UniMatch(Valid, threshold=0.0).train()
    terms = method.losses(batch())
    assert all(term.isfinite() for term in terms.values())
    shown = method.preview(batch()[1])
    assert {tuple(each.shape[-2:]) for each in shown.values()} == {(24, 32)}
    assert (shown["what it is asked"][:, :4] == 255).all()


def test_boxes_have_the_authors_sizes_and_lie_anywhere() -> None:
    drawn = [random_box((60, 100)) for _ in range(600)]
    boxes = [box for box in drawn if box.any()]
    assert 0.4 < len(boxes) / len(drawn) < 0.6
    shares = torch.tensor([box.float().mean().item() for box in boxes])
    assert 0.01 < shares.min() < 0.06 and 0.3 < shares.max() <= 0.4
    for box in boxes[:50]:
        rows, columns = box.any(1).nonzero(), box.any(0).nonzero()
        tall = int(rows[-1] - rows[0]) + 1
        wide = int(columns[-1] - columns[0]) + 1
        assert box.sum() == tall * wide
        assert 0.25 < tall / wide < 4
    assert torch.stack(boxes).any(0).float().mean() > 0.95


def test_floats_cannot_be_recolored_and_numbers_out_of_range_are_refused() -> None:
    (image, label), (unlabeled, padding) = batch()
    with pytest.raises(TypeError, match="strong color is defined on uint8"):
        UniMatch(Tiny).train().losses(((image, label), (unlabeled / 255, padding)))
    with pytest.raises(ValueError, match=r"semi\.streams=0; it must be from 1 to 8"):
        UniMatch(Tiny, streams=0)
