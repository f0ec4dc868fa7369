"""Where a user's values and files are met: mistakes become one sentence, and libraries keep quiet."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from datamodules import DataError
from experiments.command_line import Refused


@contextmanager
def door() -> Iterator[None]:
    """Before training starts, what is wrong is the user's values or files: one sentence, no traceback."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, OSError) as problem:
        raise Refused(str(problem)) from problem


def quiet() -> None:
    """Lightning's tips and the warnings that do not hold here, each by name."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for words in (".*does not have many workers.*", ".*The number of training batches.*", ".*exists and is not empty.*",
                  ".*`self.log\\('val/.*sync_dist=True.*", ".*`isinstance\\(treespec, LeafSpec\\)`.*",
                  ".*Trying to infer the `batch_size`.*"):  # fmt: skip
        warnings.filterwarnings("ignore", words)


@contextmanager
def hushed() -> Iterator[None]:
    """Without what libraries print past Python: OpenCV of every codec that it tries, torch's profiler of its own work."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
