"""Commands, and the packages that they are made of: the only place where networks and data meet."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

# Before torch is imported. A thread that waits for its team spins for so many rounds before it
# sleeps. OpenMP's default of 300,000 made training several times slower wherever another process
# wanted the cores; a short spin costs a machine of one's own about 5 %.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# `python experiments/run.py` puts this folder first on the import path, where `import evaluate`
# would find a command of ours instead of the package of that name.
HERE = Path(__file__).parent
sys.path[:] = [place for place in sys.path if not place or Path(place).resolve() != HERE]

# What pyproject.toml names as dependencies, as they are imported.
PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "segmentation_models_pytorch",
    "timm",
    "wandb",
    "albumentations",
    "cv2",
    "numpy",
    "PIL",
    "yaml",
    "pydantic",
    "rich",
    "matplotlib",
)


def unusable() -> str:
    """What keeps this Python from running a command, in words; empty where nothing does."""
    if sys.version_info < (3, 11):  # noqa: UP036 - a script is started with any python3
        major, minor = sys.version_info[:2]
        return f"is Python {major}.{minor}, and the project needs 3.11 or newer"
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if len(missing) > 3:
        missing[2:] = [f"{len(missing) - 2} more packages"]
    return f"lacks {', '.join(missing)}" if missing else ""


if problem := unusable():
    print(
        f"error: {sys.executable} {problem}; activate the environment that segmodels is installed "
        "in, such as . .venv/bin/activate, or install it: pip install -e .",
        file=sys.stderr,
    )
    sys.exit(2)
