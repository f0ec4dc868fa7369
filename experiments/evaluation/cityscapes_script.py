"""The official Cityscapes script on files, where it is installed."""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np


def official_scores(
    pairs: Sequence[tuple[str, str]], *, instances: bool = False
) -> dict[str, Any] | None:
    """What cityscapesScripts says of (predicted label ids, true label ids) in PNG files; None where it is not installed.

    For iIoU it looks for a file of instances under the true one's official name.
    """
    if (script := official_script()) is None:
        return None
    script.args.evalInstLevelScore, script.args.quiet, script.args.JSONOutput = (
        instances,
        True,
        False,
    )
    with warnings.catch_warnings(action="ignore"), forgotten_names():
        return script.evaluateImgLists(
            [guess for guess, _ in pairs], [truth for _, truth in pairs], script.args
        )


def official_script() -> ModuleType | None:
    try:
        with warnings.catch_warnings(action="ignore"), arguments("evaluate"):
            return importlib.import_module(
                "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
            )
    except ImportError:
        return None


@contextlib.contextmanager
def arguments(*words: str) -> Iterator[None]:
    """The script looks at the command line when it is imported."""
    before, sys.argv = sys.argv, list(words)
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def forgotten_names() -> Iterator[None]:
    """numpy lost in1d, which the script still calls."""
    lost = not hasattr(np, "in1d")
    if lost:
        np.in1d = np.isin
    try:
        yield
    finally:
        if lost:
            del np.in1d
