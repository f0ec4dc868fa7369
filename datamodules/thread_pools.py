"""Ordered thread pools with a bounded queue: `prefetch` reads ahead, `write_behind` writes later.

Decoding, decompressing and warping release Python's lock, so threads are enough, and nothing has to
be copied from one process to another.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Yield function(item) in order, while threads compute up to 2 * threads results in advance.

    Whoever stops early waits for none of them.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    futures: deque[Future[Result]] = deque()
    try:
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) > 2 * threads:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


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


def cores() -> int:
    """The cores this process may use: in a container or a job, fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
