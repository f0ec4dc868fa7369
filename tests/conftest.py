"""What all tests share: options, quiet libraries, one kind of processor, and an environment without anybody's data sets or W&B key."""

import os
from pathlib import Path

# Before torch and its friends are imported: no network, no telemetry, no threads beyond the machine's.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # results are compared bit for bit with the CPU's
for name in ("CITYSCAPES_DATASET", "WANDB_API_KEY", "SEGMODELS_RUN"):
    os.environ.pop(name, None)

import pytest  # noqa: E402
import torch  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--camvid", metavar="DIR", default=None, help="a CamVid folder, written --camvid=DIR: also run what wants real images")
    parser.addoption("--weights", metavar="DIR", default=None, help="real ImageNet and face weights and pictures, written --weights=DIR")


@pytest.fixture(autouse=True)
def same_randomness() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run of four tiny steps, made when first asked for; tests read it and write nothing into it."""
    from experiments import run

    runs = tmp_path_factory.mktemp("runs")
    assert run.main(["--model", "bisenet/xception39", "--smoke", "trainer.wandb=disabled", "--runs", str(runs)]) == 0
    return next(runs.iterdir())


@pytest.fixture(autouse=True)
def no_run_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGMODELS_RUN", raising=False)
