"""The official Cityscapes script on files: what it says about maps of train ids."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from datamodules.labels import CITYSCAPES

Maps = Sequence[np.ndarray]


def official_scores(predicted: Maps, ids: Maps, folder: Path, monkeypatch: pytest.MonkeyPatch, *, instances: Maps | None = None) -> dict:
    """`predicted` holds train ids, `ids` label ids and `instances` instance ids, as the files do; without the last, no iIoU."""
    script = official_script()
    if not hasattr(np, "in1d"):  # numpy lost it, and the script still calls it
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    guesses, truths = [], []
    for index, (guess, truth) in enumerate(zip(predicted, ids, strict=True)):
        truths.append(str(folder / f"a_{index:06d}_000019_gtFine_labelIds.png"))
        guesses.append(str(folder / f"a_{index:06d}_000019_pred.png"))
        Image.fromarray(truth.astype(np.uint8)).save(truths[-1])
        Image.fromarray(CITYSCAPES.decode(guess)).save(guesses[-1])
        if instances is not None:
            Image.fromarray(instances[index].astype(np.uint16)).save(folder / f"a_{index:06d}_000019_gtFine_instanceIds.png")
    for name, value in (("evalInstLevelScore", instances is not None), ("quiet", True), ("JSONOutput", False)):
        monkeypatch.setattr(script.args, name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the script's own deprecations and divisions by zero
        return json.loads(json.dumps(script.evaluateImgLists(guesses, truths, script.args)))


def official_script() -> ModuleType:
    pytest.importorskip("cityscapesscripts", reason="the eval script is in the test extra")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script
    return script
