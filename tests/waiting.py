"""The one place where tests and scenes poll: for what sends no event.

A file, a process of somebody else, a state behind a call. Where there is an event (a
beat, a callback, the end of a process), wait for that.
"""

import time
from typing import Callable, TypeVar

__all__ = ["wait_until"]

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], what: str, timeout: float, *, pause: float = 0.01
) -> T:
    """Return what ``condition`` returns as soon as it is true.

    :param what: What is waited for, as the error says it.
    :param timeout: In seconds; the condition is looked at once more at their end.
    :raises TimeoutError: If it did not come true; it names the last value seen.
    """
    deadline = time.monotonic() + timeout
    while True:
        is_last = time.monotonic() >= deadline
        found = condition()
        if found:
            return found
        if is_last:
            raise TimeoutError(f"{what}: not within {timeout:g} s; last seen: {found}")
        time.sleep(pause)
