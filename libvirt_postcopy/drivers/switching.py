"""The switch of a migration whose QEMUs are driven by us, and its opposite, which is sent before the switch only.

One lock decides between what goes forward and what stops it: once a migration is abandoned nothing is sent any more by
which it could switch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from libvirt_postcopy.drivers.course import SPLIT, Ends
from libvirt_postcopy.drivers.host import Pulse
from libvirt_postcopy.errors import PostcopyError
from libvirt_postcopy.events import (
    AbortRefused,
    Event,
    Side,
    SplitSeen,
    SwitchAccepted,
    SwitchHeld,
    SwitchNotSeen,
    SwitchRefused,
    SwitchUnanswered,
)
from libvirt_postcopy.journal import Journal
from libvirt_postcopy.phases import Status
from libvirt_postcopy.qmp.commands import (
    CommandError,
    ConnectError,
    MonitorBusy,
    MonitorError,
)

__all__ = ["Switching"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

_CANCEL_S = 5.0
"""How long a migration that is called off may take to end."""

_LOOK_S = 0.05

_CAN_CANCEL = frozenset(
    (Status.SETUP, Status.WAIT_UNPLUG, Status.ACTIVE, Status.PRE_SWITCHOVER)
)
_CAN_SWITCH = _CAN_CANCEL | {Status.DEVICE, Status.POSTCOPY_DEVICE}
_GOES_ON = _CAN_SWITCH | {Status.CANCELLING, Status.FAILING}


class Switching:
    """Lets one migration begin and switch, or calls it off; for several threads.

    :param pulse: Of the destination's daemon: nothing switches to one that is away.
    """

    def __init__(self, ends: Ends, pulse: Pulse, journal: Journal | None) -> None:
        self._ends = ends
        self._pulse = pulse
        self._journal = journal
        self._turn = threading.Lock()
        self._is_abandoned = False  # nothing that goes forward is sent any more
        self._may_switch = False  # QEMU may have taken the command

    # Forward

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """Nobody can call it off meanwhile.

        :raises PostcopyError: If somebody has.
        """
        with self._turn:
            if self._is_abandoned:
                raise PostcopyError("aborted before anything was started")
            yield

    def assume_sent(self) -> None:
        """Another client may have asked for the switch."""
        self._may_switch = True

    def switch(self) -> Event:
        """Send ``migrate-start-postcopy``, if the destination lives."""
        silence = self._pulse.silence()
        if silence:
            return SwitchHeld(silence)
        if self._journal is not None:
            self._journal.arm()
        with self._turn:
            if self._is_abandoned:
                return SwitchRefused("the migration is being undone", is_final=True)
            return self._send()

    def _send(self) -> Event:
        could_switch, self._may_switch = self._may_switch, True
        try:
            self._ends.source.control.start_postcopy()
        except CommandError as error:
            self._may_switch = could_switch
            return SwitchRefused(error.desc, is_final="capability" in error.desc)
        except (ConnectError, MonitorBusy) as error:
            return SwitchRefused(error.what, is_final=False)
        except MonitorError as error:
            return SwitchUnanswered(error.what)
        return SwitchAccepted()

    def verify(self) -> Event:
        """Ask the source's QEMU whether it has switched."""
        ends = self._ends
        try:
            status = ends.source.control.status()
        except PostcopyError as error:
            LOG.debug("not verified: %s", error)
            return SwitchNotSeen()
        ends.course.note(Side.SOURCE, status)
        is_there = status in SPLIT or status == Status.COMPLETED
        return SplitSeen(Side.SOURCE) if is_there else SwitchNotSeen()

    # Back

    def abort(self) -> Event | None:
        """Send ``migrate_cancel``, but never after the switch; say if it was refused."""
        course, qemu = self._ends.course, self._ends.source.control
        with self._turn:
            if not course.was_sent:
                self._is_abandoned = True
                return None
            if course.was_split:
                return AbortRefused("the guest is split")
            try:
                status = qemu.status()
                if status not in _CAN_CANCEL:
                    return AbortRefused(f"the migration is {status}")
                qemu.cancel()
            except PostcopyError as error:
                return AbortRefused(error.what)
        return None

    def call_off(self) -> None:
        """Send nothing forward any more, and wait until nothing goes on; a switch may have been faster."""
        end_at = time.monotonic() + _CANCEL_S
        while self._goes_on_uncancelled() and time.monotonic() < end_at:
            self._ends.course.over.wait(_LOOK_S)

    def _goes_on_uncancelled(self) -> bool:
        """Cancel what can be; say whether the source is still at it, as far as is known."""
        source = self._ends.source
        with self._turn:
            self._is_abandoned = True
            status = self._ends.ask_source()
            if status in _CAN_CANCEL and not self.why_it_may_come():
                with suppress(PostcopyError):
                    source.control.cancel()
        return status in _GOES_ON if status else not source.has_ended()

    def why_it_may_come(self) -> str:
        """Say why a switch of ours may be on its way; empty where none is, or nobody is left to take the guest."""
        is_sent = self._may_switch and self._is_open()
        if is_sent and not self._ends.destination.has_ended():
            return "the switch was sent, and is still to come"
        return ""

    def why_not_over(self) -> str:
        """Say why the source may switch yet, whoever asks for it; empty where it cannot."""
        source, destination = self._ends.source, self._ends.destination
        reason = self.why_it_may_come()
        if reason or not self._is_open():
            return reason
        if source.has_ended() or destination.has_ended():
            return ""
        return "it goes on, and could not be cancelled"

    def _is_open(self) -> bool:
        """By what the source has said last."""
        return self._ends.course.status(Side.SOURCE) in _CAN_SWITCH
