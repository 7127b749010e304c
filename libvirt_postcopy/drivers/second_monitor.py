"""A monitor of our own at the destination's QEMU, beside libvirt's.

While a migration comes in, libvirt's job keeps everybody else from the destination's monitor, and libvirt knows
neither ``postcopy-blocktime`` nor, in 11.2 and 11.3, how to recover.  So QEMU is given a second monitor on a unix
socket (``<qemu:commandline>`` in the XML that the destination starts the guest with).  It is there until that QEMU ends.

It is connected to from the beginning, and again where that connection ends.  The destination's main loop may wait for a
page of a migration that is broken, and answers nobody then, libvirt as little as a new client.  Only over a connection
that was made before does QEMU still take what brings the migration back (``migrate-recover``, out of band).  So a
connection that is silent is kept: the link may be dead, and come back.  What has an effect is sent only while something
comes back, or it might be carried out when all has changed.

It is never needed for the guest to move: what cannot be had is a note.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from libvirt_postcopy import incoming
from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers.carried import with_arguments, without_leftovers
from libvirt_postcopy.drivers.channel import Channel
from libvirt_postcopy.errors import PostcopyError
from libvirt_postcopy.phases import Status
from libvirt_postcopy.qmp.commands import (
    CommandError,
    ConnectError,
    MonitorError,
    MonitorLost,
    MonitorSilent,
    MonitorStuck,
    Qemu,
)
from libvirt_postcopy.qmp.ssh import SshForward
from libvirt_postcopy.vir.here import is_this_machine
from libvirt_postcopy.vir.protocols import Domain

if TYPE_CHECKING:
    from libvirt_postcopy.qmp.socket import SocketMonitor

__all__ = ["FOLDER", "SecondMonitor", "Told", "Way", "way_to"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

FOLDER = "/var/lib/libvirt/qemu"
"""Of the destination: QEMU's user may make sockets there, and none but that user and root may enter."""

_OPEN_S = 10.0
"""How long ssh may take.  The migration waits for it: without a way there, QEMU is given no socket."""

_GREET_S = 2.0
_AGAIN_S = 0.05
_LONGEST_AGAIN_S = 1.0
_LAST_S = 2.0
"""How long the figures may take at the end, and a QEMU to be reached anew when it is needed."""

_TAKES_S = 3.0
"""A main loop that has not answered by then stands still."""

_ECHO_S = 2.0
"""A way on which nothing has come back by then is dead, for now."""

_STAY_S = 2.0
"""How often it is seen whether the connection stands."""

_PORT_TAKEN = "in use"  # of EADDRINUSE, as QEMU ends its refusal


@dataclass(frozen=True)
class Way:
    """How this client gets to a socket of the destination's host.

    :ivar folder: There.
    :ivar host: For ssh; empty where the folder is one of this machine too.
    """

    folder: str = FOLDER
    host: str = ""
    user: str = ""
    port: int | None = None


@dataclass(frozen=True)
class Told:
    """What a destination's QEMU says itself.

    :ivar status: QAPI ``MigrationStatus``; None where nothing has answered.
    :ivar stands_still: Its main loop does, so that only this monitor can recover it.
    :ivar is_silent: The connection stands, and nothing comes back: whether the main loop stands still is not known.
    """

    status: str | None = None
    stands_still: bool = False
    is_silent: bool = False


def way_to(uri: str | None, folder: str | None = None) -> Way:
    """Find the way: through the file system where both see the folder, else by ssh.

    :param uri: The destination's, for libvirt.
    :param folder: One that the user names: of a destination that is reached by ssh, else one that this machine shares
        with it.
    """
    try:
        parts = urlsplit(uri or "")
        host, port = (parts.hostname or "").strip(), parts.port
    except ValueError:
        return Way(folder or FOLDER)
    is_ssh = parts.scheme.partition("+")[2] in ("ssh", "libssh", "libssh2")
    if is_this_machine(host) or (folder and not is_ssh):
        return Way(folder or FOLDER)
    if not is_ssh:
        return Way(folder or FOLDER, host)
    return Way(folder or FOLDER, host, parts.username or "", port)


def _told(monitor: SocketMonitor) -> Told:
    is_heard = monitor.answers(_ECHO_S)
    if is_heard and monitor.takes_commands(_TAKES_S):
        return Told(Qemu(monitor).status())
    if not monitor.has_out_of_band:
        return Told()  # nothing can be done from here
    is_heard = is_heard and monitor.answers(_ECHO_S)  # the link may have died meanwhile
    return Told(stands_still=is_heard, is_silent=not is_heard)


@contextmanager
def _room() -> Iterator[None]:
    """For what this machine may have no room for."""
    try:
        yield
    except OSError as error:
        raise ConnectError(f"no second monitor: {error}") from error


def _completed(qemu: Qemu) -> Mapping[str, Any]:
    """``query-migrate`` of a destination that has all pages, or as far as it is when the time is up.

    It has figures only then, and libvirt may have told of the end before.
    """
    end_at = time.monotonic() + _LAST_S
    while True:
        info = qemu.migration()
        if info.get("status") == Status.COMPLETED or time.monotonic() >= end_at:
            return info
        time.sleep(_AGAIN_S)


def _count_blocktime(qemu: Qemu) -> None:
    if "postcopy-blocktime" in qemu.capabilities():
        qemu.set_capabilities({"postcopy-blocktime": True})


def _recover_untold(qemu: Qemu, channel: Channel) -> int:
    """Let it listen at one port after the other: nobody can ask it which of them it has taken.

    :raises MonitorError: If it does not.
    """
    for port in channel.ports[:-1]:
        try:
            qemu.recover(channel.listening_uri(port))
            return port
        except CommandError as error:
            if _PORT_TAKEN not in error.desc:
                raise
    qemu.recover(channel.listening_uri(channel.ports[-1]))
    return channel.ports[-1]


def _pause_after(waited_s: float) -> float:
    """Until the next try: short at first, since a small guest may be through within a second of QEMU's start."""
    return min(max(_AGAIN_S, waited_s / 10), _LONGEST_AGAIN_S)


class SecondMonitor:
    """The second monitor of one destination's QEMU.  May be used by several threads.

    :param counts_blocktime: Switch ``postcopy-blocktime`` on, and read it at the end.
    """

    def __init__(self, way: Way, *, counts_blocktime: bool) -> None:
        self._way = way
        self._counts_blocktime = counts_blocktime
        self._forward: SshForward | None = None
        self._local = ""  # the socket's end on this machine
        self._monitor: SocketMonitor | None = None
        self._is_offered = False  # QEMU was asked to make the socket
        self._is_over = threading.Event()  # nobody asks any more
        self._changing = threading.Lock()
        self.path = f"{way.folder}/postcopy-{os.urandom(8).hex()}.sock"
        self.notes: list[str] = []  #: what could not be had
        self.blocktime: Mapping[str, Any] = {}  #: QEMU's own names and units

    @property
    def is_there(self) -> bool:
        """Whether QEMU was told to make the socket."""
        return self._is_offered

    # Before the migration

    def offer(
        self, dom: Domain, params: Mapping[str, Any], flags: MigrateFlags
    ) -> dict[str, Any]:
        """See to the way there; give the parameters with which QEMU makes the socket.

        What is defined on the destination stays free of it.
        """
        try:
            self._open()
            arguments = incoming.socket_arguments(self.path)
            wanted = with_arguments(dom, params, flags, arguments)
        except PostcopyError as error:
            self.forgo(error.what)
            return without_leftovers(dom, params, flags)
        self._is_offered = True
        return wanted

    def forgo(self, why: str) -> None:
        """Do without, and ask no more."""
        self._is_offered = False
        self._is_over.set()
        what = "the guest's waits for pages are not counted"
        if not self._counts_blocktime:
            what = "no second monitor on the destination"
        text = f"{what}: {why}"
        LOG.warning("%s", text)
        self.notes.append(text)

    def is_blamed(self, error: PostcopyError) -> bool:
        """Whether QEMU did not start because of the socket, as where AppArmor forbids it."""
        return self._is_offered and self.path in str(error)

    # While it goes on

    def begin(self) -> None:
        """Connect as soon as QEMU is there, and switch on what was asked for."""
        if self._is_offered:
            threading.Thread(
                target=self._run, name="postcopy-second-monitor", daemon=True
            ).start()

    def _run(self) -> None:
        try:
            self._take_up()
            self._stay()
        except Exception:  # a bug of ours must not be seen by the guest
            LOG.exception("the second monitor failed unexpectedly")

    def _take_up(self) -> None:
        try:
            with self._asked(float("inf")) as monitor:
                if self._counts_blocktime:
                    _count_blocktime(Qemu(monitor))
        except PostcopyError as error:
            if not self._is_over.is_set():
                LOG.warning("the second monitor cannot be used yet: %s", error)

    def _stay(self) -> None:
        """Connect again where the connection has ended: when it is needed, it is too late."""
        while not self._is_over.wait(_STAY_S):
            with suppress(MonitorError):
                self._reached(0.0)

    def look(self) -> Told:
        """Ask QEMU how its migration is.

        :raises MonitorStuck: If its main loop stands still, and this monitor was not connected to in time either.
        """
        if not self._is_offered:
            return Told()
        try:
            with self._asked(0.0) as monitor:
                return _told(monitor)
        except MonitorStuck:
            raise
        except MonitorError as error:
            LOG.info("the second monitor cannot be asked: %s", error)
            return Told()

    def recover(self, channel: Channel) -> int:
        """Let the destination wait for the source's new channel; give its port, 0 for a unix socket.

        :raises MonitorError: If it does not.
        """
        with self._heard(_LAST_S) as monitor:
            qemu = Qemu(monitor)
            if channel.path:
                qemu.recover(channel.listening_uri())
                return 0
            if monitor.has_out_of_band and not monitor.takes_commands(_TAKES_S):
                return _recover_untold(qemu, channel)
            qemu.recover(channel.listening_uri())
            # Up to QEMU 7.2 the ports of before are told too, after the new one.
            return (qemu.listening_ports() or tuple(channel.ports))[0]

    def pause(self) -> None:
        """Tell the destination that the link is broken, if it can be told and has not noticed."""
        if not self._is_offered:
            return
        try:
            with self._heard(0.0) as monitor:
                Qemu(monitor).pause()
        except MonitorError as error:
            LOG.info("the destination is not told of the break: %s", error)

    # At the end

    def read(self) -> None:
        """Read what QEMU has counted, now that the guest is there."""
        if not (self._is_offered and self._counts_blocktime):
            return
        try:
            with self._heard(_LAST_S) as monitor:
                info = _completed(Qemu(monitor))
        except PostcopyError as error:
            self.forgo(error.what)
            return
        self.blocktime = {
            name: value for name, value in info.items() if name.startswith("postcopy-")
        }
        if "postcopy-blocktime" not in self.blocktime:
            self.forgo("QEMU has no figure, as before 3.0, or was asked too late")

    def close(self) -> None:
        """Leave QEMU's monitor."""
        self._is_over.set()
        with self._changing:
            self._drop()

    # The way there

    def _open(self) -> None:
        """Open the way, though nobody listens at its end yet.

        :raises ConnectError: If there is none.
        """
        if not self._way.host:
            self._check_folder()
            self._local = self.path
            return
        if self._forward is None:
            way = self._way
            forward = SshForward(way.host, self.path, user=way.user, port=way.port)
            with _room():
                self._local = forward.open(_OPEN_S, self._is_over)
            self._forward = forward

    def _check_folder(self) -> None:
        with suppress(OSError):
            if Path(self._way.folder).is_dir():
                return
        raise ConnectError(f"this client cannot see the folder {self._way.folder}")

    @contextmanager
    def _asked(self, patience_s: float) -> Iterator[SocketMonitor]:
        """Its monitor; a connection that has ended is not used again, one that is silent may be heard later.

        :raises MonitorError: If it cannot be reached.
        """
        monitor = self._reached(patience_s)
        try:
            yield monitor
        except MonitorSilent:
            raise
        except MonitorLost:
            with self._changing:
                # Or another thread was here before.
                if self._monitor is monitor and not monitor.is_connected:
                    self._drop()
            raise

    @contextmanager
    def _heard(self, patience_s: float) -> Iterator[SocketMonitor]:
        """Its monitor, of which something comes back just now.

        :raises MonitorError: If it cannot be reached.
        """
        with self._asked(patience_s) as monitor:
            if not monitor.answers(_ECHO_S):
                text = "nothing comes back from the second monitor"
                raise MonitorSilent(text, side="destination")
            yield monitor

    def _drop(self) -> None:
        """End the connection, and the way there."""
        found, self._monitor = self._monitor, None
        forward, self._forward = self._forward, None
        if found is not None:
            found.close()
        if forward is not None:
            forward.close()

    def _reached(self, patience_s: float) -> SocketMonitor:
        """Its monitor; connected to, if need be again and again while its socket is not there.

        :raises MonitorError: If it cannot be reached.
        """
        began = time.monotonic()
        while True:
            try:
                with self._changing:
                    return self._connected()
            except MonitorError:
                waited = time.monotonic() - began
                if waited >= patience_s or self._is_over.is_set():
                    raise
            self._is_over.wait(_pause_after(waited))

    def _connected(self) -> SocketMonitor:
        if self._is_over.is_set():
            raise ConnectError("no longer asked")
        if self._forward is not None and not self._forward.is_open:
            self._drop()
        if self._monitor is None:
            self._monitor = self._made()
        if not self._monitor.is_connected:
            self._monitor.connect(_GREET_S)
        return self._monitor

    def _made(self) -> SocketMonitor:
        """One that is not connected yet, with the way there.

        :raises ConnectError: If there is none, or this machine has no room for it.
        """
        # At the first use: asyncio would double the time in which a program is there.
        from libvirt_postcopy.qmp.socket import SocketMonitor

        self._open()
        with _room():
            return SocketMonitor(self._local, "destination")
