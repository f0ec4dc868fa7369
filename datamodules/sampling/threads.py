"""Work that threads do before or after its turn, in order and never much of it at once: decoding and compressing hold no lock."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Given, Made = TypeVar("Given"), TypeVar("Made")


def ahead(make: Callable[[Given], Made], items: Iterable[Given], threads: int) -> Iterator[Made]:
    """make(item) of each item in turn, begun by threads before it is asked for; never more than twice as many as there are threads."""
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[Future] = deque()
        try:
            for item in items:
                begun.append(pool.submit(make, item))
                if len(begun) >= 2 * threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for each in begun:
                each.cancel()


@contextmanager
def behind(threads: int) -> Iterator[Callable[..., None]]:
    """later(work, ...) has threads do it, in order if there is one; it waits where they fall behind, and what fails there fails here."""
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[Future] = deque()

        def later(work: Callable[..., Any], *given: Any) -> None:
            begun.append(pool.submit(work, *given))
            while begun and (len(begun) > 2 * threads or begun[0].done()):
                begun.popleft().result()

        try:
            yield later
            while begun:
                begun.popleft().result()
        finally:
            for each in begun:
                each.cancel()
