"""Marks of tests that need an optional dependency."""

from importlib.util import find_spec

import pytest

from experiments import export

onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in export.PACKAGES),
    reason="the extra export is not installed",
)
