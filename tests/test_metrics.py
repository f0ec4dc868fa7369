"""mIoU against torchmetrics' own, a slow loop, and the official Cityscapes script on files."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

from datamodules.labels import CITYSCAPES
from segmodels.metrics import JaccardIndex, scores


def maps(classes: int = 19, count: int = 3, seed: int = 0, present: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(present or classes, (count, 40, 60), generator=draw, dtype=torch.uint8)
    predicted = torch.where(
        torch.rand(label.shape, generator=draw) < 0.6, label, torch.randint(classes, label.shape, generator=draw).to(torch.uint8)
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
    assert found["pixel_accuracy"] == pytest.approx((predicted == label)[valid].double().mean().item())
    assert found["pixels"] == valid.sum().item()


def test_a_class_that_occurs_nowhere_is_absent_and_one_only_predicted_counts_as_zero() -> None:
    label = torch.tensor([[[0, 0, 1, 255]]], dtype=torch.uint8)
    predicted = torch.tensor([[[0, 2, 1, 3]]], dtype=torch.uint8)
    found = scores(judged(predicted, label, 5).confmat)
    assert found["iou"] == [0.5, 1.0, 0.0, None, None]
    assert found["miou"] == pytest.approx(0.5)


@pytest.mark.parametrize(("predicted", "label"), [(5, 0), (255, 0), (0, 5), (0, 254)])
def test_a_value_outside_the_classes_is_refused(predicted: int, label: int) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.4"):
        JaccardIndex(5).update(torch.tensor([[predicted]], dtype=torch.uint8), torch.tensor([[label]], dtype=torch.uint8))


def test_miou_is_the_official_cityscapes_scripts_on_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cityscapesScripts reads label ids from PNG files; numpy lost in1d, which it still calls."""
    pytest.importorskip("cityscapesscripts", reason="the eval script is in the test extra")
    if not hasattr(np, "in1d"):
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    predicted, label = maps(seed=3, present=15)
    pairs = []
    for index, (one, other) in enumerate(zip(predicted.numpy(), label.numpy())):
        truth, guess = tmp_path / f"a_{index:06d}_000019_gtFine_labelIds.png", tmp_path / f"a_{index:06d}_000019_pred.png"
        Image.fromarray(CITYSCAPES.decode(other)).save(truth)
        Image.fromarray(CITYSCAPES.decode(one)).save(guess)
        pairs.append((str(guess), str(truth)))
    official = official_scores(pairs, monkeypatch, tmp_path)
    found = scores(judged(predicted, label, 19).confmat)
    assert found["miou"] == pytest.approx(official["averageScoreClasses"], abs=1e-6)
    for name, iou in zip(CITYSCAPES.names, found["iou"]):
        theirs = official["classScores"][name]
        assert iou == pytest.approx(theirs, abs=1e-6) if iou is not None else np.isnan(theirs)


def official_scores(pairs: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict:
    import warnings

    monkeypatch.setenv("CITYSCAPES_DATASET", str(folder))
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the script's own deprecations and divisions by zero
        from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

        script.args.evalInstLevelScore, script.args.quiet, script.args.JSONOutput = False, True, False
        monkeypatch.setattr(script.args, "avgClassSize", script.args.avgClassSize)
        return json.loads(json.dumps(script.evaluateImgLists([g for g, _ in pairs], [t for _, t in pairs], script.args)))
