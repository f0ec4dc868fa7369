"""Tests of AdvSemiSeg against the authors' order: one pass after the other, one network frozen."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.parts.joint_optimizer import JointOptimizer
from segmodels.semisup.advsemiseg import AdvSemiSeg, Discriminator, discriminate


class Tiny(SegmentationModule):
    """Three classes from one layer at half resolution."""

    def __init__(self) -> None:
        super().__init__(num_classes=3)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Conv2d(8, 3, 1)

    def features(self, image: Tensor) -> Tensor:
        return self.body(image)


def batch(height: int = 64, width: int = 96) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    image, more = torch.randint(256, (2, 2, 3, height, width), dtype=torch.uint8)
    label = torch.randint(3, (2, height, width), dtype=torch.uint8)
    label[:, :3] = 255
    padding = torch.zeros_like(label)
    padding[1, -9:] = 255
    return (image, label), (more, padding)


def in_turns(method: AdvSemiSeg, data: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    """Gradients as the authors' script makes them, written out with plain torch."""
    (image, label), (more, padding) = data
    student, judge = method.student, method.discriminator
    size = tuple(label.shape[1:])

    def enlarged(x: Tensor, align_corners: bool) -> Tensor:
        return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)

    def told(maps: Tensor, wanted: float, shown: Tensor) -> Tensor:
        answer = enlarged(judge(maps), True)[:, 0][shown]
        return F.binary_cross_entropy_with_logits(answer, torch.full_like(answer, wanted))

    judge.requires_grad_(False)
    shown, known = padding != 255, label != 255
    theirs = enlarged(student.logits(student.normalized(more)), False)
    convinced = enlarged(judge(theirs.softmax(1)), True)[:, 0].detach().sigmoid()
    taught = theirs.detach().argmax(1).masked_fill((convinced < method.threshold) | ~shown, 255)
    assert 0 < (taught != 255).float().mean() < 1
    semi = 0.1 * F.cross_entropy(theirs, taught, ignore_index=255)
    (semi + 0.001 * told(theirs.softmax(1), 1.0, shown)).backward()
    own = enlarged(student.logits(student.normalized(image)), False)
    seg = F.cross_entropy(own, label.long(), ignore_index=255)
    (seg + 0.01 * told(own.softmax(1), 1.0, known)).backward()
    judge.requires_grad_(True)
    predictions = torch.cat([own.detach(), theirs.detach()]).softmax(1)
    (told(predictions, 0.0, torch.cat([known, shown])) / 2).backward()
    one_hot = torch.stack([(label == number).float() for number in range(3)], 1)
    (told(one_hot, 1.0, known) / 2).backward()


def test_one_pass_backward_gives_the_gradients_of_passes_in_turns() -> None:
    method = AdvSemiSeg(Tiny, start=0).train()
    nn.init.normal_(method.discriminator[-1].weight, std=0.2)
    data = batch()
    more, padding = data[1]
    with torch.no_grad():  # a threshold that some answers reach and some do not
        logits = method.student.logits(method.student.normalized(more))
        convinced = discriminate(method.discriminator, method.probabilities(logits, padding))
    method.threshold = convinced.sigmoid().median().item()
    sum(method.losses(data).values()).backward()
    found = {name: each.grad.clone() for name, each in method.named_parameters()}
    method.zero_grad()
    in_turns(method, data)
    for name, each in method.named_parameters():
        torch.testing.assert_close(found[name], each.grad, rtol=1e-4, atol=1e-7)


def test_the_student_teaches_itself_from_the_step_that_is_named() -> None:
    method = AdvSemiSeg(Tiny, start=2, threshold=0.0).train()
    assert "semi" not in method.losses(batch())
    for _ in range(2):
        method.after_step()
    assert "semi" in method.losses(batch())
    again = AdvSemiSeg(Tiny, start=2)
    again.load_state_dict(method.state_dict())
    assert again.steps == 2


def test_the_discriminator_is_the_papers() -> None:
    judge = Discriminator(21)
    convolutions = [layer for layer in judge if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 128, 256, 512, 1]
    assert {(layer.kernel_size, layer.stride) for layer in convolutions} == {((4, 4), (2, 2))}
    assert judge(torch.zeros(1, 21, 321, 321)).shape == (1, 1, 10, 10)
    maps = torch.rand(2, 21, 64, 70)
    expected = F.interpolate(judge(maps), (64, 70), mode="bilinear", align_corners=True)[:, 0]
    torch.testing.assert_close(discriminate(judge, maps), expected)


def test_both_networks_have_optimizers_of_their_own_in_one() -> None:
    method = AdvSemiSeg(Tiny, discriminator_lr=3e-4)
    joint = method.configure_optimizers()["optimizer"]
    assert isinstance(joint, JointOptimizer)
    held = [
        {id(each) for group in part.param_groups for each in group["params"]}
        for part in joint.parts
    ]
    assert held == [
        {id(each) for each in method.student.parameters()},
        {id(each) for each in method.discriminator.parameters()},
    ]
    assert joint.param_groups[-1]["lr"] == 3e-4 and joint.param_groups[-1]["betas"] == (0.9, 0.99)


def test_the_pictures_have_the_size_of_the_crop() -> None:
    shown = AdvSemiSeg(Tiny).preview(batch()[1])
    assert {tuple(each.shape[-2:]) for each in shown.values()} == {(64, 96)}


def test_a_crop_that_is_too_small_for_the_discriminator_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"take a larger recipe\.crop"):
        AdvSemiSeg(Tiny).train().losses(batch(24, 96))
    with pytest.raises(ValueError, match=r"semi\.threshold=2"):
        AdvSemiSeg(Tiny, threshold=2)
