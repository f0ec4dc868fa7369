"""Tests of mIoU against torchmetrics, a slow loop, and the official Cityscapes script on files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from datamodules.labels import CITYSCAPES
from segmodels.metrics import JaccardIndex, scores
from tests.support.official import official_scores


def maps(
    classes: int = 19, count: int = 3, seed: int = 0, present: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(present or classes, (count, 40, 60), generator=draw, dtype=torch.uint8)
    predicted = torch.where(
        torch.rand(label.shape, generator=draw) < 0.6,
        label,
        torch.randint(classes, label.shape, generator=draw).to(torch.uint8),
    )
    label[torch.rand(label.shape, generator=draw) < 0.1] = 255
    return predicted, label


def judged(predicted: torch.Tensor, label: torch.Tensor, classes: int) -> JaccardIndex:
    judge = JaccardIndex(classes)
    for one, other in zip(predicted, label):
        judge.update(one[None], other[None])
    return judge


@pytest.mark.parametrize("present", [19, 12])
def test_miou_is_torchmetrics_own_over_the_whole_set(present: int) -> None:
    predicted, label = maps(present=present)
    theirs = MulticlassJaccardIndex(19, ignore_index=255)
    theirs.update(predicted.long(), label.long())
    judge = judged(predicted, label, 19)
    assert judge.compute().item() == theirs.compute().item()
    assert torch.equal(judge.confmat, theirs.confmat)
    assert scores(judge.confmat)["miou"] == pytest.approx(theirs.compute().item(), abs=1e-7)


def test_scores_are_those_of_a_slow_loop() -> None:
    predicted, label = maps(classes=4)
    found = scores(judged(predicted, label, 4).confmat)
    valid = label != 255
    for each in range(4):
        hit = ((predicted == each) & (label == each)).sum().item()
        union = (((predicted == each) | (label == each)) & valid).sum().item()
        assert found["iou"][each] == pytest.approx(hit / union)
    assert found["pixel_accuracy"] == pytest.approx(
        (predicted == label)[valid].double().mean().item()
    )
    assert found["pixels"] == valid.sum().item()


def test_a_class_that_occurs_nowhere_is_absent_and_one_only_predicted_counts_as_zero() -> None:
    label = torch.tensor([[[0, 0, 1, 255]]], dtype=torch.uint8)
    predicted = torch.tensor([[[0, 2, 1, 3]]], dtype=torch.uint8)
    found = scores(judged(predicted, label, 5).confmat)
    assert found["iou"] == [0.5, 1.0, 0.0, None, None]
    assert found["miou"] == pytest.approx(0.5)


@pytest.mark.parametrize(("predicted", "label"), [(5, 0), (255, 0), (0, 5), (0, 254)])
def test_a_value_outside_the_classes_is_refused(predicted: int, label: int) -> None:
    judge = judged(*maps(classes=5), 5)
    before = judge.confmat.clone()
    with pytest.raises(ValueError, match=r"outside 0\.\.4"):
        judge.update(
            torch.tensor([[0, predicted]], dtype=torch.uint8),
            torch.tensor([[0, label]], dtype=torch.uint8),
        )
    assert torch.equal(judge.confmat, before)


@pytest.mark.parametrize("classes", [2, 150, 255])
def test_any_number_of_classes_is_counted_as_by_torchmetrics(classes: int) -> None:
    predicted, label = maps(classes)
    theirs = MulticlassJaccardIndex(classes, ignore_index=255)
    theirs.update(predicted.long(), label.long())
    assert torch.equal(judged(predicted, label, classes).confmat, theirs.confmat)


@pytest.mark.parametrize("present", [19, 15, 4])
def test_scores_are_the_official_cityscapes_scripts_on_files(present: int, tmp_path: Path) -> None:
    predicted, label = maps(seed=3, present=present)
    official = official_scores(predicted.numpy(), CITYSCAPES.decode(label.numpy()), tmp_path)
    found = scores(judged(predicted, label, 19).confmat, CITYSCAPES.categories)
    assert found["miou"] == pytest.approx(official["averageScoreClasses"], abs=1e-6)
    assert found["category_miou"] == pytest.approx(official["averageScoreCategories"], abs=1e-6)
    assert list(found["categories"]) == [
        "flat",
        "construction",
        "object",
        "nature",
        "sky",
        "human",
        "vehicle",
    ]
    for theirs, ours in (
        (official["classScores"], dict(zip(CITYSCAPES.names, found["iou"]))),
        (official["categoryScores"], found["categories"]),
    ):
        for name, iou in ours.items():
            assert (
                iou == pytest.approx(theirs[name], abs=1e-6)
                if iou is not None
                else np.isnan(theirs[name])
            )


def test_accuracies_and_the_frequency_weighted_iou_are_those_of_a_slow_loop() -> None:
    predicted, label = maps(classes=5, present=4)
    found = scores(judged(predicted, label, 5).confmat)
    valid, weighted = label != 255, 0.0
    for each in range(4):
        true = label == each
        assert found["accuracy"][each] == pytest.approx(
            (predicted == each)[true].double().mean().item()
        )
        weighted += true.sum().item() / valid.sum().item() * found["iou"][each]
    assert found["accuracy"][4] is None and found["iou"][4] == 0  # predicted, and never true
    assert found["mean_accuracy"] == pytest.approx(sum(found["accuracy"][:4]) / 4)
    assert found["frequency_weighted_iou"] == pytest.approx(weighted)


def test_nothing_to_judge_by_gives_no_number() -> None:
    found = scores(torch.zeros(3, 3, dtype=torch.int64), ("a", "a", "b"))
    means = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "category_miou")
    assert all(np.isnan(found[name]) for name in means) and found["pixels"] == 0
    assert found["iou"] == found["accuracy"] == [None] * 3 and found["categories"] == {
        "a": None,
        "b": None,
    }


def test_a_class_taken_for_another_one_of_its_category_is_right_there() -> None:
    confusion = torch.tensor([[4, 6, 0], [0, 8, 2], [0, 0, 0]])  # the first two are of one category
    assert scores(confusion, ("near", "near", "far"))["categories"] == {"near": 0.9, "far": 0.0}
    assert "categories" not in scores(confusion)
