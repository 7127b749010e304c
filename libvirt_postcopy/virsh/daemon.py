"""The source's daemon: connecting as virsh does, and finding a domain as virsh does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.errors import LibvirtError, UsageError
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.protocols import Connection, Domain
from libvirt_postcopy.virsh.grammar import Globals

__all__ = ["connect", "find_domain", "uri_of"]


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
        error.side = "source"
        error.what = f"failed to connect to the hypervisor: {error.what}"
        raise
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


def _lookups(connection: Connection, text: str) -> list[Callable[[], Domain]]:
    conn = cast(Any, connection)
    ways: list[Callable[[], Domain]] = []
    if text.isascii() and text.isdigit() and len(text) < 10:
        ways.append(lambda: cast(Domain, conn.lookupByID(int(text))))
    if len(text) == 36 and text.count("-") == 4:
        ways.append(lambda: cast(Domain, conn.lookupByUUIDString(text)))
    ways.append(lambda: cast(Domain, conn.lookupByName(text)))
    return ways
