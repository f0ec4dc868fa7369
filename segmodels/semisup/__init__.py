"""Semi-supervised methods, one file each; a method holds networks of any row.

Their base class is in `segmodels.method`.
"""

from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    return sorted(file.stem for file in HERE.glob("*.py") if file.stem != "__init__")


def method(name: str) -> type:
    """Return a method's class; only its file is imported."""
    from importlib import import_module

    from segmodels.paper import unknown

    if name not in names():
        raise ValueError(unknown("semi-supervised method", name, names()))
    return import_module(f"segmodels.semisup.{name}").METHOD
