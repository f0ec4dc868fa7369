"""What all tests share: options, quiet libraries, two threads, and an environment without anybody's data sets or W&B key."""

import os

# Before torch and its friends are imported: no network, no telemetry, no threads beyond the machine's.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"
for name in ("CITYSCAPES_DATASET", "WANDB_API_KEY", "SEGMODELS_RUN"):
    os.environ.pop(name, None)

import pytest  # noqa: E402
import torch  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--camvid", metavar="DIR", default=None, help="a CamVid folder (train, trainannot, ...): also run what wants real images"
    )


@pytest.fixture(autouse=True)
def same_randomness() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_run_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGMODELS_RUN", raising=False)
