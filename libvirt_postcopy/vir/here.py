"""The machine this program runs on: whether a daemon is its own, and whom it can reach."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

__all__ = [
    "address_of",
    "connection_refusal",
    "is_here",
    "is_local",
    "is_resolved",
    "is_this_machine",
]

FIRST_PORT = 49152
"""The first that libvirt hands out for migrations, unless its qemu.conf says otherwise."""

PORT_TIMEOUT_S = 2.0
"""A port that has not answered by then is taken for filtered."""


def is_local(uri: str) -> bool:
    """Whether a URI names the daemon of this machine.

    One at a socket of its own may live in another network and another file system, and does not count.
    """
    parts = urlsplit(uri)
    return not parts.hostname and "socket" not in parse_qs(parts.query)


def is_here(uri: str, hostname: str) -> bool:
    """Whether a daemon is that of the machine this program runs on."""
    ours = socket.gethostname().partition(".")[0]
    return is_local(uri) and hostname.partition(".")[0] == ours


def is_this_machine(host: str) -> bool:
    """Whether the host that a URI names, or does not name, can only be this one."""
    if host in ("", "localhost"):
        return True
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False


def is_resolved(name: str) -> bool:
    """Whether a name can be resolved, or is an address."""
    try:
        socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return True


def connection_refusal(name: str, port: int) -> str:
    """Why a TCP connection cannot be made; empty if it can, or if only nobody listens."""
    try:
        with socket.create_connection((name, port), PORT_TIMEOUT_S):
            return ""
    except ConnectionRefusedError:
        return ""
    except TimeoutError:
        return f"no answer in {PORT_TIMEOUT_S:g} s"
    except socket.timeout:  # Python 3.9 has two of them
        return f"no answer in {PORT_TIMEOUT_S:g} s"
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)


def address_of(uri: str) -> tuple[str, int]:
    """Name and port of a migration URI; libvirt takes ``tcp:HOST`` beside ``tcp://HOST``.

    :return: An empty name where it names none; libvirt's first port where it names none.
    """
    scheme, colon, rest = uri.partition(":")
    try:
        parts = urlsplit(uri if rest.startswith("//") else f"{scheme}{colon}//{rest}")
        return parts.hostname or "", parts.port or FIRST_PORT
    except ValueError:
        return "", FIRST_PORT
