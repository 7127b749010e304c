"""What both QEMUs have said of one migration so far, and whether somebody wants the guest to stand still."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.drivers.ends import End
from libvirt_postcopy.errors import PostcopyError
from libvirt_postcopy.events import Event, Resumed, Side, Stopped
from libvirt_postcopy.phases import Status
from libvirt_postcopy.vir import monitor
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["Course", "Ends", "SPLIT", "UsersPause", "in_background"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

SPLIT = frozenset(
    (
        Status.POSTCOPY_ACTIVE,
        Status.POSTCOPY_PAUSED,
        Status.POSTCOPY_RECOVER_SETUP,
        Status.POSTCOPY_RECOVER,
    )
)
"""Of a source whose guest's memory is on both sides."""

_ANSWER_S = 0.3
"""How long the guest may stand still for the answer to whether its user wants that."""


def in_background(job: Callable[[], None]) -> None:
    """Run a job on a thread that keeps no program from exiting."""
    threading.Thread(
        target=job, name=f"postcopy-{job.__name__.strip('_')}", daemon=True
    ).start()


class Course:
    """The statuses, by side, and the source's one after the other; for several threads.

    :ivar over: Nobody listens any more.
    :ivar was_sent: ``migrate`` has been sent, or is about to be.
    :ivar was_split: The source has been in post-copy.
    :ivar paused_since: Since when the source waits for a new channel, and none was tried.
    :ivar changes: How often the source's status has changed.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self.was_sent = False
        self.was_split = False
        self.paused_since: float | None = None
        self.changes = 0
        self._news = threading.Condition()
        self._count = 0
        self._statuses: dict[Side, str] = {}
        self._of_source: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._tells_of_loading = False

    def note(self, side: Side, status: str) -> None:
        """Take a status, seen for the first time or again."""
        with self._news:
            is_new = self._statuses.get(side) != status
            self._statuses[side] = status
            if side is Side.DESTINATION:
                self._tells_of_loading |= status == Status.POSTCOPY_DEVICE
            elif is_new:
                self._of_source.put(status)
                self.changes += 1
                self.was_split |= status in SPLIT
                is_paused = status == Status.POSTCOPY_PAUSED
                self.paused_since = time.monotonic() if is_paused else None
            self._count += 1
            self._news.notify_all()

    def forget_source(self, status: str = "") -> None:
        """What its QEMU has said speaks of what went on before.

        :param status: In which it is now; it is no news, and lasts from now on.
        """
        is_paused = status == Status.POSTCOPY_PAUSED
        with self._news:
            while not self._of_source.empty():
                self._of_source.get()
            self._statuses[Side.SOURCE] = status
            self.paused_since = time.monotonic() if is_paused else None

    def status(self, side: Side) -> str:
        """The last one of a side; empty where it has said none."""
        return self._statuses.get(side, "")

    def next_of_source(self, timeout: float) -> str | None:
        """The source's next status; None if there is none in time."""
        try:
            return self._of_source.get(timeout=timeout)
        except queue.Empty:
            return None

    @property
    def is_away(self) -> bool:
        """The source runs the guest no more, and will not by itself."""
        return self.was_split or self.has_sent_all

    @property
    def has_sent_all(self) -> bool:
        """The source says that the destination has been sent all of the guest."""
        return self.status(Side.SOURCE) == Status.COMPLETED

    @property
    def has_loaded(self) -> bool:
        """The destination has said that it has the device state.

        Up to QEMU 10.1 it says ``postcopy-active`` before; one that has ``postcopy-device`` says that meanwhile.
        """
        there = self.status(Side.DESTINATION)
        return self._tells_of_loading and there == Status.POSTCOPY_ACTIVE

    @property
    def count(self) -> int:
        """Of statuses so far, for :meth:`wait_for_news`."""
        return self._count

    def wait_for_news(self, count: int, timeout: float) -> None:
        """Wait until there are more than ``count``, but not for longer than ``timeout``."""
        with self._news:
            self._news.wait_for(lambda: self._count != count, timeout)


@dataclass(frozen=True)
class Ends:
    """The two ends of one migration, and what they have said of it so far."""

    source: End
    destination: End
    course: Course

    def ask_source(self) -> str:
        """Take the status that the source's QEMU gives; empty where it does not answer."""
        info = self.source.ask_migration()
        if info is None:
            return ""
        status = str(info.get("status", Status.NONE.value))
        self.course.note(Side.SOURCE, status)
        return status


class UsersPause:
    """Whether the guest's vCPUs stand still by somebody's will, and not by the migration's.

    Found out when they stop, so that the switch need not ask a host that may not answer.
    """

    def __init__(self, source: End, course: Course) -> None:
        self._source = source
        self._course = course
        self._answered = threading.Condition()
        self._open = 0
        self._is_on = False
        self._resumes = 0

    def read(self) -> None:
        """See how it is before the migration.

        :raises PostcopyError: If the source's daemon does not say.
        """
        with self._source.pause_seat.domain() as dom:
            self._is_on = vir.is_paused(dom)

    def read_on_the_way(self) -> None:
        """See how it is during the migration.

        :raises PostcopyError: If the source's daemon does not say.
        """
        with self._source.pause_seat.domain() as dom:
            self._is_on = monitor.is_paused_by_others(dom)

    def hear(self, event: Event) -> None:
        """Take an event of the source."""
        with self._answered:
            if isinstance(event, Resumed):
                self._is_on = False
                self._resumes += 1
            elif isinstance(event, Stopped) and not self._course.is_away:
                self._open += 1
                in_background(self._ask)

    def is_on(self) -> bool:
        """Say so; waits a moment for the answer to a question that is open."""
        with self._answered:
            self._answered.wait_for(lambda: not self._open, _ANSWER_S)
            return self._is_on

    def _ask(self) -> None:
        """QEMU tells of the stop before libvirt knows its reason, and libvirt tells once more: the last answer counts."""
        try:
            with self._source.pause_seat.domain() as dom:
                self._take(dom)
        except PostcopyError as error:
            LOG.info("not known why the source has stopped: %s", error)
        finally:
            with self._answered:
                self._open -= 1
                self._answered.notify_all()

    def _take(self, dom: Domain) -> None:
        resumes = self._resumes
        is_on = monitor.is_paused_by_others(dom)
        with self._answered:
            if resumes == self._resumes:  # or the answer is older than that
                self._is_on = is_on
