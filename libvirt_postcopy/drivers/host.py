"""One host's daemon, asked for one domain, over a connection that is renewed when its daemon or the link was gone.

Two threads never wait for answers on one connection: libvirt's client library (seen with 9.0) can leave the
second's request unsent until something arrives for the first, and can crash (CVE-2024-4418).  So a :class:`Line`
is taken by one thread at a time, and a call that blocks for long has a connection of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.errors import LibvirtError, PostcopyError
from libvirt_postcopy.events import Event, Half, Looked, Side
from libvirt_postcopy.obstacles import resume_obstacle
from libvirt_postcopy.phases import Status
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.vir.events import DomainWatch
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = ["Host", "Line", "Pulse", "Connect", "ANSWER_S", "RESTART_S"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

Connect = Callable[[str, str], Connection]
"""Opens a connection to a URI on a side (``source``, ``destination``), or raises :class:`LibvirtError`."""

_PROBE_S = 1.0
"""How long a host has to accept a TCP connection before it counts as unreachable."""

_TOLD_BY_QEMU = frozenset((Half.SPLIT, Half.SPLIT_FAILED, Half.LEFT))


@dataclass
class Line:
    """A connection for short questions, and whose turn it is."""

    connection: Connection
    is_ours: bool = True  #: or it belongs to the caller
    turn: threading.RLock = field(default_factory=threading.RLock)
    watch: DomainWatch | None = None

    def close(self) -> None:
        """Listen no more and close what is ours; waits for its turn and may hang on a dead host."""
        with self.turn:
            self.release()
            if self.is_ours:
                vir.close_connections([self.connection])

    def release(self) -> None:
        """Listen no more."""
        with self.turn:
            watch, self.watch = self.watch, None
            if watch is not None:
                watch.close()


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
        self._given = shared
        self._lines = [] if shared is None else [Line(shared, is_ours=False)]
        self._lent: list[Connection] = []
        self._sink: Callable[[Event], None] | None = None
        self._is_suspect = False
        self._is_closed = False
        self._changing = threading.Lock()

    @property
    def can_be_reached_anew(self) -> bool:
        """Whether a dead connection can be replaced."""
        return self._uri is not None

    @property
    def has_line_of_ours(self) -> bool:
        """Whether there is one that nobody else uses."""
        with self._changing:
            return any(line.is_ours for line in self._lines)

    @contextmanager
    def busy(self, connection: Connection) -> Iterator[None]:
        """Let nobody ask over this connection meanwhile: a long call waits on it."""
        with self._changing:
            lines = [line for line in self._lines if line.connection is connection]
        with ExitStack() as turns:
            for line in lines:
                turns.enter_context(line.turn)
            yield

    def watch(self, sink: Callable[[Event], None]) -> None:
        """Hand the domain's events to ``sink``, also those of lines to come."""
        self._sink = sink
        line = self._present()
        if line is not None:
            self._listen(line)

    def open(self) -> Connection:
        """Open a connection for the caller alone; :meth:`close` closes it.

        :raises LibvirtError: If it cannot be opened.
        """
        made = self._made()
        with self._changing:
            is_late = self._is_closed
            if not is_late:
                self._lent.append(made)
        if is_late:
            vir.close_connections([made])
            raise LibvirtError("no longer asked", side=self.side.value)
        return made

    def renew(self) -> Line:
        """Make a new line the present one.  Those before stay until the end: closing a dead one can hang.

        :raises LibvirtError: If it cannot be opened.
        """
        if self._lines:
            self.check_answers()
        elif self._uri is not None:
            vir.require_answer(self._uri, self.side.value)
        line = Line(self._made())
        with self._changing:
            is_late = self._is_closed
            if not is_late:
                self._lines.append(line)
                self._is_suspect = False
        if is_late:
            line.close()
            raise LibvirtError("no longer asked", side=self.side.value)
        if self._sink is not None:
            self._listen(line)
        return line

    def check_answers(self) -> None:
        """See that a new connection would not wait for a host that is away.

        :raises LibvirtError: If it would.
        """
        if self._uri is not None and not vir.listens(self._uri, _PROBE_S):
            raise LibvirtError("it does not answer", side=self.side.value)

    @contextmanager
    def line(self) -> Iterator[Connection]:
        """A connection that works, as far as can be told: the present one, or a new one; for one thread at a time.

        :raises LibvirtError: If the host cannot be reached.
        """
        line = self._present()
        if line is None or (self._is_suspect and self._uri is not None):
            line = self.renew()
        with line.turn:
            if self._is_closed:  # by now it may be somebody else's
                raise LibvirtError("no longer asked", side=self.side.value)
            yield line.connection

    def give_back(self, connection: Connection) -> None:
        """Close a connection that :meth:`open` gave; may hang on a dead host."""
        with self._changing:
            if connection not in self._lent:
                return
            self._lent.remove(connection)
        vir.close_connections([connection])

    @property
    def turn(self) -> threading.RLock:
        """That of the present line; a new one where there is none."""
        with self._changing:
            return self._lines[-1].turn if self._lines else threading.RLock()

    def half(self) -> Half:
        """Say what the host's daemon says of the domain."""
        return self.look_up()[1]

    def look_up(self) -> tuple[Domain | None, Half]:
        """The domain, and what its daemon says of it."""
        try:
            with self.line() as connection:
                dom = vir.find_domain(connection, self._uuid)
                return dom, Half.GONE if dom is None else self._told_half_of(dom)
        except LibvirtError as error:
            LOG.info("the %s cannot be asked for the guest: %s", self.side.value, error)
            return None, Half.UNKNOWN

    def domain_for_caller(self) -> Domain | None:
        """The domain over the connection that the caller has given, else over one of ours; None if it is not seen.

        libvirt takes no domain of another connection: "domain must match connection".
        """
        if self._given is None:
            return self.look_up()[0]
        with suppress(LibvirtError), self.busy(self._given):
            return vir.find_domain(self._given, self._uuid)
        return None

    def look(self) -> Looked:
        """Look at the domain, after a test whether the host can be reached at all."""
        if self._uri is not None and not vir.listens(self._uri, _PROBE_S):
            # Requests on this line may be stuck for long after the link is back.
            self._is_suspect = True
            return Looked(self.side, Half.UNKNOWN, listens=False)
        try:
            with self.line() as connection:
                found = self._found_over(connection)
                # One that hangs does not come here: its look comes back when its connection breaks.
                return replace(found, listens=vir.is_alive(connection))
        except LibvirtError as error:
            LOG.info("the %s cannot be reached: %s", self.side.value, error)
            return Looked(self.side, Half.UNKNOWN, listens=False)

    def _found_over(self, connection: Connection) -> Looked:
        """What its daemon says; unknown where it refuses to tell."""
        try:
            return self._look_over(connection)
        except LibvirtError as error:
            LOG.info("the %s cannot be asked: %s", self.side.value, error)
            return Looked(self.side, Half.UNKNOWN)

    def _look_over(self, connection: Connection) -> Looked:
        dom = vir.find_domain(connection, self._uuid)
        if dom is None:
            return Looked(self.side, Half.GONE)
        half = self._half_of(dom)
        if self.side is Side.SOURCE and not half.is_split:
            missed = _missed_by_libvirt(dom)
            if missed is Half.MIGRATING:
                return Looked(self.side, missed, *_ask_in_the_switch(dom))
            half = missed or half
        # What cannot be asked leaves a half unknown, so that it is looked at again and not resumed meanwhile.
        obstacle = self._obstacle(dom, connection) if half.is_split else ""
        if self.side is Side.DESTINATION:
            return Looked(self.side, half, obstacle=obstacle)
        # A whole guest may be one that migrates, so a daemon that cannot tell leaves the half unknown.
        told = *_ask_source(dom, half), obstacle, *_ask_vcpus(dom, half)
        return Looked(self.side, half, *told)

    def _told_half_of(self, dom: Domain) -> Half:
        try:
            return self._half_of(dom)
        except LibvirtError as error:
            LOG.info("what the %s has is not told: %s", self.side.value, error)
            return Half.UNKNOWN

    def _half_of(self, dom: Domain) -> Half:
        return vir.half(dom) if self.side is Side.SOURCE else vir.half_there(dom)

    def _obstacle(self, dom: Domain, connection: Connection) -> str:
        """Why its half must not be resumed.

        :raises LibvirtError: If a version cannot be read.
        """
        with vir.refusals(self.side.value):
            libvirt_version = connection.getLibVersion()
            qemu_version = self._qemu_version(dom, connection)
        return resume_obstacle(self.side, libvirt_version, qemu_version)

    def _qemu_version(self, dom: Domain, connection: Connection) -> int:
        """Of the QEMU that runs, which an upgrade leaves behind; of the one installed where it cannot be asked.

        libvirt lets nobody ask a destination's.
        """
        if self.side is Side.SOURCE:
            try:
                return vir.running_qemu_version(dom)
            except LibvirtError as error:
                LOG.info("the version of the source's QEMU: %s", error)
        return connection.getVersion()

    def pause(self) -> None:
        """Make the source's QEMU break the migration, so that it can be resumed.

        :raises LibvirtError: If it is refused.
        """
        with self.line() as connection:
            dom = vir.find_domain(connection, self._uuid)
            if dom is not None:
                vir.pause_postcopy(dom)

    def release(self) -> None:
        """Listen no more and use no connection that is open, so that whoever has a domain of it has it alone."""
        with self._changing:
            self._is_closed = True
            lines, self._lines = self._lines, []
        for line in lines:
            line.release()

    def close(self) -> None:
        """Listen no more and close what is ours; may hang on a dead host."""
        with self._changing:
            self._is_closed = True
            lines, self._lines = self._lines, []
            lent, self._lent = self._lent, []
        for line in lines:
            line.close()
        vir.close_connections(lent)

    def _made(self) -> Connection:
        if self._is_closed:
            raise LibvirtError("no longer asked", side=self.side.value)
        if self._uri is None:
            raise LibvirtError(
                "the connection is closed, and there is no URI to open another",
                side=self.side.value,
            )
        return self._connect(self._uri, self.side.value)

    def _present(self) -> Line | None:
        """The newest line, if it is not known to be dead."""
        with self._changing:
            line = self._lines[-1] if self._lines else None
        return line if line is not None and vir.is_alive(line.connection) else None

    def _listen(self, line: Line) -> None:
        assert self._sink is not None
        with line.turn:
            if line.watch is None:
                line.watch = DomainWatch(
                    line.connection, self._uuid, self.side, self._sink
                )
        if self._is_closed:
            line.release()


def _missed_by_libvirt(dom: Domain) -> Half | None:
    """What has become of a guest that libvirt takes for one that is paused and never left; None if it is that.

    libvirt up to 12.8 does not know ``postcopy-device``, so a daemon that is started again has not heard of the switch.

    :raises LibvirtError: If QEMU does not say so now: a half must not be told as a whole guest meanwhile.
    """
    if not vir.is_paused(dom):
        return None
    try:
        info = vir.query_migration(dom)
        if info.get("status") in _IN_POSTCOPY:
            # In the moment of a switch, too: libvirt is at it, and says so a little later than QEMU.
            return Half.SPLIT if vir.has_job(dom) else Half.SPLIT_FAILED
        if info.get("status") == Status.POSTCOPY_DEVICE:
            return Half.MIGRATING
        if _has_sent_it(info) and vir.run_state(dom) == _LEFT_BEHIND:
            return Half.LEFT
    except LibvirtError as error:
        if error.code not in _NEVER_TOLD:
            raise
        LOG.info("the source's QEMU cannot be asked: %s", error)
    return None


def _has_sent_it(info: Mapping[str, Any]) -> bool:
    """Whether a post-copy has completed.

    A paused guest that was saved to a file or dumped has completed something too, and pre-copy's end libvirt knows.
    """
    ram = info.get("ram")
    if info.get("status") != Status.COMPLETED or not isinstance(ram, Mapping):
        return False
    return any(ram.get(figure) for figure in _POSTCOPY_FIGURES)


_POSTCOPY_FIGURES = ("postcopy-requests", "postcopy-bytes")  # the latter since QEMU 7.0

_LEFT_BEHIND = "postmigrate"  # QAPI RunState: not run since


#: Refusals to ask QEMU that no waiting cures.
_NEVER_TOLD = frozenset(
    (
        ErrorNumber.VIR_ERR_NO_SUPPORT,
        ErrorNumber.VIR_ERR_OPERATION_DENIED,
        ErrorNumber.VIR_ERR_ACCESS_DENIED,
    )
)

_IN_POSTCOPY = frozenset(
    (
        Status.POSTCOPY_ACTIVE,
        Status.POSTCOPY_PAUSED,
        Status.POSTCOPY_RECOVER_SETUP,
        Status.POSTCOPY_RECOVER,
    )
)


def _ask_source(dom: Domain, half: Half) -> tuple[str | None, Stats | None]:
    """Ask QEMU itself once the guest is split, and libvirt before: asking QEMU taints the domain.

    :raises LibvirtError: If libvirt cannot say whether it migrates.
    """
    if half in (Half.WHOLE, Half.MIGRATING):
        try:
            stats = vir.leaving_stats(dom)
        except LibvirtError as error:
            if error.code != ErrorNumber.VIR_ERR_NO_SUPPORT:
                raise
            return None, None  # a driver without jobs has no migrations
        return (None, None) if stats is None else (Status.ACTIVE.value, stats)
    if half not in _TOLD_BY_QEMU:
        return None, None
    try:
        info: Mapping[str, Any] = vir.query_migration(dom)
    except LibvirtError as error:
        LOG.info("the source's QEMU cannot be asked: %s", error)
        return None, None
    status = info.get("status")
    return None if status is None else str(status), Stats.from_query_migrate(info)


def _ask_in_the_switch(dom: Domain) -> tuple[str, Stats | None]:
    """What libvirt says while it is at it, and QEMU's own word where libvirt has let the guest go and QEMU has not decided.

    :raises LibvirtError: If libvirt cannot say whether it migrates.
    """
    status, stats = _ask_source(dom, Half.MIGRATING)
    return (Status.POSTCOPY_DEVICE.value, None) if status is None else (status, stats)


def _ask_vcpus(dom: Domain, half: Half) -> tuple[str, int]:
    """What the QEMU of a split source says of its vCPUs, and its version: it may run the guest again."""
    if half not in _TOLD_BY_QEMU:
        return "", 0
    try:
        return vir.run_state(dom), vir.running_qemu_version(dom)
    except LibvirtError as error:
        LOG.info("the source's QEMU cannot be asked: %s", error)
        return "", 0


ANSWER_S = 1.0
"""A daemon whose last answer is older is not trusted with the guest."""

RESTART_S = 30.0
"""A daemon that answers anew may have been started again: it ends what was coming in, but may first be long in starting."""

_BEAT_S = 0.5
"""From one question to the next; leaves time for an answer that takes as long."""


class Pulse:
    """Asks a host's daemon for a sign of life, twice a second, on a thread of its own.

    So that the answer to "does it live?" is there when it is needed, and does not delay the switch.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._answer: tuple[float, Connection] | None = None  # when, and over which
        self._trusted_from = float("-inf")
        self._is_over = threading.Event()

    def start(self) -> None:
        """Begin to ask."""
        threading.Thread(target=self._run, name="postcopy-pulse", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._is_over.set()

    def silence(self) -> str:
        """Say why the daemon is not trusted with the guest; empty if it is.

        It is if it has answered within :data:`ANSWER_S`, and no connection to it broke in the last :data:`RESTART_S`.
        """
        daemon = f"the {self._host.side.value}'s daemon"
        if self._answer is None:
            return f"{daemon} does not answer"
        answered_at, connection = self._answer
        now = time.monotonic()
        if now - answered_at >= ANSWER_S or not vir.is_alive(connection):
            return f"{daemon} does not answer"
        if now < self._trusted_from:
            return f"the connection to {daemon} broke: if that was started again, it ends what was coming in"
        return ""

    def _run(self) -> None:
        while not self._is_over.is_set():
            due = time.monotonic() + _BEAT_S
            with suppress(LibvirtError):
                self._beat()
            self._is_over.wait(max(due - time.monotonic(), 0.0))

    def _beat(self) -> None:
        with vir.refusals(self._host.side.value), self._host.line() as connection:
            connection.getLibVersion()
            now = time.monotonic()
            if self._answer is not None and not vir.is_alive(self._answer[1]):
                self._trusted_from = now + RESTART_S
            self._answer = now, connection
