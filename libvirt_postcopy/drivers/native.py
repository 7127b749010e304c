"""libvirt's own migration job with ``VIR_MIGRATE_POSTCOPY``.

The migrate call blocks until the last page has arrived, so it has a thread of its own, and readings, which QEMU
may answer late, have another.  Each has a connection of its own as well; events, the switch and looks share the
host's line, by turns.  On the destination the call that the client manages has a connection too.

Who manages it: with a destination *URI* the source's daemon talks to the destination's itself
(``VIR_MIGRATE_PEER2PEER``): the guest's downtime then holds no round trip through the client, and the
migration survives the client.  Where the source's daemon cannot reach the destination, the client manages it
over its own two connections, as it does when given a connection.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.constants import MigrateFlags, MigrateParam
from libvirt_postcopy.drivers.carried import lift_limit, without_leftovers
from libvirt_postcopy.drivers.frail import FrailWay
from libvirt_postcopy.drivers.host import Connect, Host, Pulse
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
    Looked,
    PauseRefused,
    Remarked,
    Side,
    SplitFailed,
    SplitSeen,
    StatsSeen,
    SwitchAccepted,
    SwitchHeld,
    SwitchNotSeen,
    SwitchRefused,
    SwitchUnanswered,
)
from libvirt_postcopy.features import (
    MULTIFD_AND_POSTCOPY,
    is_final_refusal,
    is_lost_answer,
    is_unreachable_peer,
    version_text,
)
from libvirt_postcopy.journal import Journal
from libvirt_postcopy.obstacles import PAUSE_TOO_LATE, crash_of
from libvirt_postcopy.phases import Status
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.vir.events import ensure_event_loop
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = ["NativeDriver", "Target"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

_CONNECT_FIRST_S = 1.0
"""How long a peer-to-peer migration waits for our own connection to the destination, which only listens."""

_CONNECT_S = 10.0
"""How long the switch waits for our own connection to the destination: where one needs a login nothing else tells that
no answer will come, and libvirt goes on trying for minutes."""

LAST_LOOK_S = 5.0
"""How long both hosts may take to say where the guest is when the call has returned."""

_GO_ROUND = (
    "upgrade libvirt there, or give its QEMU a second monitor (--postcopy-monitor-dir)"
)

_POSTCOPY_PARALLEL = (
    MigrateFlags.VIR_MIGRATE_POSTCOPY | MigrateFlags.VIR_MIGRATE_PARALLEL
)


@dataclass
class Target:
    """Where to: a URI, or a connection, or both.

    :ivar is_peer2peer: Whether the source's daemon is to talk to the destination's.
    :ivar may_fall_back: Whether the client may manage it instead where that is not possible.
    :ivar was_reached: Whether the client that began it has managed it over a connection of that URI.
    """

    uri: str | None = None
    connection: Connection | None = None
    is_peer2peer: bool = False
    may_fall_back: bool = False
    was_reached: bool = False


class NativeDriver:
    """Carries a migration out as one libvirt job.

    :param flags: libvirt's own only.
    :param params: Typed parameters of ``virDomainMigrate3``.
    :param connect: Opens the connections of ours.
    :param recover_bandwidth: Post-copy's limit in MiB/s from the first recovery on; None keeps that of ``params``.
    :param journal: Is told of each call before it is made.
    """

    name = "native"
    is_attached = False  #: somebody else has made the call

    def __init__(
        self,
        dom: Domain,
        target: Target,
        params: Mapping[str, Any],
        flags: MigrateFlags,
        connect: Connect = vir.open_connection,
        *,
        recover_bandwidth: int | None = None,
        journal: Journal | None = None,
    ) -> None:
        self._dom = dom
        self._journal = journal
        self._target = target
        self._params = dict(params)
        self._recover_bandwidth = recover_bandwidth
        self._flags = flags
        uuid = dom.UUIDString()
        source = dom.connect()
        self._source = Host(
            Side.SOURCE, uuid, vir.uri_of(source), connect, shared=source
        )
        given = target.connection
        there = target.uri if given is None else vir.uri_of(given)
        self._destination = Host(Side.DESTINATION, uuid, there, connect, shared=given)
        self._uuid = uuid
        self._pulse = Pulse(self._destination)
        uri = self._params.get(MigrateParam.VIR_MIGRATE_PARAM_URI)
        self._way = FrailWay(
            self._source,
            self._destination,
            uuid,
            str(uri or ""),
            is_ours=not self.is_attached,
        )
        self._cannot_ask = ""  # why the destination's daemon has no pulse to be felt
        self._control = dom
        self._way_to_switch = vir.way_to_start_postcopy()
        self._readings: Domain | None = None
        self._turn = threading.RLock()
        self._sink: Sink = lambda event: None
        self._connected = threading.Event()
        self._connect_by = float("inf")  # on the monotonic clock
        self._was_sent = False
        self._is_abandoned = False
        self._has_begun = False
        self._has_sent_all = False  # at the last reading
        self._was_seen_there = False
        self._source_qemu = 0  # its version
        self._sending = threading.Lock()
        self._resumes = 0  # that were asked for
        self.domain: Domain | None = None  #: on the destination, once it is there
        self.error: PostcopyError | None = None  #: why the call failed

    @property
    def is_peer2peer(self) -> bool:
        """Whether the source's daemon talks to the destination's, as it turned out."""
        return self._target.is_peer2peer

    # Driver

    def begin(self, sink: Sink) -> None:
        """Start the migrate call; see :class:`libvirt_postcopy.drivers.runner.Driver`."""
        self._listen(sink)
        _in_background(self._run)

    def switch(self) -> Event:
        """Send ``migrate-start-postcopy``, if the destination lives, as far as it can be asked.

        libvirt kills the destination's half if its daemon cannot start it, and the source's half is stopped
        by then.
        """
        if self._journal is not None:
            self._journal.arm()
        unchecked = self._why_unchecked()
        silence = "" if unchecked else self._pulse.silence()
        if silence:
            return SwitchHeld(silence)
        try:
            with self._controlled() as dom:
                vir.start_postcopy(dom, way=self._way_to_switch)
        except LibvirtError as error:
            is_final = is_final_refusal(error.code, error.what)
            if is_lost_answer(error.domain) and not is_final:
                return SwitchUnanswered(error.what)
            return SwitchRefused(error.what, is_final=is_final)
        except (NotSupportedError, UsageError) as error:
            return SwitchRefused(str(error), is_final=True)
        return SwitchAccepted(unchecked=unchecked)

    def _why_unchecked(self) -> str:
        """Why the switch does not wait for the destination's daemon to answer; empty if it does."""
        if self._connected.is_set():
            return self._cannot_ask
        is_late = time.monotonic() >= self._connect_by
        return "it has not been reached from here so far" if is_late else ""

    def verify_switch(self) -> Event:
        """Read the source's state."""
        with self._controlled() as dom:
            half = vir.half(dom)
        return _SEEN.get(half, SwitchNotSeen())

    def read_stats(self) -> list[Event]:
        """Read the source's statistics, and its state for what no event has told."""
        if not self._was_sent:  # what there is to be read is not of this migration
            return [StatsSeen(None)]
        with self._read() as dom:
            stats = vir.read_stats(dom)
            seen = _SEEN.get(vir.half(dom))
        self._see_what_is_left(stats)
        events: list[Event] = [StatsSeen(stats)]
        return events if seen is None else [*events, seen]

    def abort(self) -> Event | None:
        """Abort libvirt's job, or see to it that it is never started."""
        with self._sending:
            if not self._was_sent:
                self._is_abandoned = True
                return None
        try:
            with self._controlled() as dom:
                vir.abort_job(dom)
        except LibvirtError as error:
            return AbortRefused(error.what)
        return None

    def look(self, side: Side) -> Looked:
        """Look at one host."""
        if side is Side.SOURCE:
            looked = self._source.look()
            self._see_what_is_left(looked.stats)
            return replace(looked, obstacle=looked.obstacle or self._way.obstacle)
        return self._doubt(self._destination.look())

    def pause(self) -> Event | None:
        """Make QEMU break the migration, so that it can be resumed."""
        if self._has_sent_all:
            return PauseRefused(PAUSE_TOO_LATE)
        if self._journal is not None:
            self._journal.pause()
        try:
            self._source.pause()
        except LibvirtError as error:
            return PauseRefused(error.what)
        return None

    def _see_what_is_left(self, stats: Stats | None) -> None:
        """Not asked for when it matters: while the link is dead the answer may not come."""
        if stats is not None:
            self._has_sent_all = stats.has_sent_all

    def resume(self) -> None:
        """Make the same call again, for the rest of the memory; one before it may be under way yet."""
        self._resumes += 1
        call = self._resumes

        def run_resume() -> None:
            self._run_resume(call)

        _in_background(run_resume)

    def hand_over(self) -> None:
        """Leave the destination's domain, and its connection, to whoever gets it."""
        self._pulse.stop()
        self.domain = self._destination.domain_for_caller() or self.domain
        if self.error is not None and self.domain is not None:
            lift_limit(self.domain, self._params)
        self._destination.release()

    def close(self) -> None:
        """Listen no more."""
        self._pulse.stop()
        self._source.close()
        self._destination.close()

    # The source's domain

    @contextmanager
    def _controlled(self) -> Iterator[Domain]:
        """The domain over the source's line, for one thread at a time; over a new one where it is dead."""
        if not vir.is_alive(self._control.connect()):
            self._control, self._turn = self._over_line()
        with self._turn:
            yield self._control

    @contextmanager
    def _read(self) -> Iterator[Domain]:
        """The domain over a connection for readings alone, or over the line where none can be had."""
        if self._readings is not None and not vir.is_alive(self._readings.connect()):
            self._readings = self._over_another()
        if self._readings is not None:
            yield self._readings
            return
        with self._controlled() as dom:
            yield dom

    # Listening

    def _listen(self, sink: Sink) -> None:
        self._sink = sink
        ensure_event_loop()
        self._control, self._turn = self._over_line()
        self._readings = self._over_another()
        self._source.watch(self._hear_source)
        self._connect_by = time.monotonic() + _CONNECT_S
        _in_background(self._connect_destination)

    def _hear_source(self, event: Event) -> None:
        self._way.hear(event)
        if self._was_sent:  # or it speaks of what went on before
            self._has_begun = True
            self._sink(event)

    def _hear_destination(self, event: Event) -> None:
        self._was_seen_there = True
        self._sink(event)

    def _over_line(self) -> tuple[Domain, threading.RLock]:
        """The domain over a line of our own, or the caller's, and its turn.

        The caller's would deliver no events if it was opened before there was an event loop.
        """
        try:
            line = self._source.renew()
            dom = vir.find_domain(line.connection, self._uuid)
        except LibvirtError as error:
            LOG.warning(
                "sharing a connection to the source, the switch may come late: %s",
                error,
            )
            return self._dom, self._source.turn
        return (self._dom, self._source.turn) if dom is None else (dom, line.turn)

    def _over_another(self) -> Domain | None:
        """The domain over a connection that nothing else uses; None where none can be had."""
        try:
            return vir.find_domain(self._source.open(), self._uuid)
        except LibvirtError as error:
            LOG.info("readings share a connection: %s", error)
            return None

    def _connect_destination(self) -> None:
        try:
            if self._destination.can_be_reached_anew:
                self._destination.renew()
        except LibvirtError as error:
            LOG.debug("no connection to the destination: %s", error)
            if self._target.connection is None:
                self._destination.error = error
        finally:
            self._destination.watch(self._hear_destination)
            self._cannot_ask = self._why_not_to_ask()
            self._connected.set()
        if not self._cannot_ask:
            self._pulse.start()
            self._remark()

    def _why_not_to_ask(self) -> str:
        """Why the destination's daemon is not asked for a sign of life; empty if it is."""
        if self._destination.has_line_of_ours:
            return ""
        if not self._has_only_theirs:
            return str(self._destination.error or "it cannot be reached from here")
        if self._target.is_peer2peer or self.is_attached:
            return ""
        return "the migration itself takes the only connection to it"

    def _remark(self) -> None:
        """Say beforehand that nobody can resume the migration if it breaks."""
        with suppress(LibvirtError), self._destination.line() as connection:
            with vir.refusals("destination"):
                crash = crash_of(connection.getLibVersion())
            if crash:
                text = f"if the link breaks after the switch: {crash}"
                self._sink(Remarked(f"{text}; {_GO_ROUND}"))

    # The call

    def _run(self) -> None:
        def call() -> None:
            self._check_pair()
            self._migrate()

        self._end(self._failure(call), 0)

    def _run_resume(self, call: int) -> None:
        lent: list[tuple[Host, Connection]] = []
        error = self._failure(lambda: self._resume(lent))
        if error is not None:
            self._way.failed()
        self._end(error, call)
        for host, connection in lent:  # it may hang on a dead host, and nobody waits
            host.give_back(connection)

    def _failure(self, call: Callable[[], None]) -> PostcopyError | None:
        try:
            call()
        except PostcopyError as error:
            return error
        except Exception as error:  # a bug of ours must not leave the caller waiting
            LOG.exception("the migrate call failed unexpectedly")
            return PostcopyError(f"unexpected: {error!r}")
        return None

    def _end(self, error: PostcopyError | None, call: int) -> None:
        if error is None or call == self._resumes:  # else a later one tells
            self.error = error
        text = None if error is None else str(error)
        if not self._was_sent:
            self._sink(Ended(error=text, was_sent=False, call=call))
            return
        here, there = self._last_looks()
        qemu = 0 if error is None else self._source_qemu
        self._sink(Ended(text, here=here, there=there, qemu=qemu, call=call))

    def _last_looks(self) -> tuple[Half, Half]:
        """Where the guest is now; what takes too long to say is unknown, for others to find out."""
        found: dict[Side, Half] = {}

        def here() -> None:
            found[Side.SOURCE] = _as_half(self._source.look())

        def there() -> None:
            if not self._connected.is_set():
                return  # to connect takes for ever, and a second time too
            dom, half = self._destination.look_up()
            found[Side.DESTINATION] = self._doubt(Looked(Side.DESTINATION, half)).half
            self.domain = dom

        ends = time.monotonic() + LAST_LOOK_S
        for thread in [_in_background(look) for look in (there, here)]:
            thread.join(max(ends - time.monotonic(), 0.0))
        halves = (found.get(side, Half.UNKNOWN) for side in Side)
        return next(halves), next(halves)

    def _doubt(self, found: Looked) -> Looked:
        """Where the source's daemon resolves the URI, the guest's absence may only mean another host of that name."""
        if not found.half.is_absent:
            self._was_seen_there |= found.half is not Half.UNKNOWN
            return found
        is_ours = not self.is_attached or self._target.was_reached
        is_sure = self._was_seen_there or (is_ours and not self._target.is_peer2peer)
        return found if is_sure else replace(found, half=Half.UNKNOWN)

    def _check_pair(self) -> None:
        """Refuse what would endanger the guest, as far as both hosts can be asked.

        :raises UsageError: If both are the same host.
        :raises NotSupportedError: If the pair of features kills this QEMU.
        """
        is_risky = _POSTCOPY_PARALLEL in self._flags
        if not self._connected.wait(_CONNECT_FIRST_S) and not is_risky:
            return
        if self._destination.error is not None and not is_risky:
            return
        self._require_destination()
        with self._destination.line() as destination:
            self._check_host(destination)
            if not is_risky:
                return
            with vir.refusals("destination"):
                installed = destination.getVersion()
        _require_multifd(Side.SOURCE, vir.running_qemu_version(self._dom))
        _require_multifd(Side.DESTINATION, installed)

    def _check_host(self, destination: Connection) -> None:
        uuid = vir.host_uuid(self._dom.connect())
        if uuid is not None and uuid == vir.host_uuid(destination):
            raise UsageError(
                "source and destination are the same host",
                side="destination",
                cure="name another host; two daemons on one machine need different host_uuid",
            )

    def _require_destination(self) -> None:
        """Wait for the connection of our own.

        :raises PostcopyError: If it cannot be had.
        """
        self._connected.wait()
        if self._destination.error is not None:
            raise self._destination.error

    def _connection_for_call(self) -> Connection:
        """A connection that the managed call has to itself: it blocks that one for the whole post-copy.

        :raises PostcopyError: If it cannot be had.
        """
        if self._target.connection is not None:
            self._connected.wait()  # until then it may be asked for other things
            return self._target.connection
        self._require_destination()
        return self._destination.open()

    def _migrate(self) -> None:
        destination = None
        if not self._target.is_peer2peer:
            destination = self._connection_for_call()
        dom = self._over_another() or self._dom
        # A daemon that is started again may never say so, and asking QEMU itself would taint the domain.
        with suppress(LibvirtError), vir.refusals("source"):
            self._source_qemu = dom.connect().getVersion()
        self._params = self._prepared(dom)
        self._note_start()
        with self._sending:
            if self._is_abandoned:
                raise PostcopyError("aborted before anything was started")
            self._was_sent = True
        if destination is None:
            try:
                self._call(dom, None, self._flags)
                return
            except LibvirtError as error:
                if not self._may_manage_instead(error):
                    raise
                LOG.info("the client manages the migration: %s", error)
            self._target.is_peer2peer = False
            destination = self._connection_for_call()
            self._note_start()
        self._call(dom, destination, self._flags)

    def _prepared(self, dom: Domain) -> dict[str, Any]:
        return without_leftovers(dom, self._params, self._flags)

    def _note_start(self) -> None:
        if self._journal is None:
            return
        host = None
        with suppress(LibvirtError):
            host = vir.host_uuid(self._dom.connect())
        self._journal.start(source_host=host, is_peer2peer=self.is_peer2peer)

    def _resume(self, lent: list[tuple[Host, Connection]]) -> None:
        """Make the call again.

        :param lent: Is given the connections to be given back afterwards.
        """

        def open_to(host: Host) -> Connection:
            connection = host.open()
            lent.append((host, connection))
            return connection

        if self._recover_bandwidth is not None:
            limit = MigrateParam.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY
            self._params[limit] = self._recover_bandwidth
        dom = vir.find_domain(open_to(self._source), self._uuid)
        if dom is None:
            raise PostcopyError("the guest is gone from the source", side="source")
        self._way.prove(dom)
        if self._journal is not None:
            self._journal.resume(is_peer2peer=self.is_peer2peer)
        flags = self._flags | MigrateFlags.VIR_MIGRATE_POSTCOPY_RESUME
        if self._target.is_peer2peer:
            try:
                self._call(dom, None, flags)
                return
            except LibvirtError as error:
                if not self._may_manage_resume(error):
                    raise
                LOG.info("the client manages the recovery: %s", error)
            self._target.is_peer2peer = False
        if self._destination.can_be_reached_anew and not self._has_only_theirs:
            self._call(dom, open_to(self._destination), flags)
            return
        with self._destination.line() as destination:
            self._call(dom, destination, flags)

    @property
    def _has_only_theirs(self) -> bool:
        """The caller's connection to the destination is all there is: where it logged in, we cannot."""
        is_given = self._target.connection is not None
        return is_given and not self._destination.has_line_of_ours

    def _may_manage_resume(self, error: LibvirtError) -> bool:
        """Only where the source's daemon never reached the other, so neither QEMU has been told anything."""
        is_allowed = self._target.may_fall_back
        return is_allowed and is_unreachable_peer(error.domain, error.what)

    def _call(
        self, dom: Domain, destination: Connection | None, flags: MigrateFlags
    ) -> None:
        if destination is not None:
            with self._destination.busy(destination):
                vir.migrate3(dom, destination, self._params, flags)
            return
        flags |= MigrateFlags.VIR_MIGRATE_PEER2PEER
        vir.migrate_to_uri3(dom, str(self._target.uri), self._params, flags)

    def _may_manage_instead(self, error: LibvirtError) -> bool:
        """Only where the source's daemon never reached the other, so QEMU has been told nothing."""
        if self._has_begun or not self._target.may_fall_back:
            return False
        if not is_unreachable_peer(error.domain, error.what):
            return False
        self._connected.wait()
        if vir.has_job(self._dom) or vir.half(self._dom) is not Half.WHOLE:
            return False
        return self._destination.half().is_absent


def _as_half(found: Looked) -> Half:
    """A whole guest may be one that a daemon goes on migrating without us, or of which QEMU has not decided yet."""
    if found.status == Status.POSTCOPY_DEVICE:
        return Half.UNKNOWN
    is_leaving = found.half is Half.WHOLE and found.status is not None
    return Half.MIGRATING if is_leaving else found.half


def _in_background(job: Callable[[], None]) -> threading.Thread:
    name = f"postcopy-{job.__name__.strip('_')}"
    thread = threading.Thread(target=job, name=name, daemon=True)
    thread.start()
    return thread


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
