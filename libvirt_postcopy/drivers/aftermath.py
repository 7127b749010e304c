"""What is left to do once the guest is wholly on one host: the other one's half is removed, ours is put back.

Either :meth:`Aftermath.finish` or one of the ways back, never both.  Until one of them is certain, neither half is
touched.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers.course import Course, UsersPause
from libvirt_postcopy.drivers.ends import End, half_of_destination, within
from libvirt_postcopy.drivers.landing import Landing, Starter
from libvirt_postcopy.drivers.setup import Creation, Order, Setup
from libvirt_postcopy.errors import LibvirtError, PostcopyError
from libvirt_postcopy.events import Half, Side
from libvirt_postcopy.features import after_rejection
from libvirt_postcopy.phases import Status
from libvirt_postcopy.vir import monitor
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["Aftermath"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

_GO_ON_S = 15.0
"""How long the source is tried to be started again: right after a failure QEMU may still be at its cleaning."""

_REJECTED_S = 3.0
"""The same after the switch: QEMU 4.2 to 10.x refuses it each time."""

_REMOVE_S = 10.0
"""How long the destination has for ending the domain that waits."""

_RETRY_S = 0.5

_NEVER_RESUME = "destroy that domain on the destination, and never resume it"

_ENDED = (Half.GONE, Half.INACTIVE)


class Aftermath:
    """The end of one migration.

    :ivar blocktime: QEMU's own names and units.
    :ivar notes: What did not work although the guest has moved.
    """

    def __init__(
        self,
        order: Order,
        source: End,
        destination: End,
        course: Course,
        setup: Setup,
        pause: UsersPause,
        starter: Starter,
        landing: Landing,
    ) -> None:
        self._order = order
        self._source = source
        self._destination = destination
        self._course = course
        self._setup = setup
        self._pause = pause
        self._starter = starter
        self._landing = landing
        self._turn = threading.Lock()
        self._is_finished = self._is_taken_back = False
        self.blocktime: Mapping[str, Any] = {}
        self.notes: list[str] = []

    # Onward

    def finish(self) -> str:
        """Remove the source's shell, define and undefine as asked, put the destination's settings back.

        Once, and only when both QEMUs have said that all is on the destination and it has been started.

        :return: Why it cannot be done yet; empty when it is done.
        """
        with self._turn:
            if self._is_finished:
                return ""
            reason = self._why_not()
            if reason:
                return reason
            self._is_finished = True
            if self._order.wishes.blocktime:
                self._read_blocktime()
            is_defined = self._define()
            self._remove_source(is_defined)
            self._destination.settings.put_back(self._destination.control)
            return ""

    def _why_not(self) -> str:
        if self._is_taken_back:
            return "it was taken back"
        if not self._starter.is_settled.is_set():
            return "its vCPUs are not started on the destination: virsh resume, there"
        here = self._source.half()
        if here is Half.UNKNOWN:
            return "the source's daemon does not answer"
        if here not in _ENDED:
            info = self._source.ask_migration()
            if info is None:
                return "the source's QEMU does not answer"
            if info.get("status") != Status.COMPLETED:
                return f"the source's QEMU says {info.get('status')}"
        if not self._landing.is_complete_there():
            return "the destination does not confirm that it has all"
        return ""

    def _read_blocktime(self) -> None:
        # Only of the destination: a source that was one before still tells its own old figures.
        with suppress(PostcopyError):
            info = self._destination.control.migration()
            self.blocktime = {
                name: value
                for name, value in info.items()
                if name.startswith("postcopy-")
            }

    def _define(self) -> bool:
        """Define it there if that was asked for; whether it is."""
        xml = self._setup.persistent
        if xml is None:
            return False
        try:
            with self._destination.host.line() as connection:
                monitor.define(connection, xml)
        except LibvirtError as error:
            self.complain(
                f"the guest runs on the destination, but is not defined: {error}"
            )
            return False
        return True

    def _remove_source(self, is_defined_there: bool) -> None:
        """Remove what is left on the source: the memory and the disks are the destination's."""
        try:
            with self._source.seat.domain() as dom:
                if vir.half(dom) is not Half.INACTIVE:
                    monitor.destroy(dom, "source")
        except LibvirtError as error:
            if not self._source.has_ended():
                self.complain(
                    f"the guest runs on the destination; destroy what is left of it on the source: {error}"
                )
                return
        self._undefine(is_defined_there)

    def _undefine(self, is_defined_there: bool) -> None:
        if not self._order.flags & MigrateFlags.VIR_MIGRATE_UNDEFINE_SOURCE:
            return
        wanted = self._order.flags & MigrateFlags.VIR_MIGRATE_PERSIST_DEST
        if wanted and not is_defined_there:
            return  # or it would be defined nowhere
        try:
            with self._source.seat.domain() as dom:
                if monitor.is_persistent(dom):
                    monitor.undefine(dom)
        except LibvirtError as error:
            if self._source.half() is not Half.GONE:
                self.complain(f"still defined on the source: {error}")

    def complain(self, text: str) -> None:
        """Note what did not work."""
        LOG.warning("%s", text)
        self.notes.append(text)

    # Back

    def take_back(self, error: PostcopyError) -> tuple[Half, Half]:
        """Undo all, as nothing of the guest has left the source.

        :param error: Why; what could not be undone is added to it.
        :return: What each host has of it then.
        """
        with self._turn:
            if self._is_finished or not self._starter.forbid():
                return self._halves()  # nothing is ours to undo
            self._is_taken_back = True
            here = self._source.half()
            stands = self._course.was_sent and here not in _ENDED
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
        if before in _ENDED:
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

    def take_back_rejected(self, error: PostcopyError) -> tuple[Half, Half]:
        """The destination has ended, and the guest never ran there: let it go on on the source if its QEMU can."""
        with self._turn:
            self._is_taken_back = True
            is_paused = self._pause.is_on()
            if not is_paused and self._goes_on_here(_REJECTED_S):
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
        if here not in _ENDED:
            here = Half.SPLIT_FAILED
        return here, self._seen_there(True)

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
        if monitor.is_paused(dom):
            monitor.resume(dom, "source")
            return
        # Where libvirt has not seen the stop; not over the seat that is taken.
        if self._source.readings.run_state() != "running":
            self._source.readings.cont()


def _add(error: PostcopyError, text: str) -> None:
    error.what = f"{error.what}; {text}"
