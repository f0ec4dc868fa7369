"""Tests of thread pools: results keep their order, few tasks begin at once, no failure is lost."""

import time

import pytest

from datamodules.thread_pools import prefetch, write_behind


def test_prefetched_work_keeps_its_order_and_is_bounded() -> None:
    begun = []

    def slow(item: int) -> int:
        begun.append(item)
        time.sleep(0.02 * (item % 3 == 0))
        return item

    for place, item in enumerate(prefetch(slow, range(40), threads=3)):
        assert item == place and len(begun) <= place + 7
    assert sorted(begun) == list(range(40))


def test_work_in_the_background_is_all_done_and_its_failure_is_not_lost() -> None:
    done = []
    with write_behind(threads=1) as later:
        for number in range(20):
            later(done.append, number)
    assert done == list(range(20))
    with pytest.raises(ZeroDivisionError), write_behind(threads=2) as later:
        later(lambda: 1 / 0)
