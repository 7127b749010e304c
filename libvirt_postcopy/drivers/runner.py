"""The one loop: takes events off a queue, feeds the core, carries out what it asks for.

Everything that happens, whichever thread sees it, becomes a value on one queue together with the time at
which it was seen.  Readings of statistics may block on a busy daemon, so they are taken on a thread of
their own and come back through the queue too; the loop itself is never late for a switch because of them.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from libvirt_postcopy.actions import (
    Abort,
    Action,
    Note,
    ReadStats,
    Switch,
    VerifySwitch,
)
from libvirt_postcopy.errors import PostcopyError, StateError
from libvirt_postcopy.events import Event, StatsSeen
from libvirt_postcopy.migration import Migration
from libvirt_postcopy.policy import Policy

__all__ = ["Driver", "Observer", "Runner", "Worker"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

Observer = Callable[[object], None]
"""Is shown each event and each action, on the loop's thread, when it is taken or carried out."""

Sink = Callable[[Event], None]

_STUMBLE_S = 1.0
"""After an unexpected error in the loop, until what is due is tried again."""


class Driver(Protocol):
    """Carries out actions.  Its methods are called on the loop's thread unless said otherwise."""

    def begin(self, sink: Sink) -> None:
        """Listen, then start the migration; hand everything seen to ``sink``, which never blocks.

        Must lead to one ``Ended`` event, or raise :class:`PostcopyError` if nothing was started.
        """

    def switch(self) -> Event:
        """Ask for the switch; say what came of it."""

    def verify_switch(self) -> Event:
        """Look whether the switch took effect."""

    def read_stats(self) -> list[Event]:
        """Read statistics and state.  Called on a thread of its own; may block."""

    def abort(self) -> Event | None:
        """Abort; say if it was refused."""

    def close(self) -> None:
        """Listen no more.  Called once, after ``Ended``."""


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


class Runner:
    """Runs one migration to its end on a thread of its own.

    :param observer: Is shown each event and action; what it raises is logged and does no harm.
    """

    def __init__(
        self, driver: Driver, policy: Policy, observer: Observer | None = None
    ) -> None:
        self._driver = driver
        self._observer = observer
        self._queue: queue.SimpleQueue[tuple[float, Event]] = queue.SimpleQueue()
        self._migration = Migration(policy, time.monotonic())
        self._over = threading.Event()
        self._reader = Worker("postcopy-reader")

    @property
    def migration(self) -> Migration:
        """The core; other threads may read its properties."""
        return self._migration

    def start(self) -> None:
        """Start the migration.

        :raises PostcopyError: If nothing was started.
        """
        try:
            self._driver.begin(self.put)
        except BaseException:
            self._reader.close()
            self._driver.close()
            raise
        threading.Thread(target=self._run, name="postcopy-loop", daemon=True).start()

    def put(self, event: Event) -> None:
        """Hand an event to the loop; from any thread, never blocks."""
        self._queue.put((time.monotonic(), event))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end.

        :param timeout: Seconds; None waits for ever.
        :return: Whether the operation is over.
        """
        return self._over.wait(timeout)

    def _run(self) -> None:
        pause = 0.0
        while not self._migration.is_over:
            try:
                self._step(pause)
                pause = 0.0
            except Exception:  # a bug of ours must not leave the guest to itself
                LOG.exception("unexpected, going on")
                pause = _STUMBLE_S
        self._over.set()
        self._reader.close()
        self._driver.close()  # may hang on a dead host, when nobody waits any more

    def _step(self, pause: float) -> None:
        """Take one event, or what has become due; act first and let others watch afterwards."""
        deadline = self._migration.deadline()
        wait = None if deadline is None else max(deadline - time.monotonic(), pause)
        try:
            seen_at, event = self._queue.get(timeout=wait)
        except queue.Empty:
            seen: list[object] = []
            actions = self._migration.tick(time.monotonic())
        else:
            seen = [event]
            actions = self._feed(event, seen_at)
        for action in actions:
            self._carry_out(action)
        for what in (*seen, *actions):
            self._show(what)

    def _feed(self, event: Event, seen_at: float) -> list[Action]:
        before = self._migration.phase
        try:
            actions = self._migration.feed(event, seen_at)
        except StateError as error:  # the next QEMU's habits must not stop the loop
            LOG.warning("unexpected, ignored: %s", error)
            return []
        if self._migration.phase is not before:
            LOG.info("%s -> %s", before.value, self._migration.phase.value)
        return actions

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, ReadStats):
            self._reader.submit(self._read_stats)
        elif isinstance(action, Switch):
            self.put(self._driver.switch())
        elif isinstance(action, VerifySwitch):
            self.put(self._driver.verify_switch())
        elif isinstance(action, Abort):
            refused = self._driver.abort()
            if refused is not None:
                self.put(refused)
        elif isinstance(action, Note):
            LOG.warning("%s", action.text)

    def _read_stats(self) -> None:
        try:
            seen = self._driver.read_stats()
        except PostcopyError as error:
            LOG.debug("no reading: %s", error)
            seen = [StatsSeen(None)]
        except Exception:  # a bug of ours must not end the readings
            LOG.exception("a reading failed unexpectedly")
            seen = [StatsSeen(None)]
        for event in seen:
            self.put(event)

    def _show(self, what: object) -> None:
        if self._observer is None:
            return
        try:
            self._observer(what)
        except Exception:  # whoever watches must not endanger the guest
            LOG.exception("an observer failed on %s", what)
