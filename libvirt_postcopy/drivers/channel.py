"""Where the stream of a migration goes that QEMU's own sockets carry: addresses, ports, URIs."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from libvirt_postcopy.errors import UsageError

__all__ = ["Channel", "PORTS", "channel_of", "host_of"]

PORTS = range(49184, 49216)
"""The upper half of the ports that libvirt uses for migrations, and that firewalls let through: it hands out the lower
ones first, and does not know of ours."""

_TCP = re.compile(r"tcp:(?://)?(?P<host>\[[^\]]+\]|[^:/\[\]]+)(?::(?P<port>\d+))?/?")
_UNIX = re.compile(r"unix:(?://)?(?P<path>/.+)")


@dataclass(frozen=True)
class Channel:
    """Where the destination listens, and how the source gets there.

    :ivar name: The destination's name, by which its certificate is checked.
    :ivar bind: The numeric address that the destination listens at, and at no other.
    :ivar connect: The numeric address that the source connects to.
    :ivar path: Of a unix socket, instead of all that.
    """

    name: str = ""
    bind: str = ""
    connect: str = ""
    ports: Sequence[int] = ()
    path: str = ""

    def listening_uri(self, port: int | None = None) -> str:
        """For ``migrate-incoming`` and ``migrate-recover``.

        :param port: Only this one; None: QEMU takes the first of the range that is free.
        """
        if self.path:
            return f"unix:{self.path}"
        if port is not None or len(self.ports) == 1:
            return f"tcp:{self.bind}:{self.ports[0] if port is None else port}"
        return f"tcp:{self.bind}:{self.ports[0]},to={self.ports[-1]}"

    def at_port(self, port: int) -> Channel:
        """The same, at one port only."""
        return replace(self, ports=(port,))

    def connecting_uri(self, port: int) -> str:
        """For ``migrate``."""
        return f"unix:{self.path}" if self.path else f"tcp:{self.connect}:{port}"

    def listening_address(self) -> Mapping[str, Any]:
        """The same as a QAPI ``SocketAddress``; only for one TCP port."""
        return self._address(self.bind)

    def connecting_address(self) -> Mapping[str, Any]:
        """The other end of :meth:`listening_address`."""
        return self._address(self.connect)

    def _address(self, host: str) -> Mapping[str, Any]:
        (port,) = self.ports
        data = {"host": host.strip("[]"), "port": str(port)}
        return {"type": "inet", "data": data}


def host_of(uri: str | None) -> str:
    """The host that a libvirt URI names; empty where it names none."""
    try:
        return (urlsplit(uri or "").hostname or "").strip()
    except ValueError:
        return ""


def channel_of(
    host: str,
    *,
    migrate_uri: str | None = None,
    listen_address: str | None = None,
    ports: Sequence[int] = PORTS,
) -> Channel:
    """Choose the addresses.

    :param host: The destination's, by name or number.
    :param migrate_uri: ``tcp://HOST[:PORT]`` or ``unix:///PATH``, as libvirt takes it.
    :raises UsageError: If they cannot be meant, or a name cannot be resolved.
    """
    if migrate_uri:
        path = _UNIX.fullmatch(migrate_uri)
        if path:
            return Channel(path=path["path"])
        found = _TCP.fullmatch(migrate_uri)
        if not found:
            raise UsageError(
                f"the driver qemu cannot migrate to '{migrate_uri:.80}'",
                cure="write --migrateuri tcp://HOST, tcp://HOST:PORT or unix:///PATH",
            )
        host = found["host"].strip("[]")
        if found["port"]:
            ports = (_port(found["port"]),)
    if not host:
        raise UsageError(
            "the destination's address is not known",
            side="destination",
            cure="name an address that the source can reach: --migrateuri tcp://ADDRESS",
        )
    connect = _resolve(host)
    if ip_address(connect.strip("[]")).is_loopback and not migrate_uri:
        raise UsageError(
            f"the destination's name '{host}' leads to this machine itself ({connect})",
            side="destination",
            cure="name an address that the source can reach: --migrateuri tcp://ADDRESS",
        )
    bind = _resolve(listen_address) if listen_address else connect
    return Channel(name=host, bind=bind, connect=connect, ports=ports)


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise UsageError(f"there is no port {text}", cure="give one from 1 to 65535")
    return port


def _resolve(host: str) -> str:
    """A numeric address, as QEMU writes it: two hosts may resolve one name to two addresses."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"the name '{host}' cannot be resolved here: {error}",
            side="client",
            cure="name an address that the source can reach: --migrateuri tcp://ADDRESS",
        ) from error
    family, _, _, _, address = found[0]
    number = str(address[0])
    return f"[{number}]" if family == socket.AF_INET6 else number
