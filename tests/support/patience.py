"""Wait for another process or thread by a condition, never for a fixed time.

On a busy machine everything takes its time.
"""

import time
from collections.abc import Callable

SECONDS = (
    600.0  # after which what is waited for will not come; nothing passes or fails earlier for this
)


def until(holds: Callable[[], bool], seconds: float = SECONDS) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()
