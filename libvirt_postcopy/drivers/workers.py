"""Threads for what may block on a daemon that hangs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from libvirt_postcopy.events import Event

__all__ = ["NEVER", "Question", "Worker"]

NEVER = float("inf")


class Worker:
    """Runs jobs one after the other on a daemon thread.

    A daemon thread, unlike those of ``concurrent.futures``, does not keep a program from exiting while a
    call to a dead daemon hangs.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, job: Callable[[], Any]) -> None:
        """Run ``job`` when those before it are done."""
        self._jobs.put(job)

    def close(self) -> None:
        """End the thread after the jobs that were submitted."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class Question:
    """Asked on a thread of its own, and given up after a while; never asked again before it has come back.

    :param limit_s: How long the core waits for the answer.
    :param put: Takes the answers, early or late.
    """

    def __init__(self, name: str, limit_s: float, put: Callable[[Event], None]) -> None:
        self.limit_s = limit_s
        self.is_open = False
        self._put = put
        self._worker = Worker(name)
        self._waited_for_until = NEVER

    def ask(self, job: Callable[[], list[Event]]) -> None:
        """Do it, or wait once more for the one that is under way."""
        self._waited_for_until = time.monotonic() + self.limit_s
        if self.is_open:
            return
        self.is_open = True
        self._worker.submit(lambda: self._run(job))

    def _run(self, job: Callable[[], list[Event]]) -> None:
        events = job()
        self.is_open = False  # first: what the answer leads to may be asked at once
        for event in events:
            self._put(event)

    @property
    def due(self) -> float:
        """Until when it is waited for."""
        return self._waited_for_until if self.is_open else NEVER

    def give_up(self) -> None:
        """Wait for it no more."""
        self._waited_for_until = NEVER

    def close(self) -> None:
        """Ask no more."""
        self._worker.close()
