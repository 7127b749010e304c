"""libvirt's own migration job with ``VIR_MIGRATE_POSTCOPY``.

The migrate call blocks until the last page has arrived, so it has a thread of its own, and readings, which QEMU
may answer late, have another.  Each has a connection of its own as well, and the loop a third, for events and for
the switch: when two threads share a connection of libvirt 9.0, the request of the second may stay unsent until
something arrives for the first, which here can be the end of the migration.

Who manages it: with a destination *URI* the source's daemon talks to the destination's itself
(``VIR_MIGRATE_PEER2PEER``): the guest's downtime then holds no round trip through the client, and the
migration survives the client.  Where the source's daemon cannot reach the destination, the client manages it
over its own two connections, as it does when given a connection.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers.runner import Sink
from libvirt_postcopy.errors import (
    LibvirtError,
    NotSupportedError,
    PostcopyError,
    UsageError,
)
from libvirt_postcopy.events import (
    AbortRefused,
    Ended,
    Event,
    Half,
    Side,
    SplitFailed,
    SplitSeen,
    StatsSeen,
    SwitchAccepted,
    SwitchNotSeen,
    SwitchRefused,
)
from libvirt_postcopy.features import (
    MULTIFD_AND_POSTCOPY,
    is_final_refusal,
    is_unreachable_peer,
    version_text,
)
from libvirt_postcopy.vir.events import DomainWatch, ensure_event_loop
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = ["NativeDriver", "Target"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

_CONNECT_FIRST_S = 1.0
"""How long a peer-to-peer migration waits for our own connection to the destination, which only listens."""

_POSTCOPY_PARALLEL = (
    MigrateFlags.VIR_MIGRATE_POSTCOPY | MigrateFlags.VIR_MIGRATE_PARALLEL
)


@dataclass
class Target:
    """Where to: a URI, a connection, or a URI of which we hold a connection too.

    :ivar is_peer2peer: Whether the source's daemon is to talk to the destination's.
    :ivar may_fall_back: Whether the client may manage it instead where that is not possible.
    """

    uri: str | None = None
    connection: Connection | None = None
    is_peer2peer: bool = False
    may_fall_back: bool = False
    error: PostcopyError | None = None
    ready: threading.Event = field(default_factory=threading.Event)

    def connect(self) -> None:
        """Open our own connection, unless one was given; keep the error where it fails.

        ``ready`` is for the caller to set, when nobody else uses the connection any more.
        """
        try:
            if self.connection is None:
                self.connection = vir.open_connection(self.uri, "destination")
        except LibvirtError as error:
            LOG.debug("no connection to %s: %s", self.uri, error)
            self.error = error

    def require(self) -> Connection:
        """Wait for the connection.

        :raises LibvirtError: If it cannot be had.
        """
        self.ready.wait()
        if self.connection is None:
            assert self.error is not None
            raise self.error
        return self.connection


class NativeDriver:
    """Carries a migration out as one libvirt job.

    :param flags: libvirt's own only.
    :param params: Typed parameters of ``virDomainMigrate3``.
    """

    name = "native"

    def __init__(
        self,
        dom: Domain,
        target: Target,
        params: Mapping[str, Any],
        flags: MigrateFlags,
    ) -> None:
        self._dom = dom
        self._target = target
        self._params = dict(params)
        self._flags = flags
        self._uuid = dom.UUIDString()
        self._watches: list[DomainWatch] = []
        self._control = dom
        self._readings = dom
        self._own: list[Connection] = []
        self._sink: Sink = lambda event: None
        self._is_closed = False
        self._was_sent = False
        self._is_abandoned = False
        self._has_begun = False
        self._was_seen_there = False
        self._sending = threading.Lock()
        self._closing = threading.Lock()
        self.domain: Domain | None = None  #: on the destination, once it is there
        self.error: PostcopyError | None = None  #: why the call failed

    @property
    def is_peer2peer(self) -> bool:
        """Whether the source's daemon talks to the destination's, as it turned out."""
        return self._target.is_peer2peer

    # Driver

    def begin(self, sink: Sink) -> None:
        """Start the migrate call; see :class:`libvirt_postcopy.drivers.runner.Driver`."""
        self._sink = sink
        ensure_event_loop()
        self._control = self._own_handle() or self._dom
        self._readings = self._own_handle() or self._control
        self._watch(self._control.connect(), Side.SOURCE)
        for job in (self._connect_destination, self._run):
            threading.Thread(
                target=job, name=f"postcopy{job.__name__}", daemon=True
            ).start()

    def switch(self) -> Event:
        """Send ``migrate-start-postcopy``."""
        try:
            vir.start_postcopy(self._control)
        except LibvirtError as error:
            is_final = is_final_refusal(error.code, error.what)
            return SwitchRefused(error.what, is_final=is_final)
        except NotSupportedError as error:
            return SwitchRefused(str(error), is_final=True)
        return SwitchAccepted()

    def verify_switch(self) -> Event:
        """Read the source's state."""
        return _SEEN.get(vir.half(self._control), SwitchNotSeen())

    def read_stats(self) -> list[Event]:
        """Read the source's statistics, and its state for what no event has told."""
        if not self._was_sent:  # what there is to be read is not of this migration
            return [StatsSeen(None)]
        events: list[Event] = [StatsSeen(vir.read_stats(self._readings))]
        seen = _SEEN.get(vir.half(self._readings))
        return events if seen is None else [*events, seen]

    def abort(self) -> Event | None:
        """Abort libvirt's job, or see to it that it is never started."""
        with self._sending:
            if not self._was_sent:
                self._is_abandoned = True
                return None
        try:
            vir.abort_job(self._control)
        except LibvirtError as error:
            return AbortRefused(error.what)
        return None

    def close(self) -> None:
        """Listen no more."""
        with self._closing:
            self._is_closed = True
            watches, self._watches = self._watches, []
        for watch in watches:
            watch.close()
        vir.close_connections(self._own)

    # Listening

    def _hear_source(self, event: Event) -> None:
        if self._was_sent:  # or it speaks of what went on before
            self._has_begun = True
            self._sink(event)

    def _hear_destination(self, event: Event) -> None:
        self._was_seen_there = True
        self._sink(event)

    def _own_handle(self) -> Domain | None:
        """The domain over a new connection; None where none can be had.

        The caller's would deliver no events if it was opened before there was an event loop.
        """
        dom = self._ask(self._own_connection())[0]
        if dom is None:
            LOG.warning("sharing a connection to the source: the switch may come late")
        return dom

    def _own_connection(self) -> Connection | None:
        try:
            own = vir.open_connection(self._dom.connect().getURI(), "source")
        except LibvirtError as error:
            LOG.info("no connection of our own to the source: %s", error)
            return None
        self._own.append(own)
        return own

    def _watch(self, connection: Connection, side: Side) -> None:
        is_source = side is Side.SOURCE
        hear = self._hear_source if is_source else self._hear_destination
        watch = DomainWatch(connection, self._uuid, side, hear)
        with self._closing:
            if not self._is_closed:
                self._watches.append(watch)
                return
        watch.close()

    def _connect_destination(self) -> None:
        try:
            self._target.connect()
            if self._target.connection is not None:
                self._watch(self._target.connection, Side.DESTINATION)
        finally:
            self._target.ready.set()

    # The call

    def _run(self) -> None:
        try:
            self._check_pair()
            self._migrate()
        except PostcopyError as error:
            self.error = error
        except Exception as error:  # a bug of ours must not leave the caller waiting
            LOG.exception("the migrate call failed unexpectedly")
            self.error = PostcopyError(f"unexpected: {error!r}")
        text = None if self.error is None else str(self.error)
        if not self._was_sent:
            self._sink(Ended(error=text, was_sent=False))
            return
        here, there = self._look()
        self._sink(Ended(error=text, here=here, there=there))

    def _check_pair(self) -> None:
        """Refuse what would endanger the guest, as far as both hosts can be asked.

        :raises UsageError: If both are the same host.
        :raises NotSupportedError: If the pair of features kills this QEMU.
        """
        is_risky = _POSTCOPY_PARALLEL in self._flags
        if not self._target.ready.wait(_CONNECT_FIRST_S) and not is_risky:
            return
        if self._target.connection is None and not is_risky:
            return
        source, destination = self._dom.connect(), self._target.require()
        uuid = vir.host_uuid(source)
        if uuid is not None and uuid == vir.host_uuid(destination):
            raise UsageError(
                "source and destination are the same host",
                side="destination",
                cure="name another host; two daemons on one machine need different host_uuid",
            )
        if is_risky:
            _require_multifd(Side.SOURCE, vir.running_qemu_version(self._control))
            with vir.refusals("destination"):
                installed = destination.getVersion()
            _require_multifd(Side.DESTINATION, installed)

    def _migrate(self) -> None:
        destination = None
        if not self._target.is_peer2peer:
            destination = self._target.require()
        with self._sending:
            if self._is_abandoned:
                raise PostcopyError("aborted before anything was started")
            self._was_sent = True
        if destination is None:
            try:
                with vir.refusals("source"):
                    self._dom.migrateToURI3(
                        str(self._target.uri),
                        self._params,
                        self._flags | MigrateFlags.VIR_MIGRATE_PEER2PEER,
                    )
                return
            except LibvirtError as error:
                if not self._may_manage_instead(error):
                    raise
                LOG.info("the client manages the migration: %s", error)
            self._target.is_peer2peer = False
            destination = self._target.require()
        with vir.refusals():
            self._dom.migrate3(destination, self._params, self._flags)

    def _may_manage_instead(self, error: LibvirtError) -> bool:
        """Only where the source's daemon never reached the other, so QEMU has been told nothing."""
        if self._has_begun or not self._target.may_fall_back:
            return False
        if not is_unreachable_peer(error.domain, error.what):
            return False
        self._target.ready.wait()
        if vir.has_job(self._control) or vir.half(self._control) is not Half.WHOLE:
            return False
        return self._ask(self._target.connection)[1] in (Half.GONE, Half.INACTIVE)

    # Where the guest is

    def _look(self) -> tuple[Half, Half]:
        """Look at both hosts once the call has returned; what cannot be asked is not guessed."""
        self.domain, there = self._ask(self._target.connection)
        if there is Half.GONE and not self._was_seen_there:
            there = (
                Half.UNKNOWN
            )  # here the name may mean another host than on the source
        here = self._ask(self._dom.connect())[1]
        if here is Half.UNKNOWN:  # it may be this connection alone that is dead
            here = self._ask(self._own_connection())[1]
        return here, there

    def _ask(self, connection: Connection | None) -> tuple[Domain | None, Half]:
        try:
            if connection is None:
                return None, Half.UNKNOWN
            dom = vir.find_domain(connection, self._uuid)
        except LibvirtError as error:
            LOG.warning("a host cannot be asked for the guest: %s", error)
            return None, Half.UNKNOWN
        return dom, Half.GONE if dom is None else vir.half(dom)


_SEEN: Mapping[Half, Event] = {
    Half.SPLIT: SplitSeen(Side.SOURCE),
    Half.SPLIT_FAILED: SplitFailed(Side.SOURCE),
}


def _require_multifd(side: Side, version: int) -> None:
    if version < MULTIFD_AND_POSTCOPY:
        raise NotSupportedError(
            f"QEMU {version_text(version)} cannot do --parallel and post-copy together and may lose the guest",
            side=side.value,
            cure="leave one of them out, or use QEMU >= 10.1 on both hosts",
        )
