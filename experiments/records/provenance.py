"""What a result was made with: commit, versions of the libraries, hardware."""

import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def commit() -> str | None:
    """The commit that the code stood at, with a plus sign where files differ from it; None outside a checkout."""
    try:
        asked = (
            "git",
            "-C",
            str(ROOT),
            "describe",
            "--always",
            "--abbrev=12",
            "--exclude=*",
            "--dirty=+",
        )
        return subprocess.run(
            asked, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
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
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> str:
    import torch

    from datamodules.sampling.loader import cores

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"CPU, {cores()} cores ({processor()})"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
