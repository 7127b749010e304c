"""The guest's way to the destination: its vCPUs are started there, and all of it must have arrived.

The vCPUs are started by libvirt (``virDomainResume``, which takes its lock manager's locks), and only when the
*source* has said ``postcopy-active`` or ``completed`` and the destination has loaded the device state: earlier a
``cont`` undoes ``-S``, and on QEMU >= 10.2 a cut at that moment leaves two running guests.  A guest that its user had
paused stays paused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from libvirt_postcopy.drivers.course import SPLIT, Ends, UsersPause, in_background
from libvirt_postcopy.errors import LibvirtError, PostcopyError
from libvirt_postcopy.events import Half, Side
from libvirt_postcopy.phases import Status
from libvirt_postcopy.vir import monitor

__all__ = ["Landing", "Starter"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

_POLL_S = 1.0
"""Between looks for what no event has told."""

_CONFIRM_S = 60.0
"""How long a source that has sent all waits for its destination to confirm it."""

_SILENT_S = 60.0
"""How long the source's daemon may be silent after the switch, until it is looked for like after a break."""

_SILENT_BEFORE_S = 600.0
"""The same before the switch: a source that is only out of our sight may send all, and somebody must start the guest."""

_RESUME_S = 20.0
"""How long a resumed migration may stay ``postcopy-paused``: up to QEMU 9.0 a failed attempt is not announced."""

_LOAD_S = 5.0
"""How long after its source's end a destination may take to load what it has received, or to end."""

_RETRY_S = 0.5
_SOON_S, _LATER_S = 0.002, 0.05
"""Between questions whether the device state is loaded: the guest stands still, mostly for some ms."""

_AWAY = frozenset((Status.POSTCOPY_ACTIVE, Status.COMPLETED))
_WENT_BACK = frozenset((Status.FAILED, Status.CANCELLED))


class Starter:
    """Starts the destination's vCPUs, again and again while that fails: from the switch on the guest runs nowhere else.

    One lock decides between the start and :meth:`forbid`, so that never both happen.

    :ivar is_settled: They run, or stay paused as their user wishes.
    :param tell: Is called before they can be started, while the destination still loads; must not wait.
    :ivar error: Why they have not been started yet.
    """

    def __init__(
        self, ends: Ends, pause: UsersPause, tell: Callable[[], None] = lambda: None
    ) -> None:
        self.is_settled = threading.Event()
        self.error: PostcopyError | None = None
        self._destination = ends.destination
        self._course = ends.course
        self._pause = pause
        self._tell = tell
        self._turn = threading.Lock()
        self._has_begun = self._may_run = self._is_forbidden = False

    @property
    def may_run(self) -> bool:
        """The guest may have run on the destination."""
        return self._may_run

    def hear_resumed(self) -> None:
        """The destination's QEMU says that they run, whoever has started them."""
        with self._turn:
            self._may_run = True
        self.is_settled.set()

    def assume_run(self) -> None:
        """Another client may have started them."""
        with self._turn:
            self._may_run = True

    def forbid(self) -> bool:
        """Start nothing from now on; False if they may run already."""
        with self._turn:
            self._is_forbidden = not self._may_run
            return self._is_forbidden

    def begin(self) -> None:
        """Start them when they can be started; the source has given the guest away."""
        with self._turn:
            has_begun, self._has_begun = self._has_begun, True
        if not has_begun:
            self._tell()
            in_background(self._start_vcpus)

    def _is_pending(self) -> bool:
        is_over = self._is_forbidden or self._course.over.is_set()
        return not (is_over or self.is_settled.is_set())

    def _start_vcpus(self) -> None:
        while self._is_pending():
            try:
                self._try()
            except PostcopyError as error:
                self.error = error
                LOG.warning("the destination was not started: %s", error)
            except Exception:  # a bug of ours must not leave the guest standing
                LOG.exception("the destination was not started")
            if self._is_pending():
                self._destination.seat.forget()
                if self._destination.has_ended():
                    return
                self.is_settled.wait(_RETRY_S)

    def _try(self) -> None:
        if not self._await_loaded():
            return
        if self._pause.is_on():
            LOG.info("the guest stays paused, as its user has left it")
            self.is_settled.set()
            return
        with self._turn:
            if not self._is_pending():
                return
            self._may_run = True
        self._resume()
        self.is_settled.set()

    def _resume(self) -> None:
        """libvirt refuses a second one, where the first one's answer was lost."""
        with self._destination.seat.domain() as dom:
            try:
                monitor.resume(dom, "destination")
            except LibvirtError:
                if not monitor.is_running(dom):
                    raise

    def _await_loaded(self) -> bool:
        """Wait until the destination has the device state; before, ``cont`` would undo ``-S``.

        QEMU's run state tells: what it announces comes too early up to 10.1, and 2.5 announces nothing there.
        """
        pause_s = _SOON_S
        while self._is_pending():
            count = self._course.count
            if self._course.has_loaded:
                return True
            if self._destination.readings.run_state() != "inmigrate":
                return True
            self._course.wait_for_news(count, pause_s)
            pause_s = min(pause_s * 1.5, _LATER_S)
        return False


class Landing:
    """Stays with a migration until all of the guest is on the destination."""

    def __init__(self, ends: Ends, starter: Starter) -> None:
        self._ends = ends
        self._source = ends.source
        self._destination = ends.destination
        self._course = ends.course
        self._starter = starter
        self._silent_since: float | None = None  # the source's daemon

    def see(self, status: str | None) -> None:
        """Take what the source's QEMU says: the guest is started there once it has given it away."""
        if status in _AWAY:
            self._starter.begin()

    def follow(self, *, is_resumed: bool = False) -> None:
        """Wait for the end.

        :raises PostcopyError: If it fails or breaks, the source is silent for long, or the destination does not confirm
            that it has all.
        """
        give_up_at = time.monotonic() + _RESUME_S if is_resumed else None
        self._silent_since = None
        while not self._course.over.is_set():
            status = self._course.next_of_source(_POLL_S)
            self.see(status)
            if status == Status.COMPLETED:
                return self.confirm()
            if status == Status.POSTCOPY_PAUSED:
                raise PostcopyError(self._words("the link broke"), side="source")
            if status in _WENT_BACK:
                raise PostcopyError(self._words(f"the migration {status}"))
            if status is None:
                self._look_around(give_up_at)
            else:
                give_up_at = self._silent_since = None
        return None

    def _look_around(self, give_up_at: float | None) -> None:
        """See what no event tells.

        :raises PostcopyError: If one of the halves is gone, the source is silent for long, or nothing comes of a resume.
        """
        if give_up_at is not None and time.monotonic() >= give_up_at:
            raise PostcopyError("QEMU has not come back from its break", side="source")
        here, there = self._source.half(), self._destination.half()
        for half, side in ((here, "source"), (there, "destination")):
            if half.is_absent:
                raise PostcopyError("its QEMU has ended", side=side)
        if here is Half.UNKNOWN:
            self._be_patient()
            return
        self._silent_since = None
        with suppress(PostcopyError):
            was_deaf = self._source.listen_again()
            # Before the switch a question can delay it.
            if was_deaf or self._course.was_split:
                self._ends.ask_source()
        self._leave_connecting()

    def _leave_connecting(self) -> None:
        """See whether a cancelled source still waits for a connection that a dead link never makes, two minutes as a rule.

        :raises PostcopyError: If it does: nothing was sent, and nothing will be.
        """
        if self._course.status(Side.SOURCE) != Status.CANCELLING:
            return
        info = self._source.ask_migration() or {}
        sent = info.get("ram", {}).get("transferred", 0)
        if info.get("status") == Status.CANCELLING and not sent:
            raise PostcopyError(
                "it was cancelled before it was connected", side="source"
            )

    def _be_patient(self) -> None:
        """The source's daemon does not answer.

        :raises PostcopyError: If it has been so for long, or the destination has lost it too.
        """
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        limit = _SILENT_S if self._course.was_split else _SILENT_BEFORE_S
        has_broken = self._course.status(Side.DESTINATION) == Status.POSTCOPY_PAUSED
        if has_broken or now - self._silent_since >= limit:
            raise PostcopyError("it does not answer", side="source")

    def _words(self, text: str) -> str:
        """What happened, with QEMU's own words where it has some."""
        with suppress(PostcopyError):
            desc = self._source.control.migration().get("error-desc")
            if desc:
                return f"{text}: {desc}"
        return text

    def confirm(self) -> None:
        """All has been sent: start it there, and wait until the destination has all, and runs.

        :raises PostcopyError: If it does not say so.
        """
        self._starter.begin()
        end_at = time.monotonic() + _CONFIRM_S
        while time.monotonic() < end_at and not self._course.over.is_set():
            if self._starter.is_settled.wait(_RETRY_S):
                if self.is_complete_there():
                    return
                self._course.wait_for_news(self._course.count, _RETRY_S / 10)
            if self._destination.has_ended():
                raise PostcopyError("its QEMU has ended", side="destination")
        raise self._unconfirmed()

    def _unconfirmed(self) -> PostcopyError:
        if self._starter.is_settled.is_set():
            return PostcopyError(
                "it does not confirm that it has all", side="destination"
            )
        reason = self._starter.error
        return PostcopyError(
            f"all has been sent, but its vCPUs are not started: {reason.what if reason else 'it still loads'}",
            side="destination",
        )

    def is_complete_there(self) -> bool:
        """Whether the destination says that it has all."""
        seen = self._course.status(Side.DESTINATION)
        if seen == Status.COMPLETED:
            return True
        info = self._destination.ask_migration()
        if info is None:
            return False
        # Up to QEMU 2.12 a destination's reply is empty, and 2.5 announces nothing either.
        if info.get("status") is None:
            return seen not in SPLIT
        return str(info["status"]) == Status.COMPLETED

    def is_whole_there(self) -> bool | None:
        """Whether the destination has all of a guest that its source has not said to be split or sent.

        :return: None if that cannot be told.
        """
        if self._destination.has_ended():
            return False
        seen = self._course.status(Side.DESTINATION)
        if seen == Status.COMPLETED:
            return True
        info, vcpus = self._destination.ask_migration(), self._destination.ask_vcpus()
        if info is None or vcpus is None:
            return None
        told = info.get("status")
        if (told or seen) in SPLIT:
            return None  # the source has switched unseen
        if told is None:  # up to QEMU 2.12
            return vcpus[0] != "inmigrate"
        return str(told) == Status.COMPLETED

    def has_landed_alone(self) -> bool:
        """Whether the source's QEMU has ended, and the destination has all of the guest; it may still be loading."""
        end_at = time.monotonic() + _LOAD_S
        while self._course.was_sent and not self._course.was_split:
            if not self._source.has_ended():
                return False
            is_whole = self.is_whole_there()
            if is_whole or self._destination.has_ended():
                return bool(is_whole)
            if time.monotonic() >= end_at or self._course.over.wait(_RETRY_S):
                return False
        return False
