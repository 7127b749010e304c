"""One host's daemon, asked for one domain, over a connection that is renewed when its daemon or the link was gone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.errors import LibvirtError, PostcopyError
from libvirt_postcopy.events import Event, Half, Looked, Side
from libvirt_postcopy.phases import Status
from libvirt_postcopy.recovery import resume_obstacle
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.vir.events import DomainWatch
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = ["Host", "Pulse", "Connect", "ANSWER_S"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

Connect = Callable[[str, str], Connection]
"""Opens a connection to a URI on a side (``source``, ``destination``), or raises :class:`LibvirtError`."""

_PROBE_S = 1.0
"""How long a host has to accept a TCP connection before it counts as unreachable."""

_HALVES = frozenset((Half.SPLIT, Half.SPLIT_FAILED))


class Host:
    """One of the two hosts.  May be used by several threads; each call may block on a dead host.

    :param uri: Where a new connection is opened to; None where only the given one can be used.
    :param shared: A connection that belongs to somebody else, for want of one of our own.
    """

    def __init__(
        self,
        side: Side,
        uuid: str,
        uri: str | None,
        connect: Connect,
        shared: Connection | None = None,
    ) -> None:
        self.side = side
        self.error: PostcopyError | None = None  #: why there is no connection
        self._uuid = uuid
        self._uri = uri
        self._connect = connect
        self._shared = shared
        self._own: list[Connection] = []
        self._watches: list[DomainWatch] = []
        self._sink: Callable[[Event], None] | None = None
        self._is_suspect = False
        self._is_closed = False
        self._renewing = threading.Lock()

    @property
    def can_be_reached_anew(self) -> bool:
        """Whether a dead connection can be replaced."""
        return self._uri is not None

    def watch(self, sink: Callable[[Event], None]) -> None:
        """Hand the domain's events to ``sink``, also those of connections to come."""
        self._sink = sink
        connection = self._current()
        if connection is not None:
            self._listen(connection)

    def open(self) -> Connection:
        """Open another connection of our own; :meth:`close` closes it.

        :raises LibvirtError: If it cannot be opened.
        """
        if self._uri is None:
            raise LibvirtError("no URI to connect to", side=self.side.value)
        made = self._connect(self._uri, self.side.value)
        with self._renewing:
            self._own.append(made)
        return made

    def connection(self) -> Connection:
        """A connection that works, as far as can be told: the present one, or a new one.

        :raises LibvirtError: If the host cannot be reached.
        """
        connection = self._current()
        if connection is not None and not self._is_suspect:
            return connection
        if self._uri is None:
            if connection is None:
                raise LibvirtError(
                    "the connection is closed, and there is no URI to open another",
                    side=self.side.value,
                )
            return connection
        return self._renew()

    def domain(self) -> Domain | None:
        """The domain over :meth:`connection`; None where there is no such domain.

        :raises LibvirtError: If the host cannot be asked.
        """
        return vir.find_domain(self.connection(), self._uuid)

    def half(self) -> Half:
        """Say what the host's daemon says of the domain."""
        return self.look_up()[1]

    def look_up(self) -> tuple[Domain | None, Half]:
        """The domain, and what its daemon says of it."""
        try:
            dom = self.domain()
        except LibvirtError as error:
            LOG.info("the %s cannot be asked for the guest: %s", self.side.value, error)
            return None, Half.UNKNOWN
        return dom, Half.GONE if dom is None else vir.half(dom)

    def look(self) -> Looked:
        """Look at the domain, after a test whether the host can be reached at all."""
        if self._uri is not None and not vir.listens(self._uri, _PROBE_S):
            self._is_suspect = (
                True  # its requests may be stuck for long after the link is back
            )
            return Looked(self.side, Half.UNKNOWN)
        dom, half = self.look_up()
        obstacle = "" if half is Half.UNKNOWN else self._obstacle()
        if dom is None or self.side is Side.DESTINATION:
            return Looked(self.side, half, obstacle=obstacle)
        try:
            asked = _ask_source(dom, half)
        except LibvirtError as error:  # a whole guest may be one that migrates
            LOG.info("the source cannot be asked for its job: %s", error)
            return Looked(self.side, Half.UNKNOWN, obstacle=obstacle)
        return Looked(self.side, half, *asked, obstacle)

    def close(self, *, keep: Connection | None = None) -> None:
        """Listen no more and close what is ours; may hang on a dead host.

        :param keep: One that somebody goes on using; libvirt closes it with the last of its objects.
        """
        with self._renewing:
            self._is_closed = True
            watches, self._watches = self._watches, []
            ours, self._own = [each for each in self._own if each is not keep], []
        for watch in watches:
            watch.close()
        vir.close_connections(ours)

    def _current(self) -> Connection | None:
        with self._renewing:
            newest = self._own[-1:] or ([self._shared] if self._shared else [])
        return newest[0] if newest and vir.is_alive(newest[0]) else None

    def _renew(self) -> Connection:
        """Connect anew.  The connection before stays until the end: closing a dead one can hang."""
        made = self.open()
        self._is_suspect = False
        if self._sink is not None:
            self._listen(made)
        return made

    def _listen(self, connection: Connection) -> None:
        assert self._sink is not None
        watch = DomainWatch(connection, self._uuid, self.side, self._sink)
        with self._renewing:
            if not self._is_closed:
                self._watches.append(watch)
                return
        watch.close()

    def _obstacle(self) -> str:
        try:
            with vir.refusals(self.side.value):
                connection = self.connection()
                versions = connection.getLibVersion(), connection.getVersion()
        except LibvirtError as error:
            LOG.debug("no versions: %s", error)
            return ""
        return resume_obstacle(self.side, *versions)


def _ask_source(dom: Domain, half: Half) -> tuple[str | None, Stats | None]:
    """Ask QEMU itself once the guest is split, and libvirt before: asking QEMU taints the domain.

    :raises LibvirtError: If libvirt cannot say whether it migrates.
    """
    if half in (Half.WHOLE, Half.MIGRATING):
        stats = vir.leaving_stats(dom)
        return (None, None) if stats is None else (Status.ACTIVE.value, stats)
    if half not in _HALVES:
        return None, None
    try:
        info: Mapping[str, Any] = vir.query_migration(dom)
    except LibvirtError as error:
        LOG.info("the source's QEMU cannot be asked: %s", error)
        return None, None
    status = info.get("status")
    return None if status is None else str(status), Stats.from_query_migrate(info)


ANSWER_S = 1.0
"""A daemon that has not answered for so long is not trusted with the guest."""

_BEAT_S = 0.5


class Pulse:
    """Asks a host's daemon for a sign of life, twice a second, on a thread of its own.

    So that the answer to "does it live?" is there when it is needed, and does not delay the switch.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._asked_at: float | None = None  # of the question that is open
        self._connection: Connection | None = None
        self._is_over = threading.Event()

    def start(self) -> None:
        """Begin to ask."""
        threading.Thread(target=self._run, name="postcopy-pulse", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._is_over.set()

    def silence(self) -> str:
        """Say that the daemon does not answer; empty if it does, or was never asked."""
        asked_at, connection = self._asked_at, self._connection
        if connection is None:
            return ""
        silent_s = 0.0 if asked_at is None else time.monotonic() - asked_at
        if vir.is_alive(connection) and silent_s < ANSWER_S:
            return ""
        return f"the {self._host.side.value}'s daemon does not answer"

    def _run(self) -> None:
        while not self._is_over.wait(_BEAT_S):
            if self._asked_at is None:
                self._asked_at = time.monotonic()
            with suppress(LibvirtError), vir.refusals(self._host.side.value):
                connection = self._host.connection()
                connection.getLibVersion()
                self._connection, self._asked_at = connection, None
