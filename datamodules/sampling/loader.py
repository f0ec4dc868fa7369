"""A loader whose threads make batches ahead.

In processes of their own, as torch's DataLoader has them, handing over a sample would cost more than
making it once reading is fast.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datamodules.sampling.samples import Samples, make_batch
from datamodules.thread_pools import prefetch


@dataclass
class Loader:
    """Batches of samples, in order.

    `batches` are lists of the samples' keys. With `unlabeled`, other samples and batches of their
    keys, it yields pairs of batches. Lightning may treat it as resumable: the sampler holds the
    state.
    """

    samples: Samples
    batches: Collection[Sequence[Any]]
    workers: int
    unlabeled: tuple[Samples, Collection[Sequence[Any]]] | None = None
    waited: float = 0.0  # seconds that whoever takes the batches had to wait for them

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        steps = self.batches
        if self.unlabeled:
            steps = zip(self.batches, self.unlabeled[1], strict=True)
        if self.workers:
            stop_opencv_threads()
            made = prefetch(self.make, steps, self.workers)
        else:
            made = map(self.make, steps)
        while True:
            started = time.perf_counter()
            batch = next(made, None)
            self.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def make(self, step: Sequence[Any]) -> Any:
        if not self.unlabeled:
            return make_batch(self.samples, step)
        labeled, unlabeled = step
        return make_batch(self.samples, labeled), make_batch(self.unlabeled[0], unlabeled)

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """The data module has already moved the sampler's start."""


def stop_opencv_threads() -> None:
    """Each thread makes its own sample: OpenCV's threads within it would fight for the cores."""
    import cv2

    cv2.setNumThreads(0)
