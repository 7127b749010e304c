"""Observers that remember, and can be waited on."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import Any

from waiting import wait_until

__all__ = ["Recorder", "Awaited", "wait_until_pages_flow"]

_LONGEST_S = 30.0


class Recorder:
    """Keeps what it was shown, with the time."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, object]] = []

    def __call__(self, what: object) -> None:
        self.seen.append((time.monotonic(), what))

    def of(self, kind: type) -> list[Any]:
        return [what for _, what in self.seen if isinstance(what, kind)]

    def times_of(self, kind: type) -> list[float]:
        return [when for when, what in self.seen if isinstance(what, kind)]


def wait_until_pages_flow(job: Any) -> None:
    """The destination has asked for pages, so both ends of the link are in use.

    Where a link broke in the instant in which the guest arrived, libvirt's resume was seen without an answer for minutes
    (libvirt 9.0, QEMU 7.2): a vCPU that waits for a page with QEMU's big lock held stops the monitor too.
    """

    def requests() -> int:
        stats = job.stats()
        return (stats.postcopy_requests or 0) if stats is not None else 0

    wait_until(requests, "page requests", _LONGEST_S, pause=0.1)


class Awaited(Recorder):
    """Can be waited on until it has been shown something."""

    def __init__(
        self, kind: type, test: Callable[[Any], bool] = lambda what: True
    ) -> None:
        super().__init__()
        self._kind = kind
        self._test = test
        self._seen = Event()

    def __call__(self, what: object) -> None:
        super().__call__(what)
        if isinstance(what, self._kind) and self._test(what):
            self._seen.set()

    def wait(self) -> None:
        assert self._seen.wait(_LONGEST_S), f"no {self._kind.__name__} was seen"
