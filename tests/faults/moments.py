"""When to inject: moments of a migration, known from outside by both hosts' events."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from libvirt_postcopy import events as ev
from libvirt_postcopy.events import Event, Side
from libvirt_postcopy.vir.events import DomainWatch
from scenes.stage import Stage

__all__ = ["Moment", "Moments"]


class Moment(str, Enum):
    """Phases of the matrix."""

    BEFORE = "before"  #: nothing has been asked for
    PREPARE = "prepare"  #: QEMU has been told, nothing has been sent
    FIRST_PASS = "first pass"
    LATER_PASS = "later pass"
    SWITCH = (
        "switch"  #: the source says postcopy-active, the destination does not run yet
    )
    SPLIT = "split"  #: the guest runs on the destination
    BROKEN = "broken"  #: both QEMUs are paused
    RECOVERING = "recovering"  #: both are putting it together again
    RECOVERED = "split again"  #: after a recovery
    FINISHING = "finishing"  #: little is left to be sent


_LAST_BYTES = 8 << 20
_POLL_S = 0.05


class Moments:
    """Listens to both hosts and lets others wait for moments."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._changed = threading.Condition()
        self._reached: set[Moment] = set()
        self._paused: set[Side] = set()

    @contextmanager
    def listening(self, uuid: str) -> Iterator[Moments]:
        """Listen to the domain for as long as the block lasts."""
        watches = [
            DomainWatch(self._stage.connection(host), uuid, side, self._see(side))
            for host, side in (("a", Side.SOURCE), ("b", Side.DESTINATION))
        ]
        try:
            yield self
        finally:
            for watch in watches:
                watch.close()

    def wait(self, moment: Moment, timeout: float) -> None:
        """Wait until a moment has come.

        :raises TimeoutError: If it does not.
        """
        if moment is Moment.BEFORE:
            return
        if moment is Moment.FINISHING:
            self._wait_until_little_is_left(timeout)
            return
        with self._changed:
            if not self._changed.wait_for(lambda: moment in self._reached, timeout):
                raise TimeoutError(f"the moment '{moment.value}' did not come")

    def has_come(self, moment: Moment) -> bool:
        with self._changed:
            return moment in self._reached

    def _wait_until_little_is_left(self, timeout: float) -> None:
        """There is no event for it, so the statistics are asked for."""
        self.wait(Moment.SPLIT, timeout)
        domain = self._stage.find("a")
        assert domain is not None
        pause = threading.Event()
        for _ in range(int(timeout / _POLL_S)):
            left = domain.jobStats().get("memory_remaining")
            if left is not None and left < _LAST_BYTES:
                return
            pause.wait(_POLL_S)
        raise TimeoutError("the migration did not come near its end")

    def _see(self, side: Side):  # type: ignore[no-untyped-def]
        def see(event: Event) -> None:
            with self._changed:
                self._take(side, event)
                self._changed.notify_all()

        return see

    def _take(self, side: Side, event: Event) -> None:
        if isinstance(event, ev.Resumed) and side is Side.DESTINATION:
            self._reached.add(Moment.SPLIT)
        elif isinstance(event, ev.PassSeen) and event.number > 1:
            self._reached.add(Moment.LATER_PASS)
        elif isinstance(event, ev.StatusSeen):
            self._status(side, event.status)

    def _status(self, side: Side, status: str) -> None:
        is_again = Moment.RECOVERING in self._reached and status == "postcopy-active"
        if is_again and side is Side.SOURCE:
            self._reached.add(Moment.RECOVERED)
        if status == "postcopy-paused":
            self._paused.add(side)
            if len(self._paused) == len(Side):
                self._reached.add(Moment.BROKEN)
        elif side is Side.SOURCE and status in _BY_STATUS:
            self._reached.add(_BY_STATUS[status])


_BY_STATUS = {
    "setup": Moment.PREPARE,
    "active": Moment.FIRST_PASS,
    "postcopy-device": Moment.SWITCH,
    "postcopy-active": Moment.SWITCH,
    "postcopy-recover": Moment.RECOVERING,
}
