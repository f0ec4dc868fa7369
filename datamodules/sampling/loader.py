"""A loader whose threads make batches ahead.

Decoding, decompressing and warping hold no lock of Python's, and nothing has to be copied from one
process to another: that copy costs more than the sample once reading is fast.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.sampling.samples import collate


class Loader:
    """Batches of a data set, in order.

    `batches` are lists of the data set's keys; `together` makes a batch of the samples. Errors of
    the data are raised here, as one sentence. Lightning may treat it as resumable: the sampler
    holds the state.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Collection[Sequence[Any]],
        workers: int,
        together: Callable = collate,
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.workers = workers
        self.together = together
        self.waited = 0.0  # seconds that whoever takes the batches had to wait for them

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        made = self.made_ahead() if self.workers else map(self.make, self.batches)
        while True:
            started = time.perf_counter()
            batch = next(made, None)
            self.waited += time.perf_counter() - started
            if isinstance(batch, DataError):
                raise batch
            if batch is None:
                return
            yield batch

    def make(self, wanted: Sequence[Any]) -> Any:
        return self.together([self.dataset[item] for item in wanted])

    def made_ahead(self) -> Iterator[Any]:
        """In order; each thread makes whole batches, and two for each wait."""
        stop_opencv_threads()
        waiting: deque[Future] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="samples")
        try:
            for wanted in self.batches:
                waiting.append(pool.submit(self.make, wanted))
                if len(waiting) > 2 * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """The data module has already moved the sampler's start."""


def stop_opencv_threads() -> None:
    """Each thread makes its own sample: OpenCV's threads within it would fight for the cores."""
    try:
        import cv2

        cv2.setNumThreads(0)
    except ImportError:
        pass


def cores() -> int:
    """The cores this process may use, which in a container or a job are fewer than the machine
    has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
