"""The source's daemon: connecting as virsh does, and finding a domain as virsh does."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from libvirt_postcopy.constants import DomainState, ErrorNumber, PausedReason
from libvirt_postcopy.errors import LibvirtError, UsageError
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.events import ensure_event_loop
from libvirt_postcopy.vir.login import Login
from libvirt_postcopy.vir.protocols import Connection, Domain
from libvirt_postcopy.virsh.grammar import Globals
from libvirt_postcopy.virsh.refusals import NotBegunError, RefusedError

__all__ = [
    "connect",
    "find_domain",
    "guest_on_source",
    "login",
    "require_writable",
    "uri_of",
]

LOG = logging.getLogger("libvirt_postcopy.virsh")


def connect(options: Globals) -> Connection:
    """Open the connection that the command line means, as virsh opens it.

    Commands of one line or one shell share it, and so does what a user has answered to log in.

    :raises RefusedError: If it cannot be opened.
    """
    uri = options.connect
    if uri is None:
        # LIBVIRT_DEFAULT_URI and libvirt.conf are read by libvirt itself
        uri = os.environ.get("VIRSH_DEFAULT_CONNECT_URI") or None
    kept = _kept.get((uri, options))
    if kept is not None and calls.is_alive(kept):
        return kept
    calls.silence_libvirt()
    ensure_event_loop()  # only connections opened after it have a keepalive, and deliver events
    connection = _open(uri, options)
    _kept[uri, options] = connection
    return connection


_kept: dict[tuple[str | None, Globals], Connection] = {}


def require_writable(options: Globals, *, for_call: str) -> None:
    """Refuse what libvirt would refuse: a migration is carried out on connections of its own.

    :raises UsageError: If ``-r`` was given.
    """
    if options.is_readonly:
        raise UsageError(
            f"operation forbidden: read only access prevents {for_call}",
        )


def login(options: Globals) -> Login:
    """What opens further connections, to the destination too; asks nothing twice."""
    return _logins.setdefault(options.has_agent, Login(has_agent=options.has_agent))


_logins: dict[bool, Login] = {}


def _open(uri: str | None, options: Globals) -> Connection:
    refused = NotBegunError if options.connect is not None else RefusedError
    own = login(options)
    asks_for_keepalive = not (
        options.keepalive_interval is None and options.keepalive_count is None
    )
    try:
        connection = calls.open_connection(
            uri,
            "source",
            open_=own.open_readonly if options.is_readonly else own.open,
            has_keepalive=not asks_for_keepalive,
        )
    except LibvirtError as error:
        raise refused.to_connect(error) from error
    if asks_for_keepalive:
        _keep_alive(connection, options, refused)
    return connection


def _keep_alive(
    connection: Connection, options: Globals, refused: type[RefusedError]
) -> None:
    """Set what was asked for, or do without the connection, as virsh does."""
    interval_s, count = options.keepalive_interval, options.keepalive_count
    interval_s = calls.KEEPALIVE[0] if interval_s is None else interval_s
    count = calls.KEEPALIVE[1] if count is None else count
    if interval_s == 0:
        return
    try:
        with calls.refusals("source"):
            connection.setKeepAlive(interval_s, count)
    except LibvirtError as error:
        calls.close_connections([connection])
        raise refused.to_connect(
            error, "Cannot setup keepalive on connection as requested, disconnecting"
        ) from error


def uri_of(connection: Connection) -> str:
    """The URI of a connection, also where none was named.

    :raises LibvirtError: If the connection is dead.
    """
    with calls.refusals("source"):
        return connection.getURI()


Lookup = Callable[[], Domain]


def find_domain(connection: Connection, text: str) -> Domain:
    """Look a domain up by id, UUID or name, in virsh's order.

    :raises RefusedError: If there is none, or the daemon cannot say.
    """
    error: LibvirtError | None = None
    LOG.info("found option <domain>: %s", text)
    for way, look_up in _lookups(connection, text):
        LOG.debug("<domain> %s", way)
        try:
            with calls.refusals("source"):
                return look_up()
        except LibvirtError as refused:
            error = refused
            if refused.code != ErrorNumber.VIR_ERR_NO_DOMAIN:
                break
    assert error is not None  # the last look-up is always tried
    raise RefusedError.to_find(text, error) from error


_WORDS: Mapping[int, str] = {
    DomainState.VIR_DOMAIN_RUNNING: "runs",
    DomainState.VIR_DOMAIN_BLOCKED: "runs",
    DomainState.VIR_DOMAIN_PAUSED: "is paused",
    DomainState.VIR_DOMAIN_SHUTOFF: "is shut off",
    DomainState.VIR_DOMAIN_CRASHED: "has crashed",
    DomainState.VIR_DOMAIN_PMSUSPENDED: "is suspended",
}
_PAUSED_FOR_MIGRATION = [
    DomainState.VIR_DOMAIN_PAUSED,
    PausedReason.VIR_DOMAIN_PAUSED_MIGRATION,
]


def guest_on_source(dom: Domain) -> str:
    """Say how the guest is on the source, where a migration that failed has left it."""
    try:
        with calls.refusals("source"):
            state = dom.state()
    except LibvirtError as error:
        if error.code == ErrorNumber.VIR_ERR_NO_DOMAIN:
            return "the guest has ended on the source"
        return "the guest is on the source, which does not answer now"
    if state[:2] == _PAUSED_FOR_MIGRATION:  # about to be resumed
        return "the guest is on the source"
    return f"the guest {_WORDS.get(state[0], 'is')} on the source"


def _lookups(connection: Connection, text: str) -> Iterator[tuple[str, Lookup]]:
    """The ways to look it up, as virsh calls them."""
    conn = cast(Any, connection)
    if text.isascii() and text.isdigit() and len(text) < 10:
        yield "looks like ID", lambda: cast(Domain, conn.lookupByID(int(text)))
    if len(text) == 36 and text.count("-") == 4:
        by_uuid = conn.lookupByUUIDString
        yield "trying as domain UUID", lambda: cast(Domain, by_uuid(text))
    yield "trying as domain NAME", lambda: cast(Domain, conn.lookupByName(text))
