"""Name what a result was made with: commit, versions of the libraries, hardware."""

import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def commit() -> str | None:
    """Return the commit of the code, with a plus sign where files differ from it.

    It is None outside a checkout.
    """
    describe = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.check_output(
            describe, cwd=ROOT, stderr=subprocess.DEVNULL, text=True, timeout=10
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    installed = {"python": platform.python_version()}
    for name in (
        "torch",
        "lightning",
        "torchmetrics",
        "albumentations",
        "opencv-python-headless",
        "numpy",
        "timm",
        "segmentation-models-pytorch",
    ):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def hardware() -> str:
    import torch

    from datamodules.thread_pools import cores

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    if torch.backends.mps.is_available():
        return f"MPS ({processor()})"
    return f"CPU, {cores()} cores ({processor()})"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
