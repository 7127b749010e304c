"""libvirt's calls, with their refusals turned into our errors at this one place."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional
from urllib.parse import urlsplit
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

from libvirt_postcopy.constants import (
    AbortJobFlags,
    DomainState,
    ErrorNumber,
    JobField,
    JobOperation,
    JobType,
    PausedReason,
    RunningReason,
)
from libvirt_postcopy.errors import LibvirtError, refusal
from libvirt_postcopy.events import Half, Side
from libvirt_postcopy.features import CHECK_THE_WAY, Path, explain
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.vir import fallback
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = [
    "KEEPALIVE",
    "Open",
    "translate",
    "refusals",
    "open_connection",
    "close_connections",
    "start_postcopy",
    "way_to_start_postcopy",
    "migrate3",
    "migrate_to_uri3",
    "read_stats",
    "half",
    "half_there",
    "find_domain",
    "has_job",
    "running_qemu_version",
    "abort_job",
    "is_alive",
    "leaving_stats",
    "listens",
    "require_answer",
    "require_writable",
    "migration_side",
    "pause_postcopy",
    "query_migration",
    "run_state",
    "is_paused",
    "is_paused_by_migration",
    "is_running",
    "host_uuid",
    "silence_libvirt",
    "uri_of",
]

LOG = logging.getLogger("libvirt_postcopy.vir")

Open = Callable[[Optional[str]], Connection]

KEEPALIVE = (5, 5)
"""Interval in seconds and count on connections of our own, as virsh sets them."""


@contextmanager
def refusals(side: str = "") -> Iterator[None]:
    """Raise libvirt's errors as ours, explained.

    :param side: Whose daemon is called, where the message does not say.
    """
    try:
        yield
    except LibvirtError:
        raise  # explained already
    except libvirt.libvirtError as error:
        raise translate(error, side) from error


def translate(error: libvirt.libvirtError, side: str = "") -> LibvirtError:
    """Explain a refusal; the result can still be caught as ``libvirtError``."""
    known = explain(error.get_error_message() or str(error))
    ours = LibvirtError(known.what, side=known.side or side, cure=known.cure)
    ours.code = error.get_error_code()
    ours.domain = error.get_error_domain()
    return refusal(ours, error)


def open_connection(
    uri: str | None,
    side: str = "",
    *,
    open_: Open | None = None,
    has_keepalive: bool = True,
) -> Connection:
    """Open a connection that notices when its daemon is gone.

    :param open_: Instead of ``libvirt.open``, for who must log in.
    :param has_keepalive: Set :data:`KEEPALIVE`; else the caller sets its own, which can be done once.
    :raises LibvirtError: If it cannot be opened.
    """
    try:
        connection = (open_ or libvirt.open)(uri)
    except libvirt.libvirtError as error:
        ours = translate(error)
        # The one that is being connected to, whatever the text says; none where there is one host only.
        ours.side = side
        raise ours from error
    try:
        if has_keepalive:
            connection.setKeepAlive(*KEEPALIVE)
    except libvirt.libvirtError as error:
        LOG.debug("%s: no keepalive: %s", uri, error)  # a local driver has none
    return connection


def uri_of(connection: Connection) -> str | None:
    """Where a connection leads; None where it cannot say."""
    try:
        return connection.getURI()
    except libvirt.libvirtError as error:
        LOG.debug("no URI: %s", error)
        return None


def close_connections(connections: list[Connection]) -> None:
    """Close connections of ours; dead ones too."""
    while connections:
        try:
            connections.pop().close()
        except libvirt.libvirtError as error:
            LOG.debug("not closed: %s", error)


def way_to_start_postcopy() -> Path:
    """Which way that call takes: to be asked beforehand where the call itself has no time for it."""
    return fallback.path(fallback.START)


def start_postcopy(dom: Domain, flags: int = 0, way: Path | None = None) -> int:
    """Send ``migrate-start-postcopy``.

    Success means that QEMU has noted the wish, not that the guest has moved.

    :param flags: None are defined; must be 0.
    :param way: As :func:`way_to_start_postcopy` says.
    :return: 0, as ``migrateStartPostCopy``.
    :raises NotSupportedError: If this libvirt-python has no ``migrateStartPostCopy``, and there is no way past it.
    :raises LibvirtError: If libvirt or QEMU refuses.
    :source: libvirt ``virDomainMigrateStartPostCopy`` (since 1.3.3)
    """
    way = way or way_to_start_postcopy()
    with refusals("source"):
        if way is Path.BINDING:
            dom.migrateStartPostCopy(flags)
        else:
            fallback.start_postcopy(dom, flags, way)
    return 0


def migrate3(
    dom: Domain, destination: Connection, params: Mapping[str, Any], flags: int
) -> None:
    """Migrate, managed by this client; returns at the end of it.

    :raises LibvirtError: If it fails.
    :raises UsageError: If a parameter cannot be written; nothing was sent.
    """
    fallback.require_writable(params)
    with refusals():
        if fallback.path(fallback.MIGRATE, params) is Path.BINDING:
            dom.migrate3(destination, params, flags)
        else:
            fallback.migrate3(dom, destination, params, flags)


def migrate_to_uri3(
    dom: Domain, uri: str, params: Mapping[str, Any], flags: int
) -> None:
    """As :func:`migrate3`, from daemon to daemon."""
    fallback.require_writable(params)
    with refusals("source"):
        if fallback.path(fallback.MIGRATE_TO_URI, params) is Path.BINDING:
            dom.migrateToURI3(uri, params, flags)
        else:
            fallback.migrate_to_uri3(dom, uri, params, flags)


def read_stats(dom: Domain) -> Stats | None:
    """Read the statistics of the running job; None where there is none."""
    try:
        return Stats.from_job_stats(dom.jobStats())
    except libvirt.libvirtError as error:
        LOG.debug("no job statistics: %s", error)
        return None


def is_running(dom: Domain) -> bool:
    """Whether the domain is active.

    :raises LibvirtError: If the daemon cannot say.
    """
    with refusals("source"):
        return bool(dom.isActive())


def is_paused(dom: Domain) -> bool:
    """Whether the vCPUs of a source's domain stand still, for whatever reason, as libvirt has it.

    :raises LibvirtError: If the daemon cannot say.
    """
    with refusals("source"):
        return dom.state()[0] == DomainState.VIR_DOMAIN_PAUSED


def is_paused_by_migration(dom: Domain) -> bool:
    """Whether libvirt has paused a domain for a migration; without a job, what that has left behind.

    :raises LibvirtError: If the daemon cannot say.
    """
    with refusals("source"):
        state, reason = dom.state()[:2]
    is_paused = state == DomainState.VIR_DOMAIN_PAUSED
    return is_paused and reason == PausedReason.VIR_DOMAIN_PAUSED_MIGRATION


_HALVES: Mapping[tuple[int, int], Half] = {
    (
        DomainState.VIR_DOMAIN_PAUSED,
        PausedReason.VIR_DOMAIN_PAUSED_MIGRATION,
    ): Half.MIGRATING,
    (
        DomainState.VIR_DOMAIN_PAUSED,
        PausedReason.VIR_DOMAIN_PAUSED_STARTING_UP,
    ): Half.MIGRATING,
    (
        DomainState.VIR_DOMAIN_PAUSED,
        PausedReason.VIR_DOMAIN_PAUSED_POSTCOPY,
    ): Half.SPLIT,
    (
        DomainState.VIR_DOMAIN_RUNNING,
        RunningReason.VIR_DOMAIN_RUNNING_POSTCOPY,
    ): Half.SPLIT,
    (
        DomainState.VIR_DOMAIN_PAUSED,
        PausedReason.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED,
    ): Half.SPLIT_FAILED,
    (
        DomainState.VIR_DOMAIN_RUNNING,
        RunningReason.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED,
    ): Half.SPLIT_FAILED,
}


def half(dom: Domain) -> Half:
    """Say what a domain's state tells of a migration.  Needs no job, so it answers at all times."""
    try:
        state, reason = dom.state()[:2]
        # A guest that has panicked may be kept as it is.
        is_crashed = state == DomainState.VIR_DOMAIN_CRASHED and not dom.isActive()
    except libvirt.libvirtError as error:
        if error.get_error_code() == ErrorNumber.VIR_ERR_NO_DOMAIN:
            return Half.GONE
        LOG.debug("no state: %s", error)
        return Half.UNKNOWN
    if state == DomainState.VIR_DOMAIN_SHUTOFF or is_crashed:
        return Half.INACTIVE
    return _HALVES.get((state, reason), Half.WHOLE)


def half_there(dom: Domain) -> Half:
    """Say what a destination has of a migration.

    One that stops for reasons of its own (a disk's error, a watchdog), or was continued after that, is no half by
    libvirt's word any more, not even when the link breaks.  Its job tells, and that QEMU has not all of the guest yet; not
    whether the link has broken, so it may be resumed: libvirt refuses that while pages flow.

    :raises LibvirtError: If the daemon cannot say.
    """
    found = half(dom)
    if found is not Half.WHOLE or _has_arrived(dom):
        return found
    return Half.SPLIT_FAILED if _is_coming_in(dom) else half(dom)  # or has it ended?


def _has_arrived(dom: Domain) -> bool:
    """By its state; its job ends a moment later."""
    with refusals("destination"):
        return tuple(dom.state()[:2]) == _MIGRATED


_MIGRATED = (
    DomainState.VIR_DOMAIN_RUNNING,
    RunningReason.VIR_DOMAIN_RUNNING_MIGRATED,
)


def _is_coming_in(dom: Domain) -> bool:
    try:
        return _is_migration(_job(dom), _MIGRATION_IN)
    except libvirt.libvirtError as error:
        if error.get_error_code() in _WITHOUT_JOB:
            return False
        raise translate(error, "destination") from error


#: The domain has ended meanwhile, or its driver has no jobs.
_WITHOUT_JOB = frozenset(
    (
        ErrorNumber.VIR_ERR_NO_SUPPORT,
        ErrorNumber.VIR_ERR_NO_DOMAIN,
        ErrorNumber.VIR_ERR_OPERATION_INVALID,
    )
)


def find_domain(connection: Connection, uuid: str) -> Domain | None:
    """Look a domain up; None where there is no such domain.

    :raises LibvirtError: If the daemon cannot say.
    """
    with refusals():  # a lookup that fails would be printed by libvirt's error handler
        domains = connection.listAllDomains()
    return next((dom for dom in domains if dom.UUIDString() == uuid), None)


def has_job(dom: Domain) -> bool:
    """Whether a job runs on the domain: a migration, a dump, a backup, anybody's."""
    try:
        return bool(_job(dom).get("type", JobType.VIR_DOMAIN_JOB_NONE))
    except libvirt.libvirtError as error:
        LOG.debug("no job statistics: %s", error)
        return False


def running_qemu_version(dom: Domain) -> int:
    """The version of the QEMU that the domain runs in, which a package upgrade leaves behind.

    :return: As ``virConnectGetVersion`` writes it.
    :raises LibvirtError: If it cannot be asked.
    """
    command = '{"execute": "query-version"}'
    with refusals("source"):
        reply = json.loads(libvirt_qemu.qemuMonitorCommand(dom, command, 0))
    version = reply["return"]["qemu"]
    return int(
        version["major"] * 1_000_000 + version["minor"] * 1000 + version["micro"]
    )


def query_migration(dom: Domain) -> Mapping[str, Any]:
    """Ask a source's QEMU itself (``query-migrate``); libvirt marks the domain as tainted by that.

    :raises LibvirtError: If it cannot be asked.
    """
    with refusals("source"):
        reply = json.loads(
            libvirt_qemu.qemuMonitorCommand(dom, '{"execute": "query-migrate"}', 0)
        )
    info = reply.get("return")
    return info if isinstance(info, dict) else {}


def run_state(dom: Domain) -> str:
    """Ask a domain's QEMU itself what its vCPUs do (QAPI ``RunState``).

    :raises LibvirtError: If it cannot be asked.
    """
    command = '{"execute": "query-status"}'
    with refusals("source"):
        reply = json.loads(libvirt_qemu.qemuMonitorCommand(dom, command, 0))
    return str(reply["return"]["status"])


def leaving_stats(dom: Domain) -> Stats | None:
    """Read the statistics of a migration away from this host; None where none is under way.

    :raises LibvirtError: If the daemon cannot say, for example because QEMU does not answer it now.
    """
    with refusals("source"):
        reply = dom.jobStats()
    return Stats.from_job_stats(reply) if _is_migration(reply, _MIGRATION_OUT) else None


def migration_side(dom: Domain) -> Side | None:
    """Which end of a migration a domain is; None where it is part of none.

    :raises LibvirtError: If the daemon cannot say.
    """
    with refusals():
        state, reason = dom.state()[:2]
    found = _HALVES.get((state, reason))
    is_split = found is not None and found.is_split
    if is_split and state == DomainState.VIR_DOMAIN_RUNNING:
        return Side.DESTINATION
    try:
        reply = _job(dom)
    except libvirt.libvirtError as error:
        if not is_split:
            raise translate(error) from error
        reply = {}
    if _is_migration(reply, _MIGRATION_IN):
        return Side.DESTINATION
    return Side.SOURCE if is_split or _is_migration(reply, _MIGRATION_OUT) else None


def _job(dom: Domain) -> Mapping[str, Any]:
    """What goes on with a domain.  libvirt tells nothing of what comes in, but by the words with which it refuses.

    :raises libvirt.libvirtError: If it refuses for another reason.
    """
    try:
        return dom.jobStats()
    except libvirt.libvirtError as error:
        if _ONLY_ON_SOURCE not in str(error):
            raise
    return {
        "type": JobType.VIR_DOMAIN_JOB_UNBOUNDED,
        JobField.VIR_DOMAIN_JOB_OPERATION: _MIGRATION_IN,
    }


_ONLY_ON_SOURCE = "available only on the source"
_MIGRATION_IN = JobOperation.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN
_MIGRATION_OUT = JobOperation.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT


def _is_migration(reply: Mapping[str, Any], operation: int) -> bool:
    kind = reply.get("type", JobType.VIR_DOMAIN_JOB_NONE)
    return (
        kind in _UNDER_WAY and reply.get(JobField.VIR_DOMAIN_JOB_OPERATION) == operation
    )


_UNDER_WAY = (JobType.VIR_DOMAIN_JOB_BOUNDED, JobType.VIR_DOMAIN_JOB_UNBOUNDED)


def pause_postcopy(dom: Domain) -> None:
    """Break a split migration so that it can be resumed (``migrate-pause``); of a source only.

    :raises LibvirtError: If libvirt or QEMU refuses.
    :source: libvirt ``virDomainAbortJobFlags`` with ``VIR_DOMAIN_ABORT_JOB_POSTCOPY`` (since 8.5.0)
    """
    flags = int(AbortJobFlags.VIR_DOMAIN_ABORT_JOB_POSTCOPY)
    with refusals("source"):
        if fallback.path(fallback.ABORT) is Path.BINDING:
            dom.abortJobFlags(flags)
        else:
            fallback.abort_job_flags(dom, flags)


def is_alive(connection: Connection) -> bool:
    """Whether a connection has not been closed, as far as this side has noticed."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError as error:
        LOG.debug("not alive: %s", error)
        return False


_PORTS = {"tcp": 16509, "tls": 16514}


def listens(uri: str, timeout: float) -> bool:
    """Whether something listens where a URI points to; True where that cannot be told without a login, as over ssh.

    libvirt's own attempt to connect can last minutes when a link is down.

    :param timeout: Seconds.
    """
    return _refusal(uri, timeout) is None


FIRST_ANSWER_S = 4.0
"""Until a host that has not answered a first attempt to connect counts as away: Linux sends a lost packet again after 1 and 3 s."""


def require_answer(uri: str, side: str) -> None:
    """See that a first attempt to connect would not wait for a host that is away.

    What is refused, or has no address, is left to libvirt: it says so at once, and better.

    :raises LibvirtError: If it would.
    """
    if isinstance(_refusal(uri, FIRST_ANSWER_S), (TimeoutError, socket.timeout)):
        raise LibvirtError("it does not answer", side=side, cure=CHECK_THE_WAY)


def _refusal(uri: str, timeout: float) -> Exception | None:
    """Why no TCP connection is made to where a URI points to; None if one is, or none can be tried."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError:  # an address or a port that is none: libvirt's to complain of
        return None
    transport = parts.scheme.partition("+")[2] or ("tls" if host else "")
    if transport not in _PORTS or host is None:
        return None
    address = (host, port or _PORTS[transport])
    try:
        socket.create_connection(address, timeout).close()
    except (OSError, UnicodeError) as error:  # a name that no host can have
        LOG.debug("%s: %s", address, error)
        return error
    return None


def abort_job(dom: Domain) -> None:
    """Abort the domain's job.

    :raises LibvirtError: If libvirt refuses, which it does by itself once the guest is split.
    """
    with refusals("source"):
        dom.abortJob()


def require_writable(dom: Domain) -> None:
    """Refuse a domain of a read-only connection, as libvirt does: we would go round that over connections of our own.

    Whether it is one only a refusal tells; what is asked here changes nothing.

    :raises LibvirtError: If it is one.
    """
    try:
        dom.migrateGetMaxSpeed(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() != ErrorNumber.VIR_ERR_OPERATION_DENIED:
            LOG.debug("not asked because of its answer: %s", error)
            return
        ours = translate(error, "source")
        ours.what = "operation forbidden: the domain's connection is read-only"
        ours.cure = "open it with libvirt.open"
        raise ours from error


def host_uuid(connection: Connection) -> str | None:
    """The UUID by which libvirt tells hosts apart; None where the driver has none.

    :raises LibvirtError: If the daemon cannot say.
    """
    with refusals():
        capabilities = connection.getCapabilities()
    return ElementTree.fromstring(capabilities).findtext("host/uuid")


def silence_libvirt() -> None:
    """Keep libvirt from printing each error on stderr; for programs, which print their own.

    With ``LIBVIRT_POSTCOPY_DEBUG`` set they go on being printed.
    """
    if not os.environ.get("LIBVIRT_POSTCOPY_DEBUG"):
        libvirt.registerErrorHandler(lambda context, error: None, None)
