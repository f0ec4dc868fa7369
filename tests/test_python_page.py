"""Tests that run the blocks of docs/PYTHON.md, on a few tiny scenes."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import datamodules
from datamodules.streets import Streets
from segmodels import recipe
from tests.support import trees
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "PYTHON.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class Small(Streets):
    """Scenes of 64 x 128, whose budget is four steps."""

    budget = Streets.budget | {
        "iterations": 4,
        "batch": 2,
        "crop": (64, 128),
        "warmup": 0,
        "precision": "32-true",
    }

    def __init__(self, **options: Any) -> None:
        super().__init__(train=6, val=2, test=2, height=64, width=128, **options)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the blocks share: small scenes, a folder of photos, and a folder to write to."""
    monkeypatch.setitem(vars(datamodules), "Streets", Small)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "street.png")
    trees.folder(tmp_path / "mine", {"train": 3, "val": 2}, ["road", "car", "sky"], size=(64, 96))
    monkeypatch.setattr(recipe, "LEAST_STEPS", 3)
    monkeypatch.setattr(recipe, "PASSES", 1)
    page = ModuleType("page")  # LightningCLI wants functions that can be imported
    monkeypatch.setitem(sys.modules, "page", page)
    yield page.__dict__


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # a page shows what is said, and Lightning says much
def test_the_blocks_of_the_page_run_one_after_another(small: dict[str, Any]) -> None:
    assert len(BLOCKS) >= 6
    for code in BLOCKS:
        exec(compile(code, "docs/PYTHON.md", "exec"), small)
    restored = small["same"].state_dict()
    for name, tensor in small["module"].state_dict().items():
        assert torch.equal(restored[name], tensor), name
    assert small["short"].global_step == 2 and small["data"].batch_size >= 2
    assert small["label"].shape == (64, 96)
    assert small["predicted"]["file"] == ["photos/street.png"]
    assert np.array_equal(small["predicted"]["label"][0].numpy(), small["label"])
