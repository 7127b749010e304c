"""The source's daemon: connecting as virsh does, and finding a domain as virsh does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, cast

from libvirt_postcopy.constants import DomainState, ErrorNumber, PausedReason
from libvirt_postcopy.errors import LibvirtError, UsageError
from libvirt_postcopy.features import is_about_certificates
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.protocols import Connection, Domain
from libvirt_postcopy.virsh.ending import NotBegunError
from libvirt_postcopy.virsh.grammar import Globals

__all__ = ["connect", "find_domain", "guest_on_source", "uri_of"]


def connect(options: Globals, *, for_call: str) -> Connection:
    """Open the connection that the command line means.

    :param for_call: The libvirt function that needs it, which a read-only one would refuse.
    :raises UsageError: If ``-r`` was given.
    :raises LibvirtError: If it cannot be opened.
    """
    if options.is_readonly:
        raise UsageError(
            f"operation forbidden: read only access prevents {for_call}",
            cure="leave out -r",
        )
    uri = options.connect
    if uri is None:
        # LIBVIRT_DEFAULT_URI and libvirt.conf are read by libvirt itself
        uri = os.environ.get("VIRSH_DEFAULT_CONNECT_URI") or None
    try:
        connection = calls.open_connection(uri, "source")
    except LibvirtError as error:
        made = NotBegunError if options.connect is not None else LibvirtError
        raise made(
            f"failed to connect to the hypervisor: {error.what}",
            side="client" if is_about_certificates(error.what) else "source",
            cure=error.cure,
        ) from error
    if options.keepalive_interval is not None:
        with calls.refusals("source"):
            connection.setKeepAlive(
                options.keepalive_interval,
                options.keepalive_count or calls.KEEPALIVE[1],
            )
    return connection


def uri_of(connection: Connection) -> str:
    """The URI of a connection, also where none was named.

    :raises LibvirtError: If the connection is dead.
    """
    with calls.refusals("source"):
        return connection.getURI()


def find_domain(connection: Connection, text: str) -> Domain:
    """Look a domain up by id, UUID or name, in virsh's order.

    :raises LibvirtError: If there is none, or the daemon cannot say.
    """
    error: LibvirtError | None = None
    for look_up in _lookups(connection, text):
        try:
            with calls.refusals("source"):
                return look_up()
        except LibvirtError as refused:
            error = refused
            if refused.code != ErrorNumber.VIR_ERR_NO_DOMAIN:
                break
    assert error is not None  # the last look-up is always tried
    error.what = f"failed to get domain '{text}': {error.what}"
    raise error


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


def _lookups(connection: Connection, text: str) -> list[Callable[[], Domain]]:
    conn = cast(Any, connection)
    ways: list[Callable[[], Domain]] = []
    if text.isascii() and text.isdigit() and len(text) < 10:
        ways.append(lambda: cast(Domain, conn.lookupByID(int(text))))
    if len(text) == 36 and text.count("-") == 4:
        ways.append(lambda: cast(Domain, conn.lookupByUUIDString(text)))
    ways.append(lambda: cast(Domain, conn.lookupByName(text)))
    return ways
