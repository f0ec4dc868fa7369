"""Ordered thread pools with a bounded queue: `prefetch` reads ahead, `write_behind` writes later.

Decoding and compressing release Python's lock, so threads are enough.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Yield function(item) in order, while threads compute up to 2 * threads results in advance."""
    pool = ThreadPoolExecutor(threads)
    futures: deque[Future[Result]] = deque()
    try:
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) >= 2 * threads:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def write_behind(threads: int) -> Iterator[Callable[..., None]]:
    """Yield submit(function, *args): threads call it soon, one thread in order.

    `submit` waits while 2 * threads calls are pending, and raises what an earlier one raised.
    """
    pool = ThreadPoolExecutor(threads)
    futures: deque[Future] = deque()

    def submit(function: Callable[..., object], *args: object) -> None:
        futures.append(pool.submit(function, *args))
        while futures and (len(futures) > 2 * threads or futures[0].done()):
            futures.popleft().result()

    try:
        yield submit
        while futures:
            futures.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
