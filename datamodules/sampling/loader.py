"""A loader whose threads make batches ahead.

In processes of their own, as torch's DataLoader has them, handing over a sample would cost more than
making it once reading is fast.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.sampling.samples import collate
from datamodules.thread_pools import prefetch


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
        if self.workers:
            stop_opencv_threads()
            made = prefetch(self.make, self.batches, self.workers)
        else:
            made = map(self.make, self.batches)
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
