"""A new channel for a migration that broke after the switch.

Up to QEMU 7.0 the first ``migrate-recover`` counts, even one that cannot listen; up to 5.2 a ``migrate`` with
``resume`` that reaches nobody leads to the crash of both QEMUs at the next one.  There the way is tried first with
sockets that have nothing to do with the migration, and after a resume that failed none is sent any more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from libvirt_postcopy.drivers.channel import PORTS, Channel
from libvirt_postcopy.drivers.connecting import Connecting
from libvirt_postcopy.drivers.course import Ends
from libvirt_postcopy.drivers.landing import Landing
from libvirt_postcopy.errors import PostcopyError
from libvirt_postcopy.phases import Status
from libvirt_postcopy.qmp.commands import CommandError, MonitorError
from libvirt_postcopy.units import MIB

__all__ = ["Rejoin"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

_NUDGE_S = 5.0
"""How long a destination may fail to notice what its source has noticed, until it is told."""

_PROBE_S = 5.0
_PROBE_POLL_S = 0.1
_PROBE = "libvirt-postcopy-probe"

_CAN_BREAK = frozenset((Status.POSTCOPY_ACTIVE, Status.POSTCOPY_RECOVER))


class Rejoin:
    """Breaks a migration for good, and goes on with it.

    :param channel: At whose address the destination has listened before.
    :param is_frail: The way is tried before it is used.
    :param bandwidth: Post-copy's limit in MiB/s from the first recovery on; None keeps the one before.
    :param tell: Takes a line for the operator.
    :ivar obstacle: Why it must not be tried again; empty where it may.
    """

    def __init__(
        self,
        ends: Ends,
        channel: Channel,
        *,
        is_frail: bool,
        bandwidth: int | None,
        tell: Callable[[str], None],
    ) -> None:
        self._source = ends.source
        self._destination = ends.destination
        self._course = ends.course
        self._channel = channel
        self._is_frail = is_frail
        self._bandwidth = bandwidth
        self._port: int | None = None  # at which the destination waits
        self._connecting = Connecting(tell)
        self._changes = 0  # of the source's status, when it was resumed last
        self.obstacle = ""

    def assume_resumed(self, ago_s: float) -> None:
        """Another client has resumed it, and what became of that was not heard.

        :param ago_s: When, in seconds before now.
        """
        self._changes = self._course.changes
        self._connecting.assume_tried(self._channel.connecting_uri(0), ago_s)

    def require_over(self) -> None:
        """Let nothing be sent while QEMU may still be connecting.

        :raises PostcopyError: If it may.
        """
        if not self._was_heard:
            self._connecting.require_over()

    @property
    def _was_heard(self) -> bool:
        """The source has said something since it was resumed last."""
        return self._course.changes != self._changes

    def go_on(self, landing: Landing, note: Callable[[], None]) -> None:
        """Let the destination listen anew and the source connect, and stay with it.

        :param note: Is called before the source is told.
        :raises PostcopyError: If it breaks again, or cannot be resumed now.
        """
        port = self._listen()
        if self._bandwidth is not None:
            limit = {"max-postcopy-bandwidth": self._bandwidth * MIB}
            self._source.control.set_parameters(limit)
        is_last = not self._source.control.has_command("yank")  # since QEMU 6.0
        self._course.forget_source(Status.POSTCOPY_PAUSED.value)
        self._changes = self._course.changes
        try:
            uri = self._channel.connecting_uri(port)
            note()
            with self._connecting.trying(uri):
                self._source.control.migrate(uri, resume=True)
            landing.follow(is_resumed=True)
        except CommandError:
            raise  # it was not even tried
        except PostcopyError:
            if self._was_heard:
                self._port = None  # it came through, and broke again
            elif is_last:
                self.obstacle = "a resume has reached nobody, and another would crash both QEMUs (3.0 to 5.2)"
            raise

    def _listen(self) -> int:
        """Let the destination wait for the source; give its port."""
        qemu, told = self._destination.control, self._port
        channel = self._place()
        if self._is_frail:
            self._port = _pinned_port(channel)  # it counts, even if its answer is lost
        try:
            qemu.recover(channel.listening_uri())
        except CommandError as error:
            if "triggered already" not in error.desc:
                self._port = told
                raise
            self._port = self._waiting_port() if told is None else told
            if self._port is None:
                self.obstacle = "the destination has been told to recover before, and cannot be told again (QEMU 3.0 to 7.0)"
                raise
            return self._port  # it still waits there
        # Up to QEMU 7.2 the ports of before are told too, after the new one.
        ports = qemu.listening_ports() or tuple(channel.ports)
        self._port = 0 if channel.path else ports[0]
        return self._port

    def _waiting_port(self) -> int | None:
        """At which a destination waits that another client has told to; None if that is not known."""
        if self._channel.path:
            return 0
        ports = self._destination.control.listening_ports()
        return ports[0] if len(ports) > 1 else None  # or it is that of before

    # The way

    def _place(self) -> Channel:
        """Where the destination is to listen.

        :raises PostcopyError: If it cannot, or the source does not get there; nothing has changed then.
        """
        channel = self._channel
        # A try at a path would take it from a QEMU that waits there: it is unlinked first.  No link leads to one either.
        if channel.path or not self._is_frail:
            return channel
        return self._tried() if self._port is None else channel.at_port(self._port)

    def _tried(self) -> Channel:
        """See whether the destination can listen at a port, and the source gets there.

        A destination of 7.1 or later can be told again and again, and keeps its port until then: so another one will
        do for the try.
        """
        can_repeat = "postcopy-preempt" in self._destination.control.capabilities()
        ports = dict.fromkeys([*self._channel.ports, *(PORTS if can_repeat else ())])
        refusals = []
        for port in ports:
            channel = self._channel.at_port(port)
            try:
                self._try_port(channel)
            except CommandError as error:
                refusals.append(error.desc)
                continue
            return self._channel if can_repeat else channel
        raise PostcopyError(
            f"the destination cannot listen for a recovery: {refusals[-1]}",
            side="destination",
        )

    def _try_port(self, channel: Channel) -> None:
        there, here = self._destination.control, self._source.control
        for qemu in (here, there):
            with suppress(CommandError):  # of a try whose end was not heard
                qemu.remove_socket(_PROBE)
        there.add_socket(_PROBE, channel.listening_address(), is_server=True)
        try:
            self._try_connection(channel)
        finally:
            there.remove_socket(_PROBE)

    def _try_connection(self, channel: Channel) -> None:
        qemu = self._source.control
        try:
            qemu.add_socket(_PROBE, channel.connecting_address(), is_server=False)
        except CommandError as error:
            # QEMU 11.1 has no ``reconnect``, and survives a resume that reaches nobody.  Its ``reconnect-ms`` will not do:
            # 11.0 aborts where the first try of such a socket fails (QEMU's issue 3528).
            if "reconnect" not in error.desc:
                raise
            return
        try:
            self._await_connection()
        finally:
            qemu.remove_socket(_PROBE)

    def _await_connection(self) -> None:
        end_at = time.monotonic() + _PROBE_S
        while not self._source.control.is_connected(_PROBE):
            if time.monotonic() >= end_at or self._course.over.wait(_PROBE_POLL_S):
                raise PostcopyError(
                    "the source does not reach the destination yet", side="source"
                )

    # Breaking

    def nudge(self, status: str) -> None:
        """Tell a destination of a break that only its source has noticed.

        :param status: The destination's.
        """
        since = self._course.paused_since
        if since is None or status not in _CAN_BREAK:
            return
        if self._connecting.may_be and not self._was_heard:
            return  # it may just have come through, and QEMU dies of a break while it recovers
        if time.monotonic() - since >= _NUDGE_S:
            with suppress(PostcopyError):
                self._destination.readings.pause()

    def break_both(self) -> None:
        """Make both QEMUs break the migration: on a link that swallows packets neither hears of the other's.

        :raises MonitorError: If the source refuses.
        """
        with suppress(MonitorError):
            self._destination.readings.pause()
        self._source.control.pause()


def _pinned_port(channel: Channel) -> int | None:
    """The only one at which it can listen; None where it has a choice."""
    if channel.path:
        return 0
    return channel.ports[0] if len(channel.ports) == 1 else None
