"""The official Cityscapes script on files, where it is installed."""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np


def official_scores(pairs: Sequence[tuple[str, str]]) -> dict[str, Any] | None:
    """What cityscapesScripts says of (predicted label ids, true label ids) in PNG files; None where it is not installed."""
    try:
        with warnings.catch_warnings(action="ignore"), arguments("evaluate"):
            script = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    except ImportError:
        return None
    script.args.evalInstLevelScore, script.args.quiet, script.args.JSONOutput = False, True, False
    with warnings.catch_warnings(action="ignore"), forgotten_names():
        return script.evaluateImgLists([guess for guess, _ in pairs], [truth for _, truth in pairs], script.args)


@contextlib.contextmanager
def arguments(*words: str) -> Any:
    """The script looks at the command line when it is imported."""
    before, sys.argv = sys.argv, list(words)
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def forgotten_names() -> Any:
    """numpy lost in1d, which the script still calls."""
    lost = not hasattr(np, "in1d")
    if lost:
        np.in1d = np.isin
    try:
        yield
    finally:
        if lost:
            del np.in1d
