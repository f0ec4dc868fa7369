"""Tests of CONTRIBUTING.md: its template is a paper that runs."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from segmodels.paper import Experiment
from tests.support.paths import ROOT

TEMPLATE = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)[1]
RUFF = [sys.executable, "-m", "ruff"]


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    file = tmp_path / "tinynet.py"
    file.write_text(TEMPLATE)
    spec = importlib.util.spec_from_file_location("tinynet", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tinynet", module)
    spec.loader.exec_module(module)
    return module


def test_the_template_trains_and_gives_logits_at_the_images_size(template: ModuleType) -> None:
    torch.manual_seed(0)
    for row in template.EXPERIMENTS.values():
        assert isinstance(row, Experiment)
        module = row.build(5)
        image = torch.randint(256, (2, 3, 75, 101), dtype=torch.uint8)
        label = torch.randint(5, (2, 75, 101), dtype=torch.uint8)
        losses = module.losses((image, label))
        assert set(losses) == {"main", "auxiliary"}
        sum(losses.values()).backward()
        assert all(each.grad is not None for each in module.parameters())
        assert module.eval()(image).shape == (2, 5, 75, 101)


@pytest.mark.slow
def test_a_copy_of_the_template_is_a_paper_of_the_command_line(tmp_path: Path) -> None:
    for folder in ("segmodels", "datamodules", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "segmodels" / "architectures" / "tinynet.py").write_text(TEMPLATE)
    subprocess.run([*RUFF, "check", "--quiet", "segmodels"], cwd=tmp_path, check=True)
    words = ["--model", "tinynet/width32", "--smoke", "--runs", "runs"]
    done = subprocess.run(
        [sys.executable, "experiments/run.py", *words],
        cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "tinynet/width32 on streets" in done.stdout
    (result,) = tmp_path.glob("runs/tinynet-*/result.json")
    assert result.is_file()
