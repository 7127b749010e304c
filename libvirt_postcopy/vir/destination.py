"""Where a guest is to go, as callers name it."""

from __future__ import annotations

from typing import Union

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.vir.protocols import Connection

__all__ = ["Destination", "checked_destination"]

Destination = Union[str, Connection]
"""A libvirt URI, or an open connection (``libvirt.virConnect``)."""


def checked_destination(dest: Destination) -> Destination:
    """Refuse what cannot be one; for callers without a type checker.

    :raises UsageError: If it is neither a URI nor a connection.
    """
    if isinstance(dest, str):
        if not dest.strip():
            raise UsageError("the destination URI is empty", side="destination")
    elif not hasattr(dest, "listAllDomains"):
        raise UsageError(
            f"the destination is neither a URI nor a connection: {dest!r:.40}",
            side="destination",
        )
    return dest
