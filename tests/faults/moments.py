"""When to inject: moments of a migration, known from outside by both hosts' events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from typing import Any

import libvirt

from libvirt_postcopy import events as ev
from libvirt_postcopy.events import Event, Side
from libvirt_postcopy.vir.events import DomainWatch
from scenes.stage import Stage

__all__ = ["Moment", "Moments"]


class Moment(str, Enum):
    """Phases of the matrix."""

    BEFORE = "before"  #: nothing has been asked for
    PREPARE = "prepare"  #: the destination's QEMU waits, the source's knows nothing yet
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


_NEXT = {
    Moment.PREPARE: (Moment.FIRST_PASS,),
    Moment.FIRST_PASS: (Moment.LATER_PASS, Moment.SWITCH),
    Moment.LATER_PASS: (Moment.SWITCH,),
    Moment.SWITCH: (Moment.SPLIT,),
    Moment.BROKEN: (Moment.RECOVERING,),
    Moment.RECOVERING: (Moment.RECOVERED,),
}
"""What ends a moment, fault or no fault; where nothing is named, the end of the migration does."""

_TENTHS = 30  #: QEMU 11.1 begins with pass 2, and counts ten a second whatever has been sent; all has after so many
_ANSWERED = 8  #: requests; after more the first are answered
_LAST_BYTES = 8 << 20
_POLL_S = 0.05


class Moments:
    """Listens to both hosts and lets others wait for moments."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._changed = threading.Condition()
        self._reached: set[Moment] = set()
        self._paused: set[Side] = set()
        self._recovered_at: list[float] = []
        self._troubles = 0
        self._saw_pass_one = False
        self._is_over = False
        self._held: Moment | None = None
        self._hold: Callable[[], None] = lambda: None

    @contextmanager
    def listening(self, uuid: str) -> Iterator[Moments]:
        """Listen to the domain for as long as the block lasts."""
        watches = [
            DomainWatch(
                self._stage.connection(host), uuid, side, partial(self.see, side)
            )
            for host, side in (("a", Side.SOURCE), ("b", Side.DESTINATION))
        ]
        # One connection takes a callback for all domains only once, and the watch has taken it.
        connection = libvirt.open(self._stage.lab.host("b").uri)
        connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._see_there, uuid
        )
        try:
            yield self
        finally:
            for watch in watches:
                watch.close()
            connection.close()

    def hold_at(self, moment: Moment, hold: Callable[[], None]) -> None:
        """Call something in the instant in which a moment comes, on the thread of the events."""
        self._held, self._hold = moment, hold

    def wait(
        self,
        moment: Moment,
        timeout: float,
        has_ended: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until a moment has come.

        :param has_ended: Whether it cannot come any more.
        :raises TimeoutError: If it does not.
        """
        if moment is Moment.BEFORE:
            return
        if moment is Moment.FINISHING:
            self._wait_until_little_is_left(timeout, has_ended)
            return
        self._wait_for(moment, timeout, has_ended)
        if moment is Moment.SPLIT:
            self._wait_until_pages_flow(timeout, has_ended)

    def _wait_for(
        self, moment: Moment, timeout: float, has_ended: Callable[[], bool]
    ) -> None:
        with self._changed:
            for _ in range(int(timeout / _POLL_S)):
                if moment in self._reached:
                    return
                if has_ended():
                    break
                self._changed.wait(_POLL_S)  # an end makes no event
        raise TimeoutError(f"the moment '{moment.value}' did not come")

    def has_gone(self, moment: Moment) -> bool:
        """Whether the migration has gone on to what follows a moment."""
        with self._changed:
            is_past = any(each in self._reached for each in _NEXT.get(moment, ()))
            return is_past or self._is_over

    @property
    def troubles(self) -> int:
        """How often the source's QEMU or libvirt has said that the channel is broken, or the destination's half has ended."""
        with self._changed:
            return self._troubles

    @property
    def recovered_at(self) -> Sequence[float]:
        """When the source's QEMU was in post-copy again after a recovery; ``time.monotonic()``."""
        with self._changed:
            return tuple(self._recovered_at)

    def _wait_until_pages_flow(
        self, timeout: float, has_ended: Callable[[], bool]
    ) -> None:
        """The first page that a vCPU waits for is an interrupt's stack, with QEMU's big lock held: until it has come, no
        monitor answers, and libvirt cannot recover what breaks.  It asks for the next one only then.
        """
        domain = self._stage.find("a")
        pause = threading.Event()
        for _ in range(int(timeout / _POLL_S)):
            requests = _statistic(domain, "memory_postcopy_requests") or 0
            if requests > _ANSWERED or has_ended():
                return
            pause.wait(_POLL_S)
        raise TimeoutError("the destination was not seen to ask for pages")

    def _wait_until_little_is_left(
        self, timeout: float, has_ended: Callable[[], bool]
    ) -> None:
        """There is no event for it, so the statistics are asked for."""
        self.wait(Moment.SPLIT, timeout, has_ended)
        domain = self._stage.find("a")
        pause = threading.Event()
        for _ in range(int(timeout / _POLL_S)):
            left = _statistic(domain, "memory_remaining")
            if left is not None and left < _LAST_BYTES:
                return
            if has_ended() or self.has_gone(Moment.FINISHING):
                break
            pause.wait(_POLL_S)
        raise TimeoutError("the migration was not seen near its end")

    def _see_there(
        self, connection: Any, domain: Any, event: int, detail: int, uuid: str
    ) -> None:
        if domain.UUIDString() != uuid:
            return
        with self._changed:
            if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
                self._troubles += 1
            elif (event, detail) == _INCOMING:
                self._reach(Moment.PREPARE)

    def see(self, side: Side, event: Event) -> None:
        """Take note of what a host tells."""
        with self._changed:
            self._take(side, event)

    def _take(self, side: Side, event: Event) -> None:
        if isinstance(event, ev.Resumed) and side is Side.DESTINATION:
            self._reach(Moment.SPLIT)
        elif isinstance(event, ev.PassSeen):
            self._saw_pass_one |= event.number == 1
            if event.number > (1 if self._saw_pass_one else _TENTHS):
                self._reach(Moment.LATER_PASS)
        elif isinstance(event, ev.SplitFailed) and side is Side.SOURCE:
            self._troubles += 1
        elif isinstance(event, ev.StatusSeen):
            self._status(side, event.status)

    def _status(self, side: Side, status: str) -> None:
        is_source = side is Side.SOURCE
        is_again = Moment.RECOVERING in self._reached and status == "postcopy-active"
        if is_again and is_source:
            self._recovered_at.append(time.monotonic())
            self._reach(Moment.RECOVERED)
        if status == "completed" and is_source:
            self._is_over = True
        if status == "postcopy-paused":
            self._troubles += is_source
            self._paused.add(side)
            if len(self._paused) == len(Side):
                self._reach(Moment.BROKEN)
        elif is_source and status in _BY_STATUS:
            self._reach(_BY_STATUS[status])

    def _reach(self, moment: Moment) -> None:
        is_new = moment not in self._reached
        self._reached.add(moment)
        if is_new and moment is self._held:
            self._hold()
        self._changed.notify_all()


_INCOMING = (
    libvirt.VIR_DOMAIN_EVENT_STARTED,
    libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED,
)

_BY_STATUS = {
    "active": Moment.FIRST_PASS,
    "postcopy-device": Moment.SWITCH,
    "postcopy-active": Moment.SWITCH,
    "postcopy-recover": Moment.RECOVERING,
}


def _statistic(domain: libvirt.virDomain | None, name: str) -> int | None:
    """One figure of the migration's; None where none is under way."""
    if domain is None:
        return None
    try:
        found: int | None = domain.jobStats().get(name)
    except libvirt.libvirtError:  # it has ended this moment
        return None
    return found
