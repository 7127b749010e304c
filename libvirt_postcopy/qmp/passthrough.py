"""The monitor through libvirt (``virDomainQemuMonitorCommand``).

libvirt hands QEMU's errors on as replies, adds an ``id`` of its own, knows no ``exec-oob``, and lets a command wait
for up to 30 s while another job holds the domain.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.qmp.commands import (
    MonitorBusy,
    MonitorError,
    MonitorLost,
    ProtocolError,
    value_of,
)
from libvirt_postcopy.vir import monitor as vir
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["Borrow", "Passthrough"]

Borrow = Callable[[], AbstractContextManager[Domain]]
"""Gives the domain, over a connection that nobody else uses meanwhile; may raise :class:`LibvirtError`."""


class Passthrough:
    """The monitor of a domain's QEMU.  Taints the domain.

    :param borrow: Gives the domain.
    """

    def __init__(self, borrow: Borrow, side: str) -> None:
        self._borrow = borrow
        self.side = side

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """See :class:`libvirt_postcopy.qmp.commands.Monitor`."""
        sent: dict[str, Any] = {"execute": command}
        if arguments:
            sent["arguments"] = dict(arguments)
        try:
            with self._borrow() as dom:
                text = vir.send(dom, json.dumps(sent), self.side)
        except LibvirtError as error:
            raise self._explained(command, error) from error
        try:
            reply = json.loads(text)
        except ValueError as error:
            raise ProtocolError(
                f"no reply to {command}: {text!r:.80}", side=self.side
            ) from error
        return value_of(command, reply, self.side)

    def _explained(self, command: str, error: LibvirtError) -> MonitorError:
        if vir.is_lock_timeout(error):
            return MonitorBusy(
                f"QEMU was not asked {command}: another job holds the domain",
                side=self.side,
                cure="see virsh domjobinfo there",
            )
        return MonitorLost(
            f"QEMU was not reached with {command}: {error.what}",
            side=error.side or self.side,
            cure=error.cure,
        )
