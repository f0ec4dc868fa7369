"""Fixtures that tests of several commands share."""

from pathlib import Path

import pytest

from segmodels.module import SegmentationModule
from tests.support.checkpoints import written


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SegmentationModule]:
    file = tmp_path_factory.mktemp("network") / "streets.ckpt"
    return file, written(file)
