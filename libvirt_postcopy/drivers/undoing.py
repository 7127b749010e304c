"""The way back: what was prepared is removed and put back, and the guest goes on on the source.

The destination's domain, which a run of ours has made, is destroyed on this way alone, and only when no part of the
guest can be in it, nor come into it any more:

- nothing was sent; or the source's QEMU says that its migration is cancelled or over without a switch, or has ended, or
  the destination says that it lacks something;
- nothing of ours sends a switch from then on (``switching``), nor starts its vCPUs (``Starter.forbid``);
- the domain bears the mark of this run, by an answer of its daemon right before, over the same connection.

A daemon that hangs in that very moment, or a link, may let it be carried out late.  What it finds then is this domain,
to which nobody migrates any more: its QEMU has had its one incoming migration.  A later run makes none beside it, as
libvirt knows no two of one UUID; and until somebody has removed it by hand and made another, a daemon that hung has
taken what it had been sent, and one that was cut off has closed the connection (keepalive, some 30 s).
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.drivers.aftermath import Aftermath
from libvirt_postcopy.drivers.course import Ends, UsersPause
from libvirt_postcopy.drivers.ends import half_of_destination, within
from libvirt_postcopy.drivers.landing import Landing, Starter
from libvirt_postcopy.drivers.setup import Creation, Order, Setup
from libvirt_postcopy.drivers.switching import Switching
from libvirt_postcopy.errors import PostcopyError
from libvirt_postcopy.events import Half, Side
from libvirt_postcopy.features import after_rejection
from libvirt_postcopy.vir import monitor
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["Undoing"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

_ASK_S = 15.0
"""How long the source's daemon may be away when something has failed."""

_REJECTED_S = 5.0
"""How long after a break, of a guest that has not run there, the destination's daemon may take to see its QEMU end."""

_GO_ON_S = 15.0
"""How long the source is tried to be started again: right after a failure QEMU may still be at its cleaning."""

_GO_ON_REJECTED_S = 3.0
"""The same after the switch: QEMU 4.2 to 10.x refuses it each time."""

_REMOVE_S = 10.0
"""How long the destination has for ending the domain that waits."""

_RETRY_S = 0.5
_LOOK_S = 0.05

_NEVER_RESUME = "destroy that domain on the destination, and never resume it"


class Undoing:
    """Takes one migration back, as far as the guest allows it."""

    def __init__(
        self,
        order: Order,
        ends: Ends,
        setup: Setup,
        switching: Switching,
        pause: UsersPause,
        starter: Starter,
        landing: Landing,
        aftermath: Aftermath,
    ) -> None:
        self._order = order
        self._ends = ends
        self._source = ends.source
        self._destination = ends.destination
        self._course = ends.course
        self._setup = setup
        self._switching = switching
        self._pause = pause
        self._starter = starter
        self._landing = landing
        self._aftermath = aftermath

    def undo(self, error: PostcopyError) -> tuple[Half, Half]:
        """Go back if that is possible.

        :param error: Why; what could not be undone is added to it.
        :return: What each host has of the guest then.
        """
        if not self._course.was_sent:
            return self._take_back(error)
        if not self._is_source_known():
            _add(error, "the source cannot be asked: nothing was undone")
            return Half.UNKNOWN, Half.UNKNOWN
        if not self._course.was_split:
            self._switching.call_off()
        if not self._course.was_split:
            return self._undo_precopy(error)
        if self._is_rejected():
            return self._take_back_rejected(error)
        return Half.SPLIT_FAILED, Half.UNKNOWN

    # Whether

    def _is_source_known(self) -> bool:
        """An event may have been missed, and what is split must not be undone."""
        end_at = time.monotonic() + _ASK_S
        while True:
            if self._ends.ask_source() or self._source.has_ended():
                return True
            if time.monotonic() >= end_at or self._course.over.wait(_RETRY_S):
                return False

    def _undo_precopy(self, error: PostcopyError) -> tuple[Half, Half]:
        reason = self._why_not_undo()
        if reason:
            _add(error, f"{reason}: nothing was undone")
            return Half.UNKNOWN, Half.UNKNOWN
        return self._take_back(error)

    def _why_not_undo(self) -> str:
        """The guest may have been sent, or be about to be, and the destination does not say that it lacks something."""
        reason = self._switching.why_not_over()
        if reason:
            return reason
        has_sent_all = self._course.has_sent_all or self._source.has_ended()
        if has_sent_all and self._landing.is_whole_there() is not False:
            return "the destination may have all of the guest"
        return ""

    def _is_rejected(self) -> bool:
        """The destination has ended, and the guest never ran there; it will not be started any more."""
        end_at = time.monotonic() + _REJECTED_S
        while not self._starter.may_run:
            if self._destination.has_ended():
                return self._starter.forbid()
            if time.monotonic() >= end_at or self._course.over.wait(_LOOK_S):
                return False
        return False

    # Back

    def _take_back(self, error: PostcopyError) -> tuple[Half, Half]:
        """Undo all, as nothing of the guest has left the source."""
        if not (self._starter.forbid() and self._aftermath.forbid()):
            return self._halves()  # nothing is ours to undo
        here = self._source.half()
        stands = self._course.was_sent and not here.is_absent
        # The guest first, as the destination may not answer; but what has all of it could be started there.
        if stands and not self._course.has_sent_all:
            stands = not self._goes_on_here(0)
        left = self._remove_destination()
        if left:
            _add(error, left)
            error.cure = _NEVER_RESUME
        if stands and not (left and self._course.has_sent_all):
            stands = not self._goes_on_here(_GO_ON_S)
        if stands:
            _add(error, self._advice())
        return self._after(here, stands), self._seen_there(bool(left))

    def _after(self, before: Half, stands: bool) -> Half:
        if before.is_absent:
            return before
        if stands:
            return Half.MIGRATING
        is_known = self._course.was_sent or before is not Half.UNKNOWN
        if is_known:
            self._source.settings.put_back(self._source.control)
        return Half.WHOLE if is_known else before

    def _advice(self) -> str:
        first = ", once that domain is destroyed" if self._course.has_sent_all else ""
        return f"the source stands still: virsh resume {self._order.name}, there{first}"

    def _take_back_rejected(self, error: PostcopyError) -> tuple[Half, Half]:
        """The destination has ended, and the guest never ran there: let it go on on the source if its QEMU can."""
        if not self._aftermath.forbid():
            return self._halves()
        is_paused = self._pause.is_on()
        if not is_paused and self._goes_on_here(_GO_ON_REJECTED_S):
            self._source.settings.put_back(self._source.control)
            _add(error, "the guest never ran there, and goes on on the source")
            return Half.WHOLE, Half.GONE
        _add(error, "the guest never ran there")
        if is_paused:
            _add(error, f"its user had paused it: virsh resume {self._order.name}")
        _add(error, self._what_qemu_can())
        return Half.SPLIT_FAILED, Half.GONE

    def _what_qemu_can(self) -> str:
        version = 0
        with suppress(PostcopyError):
            version = self._source.control.version()
        return after_rejection(version).text

    def _halves(self) -> tuple[Half, Half]:
        here = self._source.half()
        if not here.is_absent:
            here = Half.SPLIT_FAILED
        return here, self._seen_there(True)

    # The destination

    def _seen_there(self, is_left: bool) -> Half:
        if not is_left or self._setup.creation is Creation.NONE:
            return Half.GONE
        status = self._course.status(Side.DESTINATION)
        return half_of_destination(self._destination.half(), status)

    def _remove_destination(self) -> str:
        """End the domain that waits there; say what is left, empty if nothing."""
        if self._setup.creation is Creation.NONE:
            return ""
        try:
            is_done = self._destination.is_reachable()
            is_done = is_done and within(_REMOVE_S, self._destroy_there)
        except PostcopyError as error:
            if self._destination.half() is Half.GONE:
                return ""
            return f"{self._left()}: {error.what}"
        return "" if is_done else f"{self._left()}: its daemon does not answer"

    def _left(self) -> str:
        is_sure = self._setup.creation is Creation.DONE
        verb = "is" if is_sure else "may be"
        return (
            f"the paused domain that was to receive it {verb} still on the destination"
        )

    def _destroy_there(self, is_late: threading.Event) -> None:
        """By its UUID a later run's would be destroyed too, and the daemon's answers may come late."""
        with self._destination.seat.domain() as dom:
            if not self._setup.has_made(dom):
                return
            if is_late.is_set():
                LOG.warning("the destination is left as it is: its daemon was too late")
                return
            monitor.destroy(dom, "destination")

    # The source

    def _goes_on_here(self, seconds: float) -> bool:
        """Start the source's vCPUs if QEMU had stopped them; whether they run, or stand still as their user wishes."""
        end_at = time.monotonic() + seconds
        while True:
            try:
                with self._source.seat.domain() as dom:
                    self._start_here(dom)
                return True
            except PostcopyError as error:
                LOG.warning("the source does not go on yet: %s", error)
            if time.monotonic() >= end_at or self._course.over.wait(_RETRY_S):
                return False

    def _start_here(self, dom: Domain) -> None:
        if self._pause.is_on() or monitor.is_paused_by_others(dom):
            return
        if vir.is_paused(dom):
            monitor.resume(dom, "source")
            return
        # Where libvirt has not seen the stop; not over the seat that is taken.
        if self._source.readings.run_state() != "running":
            self._source.readings.cont()


def _add(error: PostcopyError, text: str) -> None:
    error.what = f"{error.what}; {text}"
